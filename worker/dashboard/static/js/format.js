// Numbers and times as people read them, in the browser's time zone.

const CLOCK = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const SHORT_CLOCK = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const DAY_AND_CLOCK = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const WHOLE = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const DAY_SECONDS = 86400;

/** 3 s, 5 min, 2 h 10 min, 3 d 4 h. */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  return hours % 24 ? `${Math.floor(hours / 24)} d ${hours % 24} h` : `${hours / 24} d`;
}

/** The time of day; with the day if it is not within the last 24 hours. */
export function clock(text, nowMs = Date.now()) {
  const time = Date.parse(text ?? "");
  if (!Number.isFinite(time)) return "an unknown time";
  const near = Math.abs(nowMs - time) < DAY_SECONDS * 1000;
  return (near ? CLOCK : DAY_AND_CLOCK).format(time);
}

/** Hours and minutes of milliseconds since 1970. */
export function shortClock(ms) {
  return SHORT_CLOCK.format(ms);
}

/** Thousands with commas. */
export function whole(number) {
  return WHOLE.format(number);
}

/** One decimal below 10, none above; a dash for what is not known. */
export function measure(number, unit = "") {
  if (!Number.isFinite(number)) return "–";
  const text = number < 10 ? String(Math.round(number * 10) / 10) : WHOLE.format(number);
  return unit ? `${text} ${unit}` : text;
}

/** 93 %; "< 1 %" for what is not nothing, "> 99 %" for what is not all. */
export function percent(share) {
  if (share > 0 && share < 0.01) return "< 1 %";
  if (share < 1 && share > 0.99) return "> 99 %";
  return `${Math.round(share * 100)} %`;
}

/** Seconds into a recording: 8.50 s, 1:04.20, 1:02:03.40. */
export function position(seconds) {
  const whole = Math.floor(seconds / 60);
  const rest = (seconds - whole * 60).toFixed(2);
  if (!whole) return `${rest} s`;
  const two = (value) => String(value).padStart(2, "0");
  const hours = Math.floor(whole / 60);
  const minutes = hours ? `${hours}:${two(whole % 60)}` : String(whole);
  return `${minutes}:${rest.padStart(5, "0")}`;
}

/** "3 Person, 1 Car" of detections, the most first. */
export function summary(detections) {
  const counts = new Map();
  for (const { label } of detections) counts.set(label, (counts.get(label) ?? 0) + 1);
  return [...counts]
    .sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))
    .map(([label, count]) => `${count} ${label}`)
    .join(", ");
}
