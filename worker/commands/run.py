"""`ssd-worker run`: cameras to Redis until stopped."""

import logging
import secrets
import signal
from collections.abc import Callable, Collection
from functools import partial

from worker.commands.console import print_summary
from worker.commands.health import Health, serving_health, stalled_seconds
from worker.commands.live_cameras import LiveCameras, settings_of_cameras
from worker.commands.reloading import fingerprints, reloading
from worker.commands.wiring import (
    check_model,
    load_detector,
    on_stop_signals,
    resolve_redis_url,
    run_embedded,
    watching_embedded,
)
from worker.errors import SpoolError, UsageError
from worker.health.run_state import Run
from worker.pipeline.batching import LatestFrameBatcher
from worker.pipeline.event_maker import EventMaker
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.watchdog import watchdog
from worker.publishing.live import LivePublisher
from worker.publishing.observed import ObservedOwningSink
from worker.publishing.ownership import Ownership
from worker.publishing.snapshots import SnapshotPublisher
from worker.publishing.spool import Spool
from worker.publishing.spool_contents import contents
from worker.servers.address import LIVE_REPLY_TIMEOUT_SECONDS
from worker.settings.fields import RunSettings
from worker.sinks.redis_stream import RedisStreamSink

log = logging.getLogger(__name__)

WAITING_EVENTS = 10_000
"""Events held in memory if neither Redis nor the spool takes them: about ten minutes of one 15 fps
camera."""


def run_live(settings: RunSettings) -> int:
    """Run until a signal, or until every file has ended; returns the exit code."""
    with serving_health(settings) as health:
        return _run(settings, health)


def _run(settings: RunSettings, health: Health) -> int:
    taken_over = fingerprints(settings.camera_files)
    labels = check_model(settings)
    wanted = settings_of_cameras(settings, labels)
    setup = load_detector(settings, [camera.score_threshold for camera in wanted.values()])
    health.loaded(setup.detector)
    owner = secrets.token_hex(6)  # says nothing about machine, user or cameras
    make_sink = _sinks(settings, owner)
    destination = make_sink().destination
    make_spool = partial(_spool, settings, destination)
    live_cameras = LiveCameras(settings, setup, make_sink, make_spool)
    # Once more if labels are known only now: those of the weights.
    cameras = live_cameras.read() if labels is None else live_cameras.made_of(wanted)
    _report_other_events(settings, destination, [camera.camera_id for camera in cameras])
    sink = ObservedOwningSink(make_sink(), health.observer)
    spool = make_spool([], in_use=True)  # the publisher adds the cameras that are ours
    ownership = Ownership(
        sink, owner, take_over=settings.take_over, on_taken=live_cameras.epochs.raise_to
    )
    publisher = LivePublisher(sink, spool, capacity=WAITING_EVENTS, ownership=ownership)
    events = EventMaker(setup.detector.model, publish_all=settings.publish == "all")
    # With a connection of its own, so that pictures delay no event.
    snapshots = SnapshotPublisher(make_sink())
    pipeline = Pipeline(
        cameras,
        LatestFrameBatcher(setup.max_batch, settings.max_wait_ms / 1000, health.observer),
        setup.detector,
        events,
        publisher,
        lossless=False,
        # Cores that work ahead would leave the newest frame waiting behind older ones.
        batches_ahead=1 if setup.detector.works_ahead else 0,
        # Who named no SOURCE has a file, to which cameras can be added at any time.
        waits_for_cameras=settings.cameras is not None or not settings.sources,
        on_snapshot=snapshots.offer,
        observer=health.observer,
    )
    seconds = settings.watchdog_seconds
    health.watch(
        Run(
            events.records,
            publisher,
            watched=[pipeline, publisher],
            is_replay=False,
            keeps_events=lambda: publisher.keeps_events,
            spool=spool,
            stalled_seconds=stalled_seconds(seconds),
        )
    )
    names = ", ".join(camera.camera_id for camera in cameras)
    log.info("this is worker %s", owner)  # as others name it, if they find it has a camera
    log.info("watching %s", names or f"no camera yet: add some to {settings.cameras}")
    try:
        with (
            on_stop_signals(pipeline.stop) as signals,
            snapshots,
            watchdog(pipeline, seconds),
            watchdog(publisher, seconds),
            watching_embedded(settings, settings.redis_url or "embedded"),
            reloading(
                settings.camera_files, taken_over, lambda: pipeline.watch(live_cameras.read())
            ),
        ):
            summary = pipeline.run()
    finally:
        sink.close()
        spool.close()
    streams = f"{settings.key_prefix}:{{CAMERA}}:detections in Redis"
    print_summary(summary, [streams])
    return 130 if signal.SIGINT in signals else 0


def _sinks(settings: RunSettings, owner: str) -> Callable[[], RedisStreamSink]:
    """Makes sinks for the server, each with connections of its own."""
    redis_url = settings.redis_url or "embedded"
    return partial(
        RedisStreamSink,
        resolve_redis_url(settings, redis_url),
        prefix=settings.key_prefix,
        stream_maxlen=settings.stream_maxlen,
        owner=owner,
        reply_timeout=LIVE_REPLY_TIMEOUT_SECONDS,
        # An embedded server that died is started again.
        before_connecting=(
            (lambda: run_embedded(settings)) if redis_url == "embedded" else lambda: None
        ),
    )


def _spool(
    settings: RunSettings, destination: str, cameras: Collection[str], *, in_use: bool = False
) -> Spool:
    directory, max_bytes = settings.spool_directory, settings.spool_max_bytes
    try:
        return Spool(directory, destination, cameras, max_bytes, in_use=in_use)
    except SpoolError as error:
        raise UsageError(f"--spool-dir: {error}: choose another place") from error


def _report_other_events(settings: RunSettings, destination: str, cameras: Collection[str]) -> None:
    """Events that wait in the spool, and which neither this worker nor another will publish."""
    try:
        found = contents(settings.spool_directory)
    except SpoolError:  # reported by the spool itself
        return
    others = [
        waiting
        for waiting in found
        if not waiting.in_use
        and (waiting.destination != destination or waiting.camera_id not in cameras)
    ]
    if others:
        log.warning(
            "the spool holds %d events that this worker does not publish, of other cameras or for "
            "other servers: `ssd-worker spool` lists and purges them",
            sum(waiting.events for waiting in others),
        )
