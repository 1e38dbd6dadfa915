"""decode_nms for the CPU: the reference's answer without the reference's work.

Nearly every default box of a picture is background. A cheap bound on the raw logits finds the few
that can be above the threshold, and only those get a score, a sort, a box and a place in NMS.
Equal to ``ops/reference.py`` in every detection.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import nms

from ssd_core.box_coder import cxcywh_to_xyxy, decode_boxes
from ssd_core.ops.reference import DecodedDetections, foreground_scores, suppress

CHUNK_LOGITS = 1 << 22
"""Logits looked at together (16 MiB in fp32): bounds the memory of a batch where every box of every
class is a candidate."""
BOUND_MARGIN = 1e-3
"""By how much the bound lets logits pass that are below it: far more than rounding moves them."""
MANY_CANDIDATES = 4
"""Candidates per place in the lists of the best ones, from which on selecting beats sorting."""
LARGE_GROUP = 32
"""Boxes of one class in one image from which on torchvision's nms, one call each, beats comparing
all pairs of all classes at once."""


class _Candidates(NamedTuple):
    """Boxes that may become detections, ordered by (image, class), then by falling score."""

    group: Tensor
    """(N,) int64: image * (C - 1) + class - 1."""
    box: Tensor
    """(N,) int64: index of the default box."""
    score: Tensor
    """(N,) fp32."""

    def take(self, rows: Tensor) -> "_Candidates":
        return _Candidates(self.group[rows], self.box[rows], self.score[rows])


def decode_nms_cpu(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    activation: str,
    score_threshold: float,
    iou_threshold: float,
    candidates_per_class: int,
    max_detections: int,
    box_weights: tuple[float, ...],
) -> DecodedDetections:
    """See ``decode_nms_reference``: same arguments, same outputs, same errors."""
    num_images, num_boxes, num_classes = cls_logits.shape
    result = DecodedDetections(
        boxes=default_boxes_cxcywh.new_zeros(num_images, max_detections, 4),
        scores=default_boxes_cxcywh.new_zeros(num_images, max_detections),
        labels=torch.zeros(num_images, max_detections, dtype=torch.int64),
        count=torch.zeros(num_images, dtype=torch.int64),
    )
    step = max(1, CHUNK_LOGITS // max(1, num_boxes * num_classes))
    for start in range(0, num_images, step):
        images = slice(start, start + step)
        found = _find_candidates(
            cls_logits[images], activation, score_threshold, candidates_per_class
        )
        if len(found.box) == 0:
            continue
        image = found.group.div(num_classes - 1, rounding_mode="floor")
        offsets = bbox_regression[images][image, found.box].float()
        decoded = decode_boxes(offsets, default_boxes_cxcywh[found.box], box_weights)
        boxes_xyxy = cxcywh_to_xyxy(decoded).clamp_(0, 1)
        real = ~boxes_xyxy.isnan().any(dim=-1)
        if not real.all():
            found, boxes_xyxy, image = found.take(real), boxes_xyxy[real], image[real]

        kept = _greedy_nms(boxes_xyxy, found.group, iou_threshold)
        found, boxes_xyxy, image = found.take(kept), boxes_xyxy[kept], image[kept]

        order, rank = _best_of_each(image, found.score, max_detections, len(cls_logits[images]))
        image = image[order] + start
        result.boxes[image, rank] = boxes_xyxy[order]
        result.scores[image, rank] = found.score[order]
        result.labels[image, rank] = found.group[order] % (num_classes - 1) + 1
        result.count.add_(torch.bincount(image, minlength=num_images))
    return result


def _find_candidates(
    cls_logits: Tensor, activation: str, score_threshold: float, candidates_per_class: int
) -> _Candidates:
    """The best candidates of each image and class."""
    num_images, _, num_classes = cls_logits.shape
    image, box = _rows_worth_scoring(cls_logits, activation, score_threshold)
    scores = foreground_scores(cls_logits[image, box], activation)
    above = scores > score_threshold
    num_groups = num_images * (num_classes - 1)
    places = num_groups * candidates_per_class
    if len(scores) * (num_classes - 1) > MANY_CANDIDATES * places and (
        int(above.sum()) > MANY_CANDIDATES * places
    ):
        above &= scores >= _least_of_the_best(scores, image, num_images, candidates_per_class)
    row, label = torch.nonzero(above, as_tuple=True)
    score, group = scores[row, label], image[row] * (num_classes - 1) + label
    order, _ = _best_of_each(group, score, candidates_per_class, num_groups)
    return _Candidates(group[order], box[row[order]], score[order])


def _rows_worth_scoring(
    cls_logits: Tensor, activation: str, score_threshold: float
) -> tuple[Tensor, Tensor]:
    """(image, default box) of every box in which some class can be above the threshold.

    Softmax: p_c <= exp(x_c) / (exp(x_0) + exp(x_c)), so p_c > t needs x_c - x_0 > logit(t).
    Sigmoid: p_c > t is x_c > logit(t).
    """
    foreground = cls_logits[..., 1:]
    if not 0 < score_threshold < 1 or foreground.shape[-1] == 0:
        bound = -math.inf if score_threshold < 1 else math.inf
    else:
        bound = math.log(score_threshold / (1 - score_threshold)) - BOUND_MARGIN
    if activation == "softmax":
        # A NaN in a row is its maximum, and takes the row with it, as softmax does.
        worth = foreground.amax(-1).float() - cls_logits[..., 0].float() > bound
    else:
        worth = (foreground > bound).any(-1)
    image, box = torch.nonzero(worth, as_tuple=True)
    return image, box


def _least_of_the_best(scores: Tensor, image: Tensor, num_images: int, best: int) -> Tensor:
    """(R, C - 1) for scores (R, C - 1) of boxes of ``image`` (R,): the best-th of image and class.

    Where a class has fewer scores, -inf.
    """
    least = scores.new_full((num_images, scores.shape[1]), -torch.inf)
    sizes = torch.bincount(image, minlength=num_images).tolist()
    for index, of_image in enumerate(torch.split(scores, sizes)):
        if len(of_image) > best:
            columns = of_image.T.contiguous()
            least[index] = columns.topk(best, dim=1, sorted=False).values.amin(1)
    return least[image]


def _best_of_each(
    group: Tensor, score: Tensor, best: int, num_groups: int
) -> tuple[Tensor, Tensor]:
    """The rows of each group's best scores in order of (group, falling score, row), and their rank.

    ``group`` (N,) int64 from 0, ``score`` (N,) fp32 and positive, so that its bits sort as it does.
    """
    key = (group << 32) - score.view(torch.int32)
    key, order = torch.sort(key, stable=True)
    group = group[order]
    sizes = torch.bincount(group, minlength=num_groups)
    rank = torch.arange(len(group)) - (sizes.cumsum(0) - sizes)[group]
    within = rank < best
    return order[within], rank[within]


def _greedy_nms(boxes_xyxy: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    """Rows that greedy NMS keeps; ``boxes_xyxy`` (N, 4) is sorted by group, then falling score."""
    _, sizes = torch.unique_consecutive(group, return_counts=True)
    starts = sizes.cumsum(0) - sizes
    kept = torch.ones(len(group), dtype=torch.bool)
    # torchvision compares IoU (fp32) with the threshold in fp64, the reference in fp32.
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    large = sizes > LARGE_GROUP
    for start, size in zip(starts[large].tolist(), sizes[large].tolist(), strict=True):
        rows = slice(start, start + size)
        falling = torch.arange(size, 0, -1, dtype=torch.float32)
        kept[rows] = False
        kept[start + nms(boxes_xyxy[rows], falling, threshold)] = True

    small = (sizes > 1) & ~large
    starts, sizes = starts[small], sizes[small]
    if len(sizes):
        rank = torch.arange(int(sizes.max()))
        inside = rank < sizes[:, None]
        rows_of_groups = (starts[:, None] + rank).clamp_(max=len(group) - 1)
        padded = boxes_xyxy[rows_of_groups].masked_fill_(~inside[..., None], 0)
        kept[rows_of_groups[inside]] = suppress(padded, iou_threshold)[inside]
    return torch.nonzero(kept).squeeze(1)
