"""The processes that train one network together: torchrun's, or this one alone.

Each has the whole network and a share of every batch; gradients are summed, so that all make the
same step. The first one reads and writes files, measures and talks. If one fails, torchrun ends the
others, which wait for it.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from ssd_core.device import choose_device

LONGEST_WAIT = timedelta(days=1)
"""For the first process while it measures AP; PyTorch's default is minutes."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Processes:
    """One process among those of its run. A context manager: with it the group ends."""

    number: int
    """From 0 on, across machines."""
    count: int
    on_machine: int
    """How many of them this machine has."""
    device: torch.device
    """Of this process."""

    @classmethod
    def join(cls, device: str = "auto") -> "Processes":
        """Join the group that torchrun's variables name, if there are any. Raises DeviceError.

        ``device``: as for ``choose_device``; ``cuda`` is the GPU of the process's number on its
        machine.
        """
        chosen = choose_device(device)
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(0, 1, 1, chosen)
        if chosen.type == "cuda":
            chosen = choose_device(f"cuda:{os.environ['LOCAL_RANK']}")
            torch.cuda.set_device(chosen)
        backend = "nccl" if chosen.type == "cuda" else "gloo"
        distributed.init_process_group(backend, timeout=LONGEST_WAIT)
        on_machine = int(os.environ["LOCAL_WORLD_SIZE"])
        return cls(int(os.environ["RANK"]), count, on_machine, chosen)

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        if self.count > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this one reads, writes and talks."""
        return self.number == 0

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.count > 1:
            values = values.clone()
            distributed.all_reduce(values)
        return values

    def any(self, value: bool) -> bool:
        """Whether it is true in any process."""
        if self.count == 1:
            return value
        return bool(self.summed(torch.tensor(float(value), device=self.device)) > 0)

    def shared(self, value: _T) -> _T:
        """The first process's value, which must bear pickling."""
        if self.count == 1:
            return value
        values: list[Any] = [value]
        distributed.broadcast_object_list(values, src=0, device=self.device)
        shared: _T = values[0]
        return shared


ALONE = Processes(0, 1, 1, torch.device("cpu"))
"""Of a run in one process."""
