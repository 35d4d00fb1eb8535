// Elements, made and found.

export const $ = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const PATHS = {
  cross: "M6 6l12 12M18 6L6 18",
  minus: "M5 12h14",
  plus: "M5 12h14M12 5v14",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
};

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawing = document.createElementNS(space, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", PATHS[name]);
  drawing.append(path);
  return drawing;
}

// True if a click is to open a tab or a window of its own.
export function opensElsewhere(event) {
  return event.metaKey || event.ctrlKey || event.shiftKey;
}
