"""Head outputs to time post-processing on: (B, A, 4) offsets and (B, A, C) logits, softmax.

Sparse, as a trained SSD300 gives them: a few objects per image. The background's logit is 9 and the
others are noise (normal, 0.8), so that hardly any box is a candidate by chance. Each object lifts
its class where a default box overlaps it, by 16 at full overlap (IoU 1) down to nothing at 0.2,
and five other classes by less: boxes around an object are candidates of the right class and of
look-alikes. Offsets carry a default box onto the object that it overlaps most, with an error, so
that NMS finds heaps to clear. About 450 (box, class) pairs per image are above 0.01, 9 above 0.4.

Dense, the worst case: every box is a candidate of every class. Background -10, the other logits
within 0.03 of one another, so that all 90 scores lie between 0.0107 and 0.0116. The offsets are
noise: the best K of a class are scattered over the image and hardly suppress one another, which
makes greedy NMS as long as it can be.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import box_iou

from ssd_core.box_coder import cxcywh_to_xyxy, encode_boxes
from ssd_core.models.zoo import ModelSpec

OBJECTS = 8
LOOK_ALIKES = 5
BACKGROUND = 9.0
NOISE = 0.8
LIFT = 16.0
"""Of a class's logit at full overlap; scores are half where it makes up for the background."""
LIFT_FROM_IOU = 0.2


@dataclass(frozen=True)
class HeadOutputs:
    """What a network gives for a batch, and the default boxes it belongs to."""

    bbox_regression: Tensor
    cls_logits: Tensor
    default_boxes_cxcywh: Tensor

    def to(self, device: str, dtype: torch.dtype) -> "HeadOutputs":
        """The same on a device; the default boxes stay fp32."""
        return HeadOutputs(
            self.bbox_regression.to(device, dtype),
            self.cls_logits.to(device, dtype),
            self.default_boxes_cxcywh.to(device),
        )


def sparse(spec: ModelSpec, batch: int, seed: int = 0) -> HeadOutputs:
    """Outputs like a trained network's."""
    generator = torch.Generator().manual_seed(seed)
    default_boxes = spec.default_boxes()
    images = [_sparse_image(default_boxes, spec.num_classes, generator) for _ in range(batch)]
    offsets, logits = (torch.stack(parts) for parts in zip(*images, strict=True))
    return HeadOutputs(offsets, logits, default_boxes)


def dense(spec: ModelSpec, batch: int, seed: int = 0) -> HeadOutputs:
    """Outputs where everything is a candidate."""
    generator = torch.Generator().manual_seed(seed)
    default_boxes = spec.default_boxes()
    shape = (batch, len(default_boxes), spec.num_classes)
    logits = torch.rand(shape, generator=generator) * 0.06 - 0.03
    logits[..., 0] = -10
    offsets = torch.randn((*shape[:2], 4), generator=generator)
    return HeadOutputs(offsets, logits, default_boxes)


def candidates_per_image(outputs: HeadOutputs, score_threshold: float) -> float:
    """(Box, class) pairs above the threshold."""
    scores = torch.softmax(outputs.cls_logits.float(), dim=-1)[..., 1:]
    return (scores > score_threshold).sum().item() / len(scores)


def _sparse_image(
    default_boxes: Tensor, num_classes: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    size = 0.08 + 0.4 * torch.rand((OBJECTS, 2), generator=generator)
    centre = size / 2 + (1 - size) * torch.rand((OBJECTS, 2), generator=generator)
    objects = torch.cat((centre, size), dim=1)
    overlap, nearest = box_iou(cxcywh_to_xyxy(default_boxes), cxcywh_to_xyxy(objects)).max(dim=1)

    logits = NOISE * torch.randn((len(default_boxes), num_classes), generator=generator)
    logits[:, 0] += BACKGROUND
    lift = LIFT * ((overlap - LIFT_FROM_IOU) / (1 - LIFT_FROM_IOU)).clamp(min=0)
    labels = torch.randint(1, num_classes, (OBJECTS, 1 + LOOK_ALIKES), generator=generator)
    strength = torch.linspace(1, 0.5, 1 + LOOK_ALIKES)
    logits.scatter_add_(1, labels[nearest], lift[:, None] * strength)

    offsets = encode_boxes(objects[nearest], default_boxes)
    offsets += torch.randn(offsets.shape, generator=generator)
    # Far from every object a network answers with small offsets, not with a leap.
    far = overlap < LIFT_FROM_IOU
    offsets[far] = torch.randn((int(far.sum()), 4), generator=generator)
    return offsets, logits
