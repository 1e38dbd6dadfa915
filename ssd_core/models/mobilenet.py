"""MobileNetV2 backbone and extra layers as TensorFlow's Object Detection API builds its SSD.

Sandler et al. 2018 (arXiv 1801.04381, table 2) with ReLU6 and TensorFlow's SAME padding. Trained
with batch norm; the published checkpoint has it folded into the convolutions.
"""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class SamePaddingConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding.

    The output has ceil(size / stride) cells; an odd total of padding puts the extra row and column
    at the bottom and right, where PyTorch's own padding is symmetric.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, out, ceil(H / stride), ceil(W / stride))."""
        pad = same_padding(self, x)
        if pad[0] == pad[1] and pad[2] == pad[3]:
            return F.conv2d(
                x, self.weight, self.bias, self.stride, (pad[2], pad[0]), self.dilation, self.groups
            )
        return F.conv2d(
            F.pad(x, pad), self.weight, self.bias, self.stride, 0, self.dilation, self.groups
        )


def same_padding(convolution: nn.Conv2d, x: Tensor) -> list[int]:
    """[left, right, top, bottom] of TensorFlow's SAME padding, in the order F.pad takes."""
    pad: list[int] = []
    for axis in (1, 0):
        size, stride = x.shape[2 + axis], convolution.stride[axis]
        total = max((-(-size // stride) - 1) * stride + convolution.kernel_size[axis] - size, 0)
        pad += [total // 2, total - total // 2]
    return pad


def convolution(
    channels: int,
    out: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    groups: int = 1,
    relu: bool = True,
    batch_norm: bool = False,
) -> nn.Sequential:
    """Convolution, batch norm if asked for (its epsilon is TF-OD's 0.001), ReLU6 if asked for."""
    layers: list[nn.Module] = [
        SamePaddingConv2d(
            channels, out, kernel_size, stride=stride, groups=groups, bias=not batch_norm
        )
    ]
    if batch_norm:
        layers.append(nn.BatchNorm2d(out, eps=1e-3, momentum=0.01))
    if relu:
        layers.append(nn.ReLU6(inplace=True))
    return nn.Sequential(*layers)


class InvertedResidual(nn.Module):
    """Expand 1x1, filter depthwise 3x3, project 1x1; with a skip where the shape stays."""

    def __init__(
        self, channels: int, out: int, *, stride: int, expansion: int, batch_norm: bool
    ) -> None:
        super().__init__()
        hidden = channels * expansion
        self.skip = stride == 1 and channels == out
        self.expand = (
            convolution(channels, hidden, batch_norm=batch_norm) if expansion > 1 else nn.Identity()
        )
        self.depthwise = convolution(
            hidden, hidden, 3, stride=stride, groups=hidden, batch_norm=batch_norm
        )
        self.project = convolution(hidden, out, relu=False, batch_norm=batch_norm)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) to (B, out, H / stride, W / stride)."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.skip else y


MOBILENET_V2_BLOCKS = (
    # out channels, repeats, stride of the first, expansion (table 2 of the paper)
    (16, 1, 1, 1),
    (24, 2, 2, 6),
    (32, 3, 2, 6),
    (64, 4, 2, 6),
    (96, 3, 1, 6),
    (160, 3, 2, 6),
    (320, 1, 1, 6),
)
STRIDE_16_BLOCK = 13
"""The block whose expansion is the first feature map (TF-OD's ``layer_15/expansion_output``)."""


class MobileNetV2(nn.Module):
    """(B, 3, H, W) to maps of 576 channels at stride 16 and 1280 at stride 32."""

    def __init__(self, batch_norm: bool = False) -> None:
        super().__init__()
        self.stem = convolution(3, 32, 3, stride=2, batch_norm=batch_norm)
        blocks = []
        channels = 32
        for out, repeats, first_stride, expansion in MOBILENET_V2_BLOCKS:
            for repeat in range(repeats):
                stride = first_stride if repeat == 0 else 1
                blocks.append(
                    InvertedResidual(
                        channels, out, stride=stride, expansion=expansion, batch_norm=batch_norm
                    )
                )
                channels = out
        self.blocks = nn.ModuleList(blocks)
        self.last = convolution(320, 1280, batch_norm=batch_norm)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to [block 13's expansion, the last convolution]."""
        x = self.stem(x)
        for block in self.blocks[:STRIDE_16_BLOCK]:
            x = block(x)
        stride_16: Any = self.blocks[STRIDE_16_BLOCK]
        expanded = stride_16.expand(x)
        x = stride_16.project(stride_16.depthwise(expanded))
        for block in self.blocks[STRIDE_16_BLOCK + 1 :]:
            x = block(x)
        return [expanded, self.last(x)]


MOBILENET_CHANNELS = (576, 1280)


def extra_layers(batch_norm: bool = False) -> tuple[list[nn.Module], tuple[int, ...]]:
    """TF-OD's four extra layers (1x1 squeeze, 3x3 at stride 2) and their channels."""
    widths = ((1280, 256, 512), (512, 128, 256), (256, 128, 256), (256, 64, 128))
    layers: list[nn.Module] = [
        nn.Sequential(
            convolution(channels, squeeze, batch_norm=batch_norm),
            convolution(squeeze, out, 3, stride=2, batch_norm=batch_norm),
        )
        for channels, squeeze, out in widths
    ]
    return layers, tuple(out for _, _, out in widths)
