"""An exponential moving average of a network's weights: a network beside the one that learns.

Knows neither losses nor files.
"""

import copy
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ssd_core.models.ssd import SSD


class WeightAverage:
    """The average of a network's weights over its steps, from the first weights on."""

    def __init__(self, network: SSD, decay: float) -> None:
        """``decay``: the share of itself that the average keeps at each step, from 0 up to 1."""
        self.network: SSD = copy.deepcopy(network).requires_grad_(False)
        """Holds the average, on the device of the original."""
        self._decay = decay
        self._steps = 0

    @torch.no_grad()
    def update(self, network: SSD) -> None:
        """Include the weights after a step.

        At first the decay is lower, (1 + steps) / (10 + steps) as in TensorFlow's
        ``ExponentialMovingAverage``: with 0.999 from the start, the average of a run of 100 steps
        would still be nine tenths starting weights. Statistics of norms are averaged like weights,
        counts are copied.
        """
        decay = min(self._decay, (1 + self._steps) / (10 + self._steps))
        self._steps += 1
        averages, values = [], []
        for average, value in zip(
            self.network.state_dict().values(), network.state_dict().values(), strict=True
        ):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        get_ema_multi_avg_fn(decay)(averages, values, self._steps)

    def state_dict(self) -> dict[str, Any]:
        """Plain values and tensors, for ``load_state_dict``."""
        return {"network": self.network.state_dict(), "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.network.load_state_dict(state["network"])
        self._steps = state["steps"]
