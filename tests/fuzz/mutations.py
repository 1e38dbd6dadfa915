"""Broken media: real clips, changed at random in the ways that disks, networks and people do.

Takes a seed, a case number and clips; gives bytes, the ending of the file's name and what was done.
The same seed, case and clips give the same bytes. Knows nothing of what reads them.
"""

import itertools
import random
from dataclasses import dataclass
from pathlib import Path

from tests.clips import cut

KINDS = {
    "mp4": ("clip.mp4", "libx264", {}),
    "fragments": ("fragments.mp4", "libx264", {"g": "6"}),
    "avi": ("clip.avi", "mjpeg", {}),
    "divx": ("divx.avi", "mpeg4", {"g": "6"}),
    "mkv": ("clip.mkv", "libx264", {}),
    "ts": ("clip.ts", "libx264", {"g": "6"}),
    "mpg": ("clip.mpg", "mpeg2video", {}),
    "mjpeg": ("clip.mjpeg", "mjpeg", {}),
    "h264": ("clip.h264", "libx264", {"g": "6"}),
    "hevc": ("clip.mov", "libx265", {"preset": "ultrafast", "x265-params": "log-level=none"}),
    "webm": ("clip.webm", "libvpx", {"deadline": "realtime", "cpu-used": "8"}),
}
SIZES = [(120, 160), (176, 208), (240, 320)]
MARKERS = [
    b"moov", b"mvhd", b"tkhd", b"mdhd", b"hdlr", b"elst", b"stsd", b"avc1", b"avcC", b"hvcC",
    b"stts", b"ctts", b"stsc", b"stsz", b"stco", b"moof", b"tfhd", b"trun", b"mdat",  # MP4
    b"RIFF", b"avih", b"strh", b"strf", b"movi", b"00dc", b"idx1",  # AVI
    b"\x1aE\xdf\xa3", b"\x16T\xaek", b"\x15I\xa9f", b"\x1fC\xb6u", b"\xe0", b"\xb0", b"\xba",
    b"\xa3", b"\x9d\x01\x2a",  # Matroska, VP8
    b"\x00\x00\x01\x67", b"\x00\x00\x01\x68", b"\x00\x00\x01\x65",  # H.264
    b"\x00\x00\x01\xb3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xe0", b"\x47\x40",  # MPEG
    b"\xff\xc0", b"\xff\xc4", b"\xff\xda", b"\xff\xd8",  # JPEG
]  # fmt: skip
"""Markers near sizes, counts, durations and dimensions, in all these formats."""
EXTREMES = [0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, -1]


@dataclass(frozen=True)
class Clip:
    """An undamaged file."""

    kind: str
    ending: str
    content: bytes


@dataclass(frozen=True)
class Broken:
    """A file that may be damaged."""

    content: bytes
    ending: str
    how: str


def make_clips(source: Path, directory: Path, kinds=tuple(KINDS)) -> list[Clip]:
    """Short clips of every kind, in several sizes."""
    clips = []
    for index, kind in enumerate(kinds):
        name, codec, options = KINDS[kind]
        path = cut(
            source, directory / name, frames=12 + index, codec=codec, options=options,
            size=SIZES[index % len(SIZES)], metadata={"creation_time": "2026-11-22T10:15:30Z"},
            container_options={"movflags": "frag_keyframe+empty_moov"}
            if kind == "fragments" else {},
        )  # fmt: skip
        clips.append(Clip(kind, path.suffix, path.read_bytes()))
    return clips


def broken(seed: int, case: int, clips: list[Clip]) -> Broken:
    """One case."""
    rng = random.Random(f"{seed}/{case}")
    clip = rng.choice(clips)
    content, done = bytearray(clip.content), [clip.kind]
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3, 5])):
        mutation = rng.choice(MUTATIONS)
        content = bytearray(mutation(rng, content, clips))
        done.append(mutation.__name__)
    ending = clip.ending if rng.random() < 0.9 else rng.choice(clips).ending
    return Broken(bytes(content), ending, "+".join(done))


def flip_bits(rng, content, clips):
    for _ in range(rng.choice([1, 4, 16, 200]) if content else 0):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return content


def flip_bits_of_the_head(rng, content, clips):
    for _ in range(rng.choice([1, 4, 16]) if content else 0):
        content[rng.randrange(min(len(content), 1500))] ^= 1 << rng.randrange(8)
    return content


def zero_a_run(rng, content, clips):
    start, length = _run(rng, content)
    content[start : start + length] = bytes(len(content[start : start + length]))
    return content


def noise_in_a_run(rng, content, clips):
    start, length = _run(rng, content)
    content[start : start + length] = rng.randbytes(len(content[start : start + length]))
    return content


def cut_the_end(rng, content, clips):
    return content[: rng.randrange(len(content) + 1)]


def cut_the_start(rng, content, clips):
    return content[rng.randrange(len(content) + 1) :]


def cut_out(rng, content, clips):
    start, length = _run(rng, content)
    del content[start : start + length]
    return content


def splice(rng, content, clips):
    """The start of this one and the end of another."""
    other = rng.choice(clips).content
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other)) :]


def insert(rng, content, clips):
    """A piece of another in the middle of this one."""
    other = rng.choice(clips).content
    start, length = _run(rng, other)
    at = rng.randrange(len(content) + 1)
    return content[:at] + other[start : start + length] + content[at:]


def reorder(rng, content, clips):
    edges = sorted(rng.randrange(len(content) + 1) for _ in range(rng.randint(2, 8)))
    edges = [0, *edges, len(content)]
    chunks = [content[a:b] for a, b in itertools.pairwise(edges)]
    rng.shuffle(chunks)
    return b"".join(chunks)


def duplicate(rng, content, clips):
    start, length = _run(rng, content)
    chunk = content[start : start + length]
    return content[:start] + chunk * rng.choice([2, 3, 20]) + content[start + length :]


def re_header(rng, content, clips):
    """The header of one container before the body of another."""
    head = rng.choice(clips).content
    length = rng.choice([16, 64, 256, 1024, 4096])
    return head[:length] + content[rng.choice([0, length]) :]


def extreme_fields(rng, content, clips):
    """Sizes, counts, durations and dimensions far beyond anything plausible."""
    for _ in range(rng.choice([1, 1, 2, 8])):
        marker = rng.choice([m for m in MARKERS if m in content] or [b""])
        at = content.find(marker, rng.choice([0, rng.randrange(len(content) + 1)]))
        at = max(at, 0) + rng.choice([-8, -4, len(marker), len(marker) + rng.randrange(100)])
        width, order = rng.choice([1, 2, 4, 8]), rng.choice(["big", "little"])
        value = rng.choice(EXTREMES) % (1 << 8 * width)
        at = max(0, min(at, len(content) - width))
        content[at : at + width] = value.to_bytes(width, order)
    return content


def _run(rng, content):
    """(start, length) of a part."""
    length = rng.choice([1, 16, 188, 1000, 4096, max(1, len(content) // 3)])
    return rng.randrange(len(content) + 1), length


MUTATIONS = [
    flip_bits, flip_bits_of_the_head, zero_a_run, noise_in_a_run, cut_the_end, cut_the_start,
    cut_out, splice, insert, reorder, duplicate, re_header, extreme_fields, extreme_fields,
]  # fmt: skip
