"""A RunState with the parts of a run, which tests move by hand."""

import time
from dataclasses import replace

from prometheus_client import CollectorRegistry

from tests.events import MODEL, PERSON, detections_event
from tests.frames import frame
from worker.frames import Frame, FrameBatch, StreamUp
from worker.health.exposition import WorkerCollector
from worker.health.measurements import Measurements
from worker.health.run_state import Run, RunState
from worker.pipeline.event_maker import EventMaker


class Part:
    """What a watchdog looks at."""

    def __init__(self):
        self.steps, self.works = 0, False

    def progress(self):
        return self.steps

    def has_work(self):
        return self.works


class Publisher:
    def __init__(self):
        self.held, self.refused = {}, {}


class Detector:
    model = MODEL
    place = ("cpu", "fp32")
    gpu_memory_bytes = None


class Disk(list):
    """The events that wait on it."""

    size_bytes = 0


class Worker:
    """The state of a live run, or of a replay, of which everything is well but no camera is up."""

    def __init__(self, *, is_replay=False, uses_redis=True, clock=time.monotonic):
        self.registry = CollectorRegistry()
        self.measurements = Measurements(self.registry, clock)
        self.state = RunState(self.measurements, clock)
        self.registry.register(WorkerCollector(self.state))
        self.events = EventMaker(MODEL, recording_digest="abc" if is_replay else None)
        self.part, self.publisher, self.spool = Part(), Publisher(), Disk()
        self.keeps_events = True
        self.detector = Detector()
        self._run = Run(
            self.events.records,
            self.publisher,
            watched=[self.part],
            is_replay=is_replay,
            uses_redis=uses_redis,
            keeps_events=lambda: self.keeps_events and not is_replay,
            spool=None if is_replay else self.spool,
        )

    def begin(self):
        self.state.detector = self.detector
        self.state.watch(self._run)
        if self._run.uses_redis:
            self.measurements.sink_answered("Redis")
        return self

    def takes(self, *items):
        """Items of sources go the way of a batch, with nothing detected."""
        for item in items:
            self.events.records.of(item.camera_id)
            self.measurements.received(item)
        batch = FrameBatch(items)
        found = [[] for item in items if isinstance(item, Frame)]
        self.measurements.started(batch)
        self.measurements.finished(batch, found)
        self.events.make(batch, found)
        return self

    def analyses(self, camera_id, frames=1):
        """Frames of a recording."""
        return self.takes(*(frame(camera_id, index, epoch=0) for index in range(frames)))

    def series(self, name):
        """Values of a metric's samples by their labels."""
        return {
            ",".join(sample.labels.values()): sample.value
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == f"ssd_worker_{name}"
        }

    def names(self):
        """Of all metrics that have a sample."""
        return {s.name for metric in self.registry.collect() for s in metric.samples}


def picture(age_seconds=0.2, **options):
    """A frame of a camera that was captured lately."""
    return replace(frame(**options), captured_monotonic=time.monotonic() - age_seconds)


def busy():
    """A live worker of which every metric has a sample."""
    worker = Worker().begin().takes(StreamUp("gate", 1), picture())
    worker.measurements.finished(FrameBatch((picture(index=1),)), [[PERSON, PERSON]])
    worker.measurements.published("Redis", [detections_event()], 0.001)
    worker.detector.gpu_memory_bytes = 5
    return worker
