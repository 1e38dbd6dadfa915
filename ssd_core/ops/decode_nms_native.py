"""decode_nms in C++ for the CPU: the binding of ``decode_nms_native.cpp``.

The library is built when the package is installed, if a C++ compiler is available; nothing of
Python or PyTorch is compiled into it. A call releases the GIL and runs on one thread.
"""

import ctypes
import importlib.machinery
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssd_core.ops.decode_nms_numpy import logit_bound
from ssd_core.ops.decode_nms_reference import DecodedDetections, UnsupportedSizeError
from ssd_core.ops.decode_nms_settings import DecodeSettings

log = logging.getLogger(__name__)

MOST_CANDIDATES = 2**32
"""Pairs of box and class that fit into a key besides the score."""


class _Settings(ctypes.Structure):
    """``DecodeNmsSettings``."""

    _fields_ = [
        ("softmax", ctypes.c_int32),
        ("score_threshold", ctypes.c_float),
        ("bound", ctypes.c_float),
        ("iou_threshold", ctypes.c_float),
        ("candidates_per_class", ctypes.c_int64),
        ("max_detections", ctypes.c_int64),
        ("box_weights", ctypes.c_float * 4),
    ]


class _Outputs(ctypes.Structure):
    """``DecodeNmsOutputs``."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("boxes", "scores", "labels", "count")]


def why_missing() -> str:
    """Why the library is not available, in one line; empty if it is."""
    return _load()[1]


def decode_nms_native(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    settings: DecodeSettings,
) -> DecodedDetections:
    """See ``decode_nms_reference``: same arguments, same outputs. ``why_missing`` must be empty.

    Raises UnsupportedSizeError for 2**32 pairs of box and class or more.
    """
    library, reason = _load()
    if library is None:
        raise RuntimeError(reason)
    images, boxes, classes = cls_logits.shape
    if boxes * classes >= MOST_CANDIDATES:
        raise UnsupportedSizeError(f"{boxes} boxes of {classes} classes are more than 2**32 pairs")
    result = DecodedDetections.none(images, settings.max_detections, cls_logits.device)
    if not settings.max_detections:
        return result
    # Held until the call is over: the library is given addresses.
    offsets, logits = _readable(bbox_regression), _readable(cls_logits)
    default_boxes_cxcywh = default_boxes_cxcywh.contiguous()
    native_settings = _Settings(
        softmax=settings.activation == "softmax",
        score_threshold=settings.score_threshold,
        bound=logit_bound(settings.score_threshold),
        iou_threshold=settings.iou_threshold,
        candidates_per_class=settings.candidates_per_class,
        max_detections=settings.max_detections,
        box_weights=settings.box_weights,
    )
    outputs = _Outputs(*(tensor.data_ptr() for tensor in result))
    status = library(
        offsets.data_ptr(),
        offsets.dtype == torch.bfloat16,
        logits.data_ptr(),
        logits.dtype == torch.bfloat16,
        default_boxes_cxcywh.data_ptr(),
        images,
        boxes,
        classes,
        ctypes.byref(native_settings),
        ctypes.byref(outputs),
    )
    if status:
        raise MemoryError(f"decode_nms: no memory for the candidates of {boxes} default boxes")
    return result


def _readable(tensor: Tensor) -> Tensor:
    """The tensor in a layout and a type that the library reads: fp32 or bf16."""
    return (tensor.float() if tensor.dtype == torch.float16 else tensor).detach().contiguous()


@cache
def _load() -> tuple[Callable[..., int] | None, str]:
    """The library's function, or None and why, which is logged."""
    found = [
        path
        for suffix in importlib.machinery.EXTENSION_SUFFIXES
        if (path := Path(__file__).with_name(f"_decode_nms_native{suffix}")).exists()
    ]
    reason = "it was not built, as no C++ compiler was found when the package was installed"
    if found:
        try:
            return _declare(ctypes.CDLL(str(found[0])).ssd_core_decode_nms), ""
        except (OSError, AttributeError) as error:
            reason = f"{found[0].name} cannot be loaded: {error}"
    log.info("decode_nms runs in NumPy on the CPU, slower than its library: %s", reason)
    return None, reason


def _declare(function: Any) -> Callable[..., int]:
    """The types of ``ssd_core_decode_nms``."""
    pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    function.argtypes = [
        *(pointer, flag, pointer, flag, pointer),
        *(number, number, number, pointer, pointer),
    ]
    function.restype = flag
    declared: Callable[..., int] = function
    return declared
