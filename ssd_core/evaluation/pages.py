"""Pages of mistakes: the worst misses and false alarms as pictures, PNG.

A tile per mistake: the picture around it, the labelled boxes and the detections above the working
threshold. Reads images again; which mistakes there are is for ``mistakes`` to say.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ssd_core.drawing import (
    DETECTED,
    IGNORED,
    LABELLED,
    Colour,
    Font,
    draw_box,
    draw_font,
    draw_name,
)
from ssd_core.evaluation.mistakes import Mistake, false_alarms, misses
from ssd_core.evaluation.paired import Floats, Paired
from ssd_core.evaluation.results import Evaluation
from ssd_core.training.data import DataSet
from ssd_core.whole_files import written_whole

COLUMNS, MAX_ROWS = 4, 5
TILE_PX, CAPTION_PX, GAP_PX, TITLE_PX = 300, 54, 8, 44
MIN_CROP_PX = 100
CONTEXT = 2.5
"""The side of what is shown, in sides of the box."""
BACKGROUND, INK = (255, 255, 255), (30, 30, 30)


def write_mistakes(
    evaluation: Evaluation,
    data_set: DataSet,
    misses_path: Path,
    false_alarms_path: Path,
) -> None:
    """Write one page of misses and one of false alarms at the working threshold, the worst 20 each.

    Raises ValueError for an evaluation without such a threshold, DataError for an image that can no
    longer be read, OSError if it cannot write.
    """
    if evaluation.working is None:
        raise ValueError("an evaluation without a working threshold has no mistakes")
    score_threshold = evaluation.working.score_threshold
    for what, mistakes, path in (
        ("misses", misses(evaluation, score_threshold), misses_path),
        ("false alarms", false_alarms(evaluation, score_threshold), false_alarms_path),
    ):
        shown = mistakes[: COLUMNS * MAX_ROWS]
        count = "The worst " if len(shown) < len(mistakes) else ""
        title = (
            f"{count}{len(shown)} of {len(mistakes)} {what} at a score above {score_threshold:g} "
            "and IoU 0.5.  Green: labelled.  Orange: detected.  Grey: ignored.  Thick: the mistake."
        )
        page = _page(title, shown, evaluation, data_set, score_threshold)
        with written_whole(path) as partial:
            page.save(partial, "PNG")


def _page(
    title: str,
    mistakes: Sequence[Mistake],
    evaluation: Evaluation,
    data_set: DataSet,
    score_threshold: float,
) -> Image.Image:
    rows = -(-len(mistakes) // COLUMNS)
    width = COLUMNS * (TILE_PX + GAP_PX) + GAP_PX
    page = Image.new("RGB", (width, TITLE_PX + rows * (TILE_PX + CAPTION_PX + GAP_PX)), BACKGROUND)
    draw = ImageDraw.Draw(page)
    draw.text((GAP_PX, 13), title, INK, draw_font(15))
    small = draw_font(13)
    for position, mistake in enumerate(mistakes):
        row, column = divmod(position, COLUMNS)
        left = GAP_PX + column * (TILE_PX + GAP_PX)
        top = TITLE_PX + row * (TILE_PX + CAPTION_PX + GAP_PX)
        image = data_set.images[mistake.image]
        tile = _tile(image.read(), mistake, evaluation.paired, score_threshold)
        page.paste(tile, (left, top))
        lines = (f"{mistake.label}: {mistake.reason}", image.name)
        for line, text in enumerate(lines):
            y = top + TILE_PX + 3 + line * 18
            draw.text((left, y), _fitting(text, small, keep_end=line == 1), INK, small)
    return page


def _tile(
    pixels: np.ndarray, mistake: Mistake, paired: Paired, score_threshold: float
) -> Image.Image:
    """A square around the mistake; what lies outside the picture is grey."""
    x, y, w, h = mistake.box_xywh.tolist()
    side = max(CONTEXT * max(w, h), MIN_CROP_PX)
    height, width = pixels.shape[:2]
    side = min(side, max(height, width))
    # Inside the picture as far as it goes.
    left = _clamped(x + w / 2 - side / 2, width - side)
    top = _clamped(y + h / 2 - side / 2, height - side)
    scale = TILE_PX / side
    shown = Image.fromarray(pixels).transform(
        (TILE_PX, TILE_PX),
        Image.Transform.EXTENT,
        (left, top, left + side, top + side),
        Image.Resampling.BILINEAR,
        fillcolor=(128, 128, 128),
    )
    draw = ImageDraw.Draw(shown)
    image = paired.images[mistake.image]
    font = draw_font(12)

    def outline(box_xywh: Floats, colour: Colour, text: str) -> None:
        is_mistake = np.array_equal(box_xywh, mistake.box_xywh)
        x1, y1 = (box_xywh[:2] - (left, top)) * scale
        x2, y2 = (box_xywh[:2] + box_xywh[2:] - (left, top)) * scale
        if x2 <= 0 or y2 <= 0 or x1 >= TILE_PX or y1 >= TILE_PX:
            return
        draw_box(draw, (x1, y1, x2, y2), colour, 4 if is_mistake else 2)
        at = (float(np.clip(x1, 0, TILE_PX - 60)), float(np.clip(y1 - 15, 0, TILE_PX - 15)))
        draw_name(draw, at, text, colour, font)

    boxes: list[tuple[Floats, Colour, str]] = [
        (box, IGNORED if ignored else LABELLED, paired.labels[number])
        for box, number, ignored in zip(
            image.object_boxes_xywh, image.object_classes, image.object_is_ignored, strict=True
        )
    ]
    boxes += [
        (box, DETECTED, f"{paired.labels[number]} {score:.2f}")
        for box, number, score in zip(image.boxes_xywh, image.classes, image.scores, strict=True)
        if score > np.float32(score_threshold)
    ]
    # The mistake itself last, above the others.
    for box in sorted(boxes, key=lambda each: np.array_equal(each[0], mistake.box_xywh)):
        outline(*box)
    return shown


def _clamped(start: float, most: float) -> float:
    """From 0 to ``most``; in the middle where there is no room."""
    return min(max(start, 0.0), most) if most >= 0 else most / 2


def _fitting(text: str, font: Font, *, keep_end: bool) -> str:
    """The text, cut to the width of a tile."""
    if font.getlength(text) <= TILE_PX:
        return text
    while len(text) > 1 and font.getlength(f"…{text}") > TILE_PX:
        text = text[1:] if keep_end else text[:-1]
    return f"…{text}" if keep_end else f"{text}…"
