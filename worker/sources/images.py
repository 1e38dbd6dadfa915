"""Whole images out of a stream of bytes, whatever stands between them.

Takes the bytes of an HTTP answer, in pieces of any size; gives the JPEG and PNG images in them.
Only the images themselves say where they begin and end, so that boundaries, headers and lengths of
multipart streams may be wrong or missing. Knows nothing of HTTP and decodes nothing.
"""

import re
from dataclasses import dataclass
from typing import Literal

from worker.sources.limits import Limits, OverLimit

START = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n")
LONGEST_START_BYTES = 8
JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd8-\xfe]")
"""The markers that end coded data or begin a segment (ITU-T T.81, table B.1): not a stuffed zero,
a restart marker or a fill byte."""
START_OF_IMAGE, END_OF_IMAGE, START_OF_SCAN = 0xD8, 0xD9, 0xDA
PNG_CHUNK_FRAME_BYTES = 12
"""Length, type and checksum around the data of a chunk."""


@dataclass(frozen=True)
class Image:
    """One image, still coded."""

    kind: Literal["jpeg", "png"]
    content: bytes


class ImageSplitter:
    """Cuts images out of one stream."""

    def __init__(self, limits: Limits) -> None:
        """``limits.max_bytes_without_frame``: maximum bytes of one image, or between two."""
        self._limits = limits
        self._buffer = bytearray()
        """From the start of an unfinished image on, or the last bytes if there is none."""
        self._inside = False
        self._position = 0
        """Where to continue the search for the end of the image."""
        self._scan_seen = False
        self.bytes_before = 0
        """Since the last image, or the start of the stream, up to the next image."""

    def feed(self, content: bytes) -> list[Image]:
        """The images that these bytes complete. Raises OverLimit."""
        self._buffer += content
        images = []
        while self._inside or self._find_start():
            end = self._png_end() if self._is_png else self._jpeg_end()
            if end is None:
                break
            if end > 0:
                kind: Literal["jpeg", "png"] = "png" if self._is_png else "jpeg"
                images.append(Image(kind, bytes(self._buffer[:end])))
                self.bytes_before = 0
            else:
                self.bytes_before -= end
            self._leave(abs(end))
        if len(self._buffer) + self.bytes_before > self._limits.max_bytes_without_frame:
            raise OverLimit(
                f"more than {self._limits.max_bytes_without_frame} bytes without a frame "
                "(--max-bytes-without-frame)"
            )
        return images

    @property
    def _is_png(self) -> bool:
        return self._buffer[0] == 0x89

    def _find_start(self) -> bool:
        found = START.search(self._buffer)
        if found is None:
            unneeded = max(len(self._buffer) - LONGEST_START_BYTES + 1, 0)
        else:
            unneeded = found.start()
        self._leave(unneeded)
        self.bytes_before += unneeded
        self._inside = found is not None
        return self._inside

    def _leave(self, count: int) -> None:
        """Remove bytes from the buffer, and look for a start in the rest."""
        del self._buffer[:count]
        self._inside = self._scan_seen = False
        self._position = 2

    def _jpeg_end(self) -> int | None:
        """The end of the image; None if it is yet to come, negative if the image is to be left out.

        An image without its end marker ends where the next one starts.
        """
        buffer = self._buffer
        while marker := JPEG_MARKER.search(buffer, self._position):
            start, code = marker.start(), buffer[marker.start() + 1]
            if code == START_OF_IMAGE:
                return start if self._scan_seen else -start
            if code == END_OF_IMAGE:
                return start + 2 if self._scan_seen else -start - 2
            if len(buffer) < start + 4:
                self._position = start
                return None
            self._scan_seen |= code == START_OF_SCAN
            self._position = start + 2 + int.from_bytes(buffer[start + 2 : start + 4])
        self._position = max(self._position, len(buffer) - 1)
        return None

    def _png_end(self) -> int | None:
        """As ``_jpeg_end``."""
        buffer = self._buffer
        position = self._position = max(self._position, LONGEST_START_BYTES)
        while len(buffer) >= position + LONGEST_START_BYTES:
            end = position + PNG_CHUNK_FRAME_BYTES + int.from_bytes(buffer[position : position + 4])
            if not buffer[position + 4 : position + 8].isalpha():
                return -LONGEST_START_BYTES
            if end > len(buffer):
                return None
            if buffer[position + 4 : position + 8] == b"IEND":
                return end
            position = self._position = end
        return None
