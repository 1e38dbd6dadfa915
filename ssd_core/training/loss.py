"""The MultiBox loss (paper, section 2.2): what the outputs are wrong by, as two sums.

Takes raw outputs and objects; works in fp32 whatever the outputs are. Knows neither networks nor
pixels.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_core.box_coder import BOX_WEIGHTS, encode_boxes, xyxy_to_cxcywh
from ssd_core.training.kernels import triton_kernels
from ssd_core.training.matching import BACKGROUND, Matches, in_parts, match_batch, places

NEGATIVES_PER_POSITIVE = 3.0
"""At most so many (paper, section 2.2, "hard negative mining")."""
MIN_NEGATIVES = 3
"""Of every image: else those without objects, which show what is none, would teach nothing."""


class MultiBoxLosses(NamedTuple):
    """Sums over a batch, divided by the number of its matched default boxes (at least 1)."""

    regression: Tensor
    """Smooth L1 of the offsets of the matched default boxes."""
    classification: Tensor
    """Cross entropy of the matched default boxes and of the hardest others."""


def multibox_loss(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
    *,
    activation: str = "softmax",
    negatives_per_positive: float = NEGATIVES_PER_POSITIVE,
    min_negatives: int = MIN_NEGATIVES,
    negatives_below_iou: float | None = None,
    iou_threshold: float = 0.5,
    box_weights: tuple[float, ...] = BOX_WEIGHTS,
) -> MultiBoxLosses:
    """How wrong ``bbox_regression`` (B, A, 4) and ``cls_logits`` (B, A, C) are.

    ``boxes``: per image (N, 4) xyxy in [0, 1]; ``labels``: per image (N,) int64 from 1 on.
    ``activation``: ``softmax``, or ``sigmoid``, where each class but the background has a cross
    entropy of its own and class 0 has none.
    Of the default boxes without an object, those with the largest loss count: in each image
    ``negatives_per_positive`` for each with one, but at least ``min_negatives``; those that overlap
    an object by ``negatives_below_iou`` or more never do.
    Raises ValueError if the sizes of these do not fit together.
    """
    _check_sizes(bbox_regression, cls_logits, default_boxes_cxcywh, boxes, labels)
    place, is_object = places(boxes)
    targets = torch.cat(list(boxes))[place].float()
    matches = match_batch(targets, is_object, default_boxes_cxcywh, iou_threshold)
    classes = torch.cat(list(labels))[place]
    outputs = bbox_regression, cls_logits
    arguments = (*outputs, default_boxes_cxcywh, targets, classes, matches)
    options: dict[str, Any] = {
        "activation": activation,
        "negatives_per_positive": negatives_per_positive,
        "min_negatives": min_negatives,
        "negatives_below_iou": negatives_below_iou,
        "box_weights": box_weights,
    }

    def in_kernels() -> MultiBoxLosses:
        # Imported on use: Triton is not available on every machine.
        from ssd_core.training.loss_triton import multibox_loss_in_kernels

        return MultiBoxLosses(*multibox_loss_in_kernels(*arguments, **options))

    return triton_kernels.or_else(
        cls_logits, in_kernels, lambda: loss_of_matches(*arguments, **options)
    )


def _check_sizes(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    boxes: Sequence[Tensor],
    labels: Sequence[Tensor],
) -> None:
    """Raises ValueError: kernels would read beyond the end of what is too short."""
    size = len(boxes), len(default_boxes_cxcywh)
    for name, tensor, shape in (
        ("bbox_regression", bbox_regression, (*size, 4)),
        ("cls_logits", cls_logits, (*size, cls_logits.shape[-1])),
    ):
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name} must be {shape}, not {tuple(tensor.shape)}")
    if (found := [*map(len, labels)]) != (expected := [*map(len, boxes)]):
        raise ValueError(f"there must be {expected} labels, as many as boxes, not {found}")


def loss_of_matches(
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
) -> MultiBoxLosses:
    """``multibox_loss`` in plain PyTorch.

    ``targets`` (B, N, 4) xyxy fp32 and ``labels`` (B, N): the objects that ``matches`` names.
    """
    is_matched = matches.objects != BACKGROUND
    classes = _classes(labels, matches.objects)
    is_candidate = ~is_matched
    if negatives_below_iou is not None:
        is_candidate &= matches.best_iou < negatives_below_iou
    with torch.no_grad():
        parts = [_background_loss(part, activation) for part in in_parts(cls_logits)]
        hardness = torch.cat(parts).masked_fill_(~is_candidate, -torch.inf)
        wanted = (negatives_per_positive * is_matched.sum(1)).clamp(min=min_negatives)
        is_negative = _largest(hardness, wanted) & is_candidate
    num_matched = is_matched.sum().clamp(min=1)
    offsets = _offsets(targets, matches.objects, default_boxes_cxcywh, box_weights)

    counts = is_matched | is_negative
    if cls_logits.is_cuda:  # to choose rows would wait for the device
        classification = _class_loss(cls_logits.float(), classes, activation).where(counts, 0).sum()
    else:
        classification = _class_loss(cls_logits[counts].float(), classes[counts], activation).sum()
    regression = F.smooth_l1_loss(
        bbox_regression.float(),
        offsets.where(is_matched[..., None], bbox_regression.detach()),
        reduction="sum",
    )
    return MultiBoxLosses(regression / num_matched, classification / num_matched)


def _offsets(
    targets: Tensor, objects: Tensor, default_boxes_cxcywh: Tensor, box_weights: tuple[float, ...]
) -> Tensor:
    """(B, A, 4) fp32: what the boxes of matched objects are; of others, nothing of use."""
    if not targets.shape[1]:
        return targets.new_zeros(*objects.shape, 4)
    truth = targets.gather(1, objects.clamp(min=0)[..., None].expand(-1, -1, 4))
    return encode_boxes(xyxy_to_cxcywh(truth), default_boxes_cxcywh.float(), box_weights)


def _classes(labels: Tensor, objects: Tensor) -> Tensor:
    """(B, A): the class of each default box, 0 without an object; ``labels`` (B, N)."""
    if not labels.shape[1]:
        return torch.zeros_like(objects)
    return labels.gather(1, objects.clamp(min=0)).masked_fill_(objects == BACKGROUND, 0)


def _background_loss(cls_logits: Tensor, activation: str) -> Tensor:
    """(B, A): the classification loss of each default box if it has no object."""
    logits = cls_logits.float()
    if activation == "softmax":
        return logits.logsumexp(-1) - logits[..., 0]
    return F.softplus(logits[..., 1:]).sum(-1)


def _class_loss(logits: Tensor, classes: Tensor, activation: str) -> Tensor:
    """(...) of each default box: logits (..., C), classes (...)."""
    if activation == "softmax":
        return logits.logsumexp(-1) - logits.gather(-1, classes[..., None])[..., 0]
    truth = F.one_hot(classes, logits.shape[-1]).to(logits.dtype)[..., 1:]
    losses = F.binary_cross_entropy_with_logits(logits[..., 1:], truth, reduction="none")
    return losses.sum(-1)


def _largest(values: Tensor, wanted: Tensor) -> Tensor:
    """(B, A) bool: of each row the ``wanted`` (B,) largest, ties to the lower index."""
    wanted = wanted.ceil().long().clamp(max=values.shape[1])
    if values.is_cuda:  # to ask how many are wanted would wait for the device
        ranked = values.sort(dim=1, descending=True).values
    else:
        ranked = values.topk(max(int(wanted.max()), 1), dim=1).values
    least = ranked.gather(1, (wanted - 1).clamp(min=0)[:, None])
    is_larger = values > least
    is_tied = values == least
    room = wanted[:, None] - is_larger.sum(1, keepdim=True)
    return is_larger | (is_tied & (is_tied.cumsum(1) <= room))
