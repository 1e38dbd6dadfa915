// Boxes over a picture. Takes detections whose boxes are fractions of it; draws into an SVG that covers
// it, in per cent, so that nothing depends on its size on the screen.

import { element, setText, svg } from "./dom.js";
import { colourOf } from "./palette.js";

const TAG_HEIGHT = 15;
const LETTER_WIDTH = 6.7; // of 11 px type, on the wide side: measuring would lay out the page each time
const ROOM_ABOVE = 0.07; // of the picture's height: less, and the tag goes inside the box
const RIGHT_EDGE = 0.8; // of its width: beyond, the tag is set from the right

/** The SVG to draw into. */
export function boxLayer() {
  return svg("svg", { class: "boxes", "aria-hidden": "true" });
}

function group() {
  return svg("svg", { overflow: "visible" },
    svg("rect", { class: "halo", width: "100%", height: "100%" }),
    svg("rect", { class: "box", width: "100%", height: "100%" }),
    svg("rect", { class: "tag", height: TAG_HEIGHT, rx: 2 }),
    svg("text", {}));
}

function place(node, { label, score, box }, scores, ignored) {
  const [x1, y1, x2, y2] = box;
  const text = scores ? `${label} ${score.toFixed(2)}` : label;
  const width = text.length * LETTER_WIDTH + 8;
  const top = y1 < ROOM_ABOVE ? 0 : -TAG_HEIGHT;
  const right = x1 > RIGHT_EDGE;
  for (const [name, value] of [["x", x1], ["y", y1], ["width", x2 - x1], ["height", y2 - y1]]) {
    node.setAttribute(name, `${(value * 100).toFixed(3)}%`);
  }
  node.setAttribute("class", ignored ? "ignored" : "");
  node.dataset.colour = colourOf(label);
  node.dataset.label = label;
  const [, , tag, word] = node.children;
  tag.setAttribute("x", right ? "100%" : "0");
  tag.setAttribute("y", top);
  tag.setAttribute("width", width);
  tag.setAttribute("transform", right ? `translate(${-width} 0)` : "");
  word.setAttribute("x", right ? "100%" : "0");
  word.setAttribute("dx", right ? -4 : 4);
  word.setAttribute("text-anchor", right ? "end" : "start");
  word.setAttribute("y", top + 11);
  setText(word, text);
}

/** Shows these detections and no others; `ignored` tells which are drawn as left out. */
export function drawBoxes(layer, detections, { scores = false, ignored = () => false } = {}) {
  while (layer.children.length > detections.length) layer.lastChild.remove();
  while (layer.children.length < detections.length) layer.append(group());
  // The best come first in an event: drawn last they lie on top.
  const ordered = [...detections].reverse();
  ordered.forEach((found, index) => place(layer.children[index], found, scores, ignored(found)));
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
