// One labelled control: what is typed or chosen goes to Python as text, which answers with the
// canonical text, or with an error that stands under the control.
let count = 0;

function options(select, labels, chosen) {
  select.replaceChildren();
  for (const label of labels.includes(chosen) ? labels : [...labels, chosen]) {
    make("option", {}, select).textContent = label;
  }
  select.value = chosen;
}

// JupyterLab may keep the browser's own answer to a key from an input, so sliders answer themselves.
const steps = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 };

// Typed text is sent when its input is left, and on Enter, which JupyterLab may keep from a change.
function typed(input, send) {
  input.addEventListener("change", () => send(input.value));
  input.addEventListener("keydown", (event) => event.key === "Enter" && send(input.value));
}

// What may be typed is searched for what is typed; an empty field shows all of it.
function suggest(input, box, labels) {
  const list = make("datalist", { id: `${input.id}-list` }, box);
  for (const label of labels) make("option", { value: label }, list);
  input.setAttribute("list", list.id);
  input.addEventListener("focus", () => input.select());
}

// Each kind makes its inputs in `box`, and returns a function that shows the model's text.
const kinds = {
  text(box, id, model, send) {
    const input = make("input", { id, type: "text", spellcheck: "false" }, box);
    typed(input, send);
    if (model.get("options").length) suggest(input, box, model.get("options"));
    return () => (input.value = model.get("text"));
  },
  area(box, id, model, send) {
    const area = make("textarea", { id, rows: 4, spellcheck: "false" }, box);
    area.addEventListener("change", () => send(area.value));
    return () => (area.value = model.get("text"));
  },
  choice(box, id, model, send) {
    const select = make("select", { id }, box);
    select.addEventListener("change", () => send(select.value));
    return () => options(select, model.get("options"), model.get("text"));
  },
  switch(box, id, model, send) {
    const input = make("input", { id, type: "checkbox" }, box);
    input.addEventListener("change", () => send(input.checked ? "on" : "off"));
    return () => (input.checked = model.get("text") === "on");
  },
  toggle(box, id, model, send) {
    const button = make("button", { id, type: "button", class: "fv-fold" }, box);
    button.addEventListener("click", () => send(model.get("text") === "on" ? "off" : "on"));
    return () => {
      button.textContent = model.get("label");
      button.setAttribute("aria-expanded", String(model.get("text") === "on"));
    };
  },
  names(box, id, model, send) {
    return () => {
      box.replaceChildren();
      const chosen = model.get("text").split(" ");
      for (const name of model.get("options")) {
        const label = make("label", { class: "fv-tick" }, box);
        const input = make("input", { type: "checkbox", value: name }, label);
        input.checked = chosen.includes(name);
        label.append(name);
        input.addEventListener("change", () => {
          const on = [...box.querySelectorAll("input:checked")].map((node) => node.value);
          send(on.join(" "));
        });
      }
    };
  },
  lines(box, id, model) {
    const text = make("div", { class: "fv-lines" }, box);
    return () => (text.textContent = model.get("text"));
  },
  pair(box, id, model, send) {
    const first = make("select", { id, "aria-label": `${model.get("label")}, first` }, box);
    make("span", {}, box).textContent = "to";
    const last = make("select", { "aria-label": `${model.get("label")}, last` }, box);
    const both = () => send(`${first.value} ${last.value}`);
    first.addEventListener("change", both);
    last.addEventListener("change", both);
    return () => {
      const [low, high] = model.get("text").split(" ");
      options(first, model.get("options"), low);
      options(last, model.get("options"), high);
    };
  },
  share(box, id, model, send) {
    const label = model.get("label");
    const range = make("input", { id, type: "range", min: 0, max: 100, step: 5 }, box);
    const readout = make(
      "input",
      { type: "text", class: "fv-readout", inputmode: "decimal", "aria-label": `${label}, as a number` },
      box,
    );
    // steps of 5, or of 1 with Shift; a typed share stands where it is, without being moved
    range.addEventListener("pointerdown", () => (range.step = 5));
    range.addEventListener("keydown", (event) => {
      const sign = steps[event.key];
      if (!sign) return;
      event.preventDefault();
      range.step = 1;
      range.value = Number(range.value) + sign * (event.shiftKey ? 1 : 5);
      readout.value = `${range.value} %`;
      send(`${range.value} %`);
    });
    range.addEventListener("input", () => (readout.value = `${range.value} %`));
    range.addEventListener("change", () => send(`${range.value} %`));
    typed(readout, send);
    return () => {
      const text = model.get("text"), value = parseFloat(text);
      readout.value = text;
      if (!model.get("error") && Number.isFinite(value)) {
        range.step = value % 5 ? "any" : 5;
        range.value = value;
      }
      range.setAttribute("aria-valuetext", text);
    };
  },
  index(box, id, model, send) {
    const range = make("input", { id, type: "range", min: 0, step: 1 }, box);
    const readout = make("output", { class: "fv-readout", for: id }, box);
    const label = () => model.get("options")[Number(range.value)] ?? "";
    range.addEventListener("input", () => (readout.textContent = label()));
    range.addEventListener("change", () => send(label()));
    range.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      range.value = Number(range.value) + step;
      readout.textContent = label();
      send(label());
    });
    return () => {
      range.max = Math.max(0, model.get("options").length - 1);
      range.value = model.get("options").indexOf(model.get("text"));
      readout.textContent = model.get("text");
      range.setAttribute("aria-valuetext", model.get("text"));
    };
  },
};

function render({ model, el }) {
  const id = `fv-field-${count++}-${Math.random().toString(36).slice(2, 8)}`;
  const kind = model.get("kind"), group = kind === "names" || kind === "lines", help = model.get("help");
  el.classList.add("fv-field", `fv-${kind}`);
  el.dataset.lmSuppressShortcuts = "true"; // else JupyterLab takes arrow keys for its cells
  if (help) el.title = help;
  if (kind !== "toggle") {
    const label = make(group ? "span" : "label", group ? { id } : { for: id, class: "fv-label" }, el);
    if (group) label.className = "fv-label";
    const name = () => (label.textContent = model.get("label"));
    name();
    model.on("change:label", name);
  }
  const box = make("div", { class: "fv-input" }, el);
  if (group) {
    box.setAttribute("role", "group");
    box.setAttribute("aria-labelledby", id);
  }
  const problem = make("div", { class: "fv-error", id: `${id}-error`, role: "alert" }, el);
  const send = (text) => {
    model.set("text", text);
    model.save_changes();
  };
  const show = kinds[kind](box, id, model, send);
  const refresh = () => {
    show();
    const error = model.get("error");
    problem.textContent = error;
    for (const input of box.querySelectorAll("input, select, textarea")) {
      input.toggleAttribute("aria-invalid", Boolean(error));
      if (error) input.setAttribute("aria-invalid", "true");
      input.setAttribute("aria-describedby", `${id}-error`);
      if (help) input.setAttribute("aria-description", help);
      input.disabled = model.get("disabled");
    }
  };
  refresh();
  for (const name of ["text", "error", "options", "disabled", "label"]) {
    model.on(`change:${name}`, refresh);
  }
}
export default { render };
