"""Boxes, names and their font."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from ssd_core import drawing
from ssd_core.drawing import LABELLED, draw_box, draw_font, draw_name


@pytest.fixture
def page():
    return Image.new("RGB", (40, 30))


def extent(page):
    rows, columns = np.nonzero((np.asarray(page) == LABELLED).all(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_an_outline_lies_within_its_box(page):
    draw_box(ImageDraw.Draw(page), (5, 7, 20, 16), LABELLED, 2)
    assert extent(page) == (5, 7, 20, 16)


def test_a_name_stands_on_the_colour_of_its_box(page):
    draw_name(ImageDraw.Draw(page), (5, 7), "Cat", LABELLED, draw_font(12))
    left, top, right, bottom = extent(page)
    assert left >= 5
    assert top >= 7
    assert np.asarray(page)[top:bottom, left:right].min(axis=(0, 1)).tolist() == list(LABELLED)
    assert (np.asarray(page)[top:bottom, left:right] == 255).all(axis=2).any()


def test_names_are_drawn_in_letters_that_pillows_own_font_lacks(monkeypatch):
    pytest.importorskip("matplotlib")
    boxes = [draw_font(12).getmask(text).getbbox() for text in ("Ж", "Щ")]
    assert boxes[0] != boxes[1]
    draw_font.cache_clear()
    monkeypatch.setattr(drawing, "find_spec", lambda name: None)
    assert draw_font(12).getname() == ImageFont.load_default(12).getname()
    draw_font.cache_clear()
