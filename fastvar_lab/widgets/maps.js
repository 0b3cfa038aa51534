// Small maps of one place, one a scale step: a click or arrow keys pick one of their tokens.
function render({ model, el }) {
  el.classList.add("fv-maps");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes arrow keys for its cells
  const row = make("div", { class: "fv-maps-row", role: "group" }, el);
  let urls = [], shown = [];
  const clamp = (v, n) => Math.min(n - 1, Math.max(0, v));
  function tell(place) { // pictures of the same group show the place under the pointer
    window.dispatchEvent(new CustomEvent("fastvar-place", { detail: { group: model.get("group"), place, from: el } }));
  }
  function box(node, map, [r, c]) {
    node.style.left = `${(100 * c) / map.w}%`;
    node.style.top = `${(100 * r) / map.h}%`;
    node.style.width = `${100 / map.w}%`;
    node.style.height = `${100 / map.h}%`;
  }
  function pick(i, r, c) {
    const map = shown[i].map;
    model.set("picked", [map.step, clamp(r, map.h), clamp(c, map.w), (model.get("picked")[3] ?? 0) + 1]);
    model.save_changes();
  }
  function draw() {
    const focused = shown.findIndex((s) => s.frame === document.activeElement), old = urls;
    urls = [];
    shown = [];
    row.setAttribute("aria-label", model.get("label"));
    row.replaceChildren();
    model.get("maps").forEach((map, i) => {
      const figure = make("figure", {}, row);
      const frame = make("div", { class: "fv-frame", tabindex: 0, role: "group", "aria-label": `${map.alt}: arrow keys move to another token` }, figure);
      const url = URL.createObjectURL(new Blob([map.data], { type: "image/png" }));
      urls.push(url);
      make("img", { src: url, alt: map.alt, class: "fv-cells", draggable: "false" }, frame);
      const spot = make("div", { class: "fv-spot" }, frame), over = make("div", { class: "fv-spot fv-over-spot", hidden: "" }, frame);
      box(spot, map, map.cell);
      const caption = make("figcaption", { title: map.tip ?? "" }, figure);
      make("strong", {}, caption).textContent = map.name;
      make("span", { class: "fv-note" }, caption).textContent = map.note;
      shown[i] = { map, frame, over };
      const at = (event) => {
        const b = frame.getBoundingClientRect();
        return [(event.clientX - b.left) / b.width, (event.clientY - b.top) / b.height];
      };
      frame.addEventListener("pointermove", (event) => tell(at(event)));
      frame.addEventListener("pointerleave", () => tell(null));
      frame.addEventListener("click", (event) => {
        const [x, y] = at(event);
        pick(i, Math.floor(y * map.h), Math.floor(x * map.w));
      });
      frame.addEventListener("keydown", (event) => {
        const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0], Enter: [0, 0] }[event.key];
        if (!move) return;
        event.preventDefault();
        event.stopPropagation();
        pick(i, map.cell[0] + move[0], map.cell[1] + move[1]);
      });
    });
    if (focused >= 0) shown[Math.min(focused, shown.length - 1)]?.frame.focus();
    for (const url of old) setTimeout(() => URL.revokeObjectURL(url), 1000);
  }
  function follow(event) {
    if (event.detail.group !== model.get("group")) return;
    for (const { map, over } of shown) {
      over.hidden = !event.detail.place;
      if (!event.detail.place) continue;
      const [x, y] = event.detail.place;
      box(over, map, [clamp(Math.floor(y * map.h), map.h), clamp(Math.floor(x * map.w), map.w)]);
    }
  }
  draw();
  model.on("change:maps", draw);
  window.addEventListener("fastvar-place", follow);
  return () => {
    window.removeEventListener("fastvar-place", follow);
    urls.forEach((url) => URL.revokeObjectURL(url));
  };
}
export default { render };
