"""Where the programme of an MPEG transport stream changes: a recording may have several parts.

Takes a file; gives the byte offsets at which its program map tables change, and which video streams
they name from there on. FFmpeg decides on streams and codecs once, from what it has looked into: a
codec that changes under one PID breaks its decoder, and a new PID is never read. Each part is
therefore read as a file of its own. Knows nothing of decoding.

Tables: ISO/IEC 13818-1, 2.4.4. A table is looked for in the packet in which it begins.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

log = logging.getLogger(__name__)

SYNC_BYTE = 0x47
PACKET_BYTES = {188: 0, 192: 4, 204: 0}
"""Sizes of packets, and where the sync byte stands in them: plain, with timestamps (M2TS), with
parity."""
SYNCS_TO_TRUST = 5
CHUNK_PACKETS = 1 << 16
LARGE_BYTES = 1 << 31
"""From this size on it takes seconds."""
VIDEO_TYPES = {
    0x01: "MPEG-1", 0x02: "MPEG-2", 0x10: "MPEG-4", 0x1B: "H.264", 0x24: "HEVC", 0x33: "VVC",
    0x42: "AVS", 0xD1: "Dirac", 0xD2: "AVS2", 0xD4: "AVS3", 0xEA: "VC-1",
}  # fmt: skip
"""Stream types of video (ISO/IEC 13818-1, table 2-34, and those that FFmpeg knows)."""
PAT_PID = 0


@dataclass(frozen=True, slots=True)
class Change:
    """A place from which on the tables name other video streams."""

    offset: int
    """In bytes, of the packet that says so."""
    videos: Mapping[int, int]
    """Stream types by PID."""
    header: bytes = b""
    """The packet with the program association table, which FFmpeg needs first."""


@dataclass(frozen=True, slots=True)
class Part:
    """Bytes of a file that are read as a file of their own, after ``header``."""

    start: int = 0
    end: int | None = None
    """None: to the end of the file."""
    header: bytes = b""


WHOLE = Part()


@dataclass
class _Tables:
    """What the tables have said so far."""

    pat: bytes = b""
    programmes: dict[int, dict[int, int]] = field(default_factory=dict)
    """Video streams by the PID of the table that names them."""
    seen: dict[int, bytes] = field(default_factory=dict)

    def videos(self) -> dict[int, int]:
        return {pid: kind for streams in self.programmes.values() for pid, kind in streams.items()}


def packet_size(path: Path) -> tuple[int, int] | None:
    """(bytes, place of the sync byte) of the packets of a transport stream; None for other files.

    Raises OSError.
    """
    with path.open("rb") as file:
        start = file.read(max(PACKET_BYTES) * SYNCS_TO_TRUST)
    for size, sync in PACKET_BYTES.items():
        syncs = start[sync::size][:SYNCS_TO_TRUST]
        if len(syncs) == SYNCS_TO_TRUST and set(syncs) == {SYNC_BYTE}:
            return size, sync
    return None


def changes_of(path: Path) -> list[Change]:
    """Where the video streams of a file change; empty if it is not a transport stream.

    The first is where they are first named. Reads the whole file, at some 450 MB/s, but not again
    while it stays as it is. Raises OSError.
    """
    found = path.stat()
    return _changes_of(path, found.st_ino, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=64)
def _changes_of(path: Path, *_identity: int) -> list[Change]:
    kind = packet_size(path)
    if kind is None:
        return []
    if path.stat().st_size > LARGE_BYTES:
        log.info("%s: looking for changes of its video", path)
    size, sync = kind
    changes: list[Change] = []
    tables = _Tables()
    with path.open("rb") as file:
        for offset, packet in _packets_with_tables(file, size, sync, tables):
            if not _take(packet[sync : sync + 188], packet, tables):
                continue
            videos = tables.videos()
            if videos and (not changes or videos != changes[-1].videos):
                changes.append(Change(offset, videos, tables.pat))
    return changes


def parts_of(changes: Sequence[Change], follow: Callable[[Part], int]) -> Iterator[Part]:
    """The parts of a file in order, each with one video; one part if nothing is known.

    ``follow`` opens a part up to the next change and gives the PID of the video that it would read.
    """
    index: int | None = 0
    while index is not None:
        start = changes[index].offset if index else 0
        header = changes[index].header if index else b""
        following = changes[index + 1].offset if index + 1 < len(changes) else None
        if following is None:
            yield Part(start, None, header)
            return
        pid = follow(Part(start, following, header))
        kind = changes[index].videos.get(pid)
        later = range(index + 1, len(changes))
        index = next((i for i in later if changes[i].videos.get(pid) != kind), None)
        yield Part(start, None if index is None else changes[index].offset, header)


def _packets_with_tables(
    file: BinaryIO, size: int, sync: int, tables: _Tables
) -> Iterator[tuple[int, bytes]]:
    """(offset, packet) of the packets in which a table may begin."""
    offset = 0
    while True:
        file.seek(offset)
        content = np.frombuffer(file.read(size * CHUNK_PACKETS), np.uint8)
        packets = content[: len(content) // size * size].reshape(-1, size)
        if not len(packets):
            return
        in_step = _in_step(packets, sync)
        for index in _table_rows(packets[:in_step], sync, tables):
            yield offset + int(index) * size, packets[index].tobytes()
        if in_step < len(packets):  # damaged, or two files in one: find the next packets
            rest = content[in_step * size + 1 :]
            ahead = _next_sync(rest, size)
            offset += in_step * size
            # Its last packets are looked at again, together with those that follow them.
            offset += max(len(rest) - 2 * size, 1) if ahead is None else 1 + ahead - sync
        else:
            offset += len(packets) * size


def _in_step(packets: npt.NDArray[np.uint8], sync: int) -> int:
    """How many packets from the first on have their sync byte in its place."""
    wrong = np.flatnonzero(packets[:, sync] != SYNC_BYTE)
    return int(wrong[0]) if len(wrong) else len(packets)


def _next_sync(content: npt.NDArray[np.uint8], size: int) -> int | None:
    """Where the next run of three sync bytes begins."""
    found = content == SYNC_BYTE
    run = found[: max(len(content) - 2 * size, 0)].copy()
    for packet in (1, 2):
        run &= found[packet * size : packet * size + len(run)]
    places = np.flatnonzero(run)
    return int(places[0]) if len(places) else None


def _table_rows(packets: npt.NDArray[np.uint8], sync: int, tables: _Tables) -> Iterator[int]:
    """Rows of packets in which the programme table begins, or one that it names."""
    starts = (packets[:, sync + 1] & 0x40) != 0
    pids = (packets[:, sync + 1].astype(np.uint16) & 0x1F) << 8 | packets[:, sync + 2]
    rows = 0
    while rows < len(packets):
        wanted = np.isin(pids[rows:], [PAT_PID, *tables.programmes])
        known = set(tables.programmes)
        for row in np.flatnonzero(wanted & starts[rows:]) + rows:
            yield int(row)
            rows = int(row) + 1
            if set(tables.programmes) != known:
                break  # other tables are wanted from here on
        else:
            return


def _take(packet: bytes, whole: bytes, tables: _Tables) -> bool:
    """Take in a packet with a table; whether the video streams may be others now."""
    pid = (packet[1] & 0x1F) << 8 | packet[2]
    section = _section(packet)
    if section is None or tables.seen.get(pid) == section:
        return False
    tables.seen[pid] = section
    if pid == PAT_PID:
        tables.pat = whole
        named = dict(_programmes(section))
        tables.programmes = {pmt: tables.programmes.get(pmt, {}) for pmt in named}
        for gone in set(tables.seen) - {PAT_PID, *named}:
            del tables.seen[gone]
    else:
        tables.programmes[pid] = dict(_videos(section))
    return True


def _section(packet: bytes) -> bytes | None:
    """The table that begins in a packet; None if there is none, or it does not apply yet."""
    start = 4
    if packet[3] & 0x20:  # an adaptation field comes first
        start += 1 + packet[4]
    if not packet[3] & 0x10 or start >= len(packet):
        return None
    section = packet[start + 1 + packet[start] :]
    if len(section) < 8 or section[0] not in (0, 2) or not section[5] & 1:
        return None
    return section[: 3 + ((section[1] & 0x0F) << 8 | section[2])]


def _programmes(section: bytes) -> Iterator[tuple[int, int]]:
    """(PID of the table, number) of each programme."""
    for at in range(8, len(section) - 7, 4):
        number = section[at] << 8 | section[at + 1]
        if number:  # 0 names the network's table
            yield (section[at + 2] & 0x1F) << 8 | section[at + 3], number


def _videos(section: bytes) -> Iterator[tuple[int, int]]:
    """(PID, stream type) of each video stream of a programme."""
    at = 12 + ((section[10] & 0x0F) << 8 | section[11]) if len(section) > 12 else len(section)
    while at + 5 <= len(section) - 4:
        kind, pid = section[at], (section[at + 1] & 0x1F) << 8 | section[at + 2]
        if kind in VIDEO_TYPES:
            yield pid, kind
        at += 5 + ((section[at + 3] & 0x0F) << 8 | section[at + 4])
