"""The MultiBox loss on CUDA, in Triton kernels; the same numbers as ``loss`` up to rounding.

    row_kernel        of each default box its classification and regression loss, if they count
    choosing_kernel   per image: which default boxes count, by bisection, and the sums over them
    adding_kernel     the sums of the batch, in the order of its images
    gradient_kernel   backward: the gradients of all outputs

Logits are read once, their gradient is written once, and all else is a few numbers a default box.
Nothing waits for the device, and no sum depends on the order in which programs run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssd_core.training.matching import Matches

LOGITS_PER_BLOCK = 1024
"""Read at once, by one warp, as in ``ops.decode_nms_triton``, where that was measured."""
MOST_ROWS = 128
"""Default boxes in such a block, where classes are few: 4 a lane, which holds their offsets."""
GRADIENTS_PER_BLOCK = 1024
"""Written at once, by four warps: 8 a lane."""
ROWS_PER_WARP = 512
"""Default boxes of an image for each warp that chooses among them: 16 a lane."""

OPTIONS = {"enable_fp_fusion": False}  # PyTorch rounds after each operation

_NONE = tl.constexpr(-1)
"""Instead of a class: the default box does not count."""


def multibox_loss_in_kernels(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    targets: Tensor,
    labels: Tensor,
    matches: Matches,
    *,
    activation: str,
    negatives_per_positive: float,
    min_negatives: int,
    negatives_below_iou: float | None,
    box_weights: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """Regression and classification loss: see ``loss.loss_of_matches``, with the same arguments.

    The classification loss is NaN if a matched object has a label that is none of the classes.
    """
    below = float("inf") if negatives_below_iou is None else negatives_below_iou
    losses: tuple[Tensor, Tensor] = _MultiBoxLoss.apply(
        bbox_regression.contiguous(),
        cls_logits.contiguous(),
        default_boxes_cxcywh.float().contiguous(),
        targets.contiguous(),
        labels.contiguous(),
        matches,
        activation == "softmax",
        (float(negatives_per_positive), float(min_negatives), float(below)),
        tuple(map(float, box_weights)),
    )
    return losses


class _MultiBoxLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        bbox_regression: Tensor,
        cls_logits: Tensor,
        default_boxes: Tensor,
        targets: Tensor,
        labels: Tensor,
        matches: Matches,
        is_softmax: bool,
        negatives: tuple[float, float, float],
        box_weights: tuple[float, float, float, float],
    ) -> tuple[Tensor, Tensor]:
        images, num_defaults, num_classes = cls_logits.shape
        objects, best_iou = (part.contiguous() for part in matches)

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=cls_logits.device)

        row_losses = empty(2, images, num_defaults)
        slopes = empty(images, num_defaults, 4)
        classes = empty(images, num_defaults, dtype=torch.int32)
        normaliser = empty(images, num_defaults)
        sums = empty(3, images)
        losses = empty(), empty(), empty()
        padded = triton.next_power_of_2(num_classes)
        rows = max(1, min(MOST_ROWS, LOGITS_PER_BLOCK // padded))
        defaults_padded = triton.next_power_of_2(num_defaults)
        warps = min(32, max(1, defaults_padded // ROWS_PER_WARP))
        with torch.cuda.device_of(cls_logits):
            row_kernel[(triton.cdiv(num_defaults, rows), images)](
                bbox_regression, cls_logits, default_boxes, targets, labels, objects,
                row_losses, slopes, classes, normaliser,
                num_defaults, labels.shape[1], *box_weights,
                CLASSES=num_classes, CLASSES_PADDED=padded, ROWS=rows, SOFTMAX=is_softmax,
                num_warps=min(32, max(1, padded // LOGITS_PER_BLOCK)), **OPTIONS,
            )  # fmt: skip
            choosing_kernel[(images,)](
                row_losses, objects, best_iou, classes, sums, num_defaults, *negatives,
                DEFAULTS=defaults_padded, PLACES=defaults_padded.bit_length(), PART=128 * warps,
                num_warps=warps, **OPTIONS,
            )  # fmt: skip
            adding_kernel[(1,)](
                sums, *losses, images, IMAGES=triton.next_power_of_2(images), num_warps=1, **OPTIONS
            )
        regression, classification, num_matched = losses
        ctx.save_for_backward(cls_logits, slopes, classes, normaliser, num_matched)
        ctx.is_softmax, ctx.offset_dtype = is_softmax, bbox_regression.dtype
        return regression, classification

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, regression_gradient: Tensor, classification_gradient: Tensor
    ) -> tuple[Tensor | None, ...]:
        cls_logits, slopes, classes, normaliser, num_matched = ctx.saved_tensors
        of_offsets = torch.empty_like(slopes, dtype=ctx.offset_dtype)
        of_logits = torch.empty_like(cls_logits)
        largest = max(of_offsets.numel(), of_logits.numel())
        with torch.cuda.device_of(cls_logits):
            gradient_kernel[(triton.cdiv(largest, GRADIENTS_PER_BLOCK),)](
                cls_logits, slopes, classes, normaliser, num_matched,
                regression_gradient.float(), classification_gradient.float(),
                of_offsets, of_logits, of_offsets.numel(), of_logits.numel(),
                CLASSES=cls_logits.shape[-1], BLOCK=GRADIENTS_PER_BLOCK, SOFTMAX=ctx.is_softmax,
                num_warps=4, **OPTIONS,
            )  # fmt: skip
        return of_offsets, of_logits, *7 * (None,)


@triton.jit  # type: ignore[untyped-decorator]
def row_kernel(
    bbox_regression: tl.tensor,
    cls_logits: tl.tensor,
    default_boxes_cxcywh: tl.tensor,
    targets: tl.tensor,
    labels: tl.tensor,
    objects: tl.tensor,
    row_losses: tl.tensor,
    slopes: tl.tensor,
    classes: tl.tensor,
    normaliser: tl.tensor,
    num_defaults: tl.tensor,
    num_objects: tl.tensor,
    weight_x: tl.tensor,
    weight_y: tl.tensor,
    weight_w: tl.tensor,
    weight_h: tl.tensor,
    CLASSES: tl.constexpr,
    CLASSES_PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    SOFTMAX: tl.constexpr,
) -> None:
    """ROWS default boxes of one image: losses, the slope of smooth L1, the class, log-sum-exp."""
    image = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = index < num_defaults
    row = image * num_defaults + index
    label = tl.arange(0, CLASSES_PADDED)
    real = inside[:, None] & (label < CLASSES)[None, :]
    pointers = cls_logits + (row * CLASSES)[:, None] + label[None, :]
    number = tl.load(objects + row, mask=inside, other=-1)
    is_matched = number >= 0
    place = image * num_objects + number
    wanted = tl.load(labels + place, mask=is_matched, other=0)
    is_class = inside & (wanted >= 0) & (wanted < CLASSES)
    logit_of_class = tl.load(cls_logits + row * CLASSES + wanted, mask=is_class, other=float("nan"))
    logit_of_class = logit_of_class.to(tl.float32)
    if SOFTMAX:
        logit = tl.load(pointers, mask=real, other=-float("inf")).to(tl.float32)
        greatest = tl.max(logit, 1)
        total = tl.sum(tl.exp(logit - greatest[:, None]), 1)
        log_sum = greatest + tl.log(total)
        loss = log_sum - logit_of_class
        tl.store(normaliser + row, log_sum, mask=inside)
    else:
        foreground = real & (label > 0)[None, :]
        logit = tl.load(pointers, mask=foreground, other=-float("inf")).to(tl.float32)
        loss = tl.sum(_softplus(logit), 1) - tl.where(wanted != 0, logit_of_class, 0.0)
    tl.store(row_losses + row, loss, mask=inside)
    tl.store(classes + row, wanted.to(tl.int32), mask=inside)

    corner, default_box = targets + place * 4, default_boxes_cxcywh + index * 4
    x1 = tl.load(corner, mask=is_matched, other=0.0)
    y1 = tl.load(corner + 1, mask=is_matched, other=0.0)
    x2 = tl.load(corner + 2, mask=is_matched, other=1.0)
    y2 = tl.load(corner + 3, mask=is_matched, other=1.0)
    x = tl.load(default_box, mask=is_matched, other=0.5)
    y = tl.load(default_box + 1, mask=is_matched, other=0.5)
    width = tl.load(default_box + 2, mask=is_matched, other=1.0)
    height = tl.load(default_box + 3, mask=is_matched, other=1.0)
    # box_coder.encode_boxes
    offset_x = tl.div_rn((x1 + x2) * 0.5 - x, width) * weight_x
    offset_y = tl.div_rn((y1 + y2) * 0.5 - y, height) * weight_y
    offset_w = tl.log(tl.div_rn(x2 - x1, width)) * weight_w
    offset_h = tl.log(tl.div_rn(y2 - y1, height)) * weight_h
    predicted, slope = bbox_regression + row * 4, slopes + row * 4
    box_loss = _smooth_l1(predicted, slope, offset_x, inside, is_matched)
    box_loss += _smooth_l1(predicted + 1, slope + 1, offset_y, inside, is_matched)
    box_loss += _smooth_l1(predicted + 2, slope + 2, offset_w, inside, is_matched)
    box_loss += _smooth_l1(predicted + 3, slope + 3, offset_h, inside, is_matched)
    size = tl.num_programs(1).to(tl.int64) * num_defaults
    tl.store(row_losses + size + row, box_loss, mask=inside)


@triton.jit  # type: ignore[untyped-decorator]
def _smooth_l1(
    predicted: tl.tensor,
    slope: tl.tensor,
    offset: tl.tensor,
    inside: tl.tensor,
    is_matched: tl.tensor,
) -> tl.tensor:
    """Loss of one offset of each default box, 0 without an object; its derivative is stored."""
    found = tl.load(predicted, mask=is_matched, other=0.0).to(tl.float32)
    difference = tl.where(is_matched, found - offset, 0.0)
    size = tl.abs(difference)
    is_small = size < 1
    derivative = tl.where(is_small, difference, tl.where(difference < 0, -1.0, 1.0))
    tl.store(slope, derivative, mask=inside)
    return tl.where(is_small, 0.5 * difference * difference, size - 0.5)


@triton.jit  # type: ignore[untyped-decorator]
def _softplus(x: tl.tensor) -> tl.tensor:
    """log(1 + exp(x)), also where exp(x) is lost beside 1.

    By the series of log1p(e) = 2 artanh(e / (2 + e)), of which e <= 1 needs seven terms.
    """
    e = tl.exp(-tl.abs(x))
    s = e / (2 + e)
    t = s * s
    series = 1 / 13 + t * (1 / 15)
    series = 1 / 9 + t * (1 / 11 + t * series)
    series = 1 + t * (1 / 3 + t * (1 / 5 + t * (1 / 7 + t * series)))
    return tl.where(x > 0, x, 0.0) + 2 * s * series


@triton.jit  # type: ignore[untyped-decorator]
def choosing_kernel(
    row_losses: tl.tensor,
    objects: tl.tensor,
    best_iou: tl.tensor,
    classes: tl.tensor,
    sums: tl.tensor,
    num_defaults: tl.tensor,
    negatives_per_positive: tl.tensor,
    min_negatives: tl.tensor,
    negatives_below_iou: tl.tensor,
    DEFAULTS: tl.constexpr,
    PLACES: tl.constexpr,
    PART: tl.constexpr,
) -> None:
    """One image: the class of what does not count becomes none, and the sums over what does."""
    image = tl.program_id(0).to(tl.int64)
    images = tl.num_programs(0)
    first = image * num_defaults
    loss, number, overlap = row_losses + first, objects + first, best_iou + first
    index = tl.arange(0, DEFAULTS)
    hardness, is_matched, _ = _hardness(
        loss, number, overlap, index, num_defaults, negatives_below_iou
    )
    num_matched = tl.sum(is_matched.to(tl.int32), 0)
    wanted = tl.ceil(tl.maximum(negatives_per_positive * num_matched, min_negatives))
    wanted = tl.minimum(wanted, num_defaults).to(tl.int32)

    least = wanted * 0  # hardness of the last that counts: the highest that ``wanted`` have
    for step in range(0, 31):
        higher = least | (1 << (30 - step))
        have_it = tl.sum((hardness >= higher).to(tl.int32), 0)
        least = tl.where(have_it >= wanted, higher, least)
    room = wanted - tl.sum((hardness > least).to(tl.int32), 0)
    end = wanted * 0  # of those that are just as hard, the ones before it count
    for step in range(0, PLACES):
        further = end | (1 << (PLACES - 1 - step))
        before = tl.sum(((hardness == least) & (index < further)).to(tl.int32), 0)
        end = tl.where(before <= room, further, end)

    # In parts: what is read again here would take the registers of the search.
    class_loss = tl.zeros((PART,), tl.float32)
    box_loss = tl.zeros((PART,), tl.float32)
    of_boxes = loss + images.to(tl.int64) * num_defaults
    for begin in range(0, num_defaults, PART):
        place = begin + tl.arange(0, PART)
        inside = place < num_defaults
        hard, has_object, value = _hardness(
            loss, number, overlap, place, num_defaults, negatives_below_iou
        )
        counts = has_object | (hard > least) | ((hard == least) & (place < end))
        tl.store(classes + first + place, _NONE, mask=inside & (counts == 0))
        class_loss += tl.where(counts, value, 0.0)
        box_loss += tl.load(of_boxes + place, mask=inside, other=0.0)
    tl.store(sums + image, tl.sum(box_loss, 0))
    tl.store(sums + images + image, tl.sum(class_loss, 0))
    tl.store(sums + 2 * images + image, num_matched.to(tl.float32))


@triton.jit  # type: ignore[untyped-decorator]
def _hardness(
    loss: tl.tensor,
    number: tl.tensor,
    overlap: tl.tensor,
    index: tl.tensor,
    num_defaults: tl.tensor,
    negatives_below_iou: tl.tensor,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Of an image's default boxes: hardness, -1 if they cannot count; if they are matched; loss.

    Hardness is the bits of the loss: numbers that are not negative sort as their bits do.
    """
    inside = index < num_defaults
    value = tl.load(loss + index, mask=inside, other=0.0)
    is_matched = tl.load(number + index, mask=inside, other=-1) >= 0
    is_low = tl.load(overlap + index, mask=inside, other=0.0) < negatives_below_iou
    bits = tl.where(value > 0, value, 0.0).to(tl.int32, bitcast=True)
    return tl.where(inside & is_low & (is_matched == 0), bits, -1), is_matched, value


@triton.jit  # type: ignore[untyped-decorator]
def adding_kernel(
    sums: tl.tensor,
    regression: tl.tensor,
    classification: tl.tensor,
    num_matched: tl.tensor,
    images: tl.tensor,
    IMAGES: tl.constexpr,
) -> None:
    """The losses of the batch, and by how many matched default boxes they are divided."""
    index = tl.arange(0, IMAGES)
    inside = index < images
    matched = tl.load(sums + 2 * images + index, mask=inside, other=0.0)
    count = tl.maximum(tl.sum(matched, 0), 1.0)
    box_loss = tl.sum(tl.load(sums + index, mask=inside, other=0.0), 0)
    class_loss = tl.sum(tl.load(sums + images + index, mask=inside, other=0.0), 0)
    tl.store(regression, box_loss / count)
    tl.store(classification, class_loss / count)
    tl.store(num_matched, count)


@triton.jit  # type: ignore[untyped-decorator]
def gradient_kernel(
    cls_logits: tl.tensor,
    slopes: tl.tensor,
    classes: tl.tensor,
    normaliser: tl.tensor,
    num_matched: tl.tensor,
    regression_gradient: tl.tensor,
    classification_gradient: tl.tensor,
    of_offsets: tl.tensor,
    of_logits: tl.tensor,
    num_offsets: tl.tensor,
    num_logits: tl.tensor,
    CLASSES: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTMAX: tl.constexpr,
) -> None:
    """BLOCK gradients of offsets, as long as there are any, and of logits, whatever their rows.

    Logits are read only where a default box counts.
    """
    first = tl.program_id(0).to(tl.int64) * BLOCK
    index = tl.arange(0, BLOCK)
    count = tl.load(num_matched)
    place = first + index
    inside = place < num_offsets
    share = tl.load(regression_gradient) / count
    slope = tl.load(slopes + place, mask=inside, other=0.0)
    tl.store(of_offsets + place, (slope * share).to(of_offsets.dtype.element_ty), mask=inside)

    inside = place < num_logits
    share = tl.load(classification_gradient) / count
    # One division by CLASSES in 64 bits; those of the elements are in 32.
    beyond = (first % CLASSES).to(tl.int32) + index
    row, label = first // CLASSES + beyond // CLASSES, beyond % CLASSES
    wanted = tl.load(classes + row, mask=inside, other=_NONE)
    counts = wanted != _NONE
    logit = tl.load(cls_logits + place, mask=counts, other=0.0).to(tl.float32)
    truth = tl.where(label == wanted, 1.0, 0.0)
    if SOFTMAX:
        score = tl.exp(logit - tl.load(normaliser + row, mask=counts, other=0.0))
    else:
        score = 1 / (1 + tl.exp(-logit))
        counts &= label > 0
    gradient = tl.where(counts, (score - truth) * share, 0.0)
    tl.store(of_logits + place, gradient.to(of_logits.dtype.element_ty), mask=inside)
