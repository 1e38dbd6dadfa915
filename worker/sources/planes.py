"""From a decoded picture to its planes, for a detector that scales and converts them itself.

Pictures decoded on a GPU stay in its memory. Knows nothing of networks.
"""

from typing import Any

import av
import numpy as np
import numpy.typing as npt
import torch
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from torch.utils.dlpack import from_dlpack

from ssd_core.yuv import Matrix, YuvImage
from worker.sources.orientation import Orientation, orientation_of

FULL_RANGE_FORMATS = {"yuvj420p"}
PLANAR_FORMATS = {"yuv420p", "yuvj420p"}


class PlaneReader:
    """Gives the planes of 8-bit 4:2:0 pictures; other formats are converted to it, in full size."""

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()

    def convert(self, picture: av.VideoFrame, orientation: Orientation | None = None) -> YuvImage:
        """The picture's planes, not copied: they keep it alive.

        Planes on a GPU may still be being written, on its default stream: read them only after
        synchronising with that stream, and release them only when no read is outstanding, because
        FFmpeg then reuses their memory.
        """
        orientation = orientation or orientation_of(picture)
        upright = (orientation.quarter_turns, orientation.mirrored)
        full_range, matrix = _colours(picture)
        if picture.format.name == "cuda":
            planes = _planes_on_gpu(picture)
            if planes is not None:
                return YuvImage(*planes, full_range, matrix, *upright)
        elif picture.format.name in PLANAR_FORMATS and picture.planes[0].line_size > 0:
            y, u, v = (_rows(plane) for plane in picture.planes)
            return YuvImage(y, u, v, full_range, matrix, *upright)
        # From any other format swscale makes limited range BT.601 by default.
        picture = self._reformatter.reformat(picture, format="yuv420p")
        y, u, v = (_rows(plane) for plane in picture.planes)
        return YuvImage(y, u, v, _colours(picture)[0], _colours(picture)[1], *upright)


def _rows(plane: Any) -> npt.NDArray[np.uint8]:
    """(H, W) view of a plane."""
    rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]


def _colours(picture: Any) -> tuple[bool, Matrix]:
    """Whether full range, and the matrix; BT.601 unless the stream states it, as in swscale."""
    full_range = picture.color_range == ColorRange.JPEG or (
        picture.format.name in FULL_RANGE_FORMATS
    )
    return full_range, "bt709" if picture.colorspace == Colorspace.ITU709 else "bt601"


def _planes_on_gpu(picture: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """The planes of an NV12 picture decoded on a GPU; None for other formats (10 bit).

    They hold no surface of the decoder: FFmpeg has copied the picture into memory from a pool that
    grows with the queued pictures (nvdec.c, av_frame_make_writable; only its flag
    ``unsafe_output``, which is not set, returns the surface itself).
    """
    if picture.sw_format.name != "nv12" or picture.height % 2 or picture.width % 2:
        return None
    # from_dlpack on the plane itself would request a wait for our stream, which PyAV refuses.
    y, chroma = (from_dlpack(plane.__dlpack__()) for plane in picture.planes)
    return y, chroma[..., 0], chroma[..., 1]
