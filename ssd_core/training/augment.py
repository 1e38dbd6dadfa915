"""The paper's augmentation (section 2.2, "data augmentation"; section 3.6, zoom out), or less.

Takes an image and the boxes in it; gives the network's input and the boxes in fractions of it.
What is to be done is drawn first, and the pixels are touched once: what is left of the image is
scaled as the detector scales, its colours distorted by torchvision, and laid on the mean.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2
from torchvision.tv_tensors import BoundingBoxes, BoundingBoxFormat

from ssd_core.models.zoo import ModelSpec
from ssd_core.preprocess import as_tensor, preprocess
from ssd_core.training.matching import pairwise_iou

Pixels = npt.NDArray[np.uint8]
"""(H, W, 3) RGB."""

SMALLEST_PX = 4.0
"""Zooming out ends where an object would become smaller than that in the network's input. Of 9,000
objects of 6 to 150 px in 1,500 images, 30 % were below 16 px before and 29 % after; without an end
36 %, with 6 % below 4 px; with an end at 8 px 23 %, for most images were not zoomed out at all."""
SMALLEST_CROPPED_PX = 10
"""Of an image's sides: a crop of 0.3 of less might have no pixel."""
PROBABILITY = 0.5
"""Of zooming out, of the flip, and of each distortion of colours."""
CROP_IOUS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)
"""What a patch overlaps an object by at least: one of these, or the whole image is taken."""
CROP_RATIOS = (0.5, 2.0)
"""Width of a patch by its height (authors' code)."""
CROP_TRIALS = 40
"""Patches per overlap (torchvision's; 50 in the authors' code)."""
MOST_OPTIONS_TRIED = 50
"""Of very long images no patch has an allowed shape; the whole comes up by then (0.9996)."""
STAND_IN = 0.25
"""Sides of what stands for an object in an image without, by those of the image."""


@dataclass(frozen=True)
class Augmentation:
    """What may be done to an image."""

    largest_zoom: float
    """Side of the canvas by that of the image that lies on it; 1: no zooming out."""
    smallest_crop: float
    """Sides of a patch by those of the image, at least."""
    colours: bool = True
    """Whether colours are distorted."""
    flip: bool = True
    """Whether every other image is mirrored, left to right."""


PAPER = Augmentation(largest_zoom=4.0, smallest_crop=0.3)
"""16 times the area, as in the paper; patches as in the authors' code."""
LIGHT = Augmentation(largest_zoom=2.0, smallest_crop=0.6)
"""Objects keep more of their size."""


@dataclass(frozen=True)
class Region:
    """A rectangle in the plane of an image, in its pixels; it may reach outside the image."""

    left: int
    top: int
    width: int
    height: int

    def part(self, left: int, top: int, width: int, height: int) -> "Region":
        """A part of it; ``left`` and ``top`` are counted from its own corner."""
        return Region(self.left + left, self.top + top, width, height)


def network_input(image: Pixels, boxes: Tensor, spec: ModelSpec) -> tuple[Tensor, Tensor]:
    """(3, S, S) fp32 input exactly like the detector's, and the boxes (N, 4) xyxy in [0, 1]."""
    x = preprocess([image], spec, torch.device("cpu"), torch.float32)[0]
    height, width = image.shape[:2]
    return x, boxes.float() / torch.tensor([width, height, width, height])


def augmented_input(
    image: Pixels,
    boxes: Tensor,
    classes: Tensor,
    spec: ModelSpec,
    seed: int,
    augmentation: Augmentation = PAPER,
) -> tuple[Tensor, Tensor, Tensor]:
    """(3, S, S) fp32 input, boxes (M, 4) xyxy in [0, 1] and classes (M,) of what is still in it.

    ``boxes`` (N, 4) xyxy in pixels. An object stays if its centre does. All chance comes from
    ``seed``; PyTorch's own generator is left as it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        region = _zoomed_out(image, boxes, spec, augmentation.largest_zoom)
        stays = torch.ones(len(boxes), dtype=torch.bool)
        if min(image.shape[:2]) >= SMALLEST_CROPPED_PX:
            shown = boxes if len(boxes) else _somewhere(image)
            region, inside = _cropped(region, shown, augmentation.smallest_crop)
            stays &= inside[: len(boxes)]
        colours = augmentation.colours
        x, boxes = _cut_out(image, boxes[stays].float(), region, spec, distort=colours)
        if augmentation.flip and torch.rand(()) < PROBABILITY:
            x = x.flip(-1)
            boxes = torch.stack((1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]), 1)
    has_size = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return x, boxes[has_size], classes[stays][has_size]


def _zoomed_out(image: Pixels, boxes: Tensor, spec: ModelSpec, largest: float) -> Region:
    """The whole image, or a canvas with the image somewhere on it."""
    height, width = image.shape[:2]
    region = Region(0, 0, width, height)
    if len(boxes):
        scale = spec.image_size[0] / height * spec.image_size[1] / width
        smallest = ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) * scale).min().sqrt()
        largest = min(largest, float(smallest) / SMALLEST_PX)
    if torch.rand(()) >= PROBABILITY or largest <= 1:
        return region
    zoom = v2.RandomZoomOut(side_range=(1.0, largest))
    left, top, right, bottom = zoom.make_params([_as_torchvision(boxes, region)])["padding"]
    return region.part(-left, -top, width + left + right, height + top + bottom)


def _cropped(region: Region, boxes: Tensor, smallest: float) -> tuple[Region, Tensor]:
    """The region or a part of it, and (N,) which objects have their centre in it.

    ``smallest``: sides of the part by those of the region, at least.

    The rule of torchvision's RandomIoUCrop, whose trials take 10 ms an image one by one: of an
    option's at once, the first that is good is taken, else another option is drawn.
    """
    for _ in range(MOST_OPTIONS_TRIED):
        option = int(torch.randint(len(CROP_IOUS) + 1, ()))
        if option == len(CROP_IOUS):
            break
        whole = torch.tensor([region.width, region.height])
        sizes = (whole * (smallest + (1 - smallest) * torch.rand(CROP_TRIALS, 2))).int()
        starts = ((whole - sizes) * torch.rand(CROP_TRIALS, 2)).int()
        corner = starts + torch.tensor([region.left, region.top])
        crops = torch.cat((corner, corner + sizes), 1).float()
        ratios = sizes[:, 0] / sizes[:, 1]
        is_good = (ratios >= CROP_RATIOS[0]) & (ratios <= CROP_RATIOS[1])
        is_inside = _has_centre(crops, boxes)
        iou = pairwise_iou(crops[None], boxes)[0].masked_fill(~is_inside, -1)
        is_good &= iou.amax(1) >= CROP_IOUS[option]
        if is_good.any():
            chosen = int(is_good.int().argmax())
            (left, top), (width, height) = starts[chosen].tolist(), sizes[chosen].tolist()
            return region.part(left, top, width, height), is_inside[chosen]
    return region, torch.ones(len(boxes), dtype=torch.bool)


def _has_centre(crops: Tensor, boxes: Tensor) -> Tensor:
    """(C, N) whether the centre of a box (N, 4) is inside a crop (C, 4)."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((crops[:, None, :2] < centres) & (centres < crops[:, None, 2:])).all(2)


def _somewhere(image: Pixels) -> Tensor:
    """(1, 4) a box in an image without objects, in place of one: crops are to show some of it."""
    height, width = image.shape[:2]
    x, y = (torch.rand(2) * torch.tensor([width, height]) * (1 - STAND_IN)).tolist()
    return torch.tensor([[x, y, x + width * STAND_IN, y + height * STAND_IN]])


def _as_torchvision(boxes: Tensor, region: Region) -> BoundingBoxes:
    moved = boxes - torch.tensor([region.left, region.top] * 2)
    return BoundingBoxes(
        moved, format=BoundingBoxFormat.XYXY, canvas_size=(region.height, region.width)
    )


def _cut_out(
    image: Pixels, boxes: Tensor, region: Region, spec: ModelSpec, *, distort: bool
) -> tuple[Tensor, Tensor]:
    """The region as network input, and the boxes in it, clipped, in [0, 1].

    The image's part begins and ends at whole pixels of the input, and the boxes move with it.
    """
    left, right, x0, x1 = _span(region.left, region.width, image.shape[1], spec.image_size[1])
    top, bottom, y0, y1 = _span(region.top, region.height, image.shape[0], spec.image_size[0])
    pixels = as_tensor(image)[top:bottom, left:right].permute(2, 0, 1)[None].float()
    if pixels.shape[2:] != (y1 - y0, x1 - x0):
        size = (y1 - y0, x1 - x0)
        pixels = F.interpolate(
            pixels, size, mode="bilinear", align_corners=False, antialias=spec.antialias
        )
    pixels = pixels[0]
    if distort:
        pixels = _distorted(pixels / 255) * 255
    mean, std = (torch.tensor(each)[:, None, None] for each in (spec.mean, spec.std))
    x = torch.zeros(3, *spec.image_size)
    x[:, y0:y1, x0:x1] = (pixels - mean) / std
    corner = torch.tensor([left, top] * 2)
    scale = torch.tensor([(x1 - x0) / (right - left), (y1 - y0) / (bottom - top)] * 2)
    moved = (boxes - corner) * scale + torch.tensor([x0, y0] * 2)
    height, width = spec.image_size
    inside = moved / torch.tensor([width, height] * 2)
    return x, inside.clamp(0, 1)


def _span(start: int, length: int, image: int, size: int) -> tuple[int, int, int, int]:
    """Along one axis: from where to where the image is used, and where that lies in the input."""
    begin, end = max(start, 0), min(start + length, image)
    first = min(round((begin - start) * size / length), size - 1)
    last = max(round((end - start) * size / length), first + 1)
    return begin, end, first, last


def _distorted(pixels: Tensor) -> Tensor:
    """(3, H, W) in [0, 1] with other brightness, contrast, saturation and hue.

    torchvision's ranges are the paper's; but it also exchanges the channels of every other image,
    which the authors' code does not: red things would become blue.
    """
    distortion = v2.RandomPhotometricDistort(p=PROBABILITY)
    drawn = distortion.make_params([pixels]) | {"channel_permutation": None}
    distorted: Tensor = distortion.transform(pixels, drawn)
    return distorted
