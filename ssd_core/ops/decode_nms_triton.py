"""decode_nms for CUDA: Triton kernels, no host synchronisation, every size fixed beforehand.

    _find_candidates  one pass over the logits: activation, threshold, and a list of candidates per
                      image and class
    _suppress         per image and class: the best K of the list, their boxes, greedy NMS; launched
                      for short lists, which nearly all are, and once more for long ones
    _merge            per image: the best D over the classes, their boxes again, padding

A candidate is one int64 key: the bits of its score above the inverted index of its default box.
Scores are positive, so their bits sort as they do, and no two keys are equal: whatever the order in
which blocks append to a list, the sorted list is the same. That makes the op deterministic.
Answers to ``ops/reference.py``; knows nothing of devices other than the one its inputs are on.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssd_core.box_coder import MAX_LOG_SCALE
from ssd_core.ops.reference import DecodedDetections, UnsupportedSizeError

MAX_SORTED = 2048
"""Keys that one program sorts: the limit of candidates_per_class and max_detections. Triton sorts
in registers, and compile time grows with the size."""
KEYS_PER_WARP = 512
"""16 int64 keys a lane: 512 candidates, the usual limit, need one warp and so no barrier in NMS."""
SHORT_LIST = 64
"""Candidates of a class, at most, that have a launch of their own: lists mostly hold about ten, and
code made for 512 is four times as long and takes 230 registers instead of 79 (sm_90)."""
WORKSPACE_BYTES = 512 * 2**20
"""Candidate lists held at once. They have room for every box of every class: 6 MiB an image for
SSD300 with 91 classes. Larger batches go in several rounds."""
LOGITS_PER_BLOCK = 1024
"""One warp's work: with more warps, rows would be spread over them and each softmax would wait for
all. On sm_90, 91 classes: 107 instructions a row where four warps on 4,096 logits take 247."""
SELECT_CHUNK = 1024
_MAX_LOG_SCALE = tl.constexpr(MAX_LOG_SCALE)


def decode_nms_triton(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    activation: str,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    box_weights: Sequence[float],
) -> DecodedDetections:
    """See ``decode_nms_reference``: same arguments, same outputs.

    Raises UnsupportedSizeError if ``candidates_per_class`` (or the number of default boxes, if that
    is less) or ``max_detections`` is above ``MAX_SORTED``.
    """
    num_images, num_boxes, num_classes = cls_logits.shape
    foreground = num_classes - 1
    best = min(candidates_per_class, num_boxes)
    device = cls_logits.device
    if 0 in (num_images, foreground, best, max_detections):
        return DecodedDetections.none(num_images, max_detections, device)
    if max(best, max_detections) > MAX_SORTED:
        raise UnsupportedSizeError(
            f"candidates_per_class {candidates_per_class} or max_detections {max_detections} is "
            f"above {MAX_SORTED}"
        )
    bbox_regression, cls_logits = bbox_regression.contiguous(), cls_logits.contiguous()
    default_boxes_cxcywh = default_boxes_cxcywh.float().contiguous()
    kept_per_class = min(best, max_detections)  # more of one class than all together: never

    at_once = max(1, min(num_images, WORKSPACE_BYTES // (foreground * num_boxes * 8)))
    at_once = triton.cdiv(num_images, triton.cdiv(num_images, at_once))  # rounds of like size
    result = DecodedDetections(
        boxes=torch.empty(num_images, max_detections, 4, device=device),
        scores=torch.empty(num_images, max_detections, device=device),
        labels=torch.empty(num_images, max_detections, dtype=torch.int64, device=device),
        count=torch.empty(num_images, dtype=torch.int64, device=device),
    )
    keys = torch.empty(at_once * foreground * num_boxes, dtype=torch.int64, device=device)
    kept = torch.empty(at_once * foreground * kept_per_class, dtype=torch.int64, device=device)
    counts = torch.empty(at_once * (num_classes + 1), dtype=torch.int32, device=device)
    candidate_counts, kept_counts = counts[at_once:], counts[:at_once]

    classes_padded = triton.next_power_of_2(num_classes)
    rows = max(1, LOGITS_PER_BLOCK // classes_padded)
    best_padded, detections_padded = _padded(best), _padded(max_detections)
    lists = (
        [(0, SHORT_LIST), (SHORT_LIST, num_boxes)] if best_padded > SHORT_LIST else [(0, num_boxes)]
    )
    with torch.cuda.device_of(cls_logits):
        for first in range(0, num_images, at_once):
            images = min(at_once, num_images - first)
            logits, offsets = cls_logits[first : first + images], bbox_regression[first:]
            counts.zero_()
            _find_candidates[(triton.cdiv(num_boxes, rows), images)](
                logits,
                keys,
                candidate_counts,
                num_boxes,
                score_threshold,
                CLASSES=num_classes,
                CLASSES_PADDED=classes_padded,
                ROWS=rows,
                SOFTMAX=activation == "softmax",
                num_warps=1,
                enable_fp_fusion=False,  # the reference rounds after each operation
            )
            boxes: tuple[Any, ...] = (offsets, default_boxes_cxcywh, *map(float, box_weights))
            for shorter, longest in lists:
                padded = min(best_padded, _padded(longest))
                _suppress[(foreground, images)](
                    keys,
                    candidate_counts,
                    kept,
                    kept_counts,
                    *boxes,
                    num_boxes,
                    iou_threshold,
                    CLASSES=num_classes,
                    SHORTER=shorter,
                    LONGEST=longest,
                    BEST=best,
                    BEST_PADDED=padded,
                    KEPT=kept_per_class,
                    CHUNK=SELECT_CHUNK,
                    num_warps=max(1, padded // KEYS_PER_WARP),
                    enable_fp_fusion=False,
                )
            _merge[(images,)](
                kept,
                kept_counts,
                *boxes,
                *(tensor[first:] for tensor in result),
                num_boxes,
                CLASSES=num_classes,
                KEPT=kept_per_class,
                DETECTIONS=max_detections,
                DETECTIONS_PADDED=detections_padded,
                CHUNK=SELECT_CHUNK,
                num_warps=8,
                enable_fp_fusion=False,
            )
    return result


def _padded(size: int) -> int:
    """The power of two that Triton's sort needs, and at least 16."""
    return max(16, int(triton.next_power_of_2(size)))


@triton.jit  # type: ignore[untyped-decorator]
def _find_candidates(
    cls_logits: tl.tensor,
    keys: tl.tensor,
    candidate_counts: tl.tensor,
    num_boxes: tl.tensor,
    score_threshold: tl.tensor,
    CLASSES: tl.constexpr,
    CLASSES_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    SOFTMAX: tl.constexpr,
) -> None:
    """Appends the candidates among ROWS default boxes of one image to the lists of their classes.

    Logits are read once. A block adds to the counter of a class once, not once per candidate.
    """
    image = tl.program_id(1).to(tl.int64)
    box = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    label = tl.arange(0, CLASSES_PADDED)
    row = tl.minimum(box, num_boxes - 1)  # the last one again, rather than rows of nothing
    pointers = cls_logits + image * num_boxes * CLASSES + row[:, None] * CLASSES + label[None, :]
    logit = tl.load(pointers, mask=(label < CLASSES)[None, :], other=-float("inf")).to(tl.float32)
    if SOFTMAX:
        # A row with NaN or +inf in it sums to NaN: no score of it is above anything.
        weight = tl.exp(logit - tl.max(logit, 1)[:, None])
        score = weight / tl.sum(weight, 1)[:, None]
    else:
        score = 1 / (1 + tl.exp(-logit))
    inside = (box < num_boxes)[:, None] & (label > 0)[None, :]
    finite = tl.abs(logit) < float("inf")
    candidate = (inside & finite & (score > score_threshold)).to(tl.int32)

    found = tl.sum(candidate, 0)
    if tl.sum(found, 0) > 0:  # rarely: most of a picture is background
        counters = candidate_counts + image * CLASSES + label
        # Relaxed: nobody reads the lists before the kernel has ended.
        start = tl.atomic_add(counters, found, mask=found > 0, sem="relaxed")
        slot = start[None, :] + tl.cumsum(candidate, 0) - 1
        lists = (image * (CLASSES - 1) + label - 1)[None, :] * num_boxes
        inverted = (num_boxes - 1 - box).to(tl.int64)
        key = (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | inverted[:, None]
        tl.store(keys + lists + slot, key, mask=candidate > 0)


@triton.jit  # type: ignore[untyped-decorator]
def _suppress(
    keys: tl.tensor,
    candidate_counts: tl.tensor,
    kept_keys: tl.tensor,
    kept_counts: tl.tensor,
    bbox_regression: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    weight_x: tl.tensor,
    weight_y: tl.tensor,
    weight_w: tl.tensor,
    weight_h: tl.tensor,
    num_boxes: tl.tensor,
    iou_threshold: tl.tensor,
    CLASSES: tl.constexpr,
    SHORTER: tl.constexpr,
    LONGEST: tl.constexpr,
    BEST: tl.constexpr,
    BEST_PADDED: tl.constexpr,
    KEPT: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Greedy NMS of one class of one image; appends what it keeps to the image's list.

    Takes lists of more than SHORTER candidates and up to LONGEST; leaves others to another launch.
    Kept keys name the class too: score bits above the inverted class * A + default box.
    """
    class_index = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    count = tl.load(candidate_counts + image * CLASSES + class_index + 1)
    if (count > SHORTER) & (count <= LONGEST):
        mine = keys + (image * (CLASSES - 1) + class_index) * num_boxes
        if LONGEST > BEST_PADDED:
            count = _select_best(mine, count, BEST, BEST_PADDED, CHUNK)
        place = tl.arange(0, BEST_PADDED)
        key = tl.sort(tl.load(mine + place, mask=place < count, other=-1), descending=True)
        alive = (key >= 0) & (place < BEST)
        box = num_boxes - 1 - (key & 0xFFFFFFFF)
        x1, y1, x2, y2, real = _decode_box(
            bbox_regression + image * num_boxes * 4,
            default_boxes_cxcywh,
            box,
            alive,
            weight_x,
            weight_y,
            weight_w,
            weight_h,
        )
        area = tl.maximum(x2 - x1, 0.0) * tl.maximum(y2 - y1, 0.0)
        alive = alive & real

        # One round per kept box, not per candidate: the best one alive, and all that it overlaps.
        kept = place < 0
        num_kept = 0
        first = tl.min(tl.where(alive, place, BEST_PADDED), 0)
        while (first < BEST_PADDED) & (num_kept < KEPT):
            is_first = place == first
            left = tl.maximum(x1, tl.sum(tl.where(is_first, x1, 0.0), 0))
            top = tl.maximum(y1, tl.sum(tl.where(is_first, y1, 0.0), 0))
            right = tl.minimum(x2, tl.sum(tl.where(is_first, x2, 0.0), 0))
            bottom = tl.minimum(y2, tl.sum(tl.where(is_first, y2, 0.0), 0))
            intersection = tl.maximum(right - left, 0.0) * tl.maximum(bottom - top, 0.0)
            union = tl.sum(tl.where(is_first, area, 0.0), 0) + area - intersection
            # Boxes that do not meet, most of them, are not divided: a zero takes the slow way.
            meets = intersection > 0
            iou = tl.div_rn(tl.where(meets, intersection, 1.0), tl.where(meets, union, 1.0))
            apart = tl.where(union > 0, 0.0, float("nan"))  # 0 / 0 overlaps nothing
            overlaps = tl.where(meets, iou, apart) > iou_threshold
            kept = kept | is_first
            num_kept += 1
            alive = alive & (place > first) & ~overlaps
            first = tl.min(tl.where(alive, place, BEST_PADDED), 0)

        if num_kept > 0:
            start = tl.atomic_add(kept_counts + image, num_kept, sem="relaxed")
            slot = start + tl.cumsum(kept.to(tl.int32), 0) - 1
            inverted = (CLASSES - 1) * num_boxes - 1 - (class_index * num_boxes + box)
            target = kept_keys + image * (CLASSES - 1) * KEPT + slot
            tl.store(target, ((key >> 32) << 32) | inverted, mask=kept)


@triton.jit  # type: ignore[untyped-decorator]
def _merge(
    kept_keys: tl.tensor,
    kept_counts: tl.tensor,
    bbox_regression: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    weight_x: tl.tensor,
    weight_y: tl.tensor,
    weight_w: tl.tensor,
    weight_h: tl.tensor,
    boxes: tl.tensor,
    scores: tl.tensor,
    labels: tl.tensor,
    counts: tl.tensor,
    num_boxes: tl.tensor,
    CLASSES: tl.constexpr,
    KEPT: tl.constexpr,
    DETECTIONS: tl.constexpr,
    DETECTIONS_PADDED: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """The best DETECTIONS of one image, best first, and zeros behind them."""
    image = tl.program_id(0).to(tl.int64)
    mine = kept_keys + image * (CLASSES - 1) * KEPT
    found = tl.load(kept_counts + image)
    count = tl.minimum(found, DETECTIONS)
    selected = _select_best(mine, found, DETECTIONS, DETECTIONS_PADDED, CHUNK)
    place = tl.arange(0, DETECTIONS_PADDED)
    key = tl.sort(tl.load(mine + place, mask=place < selected, other=-1), descending=True)
    inside = place < count
    index = (CLASSES - 1) * num_boxes - 1 - (key & 0xFFFFFFFF)
    x1, y1, x2, y2, _ = _decode_box(
        bbox_regression + image * num_boxes * 4,
        default_boxes_cxcywh,
        index % num_boxes,
        inside,
        weight_x,
        weight_y,
        weight_w,
        weight_h,
    )
    at = image * DETECTIONS + place
    exists = place < DETECTIONS
    score = (key >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    tl.store(boxes + at * 4, tl.where(inside, x1, 0.0), mask=exists)
    tl.store(boxes + at * 4 + 1, tl.where(inside, y1, 0.0), mask=exists)
    tl.store(boxes + at * 4 + 2, tl.where(inside, x2, 0.0), mask=exists)
    tl.store(boxes + at * 4 + 3, tl.where(inside, y2, 0.0), mask=exists)
    tl.store(scores + at, tl.where(inside, score, 0.0), mask=exists)
    tl.store(labels + at, tl.where(inside, index // num_boxes + 1, 0), mask=exists)
    tl.store(counts + image, count.to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def _select_best(
    keys: tl.tensor,
    count: tl.tensor,
    WANTED: tl.constexpr,
    LIMIT: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """Moves the best of ``count`` keys to the front until at most LIMIT are left; returns how many.

    The WANTED best are always among them. Bisects between the least and the greatest key: keys are
    unique, so some cut leaves between WANTED and LIMIT, and it is found in at most 62 steps. Every
    cut that leaves enough shrinks the list, so that later steps read less.
    """
    low = tl.full((), 0, tl.int64)
    high = tl.full((), 0, tl.int64)
    if count > LIMIT:
        least = tl.full((CHUNK,), 0x7FFFFFFFFFFFFFFF, tl.int64)
        greatest = tl.full((CHUNK,), 0, tl.int64)
        for start in range(0, count, CHUNK):
            place = start + tl.arange(0, CHUNK)
            there = place < count
            key = tl.load(keys + place, mask=there, other=0)
            greatest = tl.maximum(greatest, key)
            least = tl.minimum(least, tl.where(there, key, 0x7FFFFFFFFFFFFFFF))
        low = tl.min(least, 0)
        high = tl.max(greatest, 0) + 1
    while count > LIMIT:
        cut = low + (high - low) // 2
        at_least = tl.zeros((CHUNK,), tl.int32)
        for start in range(0, count, CHUNK):
            place = start + tl.arange(0, CHUNK)
            key = tl.load(keys + place, mask=place < count, other=-1)
            at_least += (key >= cut).to(tl.int32)
        above = tl.sum(at_least, 0)
        if above < WANTED:
            high = cut
        else:
            low = cut
            if above < count:
                moved = 0
                for start in range(0, count, CHUNK):
                    place = start + tl.arange(0, CHUNK)
                    key = tl.load(keys + place, mask=place < count, other=-1)
                    stays = (key >= cut).to(tl.int32)
                    # In place: a key moves to the front of what has been read already.
                    slot = moved + tl.cumsum(stays, 0) - 1
                    tl.debug_barrier()
                    tl.store(keys + slot, key, mask=stays > 0)
                    moved += tl.sum(stays, 0)
                tl.debug_barrier()
                count = moved
    return count


@triton.jit  # type: ignore[untyped-decorator]
def _decode_box(
    bbox_regression: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    box: tl.tensor,
    mask: tl.tensor,
    weight_x: tl.tensor,
    weight_y: tl.tensor,
    weight_w: tl.tensor,
    weight_h: tl.tensor,
) -> tuple[tl.tensor, ...]:
    """Corners of default boxes moved by their offsets, clipped; and whether they are numbers."""
    offset = bbox_regression + box * 4
    # Ones, where nothing is loaded: a zero is divided the slow way.
    dx = tl.div_rn(tl.load(offset, mask=mask, other=1.0).to(tl.float32), weight_x)
    dy = tl.div_rn(tl.load(offset + 1, mask=mask, other=1.0).to(tl.float32), weight_y)
    dw = tl.div_rn(tl.load(offset + 2, mask=mask, other=1.0).to(tl.float32), weight_w)
    dh = tl.div_rn(tl.load(offset + 3, mask=mask, other=1.0).to(tl.float32), weight_h)
    default = default_boxes_cxcywh + box * 4
    width = tl.load(default + 2, mask=mask, other=0.0)
    height = tl.load(default + 3, mask=mask, other=0.0)
    x = dx * width + tl.load(default, mask=mask, other=0.0)
    y = dy * height + tl.load(default + 1, mask=mask, other=0.0)
    # Not tl.minimum, which would turn NaN into the limit.
    half_width = tl.exp(tl.where(dw > _MAX_LOG_SCALE, _MAX_LOG_SCALE, dw)) * width / 2
    half_height = tl.exp(tl.where(dh > _MAX_LOG_SCALE, _MAX_LOG_SCALE, dh)) * height / 2
    x1, y1, x2, y2 = x - half_width, y - half_height, x + half_width, y + half_height
    real = (x1 == x1) & (y1 == y1) & (x2 == x2) & (y2 == y2)
    x1 = tl.minimum(tl.maximum(x1, 0.0), 1.0)
    y1 = tl.minimum(tl.maximum(y1, 0.0), 1.0)
    x2 = tl.minimum(tl.maximum(x2, 0.0), 1.0)
    y2 = tl.minimum(tl.maximum(y2, 0.0), 1.0)
    return x1, y1, x2, y2, real
