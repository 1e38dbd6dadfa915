"""Whether SSD learns here: labelled images in, AP after each epoch out.

    python benchmarks/training.py digits [--variants ours "all negatives"] [--epochs 12]
    python benchmarks/training.py trees
    python benchmarks/training.py overfit [--models ssd300_vgg16]

- digits: the bundled weights learn ten new classes from images of digits in clutter
  (packaged_data.py), measured on 300 images of other digits; and the same again without a part of
  what SSD does: without matching's first step (an object's best default box, whatever the IoU),
  without hard negatives (all default boxes without an object count), without augmentation; or with
  focal loss instead of hard negatives.
- trees: the bundled weights learn trees in 81 tiles of three aerial scenes, measured on a fourth,
  from another site. Says whether few labelled images of a domain that the
  weights have never seen are worth something, and little about trees: the fourth has 61.
- overfit: 20 images of digits, without augmentation, measured on themselves: what cannot learn
  those by heart has a bug.

Weights are those of the last epoch; epoch 0 are those that a run starts from. Rows go to
results/training.csv, plots to results/training-<task>.png. Seconds are from the first image on,
validation included. On a CPU two processes of one thread (``torchrun --nproc-per-node 2``) are
faster than one of two: 41 and 50 ms per image on two cores.
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F
from common import RESULTS, finish, introduce, keep, parser
from packaged_data import digits, trees
from torch import Tensor

from ssd_core import Detector
from ssd_core.evaluation import detect_all, evaluate
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import MODELS, ModelSpec
from ssd_core.runners.heap import keep_freed_memory
from ssd_core.training import loss as losses, matching, step
from ssd_core.training.augment import LIGHT, PAPER, Augmentation
from ssd_core.training.data import DataSet
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.initialisation import starting_model
from ssd_core.training.kernels import triton_kernels
from ssd_core.training.loader import BatchLoader
from ssd_core.training.loop import Epoch, Training
from ssd_core.training.processes import Processes
from ssd_core.training.recipe import Recipe, default_learning_rate
from ssd_core.training.run_folder import RunFolder

OVERFITTED = 20
EPOCHS = {"digits": 12, "trees": 40, "overfit": 100}
OF_DIGITS = replace(LIGHT, flip=False)
"""Seen in a mirror, a digit is none."""
VGG_SIZE = 160
"""VGG at 300 pixels takes seconds of a core per image. At 160 its last feature map has no room, and
is left out."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("task", choices=EPOCHS)
    options.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS)[:2])
    options.add_argument("--epochs", type=int)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--lr", type=float, help="default: train's")
    options.add_argument("--images", type=int, default=1000, help="of digits to learn from")
    options.add_argument("--freeze", type=int, default=0, help="stages, as train's")
    options.add_argument("--workers", type=int, default=1)
    chosen = options.parse_args()
    chosen.epochs = 1 if chosen.quick else chosen.epochs or EPOCHS[chosen.task]
    task = {"digits": learn_digits, "trees": learn_trees, "overfit": overfit}[chosen.task]
    with Processes.join(chosen.device) as chosen.processes:
        if chosen.processes.is_first:
            introduce(chosen.device, "torch", "torchvision", "faster-coco-eval")
        if chosen.device == "cpu":
            keep_freed_memory()
        results = task(chosen)
    if not chosen.processes.is_first:
        return
    if not chosen.quick:
        plot(chosen.task)
    finish("training", chosen.device, task=chosen.task, last=[r[-1] for r in results.values()])


def learn_digits(chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Each variant, one after the other."""
    make = partial(digits, 40, 20) if chosen.quick else partial(digits, chosen.images)
    folder = made_once(make, chosen.processes)
    data, val = (read_data_set([folder / f"{name}.json"]) for name in ("train", "val"))
    found = {}
    for name in chosen.variants:
        network, spec, _ = starting_model(data.labels)
        with VARIANTS[name]():
            augment = None if name == "no augmentation" else OF_DIGITS
            found[name] = learn("digits", name, network, spec, data, val, chosen, augment=augment)
    return found


def learn_trees(chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """One run."""
    folder = made_once(trees, chosen.processes)
    data, val = (read_data_set([folder / f"{name}.json"]) for name in ("train", "val"))
    network, spec, _ = starting_model(data.labels)
    return {"ours": learn("trees", "ours", network, spec, data, val, chosen)}


def overfit(chosen: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Each architecture, on the same images."""
    folder = made_once(partial(digits, 40, 20) if chosen.quick else digits, chosen.processes)
    whole = read_data_set([folder / "train.json"])
    few = replace(whole, images=whole.images[:OVERFITTED])
    found = {}
    for name in chosen.models:
        network, spec, _ = starting_model(few.labels, name)
        if name == "ssd300_vgg16":
            spec = smaller(network, spec, VGG_SIZE)
        chosen.batch = OVERFITTED // 2
        found[name] = learn("overfit", name, network, spec, few, few, chosen, augment=None)
    return found


def made_once(make: Callable[[], Path], processes: Processes) -> Path:
    """The folder that ``make`` makes, in the first process; the others wait for it."""
    return processes.shared(make() if processes.is_first else Path())


def smaller(network: SSD, spec: ModelSpec, size: int) -> ModelSpec:
    """The model for inputs of ``size`` pixels, less the feature maps that have no room there."""
    maps = network.backbone(torch.zeros(1, 3, size, size))
    for layer in network.extra_layers:
        try:
            maps.append(layer(maps[-1]))
        except RuntimeError:  # the kernel is larger than the map
            break
    count = len(maps)
    network.extra_layers = network.extra_layers[: count - 2]
    network.classification_heads = network.classification_heads[:count]
    network.regression_heads = network.regression_heads[:count]
    sizes = tuple((m.shape[2], m.shape[3]) for m in maps)
    return replace(
        spec,
        image_size=(size, size),
        feature_maps=sizes,
        cells=None,
        box_sizes=spec.box_sizes[:count],
    )


def learn(
    task: str,
    variant: str,
    network: Any,
    spec: ModelSpec,
    data: DataSet,
    val: DataSet,
    chosen: argparse.Namespace,
    *,
    augment: Augmentation | None = PAPER,
) -> list[dict[str, Any]]:
    """A row per epoch, from 0 on."""
    rate = chosen.lr or default_learning_rate(spec.name, chosen.batch)
    recipe = Recipe(chosen.epochs, chosen.batch, rate, freeze=chosen.freeze, augmentation=augment)
    rows: list[dict[str, Any]] = []
    processes: Processes = chosen.processes
    began = time.monotonic()

    def on_epoch(epoch: Epoch) -> None:
        seconds = time.monotonic() - began
        row = row_of(task, variant, epoch.number, seconds, epoch.loss or 0.0, epoch.numbers)
        row |= {"images": len(data.images), "epochs": recipe.epochs}
        print(row, flush=True)
        rows.append(row)

    with (
        tempfile.TemporaryDirectory() as directory,
        BatchLoader(
            data,
            spec,
            recipe.batch,
            augment=augment,
            workers=chosen.workers,
            shard=(processes.number, processes.count),
        ) as loader,
    ):
        folder = RunFolder(Path(directory) / "own.safetensors")
        folder.claim()
        training = Training(
            network, spec, data, recipe, processes.device, folder, asdict(recipe), processes
        )
        training.run(loader, partial(numbers, val=val), on_epoch=on_epoch)
        folder.release()
    if processes.is_first and not chosen.quick:
        for row in rows:
            keep(RESULTS / "training.csv", row, chosen.device)
    return rows


def numbers(detector: Detector, val: DataSet) -> Mapping[str, float | None]:
    """COCO's."""
    return evaluate(detect_all(detector, val), val, known=detector.spec.labels).numbers


def row_of(
    task: str,
    variant: str,
    epoch: int,
    seconds: float,
    loss: float,
    measured: Mapping[str, float | None],
) -> dict[str, Any]:
    """A line of the results."""
    shown = {name: measured[name] for name in ("AP", "AP50", "AP_small", "AP_medium", "AP_large")}
    rounded = {name: None if value is None else round(value, 4) for name, value in shown.items()}
    head = {"task": task, "variant": variant, "epoch": epoch}
    return head | {"seconds": round(seconds), "loss": round(loss, 3)} | rounded


# Variants


@contextmanager
def without_the_first_step() -> Iterator[None]:
    """Default boxes are matched by IoU above the threshold alone."""

    def none(keys: Tensor, wanted: Tensor, num_defaults: int) -> Tensor:
        return torch.full(wanted.shape[:2], num_defaults, device=wanted.device)

    with patch.object(matching, "one_each", none), without_kernels():
        yield


def without_kernels() -> Any:
    """Plain PyTorch on every device: what is changed is the plain code."""
    return patch.object(triton_kernels, "reason", "a part is changed")


def with_loss(**options: Any) -> Callable[[], Any]:
    """Another setting of the loss."""
    return lambda: patch.object(step, "multibox_loss", partial(losses.multibox_loss, **options))


@contextmanager
def with_focal_loss(alpha: float = 0.25, gamma: float = 2.0) -> Iterator[None]:
    """Focal loss of every class and default box (arXiv 1708.02002) instead of hard negatives."""

    def focal(logits: Tensor, classes: Tensor, activation: str) -> Tensor:
        truth = F.one_hot(classes, logits.shape[-1]).to(logits.dtype)[..., 1:]
        entropy = F.binary_cross_entropy_with_logits(logits[..., 1:], truth, reduction="none")
        missing = 1 - torch.exp(-entropy)  # what is missing to a probability of 1 of the truth
        weight = alpha * truth + (1 - alpha) * (1 - truth)
        return (weight * missing**gamma * entropy).sum(-1)

    with (
        patch.object(losses, "_class_loss", focal),
        without_kernels(),
        with_loss(negatives_per_positive=1e9)(),
    ):
        yield


VARIANTS: dict[str, Callable[[], Any]] = {
    "ours": nullcontext,
    "no first step": without_the_first_step,
    "all negatives": with_loss(negatives_per_positive=1e9),
    "no augmentation": nullcontext,
    "focal loss": with_focal_loss,
}


def plot(task: str) -> None:
    """AP and AP50 by images seen, of all that is kept of a task; of equal runs the last."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    with (RESULTS / "training.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["task"] == task]
    runs: dict[tuple[str, str, str], dict[int, dict[str, str]]] = {}
    for row in rows:
        runs.setdefault((row["variant"], row["images"], row["epochs"]), {})[int(row["epoch"])] = row
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, measure in zip(axes, ("AP", "AP50"), strict=True):
        for (variant, images, epochs), by_epoch in runs.items():
            seen = [epoch * int(images) for epoch in by_epoch]
            label = f"{variant}, {epochs} epochs of {images}"
            axis.plot(seen, [float(row[measure]) for row in by_epoch.values()], label=label)
        axis.set_xlabel("images seen")
        axis.set_ylabel(measure)
        axis.set_ylim(0, 1)
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(RESULTS / f"training-{task}.png", dpi=100)
    print(json.dumps({"plot": f"training-{task}.png"}))


if __name__ == "__main__":
    main()
