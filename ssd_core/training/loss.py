"""The MultiBox loss (paper, section 2.2): what the outputs are wrong by, as two sums.

Takes raw outputs and objects; works in fp32 whatever the outputs are. Knows neither networks nor
pixels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ssd_core.box_coder import BOX_WEIGHTS, encode_boxes, xyxy_to_cxcywh
from ssd_core.training.matching import BACKGROUND, match_batch, padded

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
    """
    targets, is_object = padded(list(boxes))
    matches = match_batch(targets, is_object, default_boxes_cxcywh, iou_threshold)
    is_matched = matches.objects != BACKGROUND
    classes = _classes(labels, matches.objects, is_object)
    is_candidate = ~is_matched
    if negatives_below_iou is not None:
        is_candidate &= matches.best_iou < negatives_below_iou
    with torch.no_grad():
        hardness = _background_loss(cls_logits, activation).masked_fill_(~is_candidate, -torch.inf)
        wanted = (negatives_per_positive * is_matched.sum(1)).clamp(min=min_negatives)
        is_negative = _largest(hardness, wanted) & is_candidate
    num_matched = is_matched.sum().clamp(min=1)

    counts = is_matched | is_negative
    classification = _class_loss(cls_logits[counts].float(), classes[counts], activation)
    image, default_box = is_matched.nonzero(as_tuple=True)
    truth = targets[image, matches.objects[image, default_box]]
    offsets = encode_boxes(
        xyxy_to_cxcywh(truth), default_boxes_cxcywh[default_box].float(), box_weights
    )
    regression = F.smooth_l1_loss(bbox_regression[is_matched].float(), offsets, reduction="sum")
    return MultiBoxLosses(regression / num_matched, classification / num_matched)


def _classes(labels: Sequence[Tensor], objects: Tensor, is_object: Tensor) -> Tensor:
    """(B, A): the class of each default box, 0 without an object."""
    if not is_object.shape[1]:
        return torch.zeros_like(objects)
    of_objects = torch.nn.utils.rnn.pad_sequence(list(labels), batch_first=True)
    found = of_objects.gather(1, objects.clamp(min=0))
    return found.masked_fill_(objects == BACKGROUND, 0)


def _background_loss(cls_logits: Tensor, activation: str) -> Tensor:
    """(B, A): the classification loss of each default box if it has no object."""
    logits = cls_logits.float()
    if activation == "softmax":
        return logits.logsumexp(-1) - logits[..., 0]
    return F.softplus(logits[..., 1:]).sum(-1)


def _class_loss(logits: Tensor, classes: Tensor, activation: str) -> Tensor:
    """The sum over default boxes: logits (M, C), classes (M,)."""
    if activation == "softmax":
        return F.cross_entropy(logits, classes, reduction="sum")
    truth = F.one_hot(classes, logits.shape[1]).to(logits.dtype)
    return F.binary_cross_entropy_with_logits(logits[:, 1:], truth[:, 1:], reduction="sum")


def _largest(values: Tensor, wanted: Tensor) -> Tensor:
    """(B, A) bool: of each row the ``wanted`` (B,) largest, ties to the lower index."""
    order = values.sort(dim=1, descending=True, stable=True).indices
    is_wanted = torch.arange(values.shape[1], device=values.device) < wanted[:, None]
    return torch.zeros_like(is_wanted).scatter_(1, order, is_wanted)
