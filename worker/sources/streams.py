"""Which stream of a container is the video, and its frame rate.

Takes an open container; gives the stream to decode, and a line about those that are passed over.
"""

from fractions import Fraction
from typing import Any

from av.stream import Disposition

PREVIEWS = Disposition.attached_pic | Disposition.timed_thumbnails
"""Cover art, and thumbnails for the seek bar."""
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


def _videos(container: Any) -> list[Any]:
    return [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & PREVIEWS
    ]


def _described(stream: Any) -> str:
    codec = stream.codec_context
    return f"{stream.index} ({codec.name}, {codec.width}x{codec.height})"
