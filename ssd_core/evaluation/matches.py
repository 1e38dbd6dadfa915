"""Which detection finds which object: COCO's rule, and the IoU that it stands on.

Arrays of one image in, matches out; then all images of a class as one ranking. The library that
computes AP keeps its matches to itself: operating points, the bootstrap and the pictures of
mistakes need them. Tests hold these to the library.
"""

from dataclasses import dataclass

import numpy as np

from ssd_core.evaluation.paired import Bools, Floats, Ints, Paired, PairedImage

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""COCO's: AP is the mean over them, AP50 that of the first."""
MAX_DETECTIONS = 100
"""Of an image and class, the best: COCO's AP looks at no more."""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The detections of a class over all images, best first, ties in the order of the images."""

    scores: Floats
    """(D,)"""
    images: Ints
    """(D,) index of the image."""
    detections: Ints
    """(D,) index in the image."""
    objects: Ints
    """(T, D) index in the image of the object that is found at each IoU threshold; -1: none."""
    is_true: Bools
    """(T, D) whether that is an object to be found."""
    is_ignored: Bools
    """(T, D) whether it is an ignored one, which makes the detection neither true nor false."""
    to_be_found: Ints
    """(I,) objects of each image that are to be found."""


def rank(paired: Paired, number: int) -> Ranking:
    """The ranking of class ``number`` over all images."""
    scores, images, detections, objects, ignored = [], [], [], [], []
    to_be_found = np.zeros(len(paired.images), np.int64)
    for index, image in enumerate(paired.images):
        own = np.flatnonzero(image.object_classes == number)
        to_be_found[index] = np.count_nonzero(~image.object_is_ignored[own])
        found = np.flatnonzero(image.classes == number)[:MAX_DETECTIONS]
        if not len(found):
            continue
        matched = match(image, found, own)
        scores.append(image.scores[found])
        images.append(np.full(len(found), index))
        detections.append(found)
        objects.append(matched)
        # The index -1 reads the last one: of no consequence, and wrong without objects.
        is_ignored = np.append(image.object_is_ignored, False)
        ignored.append((matched >= 0) & is_ignored[matched])
    levels = len(IOU_THRESHOLDS)
    all_scores = np.concatenate([np.zeros(0), *scores])
    order = np.argsort(-all_scores, kind="stable")
    nothing = np.zeros((levels, 0), np.int64)
    all_objects = np.concatenate([nothing, *objects], axis=1)[:, order]
    all_ignored = np.concatenate([nothing.astype(bool), *ignored], axis=1)[:, order]
    return Ranking(
        all_scores[order],
        np.concatenate([nothing[0], *images])[order],
        np.concatenate([nothing[0], *detections])[order],
        all_objects,
        (all_objects >= 0) & ~all_ignored,
        all_ignored,
        to_be_found,
    )


def match(image: PairedImage, found: Ints, own: Ints) -> Ints:
    """(T, D) the object that each detection finds at each IoU threshold, as COCO matches them.

    ``found`` and ``own`` are the indices of a class's detections, best first, and objects. One
    after another, a detection takes the free object that it overlaps most, the later of equals; an
    ignored one only if there is none else, and those are never used up.
    """
    taken_by = np.full((len(IOU_THRESHOLDS), len(found)), -1)
    if not len(own) or not len(found):
        return taken_by
    ignored = image.object_is_ignored[own]
    ious = iou(image.boxes_xywh[found], image.object_boxes_xywh[own], ignored)
    free = np.ones((len(IOU_THRESHOLDS), len(own)), bool)
    levels = np.arange(len(IOU_THRESHOLDS))
    for row in np.flatnonzero(ious.max(axis=1) >= IOU_THRESHOLDS[0]):
        allowed = free & (ious[row] >= IOU_THRESHOLDS[:, None])
        wanted = allowed & ~ignored
        allowed = np.where(wanted.any(axis=1)[:, None], wanted, allowed)
        overlaps = np.where(allowed, ious[row], -1.0)
        best = len(own) - 1 - np.argmax(overlaps[:, ::-1], axis=1)
        hit = allowed[levels, best]
        taken_by[hit, row] = own[best[hit]]
        free[levels[hit], best[hit]] = ignored[best[hit]]
    return taken_by


def iou(boxes_xywh: Floats, objects_xywh: Floats, is_crowd: Bools | bool = False) -> Floats:
    """(D, N) IoU; with a crowd, the share of the detection that lies in it (COCO's rule).

    In the order of operations of COCO's own code: an IoU at a threshold falls on the same side.
    """
    near = np.maximum(boxes_xywh[:, None, :2], objects_xywh[None, :, :2])
    far = np.minimum(
        boxes_xywh[:, None, :2] + boxes_xywh[:, None, 2:],
        objects_xywh[None, :, :2] + objects_xywh[None, :, 2:],
    )
    both = (far - near).clip(min=0).prod(axis=2)
    area = boxes_xywh[:, 2:].prod(axis=1)[:, None]
    union = np.where(is_crowd, area, area + objects_xywh[:, 2:].prod(axis=1) - both)
    shares: Floats = np.zeros_like(both)
    np.divide(both, union, out=shares, where=union > 0)
    return shares
