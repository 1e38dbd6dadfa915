// Counts over time as bars, one chart for each label, and all of them as a table.
// Takes {label: [n...]}; time before `knownFrom` is drawn as not known, never as zero.

import { element, svg } from "./dom.js";
import { whole } from "./format.js";
import { colourOf } from "./palette.js";

const HEIGHT = 40;

/** Labels with their counts, the most frequent first. */
export function byTotal(labels) {
  const total = (counts) => counts.reduce((sum, count) => sum + count, 0);
  return Object.entries(labels)
    .map(([label, counts]) => ({ label, counts, total: total(counts) }))
    .sort((a, b) => b.total - a.total || (a.label < b.label ? -1 : 1));
}

/** The bars alone. `unknown`: how many of the first steps are not known. */
export function bars(label, counts, { unknown = 0, describe = () => "", top = Math.max(1, ...counts) } = {}) {
  const chart = svg("svg", { viewBox: `0 0 ${counts.length} ${HEIGHT}`, preserveAspectRatio: "none", class: "bars" });
  chart.dataset.colour = colourOf(label);
  if (unknown > 0) {
    chart.append(svg("rect", { class: "unknown", width: Math.min(unknown, counts.length), height: HEIGHT },
      svg("title", {}, "not known")));
  }
  counts.forEach((count, index) => {
    if (!count) return;
    const height = Math.max(1, (count / top) * HEIGHT);
    chart.append(svg("rect", { x: index + 0.04, y: HEIGHT - height, width: 0.92, height },
      svg("title", {}, describe(index, count))));
  });
  return chart;
}

/**
 * A chart for each label. `stepText(index)`: the time of a step in words; `ends`: texts below the axis;
 * `per`: what a step is, as in "per minute".
 */
export function charts(labels, { unknown = 0, stepText, ends, per }) {
  return byTotal(labels).map(({ label, counts, total }) => {
    const most = Math.max(...counts);
    const when = most > 0 ? `, most at ${stepText(counts.indexOf(most))}` : "";
    const words = `${whole(total)} in all, at most ${whole(most)} ${per}${when}`;
    const chart = bars(label, counts, { unknown, describe: (index, count) => `${stepText(index)}: ${whole(count)}` });
    chart.setAttribute("role", "img");
    chart.setAttribute("aria-label", `${label}: ${words}`);
    return element("figure", { class: "chart" },
      element("figcaption", {}, element("h3", {}, label), element("span", { class: "quiet number" }, words)),
      element("div", { class: "plot" }, element("span", { class: "most number", "aria-hidden": "true" }, whole(most)), chart),
      element("div", { class: "axis number", "aria-hidden": "true" }, ...ends.map((text) => element("span", {}, text))));
  });
}

/** The same numbers to read; steps in which nothing was detected are left out. */
export function countsTable(labels, { stepText, firstColumn, unknown = 0 }) {
  const ordered = byTotal(labels);
  const steps = ordered.length ? ordered[0].counts.length : 0;
  const rows = [];
  for (let index = unknown; index < steps; index += 1) {
    const counts = ordered.map(({ counts: all }) => all[index]);
    if (!counts.some(Boolean)) continue;
    rows.push(element("tr", {}, element("th", { scope: "row", class: "number" }, stepText(index)),
      ...counts.map((count) => element("td", { class: "number" }, whole(count)))));
  }
  const head = [firstColumn, ...ordered.map(({ label }) => label)];
  return element("details", { class: "numbers" }, element("summary", {}, "Numbers"),
    element("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Numbers" }, element("table", {},
      element("thead", {}, element("tr", {}, ...head.map((text) => element("th", { scope: "col" }, text)))),
      element("tbody", {}, ...rows))));
}
