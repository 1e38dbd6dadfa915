"""Whether a recording is whole: what its container states against what was read.

Where nothing is stated, nothing is missing. Takes an open container, then its packets and pictures
as they come; gives whether the end is missing. Sound that outlasts the pictures and a last picture
that is shown for a long time do not count.
"""

import struct
from collections.abc import Callable
from fractions import Fraction
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import av

from worker.sources.picture import time_base_of
from worker.sources.ts_parts import packet_size

CUT_SECONDS, CUT_SHARE = 0.5, 0.02
"""A file that ends this much before its stated end counts as cut off: muxers round."""
STATE_EACH_STREAM = {"mov", "avi", "ivf"}
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
GIF_HEADER_BYTES, GIF_TRAILER, GIF_EXTENSION, GIF_IMAGE = 13, 0x3B, 0x21, 0x2C
PNG_SIGNATURE_BYTES, PNG_CHUNK, PNG_END = 8, struct.Struct(">I4s"), b"IEND"
PNG_CHECKSUM_BYTES = 4
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"
EBML_START_BYTES = 4096
FLV_TAG_BYTES, FLV_TAGS, FLV_TRAILER_BYTES = 11, {8, 9, 18}, 4
IVF_FRAME_BYTES = 12


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
    with a trailer, a PNG with a chunk, and a JPEG's picture with a marker (FFmpeg fills what is
    missing with grey). The boxes of MP4, the chunks of AVI and WebP and the segment of Matroska
    state their sizes (FFmpeg shortens lengths to what is there), as does each tag of FLV and each
    frame of IVF.
    """
    if kind in WALKED:
        return WALKED[kind](path)
    if kind == "mpegts":
        packets = packet_size(path)
        return packets is not None and path.stat().st_size % packets[0] != 0
    if kind.startswith("matroska,"):
        return _is_shorter_than_its_segment(path)
    return kind.startswith("mov,") and _is_shorter_than_its_boxes(path)


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


def _gif_lacks_its_end(path: Path) -> bool:
    """Whether the blocks of a GIF go on after its end (GIF89a, appendix A)."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        try:
            at = GIF_HEADER_BYTES + _colour_table_bytes(content[10])
            while content[at] in (GIF_EXTENSION, GIF_IMAGE):
                if content[at] == GIF_EXTENSION:
                    at += 2
                else:  # the image's place, its colours, and the size of its codes
                    at += 10 + _colour_table_bytes(content[at + 9]) + 1
                while content[at]:
                    at += 1 + content[at]
                at += 1
            return False  # the trailer, or damage, which the decoder reports
        except IndexError:
            return True


def _colour_table_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _png_lacks_its_end(path: Path) -> bool:
    """Whether the last chunk of a PNG is missing (PNG, 5.3), also of one that moves."""
    size, at = path.stat().st_size, PNG_SIGNATURE_BYTES
    with path.open("rb") as file:
        while at + PNG_CHUNK.size <= size:
            file.seek(at)
            length, name = PNG_CHUNK.unpack(file.read(PNG_CHUNK.size))
            if not name.isalpha():
                return False  # damage, which the decoder reports
            at += PNG_CHUNK.size + length + PNG_CHECKSUM_BYTES
            if name == PNG_END:
                return bool(at > size)
    return True


def _flv_lacks_its_end(path: Path) -> bool:
    """Whether the last tag of an FLV goes on after its end (its size, which follows, may lack)."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        at = int.from_bytes(content[5:9], "big") + FLV_TRAILER_BYTES
        while at < len(content):
            if content[at] & 0x1F not in FLV_TAGS:
                return False  # damage, which the decoder reports
            at += FLV_TAG_BYTES + int.from_bytes(content[at + 1 : at + 4], "big")
            at += FLV_TRAILER_BYTES
        return at > len(content) + FLV_TRAILER_BYTES


def _ivf_lacks_its_end(path: Path) -> bool:
    """Whether the last frame of an IVF file goes on after its end."""
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        at = int.from_bytes(content[6:8], "little")
        while at < len(content):
            at += IVF_FRAME_BYTES + int.from_bytes(content[at : at + 4], "little")
        return at > len(content)


def _is_shorter_than_its_segment(path: Path) -> bool:
    """Whether the segment of a Matroska file goes on after its end (RFC 8794, 4 and 6.2)."""
    with path.open("rb") as file:
        start = file.read(EBML_START_BYTES)
    header = _ebml_end(start, 0, EBML)
    if header is None or not (end := _ebml_end(start, header, SEGMENT)):
        return False
    return end > path.stat().st_size


def _ebml_end(content: bytes, at: int, name: bytes) -> int | None:
    """Where an element that begins at ``at`` ends; None for another one, or an unknown size."""
    if content[at : at + len(name)] != name or at + len(name) >= len(content):
        return None
    at += len(name)
    length = 9 - content[at].bit_length()
    value_bits = 7 * length
    size = int.from_bytes(content[at : at + length], "big") & (1 << value_bits) - 1
    return None if size == (1 << value_bits) - 1 else at + length + size


WALKED: dict[str, Callable[[Path], bool]] = {
    "gif": _gif_lacks_its_end,
    "jpeg_pipe": _jpeg_lacks_its_end,
    "png_pipe": _png_lacks_its_end,
    "apng": _png_lacks_its_end,
    "webp_pipe": _is_shorter_than_its_chunks,
    "avi": _is_shorter_than_its_chunks,
    "flv": _flv_lacks_its_end,
    "ivf": _ivf_lacks_its_end,
}
