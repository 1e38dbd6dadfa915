// When a camera was watched: intervals as a bar, as a sentence, and as rows of a table.

import { element, svg } from "./dom.js";
import { clock, duration, percent } from "./format.js";
import { reasonText } from "./states.js";

/** State -> words, and how far from the top its bar begins: height differs as well as colour. */
export const COVERAGE = {
  watched: { word: "watched", top: 0 },
  reduced: { word: "fewer frames", top: 5 },
  down: { word: "camera down", top: 9 },
  worker_down: { word: "worker down", top: 11 },
  lost: { word: "events lost", top: 7 },
  unknown: { word: "not known", top: 12.5 },
};
const HEIGHT = 14;
const SPANS = [[600000, "last 10 minutes"], [3600000, "last hour"], [21600000, "last 6 hours"]];

function kindOf(interval) {
  return Object.hasOwn(COVERAGE, interval.state) ? interval.state : "unknown";
}

/** Milliseconds by state within [from, to]. */
export function shares(intervals, from, to) {
  const sums = new Map();
  for (const interval of intervals) {
    const start = Math.max(from, Date.parse(interval.start));
    const end = Math.min(to, Date.parse(interval.end));
    if (end > start) sums.set(kindOf(interval), (sums.get(kindOf(interval)) ?? 0) + end - start);
  }
  return sums;
}

/** "watched 93 %, camera down 7 %", by what is known; states that did not occur are left out. */
export function coverageSentence(intervals, from, to) {
  const sums = shares(intervals, from, to);
  const unknown = sums.get("unknown") ?? 0;
  const known = [...sums.values()].reduce((sum, part) => sum + part, 0) - unknown;
  if (known <= 0) return "nothing is known of it";
  const parts = Object.keys(COVERAGE)
    .filter((state) => state !== "unknown" && sums.has(state))
    .map((state) => `${COVERAGE[state].word} ${percent(sums.get(state) / known)}`);
  const of = unknown > 0 ? ` of ${duration(known / 1000)} known` : "";
  return parts.join(", ") + of;
}

/** The shortest of SPANS that holds all that is known, at the end of [from, to]: its start, and words. */
export function span(intervals, from, to) {
  const known = intervals.find((interval) => kindOf(interval) !== "unknown");
  const needed = known ? to - Date.parse(known.start) : to - from;
  const [ms, words] = SPANS.find(([each]) => each >= needed && each < to - from) ?? [to - from, "last 24 hours"];
  return { start: to - ms, words };
}

/** The bar with its sentence, over what is known of [whole, to]; milliseconds. */
export function coverageBar(intervals, whole, to) {
  const { start: from, words: caption } = span(intervals, whole, to);
  const sentence = coverageSentence(intervals, from, to);
  const bar = svg("svg", {
    viewBox: `0 0 1000 ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": `Watched, ${caption}: ${sentence}`,
  });
  for (const interval of intervals) {
    const start = Math.max(from, Date.parse(interval.start));
    const end = Math.min(to, Date.parse(interval.end));
    if (!(end > start)) continue;
    const state = kindOf(interval);
    const { top } = COVERAGE[state];
    const rect = svg("rect", {
      class: state, x: ((start - from) / (to - from)) * 1000, y: top, height: HEIGHT - top,
      width: Math.max(1, ((end - start) / (to - from)) * 1000),
    });
    rect.append(svg("title", {}, intervalText(interval)));
    bar.append(rect);
  }
  return element("div", { class: "coverage" }, bar,
    element("div", { class: "coverage-text" },
      element("span", {}, sentence), element("span", { class: "period" }, caption)));
}

function intervalText(interval) {
  const seconds = (Date.parse(interval.end) - Date.parse(interval.start)) / 1000;
  const reason = reasonText(interval.reason ?? "");
  const word = COVERAGE[kindOf(interval)].word;
  return `${clock(interval.start)} to ${clock(interval.end)} (${duration(seconds)}): ${word}${reason ? `, ${reason}` : ""}`;
}

/** What the heights and colours mean. */
export function coverageLegend() {
  return element("p", { class: "legend", "aria-hidden": "true" },
    ...Object.entries(COVERAGE).map(([state, { word, top }]) => element("span", { class: "coverage-key" },
      svg("svg", { viewBox: `0 0 18 ${HEIGHT}` }, svg("rect", { class: state, y: top, width: 18, height: HEIGHT - top })), word)));
}

/** Rows of the times in which it was not simply watched, newest first. */
export function gapRows(intervals) {
  return intervals
    .filter((interval) => interval.state !== "watched")
    .reverse()
    .map((interval) => element("tr", {},
      element("td", { class: "number" }, clock(interval.start)),
      element("td", { class: "number" }, duration((Date.parse(interval.end) - Date.parse(interval.start)) / 1000)),
      element("td", {}, COVERAGE[kindOf(interval)].word),
      element("td", {}, reasonText(interval.reason ?? ""))));
}
