"""A run as pictures: its curves, and what it detects beside what is labelled.

Epochs, or a detector and labelled images, in; PNG files out. matplotlib is imported when it is
needed: it comes with the extra ``train``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssd_core.detector import Detector
from ssd_core.drawing import DETECTED, LABELLED, Colour, Font, draw_box, draw_font, draw_name
from ssd_core.training.data import DataSet, LabelledImage
from ssd_core.training.loop import Epoch
from ssd_core.training.run_folder import write_whole

SAMPLES, PAIRS_PER_ROW = 8, 2
TILE_PX, GAP_PX, TEXT_PX = 320, 8, 14
Named = tuple[str, tuple[float, float, float, float]]
"""A caption, and a box as xyxy in [0, 1]."""


def write_curves(history: Sequence[Epoch], path: Path) -> None:
    """Write the losses and, where there is a validation, AP and AP50 over the epochs.

    Epoch 0 are the starting weights. Raises TrainingError if it cannot write.
    """
    from matplotlib.figure import Figure

    has_validation = any(epoch.numbers for epoch in history)
    figure = Figure(figsize=(9, 6 if has_validation else 4), layout="constrained")
    axes = figure.subplots(1 + has_validation, sharex=True, squeeze=False)[:, 0]
    numbers = [epoch.number for epoch in history]
    marker = "o" if len(history) <= 2 else None  # of one point there is no line
    for name, losses in (
        ("boxes", [epoch.regression_loss for epoch in history]),
        ("classes", [epoch.classification_loss for epoch in history]),
        ("sum", [epoch.loss for epoch in history]),
    ):
        axes[0].plot(numbers, _known(losses), label=name, marker=marker)
    axes[0].set(ylabel="training loss", ylim=(0, None))
    if has_validation:
        for name in ("AP50", "AP"):
            values = [epoch.numbers.get(name) for epoch in history]
            axes[1].plot(numbers, _known(values), label=name, marker=marker)
        best = max(history, key=lambda epoch: epoch.merit)
        axes[1].axvline(best.number, color="0.6", linestyle="--", label=f"best: {best.number}")
        axes[1].set(ylabel="of the validation set", ylim=(0, 1))
    for each in axes:
        each.grid(alpha=0.3)
        each.legend(frameon=False)
    axes[-1].set_xlabel("epoch")
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=110))


def _known(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


def write_samples(detector: Detector, data_set: DataSet, path: Path) -> None:
    """Write a page of images from all over the data set: labelled on the left, detected right.

    At the detector's threshold. Raises TrainingError if it cannot write, DataError for an image
    that cannot be read.
    """
    count = min(SAMPLES, len(data_set.images))
    places = np.linspace(0, len(data_set.images) - 1, count).round().astype(int)
    images = [data_set.images[place] for place in places]
    font = draw_font(TEXT_PX)
    rows = -(-count // PAIRS_PER_ROW)
    columns = min(count, PAIRS_PER_ROW) * 2
    tallest = max(min(image.height / image.width, 1) for image in images)
    across, down, top = TILE_PX + GAP_PX, round(TILE_PX * tallest) + GAP_PX, TEXT_PX + 2 * GAP_PX
    page = Image.new("RGB", (columns * across - GAP_PX, top + rows * down - GAP_PX), "white")
    title = (
        f"Left, green: labelled.  Right, orange: detected with a score above "
        f"{detector.score_threshold:g}."
    )
    ImageDraw.Draw(page).text((GAP_PX, GAP_PX), title, "black", font)
    for number, image in enumerate(images):
        pixels = image.read()
        x = number % PAIRS_PER_ROW * 2 * across
        y = top + number // PAIRS_PER_ROW * down
        for boxes, colour in (
            (_labelled(image, data_set.labels), LABELLED),
            (_detected(detector, pixels), DETECTED),
        ):
            page.paste(_tile(pixels, boxes, colour, font), (x, y))
            x += across
    write_whole(path, lambda file: page.save(file, "PNG"))


def _labelled(image: LabelledImage, labels: Sequence[str]) -> list[Named]:
    width, height = image.width, image.height
    return [
        (labels[number], (x1 / width, y1 / height, x2 / width, y2 / height))
        for (x1, y1, x2, y2), number in zip(image.boxes.tolist(), image.classes, strict=True)
    ]


def _detected(detector: Detector, pixels: np.ndarray) -> list[Named]:
    (found,) = detector.detect([pixels])
    return [
        (f"{name} {score:.2f}", (x1, y1, x2, y2))
        for name, score, (x1, y1, x2, y2) in zip(
            found.names, found.scores.tolist(), found.boxes_normalised.tolist(), strict=True
        )
    ]


def _tile(pixels: np.ndarray, boxes: Sequence[Named], colour: Colour, font: Font) -> Image.Image:
    """The image with boxes, scaled to fit into ``TILE_PX`` each way."""
    image = Image.fromarray(pixels)
    image.thumbnail((TILE_PX, TILE_PX))
    draw = ImageDraw.Draw(image)
    width, height = image.size
    for _, (x1, y1, x2, y2) in boxes:
        draw_box(draw, (x1 * width, y1 * height, x2 * width, y2 * height), colour, 2)
    for name, (left, top, _, _) in boxes:  # on top of all boxes
        x, y = left * width, top * height
        at = (x + 3, y - TEXT_PX - 3 if y > TEXT_PX + 3 else y + 2)
        draw_name(draw, at, name, colour, font)
    return image
