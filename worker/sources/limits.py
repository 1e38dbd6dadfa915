"""Limits on the memory and time that a crafted or broken source can cost.

Takes three settings and counts of what was read; gives options for FFmpeg, or raises OverLimit with
one line that names the limit and its flag. Knows nothing of containers, URLs and reason codes.
"""

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from worker.errors import SourceError

log = logging.getLogger(__name__)

PADDING_SHARE, PADDING_PX = 4, 1 << 16
"""FFmpeg counts pixels including the padding to whole blocks: its limit is a quarter and 65,536
higher, and the exact limit is checked on the picture."""
BYTES_PER_PIXEL = 8
"""Maximum in one plane: FFmpeg's rgba64."""


class OverLimit(SourceError):
    """A source exceeds a limit."""


@dataclass(frozen=True)
class Limits:
    """The most that a source may cost before it is abandoned."""

    max_pixels: int = 35_651_584
    """Per frame. By default the largest picture of H.265 (ITU-T H.265, table A.8, level 6.2, as
    8192x4352): 8K passes; the 16 reference pictures that H.264 may keep then take 860 MB, not 5 GB.
    """
    max_streams: int = 64
    """Per container. Each has a decoder; FFmpeg's own limit is 1,000."""
    max_bytes_without_frame: int = 1 << 28
    """Consecutive bytes without a frame. By default 256 MiB: more than any uncompressed frame of
    ``max_pixels``, the index of a day's MP4, or an hour of sound without pictures."""

    def container_options(self) -> dict[str, str]:
        """FFmpeg's options for opening a container and for the decoders that probe it."""
        # One above ours: in some formats FFmpeg silently ignores the streams above its limit.
        return self.decoder_options() | {"max_streams": str(self.max_streams + 1)}

    def decoder_options(self) -> dict[str, str]:
        """FFmpeg's options for a decoder: it refuses larger pictures before it allocates them."""
        return {"max_pixels": str(self._padded_pixels)}

    def limit_blocks(self) -> None:
        """Limit FFmpeg's allocations in this process to the largest that these limits need.

        Its parsers and demuxers buffer endless input: 2 to 4 GB from a camera that sent garbage
        over a fast link, until it was disconnected for sending no packet.
        """
        largest_bytes = max(self.max_bytes_without_frame, self._padded_pixels * BYTES_PER_PIXEL)
        _set_largest_block()(largest_bytes)

    @property
    def _padded_pixels(self) -> int:
        return self.max_pixels + self.max_pixels // PADDING_SHARE + PADDING_PX

    def check_streams(self, streams: int) -> None:
        """Raises OverLimit for too many streams in a container."""
        if streams > self.max_streams:
            raise self.too_many_streams()

    def check_size(self, width: int, height: int) -> None:
        """Raises OverLimit for pictures that are too large."""
        if width * height > self.max_pixels:
            raise OverLimit(
                f"{width}x{height} is over the limit of {self.max_pixels} pixels per frame "
                "(--max-pixels)"
            )

    def check_bytes(self, size_bytes: int) -> None:
        """Raises OverLimit for a picture's file that is too large to be read at once."""
        if size_bytes > self.max_bytes_without_frame:
            raise OverLimit(
                f"{size_bytes} bytes are over the limit of {self.max_bytes_without_frame} bytes "
                "without a frame (--max-bytes-without-frame)"
            )

    def too_many_streams(self) -> OverLimit:
        """The error for too many streams."""
        return OverLimit(
            f"more than {self.max_streams} streams (--max-streams), or memory is short"
        )


@functools.cache
def _set_largest_block() -> Callable[[int], object]:
    """FFmpeg's ``av_max_alloc`` (libavutil/mem.h), which PyAV does not expose."""
    import av.packet  # here, so that settings can import the limits without PyAV

    try:
        function = ctypes.CDLL(av.packet.__file__).av_max_alloc
    except (OSError, AttributeError) as error:
        log.warning("the size of FFmpeg's allocations cannot be limited here: %s", error)
        return lambda largest_bytes: None
    function.argtypes, function.restype = [ctypes.c_size_t], None
    return function


DEFAULT_LIMITS = Limits()


class Meter:
    """Counts the bytes that are read from one source between frames."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self.exceeded = False
        """Whether too much was read without a frame; never reset."""
        self.read_error = ""
        """Why reading failed, or ""."""
        self.at_end = False
        """Whether the source was read to its end at least once."""

    def count(self, read_bytes: int) -> None:
        """Count bytes that were read."""
        self._bytes += read_bytes
        self.exceeded = self.exceeded or self._bytes > self._limits.max_bytes_without_frame

    def frame(self, width: int, height: int) -> None:
        """Count from a decoded picture on. Raises OverLimit if the picture is too large."""
        self._limits.check_size(width, height)
        self._bytes = 0

    def check(self) -> None:
        """Raises OverLimit if too much was read without a frame."""
        if self.exceeded:
            raise OverLimit(
                f"more than {self._limits.max_bytes_without_frame} bytes without a frame "
                "(--max-bytes-without-frame)"
            )
