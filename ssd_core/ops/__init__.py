"""Decoding of default boxes and NMS in one step."""

from ssd_core.ops.reference import DecodedDetections, decode_nms_reference

__all__ = ["DecodedDetections", "decode_nms_reference"]
