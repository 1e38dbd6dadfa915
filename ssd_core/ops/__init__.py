"""The op decode_nms and the kernels of the fast paths, each under its own stem."""

from ssd_core.ops.decode_nms import decode_nms
from ssd_core.ops.decode_nms_reference import DecodedDetections, decode_nms_reference
from ssd_core.ops.decode_nms_settings import DecodeSettings

__all__ = ["DecodeSettings", "DecodedDetections", "decode_nms", "decode_nms_reference"]
