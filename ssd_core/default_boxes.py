"""Default boxes: feature-map sizes in, one box per prediction out.

A default box (also called prior or anchor) is a box of fixed size tiled over every cell of a
feature map. This module knows two recipes for their sizes, the SSD paper's and the TensorFlow
Object Detection API's, and one way of tiling them. It does not know networks or images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, sqrt

import torch
from torch import Tensor

BoxSize = tuple[float, float]
"""(width, height) of a default box, as a fraction of the network input."""


@dataclass(frozen=True)
class Scales:
    """Box scales of one paper-style model: one per feature map, and one beyond the last map."""

    values: tuple[float, ...]

    @classmethod
    def from_paper(
        cls, num_feature_maps: int, smallest: float, s_min: float, s_max: float = 0.9
    ) -> "Scales":
        """Scales as the authors' code computes them.

        Section 2.2 of the paper spaces the scales linearly from ``s_min`` to ``s_max``. The code
        (ssd_pascal.py, ssd_coco.py) does it in whole percents with a floored step, and gives the
        first map (conv4_3) a ``smallest`` scale of its own (section 3.1).
        """
        low, high = round(s_min * 100), round(s_max * 100)
        step = floor((high - low) / (num_feature_maps - 2))
        percents = [low + step * k for k in range(num_feature_maps)]
        return cls((smallest, *(percent / 100 for percent in percents)))


SSD300_VOC_SCALES = Scales.from_paper(6, smallest=0.1, s_min=0.2)
SSD300_COCO_SCALES = Scales.from_paper(6, smallest=0.07, s_min=0.15)
SSD512_VOC_SCALES = Scales.from_paper(7, smallest=0.07, s_min=0.15)
SSD512_COCO_SCALES = Scales.from_paper(7, smallest=0.04, s_min=0.1)


def paper_box_sizes(
    scales: Scales, aspect_ratios: Sequence[Sequence[float]], clamp: bool = True
) -> tuple[tuple[BoxSize, ...], ...]:
    """Box sizes per feature map in the paper's order.

    Per map k: (s_k, s_k), then the extra square of sqrt(s_k * s_{k+1}), then for every ratio r a
    box of ratio r and one of 1/r (section 2.2; the order is that of Caffe's PriorBox layer, and of
    torchvision).

    ``clamp`` limits widths and heights to the input size, as torchvision does (the last COCO
    scale is 1.05); the paper's code leaves them.
    """
    limit = 1.0 if clamp else float("inf")
    maps = []
    for k, ratios in enumerate(aspect_ratios):
        scale, extra = scales.values[k], sqrt(scales.values[k] * scales.values[k + 1])
        sizes = [(scale, scale), (extra, extra)]
        for ratio in ratios:
            long, short = scale * sqrt(ratio), scale / sqrt(ratio)
            sizes += [(long, short), (short, long)]
        maps.append(tuple((min(w, limit), min(h, limit)) for w, h in sizes))
    return tuple(maps)


def tf_od_box_sizes(
    num_feature_maps: int, s_min: float = 0.2, s_max: float = 0.95
) -> tuple[tuple[BoxSize, ...], ...]:
    """Box sizes per feature map of TensorFlow Object Detection's ``ssd_anchor_generator``.

    Scales are linear from ``s_min`` to ``s_max``. The lowest map has three boxes (scale 0.1 at
    ratio 1, ``s_min`` at ratios 2 and 1/2: ``reduce_boxes_in_lowest_layer``), every other one six:
    ratios 1, 2, 1/2, 3, 0.3333 and the square of sqrt(s_k * s_{k+1}); the last s_{k+1} is 1.
    The constant 0.3333 is the generator's own.
    """
    step = (s_max - s_min) / (num_feature_maps - 1)
    scales = [s_min + step * k for k in range(num_feature_maps)] + [1.0]
    maps = []
    for k in range(num_feature_maps):
        if k == 0:
            pairs = [(0.1, 1.0), (scales[0], 2.0), (scales[0], 0.5)]
        else:
            pairs = [(scales[k], ratio) for ratio in (1.0, 2.0, 0.5, 3.0, 0.3333)]
            pairs.append((sqrt(scales[k] * scales[k + 1]), 1.0))
        maps.append(tuple((scale * sqrt(ratio), scale / sqrt(ratio)) for scale, ratio in pairs))
    return tuple(maps)


def tile_default_boxes(
    feature_maps: Sequence[tuple[int, int]],
    box_sizes: Sequence[Sequence[BoxSize]],
    cells: Sequence[tuple[float, float]] | None = None,
) -> Tensor:
    """Tile the box sizes of each feature map over its cells.

    ``feature_maps`` holds (height, width) of each map. ``cells`` says how many cells of a map fit
    the input in (height, width): |f_k| of the paper's equation 4, by default the size of the map.
    Models with fixed steps give image_size / step instead (SSD300's first map: 300 / 8 = 37.5).

    Returns (A, 4) fp32 ``boxes_cxcywh`` on the CPU in fractions of the input, ordered by map, row,
    column, size: the order in which a head's NHWC output reads.
    """
    if cells is None:
        cells = feature_maps
    tiles = []
    for (height, width), (rows, columns), sizes in zip(feature_maps, cells, box_sizes, strict=True):
        cy, cx = torch.meshgrid(
            (torch.arange(height, dtype=torch.float64, device="cpu") + 0.5) / rows,
            (torch.arange(width, dtype=torch.float64, device="cpu") + 0.5) / columns,
            indexing="ij",
        )
        centres = torch.stack((cx, cy), dim=-1)[:, :, None].expand(-1, -1, len(sizes), -1)
        wh = torch.tensor(sizes, dtype=torch.float64, device="cpu").expand(height, width, -1, -1)
        tiles.append(torch.cat((centres, wh), dim=-1).reshape(-1, 4))
    return torch.cat(tiles).float()
