"""The device code of decode_nms: what each Triton program computes.

Takes pointers and sizes, allocates and launches nothing: ``decode_nms_triton.py`` does, and says
how the kernels work together.
"""

import triton
import triton.language as tl

from ssd_core.box_coder import MAX_LOG_SCALE

_MAX_LOG_SCALE = tl.constexpr(MAX_LOG_SCALE)
_ENLARGED = tl.constexpr(2.0**100)
"""Enlarges areas exactly, so that no bit of a product of them is lost to underflow."""


@triton.jit  # type: ignore[untyped-decorator]
def find_candidates(
    cls_logits: tl.tensor,
    keys: tl.tensor,
    candidate_counts: tl.tensor,
    num_boxes: tl.tensor,
    list_size: tl.tensor,
    score_threshold: tl.tensor,
    least_logit: tl.tensor,
    CLASSES: tl.constexpr,
    CLASSES_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    EXACT_ROWS: tl.constexpr,
    SOFTMAX: tl.constexpr,
) -> None:
    """Appends the candidates among ROWS default boxes of one image to the lists of their classes.

    A class whose logit is not at least ``least_logit`` (for softmax: above the background's) cannot
    reach the threshold, so one comparison a logit settles most blocks. The few others are read
    again, from the cache, EXACT_ROWS at a time.
    """
    image = tl.program_id(1).to(tl.int64)
    logits = cls_logits + image * num_boxes * CLASSES
    label = tl.arange(0, CLASSES_PADDED)
    new = tl.program_id(0) * ROWS
    # The last block begins early and reads rows of the one before, so that no address is masked.
    begin = tl.minimum(new, num_boxes - ROWS)
    if _may_pass(logits + begin * CLASSES, label, least_logit, CLASSES, ROWS, SOFTMAX):
        for step in range(0, ROWS, EXACT_ROWS):
            first = begin + step
            here = logits + first * CLASSES
            if _may_pass(here, label, least_logit, CLASSES, EXACT_ROWS, SOFTMAX):
                _append_candidates(
                    here,
                    keys + image * (CLASSES - 1) * list_size,
                    candidate_counts + image * CLASSES,
                    first,
                    new,
                    label,
                    num_boxes,
                    list_size,
                    score_threshold,
                    CLASSES,
                    EXACT_ROWS,
                    SOFTMAX,
                )


@triton.jit  # type: ignore[untyped-decorator]
def _may_pass(
    logits: tl.tensor,
    label: tl.tensor,
    least_logit: tl.tensor,
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    SOFTMAX: tl.constexpr,
) -> tl.tensor:
    """Whether a score may be above the threshold; false if certainly none of ROWS boxes has one.

    A softmax score is at most 1 / (1 + exp(background - logit)). NaN passes no comparison, and a
    row with a NaN or +inf in it has no candidates: what it gives here does not matter.
    """
    row = tl.arange(0, ROWS) * CLASSES
    foreground = (label > 0) & (label < CLASSES)
    pointers = logits + (row[:, None] + label[None, :])
    logit = tl.load(pointers, mask=foreground[None, :], other=-float("inf")).to(tl.float32)
    LANES: tl.constexpr = min(32, label.shape[0])
    # First what one lane holds of a row, then of all rows: a single step between lanes is left.
    greatest = tl.max(tl.reshape(logit, (ROWS, label.shape[0] // LANES, LANES)), 1)
    least = tl.zeros((ROWS,), tl.float32) + least_logit
    if SOFTMAX:
        # Rounding is monotonic: a logit of at least the sum is at least the rounded one.
        least += tl.load(logits + row).to(tl.float32)
    may_pass = (greatest >= least[:, None]).to(tl.int32)
    return tl.max(tl.max(may_pass, 0), 0) > 0


@triton.jit  # type: ignore[untyped-decorator]
def _append_candidates(
    logits: tl.tensor,
    keys: tl.tensor,
    candidate_counts: tl.tensor,
    first: tl.tensor,
    new: tl.tensor,
    label: tl.tensor,
    num_boxes: tl.tensor,
    list_size: tl.tensor,
    score_threshold: tl.tensor,
    CLASSES: tl.constexpr,
    ROWS: tl.constexpr,
    SOFTMAX: tl.constexpr,
) -> None:
    """Scores of ROWS boxes from ``first`` on, and candidates among those from ``new`` on.

    Adds to the counter of a class once, not once per candidate.
    """
    row = tl.arange(0, ROWS)
    pointers = logits + (row[:, None] * CLASSES + label[None, :])
    logit = tl.load(pointers, mask=(label < CLASSES)[None, :], other=-float("inf")).to(tl.float32)
    if SOFTMAX:
        # A row with NaN or +inf in it sums to NaN: no score of it is above anything.
        weight = tl.exp(logit - tl.max(logit, 1)[:, None])
        score = weight / tl.sum(weight, 1)[:, None]
    else:
        score = 1 / (1 + tl.exp(-logit))
    box = first + row
    inside = (box >= new)[:, None] & (label > 0)[None, :]
    finite = tl.abs(logit) < float("inf")
    candidate = (inside & finite & (score > score_threshold)).to(tl.int32)

    found = tl.sum(candidate, 0)
    # Relaxed: the lists are not read before the kernel has ended.
    start = tl.atomic_add(candidate_counts + label, found, mask=found > 0, sem="relaxed")
    slot = start[None, :] + tl.cumsum(candidate, 0) - 1
    lists = (label - 1).to(tl.int64)[None, :] * list_size
    inverted = (num_boxes - 1 - box).to(tl.int64)
    key = (score.to(tl.int32, bitcast=True).to(tl.int64) << 32) | inverted[:, None]
    tl.store(keys + lists + slot, key, mask=candidate > 0)


@triton.jit  # type: ignore[untyped-decorator]
def suppress(
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
    list_size: tl.tensor,
    iou_threshold: tl.tensor,
    half_step: tl.tensor,
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
    ``half_step`` is half the distance from ``iou_threshold`` to the next greater fp32 number.
    """
    class_index = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    count = tl.load(candidate_counts + image * CLASSES + class_index + 1)
    if (count > SHORTER) & (count <= LONGEST):
        mine = keys + (image * (CLASSES - 1) + class_index) * list_size
        if LONGEST > BEST_PADDED:
            count = select_best(mine, count, BEST, BEST_PADDED, CHUNK)
        place = tl.arange(0, BEST_PADDED)
        key = tl.sort(tl.load(mine + place, mask=place < count, other=-1), descending=True)
        alive = (key >= 0) & (place < BEST)
        box = num_boxes - 1 - (key & 0xFFFFFFFF)
        x1, y1, x2, y2, real = decode_box(
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
        kept = place < 0
        num_kept = 0
        first = tl.min(tl.where(alive, place, BEST_PADDED), 0)

        # The list has been read: its memory takes the boxes, for every thread to read one of them.
        corners = mine.to(tl.pointer_type(tl.float32))
        tl.store(corners + place * 4, x1, mask=alive)
        tl.store(corners + place * 4 + 1, y1, mask=alive)
        tl.store(corners + place * 4 + 2, x2, mask=alive)
        tl.store(corners + place * 4 + 3, y2, mask=alive)
        tl.debug_barrier()
        # One round per kept box, not per candidate: the best one alive, and all that it overlaps.
        while (first < BEST_PADDED) & (num_kept < KEPT):
            best_x1 = tl.load(corners + first * 4)
            best_y1 = tl.load(corners + first * 4 + 1)
            best_x2 = tl.load(corners + first * 4 + 2)
            best_y2 = tl.load(corners + first * 4 + 3)
            best_area = tl.maximum(best_x2 - best_x1, 0.0) * tl.maximum(best_y2 - best_y1, 0.0)
            width = tl.minimum(x2, best_x2) - tl.maximum(x1, best_x1)
            height = tl.minimum(y2, best_y2) - tl.maximum(y1, best_y1)
            intersection = tl.maximum(width, 0.0) * tl.maximum(height, 0.0)
            union = best_area + area - intersection
            overlaps = is_quotient_above(intersection, union, iou_threshold, half_step)
            kept = kept | (place == first)
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
def is_quotient_above(
    dividend: tl.tensor, divisor: tl.tensor, limit: tl.tensor, half_step: tl.tensor
) -> tl.tensor:
    """Whether dividend / divisor, rounded to fp32, is above the limit; false for 0 / 0.

    It is if the quotient lies above limit + half_step, which no quotient of two fp32 numbers equals
    (a tie needs a 25-bit dividend). So dividend - divisor * limit, which near the tie is exact in a
    fused multiply-add, is compared with divisor * half_step: a fourth of a division's instructions.
    """
    divisor = divisor * _ENLARGED
    rest = tl.fma(-divisor, tl.zeros_like(divisor) + limit, dividend * _ENLARGED)
    return rest > divisor * half_step


@triton.jit  # type: ignore[untyped-decorator]
def merge(
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
    """The best DETECTIONS of one image, best first, then zeros."""
    image = tl.program_id(0).to(tl.int64)
    mine = kept_keys + image * (CLASSES - 1) * KEPT
    found = tl.load(kept_counts + image)
    count = tl.minimum(found, DETECTIONS)
    selected = select_best(mine, found, DETECTIONS, DETECTIONS_PADDED, CHUNK)
    place = tl.arange(0, DETECTIONS_PADDED)
    key = tl.sort(tl.load(mine + place, mask=place < selected, other=-1), descending=True)
    inside = place < count
    index = ((CLASSES - 1) * num_boxes - 1 - (key & 0xFFFFFFFF)).to(tl.int32)
    x1, y1, x2, y2, _ = decode_box(
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
    tl.store(labels + at, tl.where(inside, index // num_boxes + 1, 0).to(tl.int64), mask=exists)
    tl.store(counts + image, count.to(tl.int64))


@triton.jit  # type: ignore[untyped-decorator]
def select_best(
    keys: tl.tensor,
    count: tl.tensor,
    WANTED: tl.constexpr,
    LIMIT: tl.constexpr,
    CHUNK: tl.constexpr,
) -> tl.tensor:
    """Moves the best of ``count`` keys to the front, WANTED to LIMIT of them; returns how many.

    All stay where they are if they are LIMIT or fewer. Else a cut is looked for that leaves a fit
    number: keys are unique, so there is one. Each pass counts the keys above a guess: in turn where
    the cut would be if the keys were spread evenly, which takes about two passes for scores, and
    half-way, which bounds the passes by 2 * 62.
    """
    if count > LIMIT:
        least = tl.full((CHUNK,), 0x7FFFFFFFFFFFFFFF, tl.int64)
        greatest = tl.full((CHUNK,), 0, tl.int64)
        for start in range(0, count, CHUNK):
            place = start + tl.arange(0, CHUNK)
            there = place < count
            key = tl.load(keys + place, mask=there, other=0)
            greatest = tl.maximum(greatest, key)
            least = tl.minimum(least, tl.where(there, key, 0x7FFFFFFFFFFFFFFF))
        low = tl.min(least, 0)  # so many keys are at least that: too many
        high = tl.max(greatest, 0) + 1  # too few
        too_many = count
        too_few = count * 0
        cut = low
        above = count
        even = True
        while (above > LIMIT) | (above < WANTED):
            span = high - low
            share = ((WANTED + LIMIT) // 2 - too_few).to(tl.float32) / (too_many - too_few)
            step = tl.where(even, (span.to(tl.float32) * share).to(tl.int64), span // 2)
            cut = high - step
            at_least = tl.zeros((CHUNK,), tl.int32)
            for start in range(0, count, CHUNK):
                place = start + tl.arange(0, CHUNK)
                key = tl.load(keys + place, mask=place < count, other=-1)
                at_least += (key >= cut).to(tl.int32)
            above = tl.sum(at_least, 0)
            low = tl.where(above < WANTED, low, cut)
            too_many = tl.where(above < WANTED, too_many, above)
            high = tl.where(above < WANTED, cut, high)
            too_few = tl.where(above < WANTED, above, too_few)
            even = not even
        moved = count * 0
        for start in range(0, count, CHUNK):
            place = start + tl.arange(0, CHUNK)
            key = tl.load(keys + place, mask=place < count, other=-1)
            stays = (key >= cut).to(tl.int32)
            in_chunk = tl.sum(stays, 0)
            # In place, and no barrier: a slot's number depends on every key up to its own place,
            # and those are all that it can overwrite, so they have been read.
            slot = moved + tl.cumsum(stays, 0) - 1
            tl.store(keys + slot, key, mask=stays > 0)
            moved += in_chunk
        tl.debug_barrier()
        count = moved
    return count


@triton.jit  # type: ignore[untyped-decorator]
def decode_box(
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
