"""Post-processing written a second time, with loops and NumPy, slow and plain."""

import numpy as np


def decode(offsets, default_boxes_cxcywh):
    """(A, 4) offsets x, y, w, h to (A, 4) clipped xyxy, in fp32."""
    offsets = offsets.astype(np.float32) / np.float32([10, 10, 5, 5])
    offsets[:, 2:] = np.minimum(offsets[:, 2:], np.float32(np.log(1000 / 16)))
    centre = offsets[:, :2] * default_boxes_cxcywh[:, 2:] + default_boxes_cxcywh[:, :2]
    half = np.exp(offsets[:, 2:]) * default_boxes_cxcywh[:, 2:] / 2
    return np.clip(np.concatenate([centre - half, centre + half], axis=1), 0, 1)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    area_a = (a[2] - a[0]) * (a[3] - a[1])
    area_b = (b[2] - b[0]) * (b[3] - b[1])
    return intersection / (area_a + area_b - intersection)


def detections(
    scores, boxes_xyxy, score_threshold, iou_threshold, candidates_per_class, max_detections
):
    """[(score, label, box index)] of one image, best first, for (A, C) scores."""
    found = []
    for label in range(1, scores.shape[1]):
        candidates = [i for i in range(len(scores)) if scores[i, label] > score_threshold]
        candidates.sort(key=lambda i: (-scores[i, label], i))
        kept = []
        for i in candidates[:candidates_per_class]:
            if all(iou(boxes_xyxy[i], boxes_xyxy[j]) <= np.float32(iou_threshold) for j in kept):
                kept.append(i)
        found += [(float(scores[i, label]), label, i) for i in kept]
    found.sort(key=lambda detection: (-detection[0], detection[1], detection[2]))
    return found[:max_detections]
