"""What a run has done so far, in numbers: an observer that counts.

Takes the reports of sources, pipeline and publishers; gives counts per camera, and histograms. Of
each camera's counts there is one writer at a time, so that no lock is needed; histograms have their
own. Knows neither HTTP nor what the counts are called outside.
"""

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from prometheus_client import CollectorRegistry, Histogram

from worker.events import Detection, DetectionsEvent, Event
from worker.frames import Frame, FrameBatch, SourceItem, StreamDown, StreamUp
from worker.observing import STAGES, Observer

HOUR_SECONDS = 3600.0
RECENT_SECONDS = 10
"""The time over which frames per second and latency are given: short enough to show the present,
long enough for a camera that is analysed once a second."""
MOST_REMEMBERED = 10_000
"""Reconnects of the last hour: a camera connects at most once in 0.5 s."""
STAGE_BUCKETS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
LATENCY_BUCKETS = (
    0.025, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Finest around what RTSP cameras have, and with the 1.5 s and 2 s that events are promised by."""
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
NOT_THE_CAMERA = ("timestamps", "reconfigured")
"""Reasons for going down that say nothing of a camera's connection."""


@dataclass
class CameraCounts:
    """What was counted of one camera, since the process began or the camera was added."""

    received: int = 0
    """Frames that it delivered, whatever became of them."""
    analysed: int = 0
    late: int = 0
    """Frames dropped before they reached the detector's queue."""
    replaced: int = 0
    """Frames dropped from the detector's queue."""
    skipped: int = 0
    reconnects: int = 0
    stalls: int = 0
    position_seconds: float | None = None
    """Of the newest analysed frame in its stream or recording."""
    detections: Counter[str] = field(default_factory=Counter)
    was_up: bool = False
    is_lost: bool = False
    """Whether it was up, went down, and has not come up again."""
    reconnected_at: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_REMEMBERED))
    stalled_at: deque[float] = field(default_factory=lambda: deque(maxlen=MOST_REMEMBERED))
    analysed_at: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=16))
    """Seconds of the monotonic clock, and the frames analysed in each."""
    latencies: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=256))
    """When events were published, by the monotonic clock, and how old their frames were."""

    def count_second(self, second: int) -> None:
        """Count an analysed frame in a second of the monotonic clock."""
        if self.analysed_at and self.analysed_at[-1][0] == second:
            self.analysed_at[-1] = second, self.analysed_at[-1][1] + 1
        else:
            self.analysed_at.append((second, 1))

    def fps(self, now: float) -> float | None:
        """Frames analysed per second over the last ten whole seconds, or those since it came up.

        None before there is a whole second.
        """
        second, analysed_at = int(now), list(self.analysed_at)
        seconds = min(second - analysed_at[0][0] if analysed_at else 0, RECENT_SECONDS)
        if seconds < 1:
            return None
        recent = (frames for at, frames in analysed_at if second - seconds <= at < second)
        return sum(recent) / seconds

    def latency_seconds(self, now: float) -> float | None:
        """Median time from capture to Redis over the last ten seconds; None without an event."""
        recent = [s for at, s in list(self.latencies) if at >= now - RECENT_SECONDS]
        return median(recent) if recent else None

    def reconnects_last_hour(self, now: float) -> int:
        """Times that it came back after it was lost."""
        return sum(at >= now - HOUR_SECONDS for at in list(self.reconnected_at))

    def stalls_last_hour(self, now: float) -> int:
        """Times that it fell silent."""
        return sum(at >= now - HOUR_SECONDS for at in list(self.stalled_at))


class Measurements(Observer):
    """The counts of one process."""

    def __init__(
        self, registry: CollectorRegistry, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Histograms are added to the ``registry``."""
        self._clock = clock
        self.cameras: dict[str, CameraCounts] = {}
        self.sinks_up: dict[str, bool] = {}
        """Whether each sink took or answered what it was last asked; empty before."""
        self.sink_errors: Counter[str] = Counter()
        stages = Histogram(
            "ssd_worker_stage_seconds",
            "Time that a step takes: decode, queue per analysed frame; preprocess, network, "
            "decode_nms per batch or share of one; publish per write",
            ["stage"],
            buckets=STAGE_BUCKETS,
            registry=registry,
        )
        self._stages = {stage: stages.labels(stage) for stage in STAGES}
        self._batch_size = Histogram(
            "ssd_worker_batch_size",
            "Frames that the detector gets at once",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self._latency = Histogram(
            "ssd_worker_publish_latency_seconds",
            "Time from a frame's capture until Redis has its event, if it was not spooled",
            buckets=LATENCY_BUCKETS,
            registry=registry,
        )

    def of(self, camera_id: str) -> CameraCounts:
        """The counts of a camera, new ones if it has none."""
        found = self.cameras.get(camera_id)
        return self.cameras.setdefault(camera_id, CameraCounts()) if found is None else found

    def received(self, item: SourceItem) -> None:
        """Count frames, reconnects and stalls."""
        counts = self.of(item.camera_id)
        if isinstance(item, StreamUp):
            if counts.is_lost:
                counts.reconnects += 1
                counts.reconnected_at.append(self._clock())
            counts.was_up, counts.is_lost = True, False
            counts.analysed_at.clear()
            return
        if isinstance(item, Frame):
            counts.received += 1
        elif isinstance(item, StreamDown):
            counts.is_lost = counts.was_up and item.reason not in NOT_THE_CAMERA
            if item.reason == "stall":
                counts.stalls += 1
                counts.stalled_at.append(self._clock())
        counts.received += item.skipped + item.dropped
        counts.skipped += item.skipped
        counts.late += item.dropped

    def replaced(self, frame: Frame) -> None:
        """Count a frame that was dropped while it waited."""
        self.of(frame.camera_id).replaced += 1

    def started(self, batch: FrameBatch) -> None:
        """Measure the batch, and how long its frames have waited."""
        frames = batch.frames
        if not frames:
            return
        self._batch_size.observe(len(frames))
        now = self._clock()
        for frame in frames:
            self._stages["decode"].observe(frame.decode_seconds)
            if frame.read_at is not None:
                self._stages["queue"].observe(max(now - frame.read_at, 0.0))

    def finished(self, batch: FrameBatch, found: Sequence[Sequence[Detection]]) -> None:
        """Count what was analysed and what was detected."""
        second = int(self._clock())
        for frame, detections in zip(batch.frames, found, strict=True):
            counts = self.of(frame.camera_id)
            counts.analysed += 1
            for detection in detections:
                counts.detections[detection.label] += 1
            ticks = frame.frame_index if frame.pts is None else frame.pts
            time_base = frame.time_base  # as integers: a Fraction's product takes ten times as long
            counts.position_seconds = ticks * time_base.numerator / time_base.denominator
            counts.count_second(second)

    def stage(self, stage: str, seconds: float) -> None:
        """Measure a step."""
        self._stages[stage].observe(seconds)

    def published(self, sink: str, events: Sequence[Event], seconds: float) -> None:
        """Measure a write, and the age of what was captured."""
        self._stages["publish"].observe(seconds)
        self.sink_answered(sink)
        if sink != "Redis":
            return
        now = self._clock()
        for event in events:
            if type(event) is not DetectionsEvent:  # isinstance takes 1 us for pydantic's classes
                continue
            captured = event.captured_monotonic
            if captured is not None:
                self._latency.observe(now - captured)
                self.of(event.data.camera_id).latencies.append((now, now - captured))

    def sink_answered(self, sink: str) -> None:
        """Note that a sink is available."""
        self.sinks_up[sink] = True

    def sink_failed(self, sink: str) -> None:
        """Note that a sink is not available."""
        self.sinks_up[sink] = False
        self.sink_errors[sink] += 1

    def forget_all_but(self, camera_ids: set[str]) -> None:
        """Drop the counts of cameras that are not watched any more."""
        for camera_id in set(self.cameras) - camera_ids:
            self.cameras.pop(camera_id, None)
