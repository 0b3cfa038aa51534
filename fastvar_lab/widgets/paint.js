// Tokens of a map to keep or to prune, painted over a picture by pointer or by keys.
const ALPHA = "a0"; // of the paint over the picture
const NAMES = { k: "keep", p: "prune", ".": "free" };

function render({ model, el }) {
  el.classList.add("fv-paint");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the keys for its cells
  const frame = make("div", { class: "fv-frame", tabindex: 0, role: "group" }, el);
  const image = make("img", { draggable: "false", alt: "" }, frame);
  const canvas = make("canvas", { class: "fv-paint-canvas", "aria-hidden": "true" }, frame);
  const spot = make("div", { class: "fv-spot" }, frame);
  const said = make("div", { class: "fv-quiet", role: "status" }, el);
  let marks = [], at = [0, 0], url = null, stroke = null, last = null;
  const size = () => [model.get("h"), model.get("w")];
  const clamp = (v, n) => Math.min(n - 1, Math.max(0, v));

  function draw() {
    const [h, w] = size(), side = Math.max(4, Math.ceil(480 / Math.max(h, w)));
    const colors = model.get("colors");
    canvas.width = w * side;
    canvas.height = h * side;
    const pen = canvas.getContext("2d");
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let i = 0; i < h * w; i++) {
      const x = (i % w) * side, y = Math.floor(i / w) * side;
      if (colors[marks[i]]) {
        pen.fillStyle = colors[marks[i]] + ALPHA;
        pen.fillRect(x, y, side, side);
      }
      pen.strokeStyle = "rgba(255, 255, 255, .22)";
      pen.strokeRect(x + 0.5, y + 0.5, side, side);
    }
    at = [clamp(at[0], h), clamp(at[1], w)];
    spot.style.left = `${(100 * at[1]) / w}%`;
    spot.style.top = `${(100 * at[0]) / h}%`;
    spot.style.width = `${100 / w}%`;
    spot.style.height = `${100 / h}%`;
  }
  function say() {
    const [, w] = size();
    said.textContent = `row ${at[0]}, column ${at[1]}: ${NAMES[marks[at[0] * w + at[1]] ?? "."]}`;
  }
  function dab([r, c], tool) {
    const [h, w] = size(), brush = model.get("brush"), low = -Math.floor((brush - 1) / 2);
    for (let i = low; i < low + brush; i++)
      for (let j = low; j < low + brush; j++)
        if (r + i >= 0 && r + i < h && c + j >= 0 && c + j < w) marks[(r + i) * w + c + j] = tool;
  }
  function line(from, to, tool) { // a fast pointer skips cells
    const steps = Math.max(1, Math.abs(to[0] - from[0]), Math.abs(to[1] - from[1]));
    for (let i = 0; i <= steps; i++)
      dab([Math.round(from[0] + ((to[0] - from[0]) * i) / steps), Math.round(from[1] + ((to[1] - from[1]) * i) / steps)], tool);
  }
  function save() {
    model.set("marks", marks.join(""));
    model.save_changes();
  }
  function cell(event) {
    const b = frame.getBoundingClientRect(), [h, w] = size();
    return [clamp(Math.floor(((event.clientY - b.top) / b.height) * h), h), clamp(Math.floor(((event.clientX - b.left) / b.width) * w), w)];
  }
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    stroke = model.get("tool");
    at = last = cell(event);
    dab(at, stroke);
    draw();
    say();
  });
  frame.addEventListener("pointermove", (event) => {
    if (stroke === null) return;
    at = cell(event);
    line(last, at, stroke);
    last = at;
    draw();
    say();
  });
  const ends = () => {
    if (stroke !== null) save();
    stroke = null;
  };
  frame.addEventListener("pointerup", ends);
  frame.addEventListener("pointercancel", ends);
  frame.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    const tool = { k: "k", p: "p", Delete: ".", Backspace: ".", " ": model.get("tool"), Enter: model.get("tool") }[event.key];
    if (!move && !tool) return;
    event.preventDefault();
    event.stopPropagation();
    const [h, w] = size();
    if (move) at = [clamp(at[0] + move[0], h), clamp(at[1] + move[1], w)];
    if (tool || event.shiftKey) {
      dab(at, tool ?? model.get("tool")); // with Shift, arrows paint as they go
      save();
    }
    draw();
    say();
  });
  function read() {
    marks = [...model.get("marks")];
    draw();
    say();
  }
  function show() {
    const old = url;
    url = URL.createObjectURL(new Blob([model.get("picture")], { type: "image/png" }));
    image.src = url;
    image.alt = model.get("alt");
    frame.setAttribute("aria-label", `${model.get("alt")}. Arrow keys move, Space paints, K keeps, P prunes, Delete frees, Shift with arrows paints a line`);
    if (old) setTimeout(() => URL.revokeObjectURL(old), 1000);
  }
  show();
  read();
  for (const name of ["marks", "h", "w"]) model.on(`change:${name}`, read);
  for (const name of ["picture", "alt"]) model.on(`change:${name}`, show);
  return () => URL.revokeObjectURL(url);
}
export default { render };
