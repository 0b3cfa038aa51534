// The points of a scatter plot as a table: the name of each is a button that picks it.
function render({ model, el }) {
  el.classList.add("fv-points");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes Enter for its cells
  let rows = new Map();
  const send = (name, value) => {
    model.set(name, value);
    model.save_changes();
  };
  function draw() {
    const focused = [...rows].find(([, row]) => row.contains(document.activeElement))?.[0];
    const points = model.get("points");
    el.replaceChildren();
    rows = new Map();
    const table = make("table", { class: "fv-table" }, el);
    const head = make("tr", {}, make("thead", {}, table));
    for (const title of model.get("columns")) make("th", { scope: "col" }, head).textContent = title;
    const body = make("tbody", {}, table);
    const order = points.map((_, i) => i).sort((a, b) => points[a].x - points[b].x);
    for (const i of order.filter((i) => points[i].inside)) {
      const row = make("tr", {}, body);
      rows.set(i, row);
      const button = make("button", { type: "button" }, make("th", { scope: "row" }, row));
      button.textContent = points[i].name;
      button.addEventListener("click", () => send("picked", i));
      button.addEventListener("focus", () => send("pointed", i));
      button.addEventListener("blur", () => send("pointed", -1));
      for (const text of points[i].cells) make("td", {}, row).textContent = text;
      row.addEventListener("pointerenter", () => send("pointed", i));
      row.addEventListener("pointerleave", () => send("pointed", -1));
    }
    if (!rows.size) make("td", { colspan: model.get("columns").length }, make("tr", {}, body)).textContent = "no method lies in these ranges";
    mark();
    rows.get(focused)?.querySelector("button").focus();
  }
  function mark() {
    for (const [i, row] of rows) {
      row.classList.toggle("fv-pointed", i === model.get("pointed"));
      row.querySelector("button").setAttribute("aria-pressed", i === model.get("picked"));
    }
  }
  draw();
  for (const name of ["points", "columns"]) model.on(`change:${name}`, draw);
  for (const name of ["picked", "pointed"]) model.on(`change:${name}`, mark);
}
export default { render };
