"""From a decoded picture to its planes, for a detector that scales and converts by itself.

Pictures that a GPU decoded stay on it, where they are. Knows nothing of networks.
"""

from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from torch.utils.dlpack import from_dlpack

from ssd_core.yuv import Matrix, YuvImage
from worker.sources.picture import quarter_turns

FULL_RANGE_FORMATS = {"yuvj420p"}
PLANAR_FORMATS = {"yuv420p", "yuvj420p"}


class PlaneReader:
    """Hands on the planes of 8-bit 4:2:0 pictures; others are made into such, in full size."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, picture: av.VideoFrame) -> YuvImage:
        """The picture's planes, not copied: they keep it alive.

        Planes on a GPU may be in the making still, on its default stream, and are read only in
        what waits for that stream. They are let go of when nothing reads them any more: FFmpeg
        then uses their memory again.
        """
        turns = quarter_turns(picture)
        full_range, matrix = _colours(picture)
        if picture.format.name == "cuda":
            planes = _planes_on_gpu(picture)
            if planes is not None:
                return YuvImage(*planes, full_range, matrix, turns)
        elif picture.format.name in PLANAR_FORMATS and picture.planes[0].line_size > 0:
            y, u, v = (_rows(plane) for plane in picture.planes)
            return YuvImage(y, u, v, full_range, matrix, turns)
        # Limited range BT.601 is what swscale makes of any other format unless told otherwise.
        picture = self._reformatter.reformat(picture, format="yuv420p")
        y, u, v = (_rows(plane) for plane in picture.planes)
        return YuvImage(y, u, v, _colours(picture)[0], _colours(picture)[1], turns)


def _rows(plane: Any) -> npt.NDArray[np.uint8]:
    """(H, W) view of a plane."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def _colours(picture: Any) -> tuple[bool, Matrix]:
    """Full range or not, and the matrix; BT.601 where the stream does not say, as swscale does."""
    full_range = picture.color_range == ColorRange.JPEG or (
        picture.format.name in FULL_RANGE_FORMATS
    )
    return full_range, "bt709" if picture.colorspace == Colorspace.ITU709 else "bt601"


def _planes_on_gpu(picture: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The planes of an NV12 picture that a GPU decoded; None for other formats (10 bit).

    No surface of the decoder is held: FFmpeg has copied each picture out of it, into memory of a
    pool that grows with the pictures in waiting (nvdec.c, av_frame_make_writable; only its flag
    ``unsafe_output``, which is not set, hands the surface itself on).
    """
    if picture.sw_format.name != "nv12" or picture.height % 2 or picture.width % 2:
        return None
    # from_dlpack on the plane itself would ask it to wait for our stream, which PyAV refuses.
    y, chroma = (from_dlpack(plane.__dlpack__()) for plane in picture.planes)
    return y, chroma[..., 0], chroma[..., 1]
