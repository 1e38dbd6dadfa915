"""Whether a recording is whole: what its container states against what was read.

Where nothing is stated, nothing is missing. Takes an open container, then its packets and pictures
as they come; gives whether the end is missing. Sound that outlasts the pictures and a last picture
that is shown for a long time do not count.
"""

import struct
from fractions import Fraction
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import av

from worker.sources.picture import time_base_of
from worker.sources.ts_parts import packet_size

CUT_SECONDS, CUT_SHARE = 0.5, 0.02
"""A file that ends this much before its stated end counts as cut off: muxers round."""
STATE_EACH_STREAM = {"mov", "avi"}
"""Demuxers, by the first of their names, whose files state the length of each stream."""
STATE_ONE_LENGTH = {"matroska", "flv"}
"""Those whose files state a length for all streams together, if any. For other files FFmpeg's
duration is what it found at their end, or a guess from the bit rate."""
SEGMENT_INFORMATION, CLUSTER = b"\x15\x49\xa9\x66", b"\x1f\x43\xb6\x75"
DURATIONS = (b"\x44\x89\x84", b"\x44\x89\x88")
"""The element's id, with the length of its number: 4 or 8 bytes."""
SEGMENT_START_BYTES = 1 << 20
BOXES = set(b"ftyp styp moov moof mdat mfra free skip wide sidx ssix emsg prft uuid meta".split())
"""At the top level of MP4 and MOV."""
BOX_HEADER_BYTES, LONG_BOX = 8, struct.Struct(">I4sQ")
RIFF = struct.Struct("<4sI")
"""The header of a chunk: its name, and its length without the header."""
UNKNOWN_LENGTHS = {0, 0x7FFFFFFF, 0xFFFFFFFF}
"""What is there until, or unless, the writer comes back to the header."""
START_OF_SCAN, END_OF_IMAGE = 0xDA, b"\xff\xd9"
GIF_TRAILER = b"\x3b"
GIF_TAIL_BYTES = 16
"""Some writers pad the end."""


class Completeness:
    """Of one container that is read from its start to its end."""

    def __init__(self, path: Path, container: Any, stream: Any, interval_seconds: float) -> None:
        """``interval_seconds``: how long a picture is shown that does not state it."""
        self._interval_seconds = interval_seconds
        self._kind = container.format.name.partition(",")[0]
        self.stated_seconds = self._stated_end(path, container, stream)
        """When the stream, or the last of all streams, should end; 0 if nothing states it."""
        self._picture_end = self._packet_end = 0.0
        self._nothing_read = True

    def packet(self, packet: Any) -> None:
        """Take note of a packet of any stream."""
        if packet.pts is not None and packet.time_base:
            end = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._packet_end = max(self._packet_end, end)

    def picture(self, picture: av.VideoFrame) -> None:
        """Take note of a decoded picture."""
        if picture.pts is None:
            return
        time_base = time_base_of(picture)
        stays = float((picture.duration or 0) * time_base) or self._interval_seconds
        self._picture_end = max(self._picture_end, float(picture.pts * time_base) + stays)
        self._nothing_read = False

    @property
    def end_is_missing(self) -> bool:
        """Whether the container states more than was read, once all of it was read."""
        if not self.stated_seconds or self._nothing_read:
            return False
        reached = self._picture_end
        if self._kind in STATE_ONE_LENGTH:
            reached = max(reached, self._packet_end)
        missing = self.stated_seconds - reached
        return missing > max(CUT_SECONDS, self.stated_seconds * CUT_SHARE)

    def _stated_end(self, path: Path, container: Any, stream: Any) -> float:
        if not container.duration:
            return 0.0
        of_file = Fraction(container.duration, av.time_base)
        if self._kind in STATE_ONE_LENGTH:
            if self._kind == "matroska" and not _matroska_states_its_length(path):
                return 0.0
            # Some writers count from zero, some from the first picture: believe the less.
            return float(of_file)
        if self._kind not in STATE_EACH_STREAM or not stream.duration:
            return 0.0
        of_stream = ((stream.start_time or 0) + stream.duration) * stream.time_base
        # Edit lists shorten only the file's length.
        return float(min(of_stream, Fraction(container.start_time or 0, av.time_base) + of_file))


def stated_length(container: Any) -> float:
    """Seconds that the container says it lasts, or that FFmpeg guesses; 0 if unknown."""
    length = (container.duration or 0) / av.time_base
    start = (container.start_time or 0) / av.time_base
    counts_from_zero = container.format.name.partition(",")[0] in STATE_ONE_LENGTH
    return float(length - start if counts_from_zero and 0 < start < length else length)


def is_cut(path: Path, kind: str) -> bool:
    """Whether a file ends where a file of its format cannot end. Raises OSError.

    ``kind``: FFmpeg's name of its format. Transport streams consist of whole packets. A GIF ends
    with a trailer, and a JPEG's picture with a marker (FFmpeg fills what is missing with grey). The
    boxes of MP4 and the chunks of AVI state their sizes (FFmpeg shortens lengths to what is there).
    """
    if kind == "mpegts":
        packets = packet_size(path)
        return packets is not None and path.stat().st_size % packets[0] != 0
    if kind == "gif":
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - GIF_TAIL_BYTES, 0))
            return GIF_TRAILER not in file.read()
    if kind == "jpeg_pipe":
        return _jpeg_lacks_its_end(path)
    if kind.startswith("mov,"):
        return _is_shorter_than_its_boxes(path)
    return kind == "avi" and _is_shorter_than_its_chunks(path)


def _matroska_states_its_length(path: Path) -> bool:
    """Whether the segment's information has a duration (RFC 9559, 5.1.2). Raises OSError."""
    with path.open("rb") as file:
        start = file.read(SEGMENT_START_BYTES)
    information = start.partition(SEGMENT_INFORMATION)[2].partition(CLUSTER)[0]
    return any(duration in information for duration in DURATIONS)


def _is_shorter_than_its_chunks(path: Path) -> bool:
    """Whether one of the RIFF chunks of a file goes on after its end (OpenDML has several)."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(RIFF.size)
            if len(header) < RIFF.size or not header.startswith(b"RIFF"):
                return False  # whatever follows the video
            _, length = RIFF.unpack(header)
            if length in UNKNOWN_LENGTHS:
                return False
            offset += RIFF.size + length + length % 2
    return offset > size + 1  # the last one may lack its padding


def _is_shorter_than_its_boxes(path: Path) -> bool:
    """Whether the last box of a file goes on after its end (ISO/IEC 14496-12, 4.2)."""
    size, offset = path.stat().st_size, 0
    with path.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(LONG_BOX.size)
            if header[4:8] not in BOXES:
                return False  # whatever follows the video
            length = int.from_bytes(header[:4], "big")
            if length == 1 and len(header) == LONG_BOX.size:
                *_, length = LONG_BOX.unpack(header)
            if length < BOX_HEADER_BYTES:
                return False  # 0: to the end of the file
            offset += length
    return offset > size


def _jpeg_lacks_its_end(path: Path) -> bool:
    """Whether no end of image follows the first scan (ITU-T T.81, B.1.1: FF is escaped in scans).

    The picture's own end: a thumbnail in the segments before has one, too.
    """
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        at = 2  # after the start of image
        while at + 4 <= len(content) and content[at] == 0xFF:
            if content[at + 1] == START_OF_SCAN:
                return content.find(END_OF_IMAGE, at) < 0
            at += 2 + (content[at + 2] << 8 | content[at + 3])
        return at >= len(content)  # else not laid out as expected: the decoder's word counts
