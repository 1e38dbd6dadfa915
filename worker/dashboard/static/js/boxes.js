// Boxes over a picture. Takes detections whose boxes are fractions of it; draws into an SVG that covers
// it, in per cent. A label goes above its box (below, at the picture's upper edge); where the label of a
// better detection is in the way it is left out, so that what is written can be read.

import { element, setText, svg } from "./dom.js";
import { colourOf } from "./palette.js";

const TAG_HEIGHT = 15;
const LETTER_WIDTH = 6.7; // of 11 px type, on the wide side: measuring would lay out the page each time
const PADDING = 4;

/** The SVG to draw into. */
export function boxLayer() {
  return svg("svg", { class: "boxes", "aria-hidden": "true" });
}

function group() {
  return svg("svg", { overflow: "visible" },
    svg("rect", { class: "halo", width: "100%", height: "100%" }),
    svg("rect", { class: "box", width: "100%", height: "100%" }),
    svg("g", {}, svg("rect", { class: "tag", height: TAG_HEIGHT, rx: 2 }), svg("text", { x: PADDING, y: 11 })));
}

function overlap(a, b) {
  return a.x < b.x + b.width && b.x < a.x + a.width && a.y < b.y + TAG_HEIGHT && b.y < a.y + TAG_HEIGHT;
}

/** Where a label of this width goes, in pixels of a layer of this size; null if there is no room. */
function roomFor([x1, y1, , y2], width, size, taken) {
  const x = Math.max(0, Math.min(x1 * size.width, size.width - width));
  const above = y1 * size.height - TAG_HEIGHT;
  const wanted = { x, y: above >= 0 ? above : Math.min(y2 * size.height, size.height - TAG_HEIGHT), width };
  return taken.some((other) => overlap(wanted, other)) ? null : wanted;
}

function place(node, { label, box: [x1, y1, x2, y2] }, ignored) {
  for (const [name, value] of [["x", x1], ["y", y1], ["width", x2 - x1], ["height", y2 - y1]]) {
    node.setAttribute(name, `${(value * 100).toFixed(3)}%`);
  }
  node.setAttribute("class", ignored ? "ignored" : "");
  node.dataset.colour = colourOf(label);
  node.dataset.label = label;
}

function write(node, text, width, at, { box: [x1, y1] }, size) {
  const [, , tag] = node.children;
  tag.setAttribute("visibility", at ? "visible" : "hidden");
  if (!at) return;
  tag.setAttribute("transform", `translate(${at.x - x1 * size.width} ${at.y - y1 * size.height})`);
  tag.firstChild.setAttribute("width", width);
  setText(tag.lastChild, text);
}

/**
 * Shows these detections, best first, and no others. `size`: of the layer in pixels; `scores`: whether
 * labels have them; `ignored` tells which are drawn as left out.
 */
export function drawBoxes(layer, detections, size, { scores = false, ignored = () => false } = {}) {
  while (layer.children.length > detections.length) layer.lastChild.remove();
  while (layer.children.length < detections.length) layer.append(group());
  const taken = [];
  detections.forEach((found, index) => {
    const node = layer.children[detections.length - 1 - index]; // the best lies on top
    const text = scores ? `${found.label} ${found.score.toFixed(2)}` : found.label;
    const width = text.length * LETTER_WIDTH + 2 * PADDING;
    const at = roomFor(found.box, width, size, taken);
    if (at) taken.push(at);
    place(node, found, ignored(found));
    write(node, text, width, at, found, size);
  });
}

/** Detections as a table's rows, for whom boxes say nothing. */
export function detectionRows(detections) {
  return detections.map(({ label, score, box: [x1, y1, x2, y2] }) => {
    const at = (value) => `${Math.round(value * 100)} %`;
    return element("tr", {}, element("td", {}, label),
      element("td", { class: "number" }, score.toFixed(2)),
      element("td", { class: "number" }, `${at(x1)}, ${at(y1)} to ${at(x2)}, ${at(y2)}`));
  });
}

/** The size of an element, kept up to date without asking for the layout each time. */
export function sizeOf(node, onchange) {
  const size = { width: 1, height: 1 };
  new ResizeObserver(([{ contentRect }]) => {
    Object.assign(size, { width: contentRect.width, height: contentRect.height });
    onchange();
  }).observe(node);
  return size;
}
