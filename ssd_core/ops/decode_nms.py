"""The op ``torch.ops.ssd_core.decode_nms``: its schema, its shapes, and which implementation runs.

Its semantics are those of ``decode_nms_reference.py``. On the CPU it runs in C++, or in NumPy if
the library was not built; on CUDA in Triton kernels. Where those cannot run, the reference does, on
the same device, and one warning says why. Importing this module registers the op.
"""

import errno
import logging
import subprocess
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ssd_core.failures import one_line, raise_if_of_device
from ssd_core.ops import decode_nms_native as native
from ssd_core.ops.decode_nms_numpy import decode_nms_numpy
from ssd_core.ops.decode_nms_reference import (
    DecodedDetections,
    UnsupportedSizeError,
    decode_nms_reference,
)
from ssd_core.ops.decode_nms_settings import DecodeSettings

log = logging.getLogger(__name__)

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)
SCHEMA = (
    "(Tensor bbox_regression, Tensor cls_logits, Tensor default_boxes_cxcywh, str activation, "
    "float score_threshold, float iou_threshold, SymInt candidates_per_class, "
    "SymInt max_detections, float[] box_weights) -> (Tensor, Tensor, Tensor, Tensor)"
)
"""Three tensors, then the fields of ``DecodeSettings``, since an op takes no objects. Gives boxes,
scores, labels and count."""

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]


def decode_nms(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    settings: DecodeSettings,
) -> DecodedDetections:
    """Raw head outputs to detections of fixed size, padded with zeros: the op, with named outputs.

    ``bbox_regression`` (B, A, 4) and ``cls_logits`` (B, A, C), class 0 the background, in fp32,
    fp16 or bf16; ``default_boxes_cxcywh`` (A, 4) fp32 in [0, 1]. See ``decode_nms_reference`` for
    what is computed. On CUDA nothing waits for the device, so the call can be captured in a graph,
    unless ``fallback.reason`` says that the reference stands in.

    Raises ValueError for tensors that do not fit together.
    """
    tensors = (bbox_regression, cls_logits, default_boxes_cxcywh)
    return DecodedDetections(*torch.ops.ssd_core.decode_nms(*tensors, *settings.flattened()))


def _on_cpu(
    bbox_regression: Tensor, cls_logits: Tensor, default_boxes_cxcywh: Tensor, *flattened: Any
) -> Outputs:
    settings = DecodeSettings.rebuilt(*flattened)
    tensors = _checked(bbox_regression, cls_logits, default_boxes_cxcywh)
    if not native.why_missing():
        try:
            return _as_outputs(native.decode_nms_native(*tensors, settings))
        except UnsupportedSizeError:
            pass  # for NumPy, this time
    return _as_outputs(decode_nms_numpy(*tensors, settings))


def _on_cuda(
    bbox_regression: Tensor, cls_logits: Tensor, default_boxes_cxcywh: Tensor, *flattened: Any
) -> Outputs:
    settings = DecodeSettings.rebuilt(*flattened)
    tensors = _checked(bbox_regression, cls_logits, default_boxes_cxcywh)
    if not fallback.reason:
        try:
            kernels = _triton_kernels()
            return _as_outputs(kernels(*tensors, settings))
        except UnsupportedSizeError:
            pass  # for the reference, this time
        except Exception as error:  # Triton's own errors have no common class
            fallback.take(error)
    return _as_outputs(decode_nms_reference(*tensors, settings))


def _shapes(
    bbox_regression: Tensor, cls_logits: Tensor, default_boxes_cxcywh: Tensor, *flattened: Any
) -> Outputs:
    images, (*_, max_detections, _) = cls_logits.shape[0], flattened
    return (
        cls_logits.new_empty((images, max_detections, 4), dtype=torch.float32),
        cls_logits.new_empty((images, max_detections), dtype=torch.float32),
        cls_logits.new_empty((images, max_detections), dtype=torch.int64),
        cls_logits.new_empty((images,), dtype=torch.int64),
    )


# Not torch.library.custom_op: its first call imports torch._dynamo, which takes 0.9 s of processor
# time at every start (torch 2.15.0).
_LIBRARY = torch.library.Library("ssd_core", "FRAGMENT")
_LIBRARY.define(f"decode_nms{SCHEMA}", tags=(torch.Tag.pt2_compliant_tag,))
_LIBRARY.impl("decode_nms", _on_cpu, "CPU")
_LIBRARY.impl("decode_nms", _on_cuda, "CUDA")
torch.library.register_fake("ssd_core::decode_nms", _shapes, lib=_LIBRARY)


class Fallback:
    """Whether the reference stands in for the Triton kernels in this process."""

    def __init__(self) -> None:
        self.reason = ""
        """Why, in one line; empty while the kernels are used."""

    def take(self, error: BaseException) -> None:
        """Stop using the kernels in this process, and warn the first time.

        Raises OutOfMemoryError or AcceleratorError if the device caused the error: the caller then
        splits its batch, or ends.
        """
        raise_if_of_device(error)
        if self.reason:
            return
        self.reason = why_no_kernels(error)
        log.warning(
            "no Triton kernels: frames are scaled on the CPU, boxes decoded in plain PyTorch, "
            "no CUDA graphs used, slower: %s",
            self.reason,
        )
        log.debug("why there are no Triton kernels", exc_info=error)


fallback = Fallback()


def why_no_kernels(error: BaseException) -> str:
    """What is missing, or what failed, in one line."""
    said = one_line(error)
    if isinstance(error, ImportError):
        return f"Triton is not installed ({said})"
    if "Failed to find C compiler" in said:
        return "Triton finds no C compiler for its launcher: install gcc, or set CC"
    if "libcuda.so cannot found" in said:
        return "Triton finds no libcuda.so.1: run ldconfig, or set TRITON_LIBCUDA_PATH"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EROFS):
        return f"Triton cannot write its cache: set TRITON_CACHE_DIR ({said})"
    if isinstance(error, subprocess.CalledProcessError):
        return f"the C compiler cannot build Triton's launcher: is Python.h missing? ({said})"
    return f"a kernel failed ({said})"


def _triton_kernels() -> Callable[..., DecodedDetections]:
    # Imported on use: Triton is not available on every machine.
    from ssd_core.ops.decode_nms_triton import decode_nms_triton

    return decode_nms_triton


def _as_outputs(found: DecodedDetections) -> Outputs:
    return found.boxes, found.scores, found.labels, found.count


def _checked(
    bbox_regression: Tensor, cls_logits: Tensor, default_boxes_cxcywh: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The tensors, without the gradients that the op has none of. Raises ValueError."""
    shape = tuple(cls_logits.shape)
    if len(shape) != 3 or shape[2] < 1:
        raise ValueError(f"cls_logits must be (images, boxes, classes), not {shape}")
    for name, tensor, expected in (
        ("bbox_regression", bbox_regression, (*shape[:2], 4)),
        ("default_boxes_cxcywh", default_boxes_cxcywh, (shape[1], 4)),
    ):
        if tuple(tensor.shape) != expected:
            raise ValueError(
                f"{name} must be {expected} beside cls_logits {shape}, not {tuple(tensor.shape)}"
            )
    for name, tensor in (("bbox_regression", bbox_regression), ("cls_logits", cls_logits)):
        if tensor.dtype not in FLOAT_TYPES:
            raise ValueError(f"{name} must be fp32, fp16 or bf16, not {tensor.dtype}")
    if default_boxes_cxcywh.dtype != torch.float32:
        raise ValueError(f"default_boxes_cxcywh must be fp32, not {default_boxes_cxcywh.dtype}")
    devices = {t.device for t in (bbox_regression, cls_logits, default_boxes_cxcywh)}
    if len(devices) > 1:
        raise ValueError(f"all inputs must be on one device, not on {sorted(map(str, devices))}")
    return bbox_regression.detach(), cls_logits.detach(), default_boxes_cxcywh.detach()
