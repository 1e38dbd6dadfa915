"""Metrics in Prometheus's form: names, help and labels of everything that a worker exports.

What can be read when it is asked for is read then, so that nothing outlives what it describes: a
camera that is down has no age and no lag, one that was removed has no series at all. Labels are ids
of cameras, never their URLs. Knows no HTTP.
"""

import platform
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from worker.health.run_state import REDIS, CameraView, RunState

PREFIX = "ssd_worker_"
FINISHED = "end_of_file"
"""Why a file that was played like a camera has ended, if nothing is wrong."""


class BuildCollector(Collector):
    """What runs here."""

    def __init__(self) -> None:
        self._build = {
            "version": version("ssd-worker"),
            "python": platform.python_version(),
            "torch": version("torch"),
        }

    def collect(self) -> Iterator[Metric]:
        """One metric, which is always 1; its labels say what runs."""
        yield _info("build", "Versions of the worker and what it runs on", self._build)


class WorkerCollector(Collector):
    """The metrics that are read from a RunState."""

    def __init__(self, state: RunState) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        """Nothing beforehand: which there are depends on the run."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every metric that there is now."""
        yield from self._model()
        yield from self._sinks()
        run = self._state.run
        if run is None:
            return
        if run.spool is not None:
            yield GaugeMetricFamily(
                f"{PREFIX}spool_events", "Events on disk that wait for Redis", len(run.spool)
            )
            yield GaugeMetricFamily(
                f"{PREFIX}spool_bytes", "Size of those events", run.spool.size_bytes
            )
        views = list(self._state.cameras())
        yield _detections(views)
        yield from _replay(views) if run.is_replay else _cameras(views)

    def _model(self) -> Iterator[Metric]:
        detector = self._state.detector
        if detector is None:
            return
        device, precision = detector.place
        facts = {"model": detector.model.name, "device": device, "precision": precision}
        yield _info("model", "The model that detects, and where", facts)
        memory = detector.gpu_memory_bytes
        if memory is not None:
            yield GaugeMetricFamily(
                f"{PREFIX}gpu_memory_bytes", "GPU memory that this worker holds", memory
            )

    def _sinks(self) -> Iterator[Metric]:
        run, measurements = self._state.run, self._state.measurements
        if run is None or not run.uses_redis:
            return
        up = measurements.sinks_up.get(REDIS)
        if up is not None:
            yield GaugeMetricFamily(
                f"{PREFIX}redis_up", "Whether Redis answered what it was last asked: 1 or 0", up
            )
        yield CounterMetricFamily(
            f"{PREFIX}redis_errors",
            "Attempts to reach Redis that failed, or that it could not serve",
            measurements.sink_errors[REDIS],
        )


def _cameras(views: Iterable[CameraView]) -> Iterator[Metric]:
    up = _gauge("camera_up", "Whether frames of the camera come through: 1 or 0")
    age = _gauge(
        "camera_frame_age_seconds",
        "Time since the newest analysed picture was captured; only while the camera is up",
    )
    lag = _gauge(
        "camera_lag_seconds",
        "Age of the newest picture when it was analysed; only while the camera is up",
    )
    received = _counter("camera_frames_received", "Frames that the camera delivered")
    analysed = _counter("camera_frames_analysed", "Frames in which objects were looked for")
    skipped = _counter("camera_frames_skipped", "Frames not analysed by choice (--fps)")
    dropped = CounterMetricFamily(
        f"{PREFIX}camera_frames_dropped",
        "Frames lost to overload; late: too old when their turn came to be decoded; "
        "replaced: a newer one came while they waited for the detector",
        labels=["camera", "reason"],
    )
    reconnects = _counter("camera_reconnects", "Times that the camera came back after it was lost")
    stalls = _counter("camera_stalls", "Times that the camera fell silent")
    for view in views:
        camera, counts = [view.camera_id], view.counts
        if (view.state, view.reason) != ("ended", FINISHED):
            up.add_metric(camera, view.is_up)
        if view.frame_age_seconds is not None:
            age.add_metric(camera, view.frame_age_seconds)
        if view.lag_seconds is not None:
            lag.add_metric(camera, view.lag_seconds)
        received.add_metric(camera, counts.received)
        analysed.add_metric(camera, counts.analysed)
        skipped.add_metric(camera, counts.skipped)
        dropped.add_metric([*camera, "late"], counts.late)
        dropped.add_metric([*camera, "replaced"], counts.replaced)
        reconnects.add_metric(camera, counts.reconnects)
        stalls.add_metric(camera, counts.stalls)
    yield from (up, age, lag, received, analysed, skipped, dropped, reconnects, stalls)


def _replay(views: Iterable[CameraView]) -> Iterator[Metric]:
    frames = _counter("replay_frames", "Frames of the recording that this process analysed")
    position = _gauge("replay_position_seconds", "Where in the recording the newest of them is")
    for view in views:
        frames.add_metric([view.camera_id], view.counts.analysed)
        if view.counts.position_seconds is not None:
            position.add_metric([view.camera_id], view.counts.position_seconds)
    yield from (frames, position)


def _detections(views: Iterable[CameraView]) -> Metric:
    family = CounterMetricFamily(
        f"{PREFIX}detections", "Objects detected, by label", labels=["camera", "label"]
    )
    for view in views:
        for label, count in dict(view.counts.detections).items():
            family.add_metric([view.camera_id, label], count)
    return family


def _gauge(name: str, help_text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}{name}", help_text, labels=["camera"])


def _counter(name: str, help_text: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{PREFIX}{name}", help_text, labels=["camera"])


def _info(name: str, help_text: str, facts: Mapping[str, str]) -> InfoMetricFamily:
    return InfoMetricFamily(f"{PREFIX}{name}", help_text, dict(facts))


def new_registry() -> CollectorRegistry:
    """A registry with what every command exports: versions, and the process's own metrics."""
    # Without a series with a time beside each that counts: nobody looks at it.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    registry.register(BuildCollector())
    ProcessCollector(registry=registry)
    return registry
