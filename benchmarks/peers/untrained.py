"""Untrained SSD heads that give as many candidates and detections as trained ones do.

torchvision's weights are a download, and a benchmark must not need one. But with random weights an
SSD finds either nothing or everything, and post-processing takes its time accordingly. So the
classification heads get biases that make their outputs like those of a trained model: background
almost everywhere, some candidates of many classes below the usual thresholds, and a handful of
detections above 0.4. The weights of these layers are scaled down, so that the biases decide; all
other weights stay random, and the work is the same to the last multiplication.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

BACKGROUND = 9.0
CANDIDATE = 6.5
DETECTION = 10.0
WEIGHT_SCALE = 1e-4
CANDIDATE_CELLS = 25
"""The candidates are on the feature map whose cells are nearest to this number, one each for a
(default box of a cell, class)."""
DETECTION_CELLS = 9
"""The detections are on the map of about so many cells, one each before NMS."""


@torch.no_grad()
def settle_heads(
    convolutions: Sequence[nn.Conv2d],
    feature_maps: Sequence[tuple[int, int]],
    num_classes: int,
    candidates: int,
) -> None:
    """Give the last layer of each classification head its biases, in place.

    The layers predict ``num_classes`` logits per default box, class 0 the background of a softmax,
    from feature maps of the given (height, width). About ``candidates`` scores of an image lie
    between 0.01 and 0.3 then.
    """
    for convolution in convolutions:
        convolution.weight.mul_(WEIGHT_SCALE)
        assert convolution.bias is not None
        logits = convolution.bias.view(-1, num_classes)
        logits.zero_()
        logits[:, 0] = BACKGROUND
    cells = [height * width for height, width in feature_maps]
    many = min(range(len(cells)), key=lambda index: abs(cells[index] - CANDIDATE_CELLS))
    few = min(range(len(cells)), key=lambda index: abs(cells[index] - DETECTION_CELLS))
    on_candidates = convolutions[many].bias.view(-1, num_classes)
    boxes_per_cell = len(on_candidates)
    for index in range(candidates // cells[many]):
        on_candidates[index % boxes_per_cell, 1 + index % (num_classes - 1)] = CANDIDATE
    convolutions[few].bias.view(-1, num_classes)[0, 1] = DETECTION


SSDLITE_MAPS = ((20, 20), (10, 10), (5, 5), (3, 3), (2, 2), (1, 1))
SSD300_MAPS = ((38, 38), (19, 19), (10, 10), (5, 5), (3, 3), (1, 1))
SSDLITE_CANDIDATES = 1000
"""Above torchvision's default threshold of 0.001 for this model."""
SSD300_CANDIDATES = 500
"""Above torchvision's default threshold of 0.01 for this model."""


def torchvision_model(name: str, trained: bool = False) -> Any:
    """One of torchvision: ``ssdlite320_mobilenet_v3_large`` or ``ssd300_vgg16`` with 91 classes.

    ``trained`` downloads the COCO weights.
    """
    from torchvision.models import detection

    build = getattr(detection, name)
    if trained:
        return build(weights="DEFAULT").eval()
    torch.manual_seed(0)
    model = build(weights=None, weights_backbone=None).eval()
    last_layers = [
        [layer for layer in head.modules() if isinstance(layer, nn.Conv2d)][-1]
        for head in model.head.classification_head.module_list
    ]
    if name == "ssd300_vgg16":
        settle_heads(last_layers, SSD300_MAPS, 91, SSD300_CANDIDATES)
    else:
        settle_heads(last_layers, SSDLITE_MAPS, 91, SSDLITE_CANDIDATES)
    return model
