// Makes elements. Text becomes text nodes and attributes, never markup: camera ids, labels and details
// come from anyone who may write to Redis.

const SVG = "http://www.w3.org/2000/svg";

function filled(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element; `onclick` and the like take functions. */
export function element(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** An SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Sets a node's text if it differs: no work for the browser or a screen reader otherwise. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

const SIGNS = {
  up: ["M5 13l4 4L19 7"],
  degraded: ["M12 4L2.5 20h19L12 4z", "M12 10v4", "M12 17v.01"],
  down: ["M6 6l12 12", "M18 6L6 18"],
  unknown: ["M9 9a3 3 0 1 1 4.5 2.6c-.9.5-1.5 1.2-1.5 2.4", "M12 18v.01"],
  ended: ["M7 7h10v10H7z"],
};

/** A sign for a state: up, degraded, down, ended or unknown. */
export function icon(name) {
  const paths = (SIGNS[name] ?? SIGNS.unknown).map((d) => svg("path", { d }));
  return svg("svg", { class: "icon", viewBox: "0 0 24 24", "aria-hidden": "true" }, ...paths);
}

/** Sign and word of a state, in its colour. */
export function badge(kind, word) {
  return element("span", { class: `badge ${kind}` }, icon(kind), word);
}
