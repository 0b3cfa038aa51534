// Tables of colored cells, scale steps by layers; a click or arrow keys pick one.
function render({ model, el }) {
  el.classList.add("fv-matrices");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes arrow keys for its cells
  const cells = new Map();
  const key = (k, r, c) => `${k}/${r}/${c}`;
  function pick(k, r, c) {
    model.set("picked", [k, r, c]);
    model.save_changes();
  }
  function draw() {
    const focus = el.contains(document.activeElement);
    cells.clear();
    el.replaceChildren();
    model.get("tables").forEach((table, k) => {
      const part = make("div", { class: "fv-matrix" }, el);
      make("div", { class: "fv-matrix-name" }, part).textContent = table.name;
      const grid = make("div", { role: "grid", class: "fv-matrix-grid", "aria-label": table.label }, part);
      grid.style.gridTemplateColumns = `max-content repeat(${table.columns.length}, minmax(6px, 1fr))`;
      const line = (name) => {
        const row = make("div", { role: "row", class: "fv-matrix-row" }, grid);
        make("span", { role: "rowheader", class: "fv-matrix-head" }, row).textContent = name;
        return row;
      };
      table.rows.forEach((name, r) => {
        const row = line(name);
        table.columns.forEach((column, c) => {
          const [color, state, text] = table.cells[r][c];
          const cell = make("div", { role: "gridcell", class: `fv-square fv-${state}`, title: text, "aria-label": text, tabindex: -1 }, row);
          cell.style.background = color;
          cells.set(key(k, r, c), cell);
          cell.addEventListener("click", () => pick(k, r, c));
          cell.addEventListener("keydown", (event) => {
            const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
            if (!move) return;
            event.preventDefault();
            event.stopPropagation();
            const [nr, nc] = [r + move[0], c + move[1]];
            const next = cells.get(key(k, nr, nc));
            if (!next) return;
            next.focus();
            pick(k, nr, nc);
          });
        });
      });
      const foot = make("div", { role: "row", class: "fv-matrix-row" }, grid);
      make("span", { role: "rowheader", class: "fv-matrix-head" }, foot).textContent = "layer";
      table.columns.forEach((column, c) => {
        const some = c % Math.ceil(table.columns.length / 8) === 0;
        make("span", { role: "columnheader", class: "fv-matrix-foot", "aria-label": `layer ${column}` }, foot).textContent = some ? column : "";
      });
    });
    mark();
    if (focus) cells.get(key(...model.get("picked")))?.focus();
  }
  function mark() {
    const chosen = key(...model.get("picked"));
    let any = false;
    for (const [name, cell] of cells) {
      const on = name === chosen;
      any ||= on;
      cell.setAttribute("aria-selected", on);
      cell.tabIndex = on ? 0 : -1;
    }
    if (!any) cells.values().next().value?.setAttribute("tabindex", 0);
  }
  draw();
  model.on("change:tables", draw);
  model.on("change:picked", mark);
}
export default { render };
