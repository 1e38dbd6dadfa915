"""The clips that benchmarks read, made on the spot from data/vtest.avi and kept in .cache.

vtest.avi: a fixed camera over a walkway, 768x576 at 10 frames/s, 795 frames, MS-MPEG4.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter
from common import HERE, VIDEO

CACHE = HERE / ".cache"
HD_WIDTH, HD_HEIGHT, HD_RATE = 1920, 1080, 25
# As cameras send it: no B-frames, a key frame every two seconds, about 4 Mbit/s.
HD_OPTIONS = {"preset": "veryfast", "g": "50", "bf": "0"}
HD_BITS_PER_SECOND = 4_000_000


def hd_clip(frames: int = 795) -> Path:
    """The first ``frames`` of vtest.avi as 1920x1080 H.264 (libx264) at 25 frames/s."""
    return _made(f"vtest-1080p25-{frames}.mp4", lambda path: _encode_hd(path, frames))


def short_clip(frames: int) -> Path:
    """The first ``frames`` of vtest.avi, copied without encoding."""
    return _made(f"vtest-{frames}.avi", lambda path: _copy_packets(path, frames))


def _made(name: str, make: Callable[[Path], None]) -> Path:
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n")
        unfinished = path.with_stem(f"unfinished-{path.stem}")
        make(unfinished)
        unfinished.rename(path)
    return path


def _encode_hd(path: Path, frames: int) -> None:
    print(f"making {path.parent.name}/{path.name.removeprefix('unfinished-')}", flush=True)
    reformatter = VideoReformatter()
    with av.open(str(VIDEO)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=HD_RATE, options=HD_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = HD_WIDTH, HD_HEIGHT, "yuv420p"
        stream.bit_rate = HD_BITS_PER_SECOND
        for index, picture in enumerate(source.decode(video=0)):
            if index == frames:
                break
            scaled = reformatter.reformat(picture, HD_WIDTH, HD_HEIGHT, "yuv420p")
            scaled.pts, scaled.time_base = index, Fraction(1, HD_RATE)
            target.mux(stream.encode(scaled))
        target.mux(stream.encode(None))


def _copy_packets(path: Path, frames: int) -> None:
    with av.open(str(VIDEO)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for index, packet in enumerate(source.demux(video=0)):
            if index == frames or packet.dts is None:
                break
            packet.stream = stream
            target.mux(packet)
