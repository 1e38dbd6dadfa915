"""The clips that benchmarks read, made from data/vtest.avi on first use and cached in .cache.

vtest.avi: a fixed camera over a walkway, 768x576 at 10 frames/s, 795 frames, MS-MPEG4.
"""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
from av.video.reformatter import VideoReformatter
from common import HERE, VIDEO

CACHE = HERE / ".cache"
HD_RATE = 25
HD = (1920, 1080, HD_RATE)
CLIP_RATE = 10
# As cameras send it: no B-frames, a key frame every 50 frames, about 4 Mbit/s in 1080p.
CAMERA_OPTIONS = {"preset": "veryfast", "g": "50", "bf": "0"}
BITS_PER_PIXEL_1000 = 77
"""Thousandths of a bit."""


def hd_clip(frames: int = 795) -> Path:
    """The first ``frames`` of vtest.avi as 1920x1080 H.264 (libx264) at 25 frames/s."""
    return made(f"vtest-1080p25-{frames}.mp4", lambda path: _encode(path, frames, *HD))


def camera_clip(frames: int = 300) -> Path:
    """The first ``frames`` of vtest.avi as H.264 at its own size and rate, 768x576 at 10 fps."""
    return made(
        f"vtest-camera-{frames}.mp4", lambda path: _encode(path, frames, 768, 576, CLIP_RATE)
    )


def short_clip(frames: int) -> Path:
    """The first ``frames`` of vtest.avi, copied without re-encoding."""
    return made(f"vtest-{frames}.avi", lambda path: _copy_packets(path, frames))


def made(name: str, make: Callable[[Path], None]) -> Path:
    """A file or folder in .cache, made on first use; under its name only when it is complete."""
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(exist_ok=True)
        (CACHE / ".gitignore").write_text("*\n")
        unfinished = path.with_stem(f"unfinished-{path.stem}")
        make(unfinished)
        unfinished.rename(path)
    return path


def _encode(path: Path, frames: int, width: int, height: int, rate: int) -> None:
    print(f"making {path.parent.name}/{path.name.removeprefix('unfinished-')}", flush=True)
    reformatter = VideoReformatter()
    with av.open(str(VIDEO)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream("libx264", rate=rate, options=CAMERA_OPTIONS)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.bit_rate = BITS_PER_PIXEL_1000 * width * height * rate // 1000
        for index, picture in enumerate(source.decode(video=0)):
            if index == frames:
                break
            scaled = reformatter.reformat(picture, width, height, "yuv420p")
            scaled.pts, scaled.time_base = index, Fraction(1, rate)
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
