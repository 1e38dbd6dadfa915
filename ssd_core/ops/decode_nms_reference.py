"""decode_nms in plain PyTorch: the specification that every faster implementation must match.

Raw head outputs and default boxes in; the best boxes per image out. Slow where it must be plain,
exact always. Runs on any device; synchronises with the host, so it cannot be captured in a graph.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from ssd_core.box_coder import cxcywh_to_xyxy, decode_boxes
from ssd_core.ops.decode_nms_settings import DecodeSettings

NMS_CHUNK_ELEMENTS = 1 << 24
"""IoU values held at once (64 MiB in fp32): bounds memory when every box is a candidate."""


class DecodedDetections(NamedTuple):
    """The fixed-size outputs of decode_nms, padded with zeros (D = max_detections)."""

    boxes: Tensor
    """(B, D, 4) fp32 xyxy in [0, 1]."""
    scores: Tensor
    """(B, D) fp32, descending."""
    labels: Tensor
    """(B, D) int64; 0 in the padding."""
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which is not needed
    """(B,) int64: how many of the D are detections."""

    @classmethod
    def none(
        cls, num_images: int, max_detections: int, device: torch.device
    ) -> "DecodedDetections":
        """No detections in any image: zeros."""
        zeros = partial(torch.zeros, device=device)
        return cls(
            boxes=zeros(num_images, max_detections, 4, dtype=torch.float32),
            scores=zeros(num_images, max_detections, dtype=torch.float32),
            labels=zeros(num_images, max_detections, dtype=torch.int64),
            count=zeros(num_images, dtype=torch.int64),
        )


class UnsupportedSizeError(ValueError):
    """A faster implementation does not support these sizes; the reference takes any."""


def decode_nms_reference(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    settings: DecodeSettings,
) -> DecodedDetections:
    """Turn raw head outputs into detections.

    Takes ``bbox_regression`` (B, A, 4), ``cls_logits`` (B, A, C) with class 0 the background, both
    fp32, fp16 or bf16, and ``default_boxes_cxcywh`` (A, 4) fp32 in [0, 1]. Computes in fp32:

    1. scores by softmax or sigmoid over the classes; a candidate has score > ``score_threshold``
       and a finite logit;
    2. per image and class the ``candidates_per_class`` best, ties by lower default-box index;
    3. their boxes decoded and clipped to [0, 1]; a box with a NaN coordinate is dropped, but has
       already counted towards ``candidates_per_class``;
    4. per image and class greedy NMS: a box is dropped if its IoU with a better kept one is greater
       than ``iou_threshold``;
    5. per image the ``max_detections`` best, ties by (class, default-box index).
    """
    num_images, _, num_classes = cls_logits.shape
    scores = class_scores(cls_logits, settings.activation).float()
    scores = torch.where(cls_logits.isfinite(), scores, -torch.inf)[..., 1:].transpose(1, 2)

    # Candidates as flat rows ordered by (image, class, default box), then within a group by score.
    image, label, box = torch.nonzero(scores > settings.score_threshold, as_tuple=True)
    score = scores[image, label, box]
    order = torch.argsort(score, descending=True, stable=True)
    group = image * (num_classes - 1) + label
    order = order[torch.argsort(group[order], stable=True)]
    rank = _rank_within_group(group[order])
    order = order[rank < settings.candidates_per_class]
    image, label, box, score = image[order], label[order], box[order], score[order]

    offsets = bbox_regression[image, box].float()
    decoded = decode_boxes(offsets, default_boxes_cxcywh[box], settings.box_weights)
    boxes_xyxy = cxcywh_to_xyxy(decoded).clamp(0, 1)
    real = ~boxes_xyxy.isnan().any(dim=-1)
    image, label, score, boxes_xyxy = image[real], label[real], score[real], boxes_xyxy[real]

    kept = _greedy_nms(boxes_xyxy, image * (num_classes - 1) + label, settings.iou_threshold)
    image, label, score, boxes_xyxy = image[kept], label[kept], score[kept], boxes_xyxy[kept]

    order = torch.argsort(score, descending=True, stable=True)
    order = order[torch.argsort(image[order], stable=True)]
    rank = _rank_within_group(image[order])
    order, rank = order[rank < settings.max_detections], rank[rank < settings.max_detections]
    image = image[order]
    result = DecodedDetections.none(num_images, settings.max_detections, cls_logits.device)
    result.count.copy_(torch.bincount(image, minlength=num_images))
    result.boxes[image, rank] = boxes_xyxy[order]
    result.scores[image, rank] = score[order]
    result.labels[image, rank] = label[order] + 1
    return result


def class_scores(cls_logits: Tensor, activation: str) -> Tensor:
    """(..., C) logits to (..., C) scores in fp64, to be rounded once.

    fp32 vector code rounds differently with the position in the tensor (by one bit, for 9 of 400
    random logits), which would break ties between equal logits. ``activation``: as in
    ``DecodeSettings``, which refuses others.
    """
    if activation == "softmax":
        return torch.softmax(cls_logits.double(), dim=-1)
    return torch.sigmoid(cls_logits.double())


def _rank_within_group(group: Tensor) -> Tensor:
    """Position of each element in its group; ``group`` is sorted."""
    _, size = torch.unique_consecutive(group, return_counts=True)
    start = torch.cumsum(size, 0) - size
    rank: Tensor = torch.arange(len(group), device=group.device) - start.repeat_interleave(size)
    return rank


def _greedy_nms(boxes_xyxy: Tensor, group: Tensor, iou_threshold: float) -> Tensor:
    """(N,) bool, true for boxes that greedy NMS keeps; rows are sorted by group, then score."""
    kept = torch.zeros(len(group), dtype=torch.bool, device=group.device)
    if len(group) == 0:
        return kept
    _, sizes = torch.unique_consecutive(group, return_counts=True)
    rank = _rank_within_group(group)
    row = torch.arange(len(sizes), device=group.device).repeat_interleave(sizes)
    largest = int(sizes.max())
    padded = boxes_xyxy.new_zeros(len(sizes), largest, 4)
    padded[row, rank] = boxes_xyxy
    groups_at_once = max(1, NMS_CHUNK_ELEMENTS // largest**2)
    kept_padded = torch.cat(
        [_suppress(chunk, iou_threshold) for chunk in torch.split(padded, groups_at_once)]
    )
    result: Tensor = kept_padded[row, rank]
    return result


def _suppress(boxes_xyxy: Tensor, iou_threshold: float) -> Tensor:
    """Greedy NMS for (G, K, 4) boxes, each row sorted by score: (G, K) bool, true where kept.

    A box is kept if no kept box before it overlaps it. Applying that rule to all boxes at once
    settles one more box of every chain of overlaps each time, and its only fixed point is the
    greedy answer.
    """
    overlaps = torch.triu(_pairwise_iou(boxes_xyxy) > iou_threshold, diagonal=1)
    kept = torch.ones(boxes_xyxy.shape[:2], dtype=torch.bool, device=boxes_xyxy.device)
    while True:
        suppressed = (overlaps & kept[:, :, None]).any(dim=1)
        if torch.equal(kept, ~suppressed):
            return kept
        kept = ~suppressed


def _pairwise_iou(boxes_xyxy: Tensor) -> Tensor:
    """(G, K, 4) to (G, K, K); NaN, which no threshold is below, for two boxes without area."""
    low = torch.maximum(boxes_xyxy[:, :, None, :2], boxes_xyxy[:, None, :, :2])
    high = torch.minimum(boxes_xyxy[:, :, None, 2:], boxes_xyxy[:, None, :, 2:])
    width_height = (high - low).clamp(min=0)
    intersection = width_height[..., 0] * width_height[..., 1]
    size = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).clamp(min=0)
    area = size[..., 0] * size[..., 1]
    return intersection / (area[:, :, None] + area[:, None, :] - intersection)
