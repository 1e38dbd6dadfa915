"""Gathers a camera's material: coverage, example frames, what the heat map is drawn over.

Takes sums of events, and where pictures may be; gives values. What lacks is said in the report:
only a recording that the user has named must be readable, and be the right one.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from worker.coverage import Coverage
from worker.errors import SourceError, UsageError
from worker.events import DetectionsEvent, Event
from worker.reports import words
from worker.reports.camera import CameraSum
from worker.reports.material import CameraMaterial
from worker.reports.pictures import (
    Picture,
    ShownFrame,
    decode_jpeg,
    is_recording_of,
    read_frames,
    recording_beside,
)
from worker.snapshots import SnapshotInfo, read_snapshot

log = logging.getLogger(__name__)

PLAIN = "Over a plain field, since no picture was at hand."


@dataclass
class Snapshot:
    """The last picture of a live camera, and the event of its frame, if it has one."""

    info: SnapshotInfo
    picture: Picture
    event: DetectionsEvent | None = None

    def note(self, event: Event) -> None:
        """Keep the event of the very frame that the picture is of."""
        if not isinstance(event, DetectionsEvent) or event.data.mode != "live":
            return
        data, info = event.data, self.info
        if (data.camera_id, data.epoch, data.frame_index) == (
            info.camera_id,
            info.epoch,
            info.frame_index,
        ):
            self.event = event


def snapshot_of(camera_id: str, stored: bytes | None) -> Snapshot | None:
    """What is stored as a camera's snapshot; None if it is none, with a warning."""
    if stored is None:
        return None
    try:
        info, jpeg = read_snapshot(stored)
        return Snapshot(info, decode_jpeg(jpeg))
    except (ValueError, SourceError) as error:
        log.warning("camera %s: its snapshot in Redis is left out: %s", camera_id, error)
        return None


def gather(
    camera: CameraSum,
    coverage: Coverage,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    video: Path | None,
    files: Sequence[Path],
    snapshot: Snapshot | None,
) -> CameraMaterial:
    """The material of a camera.

    ``since`` and ``until``: the time its coverage is asked for; None: from its first event, or to
    its last. ``video``: its recording.
    ``files``: those that events are from, beside which a recording may be. Raises SourceError if
    ``video`` cannot be read.
    """
    material = CameraMaterial(camera, notes=list(_notes(camera)))
    if camera.is_replay:
        _add_frames(material, video, files)
    else:
        if camera.first_time is not None and camera.last_time is not None:
            start = since or camera.first_time
            end = max(until or camera.last_time, start)
            material.period = start, end
            material.intervals = coverage.of(camera.camera_id, start, end)
            material.put_intervals_on_timeline()
        _add_snapshot(material, snapshot)
    camera.fit_bins()
    material.ground_from = material.ground_from or PLAIN
    return material


def check_video(video: Path, cameras: Sequence[CameraSum]) -> None:
    """Raise UsageError unless one of the cameras is a replay of this recording. Or SourceError."""
    if not video.exists():
        raise UsageError(f"--video {video}: no such file")
    if not any(camera.is_replay for camera in cameras):
        raise UsageError(
            f"--video {video}: is for a replay, and these are events of live cameras: leave it out"
        )
    if not any(is_recording_of(video, camera) for camera in cameras):
        raise UsageError(
            f"--video {video}: these events are of another recording, or its content has changed: "
            "give the one that was replayed, or leave --video out"
        )


def _add_frames(material: CameraMaterial, video: Path | None, files: Sequence[Path]) -> None:
    camera = material.camera
    is_given = video is not None and is_recording_of(video, camera)
    if not is_given:
        video = next(filter(None, (recording_beside(file, camera) for file in files)), None)
    if video is None:
        material.no_examples = (
            "No recording was at hand: give it with --video FILE, or lay it beside the events "
            f"under the name {camera.camera_id}."
        )
        return
    labels = [label.label for label in camera.by_count()]
    chosen = camera.examples.chosen(labels)
    if not chosen and camera.examples.first is not None:
        chosen = [camera.examples.first]
    try:
        material.frames = read_frames(video, chosen)
    except SourceError as error:
        if is_given:
            raise
        material.no_examples = f"The recording beside the events cannot be read: {error}."
        return
    if material.frames:
        middle = material.frames[len(material.frames) // 2]
        material.ground = middle.picture
        material.ground_from = f"Over {words.place(middle)}."
    else:
        material.no_examples = "There is no event of a frame."


def _add_snapshot(material: CameraMaterial, snapshot: Snapshot | None) -> None:
    if snapshot is None:
        material.no_examples = (
            "Events hold no pictures, and no snapshot was at hand: `run --snapshots` publishes "
            "them, and a report on the id of a camera shows its last one."
        )
        return
    material.frames = [ShownFrame(snapshot.picture, snapshot.event, snapshot.info.time)]
    material.ground = snapshot.picture
    material.ground_from = (
        f"Over its last snapshot, of {words.date(snapshot.info.time.timestamp())} UTC."
    )
    if snapshot.info.blurred:
        material.notes.append("Its snapshots are blurred by choice.")


def _notes(camera: CameraSum) -> Iterator[str]:
    """What a reader must know, so that no number is taken for more than it is."""
    if camera.missing:
        yield (
            f"{camera.missing:,} events are missing by their numbers: they were lost, or filtered "
            "out. All numbers are of the events that are there, and means may be too high."
        )
    if camera.repeated:
        yield (
            f"{camera.repeated:,} events came again or after later ones, and are left out: the "
            "events of a camera count once, in order."
        )
    if camera.without_time:
        yield f"{camera.without_time:,} frames without a time are left out."
