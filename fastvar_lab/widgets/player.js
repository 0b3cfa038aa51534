// Goes through steps: buttons, keys, a speed, a loop. It waits for each step to be shown.
const SPEEDS = [0.5, 1, 2, 4, 8];

function render({ model, el }) {
  el.classList.add("fv-player");
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes the keys for its cells
  el.setAttribute("role", "group");
  el.setAttribute("aria-label", "play through the scale steps");
  let timer = null, due = 0;

  const last = () => model.get("last");
  function go(step) {
    model.set("step", Math.min(last(), Math.max(0, step)));
    model.save_changes();
  }
  function button(text, name, act) {
    const node = make("button", { type: "button", "aria-label": name, title: name }, el);
    node.textContent = text;
    node.addEventListener("click", act);
    return node;
  }
  const by = (steps) => () => {
    pause();
    go(model.get("step") + steps);
  };
  button("|◀", "first step (Home)", () => { pause(); go(0); });
  button("◀", "previous step (left arrow)", by(-1));
  const play = button("▶ Play", "play or pause (Space)", toggle);
  play.classList.add("fv-go");
  button("▶", "next step (right arrow)", by(1));
  button("▶|", "last step (End)", () => { pause(); go(last()); });
  const pace = make("label", { class: "fv-pace" }, el);
  pace.append("speed");
  const speed = make("select", { title: "Steps in a second; keys + and -." }, pace);
  for (const value of SPEEDS) make("option", { value }, speed).textContent = `${value} / s`;
  speed.value = 2;
  const again = make("label", { class: "fv-tick" }, el);
  const loop = make("input", { type: "checkbox", title: "Start again after the last step; key L." }, again);
  loop.checked = true;
  again.append("loop");

  function tick() {
    const now = performance.now(), step = model.get("step");
    if (now < due || model.get("shown") !== step) return;
    if (step >= last() && !loop.checked) return pause();
    // the last step stands for three
    due = now + (1000 / speed.value) * ((step + 1) % (last() + 1) === last() ? 3 : 1);
    go(step >= last() ? 0 : step + 1);
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    play.textContent = "▶ Play";
    play.setAttribute("aria-pressed", "false");
  }
  function toggle() {
    if (timer) return pause();
    if (model.get("step") >= last() && !loop.checked) go(0);
    due = performance.now() + 1000 / speed.value;
    timer = setInterval(tick, 20);
    play.textContent = "❚❚ Pause";
    play.setAttribute("aria-pressed", "true");
  }
  function faster(by) {
    const at = SPEEDS.indexOf(Number(speed.value)) + by;
    speed.value = SPEEDS[Math.min(SPEEDS.length - 1, Math.max(0, at))];
  }
  el.addEventListener("keydown", (event) => {
    if (event.target === speed || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowRight: by(1), ArrowLeft: by(-1), Home: () => { pause(); go(0); },
      End: () => { pause(); go(last()); }, "+": () => faster(1), "=": () => faster(1),
      "-": () => faster(-1), l: () => (loop.checked = !loop.checked),
      " ": event.target === loop ? null : toggle,
    }[event.key];
    if (!act) return;
    act();
    event.preventDefault(); // Space would press the button with the focus, too
    event.stopPropagation();
  });
  el.addEventListener("keyup", (event) => event.key === " " && event.target !== loop && event.preventDefault());
  pause();
  return pause;
}
export default { render };
