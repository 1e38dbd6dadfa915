"""Box coder: boxes to the offsets a head predicts, and back.

Works on default boxes of any layout. Knows nothing of scores, classes or images.
"""

from math import log

import torch
from torch import Tensor

BOX_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
"""Inverse of the variances (0.1, 0.1, 0.2, 0.2) in the authors' Caffe code."""

MAX_LOG_SCALE = log(1000.0 / 16)
"""Limit of the w and h offsets when decoding, against overflow of exp (torchvision's BoxCoder)."""


def encode_boxes(
    boxes_cxcywh: Tensor,
    default_boxes_cxcywh: Tensor,
    weights: tuple[float, ...] = BOX_WEIGHTS,
) -> Tensor:
    """Offsets (..., 4) in x, y, w, h order that carry default boxes onto boxes (paper, eq. 2).

    Both inputs are (..., 4) with positive widths and heights, in the same unit.
    """
    weight = boxes_cxcywh.new_tensor(weights)
    centre = (boxes_cxcywh[..., :2] - default_boxes_cxcywh[..., :2]) / default_boxes_cxcywh[..., 2:]
    size = torch.log(boxes_cxcywh[..., 2:] / default_boxes_cxcywh[..., 2:])
    return torch.cat((centre, size), dim=-1) * weight


def decode_boxes(
    bbox_regression: Tensor,
    default_boxes_cxcywh: Tensor,
    weights: tuple[float, ...] = BOX_WEIGHTS,
) -> Tensor:
    """Boxes (..., 4) cxcywh from offsets (..., 4): the inverse of ``encode_boxes``.

    Exact as long as no box is more than 1000/16 times larger than its default box.
    """
    offsets = bbox_regression / bbox_regression.new_tensor(weights)
    centre = offsets[..., :2] * default_boxes_cxcywh[..., 2:] + default_boxes_cxcywh[..., :2]
    # In fp64, rounded once: vector code of fp32 rounds differently with the place in the tensor.
    scale = offsets[..., 2:].clamp(max=MAX_LOG_SCALE).double().exp().to(offsets.dtype)
    size = scale * default_boxes_cxcywh[..., 2:]
    return torch.cat((centre, size), dim=-1)


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """(..., 4) centre and size to (..., 4) corners x1, y1, x2, y2."""
    half = boxes_cxcywh[..., 2:] / 2
    return torch.cat((boxes_cxcywh[..., :2] - half, boxes_cxcywh[..., :2] + half), dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """(..., 4) corners to (..., 4) centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat(((low + high) / 2, high - low), dim=-1)
