"""Recordings: every frame of a video, a picture or a folder of pictures, in order, with its pts.

Lossless and repeatable: the same file yields the same frames with the same indices each time, so a
replay can resume where it stopped. A file that exceeds a limit is refused, or ends there. Knows
nothing of live cameras.
"""

import hashlib
import logging
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import TypeVar

import av
from av.error import FFmpegError

from worker.errors import SourceError, UsageError
from worker.frames import Frame, ShownPicture, SourceItem, StreamDown, StreamUp
from worker.sources.animated_webp import AnimatedWebp, is_animated_webp
from worker.sources.completeness import stated_length
from worker.sources.conversion import PictureConverter, make_converter
from worker.sources.decoding import DecodedPictures
from worker.sources.folder import (
    FolderPictures,
    folder_digest,
    names_of,
    pictures_in,
    say_what_is_left_out,
)
from worker.sources.limits import DEFAULT_LIMITS, Limits
from worker.sources.picture import seconds_of, time_base_of
from worker.sources.pictures import DecodedPicture, PictureReader
from worker.sources.sampling import MediaTime, Sampler
from worker.sources.streams import rate_of

log = logging.getLogger(__name__)

DIGEST_EDGE_BYTES = 1 << 20
EARLIEST_START = datetime(1971, 1, 1, tzinfo=UTC)
"""An earlier creation time is an unset field (zero means 1904 or 1970), not a date."""
STILLS_RATE = Fraction(1)
"""Pictures per second of a folder, in an annotated video and for --fps: they have no times."""

T = TypeVar("T")


@dataclass(frozen=True)
class Recording:
    """A file or folder that has been probed."""

    path: Path
    camera_id: str
    digest: str
    """SHA-256 over its size and its first and last MiB; of a folder: over names and contents."""
    frames: int
    """As the file states, or computed from its duration; 0 if it states neither."""
    rate: Fraction
    """Average frames per second."""
    start: datetime | None
    """UTC time of its start, at ``start_seconds``; None if the file does not state it."""
    start_seconds: float
    """Where its timestamps begin."""
    height: int
    """Of its first picture, upright, in pixels."""
    width: int
    pixel_aspect: Fraction
    """Width of a pixel by its height, upright."""


def probe_recording(path: Path, camera_id: str, limits: Limits = DEFAULT_LIMITS) -> Recording:
    """Probe a file or a folder of pictures, and log what a user may not expect of it.

    Raises UsageError if it is missing or the wrong thing, SourceError if nothing in it is usable.
    """
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if not path.is_file() and not path.is_dir():
        raise UsageError(f"{path}: is not a regular file: copy its content to one")
    try:
        if path.is_dir():
            return _probe_folder(path, camera_id, limits)
        digest = recording_digest(path)
        if path.stat().st_size == 0:
            raise SourceError(f"{path}: is empty")
        if is_animated_webp(path):
            return _probe_animated_webp(path, camera_id, digest, limits)
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from error
    return _probe_video(path, camera_id, digest, limits)


def check_playable(path: Path) -> None:
    """Raise UsageError for a recording that cannot be played like a camera. Raises SourceError."""
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: analyse it with `ssd-worker replay {path}`")
    try:
        is_animation = path.is_file() and is_animated_webp(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from error
    if is_animation:
        raise UsageError(f"{path}: is a moving WebP: analyse it with `ssd-worker replay {path}`")


def _probe_video(path: Path, camera_id: str, digest: str, limits: Limits) -> Recording:
    pictures = DecodedPictures(path, limits=limits)
    first = _first_of(pictures)
    pictures.say_what_is_in_it()
    frames = 0
    for number, part in enumerate(pictures.parts()):
        with pictures.opened(part) as (container, stream):
            rate_of_part = rate_of(stream)
            frames += stream.frames or round(stated_length(container) * rate_of_part)
            if number == 0:
                rate = rate_of_part
                start = _stated_start(container.metadata)
                start_seconds = (container.start_time or 0) / av.time_base
                aspect = Fraction(stream.sample_aspect_ratio or 1)
    if first.orientation.quarter_turns % 2:
        aspect = 1 / aspect
    return Recording(
        path, camera_id, digest, frames, rate, start, start_seconds, *first.size, aspect
    )


def _probe_animated_webp(path: Path, camera_id: str, digest: str, limits: Limits) -> Recording:
    pictures = AnimatedWebp(path, limits)
    first = _first_of(pictures)
    stays = (first.picture.duration or 0) * time_base_of(first.picture)
    rate = 1 / stays if stays else STILLS_RATE
    frames = pictures.frames
    return Recording(path, camera_id, digest, frames, rate, None, 0.0, *first.size, Fraction(1))


def _probe_folder(path: Path, camera_id: str, limits: Limits) -> Recording:
    frames, digest = len(pictures_in(path)), folder_digest(path)
    say_what_is_left_out(path)
    size = _first_of(FolderPictures(path, limits=limits)).size
    return Recording(path, camera_id, digest, frames, STILLS_RATE, None, 0.0, *size, Fraction(1))


def _first_of(pictures: PictureReader) -> DecodedPicture:
    """The first picture. Raises SourceError if there is none."""
    for picture in islice(pictures, 1):
        return picture
    raise pictures.no_picture()


def open_pictures(
    path: Path, gpu: int | None = None, limits: Limits = DEFAULT_LIMITS
) -> PictureReader:
    """A reader of the recording at ``path``; ``gpu``: CUDA device for decoding."""
    if path.is_dir():
        return FolderPictures(path, gpu, limits)
    try:
        if is_animated_webp(path):
            return AnimatedWebp(path, limits)
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from error
    return DecodedPictures(path, gpu, limits)


def recording_digest(path: Path) -> str:
    """SHA-256 (hex) over the file's size and its first and last MiB."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(DIGEST_EDGE_BYTES))
        file.seek(max(size - DIGEST_EDGE_BYTES, 0))
        digest.update(file.read(DIGEST_EDGE_BYTES))
    return digest.hexdigest()


class RecordingSource:
    """The frames of a recording from a checkpoint on, then StreamDown("ended")."""

    def __init__(
        self,
        recording: Recording,
        image_size: tuple[int, int] | None,
        *,
        first_seq: int = 0,
        stride: int = 1,
        fps: float | None = None,
        as_planes: bool = False,
        antialias: bool = True,
        gpu: int | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """``image_size``: (height, width) of the images; None: each picture's own.

        ``first_seq``: number of sampled frames to omit. ``as_planes``: frames carry full-size
        YuvImages. ``gpu``: CUDA device for decoding.
        """
        self.camera_id = recording.camera_id
        self._recording = recording
        self._first_seq = first_seq
        self._sampler = Sampler(stride=stride, fps=fps)
        self._converter = make_converter(image_size, as_planes=as_planes, antialias=antialias)
        self._gpu = gpu
        self._limits = limits
        self._stopped = False

    due_at = math.inf
    """No limit: to pass over the frames before a checkpoint may take long."""

    def current_epoch(self) -> int:
        """0: a recording has no connections."""
        return 0

    def stop(self) -> None:
        """End the iteration at the next frame, without StreamDown."""
        self._stopped = True

    def __iter__(self) -> Iterator[SourceItem]:
        """StreamUp, the frames, and StreamDown at the end of the file. Raises SourceError."""
        yield StreamUp(self.camera_id, 0, self._first_seq)
        seq = frame_index = 0
        media_time = MediaTime(float(1 / self._recording.rate))
        pictures = open_pictures(self._recording.path, self._gpu, self._limits)
        for frame_index, (picture, decode_seconds) in enumerate(_timed(pictures), start=1):
            if self._stopped:
                return
            seconds = seconds_of(picture.picture) if picture.has_time else None
            # Raw H.264 has no pts: without an estimate --fps would let every frame through.
            if self._sampler.accepts(frame_index - 1, media_time.of(seconds)):
                skipped = self._sampler.take_skipped()
                if seq >= self._first_seq:
                    try:
                        frame = self._frame(
                            frame_index - 1, picture, seconds, skipped, decode_seconds
                        )
                    except FFmpegError:  # colours that cannot be converted, from a damaged header
                        # End here, as a resumed replay does: skipping it would shift its numbers.
                        pictures.cut_off = True
                        frame_index -= 1
                        break
                    yield frame
                seq += 1
        reason, detail = self._how_it_ended(frame_index, pictures)
        yield StreamDown(self.camera_id, 0, "ended", reason, detail, frames=frame_index)

    def _frame(
        self,
        frame_index: int,
        decoded: DecodedPicture,
        seconds: float | None,
        skipped: int,
        decode_seconds: float,
    ) -> Frame:
        picture, recording = decoded.picture, self._recording
        height, width = decoded.size
        if decoded.taken_at is None and seconds is not None:
            captured_at = _capture_time(recording.start, seconds - recording.start_seconds)
        else:
            captured_at = decoded.taken_at
        began = time.monotonic()
        image = self._converter.convert(picture, decoded.orientation)
        decode_seconds += time.monotonic() - began
        return Frame(
            camera_id=self.camera_id,
            epoch=0,
            frame_index=frame_index,
            pts=picture.pts if decoded.has_time else None,
            time_base=time_base_of(picture) if decoded.has_time else 1 / recording.rate,
            captured_at=captured_at,
            clock="file",
            width=width,
            height=height,
            image=image,
            file_name=decoded.file_name,
            skipped=skipped,
            decode_seconds=decode_seconds,
            read_at=time.monotonic(),
        )

    def _how_it_ended(self, frames: int, pictures: PictureReader) -> tuple[str, str]:
        path = self._recording.path
        if frames == 0:
            raise pictures.no_picture()
        if pictures.over_limit:
            log.warning("%s: %s", path, pictures.over_limit)
            return "over_limit", pictures.over_limit
        if pictures.cut_off:
            detail = f"{frames} frames could be read"
            if self._recording.frames > frames:
                detail = f"{frames} of about {self._recording.frames} frames could be read"
            log.warning("%s: cut off or damaged: %s", path, detail)
            return "truncated", detail
        if pictures.broken:
            count, names = len(pictures.broken), names_of(pictures.broken)
            detail = f"{count} of {self._recording.frames} pictures are damaged: {names}"
            log.warning("%s: %s", path, detail)
            return "damaged", detail
        if pictures.damaged:
            detail = f"{pictures.damaged} packets or pictures were damaged"
            log.warning("%s: %s", path, detail)
            return "damaged", detail
        return "end_of_file", ""


def upright_images(path: Path, limits: Limits = DEFAULT_LIMITS) -> Iterator[ShownPicture]:
    """Every frame of a recording in full size, to be drawn on."""
    converter = PictureConverter(None)
    for frame_index, decoded in enumerate(open_pictures(path, limits=limits)):
        picture = decoded.picture
        stays = (picture.duration or 0) * time_base_of(picture) if decoded.has_time else 0
        yield ShownPicture(
            frame_index,
            converter.convert(picture, decoded.orientation),
            Fraction(stays) if stays > 0 else None,
            int(picture.color_primaries),
            int(picture.color_trc),
        )


def _timed(items: Iterable[T]) -> Iterator[tuple[T, float]]:
    """Each item, and how many seconds it took to get it."""
    iterator = iter(items)
    while True:
        began = time.monotonic()
        try:
            item = next(iterator)
        except StopIteration:
            return
        yield item, time.monotonic() - began


def _capture_time(start: datetime | None, seconds: float) -> datetime | None:
    """When a frame was captured; None if the file does not state it, or it is out of range."""
    if start is None:
        return None
    try:
        return start + timedelta(seconds=seconds)
    except OverflowError:  # a damaged pts, of thousands of years
        return None


def _stated_start(metadata: dict[str, str]) -> datetime | None:
    try:
        start = datetime.fromisoformat(metadata.get("creation_time", ""))
    except ValueError:
        return None
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    return start if start >= EARLIEST_START else None
