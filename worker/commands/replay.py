"""`ssd-worker replay`: every frame of recordings to Redis and files, resumable.

Each recording runs through its own pipeline. A replay starts at the earliest checkpoint among its
sinks; a sink drops the events that it already has. Outputs other than JSON Lines are made from the
finished journal.
"""

import json
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from worker.commands.console import print_summary, progress_bar
from worker.commands.health import Health, serving_health, stalled_seconds
from worker.commands.outputs import check_outputs, finish_outputs, made_outputs
from worker.commands.wiring import (
    DetectorSetup,
    check_model,
    load_detector,
    on_stop_signals,
    resolve_redis_url,
    watching_embedded,
)
from worker.errors import UsageError
from worker.health.run_state import REDIS, Run
from worker.pipeline.batching import LosslessBatcher
from worker.pipeline.cameras import Camera
from worker.pipeline.event_maker import EventMaker
from worker.pipeline.filtering import DetectionFilter
from worker.pipeline.pipeline import Pipeline
from worker.pipeline.summary import Summary
from worker.pipeline.watchdog import watchdog
from worker.publishing import Sink
from worker.publishing.checkpoint import Checkpoint, ReplayClaim
from worker.publishing.lossless import LosslessPublisher
from worker.publishing.observed import ObservedSink
from worker.settings.fields import ReplaySettings
from worker.settings.naming import parse_sources
from worker.sinks.jsonl import JsonlSink
from worker.sinks.redis_stream import RedisStreamSink
from worker.sources.recording import Recording, RecordingSource, probe_recording

log = logging.getLogger(__name__)

WAITING_BATCHES = 4


@dataclass
class _Sinks:
    redis: RedisStreamSink | None
    journal: JsonlSink | None

    def all(self) -> list[Sink]:
        return [sink for sink in (self.redis, self.journal) if sink is not None]


def run_replay(settings: ReplaySettings) -> int:
    """Replay the recordings; returns the exit code."""
    with serving_health(settings) as health:
        return _run(settings, health)


def _run(settings: ReplaySettings, health: Health) -> int:
    paths = parse_sources(settings.paths)
    if any("://" in path for path in paths.values()):  # not shown: it may hold a password
        raise UsageError("a replay reads files: watch a camera with `ssd-worker run URL`")
    recordings = [
        probe_recording(Path(path), camera_id, settings.limits) for camera_id, path in paths.items()
    ]
    check_outputs(settings, recordings)
    check_model(settings)
    setup = load_detector(settings, alike=True)
    health.loaded(setup.detector)
    redis_url = settings.effective_redis_url
    with ExitStack() as stack:
        redis = None
        if redis_url != "none":
            redis = RedisStreamSink(
                resolve_redis_url(settings, redis_url),
                prefix=settings.key_prefix,
                stream_maxlen=settings.stream_maxlen,
            )
            stack.callback(redis.close)
            stack.enter_context(watching_embedded(settings, redis_url))
        claims = [_claim(recording, setup, settings) for recording in recordings]
        journal = None
        output = settings.output or settings.annotate
        if output is not None:
            names = "\n".join(r.camera_id for r in recordings)
            claim = sha256("\n".join([names, *(c.digest for c in claims)]).encode()).hexdigest()
            journal = JsonlSink(output, claim, batch=setup.together, restart=settings.restart)
            stack.callback(journal.close)
            made = made_outputs(settings)
            if made is not None and settings.restart:
                made.outdate()
        sinks = _Sinks(redis, journal)
        checkpoints = [
            _checkpoint(recording, claim, sinks, restart=settings.restart)
            for recording, claim in zip(recordings, claims, strict=True)
        ]
        if redis is not None:
            health.observer.sink_answered(REDIS)  # about the checkpoints
        summary = _replay_all(recordings, checkpoints, sinks, setup, settings, health)
        if summary.interrupted:
            without = " without --restart" if settings.restart else ""
            log.warning("stopped at a checkpoint: run the same command%s to resume", without)
            print_summary(summary, [])
            return 130
        places = []
        if redis is not None:
            places += [
                f"{settings.key_prefix}:{{{r.camera_id}}}:replay in Redis" for r in recordings
            ]
        if journal is not None:
            places += finish_outputs(recordings, journal, setup.detector.labels, settings)
        print_summary(summary, places)
    return 0


def _replay_all(
    recordings: Sequence[Recording],
    checkpoints: Sequence[Checkpoint],
    sinks: _Sinks,
    setup: DetectorSetup,
    settings: ReplaySettings,
    health: Health,
) -> Summary:
    """Run one pipeline per recording; returns the sum of their summaries."""
    total = Summary()
    for recording, checkpoint in zip(recordings, checkpoints, strict=True):
        if checkpoint.finished:
            log.info("%s: already finished (--restart analyses it again)", recording.path)
            continue
        if checkpoint.events:
            log.info("%s: resuming after %d frames", recording.path, checkpoint.events)
        summary = _replay(recording, checkpoint, sinks, setup, settings, health)
        total.frames += summary.frames
        total.events += summary.events
        total.detections += summary.detections
        total.seconds += summary.seconds
        total.interrupted = summary.interrupted
        if summary.interrupted:
            break
    return total


def _replay(
    recording: Recording,
    checkpoint: Checkpoint,
    sinks: _Sinks,
    setup: DetectorSetup,
    settings: ReplaySettings,
    health: Health,
) -> Summary:
    detector, max_batch = setup.detector, setup.max_batch
    source = RecordingSource(
        recording,
        detector.image_size,
        first_seq=checkpoint.events,
        stride=settings.stride,
        fps=settings.fps,
        as_planes=detector.takes_planes,
        antialias=detector.antialias,
        gpu=setup.gpu,
        limits=settings.limits,
    )
    frames = recording.frames // settings.stride
    if settings.fps is not None:
        frames = min(frames, round(recording.frames / recording.rate * settings.fps))
    wanted = DetectionFilter(None if settings.labels is None else frozenset(settings.labels))
    with progress_bar(recording.camera_id, frames, done_before=checkpoint.events) as advance:
        observed = [ObservedSink(sink, health.observer) for sink in sinks.all()]
        publisher = LosslessPublisher(observed, capacity=WAITING_BATCHES * max_batch)
        events = EventMaker(detector.model, recording_digest=recording.digest)
        pipeline = Pipeline(
            [Camera(recording.camera_id, lambda: source, filter=wanted)],
            LosslessBatcher(max_batch, health.observer),
            detector,
            events,
            publisher,
            lossless=True,
            batches_ahead=1,
            observer=health.observer,
            on_progress=lambda summary: advance(summary.frames),
        )
        seconds = settings.watchdog_seconds
        health.watch(
            Run(
                events.records,
                publisher,
                watched=[pipeline, publisher],
                is_replay=True,
                uses_redis=sinks.redis is not None,
                stalled_seconds=stalled_seconds(seconds),
            )
        )
        with (
            on_stop_signals(pipeline.stop),
            watchdog(pipeline, seconds),
            watchdog(publisher, seconds),
        ):
            return pipeline.run()


def _checkpoint(
    recording: Recording, claim: ReplayClaim, sinks: _Sinks, *, restart: bool
) -> Checkpoint:
    """The earliest checkpoint among the sinks."""
    found = []
    if sinks.redis is not None:
        found.append(sinks.redis.claim_replay(recording.camera_id, claim, restart=restart))
    if sinks.journal is not None:
        found.append(sinks.journal.checkpoint(recording.camera_id))
    return min(found, key=lambda checkpoint: (checkpoint.finished, checkpoint.events))


def _claim(recording: Recording, setup: DetectorSetup, settings: ReplaySettings) -> ReplayClaim:
    """Everything that the events depend on, and so must not change during a replay."""
    affecting = {
        "stride": settings.stride,
        "fps": settings.fps,
        "labels": sorted(settings.labels) if settings.labels is not None else None,
        "computed_together": setup.together,
        "decoded_by": "cpu" if setup.gpu is None else "gpu",
        **setup.detector.affecting,
    }
    text = json.dumps(affecting, sort_keys=True)
    return ReplayClaim(
        recording=recording.digest,
        model=f"{setup.detector.model.name} {setup.detector.model.digest}",
        settings=text,
    )
