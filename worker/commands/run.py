"""`ssd-worker run`: cameras to Redis until stopped."""

import logging
import signal
from collections.abc import Collection
from pathlib import Path

from worker.commands.console import print_summary
from worker.commands.wiring import (
    check_model,
    load_detector,
    on_stop_signals,
    resolve_redis_url,
)
from worker.errors import SpoolError, UsageError
from worker.pipeline.batching import LatestFrameBatcher
from worker.pipeline.cameras import Camera
from worker.pipeline.event_maker import EventMaker
from worker.pipeline.filtering import DetectionFilter
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.watchdog import watchdog
from worker.publishing.epochs import Epochs
from worker.publishing.live import LivePublisher
from worker.publishing.spool import Spool
from worker.secrecy.names import fill_in
from worker.servers.address import LIVE_REPLY_TIMEOUT_SECONDS
from worker.servers.embedded import ensure_running
from worker.settings.fields import RunSettings
from worker.settings.naming import parse_sources
from worker.sinks.redis_stream import RedisStreamSink
from worker.sources.limits import Limits
from worker.sources.live import LiveSource
from worker.sources.opening import PROTOCOLS, scheme_of
from worker.sources.recording import probe_recording

log = logging.getLogger(__name__)

WAITING_EVENTS = 10_000
"""Events held in memory where neither Redis nor the spool takes them: about ten minutes of one
15 fps camera."""


def run_live(settings: RunSettings) -> int:
    """Run until a signal, or until every file has ended; returns the exit code."""
    sources = parse_sources(fill_in(source, settings.secrets) for source in settings.sources)
    for camera_id, source in sources.items():
        _check_file(camera_id, source, settings.limits)
    check_model(settings)
    setup = load_detector(settings)
    detector = setup.detector
    sink = _sink(settings)
    spool = _spool(settings, sink.destination, sources)
    epochs = Epochs()
    epochs.learn(sources, sink, spool)
    publisher = LivePublisher(sink, spool, capacity=WAITING_EVENTS)

    def camera(camera_id: str, url: str) -> Camera:
        def source() -> LiveSource:
            return LiveSource(
                camera_id,
                url,
                detector.image_size,
                epochs.of(camera_id),
                fps=settings.fps,
                loop=settings.loop,
                as_planes=detector.takes_planes,
                gpu=setup.gpu,
                limits=settings.limits,
                allow_playlists=settings.allow_playlists,
            )

        wanted = DetectionFilter(None if settings.labels is None else frozenset(settings.labels))
        return Camera(camera_id, source, filter=wanted)

    pipeline = Pipeline(
        [camera(*source) for source in sources.items()],
        LatestFrameBatcher(setup.max_batch, settings.max_wait_ms / 1000),
        detector,
        EventMaker(detector.model, publish_all=settings.publish == "all"),
        publisher,
        lossless=False,
        # Cores that work ahead would leave the newest frame waiting behind older ones.
        batches_ahead=1 if detector.works_ahead else 0,
    )
    log.info("watching %s", ", ".join(sources))
    seconds = settings.watchdog_seconds
    try:
        with (
            on_stop_signals(pipeline.stop) as signals,
            watchdog(pipeline, seconds),
            watchdog(publisher, seconds),
        ):
            summary = pipeline.run()
    finally:
        sink.close()
        spool.close()
    streams = f"{settings.key_prefix}:{{CAMERA}}:detections in Redis"
    print_summary(summary, [streams])
    return 130 if signal.SIGINT in signals else 0


def _sink(settings: RunSettings) -> RedisStreamSink:
    redis_url = settings.redis_url or "embedded"
    return RedisStreamSink(
        resolve_redis_url(settings, redis_url),
        prefix=settings.key_prefix,
        stream_maxlen=settings.stream_maxlen,
        reply_timeout=LIVE_REPLY_TIMEOUT_SECONDS,
        # An embedded server that died is started again.
        before_connecting=(
            (lambda: ensure_running(settings.state_dir, settings.embedded_port))
            if redis_url == "embedded"
            else lambda: None
        ),
    )


def _spool(settings: RunSettings, destination: str, cameras: Collection[str]) -> Spool:
    directory = settings.spool_dir or settings.state_dir / "spool"
    try:
        return Spool(directory.expanduser(), destination, cameras, settings.spool_max_bytes)
    except SpoolError as error:
        raise UsageError(f"--spool-dir: {error}: choose another place") from error


def _check_file(camera_id: str, source: str, limits: Limits) -> None:
    if "://" in source:
        if scheme_of(source) not in PROTOCOLS:
            known = ", ".join(f"{scheme}://" for scheme in PROTOCOLS)
            raise UsageError(f"{camera_id}: not the URL of a camera: expected one of {known}")
        return
    if not Path(source).exists():
        raise UsageError(f"{source}: no such file (a camera is a URL such as rtsp://HOST/PATH)")
    probe_recording(Path(source), camera_id, limits)
