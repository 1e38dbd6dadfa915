"""Which stream of a container is the video, and its frame rate.

Takes an open container; gives the stream to decode, and a line about those that are passed over.
"""

from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

from av.stream import Disposition

PREVIEWS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Cover art, and thumbnails for the seek bar. A track of one picture beside a longer one is a
preview, too, though nothing marks it: cameras write such tracks into MOV and MP4."""
DEFAULT_RATE = Fraction(25)
"""Frames per second assumed if nothing states or shows any (raw H.264)."""


def video_of(container: Any) -> Any | None:
    """The video stream; None if there is none or no decoder for it.

    FFmpeg's choice: the track that is marked as the default, then the one with more pictures in
    what was looked into, then with the higher bit rate. But never a preview.
    """
    videos = _videos(container)
    best = container.streams.best("video")
    if best is not None and best in videos:
        return best
    marked = [stream for stream in videos if stream.disposition & Disposition.default]
    return next(iter(marked or videos), None)


def passed_over(container: Any, chosen: Any) -> str:
    """For people: the chosen stream and the other videos; "" if there are none."""
    others = [_described(stream) for stream in _videos(container) if stream is not chosen]
    if not others:
        return ""
    return f"analysing video stream {_described(chosen)}, not {', '.join(others)}"


def rate_of(stream: Any) -> Fraction:
    """Average frames per second, as far as they are stated or FFmpeg found them."""
    return Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_RATE)


def packets_of(container: Any, on_new_stream: Callable[[], None] = lambda: None) -> Iterator[Any]:
    """The packets of the streams that the container has had since it was opened.

    PyAV does not know a stream that begins later: for its packets it raises IndexError, unless it
    leaves them out at once. ``on_new_stream`` is then called, and the others go on.
    """
    while True:
        try:
            yield from container.demux()
        except IndexError:
            on_new_stream()
        else:
            return


def _videos(container: Any) -> list[Any]:
    videos = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & PREVIEWS
    ]
    longest = max((stream.frames for stream in videos), default=0)  # 0: not stated
    return [stream for stream in videos if stream.frames != 1 or longest <= 1]


def _described(stream: Any) -> str:
    codec = stream.codec_context
    return f"{stream.index} ({codec.name}, {codec.width}x{codec.height})"
