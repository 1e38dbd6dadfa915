"""decode_nms in NumPy, for a CPU without the C++ library: skips most of the reference's work.

Nearly every default box of a picture is background: a bound on the raw logits finds the few that
can be above the threshold, and only those get a score. Detections are wanted best first: candidates
are taken in order of their scores, over all classes, and no further than the last detection needs.
Matches ``decode_nms_reference.py`` in every bit of a detection.

One image at a time, on one thread, in NumPy: its arrays are small, where a NumPy call takes 1 us
and a PyTorch call 4. Exponentials are left to PyTorch, so that they round as the reference's do.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ssd_core.box_coder import cxcywh_to_xyxy, decode_boxes
from ssd_core.ops.decode_nms_reference import DecodedDetections, class_scores
from ssd_core.ops.decode_nms_settings import DecodeSettings

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

BOUND_MARGIN = 1e-3
"""By how much the bound lets logits pass that are below it: far more than rounding moves them."""
FIRST_LOOK = 4
"""Candidates looked at first, per detection wanted. If NMS leaves too few, four times as many."""
LARGE_GROUP = 128
"""Candidates of one class from which on torchvision's nms, one call each, beats comparing all pairs
of all classes at once, whose number grows with the square."""


class _Candidates(NamedTuple):
    """(N,) each: class index (0 is the first after the background), default box, score."""

    label: Ints
    box: Ints
    score: Floats

    def take(self, rows: npt.NDArray[np.generic]) -> "_Candidates":
        return _Candidates(self.label[rows], self.box[rows], self.score[rows])


@np.errstate(invalid="ignore", over="ignore")  # what infinities lead to is above no threshold
def decode_nms_numpy(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    settings: DecodeSettings,
) -> DecodedDetections:
    """See ``decode_nms_reference``: same arguments, same outputs."""
    num_images, max_detections = len(cls_logits), settings.max_detections
    result = DecodedDetections.none(num_images, max_detections, cls_logits.device)
    for image in range(num_images if max_detections else 0):
        candidates = _find_candidates(
            cls_logits[image], settings.activation, settings.score_threshold
        )
        look_at = FIRST_LOOK * max_detections
        while True:
            best = _best_candidates(candidates, look_at, settings.candidates_per_class)
            offsets = bbox_regression[image][torch.from_numpy(best.box)].float()
            default_boxes = default_boxes_cxcywh[torch.from_numpy(best.box)]
            decoded = decode_boxes(offsets, default_boxes, settings.box_weights)
            boxes_xyxy = cxcywh_to_xyxy(decoded).clamp_(0, 1).numpy()
            kept = _greedy_nms(boxes_xyxy, best.label, settings.iou_threshold)
            if len(kept) >= max_detections or look_at >= len(candidates.score):
                break
            look_at *= FIRST_LOOK
        kept = kept[np.argsort(-best.score[kept], kind="stable")][:max_detections]
        result.boxes[image, : len(kept)] = torch.from_numpy(boxes_xyxy[kept])
        result.scores[image, : len(kept)] = torch.from_numpy(best.score[kept])
        result.labels[image, : len(kept)] = torch.from_numpy(best.label[kept] + 1)
        result.count[image] = len(kept)
    return result


def _find_candidates(cls_logits: Tensor, activation: str, score_threshold: float) -> _Candidates:
    """Every candidate of an image with logits (A, C), ordered by (default box, class)."""
    logits = cls_logits.float()
    num_foreground = logits.shape[1] - 1
    bound = logit_bound(score_threshold)
    if num_foreground == 0:
        return _Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    if activation == "softmax":
        # NaN is the largest of its row and above nothing: the row is dropped, as in softmax.
        flat = logits.contiguous().numpy().reshape(-1)
        background, largest = np.maximum.reduceat(flat, _segments(*logits.shape)).reshape(-1, 2).T
        rows = np.flatnonzero(largest - background > bound)
        of_rows = logits.numpy()[rows]
        # Flat, and then divided: on two dimensions NumPy's nonzero takes five times as long.
        above = np.flatnonzero(of_rows[:, 1:] - of_rows[:, :1] > bound)
        row, label = np.divmod(above, num_foreground)
        scores = class_scores(torch.from_numpy(of_rows), activation).numpy()[row, label + 1]
        box, logit = rows[row], of_rows[row, label + 1]
    else:
        above = np.flatnonzero(logits.numpy()[:, 1:] > bound)
        box, label = np.divmod(above, num_foreground)
        logit = logits.numpy()[box, label + 1]
        scores = class_scores(torch.from_numpy(logit), activation).numpy()
    score = scores.astype(np.float32)
    is_candidate = (score > np.float32(score_threshold)) & np.isfinite(logit)
    return _Candidates(label, box, score).take(is_candidate)


@lru_cache(maxsize=8)
def _segments(num_boxes: int, num_classes: int) -> Ints:
    """Where in flat logits the background and the foreground of each box begin.

    8732 x 91 on one core: maxima of these segments 0.31 ms, amax in PyTorch 0.44, in NumPy 0.66.
    """
    starts: Ints = np.arange(num_boxes)[:, None] * num_classes + np.array([0, 1])
    return starts.reshape(-1)


def logit_bound(score_threshold: float) -> float:
    """What a logit, for softmax less that of the background, is above if its score is a candidate.

    Softmax gives p_c <= exp(x_c) / (exp(x_0) + exp(x_c)), so p_c > t needs x_c - x_0 > logit(t).
    Sigmoid gives p_c > t just where x_c > logit(t).
    """
    score = float(np.float32(score_threshold))  # scores are compared in fp32
    if 0 < score < 1:
        return math.log(score / (1 - score)) - BOUND_MARGIN
    return -math.inf if score <= 0 else math.inf


def _best_candidates(
    candidates: _Candidates, look_at: int, candidates_per_class: int
) -> _Candidates:
    """The ``look_at`` best, and more if scores are equal, without those a class has too many of.

    Ordered by (class, descending score, default box).
    """
    score = candidates.score
    if len(score) > look_at:
        least = np.partition(score, len(score) - look_at)[len(score) - look_at]
        candidates = candidates.take(np.flatnonzero(score >= least))
    # The bits of positive floats sort as they do. Rows of one class are in order of their boxes.
    key = (candidates.label << 32) - candidates.score.view(np.int32)
    candidates = candidates.take(np.argsort(key, kind="stable"))
    return candidates.take(_places(candidates.label) < candidates_per_class)


def _places(group: Ints) -> Ints:
    """Place of each row in its group, from 0; ``group`` (N,) is sorted."""
    row = np.arange(len(group))
    first = np.where(np.diff(group, prepend=-1) > 0, row, 0)
    places: Ints = row - np.maximum.accumulate(first)
    return places


def _greedy_nms(boxes_xyxy: Floats, label: Ints, iou_threshold: float) -> Ints:
    """Rows that greedy NMS keeps; ``boxes_xyxy`` (N, 4) is sorted by class, then descending score.

    Boxes with a NaN coordinate are dropped.
    """
    kept = ~np.logical_or.reduce(np.isnan(boxes_xyxy), axis=1)
    sizes = np.bincount(label)
    threshold = np.float32(iou_threshold)  # in fp32, as the reference compares
    starts = np.cumsum(sizes) - sizes
    for group in np.flatnonzero(sizes > LARGE_GROUP):
        # Takes a second and 200 MiB to import, for what few pictures have.
        from torchvision.ops import nms

        rows = starts[group] + np.flatnonzero(kept[starts[group] :][: sizes[group]])
        kept[rows] = False
        falling = torch.arange(len(rows), 0, -1, dtype=torch.float32, device="cpu")
        best = nms(torch.from_numpy(boxes_xyxy[rows]), falling, float(threshold))
        kept[rows[best.numpy()]] = True

    # Of the smaller groups every pair of a row and one before it in its group.
    partners = np.where(sizes[label] > LARGE_GROUP, 0, _places(label))
    worse = np.repeat(np.arange(len(label)), partners)
    better = starts[label[worse]] + np.arange(len(worse)) - (np.cumsum(partners) - partners)[worse]
    overlap = _iou(boxes_xyxy[better], boxes_xyxy[worse]) > threshold
    better, worse = better[overlap], worse[overlap]
    # Rows are in order, so a row is final before it is compared with later ones: one pass is NMS.
    for i, j in zip(better.tolist(), worse.tolist(), strict=True):
        if kept[i]:
            kept[j] = False
    return np.flatnonzero(kept)


def _iou(a_xyxy: Floats, b_xyxy: Floats) -> Floats:
    """(N, 4) and (N, 4) to (N,), operation by operation as the reference; NaN without area."""
    ax1, ay1, ax2, ay2 = a_xyxy.T
    bx1, by1, bx2, by2 = b_xyxy.T
    width = np.maximum(np.minimum(ax2, bx2) - np.maximum(ax1, bx1), 0)
    height = np.maximum(np.minimum(ay2, by2) - np.maximum(ay1, by1), 0)
    intersection = width * height
    area_a = np.maximum(ax2 - ax1, 0) * np.maximum(ay2 - ay1, 0)
    area_b = np.maximum(bx2 - bx1, 0) * np.maximum(by2 - by1, 0)
    iou: Floats = intersection / (area_a + area_b - intersection)
    return iou
