// Shapes over a picture, as a cameras file holds them: what kinds there are, their geometry, their TOML.
// Points are [x, y] in fractions of the picture, origin top left. Knows nothing of the screen.
//
// A kind says how many points a shape has, whether it is closed, and how all of them are written. A zone
// (closed, with a name) and a line (two points) are further kinds: the editor asks for no more than this.

export const DECIMALS = 4; // a fifth of a pixel of a picture 1920 wide
const SMALLEST_AREA = 1e-9; // worker/settings/camera_table.py refuses less

/** A point within the picture, as it is written. */
export function rounded([x, y]) {
  const part = (value) => Number(Math.min(1, Math.max(0, value)).toFixed(DECIMALS));
  return [part(x), part(y)];
}

/** A closed shape's share of the picture. */
export function area(points) {
  const doubled = points.map(([x, y], index) => {
    const [a, b] = points[(index + 1) % points.length];
    return x * b - a * y;
  });
  return Math.abs(doubled.reduce((sum, part) => sum + part, 0)) / 2;
}

/** Whether a point lies in a closed shape. */
export function inside([x, y], points) {
  let within = false;
  points.forEach(([x1, y1], index) => {
    const [x2, y2] = points[(index + 1) % points.length];
    if (y1 > y !== y2 > y && x < ((x2 - x1) * (y - y1)) / (y2 - y1) + x1) within = !within;
  });
  return within;
}

/** The point of a box that stands for the object: the middle of its lower edge, or its centre. */
export function anchorOf([x1, y1, x2, y2], anchor) {
  return [(x1 + x2) / 2, anchor === "bottom" ? y2 : (y1 + y2) / 2];
}

/** What is wrong with a shape in words; "" if nothing is. */
export function problem(kind, points) {
  if (points.length < kind.minimum) return `needs at least ${kind.minimum} points`;
  if (kind.closed && area(points) < SMALLEST_AREA) {
    return "has no area: its points lie on one line, or its sides cross";
  }
  return "";
}

/** A key of TOML: bare where that is allowed, else a string in quotes. */
export function tomlKey(text) {
  if (/^[A-Za-z0-9_-]+$/.test(text)) return text;
  // JSON's escapes are TOML's, but for DEL, which TOML wants escaped as well.
  return JSON.stringify(text).replaceAll("\u007f", "\\u007f");
}

function tomlPoints(points) {
  return `[${points.map((point) => `[${point.join(", ")}]`).join(", ")}]`;
}

/** Areas whose detections are not published. */
export const IGNORE = {
  noun: "area",
  closed: true,
  minimum: 3,
  maximum: Infinity,
  toml(camera, shapes, { anchor }) {
    const lines = shapes.map((points) => `  ${tomlPoints(points)},\n`).join("");
    const written = anchor === "bottom" ? "" : `anchor = "${anchor}"\n`;
    return `[cameras.${tomlKey(camera)}]\nignore = [\n${lines}]\n${written}`;
  },
};
