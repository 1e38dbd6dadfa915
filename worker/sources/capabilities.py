"""What PyAV can decode here, found out by trying."""

from typing import Any

from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError

from worker.sources.picture import hardware_decoder

COMMON_CODECS = ("h264", "hevc", "av1", "vp9", "mjpeg", "mpeg4")


def video_decoders() -> list[str]:
    """The common codecs that can be decoded."""
    found = []
    for name in COMMON_CODECS:
        try:
            Codec(name, "r")
        except (FFmpegError, ValueError):
            continue
        found.append(name)
    return found


def hardware_decoders() -> list[str]:
    """Hardware devices that open; the list FFmpeg gives names what it was built with."""
    return [device for device in hwdevices_available() if not why_no_hardware_decoder(device)]


def claim_gpu(gpu: int) -> str:
    """Open a CUDA device for decoding and hold it; why not, if that fails, else nothing.

    FFmpeg shares the device's primary context with PyTorch, and wants to be the one that opens it:
    once PyTorch has, with other flags, FFmpeg refuses. So this comes first.
    """
    accelerator = hardware_decoder(gpu)
    reason = _why_it_does_not_open(accelerator)
    if not reason:
        _claimed.append(accelerator)
    return reason


_claimed: list[Any] = []
"""Held until the process ends: the context closes with the last that holds it."""


def why_no_hardware_decoder(device: str) -> str:
    """Why a hardware device cannot decode H.264 here; empty if it can."""
    return _why_it_does_not_open(HWAccel(device, allow_software_fallback=False))


def _why_it_does_not_open(accelerator: Any) -> str:
    try:
        accelerator._initialize_hw_context(Codec("h264", "r"))  # PyAV has no public probe
    except FFmpegError as error:
        return error.strerror or "FFmpeg cannot open it"
    except (NotImplementedError, AttributeError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""
