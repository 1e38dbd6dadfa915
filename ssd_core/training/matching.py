"""Matching: which default box is to predict which object (paper, section 2.2).

Works on a whole batch at once, on any device and without waiting for it. Knows boxes only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_core.box_coder import cxcywh_to_xyxy
from ssd_core.training.kernels import triton_kernels

BACKGROUND = -1
"""Instead of the index of an object: the default box is to predict none."""
LOWEST = 2**31 - 1
"""In the lower half of a key, for the lowest index."""


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


def padded(boxes_xyxy: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The boxes of images, (N_i, 4) each, as one (B, N, 4); and (B, N): which are boxes."""
    place, is_object = places(boxes_xyxy)
    return torch.cat(list(boxes_xyxy))[place], is_object


def places(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, N): where the objects of each image are in ``torch.cat(parts)``; and (B, N): which are.

    Takes as many launches for many images as for one; ``pad_sequence`` takes one for each.
    """
    counts = torch.tensor([len(part) for part in parts])
    step = torch.arange(int(counts.max()))
    is_object = step < counts[:, None]
    place = ((counts.cumsum(0) - counts)[:, None] + step).where(is_object, 0)
    device = parts[0].device
    return place.to(device, non_blocking=True), is_object.to(device, non_blocking=True)


def match_batch(
    boxes_xyxy: Tensor, is_object: Tensor, default_boxes_cxcywh: Tensor, iou_threshold: float = 0.5
) -> Matches:
    """``match_default_boxes`` for (B, N, 4) boxes, of which ``is_object`` (B, N) are some."""
    boxes_xyxy = boxes_xyxy.float()
    images, objects = is_object.shape
    if not objects:
        size = images, default_boxes_cxcywh.shape[0]
        background = torch.full(size, BACKGROUND, device=boxes_xyxy.device)
        return Matches(background, torch.zeros(size, device=boxes_xyxy.device))
    arguments = (boxes_xyxy, is_object, default_boxes_cxcywh, iou_threshold)

    def in_kernels() -> Matches:
        # Imported on use: Triton is not available on every machine.
        from ssd_core.training.matching_triton import match

        return Matches(*match(*arguments))

    return triton_kernels.or_else(boxes_xyxy, in_kernels, lambda: match_batch_plainly(*arguments))


def match_batch_plainly(
    boxes_xyxy: Tensor, is_object: Tensor, default_boxes_cxcywh: Tensor, iou_threshold: float
) -> Matches:
    """``match_batch`` in plain PyTorch, of at least one box an image."""
    images, objects = is_object.shape
    default_boxes_xyxy = cxcywh_to_xyxy(default_boxes_cxcywh.float())
    is_object = is_object & (boxes_xyxy[..., 2:] > boxes_xyxy[..., :2]).all(-1)
    parts = [
        _overlaps(boxes, real, default_boxes_xyxy)
        for boxes, real in zip(in_parts(boxes_xyxy), in_parts(is_object), strict=True)
    ]
    best_iou, best_object, wanted, iou = map(torch.cat, zip(*parts, strict=True))
    found = best_object.masked_fill_(best_iou <= iou_threshold, BACKGROUND)
    keys = _ranks(iou, torch.arange(objects, device=iou.device)[:, None])
    chosen = one_each(keys, wanted, found.shape[1])
    # One column more, for objects that have none.
    found = torch.cat((found, found.new_empty(images, 1)), dim=1)
    found.scatter_(1, chosen, torch.arange(objects, device=found.device).expand(images, -1))
    return Matches(found[:, :-1], best_iou.clamp_(min=0))


def in_parts(batch: Tensor) -> Sequence[Tensor]:
    """What is best computed at a time: the whole batch, on a CPU an image, which its cache holds.

    Each step over 32 images of 20 objects writes 22 MB, most of it to memory that was just mapped:
    matching takes 70 ms of a core by the image, 215 by the batch (AMD EPYC, 8,732 default boxes).
    """
    return batch.split(1) if batch.device.type == "cpu" else (batch,)


def _overlaps(
    boxes_xyxy: Tensor, is_object: Tensor, default_boxes_xyxy: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each default box the highest IoU, -1 without objects, and its object: (B, A) each.

    And of each object the default boxes that it overlaps most, ties by the lower index, with the
    IoU: (B, N, K) each. K = N are enough: whoever has lost N - 1 has lost to every other object.
    """
    iou = pairwise_iou(boxes_xyxy, default_boxes_xyxy).masked_fill_(~is_object[..., None], -1)
    best_iou, best_object = iou.max(dim=1)
    objects, num_defaults = iou.shape[1:]
    keys = _ranks(iou, torch.arange(num_defaults, device=iou.device))
    best = keys.topk(min(objects, num_defaults), dim=2).values  # of iou, it would leave ties open
    wanted = LOWEST - (best & LOWEST)
    return best_iou, best_object, wanted, iou.gather(2, wanted)


def _ranks(iou: Tensor, index: Tensor) -> Tensor:
    """Integers in the order of IoU, ties by the lower index; negative where the IoU is."""
    # As integers, positive fp32 numbers are in the same order.
    return iou.view(torch.int32).to(torch.int64).mul_(1 << 32).add_(LOWEST - index)


def pairwise_iou(boxes_xyxy: Tensor, default_boxes_xyxy: Tensor) -> Tensor:
    """(B, N, A) IoU of boxes (B, N, 4) with default boxes (A, 4)."""
    x1, y1, x2, y2 = boxes_xyxy[..., None].unbind(-2)
    u1, v1, u2, v2 = default_boxes_xyxy.unbind(-1)
    width = (torch.minimum(x2, u2) - torch.maximum(x1, u1)).clamp_(min=0)
    height = (torch.minimum(y2, v2) - torch.maximum(y1, v1)).clamp_(min=0)
    overlap = width.mul_(height)
    areas = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)
    return overlap.div_(areas.sub_(overlap))


def one_each(keys: Tensor, wanted: Tensor, num_defaults: int) -> Tensor:
    """(B, N): the default box of each object, A for none.

    ``keys`` and ``wanted``, (B, N, K) int64: of each object the default boxes that it overlaps
    most, in the order of their keys, which are higher for a better pair, differ between objects,
    and are negative where there is none. Takes the best pair, then the best of what is left, and so
    on.

    Every round, each object asks for the best of its default boxes, of those that no other holds
    with a higher key; each default box is held by the best that asked for it. In each round at
    least one more pair is final, the best that is left.
    """
    images, objects, count = wanted.shape
    held = keys.new_full((images, num_defaults + 1), -1)
    """Key of the pair that each default box is in."""
    chosen = wanted.new_full((images, objects), num_defaults)
    for _ in range(count):
        is_lost = held.gather(1, wanted.flatten(1)).view_as(keys) > keys
        key, place = keys.masked_fill(is_lost, -1).max(dim=2)
        asks = key >= 0
        box = wanted.gather(2, place[..., None])[..., 0].where(asks, num_defaults)
        held = torch.full_like(held, -1).scatter_reduce_(1, box, key, "amax")
        wins = asks & (held.gather(1, box) == key)
        chosen = box.where(wins, num_defaults)
        if not wanted.is_cuda and bool((wins == asks).all()):  # to ask would wait for a device
            break
    return chosen
