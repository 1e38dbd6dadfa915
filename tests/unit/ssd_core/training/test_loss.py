"""What the outputs are wrong by."""

import pytest
import torch
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from ssd_core.box_coder import cxcywh_to_xyxy
from ssd_core.models.zoo import MODELS
from ssd_core.training import match_default_boxes, multibox_loss
from tests.unit.ssd_core.training.test_matching import random_boxes

DEFAULTS = MODELS["ssd_mobilenet_v2_oid"].default_boxes()
CLASSES = 6


def outputs(images, classes=CLASSES, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    regression = torch.randn(images, len(DEFAULTS), 4, generator=generator)
    logits = 3 * torch.randn(images, len(DEFAULTS), classes, generator=generator)
    return [x.to(dtype).requires_grad_() for x in (regression, logits)]


def objects(*counts, seed=2):
    generator = torch.Generator().manual_seed(seed)
    boxes = [random_boxes(count, generator) for count in counts]
    return boxes, [torch.randint(1, CLASSES, (count,), generator=generator) for count in counts]


def torchvisions(regression, logits, boxes, labels, ratio=3.0):
    """SSD.compute_loss with the same targets, in pixels of any size."""

    class Holder:
        box_coder = BoxCoder(weights=(10.0, 10.0, 5.0, 5.0))
        neg_to_pos_ratio = ratio

    anchors = [cxcywh_to_xyxy(DEFAULTS) * 300] * len(boxes)
    targets = [{"boxes": b * 300, "labels": n} for b, n in zip(boxes, labels, strict=True)]
    matched = [match_default_boxes(b, DEFAULTS) for b in boxes]
    heads = {"bbox_regression": regression, "cls_logits": logits}
    found = SSD.compute_loss(Holder(), targets, heads, anchors, matched)
    return found["bbox_regression"], found["classification"]


@pytest.mark.parametrize("counts", [(3,), (5, 1, 12), (4, 0, 2)])
def test_losses_and_gradients_are_torchvisions(counts):
    boxes, labels = objects(*counts)
    ours, theirs = outputs(len(counts)), outputs(len(counts))
    found = multibox_loss(*ours, DEFAULTS, boxes, labels, min_negatives=0)
    expected = torchvisions(*theirs, boxes, labels)
    for value, other in zip(found, expected, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=0)
    sum(found).backward()
    sum(expected).backward()
    for x, other in zip(ours, theirs, strict=True):
        assert torch.equal(x.grad != 0, other.grad != 0)
        assert (x.grad - other.grad).norm() < 1e-5 * other.grad.norm()


def test_a_broken_number_of_negatives_is_rounded_up_as_in_torchvision():
    boxes, labels = objects(1, 1, 3)
    options = {"negatives_per_positive": 0.3, "min_negatives": 0}
    found = multibox_loss(*outputs(3), DEFAULTS, boxes, labels, **options)
    expected = torchvisions(*outputs(3), boxes, labels, ratio=0.3)
    torch.testing.assert_close(found.classification, expected[1], rtol=1e-5, atol=0)


def test_an_image_without_objects_teaches_by_its_hardest_boxes():
    regression, logits = outputs(1)
    boxes, labels = objects(0)
    found = multibox_loss(regression, logits, DEFAULTS, boxes, labels, min_negatives=5)
    hardest = (logits[0].logsumexp(-1) - logits[0, :, 0]).topk(5).values
    torch.testing.assert_close(found.classification, hardest.sum())
    assert found.regression == 0
    found.classification.backward()
    assert (logits.grad.abs().sum(-1) > 0).sum() == 5
    assert multibox_loss(regression, logits, DEFAULTS, boxes, labels, min_negatives=0)[1] == 0


def test_images_without_objects_teach_unless_asked_otherwise():
    assert multibox_loss(*outputs(1), DEFAULTS, *objects(0)).classification > 0


def test_negatives_that_overlap_an_object_much_can_be_left_out():
    regression, logits = outputs(1)
    boxes, labels = objects(2)
    options = {"negatives_per_positive": 1e9}
    everything = multibox_loss(regression, logits, DEFAULTS, boxes, labels, **options)
    everything.classification.backward()
    assert (logits.grad.abs().sum(-1) > 0).all()
    logits.grad = None
    few = multibox_loss(
        regression, logits, DEFAULTS, boxes, labels, negatives_below_iou=0.3, **options
    )
    few.classification.backward()
    is_used = logits.grad[0].abs().sum(-1) > 0
    matched = match_default_boxes(boxes[0], DEFAULTS) >= 0
    best = box_iou(boxes[0], cxcywh_to_xyxy(DEFAULTS)).amax(0)
    assert torch.equal(is_used, matched | (best < 0.3))
    assert (~is_used).any()


def test_with_a_sigmoid_each_class_has_a_cross_entropy_of_its_own():
    regression, logits = outputs(1)
    boxes, labels = objects(1)
    matched = match_default_boxes(boxes[0], DEFAULTS) >= 0
    found = multibox_loss(
        regression, logits, DEFAULTS, boxes, labels, activation="sigmoid", min_negatives=0
    )
    truth = torch.zeros(len(DEFAULTS), CLASSES)
    truth[matched, labels[0]] = 1
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        logits[0], truth, reduction="none"
    )[:, 1:].sum(1)
    hardest = entropy[~matched].topk(3 * int(matched.sum())).values.sum()
    expected = (entropy[matched].sum() + hardest) / matched.sum()
    torch.testing.assert_close(found.classification, expected)
    found.classification.backward()
    assert (logits.grad[..., 0] == 0).all()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("counts", [(0,), (1,), (0, 0), (0, 2)])
@pytest.mark.parametrize("negatives", [(0.0, 0), (3.0, 0), (3.0, 4)])
def test_nothing_of_it_is_nan(activation, dtype, counts, negatives):
    x = outputs(len(counts), dtype=dtype)
    ratio, least = negatives
    found = multibox_loss(
        *x, DEFAULTS, *objects(*counts), activation=activation,
        negatives_per_positive=ratio, min_negatives=least,
    )  # fmt: skip
    sum(found).backward()
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in found)
    assert all(each.grad is None or each.grad.isfinite().all() for each in x)


def test_an_object_without_area_changes_nothing():
    x = outputs(1)
    (boxes,), (labels,) = objects(2)
    bad = torch.tensor([[0.1, 0.1, 0.1, 0.2]])
    plain = multibox_loss(*x, DEFAULTS, [boxes], [labels])
    found = multibox_loss(
        *x, DEFAULTS, [torch.cat((bad, boxes))], [torch.cat((labels[:1], labels))]
    )
    assert found == plain


def test_it_computes_in_fp32_whatever_the_outputs_are():
    half = outputs(2, dtype=torch.bfloat16)
    boxes, labels = objects(3, 1)
    found = multibox_loss(*half, DEFAULTS, boxes, labels)
    exact = multibox_loss(*(x.detach().float() for x in half), DEFAULTS, boxes, labels)
    assert found == exact


def test_sizes_that_do_not_fit_together_are_refused():
    boxes, labels = objects(2, 3)
    regression, logits = outputs(2)
    for match, arguments in {
        r"there must be \[2, 3\] labels, as many as boxes": (
            regression,
            logits,
            boxes,
            labels[::-1],
        ),
        r"bbox_regression must be \(2, 1917, 4\), not \(1, ": (
            regression[:1],
            logits,
            boxes,
            labels,
        ),
        r"cls_logits must be \(2, 1917, 6\), not \(2, 9, ": (
            regression,
            logits[:, :9],
            boxes,
            labels,
        ),
    }.items():
        with pytest.raises(ValueError, match=match):
            multibox_loss(*arguments[:2], DEFAULTS, *arguments[2:])
