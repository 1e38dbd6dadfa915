"""An SSD for inference on CUDA whose convolutions take along all that follows them.

PyTorch's eager mode runs convolution, bias, activation, skip connection and pooling one after
another, over memory each time, and class and box heads apart, to copy both together at the end.
Here a convolution is one kernel of ``ops/convolution_triton`` with all of these in it, or, where
cuDNN's is faster by more than that saves, cuDNN's and one kernel for the rest. The two heads of a
feature map are one convolution.

A model goes in and stays as it is; its weights are copied in another layout. No gradients.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ssd_core.models.mobilenet import InvertedResidual
from ssd_core.models.ssd import SSD
from ssd_core.models.vgg import L2Norm
from ssd_core.ops.convolution_triton import (
    Geometry,
    Pool,
    Tile,
    convolve,
    depthwise,
    finish,
    is_small,
    l2_normalise,
    pack,
    split_heads,
)
from ssd_core.runners.cpu_fusion import padding_rule

ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}

TileRule = Callable[[Tensor, int], Tile]
"""Chooses the tile of a convolution by its weights (out, in, kernel height, kernel width) and its
dilation."""


def tile_for(weight: Tensor, dilation: int = 1) -> Tile:
    """The tile of a convolution: by its shape alone, whatever the batch."""
    out_channels, channels, *kernel = weight.shape
    columns = min(128, max(16, 1 << (out_channels - 1).bit_length()))
    if is_small(weight):
        return Tile(128, columns, 16, 4, 3)
    if kernel != [1, 1]:  # fc6 of VGG, or small maps, of which larger tiles would leave some idle
        return Tile(128, 128, 64, 8, 3) if dilation > 1 else Tile(64, 64, 64, 4, 3)
    depth = 64 if channels % 64 == 0 else 32
    return Tile(128, columns, depth, 8 if columns == 128 else 4, 3)


CUDNN_FROM_PIXELS = 19 * 19
"""Of the output: from here on cuDNN is faster for 3x3 convolutions at stride 1. On an H200, batch
64, us: cuDNN's convolution alone, the pass for the rest by its bytes; ours with all. 64 channels at
300x300 with pool 811 + 220; 1,281. 512 at 38x38 532 + 45; 679. 512 at 19x19 153 + 11; 171. But 570
head outputs at 10x10 114 + 3; 92."""


class FusedSSD(nn.Module):
    """(B, 3, H, W) to ``bbox_regression`` (B, A, 4) and ``cls_logits`` (B, A, C), as an SSD."""

    def __init__(self, model: SSD, tile_rule: TileRule = tile_for) -> None:
        super().__init__()
        self.num_classes = model.num_classes
        self.backbone = _fused(model.backbone, tile_rule)
        self.extra_layers = nn.ModuleList(_fused(layer, tile_rule) for layer in model.extra_layers)
        self._heads = [
            FusedHead(classification, regression, model.num_classes, tile_rule)
            for classification, regression in zip(
                model.classification_heads, model.regression_heads, strict=True
            )
        ]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SSD.forward``."""
        maps: list[Tensor] = list(self.backbone(x))
        for layer in self.extra_layers:
            maps.append(layer(maps[-1]))
        boxes = [
            m.shape[2] * m.shape[3] * head.boxes_per_cell
            for m, head in zip(maps, self._heads, strict=True)
        ]
        bbox_regression = x.new_empty(len(x), sum(boxes), 4)
        cls_logits = x.new_empty(len(x), sum(boxes), self.num_classes)
        first = 0
        for feature_map, head, count in zip(maps, self._heads, boxes, strict=True):
            head(feature_map, bbox_regression[:, first:], cls_logits[:, first:])
            first += count
        return bbox_regression, cls_logits


class Convolution:
    """A convolution by cuDNN, which leaves the rest to do, or by our kernel, which does it all."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        like: nn.Conv2d,
        tile_rule: TileRule,
    ) -> None:
        """``like`` has the geometry."""
        self.weight = weight.detach()
        self.geometry_for = _geometry_rule(like)
        self.packed = pack(weight, bias, tile_rule(weight, like.dilation[0]))

    def suits_cudnn(self, x: Tensor) -> bool:
        """Whether cuDNN's convolution of ``x`` is faster than ours."""
        geometry = self.geometry_for(x)
        left, right, top, bottom = geometry.padding
        height, width = geometry.output_size(*x.shape[2:])
        return (
            geometry.kernel == (3, 3)
            and (geometry.stride, geometry.dilation) == (1, 1)
            and (left, top) == (right, bottom)
            and not is_small(self.weight)
            and height * width >= CUDNN_FROM_PIXELS
        )

    def by_cudnn(self, x: Tensor) -> Tensor:
        """The sums alone, rounded."""
        left, _, top, _ = self.geometry_for(x).padding
        sums = F.conv2d(x, self.weight, padding=(top, left))
        return sums.contiguous(memory_format=torch.channels_last)  # what cuDNN gives anyway

    def by_kernel(
        self, x: Tensor, activation: str = "none", residual: Tensor | None = None
    ) -> Tensor:
        """With bias, skip connection and activation."""
        return convolve(x, self.packed, self.geometry_for(x), activation, residual)


class FusedConv2d(nn.Module):
    """A convolution with its bias, activation, skip connection and pool."""

    def __init__(
        self,
        convolution: nn.Conv2d,
        activation: nn.Module | None,
        pool: nn.MaxPool2d | None,
        tile_rule: TileRule,
    ) -> None:
        super().__init__()
        self._convolution = Convolution(
            convolution.weight, convolution.bias, convolution, tile_rule
        )
        self._activation = ACTIVATIONS[type(activation)] if activation else "none"
        self._pool = None if pool is None else _pool_of(pool)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, out, H', W'), channels_last; ``residual`` has the latter shape."""
        convolution, pool = self._convolution, self._pool
        if self._activation == "relu" and residual is None and convolution.suits_cudnn(x):
            return finish(convolution.by_cudnn(x), convolution.packed.bias, pool)
        y = convolution.by_kernel(x, self._activation, residual)
        return y if pool is None else finish(y, None, pool)


class FusedMaxPool2d(nn.Module):
    """See ``nn.MaxPool2d``, which takes five times as long on channels_last maps (H200)."""

    def __init__(self, pool: nn.MaxPool2d) -> None:
        super().__init__()
        self._pool = _pool_of(pool)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W'), channels_last."""
        return finish(x, None, self._pool)


class FusedDepthwiseConv2d(nn.Module):
    """A convolution of each channel by itself, with its bias and activation."""

    def __init__(self, convolution: nn.Conv2d, activation: nn.Module | None) -> None:
        super().__init__()
        self._geometry_for = _geometry_rule(convolution)
        weight = convolution.weight.detach()
        self._weight = weight.flatten(1).T.contiguous()
        bias = weight.new_zeros(len(weight)) if convolution.bias is None else convolution.bias
        self._bias = bias.detach().float()
        self._activation = ACTIVATIONS[type(activation)] if activation else "none"

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H', W'), channels_last."""
        return depthwise(x, self._weight, self._bias, self._geometry_for(x), self._activation)


class FusedInvertedResidual(nn.Module):
    """See ``InvertedResidual``; the projection adds the skip connection."""

    def __init__(self, block: InvertedResidual, tile_rule: TileRule) -> None:
        super().__init__()
        self._skip = block.skip
        self.expand = _fused(block.expand, tile_rule)
        self.depthwise = _fused(block.depthwise, tile_rule)
        self.project: Any = _fused(block.project, tile_rule)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H / stride, W / stride)."""
        y: Tensor = self.depthwise(self.expand(x))
        projected: Tensor = self.project[0](y, x if self._skip else None)
        return projected


class FusedL2Norm(nn.Module):
    """See ``L2Norm``."""

    def __init__(self, norm: L2Norm) -> None:
        super().__init__()
        self._scale = norm.scale.detach()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return l2_normalise(x, self._scale)


class FusedHead:
    """The class and box heads of one feature map as one convolution."""

    def __init__(
        self,
        classification: Any,
        regression: Any,
        num_classes: int,
        tile_rule: TileRule,
    ) -> None:
        """Both heads are ``nn.Conv2d`` of one kernel size and padding."""
        self.boxes_per_cell: int = regression.out_channels // 4
        self._split = classification.out_channels
        bias = torch.cat((classification.bias, regression.bias)).detach()
        self._bias = bias.float()
        self._no_bias = torch.zeros_like(self._bias)
        weight = torch.cat((classification.weight, regression.weight)).detach()
        missing = -len(weight) % 8
        rounded_up = F.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing))
        self._convolution = Convolution(
            rounded_up.contiguous(memory_format=torch.channels_last),
            F.pad(bias, (0, missing)),
            classification,
            tile_rule,
        )

    def __call__(self, x: Tensor, bbox_regression: Tensor, cls_logits: Tensor) -> None:
        """Fill the outputs, which begin at the map's first default box, from the map."""
        convolution = self._convolution
        if convolution.suits_cudnn(x):
            y, bias = convolution.by_cudnn(x), self._bias
        else:
            # Rounded once: the sums without their bias are larger than what is left of them, and
            # to round those too cost 0.016 of AP on the sample (bf16, AP of the fp32 run as truth).
            y, bias = convolution.by_kernel(x), self._no_bias
        split_heads(y, bias, self._split, bbox_regression, cls_logits)


def _fused(module: nn.Module, tile_rule: TileRule) -> nn.Module:
    """The module with fused ones in place of its parts; a copy, where it has any."""
    if isinstance(module, nn.Sequential):
        return _fused_sequence(list(module), tile_rule)
    if isinstance(module, InvertedResidual):
        return FusedInvertedResidual(module, tile_rule)
    if isinstance(module, L2Norm):
        return FusedL2Norm(module)
    if isinstance(module, nn.MaxPool2d):
        return FusedMaxPool2d(module)
    clone = copy.copy(module)
    clone._modules = {
        name: child and _fused(child, tile_rule) for name, child in module._modules.items()
    }
    return clone


def _fused_sequence(modules: list[nn.Module], tile_rule: TileRule) -> nn.Sequential:
    """Convolutions with the activations and pools that follow them; other modules as they are."""
    waiting = [module for module in modules if not isinstance(module, nn.Identity)]
    result: list[nn.Module] = []
    while waiting:
        module = waiting.pop(0)
        if not isinstance(module, nn.Conv2d):
            result.append(_fused(module, tile_rule))
            continue
        activation = waiting.pop(0) if waiting and type(waiting[0]) in ACTIVATIONS else None
        if module.groups > 1:
            result.append(FusedDepthwiseConv2d(module, activation))
            continue
        pool = waiting[0] if waiting else None
        if isinstance(pool, nn.MaxPool2d):
            waiting.pop(0)
        else:
            pool = None
        result.append(FusedConv2d(module, activation, pool, tile_rule))
    return nn.Sequential(*result)


def _pool_of(pool: nn.MaxPool2d) -> Pool:
    """Of a pool with like sides and without dilation."""
    window, stride, padding = pool.kernel_size, pool.stride, pool.padding
    assert isinstance(window, int)
    assert isinstance(stride, int)
    assert isinstance(padding, int)
    assert pool.dilation == 1
    return Pool(window, stride, padding, pool.ceil_mode)


def _geometry_rule(convolution: nn.Conv2d) -> Callable[[Tensor], Geometry]:
    """What gives the geometry for an input; like sides have like strides and dilations."""
    padding_for = padding_rule(convolution)
    kernel = convolution.kernel_size[0], convolution.kernel_size[1]
    stride, dilation = convolution.stride[0], convolution.dilation[0]

    def geometry(x: Tensor) -> Geometry:
        left, right, top, bottom = padding_for(x)
        return Geometry(kernel, stride, dilation, (left, right, top, bottom))

    return geometry
