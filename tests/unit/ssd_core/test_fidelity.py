"""The models against their originals: LiteRT's outputs, and torchvision's own SSD300."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ssd_core import MODELS, Detector
from tests.unit.ssd_core import plain_numpy

YXHW_TO_XYWH = [1, 0, 3, 2]


# The bundled MobileNet against LiteRT


@pytest.fixture(scope="module")
def mobilenet_outputs(mobilenet, golden):
    with torch.inference_mode():
        return [
            output.numpy() for output in mobilenet.model(mobilenet.preprocess(golden["inputs"]))
        ]


def test_mobilenet_offsets_are_those_of_litert(mobilenet_outputs, golden):
    expected = golden["box_encodings"][..., YXHW_TO_XYWH]
    assert expected.shape == (5, 1917, 4)
    np.testing.assert_allclose(mobilenet_outputs[0], expected, atol=0.02, rtol=0)


def test_mobilenet_logits_are_those_of_litert(mobilenet_outputs, golden):
    assert golden["class_logits"].shape == (5, 1917, 24)
    np.testing.assert_allclose(mobilenet_outputs[1], golden["class_logits"], atol=0.02, rtol=0)


def tf_default_boxes():
    """(1917, 4) cxcywh, as TensorFlow's ssd_anchor_generator is documented to make them."""
    scales = [*np.linspace(0.2, 0.95, 6).tolist(), 1.0]
    boxes = []
    for k, side in enumerate((19, 10, 5, 3, 2, 1)):
        shapes = [(scales[k], ratio) for ratio in (1, 2, 0.5, 3, 0.3333)]
        shapes.append(((scales[k] * scales[k + 1]) ** 0.5, 1))
        if k == 0:
            shapes = [(0.1, 1), (0.2, 2), (0.2, 0.5)]
        for row in range(side):
            for column in range(side):
                for scale, ratio in shapes:
                    width, height = scale * ratio**0.5, scale / ratio**0.5
                    boxes.append([(column + 0.5) / side, (row + 0.5) / side, width, height])
    return np.array(boxes, np.float32)


@pytest.mark.parametrize("image", range(5))
def test_mobilenet_detections_are_those_in_the_outputs_of_litert(mobilenet, golden, image):
    scores = 1 / (1 + np.exp(-golden["class_logits"][image].astype(np.float64)))
    offsets = golden["box_encodings"][image][:, YXHW_TO_XYWH]
    boxes = plain_numpy.decode(offsets, tf_default_boxes())
    expected = plain_numpy.detections(scores, boxes, 0.4, 0.5, 100, 100)

    (found,) = mobilenet.detect([golden["inputs"][image]])
    assert len(expected) > 1
    assert found.labels.tolist() == [label for _, label, _ in expected]
    np.testing.assert_allclose(found.scores, [score for score, _, _ in expected], atol=0.002)
    expected_boxes = boxes[[index for _, _, index in expected]]
    np.testing.assert_allclose(found.boxes, expected_boxes * 300, atol=0.3)


# SSD300 VGG16 against torchvision


def resized(image, height, width):
    x = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    x = F.interpolate(x, (height, width), mode="bilinear", antialias=True)
    return x[0].permute(1, 2, 0).round().byte().numpy()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def comparison(torchvision_ssd300, torchvision_ssd300_file, golden):
    """What both implementations make of the same pictures: raw outputs and detections of each."""
    photos = golden["inputs"]
    pictures = {
        "photo 300x300": photos[0],
        "photo 240x320": resized(photos[1], 240, 320),
        "photo 500x375": resized(photos[3], 500, 375),
        "noise 300x300": noise(300, 300),
        "noise 330x290": noise(330, 290),
    }
    detector = Detector.load(
        "ssd300_vgg16",
        weights=torchvision_ssd300_file,
        device="cpu",
        precision="fp32",
        score_threshold=0.01,
    )
    raw = {}
    hooks = [
        torchvision_ssd300.head.register_forward_hook(
            lambda module, inputs, output: raw.update(
                theirs=(output["bbox_regression"], output["cls_logits"])
            )
        ),
        detector.model.register_forward_hook(
            lambda module, inputs, output: raw.update(ours=output)
        ),
    ]
    results = {}
    with torch.inference_mode():
        for name, picture in pictures.items():
            (theirs,) = torchvision_ssd300(
                [torch.from_numpy(picture).permute(2, 0, 1).float() / 255]
            )
            (ours,) = detector.detect([picture])
            results[name] = {"ours": (ours, raw["ours"]), "theirs": (theirs, raw["theirs"])}
    for hook in hooks:
        hook.remove()
    return results


PICTURES = ["photo 300x300", "photo 240x320", "photo 500x375", "noise 300x300", "noise 330x290"]


@pytest.mark.parametrize("picture", PICTURES)
def test_ssd300_raw_outputs_are_torchvisions(comparison, picture):
    ours, theirs = comparison[picture]["ours"][1], comparison[picture]["theirs"][1]
    for output, expected in zip(ours, theirs, strict=True):
        assert expected.std() > 0.5
        torch.testing.assert_close(output, expected, atol=1e-4, rtol=0)


def test_ssd300_postprocessing_has_torchvisions_limits(torchvision_ssd300):
    spec = MODELS["ssd300_vgg16"]
    assert spec.iou_threshold == torchvision_ssd300.nms_thresh
    assert spec.candidates_per_class == torchvision_ssd300.topk_candidates
    assert spec.max_detections == torchvision_ssd300.detections_per_img


def assert_found_in(detections, others):
    """Every detection, with its label, score and box, is one of the others'."""
    for box, score, label in detections:
        boxes, scores, labels = others
        same = (
            (labels == label)
            & ((scores - score).abs() < 1e-4)
            & ((boxes - box).abs().amax(dim=1) < 0.02)
        )
        assert same.any(), (box, score, label)


@pytest.mark.parametrize("picture", PICTURES)
def test_ssd300_detections_are_torchvisions(comparison, picture):
    ours, theirs = comparison[picture]["ours"][0], comparison[picture]["theirs"][0]
    ours = (ours.boxes, ours.scores, ours.labels)
    theirs = (theirs["boxes"], theirs["scores"], theirs["labels"])
    assert len(ours[0]) == len(theirs[0]) == 200
    assert theirs[1][0] > 0.2
    # Rounding decides the order of nearly equal scores, and so which of them comes 200th.
    assert_found_in(list(zip(*theirs, strict=True))[:198], ours)
    assert_found_in(list(zip(*ours, strict=True))[:198], theirs)
