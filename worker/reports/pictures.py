"""The pictures of a report: frames of the recording or a snapshot, and heat maps over them.

Takes frames as arrays and counts per cell; gives JPEGs, whose size is bounded. Knows nothing of
pages.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from worker.errors import SourceError
from worker.events import DetectionsEvent
from worker.reports.camera import CameraSum
from worker.sources.folder import folder_digest
from worker.sources.frames_at import FramePlace, frames_at
from worker.sources.limits import DEFAULT_LIMITS
from worker.sources.recording import recording_digest

Picture: TypeAlias = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""
WIDEST_PX, HIGHEST_PX = 960, 720
JPEG_QUALITY = 80
FIELD_GREY = 60
"""Of a heat map without a picture under it, 0 to 255."""
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts", ".m4v", ".mpg", ".webp", ".gif")


@dataclass(frozen=True)
class ShownFrame:
    """A frame to show as an example."""

    picture: Picture
    event: DetectionsEvent | None
    """What was detected in it; None if it has no event."""
    captured_at: datetime | None = None
    """Of a frame without an event."""


def is_recording_of(path: Path, camera: CameraSum) -> bool:
    """Whether a camera's events are a replay of this very recording. Raises SourceError."""
    try:
        digest = folder_digest(path) if path.is_dir() else recording_digest(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot read it: {error.strerror}") from error
    return camera.is_replay and digest == camera.recording_digest


def recording_beside(file: Path, camera: CameraSum) -> Path | None:
    """The recording of a replay, if it lies beside its events under the name of the camera id."""
    if not camera.is_replay:
        return None
    for path in sorted(file.parent.iterdir()):
        if path.stem == camera.camera_id and path.suffix.lower() in VIDEO_SUFFIXES:
            try:
                if is_recording_of(path, camera):
                    return path
            except SourceError:  # it was found and not given: not having it is no failure
                continue
    return None


def read_frames(path: Path, events: Sequence[DetectionsEvent]) -> list[ShownFrame]:
    """The frames of these events, scaled down to be shown. Raises SourceError."""
    places = [
        FramePlace(
            event.data.frame_index,
            event.data.pts,
            _fraction(event.data.time_base),
            (event.data.height, event.data.width),
        )
        for event in events
    ]
    found = frames_at(path, places, DEFAULT_LIMITS)
    return [ShownFrame(fitted(found[event.data.frame_index]), event) for event in events]


def decode_jpeg(jpeg: bytes) -> Picture:
    """A snapshot's picture. Raises SourceError if it is damaged."""
    try:
        with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
            image.draft("RGB", (WIDEST_PX, HIGHEST_PX))
            return fitted(np.asarray(image.convert("RGB")))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise SourceError("the snapshot cannot be decoded") from error


def encode_jpeg(picture: Picture) -> bytes:
    """The picture as a JPEG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return buffer.getvalue()


def heat_map(
    counts: npt.NDArray[np.int64], under: Picture | None, size: tuple[int, int]
) -> Picture:
    """Counts per cell as colours over a picture, or over a plain field of the shape of ``size``.

    ``size``: (height, width) of the camera's frames. Colours follow the square root of the counts:
    half of the scale is a quarter of the maximum.
    """
    if under is None:
        height, width = _fitting_size(size)
        under = np.full((height, width, 3), FIELD_GREY, np.uint8)
    height, width = under.shape[:2]
    share = np.sqrt(counts / max(counts.max(), 1)).astype(np.float32)
    share = np.clip(cv2.resize(share, (width, height), interpolation=cv2.INTER_LINEAR), 0, 1)
    colours = heat_colours((share * 255).astype(np.uint8))
    grey = under.mean(2, keepdims=True) * 0.7
    opacity = np.where(share > 0, 0.25 + 0.6 * share, 0)[:, :, None]
    return np.asarray(grey * (1 - opacity) + colours * opacity, np.uint8)


def heat_colours(share: npt.NDArray[np.uint8]) -> Picture:
    """Colours of matplotlib's inferno: they get brighter evenly, and differ for all eyes."""
    blue_first = np.asarray(cv2.applyColorMap(share, cv2.COLORMAP_INFERNO), np.uint8)
    return np.ascontiguousarray(blue_first[:, :, ::-1])


def heat_scale() -> Picture:
    """The colours from none to the maximum, left to right."""
    return heat_colours(np.tile(np.arange(256, dtype=np.uint8), (12, 1)))


def _fraction(text: str) -> Fraction:
    """As events write it; 0, which no stream has, for what somebody else wrote."""
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return Fraction(0)


def fitted(picture: Picture, widest_px: int = WIDEST_PX) -> Picture:
    """The picture, no larger than what is shown."""
    height, width = _fitting_size(picture.shape[:2], widest_px)
    if (height, width) == picture.shape[:2]:
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def _fitting_size(size: tuple[int, ...], widest_px: int = WIDEST_PX) -> tuple[int, int]:
    """(height, width) of the same shape that fits; never larger."""
    height, width = max(size[0], 1), max(size[1], 1)
    scale = min(widest_px / width, HIGHEST_PX / height, 1.0)
    return max(round(height * scale), 1), max(round(width * scale), 1)
