"""What PyAV can decode here, found out by trying."""

from typing import Any

from av.codec import Codec
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError

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


def why_no_hardware_decoder(device: str, index: int | None = None) -> str:
    """Why a hardware device cannot decode H.264 here; empty if it can."""
    try:
        accelerator: Any = HWAccel(
            device, None if index is None else str(index), allow_software_fallback=False
        )
        accelerator._initialize_hw_context(Codec("h264", "r"))  # PyAV has no public probe
    except FFmpegError as error:
        return error.strerror or "FFmpeg cannot open it"
    except (NotImplementedError, AttributeError, RuntimeError, ValueError) as error:
        return str(error) or type(error).__name__
    return ""
