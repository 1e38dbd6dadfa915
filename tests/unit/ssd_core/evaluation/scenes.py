"""Labelled images and detections made on the spot, and what pycocotools says of them."""

import contextlib
import io

import numpy as np
import torch

from ssd_core import Detections
from ssd_core.training.data import DataSet, LabelledImage

SIDE = 400


def blank():
    return np.zeros((SIDE, SIDE, 3), np.uint8)


def labelled(boxes, classes, ignored=None, name="1.jpg", areas=None):
    """A labelled image of SIDE x SIDE pixels."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    sizes = boxes[:, 2:] - boxes[:, :2]
    return LabelledImage(
        name, blank, SIDE, SIDE, boxes, np.array(classes, np.int64),
        np.zeros(len(boxes), bool) if ignored is None else np.array(ignored, bool),
        sizes.prod(axis=1) if areas is None else np.array(areas, np.float32),
    )  # fmt: skip


def detected(boxes, scores, names):
    """Detections as a detector gives them, for an image of that size."""
    boxes = torch.tensor(np.array(boxes, np.float32).reshape(-1, 4))
    return Detections(
        boxes, torch.tensor(np.array(scores, np.float32)),
        torch.ones(len(boxes), dtype=torch.int64), list(names), boxes / SIDE,
    )  # fmt: skip


def data_set(*images, labels=("background", "cat", "dog")):
    return DataSet(labels, images, "sha256:0")


def random_scenes(
    seed, images=20, classes=5, objects=6, false_alarms=10, skill=0.8, crowds=0.1, whole=True
):
    """A data set and a detector's detections, near objects with the probability ``skill``.

    Some images are empty, the last class has no objects and the one before no detections. With
    ``whole`` pixels, many IoUs are equal and at thresholds, with few scores many of those too.
    """
    random = np.random.default_rng(seed)
    labels = ("background", *(f"class {number}" for number in range(1, classes + 1)))
    labelled_images, detections = [], []
    for index in range(images):
        count = random.integers(0, objects + 1) if index % 5 else 0
        corners = random.uniform(0, SIDE - 150, (count, 2))
        boxes = np.concatenate([corners, corners + random.uniform(5, 150, (count, 2))], axis=1)
        own = random.integers(1, classes, count)
        near = boxes + random.normal(0, 5, boxes.shape)
        kept = random.random(count) < skill
        corners = random.uniform(0, SIDE - 150, (random.integers(0, false_alarms + 1), 2))
        others = np.concatenate([corners, corners + random.uniform(5, 150, corners.shape)], axis=1)
        found = np.concatenate([near[kept], near[kept][::2] + 3, others])
        numbers = np.concatenate(
            [own[kept], own[kept][::2], random.integers(1, classes + 1, len(others))]
        )
        if whole:
            boxes, found = boxes.round(), found.round()
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        scores = random.uniform(0.01, 1, len(found)).round(2 if whole else 7)
        has = numbers != classes - 1
        labelled_images.append(
            labelled(boxes, own, random.random(count) < crowds, f"{index}.jpg",
                     (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) * 0.8)
        )  # fmt: skip
        detections.append(detected(found[has], scores[has], [labels[n] for n in numbers[has]]))
    return DataSet(labels, tuple(labelled_images), f"sha256:{seed}"), detections


def pycocotools_evaluation(data_set, detections):
    """pycocotools' evaluation of the same."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = {
        "images": [{"id": i + 1} for i in range(len(data_set.images))],
        "categories": [{"id": c, "name": n} for c, n in enumerate(data_set.labels) if c],
        "annotations": [],
    }
    for i, image in enumerate(data_set.images):
        for box, number, ignored, area in zip(
            image.boxes.astype(np.float64), image.classes, image.is_ignored, image.areas,
            strict=True,
        ):  # fmt: skip
            truth.dataset["annotations"].append(
                {"id": len(truth.dataset["annotations"]) + 1, "image_id": i + 1,
                 "category_id": int(number), "bbox": [*box[:2], *(box[2:] - box[:2])],
                 "area": float(area), "iscrowd": int(ignored)}
            )  # fmt: skip
    rows = [
        [i + 1, *box[:2], *(box[2:] - box[:2]), score, data_set.labels.index(name)]
        for i, found in enumerate(detections)
        for box, score, name in zip(
            found.boxes.numpy().astype(np.float64), found.scores.numpy().astype(np.float64),
            found.names, strict=True,
        )
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        results = truth.loadRes(np.array(rows)) if rows else COCO()
        if not rows:
            results.dataset = {**truth.dataset, "annotations": []}
            results.createIndex()
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def two_detectors(seed, images, skills, side_by_side=True):
    """A data set and the detections of two detectors, which find objects with these probabilities.

    Images differ in difficulty, alike for both. ``side_by_side`` is for nothing but to be told
    apart from data sets of the same seed.
    """
    random = np.random.default_rng([seed, int(side_by_side)])
    labels = ("background", "cat", "dog")
    labelled_images, detections = [], ([], [])
    for index in range(images):
        difficulty = random.normal(0, 0.15)
        boxes, classes = boxes_at_random(random, 1 + random.poisson(2))
        labelled_images.append(labelled(boxes, classes, name=f"{index}.jpg"))
        for skill, found in zip(skills, detections, strict=True):
            kept = random.random(len(boxes)) < skill - difficulty
            near = boxes[kept] + random.normal(0, 4, (kept.sum(), 4))
            false, false_classes = boxes_at_random(random, random.poisson(2))
            scores = np.concatenate([random.beta(4, 2, len(near)), random.beta(2, 4, len(false))])
            numbers = np.concatenate([classes[kept], false_classes])
            found.append(
                detected(np.concatenate([near, false]), scores, [labels[n] for n in numbers])
            )
    return DataSet(labels, tuple(labelled_images), f"sha256:{seed}"), *detections


def boxes_at_random(random, count):
    """(N, 4) boxes of 30 to 120 px a side, and their classes."""
    corners = random.uniform(0, SIDE - 130, (count, 2))
    sizes = random.uniform(30, 120, (count, 2))
    return np.concatenate([corners, corners + sizes], axis=1), random.integers(1, 3, count)
