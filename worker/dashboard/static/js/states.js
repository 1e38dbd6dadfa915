// What a camera's state and reason mean, in words. Takes the API's camera; gives what to show.
// The reasons are those of docs/events.md; one that is not listed is shown as it is.

import { now, secondsSince } from "./clock.js";
import { clock, duration } from "./format.js";

const REASONS = {
  connected: "the first frame has arrived",
  heartbeat: "nothing detected at the moment",
  caught_up: "its pictures are in time again",
  recovered: "its pictures are whole again",
  refused: "nothing listens at its address",
  timeout: "no answer, or no route to it",
  not_found: "the camera has no such stream: check the path of its URL",
  unknown_host: "its host name has no address",
  unauthorized: "wrong user or password",
  closed: "the camera closed the connection",
  stall: "it has stopped sending pictures",
  over_limit: "it sends more than the worker's limits allow",
  invalid_data: "what it sends cannot be decoded",
  no_video: "it sends no video",
  internal_error: "an error in the worker: see its log",
  late: "its pictures arrive or are analysed too late",
  damaged: "parts of its pictures are missing",
  timestamps: "its clock jumped back",
  stopped: "its worker was stopped",
  reconfigured: "it is being reconnected with other settings",
  removed: "it was removed from the cameras file",
  events_lost: "events were lost: the spool overflowed while Redis was unavailable, or was purged",
  end_of_file: "the file has ended",
  truncated: "the file is cut off",
  worker_silent: "no event for 30 s: is its worker running?",
  no_events: "its stream is empty: no event has been published yet",
  not_a_stream: "its key in Redis is not a stream: another program wrote it",
  redis_unavailable: "Redis does not answer",
};

const WORDS = { up: "Up", degraded: "Degraded", down: "Down", ended: "Ended" };

/** A reason in words. */
export function reasonText(reason, detail = "") {
  const known = Object.hasOwn(REASONS, reason ?? "") ? REASONS[reason] : (reason ?? "");
  return detail && detail !== reason ? `${known} (${detail})` : known;
}

/**
 * Kind (a badge's colour and sign), word and sentence of a camera.
 *
 * `trusted`: whether what was last heard is still true, since Redis and the dashboard answer.
 */
export function describe(camera, trusted) {
  if (!trusted) {
    const last = WORDS[camera.state];
    return { kind: "unknown", word: "Unknown", text: last ? `last known: ${last.toLowerCase()}` : "" };
  }
  if (camera.worker === "silent" && camera.state !== "ended") {
    const since = camera.last_event ? ` since ${clock(camera.last_event, now())}` : "";
    return { kind: "down", word: "Worker silent", text: `no event${since}: is its worker running?` };
  }
  const word = Object.hasOwn(WORDS, camera.state ?? "") ? WORDS[camera.state] : "Unknown";
  const kind = word === "Unknown" ? "unknown" : camera.state;
  const seconds = secondsSince(camera.since);
  const since = seconds === null ? ""
    : camera.since_at_least ? `for at least ${duration(seconds)}`
      : `since ${clock(camera.since, now())} (${duration(seconds)})`;
  const reason = camera.state === "up" ? "" : reasonText(camera.reason, camera.detail);
  return { kind, word, text: [since, reason].filter(Boolean).join(": ") };
}

/** Whether a camera needs someone to look after it. */
export function isTrouble(camera) {
  return camera.state === "down" || camera.worker === "silent";
}
