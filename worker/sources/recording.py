"""Recordings: every frame of a file that FFmpeg can read, in order, with its pts.

Lossless and repeatable: the same file yields the same frames with the same indices each time, so a
replay can resume where it stopped. A file that exceeds a limit is refused, or ends there. Knows
nothing of live cameras.
"""

import hashlib
import logging
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from ssd_core.cores import usable_cores
from worker.errors import SourceError, UsageError
from worker.frames import Frame, SourceItem, StreamDown, StreamUp
from worker.sources.conversion import PictureConverter, make_converter
from worker.sources.limits import DEFAULT_LIMITS, Limits, Meter, OverLimit
from worker.sources.opening import FormatRefused, open_recording, video_of
from worker.sources.picture import seconds_of, time_base_of, upright_size
from worker.sources.sampling import Sampler

log = logging.getLogger(__name__)

DIGEST_EDGE_BYTES = 1 << 20
DEFAULT_RATE = Fraction(25)
"""Frames per second assumed if a file states none (raw H.264)."""
EARLIEST_START = datetime(1971, 1, 1, tzinfo=UTC)
"""An earlier creation time is an unset field (zero means 1904 or 1970), not a date."""
TRUNCATED_SECONDS, TRUNCATED_SHARE = 0.5, 0.02
"""A file that ends this much before its stated duration counts as truncated: muxers round."""


@dataclass(frozen=True)
class Recording:
    """A file that has been probed."""

    path: Path
    camera_id: str
    digest: str
    """SHA-256 over its size and its first and last MiB."""
    frames: int
    """As the file states, or computed from its duration; 0 if it states neither."""
    rate: Fraction
    """Average frames per second."""
    seconds: float
    """When its last frame ends, according to both video stream and file; 0 if either lacks it."""
    start: datetime | None
    """UTC time at which it was recorded; None if the file does not state it."""


def probe_recording(path: Path, camera_id: str, limits: Limits = DEFAULT_LIMITS) -> Recording:
    """Probe a file. Raises UsageError if it is missing, SourceError if it is not a usable video."""
    if not path.exists():
        raise UsageError(f"{path}: no such file")
    if path.is_dir():
        raise UsageError(f"{path}: is a directory: give the files in it")
    if not path.is_file():
        raise UsageError(f"{path}: is not a regular file: copy its content to one")
    try:
        digest = recording_digest(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from error
    if path.stat().st_size == 0:
        raise SourceError(f"{path}: is empty")
    pictures = DecodedPictures(path, limits=limits)
    with pictures.opened() as (container, stream):
        rate = stream.average_rate or stream.guessed_rate or DEFAULT_RATE
        frames = stream.frames
        if not frames and container.duration:
            frames = round(container.duration / av.time_base * rate)
        recording = Recording(
            path,
            camera_id,
            digest,
            frames,
            Fraction(rate),
            _stated_end(container, stream),
            _stated_start(container.metadata),
        )
        if next(pictures.of(container, stream), None) is None:
            raise pictures.no_frame()
    return recording


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
        self._last_seconds: float | None = None
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
        interval_seconds = float(1 / self._recording.rate)
        media_seconds = -interval_seconds
        pictures = DecodedPictures(self._recording.path, self._gpu, self._limits)
        for frame_index, picture in enumerate(pictures, start=1):
            if self._stopped:
                return
            seconds = seconds_of(picture)
            self._last_seconds = seconds
            # Raw H.264 has no pts: without an estimate --fps would let every frame through.
            media_seconds = media_seconds + interval_seconds if seconds is None else seconds
            if self._sampler.accepts(frame_index - 1, media_seconds):
                skipped = self._sampler.take_skipped()
                if seq >= self._first_seq:
                    try:
                        frame = self._frame(frame_index - 1, picture, seconds, skipped)
                    except FFmpegError:  # colours that cannot be converted, from a damaged header
                        # End here, as a resumed replay does: skipping it would shift its numbers.
                        pictures.broken_off = True
                        frame_index -= 1
                        break
                    yield frame
                seq += 1
        reason, detail = self._how_it_ended(frame_index, pictures)
        yield StreamDown(self.camera_id, 0, "ended", reason, detail, frames=frame_index)

    def _frame(
        self, frame_index: int, picture: av.VideoFrame, seconds: float | None, skipped: int
    ) -> Frame:
        height, width = upright_size(picture)
        return Frame(
            camera_id=self.camera_id,
            epoch=0,
            frame_index=frame_index,
            pts=picture.pts,
            time_base=time_base_of(picture),
            captured_at=_capture_time(self._recording.start, seconds),
            clock="file",
            width=width,
            height=height,
            image=self._converter.convert(picture),
            skipped=skipped,
        )

    def _how_it_ended(self, frames: int, pictures: "DecodedPictures") -> tuple[str, str]:
        path, stated = self._recording.path, self._recording.seconds
        if frames == 0:
            raise pictures.no_frame()
        if pictures.over_limit:
            log.warning("%s: %s", path, pictures.over_limit)
            return "over_limit", pictures.over_limit
        missing = 0.0
        if stated and self._last_seconds is not None:
            missing = stated - self._last_seconds - float(1 / self._recording.rate)
        if pictures.broken_off or missing > max(TRUNCATED_SECONDS, stated * TRUNCATED_SHARE):
            detail = f"{frames} of about {self._recording.frames} frames could be read"
            log.warning("%s: cut off or damaged: %s", path, detail)
            return "truncated", detail
        if pictures.damaged:
            detail = f"{pictures.damaged} packets or pictures were damaged"
            log.warning("%s: %s", path, detail)
            return "damaged", detail
        return "end_of_file", ""


class DecodedPictures:
    """Every decodable picture of a file; damaged packets are counted and skipped."""

    def __init__(self, path: Path, gpu: int | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._path = path
        self._limits = limits
        self._gpu = gpu
        self._meter = Meter(limits)
        self.damaged = 0
        """Packets that cannot be decoded, and pictures with errors in them."""
        self.broken_off = False
        """Whether reading stopped before the end of the file, at an error."""
        self._size_refused = False
        self.over_limit = ""
        """The exceeded limit at which reading stopped, or ""."""

    def __iter__(self) -> Iterator[av.VideoFrame]:
        """Pictures in presentation order. Raises SourceError if the file cannot be opened."""
        with self.opened() as (container, stream):
            yield from self.of(container, stream)

    @contextmanager
    def opened(self) -> Iterator[tuple[Any, Any]]:
        """The file's container and its video stream. Raises SourceError."""
        with ExitStack() as stack:
            yield self._open(stack)

    def _open(self, stack: ExitStack) -> tuple[Any, Any]:
        opening = open_recording(self._path, self._limits, self._meter, self._gpu)
        try:
            container = stack.enter_context(opening)
        except FFmpegError as error:
            reason = f"is not a video that FFmpeg can read ({error.strerror})"
            raise SourceError(f"{self._path}: {reason}") from error
        except OSError as error:
            raise SourceError(f"{self._path}: cannot read it: {error.strerror}") from error
        except (OverLimit, FormatRefused) as error:
            raise SourceError(f"{self._path}: {error}") from error
        stream = video_of(container)
        if stream is None:
            raise SourceError(f"{self._path}: has no video stream that can be decoded here")
        return container, stream

    def of(self, container: Any, stream: Any) -> Iterator[av.VideoFrame]:
        """The pictures of an open file, in presentation order."""
        # Not frame threads: with those, damaged pictures differ from run to run.
        stream.thread_type = "SLICE"
        # Two at least: a single one conceals errors in damaged H.264 in another way. FFmpeg advises
        # against more than 16.
        stream.thread_count = min(max(usable_cores(), 2), 16)
        try:
            for packet in container.demux(stream):
                for picture in self._decoded(packet):
                    self._meter.frame(picture.width, picture.height)
                    self.damaged += picture.is_corrupt
                    yield picture
            self._meter.check()
        except OverLimit as error:
            self.over_limit = str(error)
        except FFmpegError:
            self.broken_off = True
        self.broken_off = self.broken_off or bool(self._meter.read_error)
        # FFmpeg resets a size that it refuses, and reports no more about it.
        self._size_refused = stream.codec_context.width == 0

    def no_frame(self) -> SourceError:
        """The error for a file without a decodable picture."""
        reason = self.over_limit or "no frame in it can be decoded"
        if self._size_refused:
            maximum = self._limits.max_pixels
            reason += f": it has no size, or more than {maximum} pixels (--max-pixels)"
        return SourceError(f"{self._path}: {reason}")

    def _decoded(self, packet: Any) -> list[av.VideoFrame]:
        try:
            pictures: list[av.VideoFrame] = packet.decode()
        except FFmpegError:
            self.damaged += 1
            return []
        return pictures


def upright_images(
    path: Path, limits: Limits = DEFAULT_LIMITS
) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    """(frame_index, upright full-size RGB image) of every frame of a recording."""
    converter = PictureConverter(None)
    for frame_index, picture in enumerate(DecodedPictures(path, limits=limits)):
        yield frame_index, converter.convert(picture)


def _capture_time(start: datetime | None, seconds: float | None) -> datetime | None:
    """When a frame was captured; None if the file does not state it, or it is out of range."""
    if start is None or seconds is None:
        return None
    try:
        return start + timedelta(seconds=seconds)
    except OverflowError:  # a damaged pts, of thousands of years
        return None


def _stated_end(container: Any, stream: Any) -> float:
    """The end in seconds, the lower of the two stated: edit lists shorten only the file's."""
    if not stream.duration or not container.duration:
        return 0.0
    of_stream = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    of_file = ((container.start_time or 0) + container.duration) / av.time_base
    return float(min(of_stream, of_file))


def _stated_start(metadata: dict[str, str]) -> datetime | None:
    try:
        start = datetime.fromisoformat(metadata.get("creation_time", ""))
    except ValueError:
        return None
    start = start.replace(tzinfo=UTC) if start.tzinfo is None else start.astimezone(UTC)
    return start if start >= EARLIEST_START else None
