"""Boxes and their names, drawn into pictures: what the pages of training and evaluation share.

Takes Pillow's drawings; knows neither data sets nor detectors.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeAlias

from PIL import ImageDraw, ImageFont

Colour: TypeAlias = str | tuple[int, int, int]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

LABELLED, DETECTED, IGNORED = (0, 158, 115), (213, 94, 0), (150, 150, 150)
"""Green, vermilion and grey: told apart also by those who see few colours (Okabe and Ito 2008)."""


@lru_cache(maxsize=8)
def draw_font(size: int) -> Font:
    """Matplotlib's own font if that is installed, since it has more letters than Pillow's."""
    matplotlib = find_spec("matplotlib")
    if matplotlib is None or matplotlib.origin is None:
        return ImageFont.load_default(size)
    fonts = Path(matplotlib.origin).parent / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), size)


def draw_box(
    draw: ImageDraw.ImageDraw,
    box_xyxy: tuple[float, float, float, float],
    colour: Colour,
    width: int = 1,
) -> None:
    """The outline of a box in pixels. It lies within the box: its pixels belong to the object."""
    x1, y1, x2, y2 = box_xyxy
    draw.rectangle((x1, y1, max(x2 - 1, x1), max(y2 - 1, y1)), outline=colour, width=width)


def draw_name(
    draw: ImageDraw.ImageDraw,
    at: tuple[float, float],
    name: str,
    colour: Colour,
    font: Font,
    ink: Colour = "white",
) -> None:
    """The name on a ground of the box's colour; ``at``: its upper left corner."""
    draw.rectangle(draw.textbbox(at, name, font), fill=colour)
    draw.text(at, name, ink, font)
