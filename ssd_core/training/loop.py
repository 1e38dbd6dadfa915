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
    """What an epoch came to."""

    number: int
    """From 1 on."""
    learning_rate: float
    """Of its last step."""
    regression_loss: float
    """Mean over its batches, of weights that changed meanwhile; so the next."""
    classification_loss: float
    images_per_second: float
    """Of training alone."""
    seconds: float
    """Validation included."""
    numbers: dict[str, float | None] = field(default_factory=dict)
    """Of the validation, if there is one."""

    @property
    def loss(self) -> float:
        """The sum that is trained for."""
        return self.regression_loss + self.classification_loss

    @property
    def merit(self) -> tuple[float, float]:
        """Higher is better: AP, if there is a validation; of equal ones, the lower loss."""
        return (self.numbers["AP"] or 0.0) if self.numbers else 0.0, -self.loss


@dataclass(frozen=True)
class Progress:
    """Where a run is, after a step."""

    epoch: int
    """From 1 on."""
    images: int
    """Seen in this epoch."""
    loss: float | None
    """Mean of this epoch so far; None at its first step."""


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
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self._data_set = data_set
        self._recipe = recipe
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
        return len(self.history) == self._recipe.epochs

    def resume(self) -> bool:
        """Go on from the state in the folder, if there is one. Raises TrainingError."""
        state = self._folder.load(self._settings) if self._processes.is_first else None
        state = self._processes.shared(state)
        if state is None:
            return False
        self._network.load_state_dict(state["network"])
        self._stepper.optimizer.load_state_dict(state["optimizer"])
        self._stepper.scaler.load_state_dict(state["scaler"])
        self.history = [Epoch(**row) for row in state["history"]]
        self.best = self.history[state["best"] - 1]
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

        What a stop or an error leaves is the state on disk, that of the last whole epoch. Raises
        TrainingError where memory or disk are full or a loss is no number; DataError for an image
        that cannot be read.
        """
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
                self._keep(epoch)
                on_epoch(epoch)
        return True

    def _keep(self, epoch: Epoch) -> None:
        """The state, and its weights if they are the best so far."""
        is_best = self.best is None or epoch.merit > self.best.merit
        if is_best:
            self.best = epoch
            self._best_weights = {
                name: tensor.detach().to("cpu", copy=True)
                for name, tensor in self._network.state_dict().items()
            }
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
        """The network as it is now, in a copy: a detector changes its network."""
        dtype = PRECISIONS[self._recipe.precision]
        return Detector(copy.deepcopy(self._network), self.spec, self._device, dtype)

    def _train_epoch(
        self,
        loader: BatchLoader,
        on_step: Callable[[Progress], None],
        should_stop: Callable[[], bool],
    ) -> Epoch | None:
        """None if told to stop."""
        done = len(self.history)
        every = self._recipe.accumulate
        steps = math.ceil(len(loader) / every)
        totals = _Totals(self._fail)
        waiting: Losses | None = None
        images, rate = 0, 0.0
        began = time.perf_counter()
        self._network.train()
        for index, batch in enumerate(loader.epoch(done)):
            group, place = divmod(index, every)
            size = min(every, len(loader) - group * every)
            rate = learning_rate(self._recipe, done * steps + group, self._recipe.epochs * steps)
            try:
                losses = self._stepper.step(batch, rate, share=1 / size, updates=place == size - 1)
            except TrainingError as error:
                raise self._stopped(str(error)) from error
            if waiting is not None:
                totals.add(waiting)
            waiting = losses
            images = min(images + self._recipe.batch, len(self._data_set.images))
            on_step(Progress(done + 1, images, totals.loss))
            if self._processes.any(should_stop()):
                return None
        if waiting is not None:
            totals.add(waiting)
        means = torch.tensor(totals.means(), device=self._device)
        regression, classification = self._processes.summed(means).tolist()
        speed = images / (time.perf_counter() - began)
        return Epoch(done + 1, rate, regression, classification, speed, 0.0)

    def _save(self, is_best: bool) -> None:
        assert self.best is not None
        state = {
            "settings": self._settings,
            "network": self._network.state_dict(),
            "optimizer": self._stepper.optimizer.state_dict(),
            "scaler": self._stepper.scaler.state_dict(),
            "history": [asdict(epoch) for epoch in self.history],
            "best": self.best.number,
            "best_weights": self._best_weights,
        }
        try:
            self._folder.save(state)
        except TrainingError as error:
            self.history.pop()
            raise self._stopped(str(error)) from error
        try:
            if is_best:
                self._folder.write_best(self.best_network(), self.best_spec({}))
            self._folder.write_epochs([_row(epoch) for epoch in self.history])
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
            f"look at these images, or give a lower --lr than {self._recipe.learning_rate:g}"
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
    """The losses of an epoch so far."""

    def __init__(self, fail: Callable[[Losses, tuple[float, ...]], None]) -> None:
        self._fail = fail
        self._sums = [0.0, 0.0]
        self._batches = 0

    def add(self, losses: Losses) -> None:
        values = losses.read()
        if not all(map(math.isfinite, values)):
            self._fail(losses, values)
        self._sums = [total + value for total, value in zip(self._sums, values, strict=False)]
        self._batches += 1

    @property
    def loss(self) -> float | None:
        return sum(self._sums) / self._batches if self._batches else None

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
