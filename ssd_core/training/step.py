"""One training step: a batch in, its losses out, the weights changed.

Knows no epochs and no files. What goes wrong in it is found here: no memory, and numbers that are
none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssd_core.device import PRECISIONS
from ssd_core.errors import TrainingError
from ssd_core.failures import is_out_of_memory
from ssd_core.models.ssd import SSD
from ssd_core.models.zoo import ModelSpec
from ssd_core.training.average import WeightAverage
from ssd_core.training.loader import Batch
from ssd_core.training.loss import multibox_loss
from ssd_core.training.matching import BACKGROUND, match_batch, padded
from ssd_core.training.processes import Processes
from ssd_core.training.recipe import MOST_GRADIENT_NORM, Recipe, make_optimizer

CPU_MEMORY = ("not enough memory", "can't allocate memory")
"""As PyTorch's allocator of the CPU says that there is none."""


class Losses:
    """The losses of a batch, on their way from the device: to read them waits for no later work."""

    def __init__(self, batch: Batch, values: Tensor) -> None:
        """``values``: the five numbers that ``read`` returns, in its order."""
        self.indices = batch.indices
        self._values = values
        self._event: torch.cuda.Event | None = None
        if values.is_cuda:
            self._values = torch.empty(values.shape, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record()

    def read(self) -> tuple[tuple[float, float], tuple[float, float, float]]:
        """Wait for the losses of the batch, and for what must be finite.

        Regression and classification loss; then this process's share of both, and the norm of the
        gradient (0 if no step was made).
        """
        if self._event is not None:
            self._event.synchronize()
        regression, classification, *own = self._values.tolist()
        return (regression, classification), (own[0], own[1], own[2])


class Stepper:
    """The network and its optimiser."""

    def __init__(
        self,
        network: SSD,
        spec: ModelSpec,
        recipe: Recipe,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self.network = network
        self._processes = processes
        self._forward: nn.Module = network
        if processes.count > 1:
            self._forward = nn.parallel.DistributedDataParallel(network)
        self.optimizer = make_optimizer(network, recipe)
        self.average = WeightAverage(network, recipe.ema) if recipe.ema else None
        """The moving average of the weights, if the recipe has one."""
        self.scaler = torch.amp.GradScaler(device.type, enabled=recipe.precision == "fp16")
        """Keeps fp16's gradients from vanishing; skips steps that are too large for it."""
        self._spec = spec
        self._device = device
        self._dtype = PRECISIONS[recipe.precision]
        self._default_boxes = spec.default_boxes().to(device)

    @property
    def result(self) -> SSD:
        """What is validated and kept: the network, or its average."""
        return self.network if self.average is None else self.average.network

    def step(
        self, batch: Batch, learning_rate: float, *, share: float = 1.0, updates: bool = True
    ) -> Losses:
        """Add ``share`` of the batch's gradient to what is there; ``updates`` the weights then.

        Raises TrainingError if there is no memory for it, which says how many images there is
        memory for: the state of the weights is undefined then.
        """
        try:
            return self._step(batch, learning_rate, share, updates)
        except (RuntimeError, MemoryError) as error:
            if not _is_out_of_memory(error):
                raise
        # Only here is what the failed step held free: the error held its frames.
        raise TrainingError(self._no_memory_for(batch))

    def _step(self, batch: Batch, learning_rate: float, share: float, updates: bool) -> Losses:
        own = torch.stack(self._backward(batch, share))
        norm = torch.zeros((), device=self._device)
        if updates:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate
            self.scaler.unscale_(self.optimizer)
            found = nn.utils.clip_grad_norm_(self.network.parameters(), MOST_GRADIENT_NORM)
            if not self.scaler.is_enabled():
                norm = found
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
            if self.average is not None:
                self.average.update(self.network)
        return Losses(batch, torch.cat((self._processes.summed(own), own, norm[None])))

    def _backward(self, batch: Batch, share: float) -> list[Tensor]:
        images = batch.images
        if not len(images):  # this process has no share of a small last batch
            images = torch.zeros(1, 3, *self._spec.image_size)
        images = images.to(self._device, non_blocking=True)
        images = images.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            outputs: tuple[Tensor, Tensor] = self._forward(images)
        losses = self._losses(outputs, batch)
        # DistributedDataParallel takes the mean over processes, of which each has a part of a sum.
        total = torch.stack(losses).sum() * (share * self._processes.count)
        self.scaler.scale(total).backward()
        return [loss.detach() for loss in losses]

    def _losses(self, outputs: tuple[Tensor, Tensor], batch: Batch) -> list[Tensor]:
        """Regression and classification loss: this process's part of those of the whole batch."""
        if not len(batch.images):  # its gradient is none, but awaited
            self._processes.summed(torch.zeros((), device=self._device))
            return [output.float().sum() * 0 for output in outputs]
        boxes = _moved(batch.boxes, self._device)
        losses = multibox_loss(
            *outputs,
            default_boxes_cxcywh=self._default_boxes,
            boxes=boxes,
            labels=_moved(batch.labels, self._device),
            activation=self._spec.activation,
        )
        if self._processes.count == 1:
            return list(losses)
        matches = match_batch(*padded(boxes), self._default_boxes)
        own = (matches.objects != BACKGROUND).sum().float()
        part_of_all = own.clamp(min=1) / self._processes.summed(own).clamp(min=1)
        return [loss * part_of_all for loss in losses]

    def _no_memory_for(self, batch: Batch) -> str:
        """What to say. Tries steps with half the images, a quarter, and so on."""
        images = len(batch.images)
        if self._processes.count > 1:  # the others do not try with it
            return f"no memory on {self._device} for {images} images: give a smaller --batch"
        fitting = images // 2
        while fitting:
            self.optimizer.zero_grad()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            part = Batch(
                batch.images[:fitting],
                batch.boxes[:fitting],
                batch.labels[:fitting],
                batch.indices[:fitting],
            )
            try:
                self._step(part, 0.0, 1.0, updates=True)
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                fitting //= 2
                continue
            return (
                f"no memory on {self._device} for a batch of {images}; {fitting} would fit: give "
                f"--batch {fitting} --accumulate {-(-images // fitting)}, which learns alike"
            )
        return (
            f"no memory on {self._device}, not even for one image: free memory on it, or use "
            "another device or a smaller model"
        )


def _moved(parts: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Tensors of different lengths, brought to the device in one piece."""
    if device.type == "cpu":
        return list(parts)
    whole = torch.cat(list(parts)).to(device, non_blocking=True)
    return list(whole.split([len(part) for part in parts]))


def _is_out_of_memory(error: BaseException) -> bool:
    return (
        isinstance(error, MemoryError)
        or is_out_of_memory(error)
        or any(text in str(error) for text in CPU_MEMORY)
    )
