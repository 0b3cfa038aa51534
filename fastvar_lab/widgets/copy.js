// A button that copies the model's text.
function render({ model, el }) {
  const button = document.createElement("button");
  button.className = "jupyter-button widget-button lm-Widget";
  button.style.width = "auto";
  const name = () => (button.textContent = model.get("label"));
  name();
  model.on("change:label", name);
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(model.get("text"));
      button.textContent = "Copied";
    } catch {
      button.textContent = "Select the text and copy it: the browser refused";
    }
    setTimeout(name, 1500);
  });
  el.append(button);
}
export default { render };
