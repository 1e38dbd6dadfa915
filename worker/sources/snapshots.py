"""Snapshots from the decoded pictures of one camera: JPEGs for people to look at.

Takes the frames of a camera with their pictures, in the thread that reads it; gives a snapshot when
one is due, so that the cost of a picture is paid once in a while and not for every frame. A blurred
one is made from so few pixels that no face and no plate is left in it. Knows no place to put them.
"""

import io
import logging
import time
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError

from worker.frames import Frame
from worker.snapshots import Snapshot, SnapshotInfo
from worker.sources.conversion import PictureConverter
from worker.sources.orientation import Orientation
from worker.sources.sampling import Sampler

log = logging.getLogger(__name__)

JPEG_QUALITY = 75
BLURRED_PX = 16
"""What is left of the longer side of a blurred picture. Identifying faces fails abruptly between 18
and 15 pixels across (Bachmann 1991, doi:10.1080/09541449108406221); where one knows them, 12 can do
(P. Sinha). Here a face that fills a quarter of the picture has 4.
"""
BLURRED_SHARE = 8
"""A small picture is made that many times smaller at least."""


@dataclass(frozen=True)
class SnapshotSettings:
    """Which snapshots to make of a camera."""

    seconds: float = 1.0
    """At most one in this time."""
    width_px: int = 640
    """At most; a picture is never enlarged."""
    blur: bool = False


class SnapshotMaker:
    """Makes the snapshots of one camera, over all its connections."""

    def __init__(self, settings: SnapshotSettings, *, fps: float | None = None) -> None:
        """``fps``: of the frames that are analysed, if that is limited."""
        self._settings = settings
        self._period_seconds = max(settings.seconds, 1 / fps if fps else 0.0)
        self._sampler = Sampler(fps=1 / settings.seconds)
        self._size: tuple[int, int] | None = None
        self._converter: PictureConverter
        self._failed = False

    def of(self, frame: Frame, picture: av.VideoFrame, orientation: Orientation) -> Snapshot | None:
        """A snapshot of a frame's picture; None if none is due, or the picture is damaged.

        A picture that cannot be converted is one log line, and no reason to end the camera.
        """
        if frame.damaged or frame.captured_at is None or frame.captured_monotonic is None:
            return None
        if not self._sampler.accepts(frame.frame_index, time.monotonic()):
            return None
        info = SnapshotInfo(
            camera_id=frame.camera_id,
            epoch=frame.epoch,
            frame_index=frame.frame_index,
            time=frame.captured_at,
            blurred=self._settings.blur,
        )
        try:
            image = self._scaled(frame, picture, orientation)
            jpeg = encoded(image, info.to_json(), blur=self._settings.blur)
        except (FFmpegError, OSError, ValueError, MemoryError) as error:
            if not self._failed:
                log.warning(
                    "camera %s: cannot make a snapshot of its pictures: %s", frame.camera_id, error
                )
            self._failed = True
            return None
        return Snapshot(info, jpeg, frame.captured_monotonic, self._period_seconds)

    def _scaled(
        self, frame: Frame, picture: av.VideoFrame, orientation: Orientation
    ) -> npt.NDArray[np.uint8]:
        size = scaled_size(frame.height, frame.width, self._settings.width_px)
        if size != self._size:  # the scaler keeps its tables for one size
            self._size, self._converter = size, PictureConverter(size)
        return self._converter.convert(picture, orientation)


def scaled_size(height: int, width: int, max_width: int) -> tuple[int, int]:
    """(height, width) in the same proportion, at most ``max_width`` wide, and never larger."""
    scaled_width = min(width, max_width)
    return max(1, round(height * scaled_width / width)), scaled_width


def encoded(image: npt.NDArray[np.uint8], comment: str, *, blur: bool) -> bytes:
    """An (H, W, 3) RGB image as a JPEG with a comment, and with nothing else about it."""
    # Takes a while to import, hence only when a snapshot is made.
    from PIL import Image

    picture = Image.fromarray(image)
    if blur:
        height, width = blurred_size(*image.shape[:2])
        coarse = picture.resize((width, height), Image.Resampling.BOX)
        picture = coarse.resize(picture.size, Image.Resampling.BILINEAR)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY, comment=comment)
    return file.getvalue()


def blurred_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) that a picture is reduced to, and enlarged from, to blur it."""
    longer = max(height, width)
    left = min(BLURRED_PX, longer // BLURRED_SHARE)
    return max(1, round(height * left / longer)), max(1, round(width * left / longer))
