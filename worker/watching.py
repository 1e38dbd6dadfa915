"""Watching from Python: sources in, frames with their detections out, in this process.

The same readers, batcher and detector as ``ssd-worker run``, without events, Redis and disk. Of a
camera the latest frame is returned: if frames are taken slowly some are dropped, and
``frame.dropped`` counts them. Of a recording every frame is returned.
"""

from collections import Counter
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from ssd_core import Detector
from ssd_core.errors import SsdError
from worker.errors import UsageError
from worker.events import Detection
from worker.frames import Frame, FrameBatch, StreamUp
from worker.pipeline.batching import Batcher, LatestFrameBatcher, LosslessBatcher
from worker.pipeline.cameras import Camera, CameraRecords
from worker.pipeline.detection import FrameDetector, check_labels
from worker.pipeline.filtering import DetectionFilter
from worker.pipeline.in_flight import InFlight
from worker.pipeline.readers import Readers
from worker.publishing.epochs import Epochs
from worker.settings.cameras import check_sources
from worker.settings.naming import parse_sources
from worker.sources.live import LiveSource
from worker.sources.recording import RecordingSource, probe_recording

MAX_WAIT_SECONDS = 0.02
POLL_SECONDS = 0.1
STOP_SECONDS = 1.0

Watched: TypeAlias = tuple[Frame, list[Detection]]
"""A frame and what was detected in it, best first."""


class _NoPublisher:
    """Nothing is published, so that no camera is refused."""

    refused: Mapping[str, str] = {}
    held: Mapping[str, str] = {}

    def add_cameras(self, camera_ids: Collection[str]) -> None:
        """Nothing is left of earlier runs."""

    def remove_cameras(self, camera_ids: Collection[str]) -> None:
        """Nothing was added."""

    def may_watch(self, camera_id: str) -> bool:
        """Any number of processes may look."""
        return True


def watch(
    *sources: str,
    model: str | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    score_threshold: float | None = None,
    labels: Collection[str] | None = None,
    fps: float | None = None,
    full_size: bool = True,
) -> Generator[Watched, None, None]:
    """Frames of cameras or recordings, each with its detections, best first.

    A source is a camera's URL, the path of a recording or of a folder of pictures, or
    ``CAMERA_ID=SOURCE``. Cameras are reconnected for ever, which the logger ``worker`` reports;
    recordings end, one after another.
    ``frame.image`` is an upright (H, W, 3) uint8 RGB array: the whole picture or, faster, scaled to
    the network's input if ``full_size`` is false. Boxes are xyxy in [0, 1] of the picture. The
    other arguments are the options of ``ssd-worker run``. ``close()`` ends the readers early.

    Raises UsageError for a source, label or model that does not exist, SourceError for a recording
    that cannot be read.
    """
    named = parse_sources(sources)
    if not named:
        raise UsageError("there is nothing to watch: name a camera's URL or a file")
    are_cameras = {"://" in source for source in named.values()}
    if len(are_cameras) > 1:
        raise UsageError("cameras and files cannot be watched together: watch them one by one")
    if True in are_cameras:
        check_sources(named)
    if fps is not None and not fps > 0:
        raise UsageError(f"fps must be above 0, not {fps}")
    recordings = [
        probe_recording(Path(source), camera_id)
        for camera_id, source in named.items()
        if "://" not in source
    ]
    detector = _load(model, weights, device, precision, score_threshold, labels)
    image_size = None if full_size else detector.image_size
    wanted = DetectionFilter(None if labels is None else frozenset(labels))
    if recordings:
        return _frames_of_recordings(
            [
                Camera(
                    r.camera_id,
                    partial(RecordingSource, r, image_size, fps=fps, antialias=detector.antialias),
                    None,
                    wanted,
                )
                for r in recordings
            ],
            detector,
        )
    epochs = Epochs()
    cameras = [
        Camera(
            camera_id,
            partial(
                LiveSource,
                camera_id,
                url,
                image_size,
                epochs.of(camera_id),
                fps=fps,
                antialias=detector.antialias,
            ),
            filter=wanted,
        )
        for camera_id, url in named.items()
    ]
    return _frames(cameras, LatestFrameBatcher(detector.default_batch, MAX_WAIT_SECONDS), detector)


def _load(
    model: str | None,
    weights: str | Path | None,
    device: str,
    precision: str,
    score_threshold: float | None,
    labels: Collection[str] | None,
) -> FrameDetector:
    try:
        detector = Detector.load(
            model,
            weights=weights,
            device=device,
            precision=precision,
            score_threshold=score_threshold,
        )
    except SsdError as error:
        raise UsageError(str(error)) from error
    check_labels(labels or (), detector.spec.labels[1:], detector.spec.name)
    frame_detector = FrameDetector(detector)
    frame_detector.warm_up(frame_detector.default_batch)
    return frame_detector


def _frames_of_recordings(
    recordings: Sequence[Camera], detector: FrameDetector
) -> Generator[Watched, None, None]:
    """One recording after another."""
    for recording in recordings:
        yield from _frames([recording], LosslessBatcher(detector.default_batch), detector)


def _frames(
    cameras: Sequence[Camera], batcher: Batcher, detector: FrameDetector
) -> Generator[Watched, None, None]:
    """Reads in threads of its own for as long as it is iterated over."""
    records = CameraRecords()
    lossless = isinstance(batcher, LosslessBatcher)
    readers = Readers(batcher, _NoPublisher(), records, lossless=lossless)
    in_flight = InFlight(detector, batches_ahead=1 if lossless else 0)
    readers.watch(cameras)
    uncounted: Counter[str] = Counter()
    try:
        while True:
            readers.look_after()
            ended = readers.have_ended
            batch = batcher.next(0 if in_flight else POLL_SECONDS)
            if batch is not None:
                in_flight.start(batch, [records.of(f.camera_id).filter for f in batch.frames])
            if in_flight.is_full or (batch is None and in_flight):
                batch, found = in_flight.finish()
                yield from zip(_counted(batch, uncounted), map(list, found), strict=True)
            if readers.failure is not None:
                raise readers.failure
            if batch is None and ended:
                break
    finally:
        readers.stop(STOP_SECONDS)


def _counted(batch: FrameBatch, uncounted: Counter[str]) -> Iterator[Frame]:
    """The frames, each with what was dropped in markers before it."""
    for item in batch.items:
        if isinstance(item, Frame):
            dropped = uncounted.pop(item.camera_id, 0)
            yield replace(item, dropped=item.dropped + dropped) if dropped else item
        elif not isinstance(item, StreamUp):
            uncounted[item.camera_id] += item.dropped
