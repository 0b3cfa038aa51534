// A row of cells, each a button: a small picture, a name, lines of text, and bars.
function render({ model, el }) {
  let urls = [];
  el.classList.add("fv-strip");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes arrow keys for its cells
  const row = make("div", { class: "fv-cells-row", role: "group" }, el);
  const pick = (i) => {
    model.set("picked", i);
    model.set("picks", model.get("picks") + 1); // the same cell may be picked again
    model.save_changes();
  };
  function draw() {
    const focused = [...row.children].indexOf(document.activeElement), old = urls;
    urls = [];
    row.setAttribute("aria-label", model.get("label"));
    row.style.setProperty("--fv-cell", `${model.get("width")}px`);
    row.replaceChildren();
    model.get("cells").forEach((cell, i) => {
      const on = i === model.get("picked");
      const node = make("button", { type: "button", class: "fv-cell", "aria-pressed": on, title: cell.tip ?? "" }, row);
      node.tabIndex = on || (i === 0 && model.get("picked") < 0) ? 0 : -1;
      const images = make("span", { class: "fv-thumbs" }, node);
      for (const image of cell.images) {
        const url = URL.createObjectURL(new Blob([image.data], { type: "image/png" }));
        urls.push(url);
        const thumb = make("img", { src: url, alt: image.alt, class: image.cells ? "fv-cells" : "" }, images);
        thumb.draggable = false;
      }
      make("span", { class: "fv-cell-name" }, node).textContent = cell.name;
      if (cell.bars.length) {
        const bars = make("span", { class: "fv-bars" }, node);
        for (const bar of cell.bars) {
          const stick = make("span", { class: "fv-bar", title: bar.text, role: "img", "aria-label": bar.text }, bars);
          stick.style.height = `${100 * bar.value}%`;
          stick.style.background = bar.color;
          if (bar.high > bar.low) {
            const whisker = make("span", { class: "fv-whisker" }, stick);
            whisker.style.bottom = `${(100 * bar.low) / Math.max(bar.value, 1e-6)}%`;
            whisker.style.height = `${(100 * (bar.high - bar.low)) / Math.max(bar.value, 1e-6)}%`;
          }
        }
      }
      for (const line of cell.lines) make("span", { class: "fv-line" }, node).textContent = line;
      node.addEventListener("click", () => pick(i));
      node.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        const last = row.children.length - 1;
        const to = { Home: 0, End: last }[event.key] ?? (step && Math.min(last, Math.max(0, i + step)));
        if (to === undefined) return;
        event.preventDefault();
        row.children[to].focus();
        pick(to);
      });
    });
    if (focused >= 0) row.children[Math.min(focused, row.children.length - 1)]?.focus();
    for (const url of old) setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
  function mark() {
    [...row.children].forEach((node, i) => {
      const on = i === model.get("picked");
      node.setAttribute("aria-pressed", on);
      node.tabIndex = on || (i === 0 && model.get("picked") < 0) ? 0 : -1;
    });
  }
  draw();
  model.on("change:cells", draw);
  model.on("change:picked", mark);
  return () => urls.forEach((url) => URL.revokeObjectURL(url));
}
export default { render };
