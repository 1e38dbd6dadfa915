"""A page of augmented samples as PNG, to see whether boxes lie where the objects are.

Takes a data set and a model's spec; shows what the network sees. Trains nothing.
"""

import colorsys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssd_core.errors import DataError
from ssd_core.models.zoo import ModelSpec
from ssd_core.training.augment import PAPER, Augmentation
from ssd_core.training.data import DataSet
from ssd_core.training.loader import Batch, batches_of
from ssd_core.whole_files import written_whole

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
    image cannot be decoded, or the page cannot be written.
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
    _write(page, path)


def _drawn(batch: Batch, labels: tuple[str, ...], spec: ModelSpec) -> list[Image.Image]:
    mean, std = np.array(spec.mean), np.array(spec.std)
    height, width = spec.image_size
    font = ImageFont.load_default(TEXT_PX)
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
            # The outline is drawn around what is inside: its pixels belong to the object.
            draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour)
            _name(draw, labels[number], x1, y1, colour, font)
        drawn.append(image)
    return drawn


def _name(
    draw: ImageDraw.ImageDraw,
    name: str,
    x: float,
    y: float,
    colour: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """Above the box if there is room, else inside."""
    at = (x, y - TEXT_PX - 2 if y > TEXT_PX + 2 else y)
    draw.rectangle(draw.textbbox(at, name, font=font), fill=colour)
    draw.text(at, name, fill="black", font=font)


def _colour(number: int) -> str:
    red, green, blue = colorsys.hsv_to_rgb(number * GOLDEN_ANGLE % 1, 0.7, 1.0)
    return f"#{int(red * 255):02x}{int(green * 255):02x}{int(blue * 255):02x}"


def _write(page: Image.Image, path: Path) -> None:
    try:
        with written_whole(path) as partial:
            page.save(partial, "PNG")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror or error}") from error
