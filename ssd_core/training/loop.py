"""The training loop: a network, labelled images and a recipe in, the weights of the best epoch out.

After each epoch its state is on disk, and a run that goes on from there ends as one that was never
interrupted: the order of images and their augmentation depend on seed, epoch and index alone, the
learning rate on the step, and nothing else is random. Knows neither data formats nor metrics:
``validate`` measures a detector. Who tells a run to stop is its caller's matter.
"""

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ssd_core.detector import Detector
from ssd_core.device import PRECISIONS, choose_precision, cuda_has_bf16
from ssd_core.errors import TrainingError
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec
from ssd_core.training.data import DataSet
from ssd_core.training.loader import BatchLoader
from ssd_core.training.processes import ALONE, Processes
from ssd_core.training.recipe import Recipe, freeze_stages, learning_rate
from ssd_core.training.run_folder import RunFolder
from ssd_core.training.step import Losses, Stepper

Numbers = Mapping[str, float | None]
"""A detector's on the validation set, ``AP`` among them; None: not defined there. If there is a
``score_threshold``, it is the one to use, within ``SCORE_THRESHOLDS``."""
Validate = Callable[[Detector], Numbers]
SCORE_THRESHOLDS = (0.05, 0.6)
"""What the best one on a small validation set is held to: below are false alarms, above misses."""
NAMED_IMAGES = 8
"""Of a batch whose loss is no number."""


@dataclass(frozen=True)
class Epoch:
    """The result of an epoch; number 0 stands for the starting weights, which have no losses."""

    number: int
    learning_rate: float | None
    """Of its last step; None, like the next three, for the starting weights."""
    regression_loss: float | None
    """Mean over its batches, of weights that changed meanwhile; so the next."""
    classification_loss: float | None
    images_per_second: float | None
    """Of training alone."""
    seconds: float
    """Validation included."""
    numbers: dict[str, float | None] = field(default_factory=dict)
    """Of the validation, if there is one."""

    @property
    def loss(self) -> float | None:
        """The sum that is trained for."""
        if self.regression_loss is None or self.classification_loss is None:
            return None
        return self.regression_loss + self.classification_loss

    @property
    def merit(self) -> tuple[float, float]:
        """Higher is better: AP, if there is a validation; of equal ones, the lower loss.

        The starting weights are better than an epoch with the same AP, unless they find nothing.
        """
        ap = (self.numbers["AP"] or 0.0) if self.numbers else 0.0
        if self.loss is None:
            return ap, math.inf if ap else -math.inf
        return ap, -self.loss


@dataclass(frozen=True)
class Progress:
    """Where a run is, after a batch."""

    epoch: int
    """From 1 on."""
    batch: int
    """Of all epochs, from 1 on."""
    images: int
    """Seen in this epoch."""
    learning_rate: float
    batch_loss: float
    loss: float
    """Mean of this epoch so far."""


class Training:
    """A run: the network, its optimiser, and what they have come to."""

    def __init__(
        self,
        network: SSD,
        spec: ModelSpec,
        data_set: DataSet,
        recipe: Recipe,
        device: torch.device,
        folder: RunFolder,
        settings: Mapping[str, Any],
        processes: Processes = ALONE,
    ) -> None:
        """``settings``: all that the run depends on, plain values by name; kept with its state.
        ``processes``: those that train it together; the first one alone uses the folder.

        Raises TrainingError if the recipe does not fit the network.
        """
        self.spec = spec
        self.start: Epoch | None = None
        """The starting weights, once they are validated."""
        self.history: list[Epoch] = []
        """The epochs that are done."""
        self.best: Epoch | None = None
        """One of these; None at first."""
        self._data_set = data_set
        self.recipe = recipe
        self._device = device
        self._folder = folder
        self._settings = dict(settings)
        self._network = network.to(device)
        self._network.to(memory_format=torch.channels_last)
        freeze_stages(network, recipe.freeze)
        self._processes = processes
        self._stepper = Stepper(network, spec, recipe, device, processes)
        self._best_weights: dict[str, Tensor] = {}

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done."""
        return len(self.history) == self.recipe.epochs

    @property
    def measured(self) -> list[Epoch]:
        """The starting weights, if they were validated, and the epochs that are done."""
        return [self.start, *self.history] if self.start is not None else self.history

    def resume(self) -> bool:
        """Go on from the state in the folder, if there is one. Raises TrainingError."""
        state = self._folder.load(self._settings) if self._processes.is_first else None
        state = self._processes.shared(state)
        if state is None:
            return False
        self._network.load_state_dict(state["network"])
        self._stepper.optimizer.load_state_dict(state["optimizer"])
        self._stepper.scaler.load_state_dict(state["scaler"])
        if self._stepper.average is not None:
            self._stepper.average.load_state_dict(state["average"])
        self.start = Epoch(**state["start"]) if state["start"] is not None else None
        self.history = [Epoch(**row) for row in state["history"]]
        self.best = next(epoch for epoch in self.measured if epoch.number == state["best"])
        self._best_weights = state["best_weights"]
        return True

    def run(
        self,
        loader: BatchLoader,
        validate: Validate | None = None,
        *,
        on_step: Callable[[Progress], None] = lambda progress: None,
        on_epoch: Callable[[Epoch], None] = lambda epoch: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Train to the end; False if told to stop before: asked after each step and each epoch.

        With ``validate``, the starting weights are measured first, and can turn out to be the best:
        ``on_epoch`` gets them as epoch 0, and each epoch just before it is saved. ``on_step`` gets
        each batch once the next one is under way: waiting for its loss earlier would idle a GPU.

        What a stop or an error leaves is the state on disk, that of the last whole epoch. Raises
        TrainingError where memory or disk are full or a loss is no number; DataError for an image
        that cannot be read.
        """
        if validate is not None and not self.measured:
            if self._processes.any(should_stop()):
                return False
            if self._processes.is_first:
                began = time.perf_counter()
                numbers = dict(validate(self._detector()))
                seconds = time.perf_counter() - began
                self.start = Epoch(0, None, None, None, None, seconds, numbers)
                self._keep(self.start, on_epoch)
        while not self.is_finished:
            if self._processes.any(should_stop()):
                return False
            began = time.perf_counter()
            epoch = self._train_epoch(loader, on_step, should_stop)
            if epoch is None:
                return False
            if validate is not None and self._processes.is_first:
                epoch = replace(epoch, numbers=dict(validate(self._detector())))
            epoch = replace(epoch, seconds=time.perf_counter() - began)
            self.history.append(epoch)
            if self._processes.is_first:
                self._keep(epoch, on_epoch)
        return True

    def _keep(self, epoch: Epoch, on_epoch: Callable[[Epoch], None]) -> None:
        """Save the state, and the weights if they are the best so far.

        ``on_epoch`` is called first: if the run is killed in between, it is called again for this
        epoch after a resume, instead of never.
        """
        is_best = self.best is None or epoch.merit > self.best.merit
        if is_best:
            self.best = epoch
            self._best_weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in self._stepper.result.state_dict().items()
            }
        on_epoch(epoch)
        self._save(is_best)

    def best_network(self) -> SSD:
        """A copy of the network on the CPU with the weights of the best epoch."""
        network: SSD = copy.deepcopy(self._network).cpu()
        network.load_state_dict(self._best_weights)
        return network.eval()

    def best_detector(self) -> Detector:
        """A detector, on the CPU, with the weights of the best epoch."""
        spec = self.best_spec({})
        return Detector(self.best_network(), spec, torch.device("cpu"), torch.float32)

    def best_spec(self, record: Mapping[str, Any]) -> ModelSpec:
        """The spec of the best weights: how they were trained, and what else ``record`` says.

        With the score threshold that the validation gave.
        """
        assert self.best is not None
        threshold = self.best.numbers.get("score_threshold")
        if threshold is None:
            threshold = self.spec.score_threshold
        else:
            least, most = SCORE_THRESHOLDS
            threshold = min(max(math.floor(threshold * 1000) / 1000, least), most)
        trained = {
            "settings": self._settings,
            "epoch": self.best.number,
            "loss": self.best.loss,
            **self.best.numbers,
            **record,
        }
        record_text = json.dumps(trained, ensure_ascii=False)
        return replace(self.spec, training=record_text, score_threshold=threshold)

    def _detector(self) -> Detector:
        """The weights as they are now, in a copy: a detector changes its network."""
        dtype = PRECISIONS[self.recipe.precision]
        return Detector(copy.deepcopy(self._stepper.result), self.spec, self._device, dtype)

    def _train_epoch(
        self,
        loader: BatchLoader,
        on_step: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> Epoch | None:
        """None if told to stop."""
        done = len(self.history)
        every = self.recipe.accumulate
        steps = math.ceil(len(loader) / every)
        totals = _Totals(self._fail, on_step)
        images, rate = 0, 0.0
        began = time.perf_counter()
        self._network.train()
        for index, batch in enumerate(loader.epoch(done)):
            group, place = divmod(index, every)
            size = min(every, len(loader) - group * every)
            rate = learning_rate(self.recipe, done * steps + group, self.recipe.epochs * steps)
            try:
                losses = self._stepper.step(batch, rate, share=1 / size, updates=place == size - 1)
            except TrainingError as error:
                raise self._stopped(str(error)) from error
            images = min(images + self.recipe.batch, len(self._data_set.images))
            number = done * len(loader) + index + 1
            totals.add(losses, partial(Progress, done + 1, number, images, rate))
            if self._processes.any(should_stop()):
                return None
        totals.read()
        regression, classification = totals.means()
        speed = images / (time.perf_counter() - began)
        return Epoch(done + 1, rate, regression, classification, speed, 0.0)

    def _save(self, is_best: bool) -> None:
        assert self.best is not None
        state = {
            "settings": self._settings,
            "network": self._network.state_dict(),
            "optimizer": self._stepper.optimizer.state_dict(),
            "scaler": self._stepper.scaler.state_dict(),
            "average": self._stepper.average and self._stepper.average.state_dict(),
            "start": self.start and asdict(self.start),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best.number,
            "best_weights": self._best_weights,
        }
        try:
            self._folder.save(state)
        except TrainingError as error:
            del self.history[-1:]
            raise self._stopped(str(error)) from error
        try:
            if is_best:
                self._folder.write_best(self.best_network(), self.best_spec({}))
            self._folder.write_epochs([_row(epoch) for epoch in self.measured])
        except TrainingError as error:
            raise self._stopped(str(error)) from error

    def _fail(self, losses: Losses, values: tuple[float, ...]) -> None:
        """Raise TrainingError for a loss that is no number."""
        names = [self._data_set.images[index].name for index in losses.indices]
        more = len(names) - NAMED_IMAGES
        named = ", ".join(names[:NAMED_IMAGES]) + (f" and {more} more" if more > 0 else "")
        what = "the gradient" if all(map(math.isfinite, values[:2])) else "the loss"
        raise self._stopped(
            f"{what} is no longer a finite number in epoch {len(self.history) + 1}, at {named}: "
            f"look at these images, or give a lower --lr than {self.recipe.learning_rate:g}"
        )

    def _stopped(self, reason: str) -> TrainingError:
        """The error that says what is left on disk."""
        if not self.history:
            return TrainingError(f"{reason} (no epoch was finished)")
        return TrainingError(
            f"{reason} (the checkpoint of epoch {len(self.history)} is kept, and the best weights "
            f"so far in {self._folder.best})"
        )


class _Totals:
    """The losses of an epoch so far. Those of the last batch wait until the next one is added."""

    def __init__(
        self,
        fail: Callable[[Losses, tuple[float, ...]], None],
        on_step: Callable[[Progress], None],
    ) -> None:
        self._fail = fail
        self._on_step = on_step
        self._sums = [0.0, 0.0]
        self._batches = 0
        self._waiting: tuple[Losses, Callable[[float, float], Progress]] | None = None

    def add(self, losses: Losses, progress: Callable[[float, float], Progress]) -> None:
        """Add a batch that is under way; ``progress`` makes a Progress of its loss and the mean."""
        self.read()
        self._waiting = losses, progress

    def read(self) -> None:
        """Wait for the losses of the last batch."""
        if self._waiting is None:
            return
        losses, progress = self._waiting
        values, own = losses.read()
        if not all(map(math.isfinite, own)):
            self._fail(losses, own)
        self._sums = [total + value for total, value in zip(self._sums, values, strict=True)]
        self._batches += 1
        self._on_step(progress(sum(values), sum(self._sums) / self._batches))

    def means(self) -> tuple[float, float]:
        regression, classification = (total / self._batches for total in self._sums)
        return regression, classification


def training_precision(name: str, device: torch.device) -> str:
    """The precision that ``auto`` or a name means on a device. Raises DeviceError.

    ``auto`` is bf16 on a GPU that has it, else fp32.
    """
    if name != "auto":
        choose_precision(name, device)
        return name
    return "bf16" if device.type == "cuda" and cuda_has_bf16(device) else "fp32"


def _row(epoch: Epoch) -> dict[str, Any]:
    row = asdict(epoch)
    return {name: value for name, value in row.items() if name != "numbers"} | epoch.numbers
