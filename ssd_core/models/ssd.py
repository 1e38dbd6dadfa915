"""SSD as one module: image in, raw head outputs out.

Knows the shape of the detector (backbone, extra layers, heads); knows neither what the outputs
mean (``box_coder``, ``ops``) nor where weights come from (``checkpoints``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SSD(nn.Module):
    """Single Shot MultiBox Detector (Liu et al. 2016, arXiv 1512.02325, section 2.1).

    The backbone gives the first feature maps, every extra layer one smaller map. On each map a
    convolution predicts, per default box, class scores and four box offsets.
    """

    def __init__(
        self,
        backbone: nn.Module,
        extra_layers: Sequence[nn.Module],
        channels: Sequence[int],
        boxes_per_cell: Sequence[int],
        num_classes: int,
        head_kernel_size: int = 3,
    ) -> None:
        """``channels`` and ``boxes_per_cell`` have one entry per feature map."""
        super().__init__()
        self.num_classes = num_classes
        self.backbone = backbone
        self.extra_layers = nn.ModuleList(extra_layers)
        self.classification_heads = nn.ModuleList()
        self.regression_heads = nn.ModuleList()
        for width, boxes in zip(channels, boxes_per_cell, strict=True):
            for heads, outputs in (
                (self.classification_heads, boxes * num_classes),
                (self.regression_heads, boxes * 4),
            ):
                padding = head_kernel_size // 2
                heads.append(nn.Conv2d(width, outputs, head_kernel_size, padding=padding))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The multi-scale feature maps, largest first: (B, C_k, H_k, W_k) each."""
        maps: list[Tensor] = list(self.backbone(x))
        for layer in self.extra_layers:
            maps.append(layer(maps[-1]))
        return maps

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Raw outputs for (B, 3, H, W): ``bbox_regression`` (B, A, 4), ``cls_logits`` (B, A, C)."""
        maps = self.feature_maps(x)
        bbox_regression = [
            _per_box(head(m), 4) for head, m in zip(self.regression_heads, maps, strict=True)
        ]
        cls_logits = [
            _per_box(head(m), self.num_classes)
            for head, m in zip(self.classification_heads, maps, strict=True)
        ]
        return torch.cat(bbox_regression, dim=1), torch.cat(cls_logits, dim=1)


def _per_box(head_output: Tensor, size: int) -> Tensor:
    """(B, k * size, H, W) to (B, H * W * k, size): the order of ``tile_default_boxes``."""
    return head_output.permute(0, 2, 3, 1).reshape(head_output.shape[0], -1, size)


def initialise(model: nn.Module) -> None:
    """Xavier weights and zero biases for every convolution, as the paper's new layers have them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
