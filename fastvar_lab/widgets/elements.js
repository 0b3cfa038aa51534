// What the scripts of all widgets begin with: makes an element inside of another.
function make(name, attributes, parent) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) node.setAttribute(key, value);
  parent?.append(node);
  return node;
}
