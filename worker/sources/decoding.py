"""Every decodable picture of a file that FFmpeg can read, in order.

Lossless and repeatable: damaged packets are counted and skipped, the same way each time. A file
that exceeds a limit is refused, or ends there.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from av.error import FFmpegError, InvalidDataError

from ssd_core.cores import usable_cores
from worker.errors import SourceError
from worker.sources.completeness import Completeness, is_cut
from worker.sources.limits import DEFAULT_LIMITS, Limits, Meter, OverLimit
from worker.sources.opening import FormatRefused, open_recording
from worker.sources.orientation import Orientations
from worker.sources.pictures import DecodedPicture
from worker.sources.stills import decoded, is_still_picture
from worker.sources.streams import packets_of, passed_over, rate_of, video_of
from worker.sources.ts_parts import WHOLE, Part, changes_of, parts_of

log = logging.getLogger(__name__)

MULTIPART = "mpjpeg"
"""FFmpeg's demuxer for it takes the last boundary of a file for the beginning of a part."""
JPEG_STREAMS = {MULTIPART, "mjpeg"}
"""Formats of JPEGs one after the other, which state no length: each has an end of its own."""
START_OF_SCAN, END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
MOST_CHANGES = 1000
"""A file whose programmes change more often is read as one part: to open one takes milliseconds."""


class DecodedPictures:
    """The pictures of one file, and what was wrong with it."""

    def __init__(self, path: Path, gpu: int | None = None, limits: Limits = DEFAULT_LIMITS) -> None:
        self._path = path
        self._limits = limits
        self._gpu = gpu
        self._meter = Meter(limits)
        self.damaged = 0
        """Packets that cannot be decoded, and pictures with errors in them."""
        self.cut_off = False
        """Whether it ends before it should: at an error, or before its stated end."""
        self.over_limit = ""
        """The exceeded limit at which reading stopped, or ""."""
        self.broken: list[str] = []
        self._size_refused = self._has_new_stream = False
        self._is_jpegs = self._is_multipart = self._last_is_whole = False

    def __iter__(self) -> Iterator[DecodedPicture]:
        """Pictures in presentation order. Raises SourceError if the file cannot be opened."""
        failures: list[SourceError] = []
        any_opened = False
        for part in self.parts():
            try:
                with self.opened(part) as (container, stream):
                    any_opened = True
                    yield from self._of(container, stream)
            except SourceError as error:
                failures.append(error)
            except OSError as error:
                failures.append(self._cannot_read(error))
            if self.over_limit:
                return
        if failures and not any_opened:
            raise failures[0]
        for failure in failures:
            log.warning("a part of it: %s", failure)
        self.damaged += len(failures)

    def since(self, pts: int) -> Iterator[DecodedPicture]:
        """Pictures from about ``pts`` on, in ticks of the stream: from a key frame before it.

        Of a file with one part. FFmpeg seeks; what the first pictures refer to may be missing, and
        orientations that were stated before. Raises SourceError, FFmpegError.
        """
        with self.opened() as (container, stream):
            container.seek(pts, stream=stream)
            yield from self._of(container, stream)

    def parts(self) -> Iterator[Part]:
        """The parts to open one by one; transport streams may have several. Raises SourceError."""
        try:
            changes = changes_of(self._path)
        except OSError as error:
            raise self._cannot_read(error) from error
        if 1 < len(changes) <= MOST_CHANGES:
            yield from parts_of(changes, self._video_pid)
        else:
            yield WHOLE

    def say_what_is_in_it(self) -> None:
        """Log what a user may not expect: other videos, and a video that changes."""
        parts = list(self.parts())
        for part in parts:
            with self.opened(part) as (container, stream):
                if line := passed_over(container, stream):
                    log.info("%s: %s", self._path, line)
                codec, pid = stream.codec_context.name, stream.id
            if len(parts) > 1:
                span = f"bytes {part.start} to {'the end' if part.end is None else part.end}"
                log.info("%s: %s: video in %s, PID %d", self._path, span, codec, pid)

    @contextmanager
    def opened(self, part: Part = WHOLE) -> Iterator[tuple[Any, Any]]:
        """The container of a file or a part of it, and its video stream. Raises SourceError."""
        with ExitStack() as stack:
            yield self._open(stack, part)

    def no_picture(self) -> SourceError:
        """The error for a file without a decodable picture."""
        reason = self.over_limit or "no frame in it can be decoded"
        if self._size_refused:
            maximum = self._limits.max_pixels
            reason += f": damaged or cut off, or larger than {maximum} pixels (--max-pixels)"
        return SourceError(f"{self._path}: {reason}")

    def _open(self, stack: ExitStack, part: Part) -> tuple[Any, Any]:
        self._meter = Meter(self._limits)
        opening = open_recording(self._path, self._limits, self._meter, self._gpu, part)
        try:
            container = stack.enter_context(opening)
        except FFmpegError as error:
            reason = f"is not a video that FFmpeg can read ({error.strerror})"
            raise SourceError(f"{self._path}: {reason}") from error
        except OSError as error:
            raise self._cannot_read(error) from error
        except (OverLimit, FormatRefused) as error:
            raise SourceError(f"{self._path}: {error}") from error
        stream = video_of(container)
        if stream is None:
            raise SourceError(f"{self._path}: has no video stream that can be decoded here")
        return container, stream

    def _cannot_read(self, error: OSError) -> SourceError:
        return SourceError(f"{self._path}: cannot read it: {error.strerror}")

    def _video_pid(self, part: Part) -> int:
        try:
            with self.opened(part) as (_, stream):
                return int(stream.id)
        except SourceError:  # reported when it is its turn
            return -1

    def _of(self, container: Any, stream: Any) -> Iterator[DecodedPicture]:
        """The pictures of an open container, in presentation order."""
        # Not frame threads: with those, damaged pictures differ from run to run.
        stream.thread_type = "SLICE"
        # Two at least: a single one conceals errors in damaged H.264 in another way. FFmpeg advises
        # against more than 16.
        stream.thread_count = min(max(usable_cores(), 2), 16)
        self._is_multipart = container.format.name == MULTIPART
        self._is_jpegs = container.format.name in JPEG_STREAMS
        completeness = Completeness(self._path, container, stream, float(1 / rate_of(stream)))
        orientations = Orientations(container.format.name)
        is_still = is_still_picture(self._path, container.format.name)
        try:
            # Of every stream: only the last says where the file ends.
            for packet in packets_of(container, self._note_new_stream):
                completeness.packet(packet)
                if packet.stream is not stream:
                    continue
                for picture in self._decoded(packet):
                    self._meter.frame(picture.width, picture.height)
                    self.damaged += picture.is_corrupt
                    completeness.picture(picture)
                    yield decoded(picture, orientations.of(picture), self._path, is_still)
            self._meter.check()
        except OverLimit as error:
            self.over_limit = str(error)
            return
        except FFmpegError as error:
            self.cut_off |= not self._is_the_end(error)
        self.cut_off |= (
            bool(self._meter.read_error)
            or completeness.end_is_missing
            or (self._is_jpegs and not self._last_is_whole)
            or is_cut(self._path, container.format.name)
        )
        # FFmpeg resets a size that it refuses, and reports no more about it.
        self._size_refused = stream.codec_context.width == 0

    def _note_new_stream(self) -> None:
        if not self._has_new_stream:
            self._has_new_stream = True
            log.warning(
                "%s: another video or sound begins in mid-file, which is not analysed: "
                "write it to a file of its own",
                self._path,
            )

    def _is_the_end(self, error: FFmpegError) -> bool:
        """Whether an error means no more than the end of the file."""
        is_parts = self._is_multipart and isinstance(error, InvalidDataError)
        return is_parts and self._last_is_whole and self._meter.at_end

    def _decoded(self, packet: Any) -> list[Any]:
        if packet.size and self._is_jpegs:
            content = bytes(packet)  # FF is escaped in scans, and a thumbnail comes before the last
            self._last_is_whole = content.rfind(END_OF_IMAGE) > content.rfind(START_OF_SCAN)
        try:
            return list(packet.decode())
        except FFmpegError:
            self.damaged += 1
            return []
