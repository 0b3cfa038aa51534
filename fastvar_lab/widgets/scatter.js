// A scatter plot in SVG, as wide as there is room. Points are buttons: Tab reaches the picked one,
// arrow keys go to the next to the left or right, Enter or a click picks. A drag brushes a range of
// the axis along which it is longer.
const HEIGHT = 300, LEFT = 56, RIGHT = 14, TOP = 14, BOTTOM = 42, LEAST = 5;

function graphic(name, attributes, parent) {
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

function render({ model, el }) {
  el.classList.add("fv-scatter");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes arrow keys for its cells
  const hint = document.createElement("div");
  let width = 0, dots = [], order = [], label = null, axes = null;

  function draw() {
    const focused = dots.indexOf(document.activeElement);
    el.replaceChildren(hint);
    hint.className = "fv-hint";
    hint.textContent = "click or arrow keys and Enter pick; drag to choose a range";
    const points = model.get("points");
    dots = [];
    order = points.map((_, i) => i).sort((a, b) => points[a].x - points[b].x);
    const svg = graphic("svg", { width, height: HEIGHT, role: "group", "aria-label":
      `${model.get("y_label")} against ${model.get("x_label")}, ${points.length} methods` }, el);
    if (!points.length || width < 80) return;
    const range = (key) => {
      const all = points.flatMap((p) => [p[key], ...p[`${key}_range`]]);
      const low = Math.min(...all), high = Math.max(...all), pad = (high - low || 1) * 0.06;
      return [low - pad, high + pad];
    };
    const [x0, x1] = range("x"), [y0, y1] = range("y");
    const right = width - RIGHT, bottom = HEIGHT - BOTTOM;
    const x = (v) => LEFT + ((v - x0) / (x1 - x0)) * (right - LEFT);
    const y = (v) => bottom - ((v - y0) / (y1 - y0)) * (bottom - TOP);
    axes = {
      x: (place) => x0 + ((place - LEFT) / (right - LEFT)) * (x1 - x0),
      y: (place) => y0 + ((bottom - place) / (bottom - TOP)) * (y1 - y0),
    };
    const text = (words, attributes, parent = svg) => {
      const node = graphic("text", { "font-size": 12, fill: "currentColor", ...attributes }, parent);
      node.textContent = words;
      return node;
    };
    const grid = (a) => graphic("line", { stroke: "currentColor", "stroke-opacity": 0.15, ...a }, svg);
    const [xs, xDigits] = ticks(x0, x1), [ys, yDigits] = ticks(y0, y1);
    for (const t of xs) {
      grid({ x1: x(t), x2: x(t), y1: TOP, y2: bottom });
      text(t.toFixed(xDigits), { x: x(t), y: bottom + 16, "text-anchor": "middle" });
    }
    for (const t of ys) {
      grid({ x1: LEFT, x2: right, y1: y(t), y2: y(t) });
      text(t.toFixed(yDigits), { x: LEFT - 6, y: y(t) + 4, "text-anchor": "end" });
    }
    text(model.get("x_label"), { x: (LEFT + right) / 2, y: HEIGHT - 6, "text-anchor": "middle" });
    const side = { x: -(bottom + TOP) / 2, y: 15, "text-anchor": "middle" };
    text(model.get("y_label"), { ...side, transform: "rotate(-90)" });

    // the ranges that are brushed
    const [xLow, xHigh] = model.get("x_span"), [yLow, yHigh] = model.get("y_span");
    const clip = (v, low, high) => Math.min(high, Math.max(low, v));
    if (xLow !== null || xHigh !== null || yLow !== null || yHigh !== null) {
      const a = clip(x(xLow ?? x0), LEFT, right), b = clip(x(xHigh ?? x1), LEFT, right);
      const c = clip(y(yHigh ?? y1), TOP, bottom), d = clip(y(yLow ?? y0), TOP, bottom);
      graphic("rect", { x: a, y: c, width: b - a, height: d - c, class: "fv-brushed" }, svg);
    }

    // what the front reaches at each speed: that of the next faster method on it
    const front = order.map((i) => points[i]).filter((p) => p.front);
    const path = front.map((p, i) => (i ? `V${y(p.y)}H${x(p.x)}` : `M${x(p.x)},${y(p.y)}`)).join("");
    if (path) graphic("path", { d: path, fill: "none", stroke: model.get("front_color"), "stroke-width": 1.5, class: "fv-front" }, svg);

    points.forEach((p, i) => {
      const color = model.get(p.front ? "front_color" : "color"), on = i === model.get("picked");
      const group = graphic("g", { class: p.inside ? "fv-point" : "fv-point fv-outside" }, svg);
      const bar = { stroke: color, "stroke-width": 1.2, class: "fv-interval" };
      const [xa, xb] = p.x_range, [ya, yb] = p.y_range;
      if (xb > xa) graphic("line", { x1: x(xa), x2: x(xb), y1: y(p.y), y2: y(p.y), ...bar }, group);
      if (yb > ya) graphic("line", { x1: x(p.x), x2: x(p.x), y1: y(ya), y2: y(yb), ...bar }, group);
      const dot = graphic("circle", {
        cx: x(p.x), cy: y(p.y), r: on ? 8 : 5.5, role: "button", fill: color,
        tabindex: on || (model.get("picked") < 0 && i === order[0]) ? 0 : -1,
        stroke: on ? "currentColor" : "none", "stroke-width": 2, "aria-pressed": on,
        "aria-label": `${p.name}: ${p.lines.join(", ")}`,
      }, group);
      dots.push(dot);
      dot.addEventListener("click", () => pick(i));
      dot.addEventListener("pointerenter", () => point(i));
      dot.addEventListener("pointerleave", () => point(-1));
      dot.addEventListener("focus", () => point(i));
      dot.addEventListener("blur", () => point(-1));
      dot.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
        const at = order.indexOf(i), last = order.length - 1;
        const to = { Home: 0, End: last }[event.key] ?? (step && clip(at + step, 0, last));
        if (to !== undefined) dots[order[to]].focus();
        else if (event.key === "Enter" || event.key === " ") pick(i);
        else return;
        event.preventDefault();
      });
    });
    label = graphic("g", { class: "fv-label-of-point", "aria-hidden": "true" }, svg);
    brush(svg);
    if (focused >= 0) dots[focused]?.focus();
    mark();
  }

  function pick(i) {
    model.set("picked", i);
    model.save_changes();
  }
  function point(i) {
    model.set("pointed", i);
    model.save_changes();
  }
  function mark() { // the label of the point under the pointer or with the focus
    if (!label) return;
    label.replaceChildren();
    const i = model.get("pointed"), p = model.get("points")[i], dot = dots[i];
    if (!p || !dot) return;
    const box = graphic("rect", { rx: 3, class: "fv-label-box" }, label);
    const lines = [p.name, ...p.lines].map((words, row) => {
      const node = graphic("text", { "font-size": 12, x: 0, y: 15 + 16 * row, fill: "currentColor", "font-weight": row ? 400 : 600 }, label);
      node.textContent = words;
      return node;
    });
    const room = width - 20; // a long name is cut
    for (const node of lines) {
      while (node.getComputedTextLength() > room && node.textContent.length > 4) {
        node.textContent = `${node.textContent.slice(0, -4)}…`;
      }
    }
    const wide = Math.max(...lines.map((node) => node.getComputedTextLength())) + 12;
    Object.entries({ x: -6, y: 0, width: wide, height: 53 }).forEach(([k, v]) => box.setAttribute(k, v));
    const cx = Number(dot.getAttribute("cx")), cy = Number(dot.getAttribute("cy"));
    const left = Math.max(8, Math.min(width - wide + 4, cx - wide / 2));
    label.setAttribute("transform", `translate(${left}, ${cy > 76 ? cy - 66 : cy + 13})`);
  }
  function brush(svg) {
    let from = null, band = null;
    const place = (event) => {
      const box = svg.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    const along = (to) => (Math.abs(to[0] - from[0]) >= Math.abs(to[1] - from[1]) ? 0 : 1);
    svg.addEventListener("pointerdown", (event) => {
      if (event.target.tagName === "circle") return;
      from = place(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      if (!from) return;
      const to = place(event), axis = along(to);
      band ??= graphic("rect", { class: "fv-brushed" }, svg);
      const low = Math.min(from[axis], to[axis]), size = Math.abs(to[axis] - from[axis]);
      const shape = axis ? { x: LEFT, width: width - LEFT - RIGHT, y: low, height: size }
        : { x: low, width: size, y: TOP, height: HEIGHT - TOP - BOTTOM };
      for (const [key, value] of Object.entries(shape)) band.setAttribute(key, value);
    });
    svg.addEventListener("pointerup", (event) => {
      if (!from) return;
      const to = place(event), axis = along(to), name = axis ? "y" : "x";
      if (Math.abs(to[axis] - from[axis]) >= LEAST) {
        const ends = [from[axis], to[axis]].map(axes[name]).sort((a, b) => a - b);
        model.set(`${name}_span`, ends);
        model.save_changes();
      } else band?.remove();
      from = band = null;
    });
  }

  const watch = new ResizeObserver(() => {
    const now = Math.floor(el.clientWidth);
    if (now && now !== width) {
      width = now;
      draw();
    }
  });
  watch.observe(el);
  draw();
  for (const name of ["points", "picked", "x_label", "y_label", "x_span", "y_span"]) {
    model.on(`change:${name}`, draw);
  }
  model.on("change:pointed", mark);
  return () => watch.disconnect();
}
export default { render };
