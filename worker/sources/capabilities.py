"""What PyAV can decode on this machine, found by trying."""

import ctypes
import io
from typing import Any

import av
import numpy as np
from av.codec import Codec
from av.codec.hwaccel import HWAccel
from av.error import FFmpegError

from worker.sources.opening import hardware_decoder

COMMON_CODECS = ("h264", "hevc", "av1", "vp9", "mjpeg", "mpeg4")
DRIVER_LIBRARIES = {
    "libcuda.so.1": "compute",
    "libnvcuvid.so.1": "video",
}
"""Libraries of NVIDIA's driver that FFmpeg loads for decoding, and the NVIDIA_DRIVER_CAPABILITIES
that mount them into a container."""
PROBE_SIZE_PX = 256
"""Width and height; the minimum of NVIDIA's decoders is 48 to 144, depending on the codec."""


def video_decoders() -> list[str]:
    """The common codecs that this PyAV can decode."""
    found = []
    for name in COMMON_CODECS:
        try:
            Codec(name, "r")
        except (FFmpegError, ValueError):
            continue
        found.append(name)
    return found


def claim_gpu(gpu: int) -> str:
    """Open a CUDA device for decoding and hold it; the reason if that fails, else "".

    Call it before PyTorch opens the device: both share its primary context, and FFmpeg refuses one
    that PyTorch has opened with other flags.
    """
    accelerator = hardware_decoder(gpu)
    reason = _missing_library() or _why_it_does_not_open(accelerator)
    if not reason:
        _claimed.append(accelerator)
    return reason


_claimed: list[Any] = []
"""Held until the process exits: the context closes with its last holder."""


class NotTriedError(Exception):
    """GPU decoding could not be tried."""


def why_no_gpu_decoding(gpu: int) -> str:
    """Why a CUDA device cannot decode, tried as the worker does it; "" if it can.

    Claims the device, so call it before PyTorch opens the device. Then decodes an H.264 picture:
    FFmpeg also opens devices that cannot decode, and silently decodes on the CPU. Raises
    NotTriedError if no picture can be encoded for it.
    """
    reason = claim_gpu(gpu)
    if reason:
        return reason
    try:
        sample = _encoded_picture()
    except (FFmpegError, ValueError) as error:
        raise NotTriedError("this FFmpeg has no libx264 to encode a test picture") from error
    try:
        with av.open(sample, "r", hwaccel=hardware_decoder(gpu)) as container:
            picture = next(container.decode(video=0))
    except (FFmpegError, StopIteration) as error:
        return f"H.264 cannot be decoded: {error}"
    if picture.format.name != "cuda":
        return "the GPU opens, but does not decode H.264"
    return ""


def _missing_library() -> str:
    """The missing library of NVIDIA's driver, and how to mount it into a container; or ""."""
    for library, capability in DRIVER_LIBRARIES.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            return (
                f"{library} of NVIDIA's driver is missing (in a container: "
                f"NVIDIA_DRIVER_CAPABILITIES without {capability!r}?)"
            )
    return ""


def _why_it_does_not_open(accelerator: HWAccel | None) -> str:
    try:
        # PyAV has no public probe.
        accelerator._initialize_hw_context(Codec("h264", "r"))  # type: ignore[union-attr]
    except FFmpegError as error:
        return error.strerror or "FFmpeg cannot open it"
    except (NotImplementedError, AttributeError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""


def _encoded_picture() -> io.BytesIO:
    """A grey H.264 picture in Matroska."""
    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = PROBE_SIZE_PX
        stream.pix_fmt = "yuv420p"
        grey = np.full((PROBE_SIZE_PX, PROBE_SIZE_PX, 3), 128, np.uint8)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, "rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    return file
