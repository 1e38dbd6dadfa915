"""How to train: the numbers that the result depends on, and the optimiser and schedule they make.

Knows neither images nor files.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from ssd_core.errors import TrainingError
from ssd_core.models.ssd import SSD

BATCH = 16
LEARNING_RATES = {"ssd_mobilenet_v2_oid": 1e-3}
OTHER_LEARNING_RATE = 1e-4
"""Of AdamW, for ``BATCH`` images a step. VGG's wide layers, which no norm follows, bear no more.

Four shapes in clutter, 200 images, the bundled weights, 80 steps of 8 images, AP50 on 60 others:
AdamW at 0.0003 0.68, at 0.001 0.88, at 0.003 0.89; SGD with momentum 0.9 at 0.01 0.84. An average
of the weights (EMA) had the AP50 of the weights: 0.943 and 0.943 after 150 steps.
"""
WEIGHT_DECAY = 0.01
"""AdamW's default (Loshchilov and Hutter 2019, arXiv 1711.05101); it shrinks weights by this share
of the learning rate at each step."""
MOST_GRADIENT_NORM = 10.0
"""Larger gradients are scaled down to it."""
WARM_UP_SHARE = 0.1
"""Of all steps, in which the learning rate rises linearly."""
MOST_WARM_UP_STEPS = 500
LAST_SHARE = 0.01
"""Of the learning rate, at the last step."""
STEPS = 2000
"""What a run takes unless told otherwise, within these epochs."""
LEAST_EPOCHS, MOST_EPOCHS = 12, 200


@dataclass(frozen=True)
class Recipe:
    """What the weights depend on, besides the data, the first weights and the machine."""

    epochs: int
    """Times that each image is seen."""
    batch: int
    """Images at once."""
    learning_rate: float
    """The highest."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    freeze: int = 0
    """First stages of the backbone that stay as they are."""
    seed: int = 0
    precision: str = "fp32"
    """Of the network's multiplications: fp32, bf16 or fp16."""


def default_learning_rate(model: str, images: int) -> float:
    """For a model and a step over so many images: below ``BATCH``, lower by the square root.

    Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive Gradient Algorithms" (arXiv
    2205.10287). With more it stays: what is fine-tuned bears no higher one.
    """
    return LEARNING_RATES.get(model, OTHER_LEARNING_RATE) * min(math.sqrt(images / BATCH), 1.0)


def default_epochs(images: int, batch: int) -> int:
    """As many as make ``STEPS`` steps, within the limits."""
    return min(max(math.ceil(STEPS / math.ceil(images / batch)), LEAST_EPOCHS), MOST_EPOCHS)


def make_optimizer(network: SSD, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW for what is not frozen; biases, norms and scales do not decay."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """At a step from 0 on, of ``steps``: a linear rise, then half a cosine (arXiv 1608.03983)."""
    warm_up = min(math.ceil(steps * WARM_UP_SHARE), MOST_WARM_UP_STEPS)
    if step < warm_up:
        return recipe.learning_rate * (step + 1) / (warm_up + 1)
    progress = (step - warm_up) / max(steps - 1 - warm_up, 1)
    share = LAST_SHARE + (1 - LAST_SHARE) * (1 + math.cos(math.pi * progress)) / 2
    return recipe.learning_rate * share


def freeze_stages(network: SSD, count: int) -> None:
    """Keep the first ``count`` stages of the backbone as they are. Raises TrainingError."""
    stages = backbone_stages(network.backbone)
    if count > len(stages):
        raise TrainingError(
            f"the backbone has {len(stages)} stages, not {count}: freeze at most {len(stages)}"
        )
    for stage in stages[:count]:
        for module in stage:
            module.requires_grad_(False)


def backbone_stages(backbone: nn.Module) -> list[list[nn.Module]]:
    """The layers of each stage: a stage begins where the resolution halves.

    Both backbones have five, as in their papers: maps at strides 2 to 32 (VGG: 1 to 16, the last at
    that of the fourth).
    """
    stages: list[list[nn.Module]] = [[]]
    for layer in _layers(backbone.children()):
        halves = isinstance(layer, nn.MaxPool2d | nn.Conv2d) and layer.stride in (2, (2, 2))
        if halves and any(True for stage in stages for each in stage for _ in each.parameters()):
            stages.append([])
        stages[-1].append(layer)
    return stages


def _layers(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules without parts, in the order in which they are applied."""
    for module in modules:
        parts = list(module.children())
        if parts:
            yield from _layers(parts)
        else:
            yield module
