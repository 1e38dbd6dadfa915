"""What measuring costs a worker: CPU time of `--http`, as a share of one core.

    python benchmarks/health.py [--cameras 16] [--fps 25]

Puts the reports that `--http` adds to a worker with so many cameras through the real observer, as
the pipeline and the publisher do for a second of frames, in this process and on one thread: an item
received, a batch of four started and finished with three detections per frame, three steps of the
detector, and every event published. Beside it, what the HTTP server adds: a scrape every 15 s, two
probes every 10 s, and a look at the progress four times a second. Counts seconds of the processor,
which other processes do not change, less those that the same calls of the silent observer take,
which a worker without `--http` makes, too.
"""

import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from common import finish, introduce, parser
from prometheus_client.exposition import generate_latest

from worker.events import Detection, DetectionsData, DetectionsEvent, ModelInfo
from worker.frames import Frame, FrameBatch, StreamUp
from worker.health.endpoints import endpoints
from worker.health.exposition import WorkerCollector, new_registry
from worker.health.measurements import Measurements
from worker.health.run_state import Run, RunState
from worker.observing import NOBODY, Observer
from worker.pipeline.event_maker import EventMaker
from worker.publishing.lossless import LosslessPublisher
from worker.sinks.memory import MemorySink

BATCH = 4
SECONDS = 20
"""Of frames that are put through."""
LATENCY_SECONDS = 0.2
SCRAPE_SECONDS, PROBE_SECONDS, LOOKS_PER_SECOND = 15, 10, 4
MODEL = ModelInfo(name="ssd_mobilenet_v2_oid", digest="sha256:00")
FOUND = [
    Detection(label=label, class_id=1, score=0.9, box=(0.1, 0.2, 0.3, 0.4))
    for label in ("Person", "Person", "Car")
]


def main() -> None:
    """Measure, and print shares of one core."""
    options = parser(__doc__)
    options.add_argument("--cameras", type=int, default=16)
    options.add_argument("--fps", type=int, default=25)
    chosen = options.parse_args()
    introduce("cpu", "prometheus-client")
    seconds = 2 if chosen.quick else SECONDS
    frames, events = frames_of(chosen.cameras), events_of(chosen.cameras)
    registry = new_registry()
    now = time.monotonic() + LATENCY_SECONDS  # the same frames are reported again and again
    measurements = Measurements(registry, lambda: now)
    state = RunState(measurements)
    registry.register(WorkerCollector(state))
    begin(state, frames)

    def report_to(observer: Observer) -> Callable[[], None]:
        return lambda: report(observer, frames, events, chosen.fps * seconds)

    silent = cpu_seconds(report_to(NOBODY)) / seconds
    measured = cpu_seconds(report_to(measurements)) / seconds
    paths = endpoints(state, registry)
    scrape = repeated(lambda: generate_latest(registry)) / SCRAPE_SECONDS
    probes = repeated(lambda: (paths["/healthz"](""), paths["/readyz"](""))) / PROBE_SECONDS
    look = repeated(state.look) * LOOKS_PER_SECOND
    share = measured - silent + scrape + probes + look
    finish(
        "health",
        "cpu",
        cameras=chosen.cameras,
        fps=chosen.fps,
        percent_of_a_core=round(share * 100, 3),
        reports_percent=round((measured - silent) * 100, 3),
        scrape_percent=round(scrape * 100, 3),
        scrape_ms=round(scrape * SCRAPE_SECONDS * 1000, 2),
        probes_percent=round(probes * 100, 3),
        look_percent=round(look * 100, 3),
        silent_percent=round(silent * 100, 3),
    )


def report(
    observer: Observer, frames: list[Frame], events: list[DetectionsEvent], rounds: int
) -> None:
    """What is reported of ``rounds`` frames of each camera."""
    found = [FOUND] * BATCH
    for _ in range(rounds):
        for start in range(0, len(frames), BATCH):
            batch = FrameBatch(tuple(frames[start : start + BATCH]))
            for item in batch.items:
                observer.received(item)
            observer.started(batch)
            for stage in ("preprocess", "network", "decode_nms"):
                observer.stage(stage, 0.01)
            observer.finished(batch, found[: len(batch.items)])
            observer.published("Redis", events[start : start + BATCH], 0.001)


def frames_of(cameras: int) -> list[Frame]:
    """A frame of each camera."""
    image = np.zeros((4, 4, 3), np.uint8)
    now = time.monotonic()
    return [
        Frame(
            f"cam{index}", 1, 0, 1000, Fraction(1, 90_000), None, "arrival", 1920, 1080, image,
            captured_monotonic=now, decode_seconds=0.004, read_at=now + LATENCY_SECONDS - 0.02,
        )
        for index in range(cameras)
    ]  # fmt: skip


def events_of(cameras: int) -> list[DetectionsEvent]:
    """An event of each camera."""
    events = []
    for index in range(cameras):
        event = DetectionsEvent(
            id=f"cam{index}/1/0",
            source=f"ssd-worker/cam{index}",
            data=DetectionsData(
                camera_id=f"cam{index}", mode="live", epoch=1, seq=0, frame_index=0,
                time_base="1/90000", clock="arrival", width=1920, height=1080, skipped=0, dropped=0,
                model=MODEL, detections=tuple(FOUND),
            ),
        )  # fmt: skip
        event.note_capture(time.monotonic())
        events.append(event)
    return events


def begin(state: RunState, frames: list[Frame]) -> None:
    """Cameras that are all up, so that a scrape shows everything of each."""

    class _Detector:
        model, place, gpu_memory_bytes = MODEL, ("cpu", "bfloat16"), None

    class _Idle:
        def progress(self) -> int:
            return 0

        def has_work(self) -> bool:
            return True

    maker = EventMaker(MODEL)
    items = [item for frame in frames for item in (StreamUp(frame.camera_id, 1), frame)]
    batch = FrameBatch(tuple(items))
    for item in items:
        state.measurements.received(item)
    state.measurements.finished(batch, [FOUND] * len(frames))
    maker.make(batch, [FOUND] * len(frames))
    state.detector = _Detector()
    publisher = LosslessPublisher([MemorySink()], capacity=1)
    state.watch(Run(maker.records, publisher, watched=[_Idle(), _Idle()], is_replay=False))
    state.measurements.sink_answered("Redis")


def repeated(call: Callable[[], object], times: int = 200) -> float:
    """CPU seconds of one call."""
    return cpu_seconds(lambda: [call() for _ in range(times)]) / times


def cpu_seconds(call: Callable[[], object]) -> float:
    """CPU seconds of a call, in this thread."""
    began = time.thread_time()
    call()
    return time.thread_time() - began


if __name__ == "__main__":
    main()
