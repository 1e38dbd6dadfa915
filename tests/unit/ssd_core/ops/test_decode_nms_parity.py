"""`decode_nms_reference` against other implementations, and against itself in other shapes."""

import importlib

import numpy as np
import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.ops import batched_nms, box_convert, clip_boxes_to_image

from ssd_core.ops import DecodeSettings, decode_nms_reference
from tests.unit.ssd_core import plain_numpy
from tests.unit.ssd_core.head_outputs import outputs_with_ties, random_outputs

ACTIVATIONS = {
    "softmax": lambda logits: torch.softmax(logits.double(), -1).float(),
    "sigmoid": lambda logits: torch.sigmoid(logits.double()).float(),
}


def rows(result, image):
    count = int(result.count[image])
    return (
        result.scores[image, :count],
        result.labels[image, :count],
        result.boxes[image, :count],
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("outputs", [random_outputs, outputs_with_ties])
@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_a_plain_implementation(seed, outputs, activation):
    bbox_regression, cls_logits, default_boxes = outputs(seed)
    limits = (0.2, 0.5, 20, 30)
    result = decode_nms_reference(
        bbox_regression, cls_logits, default_boxes, DecodeSettings(activation, *limits)
    )
    for image in range(len(cls_logits)):
        scores = ACTIVATIONS[activation](cls_logits)[image].numpy()
        boxes = plain_numpy.decode(bbox_regression[image].numpy(), default_boxes.numpy())
        expected = plain_numpy.detections(scores, boxes, *limits)

        found_scores, found_labels, found_boxes = rows(result, image)
        assert len(expected) > 10
        assert found_labels.tolist() == [label for _, label, _ in expected]
        assert found_scores.tolist() == [score for score, _, _ in expected]
        np.testing.assert_allclose(found_boxes, boxes[[i for _, _, i in expected]], atol=1e-6)


def torchvision_postprocess(logits, offsets, default_boxes, threshold, iou, candidates, detections):
    """SSD.postprocess_detections of torchvision, on boxes in fractions of the image."""
    default_boxes_xyxy = box_convert(default_boxes, "cxcywh", "xyxy")
    decoded = BoxCoder((10.0, 10.0, 5.0, 5.0)).decode_single(offsets, default_boxes_xyxy)
    boxes_xyxy = clip_boxes_to_image(decoded, (1, 1))
    boxes, scores, labels = [], [], []
    for label, score in enumerate(torch.softmax(logits, -1).T):
        above = torch.where(score > threshold)[0]
        best, order = score[above].topk(min(candidates, len(above)))
        if label > 0:
            boxes.append(boxes_xyxy[above][order])
            scores.append(best)
            labels.append(torch.full_like(order, label))
    boxes, scores, labels = torch.cat(boxes), torch.cat(scores), torch.cat(labels)
    kept = batched_nms(boxes, scores, labels, iou)[:detections]
    return scores[kept], labels[kept], boxes[kept]


@pytest.mark.parametrize("seed", range(8))
def test_it_agrees_with_torchvisions_postprocessing(seed):
    bbox_regression, cls_logits, default_boxes = random_outputs(seed, boxes=400, classes=9)
    limits = (0.05, 0.45, 100, 150)
    result = decode_nms_reference(
        bbox_regression, cls_logits, default_boxes, DecodeSettings("softmax", *limits)
    )
    for image in range(len(cls_logits)):
        expected = torchvision_postprocess(
            cls_logits[image], bbox_regression[image], default_boxes, *limits
        )
        scores, labels, boxes = rows(result, image)
        assert torch.equal(labels, expected[1])
        torch.testing.assert_close(scores, expected[0])
        torch.testing.assert_close(boxes, expected[2], atol=1e-5, rtol=0)


def test_every_box_a_candidate_for_every_class_agrees_with_the_plain_implementation():
    bbox_regression, cls_logits, default_boxes = random_outputs(0, images=1, boxes=150, classes=4)
    limits = (0.0, 0.5, 1000, 1000)
    result = decode_nms_reference(
        bbox_regression, cls_logits, default_boxes, DecodeSettings("softmax", *limits)
    )
    boxes = plain_numpy.decode(bbox_regression[0].numpy(), default_boxes.numpy())
    expected = plain_numpy.detections(ACTIVATIONS["softmax"](cls_logits[0]).numpy(), boxes, *limits)
    _, labels, found_boxes = rows(result, 0)
    assert labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found_boxes, boxes[[i for _, _, i in expected]], atol=1e-6)


def test_a_batch_gives_what_its_images_give_one_by_one():
    bbox_regression, cls_logits, default_boxes = random_outputs(0, images=4)
    cls_logits[2] = -20  # an image without detections between others
    arguments = (default_boxes, DecodeSettings("sigmoid", 0.5, 0.5, 20, 50))
    batch = decode_nms_reference(bbox_regression, cls_logits, *arguments)
    assert batch.count[2] == 0
    assert batch.count[3] > 0
    for image in range(4):
        single = decode_nms_reference(
            bbox_regression[image, None], cls_logits[image, None], *arguments
        )
        for of_batch, alone in zip(batch, single, strict=True):
            torch.testing.assert_close(of_batch[image], alone[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input_gives_what_its_fp32_copy_gives(dtype):
    bbox_regression, cls_logits, default_boxes = random_outputs(0)
    bbox_regression, cls_logits = bbox_regression.to(dtype), cls_logits.to(dtype)
    arguments = (default_boxes, DecodeSettings("softmax", 0.1, 0.5, 20, 50))
    half = decode_nms_reference(bbox_regression, cls_logits, *arguments)
    full = decode_nms_reference(bbox_regression.float(), cls_logits.float(), *arguments)
    assert half.count.sum() > 20
    assert half.boxes.dtype == half.scores.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(half, full, strict=True))


def test_the_inputs_are_not_changed():
    inputs = random_outputs(0)
    before = [tensor.clone() for tensor in inputs]
    decode_nms_reference(*inputs, DecodeSettings("softmax", 0.1, 0.5, 20, 50))
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize(("images", "boxes"), [(0, 5), (2, 0)])
def test_empty_inputs_give_empty_outputs(images, boxes):
    result = decode_nms_reference(
        *random_outputs(0, images=images, boxes=boxes), DecodeSettings("softmax", 0.1, 0.5, 20, 7)
    )
    assert result.boxes.shape == (images, 7, 4)
    assert result.count.tolist() == [0] * images


def test_nms_a_few_classes_at_a_time_gives_what_nms_of_all_at_once_gives(monkeypatch):
    inputs = random_outputs(0, boxes=200, classes=20)
    arguments = (*inputs, DecodeSettings("softmax", 0.001, 0.5, 200, 100))
    whole = decode_nms_reference(*arguments)
    # The package has a function of the module's name.
    module = importlib.import_module("ssd_core.ops.decode_nms_reference")
    monkeypatch.setattr(module, "NMS_CHUNK_ELEMENTS", 200 * 200)
    in_chunks = decode_nms_reference(*arguments)
    assert all(torch.equal(a, b) for a, b in zip(whole, in_chunks, strict=True))
