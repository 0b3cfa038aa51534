// Pictures of one place, side by side or one over the other: they zoom, pan and point together.
const SLOTS = 6, MOST = 16;

function render({ model, el }) {
  el.classList.add("fv-viewer");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes arrow keys for its cells
  const tools = make("div", { class: "fv-tools", role: "group", "aria-label": "zoom" }, el);
  const grid = make("div", { class: "fv-pictures" }, el);
  const sweep = make("label", { class: "fv-sweep" }, el);
  sweep.append("swipe");
  const slider = make("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "swipe between the first two pictures" }, sweep);
  const view = { zoom: 1, x: 0.5, y: 0.5 }; // (x, y) is the place in the middle of every frame
  const shown = []; // one entry a slot: {figure, image, frame, cross, url, data}

  const clamp = (v, low, high) => Math.min(high, Math.max(low, v));
  function place() {
    const half = 0.5 / view.zoom;
    view.x = clamp(view.x, half, 1 - half);
    view.y = clamp(view.y, half, 1 - half);
    const [px, py] = model.get("place");
    for (const slot of shown) {
      if (!slot) continue;
      const dx = (0.5 - view.x * view.zoom) * 100, dy = (0.5 - view.y * view.zoom) * 100;
      slot.image.style.transform = `translate(${dx}%, ${dy}%) scale(${view.zoom})`;
      const cx = (hover ?? [px, py])[0], cy = (hover ?? [px, py])[1];
      slot.cross.hidden = cx === undefined;
      if (cx === undefined) continue;
      slot.cross.style.left = `${((cx - view.x) * view.zoom + 0.5) * 100}%`;
      slot.cross.style.top = `${((cy - view.y) * view.zoom + 0.5) * 100}%`;
    }
    level.textContent = `${view.zoom.toFixed(view.zoom % 1 ? 1 : 0)} x`;
    if (el.classList.contains("fv-swiping")) cut(); // the line stays, the picture under it moves
  }
  let hover = null;
  function zoom(times, at = [view.x, view.y]) {
    const next = clamp(view.zoom * times, 1, MOST);
    // the place under the pointer stays under it
    view.x = at[0] + ((view.x - at[0]) * view.zoom) / next;
    view.y = at[1] + ((view.y - at[1]) * view.zoom) / next;
    view.zoom = next;
    place();
  }
  function button(label, name, act) {
    const node = make("button", { type: "button", "aria-label": name, title: name }, tools);
    node.textContent = label;
    node.addEventListener("click", act);
  }
  button("−", "zoom out", () => zoom(1 / 1.5));
  const level = make("span", { class: "fv-level", "aria-live": "polite" }, tools);
  button("+", "zoom in", () => zoom(1.5));
  button("reset", "show whole pictures", () => {
    Object.assign(view, { zoom: 1, x: 0.5, y: 0.5 });
    place();
  });
  const hint = make("span", { class: "fv-hint" }, tools);
  hint.textContent = "drag to move; click or arrow keys mark a place";

  function point(frame, event) { // the place of the picture under the pointer, in [0, 1]
    const box = frame.getBoundingClientRect();
    const u = (event.clientX - box.left) / box.width, v = (event.clientY - box.top) / box.height;
    return [view.x + (u - 0.5) / view.zoom, view.y + (v - 0.5) / view.zoom];
  }
  function tell(place) { // maps of the same group show the place under the pointer
    window.dispatchEvent(new CustomEvent("fastvar-place", { detail: { group: model.get("group"), place, from: el } }));
  }
  function follow(event) {
    if (event.detail.from === el || !model.get("group") || event.detail.group !== model.get("group")) return;
    hover = event.detail.place;
    place();
  }
  window.addEventListener("fastvar-place", follow);
  function mark(at) {
    model.set("place", [clamp(at[0], 0, 1), clamp(at[1], 0, 1)]);
    model.save_changes();
    place();
  }
  function listen(frame) {
    let from = null, moved = false;
    frame.addEventListener("pointerdown", (event) => {
      from = [event.clientX, event.clientY, view.x, view.y];
      moved = false;
      frame.setPointerCapture(event.pointerId);
    });
    frame.addEventListener("pointermove", (event) => {
      hover = point(frame, event);
      tell(hover);
      if (from && Math.hypot(event.clientX - from[0], event.clientY - from[1]) > 3) {
        moved = true;
        const box = frame.getBoundingClientRect();
        view.x = from[2] - (event.clientX - from[0]) / box.width / view.zoom;
        view.y = from[3] - (event.clientY - from[1]) / box.height / view.zoom;
      }
      place();
    });
    frame.addEventListener("pointerup", (event) => {
      if (from && !moved) mark(point(frame, event));
      from = null;
    });
    frame.addEventListener("pointerleave", () => {
      hover = null;
      tell(null);
      place();
    });
    frame.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && !event.metaKey) return; // the page scrolls
      event.preventDefault();
      zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, point(frame, event));
    }, { passive: false });
    frame.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (event.key === "+" || event.key === "=") zoom(1.5);
      else if (event.key === "-") zoom(1 / 1.5);
      else if (move) {
        const [x = 0.5, y = 0.5] = model.get("place"), step = 1 / model.get("cells");
        mark([x + move[0] * step, y + move[1] * step]);
      } else return;
      event.preventDefault();
      event.stopPropagation();
    });
  }

  function slot(i) {
    const figure = make("figure", {}, grid);
    const caption = make("figcaption", {}, figure);
    const title = make("strong", {}, caption);
    const note = make("span", { class: "fv-note" }, caption);
    const frame = make("div", { class: "fv-frame", tabindex: 0, role: "group" }, figure);
    const image = make("img", { draggable: "false" }, frame);
    const cross = make("div", { class: "fv-cross" }, frame);
    listen(frame);
    const bar = make("div", { class: "fv-colors" }, figure);
    return (shown[i] = { figure, title, note, frame, image, cross, bar });
  }
  function colors(node, bar) { // what the colors mean, from the lowest to the highest
    node.replaceChildren();
    node.hidden = !bar;
    if (!bar) return;
    make("span", {}, node).textContent = bar.low;
    make("i", {}, node).style.background = `linear-gradient(to right, ${bar.colors.join(", ")})`;
    make("span", {}, node).textContent = bar.high;
  }
  function put(i) {
    const picture = model.get(`p${i}`);
    if (!picture?.data) return;
    const at = shown[i] ?? slot(i);
    at.title.textContent = picture.title;
    at.note.textContent = at.note.title = picture.note;
    at.frame.setAttribute("aria-label", `${picture.title}: arrow keys mark a place, + and - zoom`);
    at.image.className = `fastvar-${picture.name}`;
    at.image.classList.toggle("fv-cells", Boolean(picture.cells));
    at.image.alt = picture.alt;
    at.figure.hidden = Boolean(picture.hidden);
    colors(at.bar, picture.bar);
    const before = at.url;
    at.url = URL.createObjectURL(new Blob([picture.data], { type: "image/png" }));
    at.image.src = at.url;
    if (before) setTimeout(() => URL.revokeObjectURL(before), 1000);
    for (const figure of shown.filter(Boolean).map((s) => s.figure)) grid.append(figure);
    place();
  }
  function over() { // with "swipe", the second picture lies over the first, cut at the slider
    const swipe = model.get("mode") === "swipe" && shown[0] && shown[1];
    el.classList.toggle("fv-swiping", Boolean(swipe));
    if (!shown[0] || !shown[1]) return;
    (swipe ? shown[0].frame : shown[1].frame).prepend(shown[1].image);
    if (swipe) shown[0].frame.append(shown[1].image, shown[0].cross);
    shown[1].figure.hidden = Boolean(swipe || model.get("p1").hidden);
    shown[1].image.style.clipPath = "";
    shown[1].image.classList.toggle("fv-over", Boolean(swipe));
    if (swipe) cut();
  }
  function cut() { // in the picture's own coordinates, so that it holds under zoom
    const at = clamp(view.x + (slider.value / 100 - 0.5) / view.zoom, 0, 1);
    shown[1].image.style.clipPath = `inset(0 0 0 ${at * 100}%)`;
    shown[0].frame.style.setProperty("--fv-cut", `${slider.value}%`);
  }
  slider.addEventListener("input", cut);
  const every = () => {
    for (let i = 0; i < SLOTS; i++) put(i);
    over();
  };
  every();
  for (let i = 0; i < SLOTS; i++) model.on(`change:p${i}`, () => { put(i); over(); });
  model.on("change:mode", over);
  model.on("change:place", place);
  model.send({ views: 1 });
  return () => {
    window.removeEventListener("fastvar-place", follow);
    for (const at of shown) if (at?.url) URL.revokeObjectURL(at.url);
    model.send({ views: -1 });
  };
}
export default { render };
