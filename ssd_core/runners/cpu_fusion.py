"""Convolutions of a network on the CPU, each one call of oneDNN with its bias and activation.

PyTorch's eager mode runs convolution, padding and activation one after another, over memory each
time, and lays the weights out again in every call. Here a convolution takes its activation with it,
odd SAME padding becomes part of the kernel, and weights are laid out once. MobileNet at 300x300 in
bf16, one thread of a Xeon with AMX, ms an image at batch 2: eager 18.5, this 7.9, Inductor with
freezing 8.6 (torch 2.15.0).

The calls are those that Inductor makes: PyTorch has them, but does not document them, so that this
tries them once and leaves the network as it is if they are missing.
"""

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_core.models.mobilenet import SamePaddingConv2d, same_padding
from ssd_core.models.ssd import SSD

log = logging.getLogger(__name__)

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.ReLU: ("relu", []),
}

MOST_LAYOUTS = 8
"""Copies of its weights that a convolution keeps, for as many batch sizes."""


class FusedConv2d(nn.Module):
    """A convolution, its bias and its activation. Its parameters are named as the convolution's."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self.weight, self.bias = convolution.weight, convolution.bias
        self._padding_of = padding_rule(convolution)
        self._geometry = (list(convolution.stride), list(convolution.dilation), convolution.groups)
        self._activation = ACTIVATIONS[type(activation)] if activation else ("none", [])
        self._laid_out: dict[tuple[torch.Size, int], tuple[Tensor, list[int]]] = {}

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out, H', W'), channels_last; no gradients."""
        # oneDNN wants another layout for other shapes and numbers of threads; given the wrong one,
        # it converts it in every call, and MobileNet takes four times as long.
        key = x.shape, torch.get_num_threads()
        layout = self._laid_out.get(key)
        if layout is None:
            if len(self._laid_out) >= MOST_LAYOUTS:
                self._laid_out.clear()
            layout = self._laid_out[key] = self._lay_out(x)
        weight, padding = layout
        bias = None if self.bias is None else self.bias.detach()
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, padding, *self._geometry, *self._activation, ""
        )
        return result

    def __getstate__(self) -> dict[str, Any]:
        """Without the laid out weights, which PyTorch can neither copy nor pickle."""
        return self.__dict__ | {"_laid_out": {}}

    def _lay_out(self, x: Tensor) -> tuple[Tensor, list[int]]:
        """The weights laid out for inputs like ``x``, and their (vertical, horizontal) padding."""
        left, right, top, bottom = self._padding_of(x)
        # oneDNN pads alike on both sides: where one side has a row less, the kernel begins with a
        # row of zeros instead.
        weight = F.pad(self.weight.detach(), (right - left, 0, bottom - top, 0)).contiguous()
        padding = [bottom, right]
        weight = torch.ops.mkldnn._reorder_convolution_weight(
            weight, padding, *self._geometry, list(x.shape)
        )
        return weight, padding


def padding_rule(convolution: nn.Conv2d) -> Callable[[Tensor], list[int]]:
    """What gives [left, right, top, bottom] for an input."""
    if isinstance(convolution, SamePaddingConv2d):
        return partial(same_padding, convolution)
    assert not isinstance(convolution.padding, str)
    vertical, horizontal = convolution.padding
    return lambda x: [horizontal, horizontal, vertical, vertical]


def fuse_for_cpu(model: SSD, dtype: torch.dtype) -> bool:
    """Fuse every convolution of a network of ``dtype``, in place; whether this PyTorch could."""
    reason = why_not_fused(dtype)
    if reason:
        log.info("convolutions are not fused on this CPU, the network is slower: %s", reason)
        return False
    for parent in list(model.modules()):
        _fuse_children(parent)
    return True


def why_not_fused(dtype: torch.dtype) -> str:
    """Why this PyTorch cannot fuse convolutions in ``dtype``; empty if it can. Found by trying."""
    if not torch.backends.mkldnn.is_available():
        return "PyTorch is built without oneDNN"
    x = torch.zeros(1, 3, 8, 8, dtype=dtype, device="cpu").to(memory_format=torch.channels_last)
    try:
        FusedConv2d(nn.Conv2d(3, 8, 3, device="cpu", dtype=dtype), nn.ReLU6())(x)
    except (RuntimeError, AttributeError, TypeError) as error:
        return str(error).partition("\n")[0]
    return ""


def _fuse_children(parent: nn.Module) -> None:
    names = list(parent._modules)
    for index, name in enumerate(names):
        convolution = parent._modules[name]
        if not isinstance(convolution, nn.Conv2d) or isinstance(parent, FusedConv2d):
            continue
        activation = None
        if isinstance(parent, nn.Sequential):
            for later in names[index + 1 :]:
                follower = parent._modules[later]
                if type(follower) in ACTIVATIONS:
                    activation = follower
                    parent._modules[later] = nn.Identity()
                if not isinstance(follower, nn.Identity):
                    break
        parent._modules[name] = FusedConv2d(convolution, activation)
