"""What is known of one camera, from the events of its stream: bounded, however long it runs.

Takes events in the order of the stream and the time at which each reached Redis; gives the JSON
object of the API. Knows neither Redis nor viewers. All ages are by the clock of Redis, which the
ids of entries are made of, so that the clocks of workers and browsers do not matter.
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple, get_args

from worker.dashboard.states import StateNote
from worker.dashboard.times import iso, seconds_of
from worker.events import CameraEvent, CameraState, DetectionsEvent, Event

SILENT_SECONDS = 30.0
"""Three heartbeats of a worker: without any event for so long, nobody watches the camera."""
WINDOW_SECONDS = 10.0
"""Of the rates and of the latency."""
HEARTBEAT_WINDOW_SECONDS = 35.0
"""Of the rate of a camera in which nothing is detected: three heartbeats."""
DROPPED_SECONDS = 60.0
LABEL_SECONDS = 600.0
"""How long a label counts as seen lately."""
MAX_LABELS = 50
MAX_SAMPLES = 2000
MAX_CHANGES = 50
MAX_TEXT = 200
"""Characters of a label that are passed on: another tool may write any number."""
MAX_COUNT = 2**53 - 1
"""The largest number that JavaScript counts to exactly."""
MAX_DETECTIONS = 300
"""Of one event, best first: a detector of this project gives at most 200."""

UNKNOWN = "unknown"
"""The state of a camera of which nothing is known, or nothing new."""
NO_EVENTS = "no_events"
DETECTS = "detections"
"""The reason for ``up`` if no event gave one."""
STOPPED = (("down", "stopped"), ("ended", ""))
"""What a worker says before it leaves a camera: state, and reason if it matters."""


class _Frames(NamedTuple):
    """How many frames were decoded at a time, and what became of them since the last sample."""

    time: float
    frames: int
    not_analysed: int | None
    """Dropped and skipped since the last detections event; None for a camera event."""


@dataclass
class _Drops:
    """Dropped frames, counted once though both kinds of events report them."""

    total: int | None = None
    """Of the epoch, as far as it is known; None until a camera event says it."""
    ahead: int = 0
    """Counted by camera events, and still to be reported by a detections event."""
    counted: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=MAX_SAMPLES))
    """Time and number."""

    def begin(self, *, whole: bool) -> None:
        """A new epoch; ``whole``: this is its first event."""
        self.total = 0 if whole else None

    def report(self, now: float, dropped: int) -> None:
        """A detections event: dropped since the one before."""
        new = max(0, dropped - self.ahead)
        self.ahead = 0
        if self.total is not None:
            self.total += new
        self._count(now, new)

    def reach(self, now: float, total: int) -> None:
        """A camera event: dropped in the epoch so far."""
        if self.total is None:
            self.total = total
            return
        new = max(0, total - self.total)
        self.total += new
        self.ahead += new
        self._count(now, new)

    def since(self, start: float) -> int:
        """Frames dropped since a time."""
        while self.counted and self.counted[0][0] < start:
            self.counted.popleft()
        return sum(count for _, count in self.counted)

    def _count(self, now: float, new: int) -> None:
        if new:
            self.counted.append((now, new))


def is_plausible(event: Event) -> bool:
    """Whether the numbers of an event are counts, which browsers can hold too."""
    data = event.data
    numbers = [data.epoch, data.seq, data.dropped]
    if isinstance(event, DetectionsEvent):
        numbers += [
            event.data.frame_index,
            event.data.skipped,
            event.data.width,
            event.data.height,
        ]
    else:
        numbers.append(event.data.frames)
    return min(numbers) >= 0 and max(numbers) <= MAX_COUNT


def describe_detections(event: DetectionsEvent) -> dict[str, Any]:
    """A frame and what was detected in it, as the API shows them."""
    data = event.data
    return {
        "frame_index": data.frame_index,
        "width": data.width,
        "height": data.height,
        "detections": [
            {
                "label": detection.label[:MAX_TEXT],
                "score": detection.score,
                "box": detection.box,
            }
            for detection in data.detections[:MAX_DETECTIONS]
        ],
    }


class CameraRecord:
    """One camera, as far as its stream tells."""

    def __init__(self, camera_id: str) -> None:
        self.camera_id = camera_id
        self.state, self.reason = UNKNOWN, NO_EVENTS
        self.detail = ""
        self.malformed = 0
        self.is_a_stream = True
        self.snapshot: dict[str, Any] | None = None
        self.changes: deque[dict[str, Any]] = deque(maxlen=MAX_CHANGES)
        """State changes, oldest first."""
        self.newest_event: DetectionsEvent | None = None
        self._since: float | None = None
        self._since_at_least = False
        self._is_new = True
        self._state_epoch = -1
        self._epoch: int | None = None
        self._last_entry: float | None = None
        self._clock: str | None = None
        self._frames: deque[_Frames] = deque(maxlen=MAX_SAMPLES)
        self._latencies: deque[tuple[float, float]] = deque(maxlen=MAX_SAMPLES)
        self._drops = _Drops()
        self._labels: dict[str, float] = {}

    def recall(self, state: str, reason: str, epoch: str) -> None:
        """Take over the state that Redis keeps, if no event that was read says another."""
        if state not in get_args(CameraState) or not (epoch.isdecimal() and len(epoch) < 16):
            return
        if self.reason in (NO_EVENTS, DETECTS) and int(epoch) >= (self._epoch or 0):
            time = self._since or self._last_entry or int(epoch) / 1000
            self._enter(self._note_of(state, reason[:MAX_TEXT], time), int(epoch))

    def _note_of(self, state: str, reason: str, time: float) -> StateNote:
        return StateNote(self.camera_id, state, reason, "", time)

    @property
    def since_is_open(self) -> bool:
        """Whether its state may have begun earlier than is known."""
        return self._since_at_least

    def began_before(self, time: float) -> None:
        """The camera was in its state at this earlier time already."""
        self._since = time

    def close_since(self) -> None:
        """Before that it was in another state."""
        self._since_at_least = False

    def seen(self, published: float) -> None:
        """An entry of the stream, of any kind, was published at this time."""
        self._last_entry = max(published, self._last_entry or 0.0)

    def add(self, event: Event, published: float) -> dict[str, Any] | None:
        """Take the next event of the stream; a state change, if it is one."""
        self.seen(published)
        self._is_new = self._epoch is None
        if event.data.epoch != self._epoch:
            self._epoch = event.data.epoch
            self._frames.clear()
            self._drops.begin(whole=event.data.seq == 0)
        if isinstance(event, DetectionsEvent):
            self._add_detections(event, published)
            return None
        return self._add_state(event, published)

    @property
    def newest(self) -> dict[str, Any] | None:
        """The newest detections, as the API shows them; made when asked for: most never are."""
        event = self.newest_event
        if event is None:
            return None
        return {
            "camera": self.camera_id,
            "epoch": event.data.epoch,
            "seq": event.data.seq,
            "time": iso(seconds_of(event.time)),
            **describe_detections(event),
        }

    def describe(self, now: float, *, redis_up: bool = True) -> dict[str, Any]:
        """The camera as the API shows it at a time by the clock of Redis."""
        worker = self._worker(now)
        state, reason, detail, since = self.state, self.reason, self.detail, self._since
        if not redis_up:
            state, reason, detail, since = UNKNOWN, "redis_unavailable", "", None
        elif not self.is_a_stream:
            state, reason, detail, since = UNKNOWN, "not_a_stream", "", None
        elif worker == "silent" and self._last_entry is not None:
            state, reason, since = UNKNOWN, "worker_silent", self._last_entry
            detail = "no event of its worker for 30 s: it is not running, or is cut off from Redis"
        looks = redis_up and state in ("up", "degraded")
        fps, analysed_fps = self._rates() if looks else (None, None)
        return {
            "id": self.camera_id,
            "state": state,
            "reason": reason,
            "detail": detail,
            "since": iso(since),
            "since_at_least": since is not None and since == self._since and self._since_at_least,
            "fps": fps,
            "analysed_fps": analysed_fps,
            "latency_ms": self._latency_ms(now) if looks else None,
            "clock": self._clock if looks else None,
            "dropped_per_minute": self._drops.since(now - DROPPED_SECONDS) if looks else None,
            "last_event": iso(self._last_entry),
            "worker": worker,
            "snapshot": self.snapshot,
            "labels": self._recent_labels(now),
            "malformed": self.malformed,
        }

    def _worker(self, now: float) -> str:
        if (self.state, self.reason) in STOPPED or (self.state, "") in STOPPED:
            return "stopped"
        if self._last_entry is None or now - self._last_entry > SILENT_SECONDS:
            return "silent"
        return "alive"

    def _add_detections(self, event: DetectionsEvent, published: float) -> None:
        data = event.data
        time = seconds_of(event.time)
        self._clock = data.clock
        if self.state == UNKNOWN or (
            self.state in ("down", "ended") and data.epoch > self._state_epoch
        ):  # the event that said so is lost, or comes from a tool that makes none
            self._enter(self._note_of("up", DETECTS, time or published), data.epoch)
        if time is not None:
            self._sample(_Frames(time, data.frame_index + 1, data.dropped + data.skipped))
            self._latencies.append((published, published - time))
        self._drops.report(published, data.dropped)
        for detection in data.detections:
            self._see(detection.label[:MAX_TEXT], published)
        self.newest_event = event

    def _add_state(self, event: CameraEvent, published: float) -> dict[str, Any] | None:
        note = StateNote.of(event, self.camera_id, published)
        if not note.is_aside:
            self._sample(_Frames(note.time, event.data.frames, None))
            self._drops.reach(published, event.data.dropped)
            if note.repeats(self.state, self.reason):
                self.detail = note.detail or self.detail
                return None
            self._enter(note, event.data.epoch)
        if note.reason == "heartbeat":  # how it became so stands further back in the stream
            return None
        change = note.as_json()
        self.changes.append(change)
        return change

    def _enter(self, note: StateNote, epoch: int) -> None:
        if note.state != self.state:
            connected = epoch / 1000
            is_old = note.state == "up" and note.reason in ("heartbeat", DETECTS)
            # The epoch of a camera that is up already is the time of its connection.
            knows = is_old and iso(connected) is not None
            self._since = min(connected, note.time) if knows else note.time
            self._since_at_least = note.state != "up" and self._is_new
        self.state, self.reason, self.detail = note.state, note.reason, note.detail
        self._state_epoch = epoch

    def _sample(self, frames: _Frames) -> None:
        self._frames.append(frames)
        while self._frames[0].time < frames.time - HEARTBEAT_WINDOW_SECONDS:
            self._frames.popleft()

    def _see(self, label: str, published: float) -> None:
        if label not in self._labels and len(self._labels) >= MAX_LABELS:
            del self._labels[min(self._labels, key=self._labels.__getitem__)]
        self._labels[label] = published

    def _recent_labels(self, now: float) -> list[str]:
        return sorted(name for name, seen in self._labels.items() if now - seen <= LABEL_SECONDS)

    def _rates(self) -> tuple[float | None, float | None]:
        """Frames per second that the camera delivers, and that are analysed."""
        if not self._frames:
            return None, None
        last, first = self._frames[-1], self._frames[0]
        newest: _Frames | None = None
        oldest: _Frames | None = None
        not_analysed = 0
        for sample in reversed(self._frames):
            if sample.time <= last.time - WINDOW_SECONDS:
                break
            if sample.not_analysed is None:
                continue
            if oldest is not None:  # the count of a sample is of the time before it
                not_analysed += oldest.not_analysed or 0
            newest, oldest = newest or sample, sample
        if newest is not None and oldest is not None and newest.time - oldest.time >= 1:
            seconds = newest.time - oldest.time
            frames = newest.frames - oldest.frames
            return _rate(frames, seconds), _rate(frames - not_analysed, seconds)
        seconds = last.time - first.time
        return (_rate(last.frames - first.frames, seconds) if seconds >= 1 else None), None

    def _latency_ms(self, now: float) -> int | None:
        """The median from capture to Redis; None if the clocks are too far apart to say it."""
        while self._latencies and self._latencies[0][0] < now - WINDOW_SECONDS:
            self._latencies.popleft()
        if not self._latencies:
            return None
        middle = median(latency for _, latency in self._latencies)
        return round(middle * 1000) if middle >= 0 else None


def _rate(frames: int, seconds: float) -> float:
    return round(max(0, frames) / seconds, 1)
