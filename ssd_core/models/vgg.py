"""VGG16 backbone and extra layers of SSD300 and SSD512.

From the paper's section 3: VGG16 through conv4_3 with L2 normalisation, pool5 3x3 at stride 1,
fc6 as a dilated convolution, fc7 as a 1x1 one. Details the paper leaves open follow the authors'
code and torchvision's ``ssd300_vgg16``, whose weights fit.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

L2_NORM_SCALE = 20.0
"""Initial scale of conv4_3's L2 normalisation (paper, section 3.1)."""


class L2Norm(nn.Module):
    """Scale each position's feature vector to a learned length per channel (ParseNet)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((channels,), L2_NORM_SCALE, dtype=torch.float32))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return self.scale[None, :, None, None] * F.normalize(x, dim=1)


class VGG16(nn.Module):
    """(B, 3, H, W) to the maps of conv4_3 (512 channels, stride 8) and fc7 (1024, stride 16)."""

    def __init__(self) -> None:
        super().__init__()
        # pool3 rounds up: 75 -> 38 for SSD300, as in the authors' code.
        self.conv1_to_conv4_3 = nn.Sequential(
            *_convolutions(3, 64, 64),
            nn.MaxPool2d(2, 2),
            *_convolutions(64, 128, 128),
            nn.MaxPool2d(2, 2),
            *_convolutions(128, 256, 256, 256),
            nn.MaxPool2d(2, 2, ceil_mode=True),
            *_convolutions(256, 512, 512, 512),
        )
        self.l2_norm = L2Norm(512)
        self.conv5_to_fc7 = nn.Sequential(
            nn.MaxPool2d(2, 2),
            *_convolutions(512, 512, 512, 512),
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Conv2d(512, 1024, 3, padding=6, dilation=6),
            nn.ReLU(inplace=True),
            nn.Conv2d(1024, 1024, 1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) to [conv4_3, fc7]."""
        conv4_3 = self.conv1_to_conv4_3(x)
        return [self.l2_norm(conv4_3), self.conv5_to_fc7(conv4_3)]


VGG_CHANNELS = (512, 1024)


def extra_layers_300() -> tuple[list[nn.Module], tuple[int, ...]]:
    """SSD300's extra layers (conv8 to conv11) and their channels: maps 10, 5, 3 and 1."""
    layers: list[nn.Module] = [
        _extra_layer(1024, 256, 512, stride=2, padding=1),
        _extra_layer(512, 128, 256, stride=2, padding=1),
        _extra_layer(256, 128, 256),
        _extra_layer(256, 128, 256),
    ]
    return layers, (512, 256, 256, 256)


def extra_layers_512() -> tuple[list[nn.Module], tuple[int, ...]]:
    """SSD512's extra layers (conv8 to conv12) and their channels: maps 16, 8, 4, 2 and 1.

    The last one has a 4x4 kernel with padding 1, as in the authors' ssd_pascal_512.py.
    """
    layers: list[nn.Module] = [
        _extra_layer(1024, 256, 512, stride=2, padding=1),
        _extra_layer(512, 128, 256, stride=2, padding=1),
        _extra_layer(256, 128, 256, stride=2, padding=1),
        _extra_layer(256, 128, 256, stride=2, padding=1),
        _extra_layer(256, 128, 256, kernel_size=4, padding=1),
    ]
    return layers, (512, 256, 256, 256, 256)


def _convolutions(*channels: int) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(inplace=True)]
    return layers


def _extra_layer(
    channels: int, squeeze: int, out: int, kernel_size: int = 3, stride: int = 1, padding: int = 0
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, squeeze, 1),
        nn.ReLU(inplace=True),
        nn.Conv2d(squeeze, out, kernel_size, stride=stride, padding=padding),
        nn.ReLU(inplace=True),
    )
