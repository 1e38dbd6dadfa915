"""A page of augmented samples as PNG, to see whether boxes lie where the objects are.

Takes a data set and a model's spec; shows what the network sees. Trains nothing.
"""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssd_core.drawing import draw_box, draw_font, draw_name
from ssd_core.models.zoo import ModelSpec
from ssd_core.training.augment import PAPER, Augmentation
from ssd_core.training.data import DataSet
from ssd_core.training.loader import Batch, batches_of
from ssd_core.training.run_folder import write_whole

ROWS, COLUMNS = 4, 6
GAP_PX = 4
TEXT_PX = 12
GOLDEN_ANGLE = 0.618
"""Of a circle of hues: neighbouring classes get colours far apart."""


def write_preview(
    data_set: DataSet,
    spec: ModelSpec,
    path: Path,
    seed: int = 0,
    augment: Augmentation | None = PAPER,
) -> None:
    """Write a page of augmented images with boxes and names of classes to ``path``, as PNG.

    Images are drawn by ``seed``; of few images, each comes several times. Raises DataError if an
    image cannot be decoded, TrainingError if it cannot write.
    """
    tiles: list[Image.Image] = []
    epoch = 0
    while len(tiles) < ROWS * COLUMNS:
        for batch in batches_of(data_set, spec, COLUMNS, seed=seed, epoch=epoch, augment=augment):
            tiles += _drawn(batch, data_set.labels, spec)
            if len(tiles) >= ROWS * COLUMNS:
                break
        epoch += 1
    height, width = (side + GAP_PX for side in spec.image_size)
    page = Image.new("RGB", (COLUMNS * width - GAP_PX, ROWS * height - GAP_PX), "white")
    for number, tile in enumerate(tiles[: ROWS * COLUMNS]):
        page.paste(tile, (number % COLUMNS * width, number // COLUMNS * height))
    write_whole(path, lambda file: page.save(file, "PNG"))


def _drawn(batch: Batch, labels: tuple[str, ...], spec: ModelSpec) -> list[Image.Image]:
    mean, std = np.array(spec.mean), np.array(spec.std)
    height, width = spec.image_size
    font = draw_font(TEXT_PX)
    drawn = []
    for x, boxes, classes in zip(batch.images, batch.boxes, batch.labels, strict=True):
        pixels = x.permute(1, 2, 0).numpy() * std + mean
        image = Image.fromarray(np.rint(pixels).clip(0, 255).astype(np.uint8))
        draw = ImageDraw.Draw(image)
        for box, number in zip(boxes.tolist(), classes.tolist(), strict=True):
            x1, y1, x2, y2 = (
                each * side for each, side in zip(box, (width, height) * 2, strict=True)
            )
            colour = _colour(number)
            draw_box(draw, (x1, y1, x2, y2), colour)
            # Above the box if there is room, else inside.
            at = (x1, y1 - TEXT_PX - 2 if y1 > TEXT_PX + 2 else y1)
            draw_name(draw, at, labels[number], colour, font, "black")
        drawn.append(image)
    return drawn


def _colour(number: int) -> str:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_ANGLE % 1, 0.7, 1.0)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"
