"""Decoding of default boxes and NMS in one op."""

from ssd_core.ops.decode_nms import decode_nms
from ssd_core.ops.decode_nms_reference import DecodedDetections, decode_nms_reference

__all__ = ["DecodedDetections", "decode_nms", "decode_nms_reference"]
