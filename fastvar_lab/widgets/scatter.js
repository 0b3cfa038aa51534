// A scatter plot in SVG; every point is a button, reachable by Tab and picked by Enter or a click.
const WIDTH = 390, HEIGHT = 270, LEFT = 56, RIGHT = 12, TOP = 12, BOTTOM = 42;

function make(name, attributes, parent) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  parent.append(node);
  return node;
}

function ticks(low, high) {
  const raw = (high - low) / 4, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const out = [];
  for (let t = Math.ceil(low / step) * step; t <= high + 1e-9; t += step) out.push(t);
  return [out, Math.max(0, -Math.floor(Math.log10(step)))];
}

function draw(model, el) {
  el.replaceChildren();
  const points = model.get("points"), picked = model.get("picked");
  const svg = make("svg", { width: WIDTH, height: HEIGHT, role: "group",
    "aria-label": `${model.get("y_label")} against ${model.get("x_label")}` }, el);
  svg.style.maxWidth = "100%";
  svg.style.color = "var(--jp-ui-font-color1, currentColor)";
  if (!points.length) return;
  const range = (key) => {
    const all = points.map((p) => p[key]), low = Math.min(...all), high = Math.max(...all);
    const pad = (high - low || 1) * 0.06;
    return [low - pad, high + pad];
  };
  const [x0, x1] = range("x"), [y0, y1] = range("y");
  const x = (v) => LEFT + ((v - x0) / (x1 - x0)) * (WIDTH - LEFT - RIGHT);
  const y = (v) => HEIGHT - BOTTOM - ((v - y0) / (y1 - y0)) * (HEIGHT - TOP - BOTTOM);
  const text = (label, attributes) => {
    const node = make("text", { "font-size": 11, fill: "currentColor", ...attributes }, svg);
    node.textContent = label;
  };
  const line = (a) => make("line", { stroke: "currentColor", "stroke-opacity": 0.15, ...a }, svg);
  const [xs, xDigits] = ticks(x0, x1), [ys, yDigits] = ticks(y0, y1);
  for (const t of xs) {
    line({ x1: x(t), x2: x(t), y1: TOP, y2: HEIGHT - BOTTOM });
    text(t.toFixed(xDigits), { x: x(t), y: HEIGHT - BOTTOM + 15, "text-anchor": "middle" });
  }
  for (const t of ys) {
    line({ x1: LEFT, x2: WIDTH - RIGHT, y1: y(t), y2: y(t) });
    text(t.toFixed(yDigits), { x: LEFT - 6, y: y(t) + 4, "text-anchor": "end" });
  }
  text(model.get("x_label"), { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" });
  const side = { x: -(HEIGHT - BOTTOM + TOP) / 2, y: 14, "text-anchor": "middle" };
  text(model.get("y_label"), { ...side, transform: "rotate(-90)" });
  const front = points.filter((p) => p.front).sort((a, b) => a.x - b.x);
  const path = front.map((p) => `${x(p.x)},${y(p.y)}`).join(" ");
  make("polyline", { points: path, fill: "none", stroke: model.get("front_color"), "stroke-width": 1.5 }, svg);
  points.forEach((point, i) => {
    const on = i === picked;
    const dot = make("circle", {
      cx: x(point.x), cy: y(point.y), r: on ? 8 : 5, role: "button", tabindex: 0,
      fill: model.get(point.front ? "front_color" : "color"), stroke: on ? "currentColor" : "none",
      "stroke-width": 2, "aria-pressed": on,
      "aria-label": `${point.name}: ${point.x.toFixed(2)}, ${point.y.toFixed(2)}`,
    }, svg);
    dot.style.cursor = "pointer";
    make("title", {}, dot).textContent = dot.getAttribute("aria-label");
    const pick = () => {
      model.set("picked", i);
      model.save_changes();
    };
    dot.addEventListener("click", pick);
    dot.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        pick();
      }
    });
  });
}

function render({ model, el }) {
  const again = () => {
    const focused = [...el.querySelectorAll("circle")].indexOf(document.activeElement);
    draw(model, el);
    if (focused >= 0) el.querySelectorAll("circle")[focused]?.focus();
  };
  again();
  for (const name of ["points", "picked", "x_label", "y_label"]) model.on(`change:${name}`, again);
}
export default { render };
