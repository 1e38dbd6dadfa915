"""Made-up head outputs for decode_nms."""

from dataclasses import replace
from typing import NamedTuple

import torch
from hypothesis import strategies as st

from ssd_core.ops import DecodedDetections, DecodeSettings

FLOAT_TYPES = (torch.float32, torch.float16, torch.bfloat16)
ACTIVATIONS = ("softmax", "sigmoid")
NOT_FINITE = torch.tensor([torch.nan, torch.inf, -torch.inf])


class Case(NamedTuple):
    """The arguments of decode_nms."""

    bbox_regression: torch.Tensor
    cls_logits: torch.Tensor
    default_boxes_cxcywh: torch.Tensor
    settings: DecodeSettings

    @classmethod
    def of(
        cls,
        bbox_regression,
        cls_logits,
        default_boxes_cxcywh,
        activation="softmax",
        score_threshold=0.1,
        iou_threshold=0.5,
        candidates_per_class=20,
        max_detections=30,
        box_weights=(10.0, 10.0, 5.0, 5.0),
    ):
        settings = DecodeSettings(
            activation,
            score_threshold,
            iou_threshold,
            candidates_per_class,
            max_detections,
            box_weights,
        )
        return cls(bbox_regression, cls_logits, default_boxes_cxcywh, settings)

    def change(self, **fields):
        """With other tensors or other settings."""
        tensors = {name: fields.pop(name) for name in self._fields if name in fields}
        return self._replace(**tensors, settings=replace(self.settings, **fields))

    def flattened(self):
        """The arguments of the op."""
        return (*self[:3], *self.settings.flattened())

    def to(self, *, device=None, dtype=None):
        """Head outputs in another type; default boxes stay fp32."""
        return self._replace(
            bbox_regression=self.bbox_regression.to(device, dtype),
            cls_logits=self.cls_logits.to(device, dtype),
            default_boxes_cxcywh=self.default_boxes_cxcywh.to(device),
        )


def random_outputs(seed, images=2, boxes=60, classes=5):
    generator = torch.Generator().manual_seed(seed)
    bbox_regression = torch.randn(images, boxes, 4, generator=generator) * 3
    cls_logits = torch.randn(images, boxes, classes, generator=generator) * 2
    centres = torch.rand(boxes, 2, generator=generator)
    sizes = torch.rand(boxes, 2, generator=generator) * 0.5 + 0.05
    return bbox_regression, cls_logits, torch.cat((centres, sizes), dim=1)


def outputs_with_ties(seed, images=2, boxes=60, classes=5):
    """Few different logits, and boxes that often have an IoU of just 1/2."""
    generator = torch.Generator().manual_seed(seed)
    cls_logits = torch.randint(-3, 3, (images, boxes, classes), generator=generator).float()
    bbox_regression, default_boxes = boxes_on_a_grid(seed, images, boxes)
    return bbox_regression, cls_logits, default_boxes


def boxes_on_a_grid(seed, images, boxes):
    """Offsets and default boxes of sixteenths, points and lines among them: no rounding."""
    generator = torch.Generator().manual_seed(seed)
    bbox_regression = torch.zeros(images, boxes, 4)
    steps = torch.randint(-1, 2, (images, boxes, 2), generator=generator)
    bbox_regression[..., :2] = steps * 10  # by its own width and height
    centres = torch.randint(0, 9, (boxes, 2), generator=generator) / 8
    sizes = torch.randint(0, 5, (boxes, 2), generator=generator) / 8
    return bbox_regression, torch.cat((centres, sizes), dim=1)


def spaced_logits(seed, activation, images, boxes, classes):
    """(images, boxes, classes) logits whose scores lie evenly apart, further than rounding reaches.

    Some boxes have the logits of another one: their scores are equal, bit by bit.
    """
    generator = torch.Generator().manual_seed(seed)
    number = boxes * (classes - 1)
    ranks = torch.stack([torch.randperm(number, generator=generator) for _ in range(images)])
    score = ((ranks.double() + 1) / (number + 1)).reshape(images, boxes, classes - 1)
    if activation == "softmax":
        score /= classes - 1
        cls_logits = torch.cat((1 - score.sum(-1, keepdim=True), score), dim=-1).log()
    else:
        cls_logits = torch.cat((torch.zeros(images, boxes, 1), score.logit()), dim=-1)
    twins = torch.randint(0, boxes, (2, boxes // 4), generator=generator)
    cls_logits[:, twins[0]] = cls_logits[:, twins[1]]
    return cls_logits.float()


def lone_logits(seed, activation, images, boxes, classes, share=1.0):
    """Logits where a share of the boxes has one class, and no other box has any.

    The scores of an image lie evenly apart, as in ``spaced_logits``.
    """
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.stack([torch.randperm(boxes, generator=generator) for _ in range(images)])
    score = (0.05 + 0.9 * ranks.double() / boxes)[..., None]
    label = torch.randint(1, classes, (images, boxes, 1), generator=generator)
    cls_logits = torch.full((images, boxes, classes), -30.0)
    cls_logits[..., 0] = 0
    logit = score.logit().float()
    logit[torch.rand(logit.shape, generator=generator) > share] = -30
    return cls_logits.scatter_(2, label, logit)


def spoil(tensor, share, seed):
    """Some values become NaN, inf or -inf."""
    generator = torch.Generator().manual_seed(seed)
    bad = NOT_FINITE[torch.randint(0, 3, tensor.shape, generator=generator)]
    return torch.where(torch.rand(tensor.shape, generator=generator) < share, bad, tensor)


LOGITS = {
    "normal": lambda shape, generator: 2 * torch.randn(shape, generator=generator),
    "coarse": lambda shape, generator: torch.randint(-3, 4, shape, generator=generator).float(),
    "saturated": lambda shape, generator: 60 * torch.randn(shape, generator=generator),
    "equal": lambda shape, generator: torch.zeros(shape),
}
STEPS = torch.tensor([1.0, 1.0, 0.0, 0.0])
OFFSETS = {
    "none": lambda shape, generator: torch.zeros(shape),
    "steps": lambda shape, generator: 10 * torch.randint(-1, 2, shape, generator=generator) * STEPS,
    "normal": lambda shape, generator: 3 * torch.randn(shape, generator=generator),
    "huge": lambda shape, generator: 1e4 * torch.randn(shape, generator=generator),
}
SHAPES = {
    "random": lambda boxes, generator: torch.rand(boxes, 4, generator=generator),
    "small": lambda boxes, generator: (
        torch.rand(boxes, 4, generator=generator) * torch.tensor([1, 1, 0.1, 0.1])
    ),
    "grid": lambda boxes, generator: torch.randint(0, 9, (boxes, 4), generator=generator) / 8,
    "lines": lambda boxes, generator: (
        torch.rand(boxes, 4, generator=generator)
        * torch.randint(0, 2, (boxes, 4), generator=generator)
    ),
    "one": lambda boxes, generator: torch.tensor([[0.5, 0.5, 0.25, 0.5]]).repeat(boxes, 1),
}


@st.composite
def any_outputs(draw, max_boxes=150):
    """Whatever could come: ties, boxes without area, values that are no numbers, in any type."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = torch.Generator().manual_seed(seed)
    images = draw(st.integers(1, 3))
    boxes = draw(st.integers(1, max_boxes))
    classes = draw(st.integers(2, 7) | st.sampled_from([1, 21, 24, 81, 91]))
    logits = LOGITS[draw(st.sampled_from(list(LOGITS)))]((images, boxes, classes), generator)
    offsets = OFFSETS[draw(st.sampled_from(list(OFFSETS)))]((images, boxes, 4), generator)
    default_boxes = SHAPES[draw(st.sampled_from(list(SHAPES)))](boxes, generator)
    logits = spoil(logits, draw(st.sampled_from([0, 0, 0.02, 0.3])), seed)
    offsets = spoil(offsets, draw(st.sampled_from([0, 0, 0.02, 0.3])), seed + 1)
    return Case.of(
        offsets.to(draw(st.sampled_from(FLOAT_TYPES))),
        logits.to(draw(st.sampled_from(FLOAT_TYPES))),
        default_boxes,
        activation=draw(st.sampled_from(ACTIVATIONS)),
        score_threshold=draw(st.sampled_from([0, 1e-30, 1e-6, 0.01, 0.1, 0.3, 0.5, 0.99])),
        iou_threshold=draw(st.sampled_from([-1, 0, 0.2, 0.45, 0.5, 0.6, 1])),
        candidates_per_class=draw(st.integers(1, boxes + 2) | st.just(10_000)),
        max_detections=draw(st.integers(1, 40) | st.integers(1, boxes * classes + 5)),
        box_weights=draw(st.sampled_from([(10.0, 10.0, 5.0, 5.0), (1.0, 2.0, 3.0, 4.0)])),
    )


def heap(identical, others):
    """Boxes one on another with the best scores, then as many others side by side."""
    boxes = identical + others
    default_boxes = torch.full((boxes, 4), 0.5)
    if others:
        default_boxes[identical:, 0] = (torch.arange(others) + 0.5) / others
        default_boxes[identical:, 2] = 1 / others
    cls_logits = torch.zeros(1, boxes, 3)
    cls_logits[0, :, 1] = torch.linspace(4, 0, boxes)
    cls_logits[0, :, 2] = -9
    return torch.zeros(1, boxes, 4), cls_logits, default_boxes


def assert_same(found, expected):
    """Not a bit may differ between detections."""
    for name, ours, theirs in zip(DecodedDetections._fields, found, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert torch.equal(ours, theirs), name
