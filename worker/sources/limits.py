"""Limits on what a source may cost: what a crafted or broken one could take in memory and time.

Takes three settings and the numbers of what was read; gives options for FFmpeg, or raises OverLimit
in one line that names the limit and its flag. Knows no container, no URL and no reason code.
"""

import ctypes
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass

from worker.errors import SourceError

log = logging.getLogger(__name__)

PADDING_SHARE, PADDING_PX = 4, 1 << 16
"""FFmpeg counts pixels with the padding to whole blocks: it gets a quarter and 65,536 more, and
the exact limit is checked on the picture."""
BYTES_A_PIXEL = 8
"""At most, in one plane: FFmpeg's rgba64."""


class OverLimit(SourceError):
    """A source exceeds a limit."""


@dataclass(frozen=True)
class Limits:
    """How much a source may cost before it is given up."""

    max_pixels: int = 35_651_584
    """Of a frame. By default the largest picture of H.265 (ITU-T H.265, table A.8, level 6.2, as
    8192x4352): 8K passes; the 16 reference pictures that H.264 may keep are then 860 MB, not 5 GB.
    """
    max_streams: int = 64
    """In a container. Each has a decoder; FFmpeg itself stops at 1,000."""
    max_bytes_without_frame: int = 1 << 28
    """Read in a row without one frame. By default 256 MiB: more than any frame of ``max_pixels``
    that is not compressed, the index of a day's MP4, or an hour of sound without pictures."""

    def container_options(self) -> dict[str, str]:
        """FFmpeg's options for opening a container and for the decoders that look into it."""
        # One above the limit: FFmpeg passes over the streams past its own in some formats, silently
        return self.decoder_options() | {"max_streams": str(self.max_streams + 1)}

    def decoder_options(self) -> dict[str, str]:
        """FFmpeg's options for a decoder: it refuses larger pictures before it allocates them."""
        return {"max_pixels": str(self._padded_pixels)}

    def limit_blocks(self) -> None:
        """Let FFmpeg take no larger piece of memory than these limits need, in this process.

        Its parsers and demuxers collect whatever has no end: 2 to 4 GB of a camera that sent junk
        on a fast line, until the silence was noticed.
        """
        _set_largest_block()(max(self.max_bytes_without_frame, self._padded_pixels * BYTES_A_PIXEL))

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
                f"{width}x{height} is over the limit of {self.max_pixels} pixels a frame "
                "(--max-pixels)"
            )

    def too_many_streams(self) -> OverLimit:
        """The error for too many streams."""
        return OverLimit(
            f"more than {self.max_streams} streams (--max-streams), or memory is short"
        )


@functools.cache
def _set_largest_block() -> Callable[[int], object]:
    """FFmpeg's ``av_max_alloc`` (libavutil/mem.h), which PyAV does not offer itself."""
    import av.packet  # here, so that settings can have limits without PyAV

    try:
        function = ctypes.CDLL(av.packet.__file__).av_max_alloc
    except (OSError, AttributeError) as error:
        log.warning("FFmpeg's memory cannot be limited here: %s", error)
        return lambda largest_bytes: None
    function.argtypes, function.restype = [ctypes.c_size_t], None
    return function


DEFAULT_LIMITS = Limits()


class Meter:
    """Counts what is read of one source from frame to frame."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._bytes = 0
        self.exceeded = False
        """Whether too much was read without a frame; stays so."""
        self.read_error = ""
        """Why reading failed, if it did."""

    def count(self, read_bytes: int) -> None:
        """So much more was read."""
        self._bytes += read_bytes
        self.exceeded = self.exceeded or self._bytes > self._limits.max_bytes_without_frame

    def frame(self, width: int, height: int) -> None:
        """A picture was decoded. Raises OverLimit if it is too large."""
        self._limits.check_size(width, height)
        self._bytes = 0

    def check(self) -> None:
        """Raises OverLimit once too much was read without a frame."""
        if self.exceeded:
            raise OverLimit(
                f"more than {self._limits.max_bytes_without_frame} bytes hold no frame "
                "(--max-bytes-without-frame)"
            )
