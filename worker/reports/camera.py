"""What the events of one camera, or of one recording, add up to.

Takes events in the order of their stream; keeps sums, in memory that does not grow with them. A
detection is one object in one frame: what stands in view for 100 frames is 100 detections, so means
over the frames that were analysed say more than sums do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from worker.events import CameraEvent, DetectionsEvent, Event
from worker.reports.examples import Examples
from worker.reports.heat import HeatGrid
from worker.reports.timeline import Timeline

MOST_LABELS = 100
"""Labels counted each; detections of any more are counted together."""
MOST_HEAT_LABELS = 24
OTHER_LABELS = "other labels"
MOST_MODELS = 5
JUMP_SECONDS = 1.0
"""By how much times may run backwards before they have started again."""
SHOWN_BINS = 240
FRAMES_PER_BIN = 3
"""Fewer make a mean that jumps from one bin to the next."""
FRAMES = ("frames", "")
"""The kind of amount that counts analysed frames; those of labels are ("label", NAME)."""


@dataclass
class LabelSum:
    """The detections of one label."""

    label: str
    detections: int = 0
    frames: int = 0
    """In which there was at least one."""
    most: int = 0
    """In one frame."""
    scores: float = 0.0
    """Their sum."""
    first: float = 0.0
    last: float = 0.0


@dataclass
class _Epoch:
    """How far one connection of a live camera has come."""

    number: int
    seq: int
    index: int | None
    """Of the last frame with an event; -1 before the first; None if what came before is unknown."""
    at: float
    """When that was."""
    skipped: int = 0
    decoded: int = 0
    """Frames up to ``index`` of which it is known how many were skipped."""
    dropped: int = 0
    later: tuple[float, int, int] | None = None
    """Of the last camera event after it: time, frames decoded and dropped in the epoch."""
    is_over: bool = False
    """Whether the camera went down: events that repeat it are no time in which it was watched."""


@dataclass
class CameraSum:
    """The events of a camera."""

    camera_id: str
    is_replay: bool
    events: int = 0
    frames: float = 0.0
    """Analysed. Live it may be a fraction: frames without an event are known by their number."""
    frames_with_event: int = 0
    dropped: int = 0
    skipped: int = 0
    missing: int = 0
    """Events that the numbers say there were."""
    repeated: int = 0
    """Events that came again, or late; they count for nothing."""
    without_time: int = 0
    """Frames that say neither when they were nor where in a recording."""
    first_time: datetime | None = None
    """Of the first event that states one."""
    last_time: datetime | None = None
    """The latest of any event."""
    detections: int = 0
    labels: dict[str, LabelSum] = field(default_factory=dict)
    models: list[str] = field(default_factory=list)
    recording_digest: str = ""
    ended: tuple[str, str] | None = None
    """Of a replay: reason and detail of its end."""
    decoded: int = 0
    """Of a replay that has ended: frames of the recording."""
    counts_frames: bool = False
    """Whether time is the number of the frame: a recording of pictures has none."""
    timeline: Timeline = field(default_factory=Timeline)
    heat: HeatGrid = field(default_factory=HeatGrid)
    heat_of: dict[str, HeatGrid] = field(default_factory=dict)
    examples: Examples = field(default_factory=Examples)
    size: tuple[int, int] = (0, 0)
    """(height, width) of its last frame in pixels."""
    _epoch: _Epoch | None = None
    _ahead: float = 0.0
    """What is added to the times of a recording whose times started again."""
    _last_at: float = 0.0

    def add(self, event: Event) -> None:
        """Count an event."""
        data = event.data
        epoch = self._epoch
        if epoch is not None and (data.epoch, data.seq) <= (epoch.number, epoch.seq):
            self.repeated += 1
            return
        self.events += 1
        if event.time is not None:
            self.first_time = self.first_time or event.time
            self.last_time = max(self.last_time or event.time, event.time)
        if epoch is None or data.epoch != epoch.number:
            self._end_epoch()
            # An epoch, or a replay, that is not there from its first event on.
            known = data.seq == 0
            self.missing += data.seq if epoch is not None or self.is_replay else 0
            epoch = self._epoch = _Epoch(data.epoch, data.seq, -1 if known else None, 0.0)
        elif data.seq > epoch.seq + 1:
            self.missing += data.seq - epoch.seq - 1
            epoch.index = epoch.later = None
        epoch.seq = data.seq
        if isinstance(event, DetectionsEvent):
            self._add_frame(event, epoch)
        else:
            self._add_state(event, epoch)

    def finish(self) -> None:
        """Count what the last events leave open."""
        self._end_epoch()

    def fit_bins(self) -> None:
        """Make bins wide enough to be compared, once everything is on the timeline."""
        while self.timeline.bins > SHOWN_BINS or self._is_sparse():
            self.timeline.coarsen()

    def by_count(self) -> list[LabelSum]:
        """The labels, that with most detections first."""
        return sorted(self.labels.values(), key=lambda each: (-each.detections, each.label))

    def means(self, label: str) -> list[float | None]:
        """The mean number of detections in a frame, bin by bin; None where none was analysed."""
        frames = self.timeline.values(FRAMES)
        found = self.timeline.values(("label", label))
        return [
            count / max(analysed, 1.0) if analysed > 0 else None
            for count, analysed in zip(found, frames, strict=True)
        ]

    def _is_sparse(self) -> bool:
        filled = len(self.timeline.amounts[FRAMES])
        return filled > 1 and self.frames / filled < FRAMES_PER_BIN

    def _add_frame(self, event: DetectionsEvent, epoch: _Epoch) -> None:
        data = event.data
        self.dropped += data.dropped
        self.skipped += data.skipped
        self.frames_with_event += 1
        self.size = (data.height, data.width)
        if data.model.name not in self.models and len(self.models) < MOST_MODELS:
            self.models.append(data.model.name)
        at = self._time_of(event)
        if at is None:
            self.without_time += 1
            return
        if self.is_replay:
            self.recording_digest = self.recording_digest or event.id.rpartition("/")[0]
            self.frames += 1
            self.timeline.add(FRAMES, at)
        else:
            self._count_up_to(epoch, at, data.frame_index, data.skipped, data.dropped)
        self._add_detections(event, at)

    def _add_detections(self, event: DetectionsEvent, at: float) -> None:
        found: dict[str, int] = {}
        for detection in event.data.detections:
            label = detection.label
            if label not in self.labels and len(self.labels) >= MOST_LABELS:
                label = OTHER_LABELS
            total = self.labels.get(label)
            if total is None:
                total = self.labels[label] = LabelSum(label, first=at)
            total.detections += 1
            total.scores += detection.score
            total.last = at
            found[label] = found.get(label, 0) + 1
            self.heat.add(detection.box)
            if label not in self.heat_of and len(self.heat_of) < MOST_HEAT_LABELS:
                self.heat_of[label] = HeatGrid()
            if label in self.heat_of:
                self.heat_of[label].add(detection.box)
        for label, count in found.items():
            total = self.labels[label]
            total.frames += 1
            total.most = max(total.most, count)
            self.detections += count
            self.timeline.add(("label", label), at, count)
        self.examples.add(at, event, MOST_LABELS)

    def _count_up_to(
        self, epoch: _Epoch, at: float, index: int, skipped: int, dropped: int
    ) -> None:
        """Count the frames since the last event of one, over the time since."""
        epoch.later = None
        epoch.dropped += dropped
        if epoch.index is None:
            analysed, start = 1.0, at
        else:
            passed = index - epoch.index
            analysed = max(passed - skipped - dropped, 1)
            start = epoch.at if epoch.index >= 0 or epoch.at else at
            epoch.decoded += passed
            epoch.skipped += skipped
        self.frames += analysed
        self.timeline.spread(FRAMES, start, at, analysed)
        epoch.index, epoch.at = index, at

    def _add_state(self, event: CameraEvent, epoch: _Epoch) -> None:
        data = event.data
        if self.is_replay:
            self.ended, self.decoded = (data.reason, data.detail), data.frames
            self.recording_digest = self.recording_digest or event.id.rpartition("/")[0]
            return
        if data.reason == "events_lost":
            self.missing += data.dropped
            epoch.index = epoch.later = None
            return
        if event.time is None:
            return
        at = event.time.timestamp()
        if epoch.index == -1 and not epoch.at:
            epoch.at = at
        elif epoch.index is not None and not epoch.is_over:
            epoch.later = (at, data.frames, data.dropped)
            epoch.is_over = data.state in ("down", "ended")

    def _end_epoch(self) -> None:
        """Count the frames after the last one that had an event: nothing was detected in them.

        How many of them were skipped by choice is not stated: as many as before, in proportion.
        """
        epoch = self._epoch
        if epoch is None or epoch.later is None or epoch.index is None:
            return
        at, decoded, dropped = epoch.later
        passed = decoded - epoch.index - 1 - max(dropped - epoch.dropped, 0)
        share = epoch.skipped / epoch.decoded if epoch.decoded else 0.0
        if passed > 0:
            self.frames += passed * (1 - share)
            self.timeline.spread(FRAMES, epoch.at, at, passed * (1 - share))
        epoch.later = None

    def _time_of(self, event: DetectionsEvent) -> float | None:
        """Where a frame stands in time: seconds since 1970, or of the recording, or its number."""
        if not self.is_replay:
            return None if event.time is None else event.time.timestamp()
        seconds = event.data.pts_seconds
        if self.frames_with_event == 1:
            self.counts_frames = seconds is None
        if self.counts_frames:
            return float(event.data.frame_index)
        if seconds is None:
            return self._last_at
        if seconds + self._ahead < self._last_at - JUMP_SECONDS:
            self._ahead = self._last_at - seconds
        self._last_at = seconds + self._ahead
        return self._last_at


def sums_of(events: Iterator[Event], most: int) -> tuple[list[CameraSum], int]:
    """The sums by camera and mode; and how many events of further cameras were left out."""
    sums: dict[tuple[str, str], CameraSum] = {}
    left_out = 0
    for event in events:
        data = event.data
        key = (data.camera_id, data.mode)
        found = sums.get(key)
        if found is None:
            if len(sums) >= most:
                left_out += 1
                continue
            found = sums[key] = CameraSum(data.camera_id, data.mode == "replay")
        found.add(event)
    for each in sums.values():
        each.finish()
    return list(sums.values()), left_out
