"""How to train: the numbers that the result depends on, and the optimiser and schedule they make.

Knows neither images nor files.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ssd_core.errors import TrainingError
from ssd_core.models.ssd import SSD
from ssd_core.training.augment import PAPER, Augmentation

Optimizer = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "step"]

BATCH = 16
LEARNING_RATES: dict[Optimizer, dict[str, float]] = {
    "adamw": {"ssd_mobilenet_v2_oid": 1e-3},
    "sgd": {"ssd_mobilenet_v2_oid": 2e-2},
}
OTHER_LEARNING_RATE: dict[Optimizer, float] = {"adamw": 1e-4, "sgd": 1e-3}
"""For ``BATCH`` images a step. VGG's wide layers, which no norm follows, bear no more.

Four shapes in clutter, 200 images, the bundled weights, 80 steps of 8 images, AP50 on 60 others:
AdamW at 0.0003 0.68, at 0.001 0.88, at 0.003 0.89; SGD with momentum 0.9 at 0.01 0.84: hence AdamW
is the default. An average of the weights (EMA) had the AP50 of the weights: 0.943 and 0.943 after
150 steps.

SGD's are what is known, in proportion to the images: for MobileNet the 0.01 at 8 images above, for
VGG torchvision's 0.002 at 32 (references/detection).
"""
WEIGHT_DECAY: dict[Optimizer, float] = {"adamw": 0.01, "sgd": 5e-4}
"""AdamW's default (Loshchilov and Hutter 2019, arXiv 1711.05101); it shrinks weights by this share
of the learning rate at each step. SGD's is the paper's (Liu et al. 2016, section 3)."""
MOMENTUM = 0.9
"""Of SGD (the same section)."""
MOST_GRADIENT_NORM = 10.0
"""Larger gradients are scaled down to it."""
WARM_UP_SHARE = 0.1
"""Of all steps, in which the learning rate rises linearly."""
MOST_WARM_UP_STEPS = 500
LAST_SHARE = 0.01
"""Of the learning rate, at the last step of the cosine."""
DROPS = ((2, 3), (11, 12))
"""Parts of all steps after which the step schedule divides the learning rate by ten: torchvision's
80 and 110 of 120 epochs (references/detection)."""
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
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    ema: float = 0.0
    """Decay of the moving average of the weights that is measured and kept; 0: there is none."""
    augmentation: Augmentation | None = PAPER
    """How images are varied; None: they are seen as they are."""


def default_learning_rate(model: str, images: int, optimizer: Optimizer = "adamw") -> float:
    """For a model and steps over this many images: lower for fewer than ``BATCH``.

    AdamW's by the square root (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive
    Gradient Algorithms", arXiv 2205.10287), SGD's in proportion (Goyal et al. 2017, arXiv
    1706.02677). For more images it stays: fine-tuning bears no higher one.
    """
    share = min(images / BATCH, 1.0)
    if optimizer == "adamw":
        share = math.sqrt(share)
    return LEARNING_RATES[optimizer].get(model, OTHER_LEARNING_RATE[optimizer]) * share


def default_epochs(images: int, batch: int) -> int:
    """As many as make ``STEPS`` steps, within the limits."""
    return min(max(math.ceil(STEPS / math.ceil(images / batch)), LEAST_EPOCHS), MOST_EPOCHS)


def make_optimizer(network: SSD, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's, for what is not frozen; biases, norms and scales do not decay."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    decay = WEIGHT_DECAY[recipe.optimizer]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=MOMENTUM)
    return torch.optim.AdamW(groups, lr=recipe.learning_rate)


def learning_rate(recipe: Recipe, step: int, steps: int) -> float:
    """At a step from 0 on, of ``steps``: a linear rise, then the fall that the schedule gives.

    Half a cosine (arXiv 1608.03983), or a tenth after each of ``DROPS``. Some step has the highest.
    """
    warm_up = min(math.ceil(steps * WARM_UP_SHARE), MOST_WARM_UP_STEPS, steps - 1)
    if step < warm_up:
        return recipe.learning_rate * (step + 1) / (warm_up + 1)
    if recipe.schedule == "step":
        drops = sum(step * whole >= steps * part for part, whole in DROPS)
        return recipe.learning_rate * 0.1**drops
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
