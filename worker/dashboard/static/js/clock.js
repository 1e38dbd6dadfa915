// The server's time: ages of pictures and events are by it, since the browser's clock may be wrong.

let offset = 0;

/** Takes the server's time, ISO 8601, as it arrives. */
export function setServerTime(text) {
  const time = Date.parse(text);
  if (Number.isFinite(time)) offset = time - Date.now();
}

/** Milliseconds since 1970 by the server's clock. */
export function now() {
  return Date.now() + offset;
}

/** Seconds since an ISO time; null without one. */
export function secondsSince(text) {
  const time = Date.parse(text ?? "");
  return Number.isFinite(time) ? (now() - time) / 1000 : null;
}
