"""decode_nms for CUDA: Triton kernels, no host synchronisation, every size fixed in advance.

    find_candidates  one pass over the logits: an upper bound, then activation and threshold where
                     it lets something through; a list of candidates per image and class
    suppress         per image and class: the best K of the list, their boxes, greedy NMS; launched
                     for short lists, which nearly all are, and once more for long ones
    merge            per image: the best D over the classes, their boxes again, padding

A candidate is one int64 key: the bits of its score above the inverted index of its default box.
Scores are positive, so their bits sort as they do, and no two keys are equal: whatever the order in
which blocks append to a list, the sorted list is the same. That makes the op deterministic.
Matches ``decode_nms_reference.py``; knows nothing of devices other than the one its inputs are on.
The device code is in ``decode_nms_kernels.py``.
"""

import math
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor

from ssd_core.ops.decode_nms_kernels import find_candidates, merge, suppress
from ssd_core.ops.decode_nms_reference import DecodedDetections, UnsupportedSizeError
from ssd_core.ops.decode_nms_settings import DecodeSettings

# Times: 32 images of 8,732 boxes and 91 classes, fp32, on an NVIDIA H200; "sparse" as a network
# sees pictures, "dense" with every box a candidate of every class. One constant was changed at a
# time, with LOGITS_PER_BLOCK at 2,048 and MERGE_WARPS at 8 (benchmarks/gpu/decode_nms_variants.py).
MAX_SORTED = 2048
"""Keys that one program sorts: the limit of candidates_per_class and max_detections. Triton sorts
in registers, and compile time grows with the size."""
KEYS_PER_WARP = 128
"""Of a list in NMS, 4 a lane: dense takes 0.94 ms, with 64 or 256 a warp 1.25 and 1.01 ms."""
SHORT_LIST = 64
"""Candidates of a class, at most, that have a launch of their own, of one warp a list: lists mostly
hold about ten. Sparse takes 51 us, with one launch for all lists 82, with 32 or 128 here 59 and
56."""
WORKSPACE_BYTES = 512 * 2**20
"""Candidate lists held at once. They have room for every box of every class: 6 MiB an image for
SSD300 with 91 classes. Larger batches go in several rounds."""
LOGITS_PER_BLOCK = 1024
"""Compared with the bound at once, by one warp: several would have to share rows. Sparse takes 47
us, with 512, 2,048 or 4,096 logits 62, 51 and 58, and without the bound 97. Dense takes 0.98 ms,
with 2,048 0.94."""
EXACT_LOGITS = 512
"""Whose scores are computed at once, where one of them may be above the threshold. Dense takes 0.94
ms, with 256 1.12; 1,024 save 0.04 there and cost sparse 2 of 51 us."""
SELECTED_PER_WARP = 256
"""Keys that each warp reads at once while it selects the best: dense takes 0.94 ms, with 128
0.97."""
MERGE_WARPS = 4
"""Sparse takes the same time with 4, 8 and 16, and a microsecond more with 2."""


def decode_nms_triton(
    bbox_regression: Tensor,
    cls_logits: Tensor,
    default_boxes_cxcywh: Tensor,
    settings: DecodeSettings,
) -> DecodedDetections:
    """See ``decode_nms_reference``: same arguments, same outputs.

    Raises UnsupportedSizeError if ``candidates_per_class`` (or the number of default boxes, if that
    is less) or ``max_detections`` is above ``MAX_SORTED``.
    """
    num_images, num_boxes, num_classes = cls_logits.shape
    foreground, max_detections = num_classes - 1, settings.max_detections
    best = min(settings.candidates_per_class, num_boxes)
    device = cls_logits.device
    if 0 in (num_images, foreground, best, max_detections):
        return DecodedDetections.none(num_images, max_detections, device)
    if max(best, max_detections) > MAX_SORTED:
        raise UnsupportedSizeError(
            f"candidates_per_class {settings.candidates_per_class} or max_detections "
            f"{max_detections} is "
            f"above {MAX_SORTED}"
        )
    bbox_regression, cls_logits = bbox_regression.contiguous(), cls_logits.contiguous()
    default_boxes_cxcywh = default_boxes_cxcywh.float().contiguous()
    kept_per_class = min(best, max_detections)  # more of one class than all together: never

    best_padded, detections_padded = _padded(best), _padded(max_detections)
    # A list's memory takes the boxes of its best later: 16 bytes each. Rounded for wide loads.
    list_size = 16 * triton.cdiv(max(num_boxes, 2 * best_padded), 16)
    at_once = max(1, min(num_images, WORKSPACE_BYTES // (foreground * list_size * 8)))
    at_once = triton.cdiv(num_images, triton.cdiv(num_images, at_once))  # rounds of like size
    result = DecodedDetections(
        boxes=torch.empty(num_images, max_detections, 4, dtype=torch.float32, device=device),
        scores=torch.empty(num_images, max_detections, dtype=torch.float32, device=device),
        labels=torch.empty(num_images, max_detections, dtype=torch.int64, device=device),
        count=torch.empty(num_images, dtype=torch.int64, device=device),
    )
    keys = torch.empty(at_once * foreground * list_size, dtype=torch.int64, device=device)
    kept = torch.empty(at_once * foreground * kept_per_class, dtype=torch.int64, device=device)
    counts = torch.empty(at_once * (num_classes + 1), dtype=torch.int32, device=device)
    candidate_counts, kept_counts = counts[at_once:], counts[:at_once]

    classes_padded = triton.next_power_of_2(num_classes)
    rows = _power_of_2_up_to(min(num_boxes, LOGITS_PER_BLOCK // classes_padded))
    lists = (
        [(0, SHORT_LIST), (SHORT_LIST, num_boxes)] if best_padded > SHORT_LIST else [(0, num_boxes)]
    )
    options = {"enable_fp_fusion": False}  # the reference rounds after each operation
    boxes: tuple[Any, ...]
    with torch.cuda.device_of(cls_logits):
        for first in range(0, num_images, at_once):
            images = min(at_once, num_images - first)
            logits, offsets = cls_logits[first : first + images], bbox_regression[first:]
            counts.zero_()
            find_candidates[(triton.cdiv(num_boxes, rows), images)](
                logits,
                keys,
                candidate_counts,
                num_boxes,
                list_size,
                settings.score_threshold,
                _least_logit(settings.score_threshold),
                CLASSES=num_classes,
                CLASSES_PADDED=classes_padded,
                ROWS=rows,
                EXACT_ROWS=min(rows, _power_of_2_up_to(EXACT_LOGITS // classes_padded)),
                SOFTMAX=settings.activation == "softmax",
                num_warps=1,
                **options,
            )
            boxes = (offsets, default_boxes_cxcywh, *map(float, settings.box_weights), num_boxes)
            for shorter, longest in lists:
                padded = min(best_padded, _padded(longest))
                warps = max(1, padded // KEYS_PER_WARP)
                suppress[(foreground, images)](
                    keys,
                    candidate_counts,
                    kept,
                    kept_counts,
                    *boxes,
                    list_size,
                    settings.iou_threshold,
                    _half_step(settings.iou_threshold),
                    CLASSES=num_classes,
                    SHORTER=shorter,
                    LONGEST=longest,
                    BEST=best,
                    BEST_PADDED=padded,
                    KEPT=kept_per_class,
                    CHUNK=warps * SELECTED_PER_WARP,
                    num_warps=warps,
                    **options,
                )
            merge[(images,)](
                kept,
                kept_counts,
                *boxes[:-1],
                *(tensor[first:] for tensor in result),
                num_boxes,
                CLASSES=num_classes,
                KEPT=kept_per_class,
                DETECTIONS=max_detections,
                DETECTIONS_PADDED=detections_padded,
                CHUNK=MERGE_WARPS * SELECTED_PER_WARP,
                num_warps=MERGE_WARPS,
                **options,
            )
    return result


def _padded(size: int) -> int:
    """The power of two that Triton's sort needs, and at least 16."""
    return max(16, int(triton.next_power_of_2(size)))


def _power_of_2_up_to(size: int) -> int:
    return 1 << max(1, size).bit_length() - 1


def _least_logit(score_threshold: float) -> float:
    """A logit, for softmax above the background's, that every score above the threshold has.

    The scores of the kernel are off by less than 1e-4 of themselves, also near zero; for still
    lower thresholds nothing is left out. Finite: an infinite one would let the padding through.
    """
    certain = score_threshold * (1 - 1e-4)
    if certain < 1e-30:
        return -3e38
    return math.log(certain) - math.log1p(-certain) if certain < 1 else 3e38


def _half_step(value: float) -> float:
    """Half the distance to the next greater fp32 number."""
    rounded = np.float32(value)
    return (float(np.nextafter(rounded, np.float32(np.inf))) - float(rounded)) / 2
