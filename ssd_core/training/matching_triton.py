"""Matching on CUDA: three kernels for what ``matching`` computes, with the same numbers.

    overlapping_kernel  of each default box the object that overlaps it most
    best_kernel         of each object the default box that it overlaps most
    assigning_kernel    per image: a default box of its own for each object

PyTorch would write the IoU of every pair, and its keys, several times. Here they are computed where
they are needed, and again for an object that loses its default box to another: few do.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 256
"""Default boxes of one program of ``overlapping_kernel``, two a lane."""
SCANNED = 2048
"""Default boxes that the other two look at in one step, eight a lane."""

_LOWEST = tl.constexpr(2**31 - 1)  # matching.LOWEST
_BACKGROUND = tl.constexpr(-1)  # matching.BACKGROUND
_ANY = tl.constexpr(2**63 - 1)
"""Above every key."""


def match(
    boxes_xyxy: Tensor, is_object: Tensor, default_boxes_cxcywh: Tensor, iou_threshold: float
) -> tuple[Tensor, Tensor]:
    """See ``matching.match_batch``, which this is for at least one box an image: (B, A) each."""
    images, objects = is_object.shape
    num_defaults = default_boxes_cxcywh.shape[0]
    device = boxes_xyxy.device
    found = torch.empty(images, num_defaults, dtype=torch.int64, device=device)
    best_iou = torch.empty(images, num_defaults, dtype=torch.float32, device=device)
    keys = torch.empty(images, objects, dtype=torch.int64, device=device)
    boxes = (boxes_xyxy.float().contiguous(), is_object.contiguous())
    default_boxes = (default_boxes_cxcywh.float().contiguous(), num_defaults)
    options = {"enable_fp_fusion": False}  # PyTorch rounds after each operation
    with torch.cuda.device_of(boxes_xyxy):
        overlapping_kernel[(triton.cdiv(num_defaults, BLOCK), images)](
            *boxes, *default_boxes, found, best_iou, objects, iou_threshold,
            BLOCK=BLOCK, num_warps=4, **options,
        )  # fmt: skip
        best_kernel[(objects, images)](
            *boxes, *default_boxes, keys, SCANNED=SCANNED, num_warps=8, **options
        )
        assigning_kernel[(images,)](
            boxes[0], *default_boxes, keys, found, objects,
            OBJECTS=triton.next_power_of_2(objects), SCANNED=SCANNED, num_warps=8, **options,
        )  # fmt: skip
    return found, best_iou


@triton.jit  # type: ignore[untyped-decorator]
def overlapping_kernel(
    boxes_xyxy: tl.tensor,
    is_object: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    num_defaults: tl.tensor,
    found: tl.tensor,
    best_iou: tl.tensor,
    objects: tl.tensor,
    iou_threshold: tl.tensor,
    BLOCK: tl.constexpr,
) -> None:
    """BLOCK default boxes of one image, one object after another; ties go to the lower index."""
    image = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < num_defaults
    u1, v1, u2, v2 = _default_box(default_boxes_cxcywh, index, inside)
    best = tl.full((BLOCK,), -1.0, tl.float32)
    best_object = tl.full((BLOCK,), 0, tl.int64)
    for number in range(0, objects):
        place = image * objects + number
        x1, y1, x2, y2, is_real = _object(boxes_xyxy, is_object, place)
        iou = tl.where(is_real, _iou(x1, y1, x2, y2, u1, v1, u2, v2), -1.0)
        is_better = iou > best
        best = tl.where(is_better, iou, best)
        best_object = tl.where(is_better, number, best_object)
    place = image * num_defaults + index
    enough = tl.where(best > iou_threshold, best_object, _BACKGROUND)
    tl.store(found + place, enough, mask=inside)
    tl.store(best_iou + place, tl.maximum(best, 0.0), mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def best_kernel(
    boxes_xyxy: tl.tensor,
    is_object: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    num_defaults: tl.tensor,
    keys: tl.tensor,
    SCANNED: tl.constexpr,
) -> None:
    """One object: the key of its best default box, -1 if it has no area."""
    place = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    x1, y1, x2, y2, is_real = _object(boxes_xyxy, is_object, place)
    key = _best_below(x1, y1, x2, y2, default_boxes_cxcywh, num_defaults, _ANY, SCANNED)
    tl.store(keys + place, tl.where(is_real, key, -1))


@triton.jit  # type: ignore[untyped-decorator]
def assigning_kernel(
    boxes_xyxy: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    num_defaults: tl.tensor,
    keys: tl.tensor,
    found: tl.tensor,
    objects: tl.tensor,
    OBJECTS: tl.constexpr,
    SCANNED: tl.constexpr,
) -> None:
    """One image. Each object stands at a default box; the best of these pairs is looked at.

    If another object has its default box already, the object moves on to its next one. Of pairs
    with the same IoU, the object with the lower index comes first.
    """
    image = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, OBJECTS)
    key = tl.load(keys + image * objects + index, mask=index < objects, other=-1)
    mine = tl.full((OBJECTS,), -1, tl.int64)
    rank = _rank(key, index)
    best = tl.max(rank, 0)
    while best >= 0:
        is_best = rank == best
        own = tl.max(tl.where(is_best, key, -1), 0)
        wish = _LOWEST - (own & _LOWEST)
        following = tl.full((), -1, tl.int64)
        if tl.max((mine == wish).to(tl.int32), 0) == 1:
            corner = boxes_xyxy + (image * objects + _LOWEST - (best & _LOWEST)) * 4
            following = _best_below(
                tl.load(corner), tl.load(corner + 1), tl.load(corner + 2), tl.load(corner + 3),
                default_boxes_cxcywh, num_defaults, own, SCANNED,
            )  # fmt: skip
        else:
            mine = tl.where(is_best, wish, mine)
        key = tl.where(is_best, following, key)
        rank = _rank(key, index)
        best = tl.max(rank, 0)
    tl.store(found + image * num_defaults + mine, index.to(tl.int64), mask=mine >= 0)


@triton.jit  # type: ignore[untyped-decorator]
def _rank(key: tl.tensor, index: tl.tensor) -> tl.tensor:
    """Keys of pairs, in the order of IoU, ties by the object's ``index``; -1 where ``key`` is."""
    return tl.where(key >= 0, (key >> 32 << 32) | (_LOWEST - index), -1)


@triton.jit  # type: ignore[untyped-decorator]
def _best_below(
    x1: tl.tensor,
    y1: tl.tensor,
    x2: tl.tensor,
    y2: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    num_defaults: tl.tensor,
    below: tl.tensor,
    SCANNED: tl.constexpr,
) -> tl.tensor:
    """The greatest key below ``below`` of an object's default boxes, -1 without any.

    A key is the bits of the IoU above the inverted index: positive fp32 numbers sort as their bits.
    """
    best = tl.full((SCANNED,), -1, tl.int64)
    for first in range(0, num_defaults, SCANNED):
        index = first + tl.arange(0, SCANNED)
        inside = index < num_defaults
        u1, v1, u2, v2 = _default_box(default_boxes_cxcywh, index, inside)
        iou = _iou(x1, y1, x2, y2, u1, v1, u2, v2)
        key = (iou.to(tl.int32, bitcast=True).to(tl.int64) << 32) | (_LOWEST - index)
        best = tl.where(inside & (key < below) & (key > best), key, best)
    return tl.max(best, 0)


@triton.jit  # type: ignore[untyped-decorator]
def _object(
    boxes_xyxy: tl.tensor, is_object: tl.tensor, place: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Corners, and whether it is an object with area."""
    corner = boxes_xyxy + place * 4
    x1, y1 = tl.load(corner), tl.load(corner + 1)
    x2, y2 = tl.load(corner + 2), tl.load(corner + 3)
    is_real = (tl.load(is_object + place) != 0) & (x2 > x1) & (y2 > y1)
    return x1, y1, x2, y2, is_real


@triton.jit  # type: ignore[untyped-decorator]
def _default_box(
    default_boxes_cxcywh: tl.tensor, index: tl.tensor, inside: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Corners of default boxes."""
    box = default_boxes_cxcywh + index * 4
    x, y = tl.load(box, mask=inside, other=0.0), tl.load(box + 1, mask=inside, other=0.0)
    half_width = tl.load(box + 2, mask=inside, other=1.0) * 0.5
    half_height = tl.load(box + 3, mask=inside, other=1.0) * 0.5
    return x - half_width, y - half_height, x + half_width, y + half_height


@triton.jit  # type: ignore[untyped-decorator]
def _iou(
    x1: tl.tensor,
    y1: tl.tensor,
    x2: tl.tensor,
    y2: tl.tensor,
    u1: tl.tensor,
    v1: tl.tensor,
    u2: tl.tensor,
    v2: tl.tensor,
) -> tl.tensor:
    """As ``matching.pairwise_iou``, operation by operation."""
    width = tl.maximum(tl.minimum(x2, u2) - tl.maximum(x1, u1), 0.0)
    height = tl.maximum(tl.minimum(y2, v2) - tl.maximum(y1, v1), 0.0)
    overlap = width * height
    areas = (x2 - x1) * (y2 - y1) + (u2 - u1) * (v2 - v1)
    return tl.div_rn(overlap, areas - overlap)
