"""What the live table shows of each camera, kept up to date from its events.

Takes events in the order of their stream; gives numbers and words. Knows neither the terminal nor
Redis. A number is shown only while it is known: one that is old, or of a camera that is down, is
None.
"""

import time
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import median

from worker.consuming.entries import EntryId, parse_id
from worker.events import CameraData, CameraEvent, DetectionsEvent, Event
from worker.text import in_words

HEARTBEAT_SECONDS = 10.0
"""A worker's, for a camera without other events: worker.pipeline.event_maker."""
SILENT_SECONDS = 3 * HEARTBEAT_SECONDS
"""Without an event for so long, nobody vouches for a camera."""
WINDOW_SECONDS = 10.0
"""What rates and latencies are taken over."""
FRESH_SECONDS = HEARTBEAT_SECONDS + 2.0
"""Age up to which a rate describes the present: a heartbeat, and its way here."""
MOST_LABELS = 200
"""Labels counted per camera; detections of any more are counted together."""
OTHER_LABELS = "other labels"
USUAL_REASONS = ("connected", "heartbeat", "caught_up", "recovered")
"""Reasons that say no more than `up` itself."""


@dataclass
class _Samples:
    """Values over time, of the last ``WINDOW_SECONDS``."""

    values: deque[tuple[float, float]] = field(default_factory=deque)
    """Second and value."""
    noted_at: float = 0.0
    """When the last one was published, by the monotonic clock."""

    def add(self, second: float, value: float, noted_at: float) -> None:
        if self.values and second < self.values[-1][0]:
            self.values.clear()  # the clock was set back
        self.values.append((second, value))
        while self.values[0][0] < second - WINDOW_SECONDS and len(self.values) > 2:
            self.values.popleft()
        self.noted_at = noted_at

    def clear(self) -> None:
        self.values.clear()

    def is_fresh(self) -> bool:
        return bool(self.values) and time.monotonic() - self.noted_at <= FRESH_SECONDS

    def rate(self) -> float | None:
        """Rise per second; None if unknown now."""
        if not self.is_fresh() or len(self.values) < 2:
            return None
        (first, low), (last, high) = self.values[0], self.values[-1]
        return (high - low) / (last - first) if last > first else None


@dataclass
class CameraRow:
    """One camera, or one replay."""

    camera_id: str
    state: str | None = None
    """As its events say; None before the first."""
    reason: str = ""
    epoch: int = -1
    seq: int = -1
    dropped: int = 0
    """Frames lost to overload, and events lost, since the table began."""
    position_seconds: float | None = None
    """Of a replay: how far in the recording it is."""
    counts: Counter[str] = field(default_factory=Counter)
    """Detections per label."""
    is_replay: bool = False
    _entry_id: EntryId = (0, 0)
    _published_at: float = 0.0
    """When its last event was published, in seconds since 1970."""
    _heard_at: float | None = None
    """The same by the monotonic clock: never later than when it was read."""
    _analysed: _Samples = field(default_factory=_Samples)
    _decoded: _Samples = field(default_factory=_Samples)
    _latencies: _Samples = field(default_factory=_Samples)
    _frames_analysed: int = 0
    _last_index: int | None = None
    """The frame of the last detections event in this epoch, if nothing was missed since."""

    def note(self, event: Event) -> None:
        """Take over what an event says of its camera. One that was noted before changes nothing."""
        data = event.data
        entry_id = parse_id(event.entry_id or "0-0")
        is_later = (data.epoch, data.seq) > (self.epoch, self.seq)
        if not is_later and entry_id <= self._entry_id:
            return
        self._entry_id = entry_id
        self.is_replay = data.mode == "replay"
        if data.epoch != self.epoch or not is_later:  # a replay that was started again
            self._begin(data.seq)
        elif data.seq != self.seq + 1:
            self._last_index = None  # what was skipped and dropped in between is unknown
        self.epoch, self.seq = data.epoch, data.seq
        self._published_at = _published_at(event)
        self._heard_at = time.monotonic() - max(time.time() - self._published_at, 0.0)
        if isinstance(event, DetectionsEvent):
            self._note_frame(event, self._heard_at)
        else:
            self._note_state(event, self._heard_at)

    def count(self, labels: Iterable[str]) -> None:
        """Count detections by their labels."""
        for label in labels:
            known = label in self.counts or len(self.counts) < MOST_LABELS
            self.counts[label if known else OTHER_LABELS] += 1

    def silent_seconds(self) -> float | None:
        """For how long no event has come, if that is too long; None if it is not, or is no wonder.

        By this machine's clock and that of Redis: an event that is read late is old.
        """
        if self.state == "ended" or (self.state, self.reason) == ("down", "stopped"):
            return None
        if self._heard_at is None:
            return None
        age = time.monotonic() - self._heard_at
        return age if age > SILENT_SECONDS else None

    @property
    def is_watched(self) -> bool:
        """Whether its frames come through now, as far as events say."""
        return self.state in ("running", "up", "degraded") and self.silent_seconds() is None

    @property
    def is_in_trouble(self) -> bool:
        """Whether somebody should look at it."""
        return not self.is_watched and self.state != "ended"

    @property
    def state_in_words(self) -> str:
        """The state, and the reason unless that is the usual one."""
        silent = self.silent_seconds()
        if silent is not None:
            return f"no events for {in_words(silent)}"
        if self.state is None:
            return "no events yet"
        return self.state if self.reason in USUAL_REASONS else f"{self.state} {self.reason}".strip()

    @property
    def analysed_fps(self) -> float | None:
        """Frames analysed per second; None if that is unknown now."""
        return self._analysed.rate() if self.is_watched else None

    @property
    def decoded_fps(self) -> float | None:
        """Frames decoded per second: at most so many are analysed; None if unknown now."""
        return self._decoded.rate() if self.is_watched else None

    @property
    def latency_seconds(self) -> float | None:
        """Median time from capture to publication; None if unknown now.

        By two clocks, the worker's or camera's and that of Redis: below zero, they differ.
        """
        if not self.is_watched or not self._latencies.is_fresh():
            return None
        return median(value for _, value in self._latencies.values)

    def _begin(self, seq: int) -> None:
        for samples in (self._analysed, self._decoded, self._latencies):
            samples.clear()
        self._last_index = -1 if seq == 0 else None

    def _note_frame(self, event: DetectionsEvent, heard_at: float) -> None:
        data = event.data
        self.dropped += data.dropped
        self.position_seconds = data.pts_seconds
        if self.is_replay:
            self.state = "running"
            self.reason = ""
            self._frames_analysed += 1
            self._analysed.add(self._published_at, self._frames_analysed, heard_at)
            return
        if self.state not in ("up", "degraded"):
            self.state, self.reason = "up", ""
        captured_at = event.time.timestamp() if event.time else self._published_at
        if self._last_index is None:
            self._analysed.clear()
        else:
            passed = data.frame_index - self._last_index - data.skipped - data.dropped
            self._frames_analysed += max(passed, 1)
        self._last_index = data.frame_index
        self._analysed.add(captured_at, self._frames_analysed, heard_at)
        self._decoded.add(captured_at, data.frame_index + 1, heard_at)
        self._latencies.add(captured_at, self._published_at - captured_at, heard_at)

    def _note_state(self, event: CameraEvent, heard_at: float) -> None:
        data: CameraData = event.data
        if data.reason == "events_lost":  # which leaves the camera as it was
            self.dropped += data.dropped
            self._last_index = None
            return
        self.state, self.reason = data.state, data.reason
        if not self.is_replay:
            made_at = event.time.timestamp() if event.time else self._published_at
            self._decoded.add(made_at, data.frames, heard_at)


def _published_at(event: Event) -> float:
    """When it was added to its stream, by the clock of Redis; now, for one from elsewhere."""
    return parse_id(event.entry_id)[0] / 1000 if event.entry_id else time.time()
