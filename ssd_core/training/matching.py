"""Matching: which default box is to predict which object (paper, section 2.2).

Works on a whole batch at once, on any device and without waiting for it. Knows boxes only.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssd_core.box_coder import cxcywh_to_xyxy

BACKGROUND = -1
"""Instead of the index of an object: the default box is to predict none."""


class Matches(NamedTuple):
    """What each default box of a batch is to predict."""

    objects: Tensor
    """(B, A) int64: index of the object among those of its image, or ``BACKGROUND``."""
    best_iou: Tensor
    """(B, A) fp32: IoU with the object that overlaps it most; 0 where there is none."""


def match_default_boxes(
    boxes_xyxy: Tensor, default_boxes_cxcywh: Tensor, iou_threshold: float = 0.5
) -> Tensor:
    """Index of the object that each default box is to predict, or -1: the background.

    ``boxes_xyxy`` (N, 4), ``default_boxes_cxcywh`` (A, 4), both in [0, 1]; returns (A,) int64.
    Each object gets a default box of its own, as long as there are any: the pair with the highest
    IoU first, then the highest of what is left, and so on. Then every other default box gets the
    object that overlaps it most, if by more than ``iou_threshold``. Ties go to the lower index.
    Objects without area get none.
    """
    boxes, is_object = padded([boxes_xyxy])
    return match_batch(boxes, is_object, default_boxes_cxcywh, iou_threshold).objects[0]


def padded(boxes_xyxy: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The boxes of images, (N_i, 4) each, as one (B, N, 4) fp32; and (B, N): which are boxes."""
    boxes = torch.nn.utils.rnn.pad_sequence([each.float() for each in boxes_xyxy], batch_first=True)
    counts = torch.tensor([len(each) for each in boxes_xyxy]).to(boxes.device, non_blocking=True)
    return boxes, torch.arange(boxes.shape[1], device=boxes.device) < counts[:, None]


def match_batch(
    boxes_xyxy: Tensor, is_object: Tensor, default_boxes_cxcywh: Tensor, iou_threshold: float = 0.5
) -> Matches:
    """``match_default_boxes`` for (B, N, 4) boxes, of which ``is_object`` (B, N) are some."""
    images, objects = is_object.shape
    num_defaults = default_boxes_cxcywh.shape[0]
    if not objects:
        size = images, num_defaults
        background = torch.full(size, BACKGROUND, device=boxes_xyxy.device)
        return Matches(background, torch.zeros(size, device=boxes_xyxy.device))
    is_object = is_object & (boxes_xyxy[..., 2:] > boxes_xyxy[..., :2]).all(-1)
    iou = pairwise_iou(boxes_xyxy, cxcywh_to_xyxy(default_boxes_cxcywh.float()))
    iou = iou.masked_fill_(~is_object[..., None], -1)
    best_iou, best_object = iou.max(dim=1)
    found = best_object.masked_fill(best_iou <= iou_threshold, BACKGROUND)
    chosen = _best_of_its_own(iou, is_object)
    # One column more, for objects that have none.
    found = torch.cat((found, found.new_empty(images, 1)), dim=1)
    found.scatter_(1, chosen, torch.arange(objects, device=found.device).expand(images, -1))
    return Matches(found[:, :num_defaults], best_iou.clamp_(min=0))


def pairwise_iou(boxes_xyxy: Tensor, default_boxes_xyxy: Tensor) -> Tensor:
    """(B, N, A) IoU of boxes (B, N, 4) with default boxes (A, 4)."""
    x1, y1, x2, y2 = boxes_xyxy[..., None].unbind(-2)
    u1, v1, u2, v2 = default_boxes_xyxy.unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0)
    overlap = width.mul_(height)
    areas = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)
    return overlap.div_(areas.sub_(overlap))


def _best_of_its_own(iou: Tensor, is_object: Tensor) -> Tensor:
    """(B, N): the default box of each object, A for none; ``iou`` (B, N, A).

    Every round, each object asks for the default box that it overlaps most, of those that no other
    holds with a higher IoU; each default box is held by the best that asked for it so far. In each
    round at least one more pair is final, the best that is left: the result is that of taking the
    best pair again and again.
    """
    images, objects, num_defaults = iou.shape
    index = torch.arange(objects, device=iou.device)
    held = iou.new_full((images, 1, num_defaults), -0.5)
    """IoU of the holder of each default box."""
    holder = index.new_full((images, 1, num_defaults), objects)
    chosen = index.new_full((images, objects), num_defaults)
    for _ in range(min(objects, num_defaults)):
        is_better = (iou > held) | ((iou == held) & (index[:, None] <= holder))
        value, box = iou.where(is_better, -1.0).max(dim=2)
        asks = is_object & (value >= 0)
        same = (box[:, :, None] == box[:, None, :]) & asks[:, None, :]
        beats = (value[:, None, :] > value[:, :, None]) | (
            (value[:, None, :] == value[:, :, None]) & (index < index[:, None])
        )
        wins = asks & ~(same & beats).any(2)
        chosen = box.where(wins, num_defaults)
        if not iou.is_cuda and bool((wins == asks).all()):
            break
        held, holder = _held(chosen, value, index, num_defaults)
    return chosen


def _held(chosen: Tensor, value: Tensor, index: Tensor, num_defaults: int) -> tuple[Tensor, Tensor]:
    """IoU and index of the object that holds each default box, (B, 1, A) each."""
    images, objects = chosen.shape
    held = value.new_full((images, num_defaults + 1), -0.5).scatter_(1, chosen, value)
    holder = index.new_full((images, num_defaults + 1), objects)
    holder.scatter_(1, chosen, index.expand(images, -1))
    return held[:, None, :num_defaults], holder[:, None, :num_defaults]
