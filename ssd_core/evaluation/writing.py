"""What the pictures of an evaluation share: a font."""

from functools import lru_cache
from pathlib import Path

from PIL import ImageFont


@lru_cache(maxsize=8)
def draw_font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font, which has more letters than Pillow's."""
    import matplotlib

    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)
