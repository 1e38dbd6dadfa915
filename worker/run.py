"""`ssd-worker run`: cameras to Redis until stopped."""

import logging
import signal
import time
from collections.abc import Callable
from pathlib import Path

from worker.batching import LatestFrameBatcher
from worker.errors import UsageError
from worker.event_maker import EventMaker
from worker.naming import parse_sources
from worker.pipeline import Pipeline
from worker.publishing import Publisher
from worker.report import print_summary
from worker.settings import RunSettings
from worker.sinks.redis_stream import RedisStreamSink
from worker.sources.live import LiveSource
from worker.sources.recording import probe_recording
from worker.wiring import (
    check_model,
    load_detector,
    on_stop_signals,
    resolve_redis_url,
)

log = logging.getLogger(__name__)

WAITING_EVENTS = 10_000
"""Events held in memory while Redis is away: about ten minutes of one 15 fps camera."""


def run_live(settings: RunSettings) -> int:
    """Run until a signal, or until every file has ended; returns the exit code."""
    sources = parse_sources(settings.sources)
    for camera_id, source in sources.items():
        _check_file(camera_id, source)
    check_model(settings)
    setup = load_detector(settings)
    detector = setup.detector
    redis_url = resolve_redis_url(settings, settings.redis_url or "embedded")
    sink = RedisStreamSink(
        redis_url, prefix=settings.key_prefix, stream_maxlen=settings.stream_maxlen
    )
    pipeline = Pipeline(
        [
            LiveSource(
                camera_id,
                source,
                detector.image_size,
                epochs_after(sink.last_epoch(camera_id)),
                fps=settings.fps,
                loop=settings.loop,
                as_planes=detector.takes_planes,
                gpu=setup.gpu,
            )
            for camera_id, source in sources.items()
        ],
        LatestFrameBatcher(setup.max_batch, settings.max_wait_ms / 1000),
        detector,
        EventMaker(detector.model, publish_all=settings.publish == "all"),
        Publisher([sink], capacity=WAITING_EVENTS, lossless=False),
        lossless=False,
        # Cores that work ahead would leave the newest frame waiting behind older ones.
        batches_ahead=1 if detector.works_ahead else 0,
    )
    log.info("watching %s", ", ".join(sources))
    try:
        with on_stop_signals(pipeline.stop) as signals:
            summary = pipeline.run()
    finally:
        sink.close()
    streams = f"{settings.key_prefix}:{{CAMERA}}:detections in Redis"
    print_summary(summary, [streams])
    return 130 if signal.SIGINT in signals else 0


def epochs_after(last: int) -> Callable[[], int]:
    """A source of epochs: milliseconds since 1970, each above the one before and above ``last``."""

    def next_epoch() -> int:
        nonlocal last
        last = max(round(time.time() * 1000), last + 1)
        return last

    return next_epoch


def _check_file(camera_id: str, source: str) -> None:
    if "://" in source:
        return
    if not Path(source).exists():
        raise UsageError(f"{source}: no such file (a camera is a URL such as rtsp://HOST/PATH)")
    probe_recording(Path(source), camera_id)
