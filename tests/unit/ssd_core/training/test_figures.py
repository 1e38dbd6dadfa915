"""A run as pictures."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssd_core.drawing import DETECTED, LABELLED
from ssd_core.errors import TrainingError
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.figures import TILE_PX, write_curves, write_samples
from ssd_core.training.loop import Epoch
from tests.lorries import write_data_set
from tests.params import mostly_long

EPOCH = Epoch(1, 1e-3, 2.0, 1.0, 10.0, 1.0)


def epochs(*aps):
    return [
        replace(EPOCH, number=number, numbers={} if ap is ... else {"AP": ap, "AP50": ap})
        for number, ap in enumerate(aps, 1)
    ]


def after_start(*aps):
    """The starting weights and the epochs after them."""
    numbers = {"AP": 0.3, "AP50": 0.5}
    return [Epoch(0, None, None, None, None, 1.0, numbers), *epochs(*aps)]


def count(page, colour):
    return (np.asarray(page.convert("RGB")) == colour).all(-1).sum()


@pytest.mark.parametrize(
    "history",
    mostly_long(
        after_start(0.2, None, 0.4), epochs(0.2, 0.4), epochs(...), epochs(..., ...), fast=1
    ),
)
def test_curves_are_drawn_of_any_run(history, tmp_path):
    path = tmp_path / "curves.png"
    write_curves(history, path)
    colours = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) > 10
    assert list(tmp_path.iterdir()) == [path]


def test_samples_show_what_is_labelled_on_the_left_and_what_is_detected_on_the_right(
    constant_detector, tmp_path
):
    data = read_data_set([write_data_set(tmp_path / "data", 3)])
    path = tmp_path / "samples.png"
    write_samples(constant_detector, data, path)
    page = Image.open(path)
    halves = [page.crop((x, 30, x + TILE_PX, page.height)) for x in (0, TILE_PX + 8)]
    assert count(halves[0], LABELLED) > 200
    assert count(halves[0], DETECTED) == 0
    assert count(halves[1], DETECTED) > 200
    assert count(halves[1], LABELLED) == 0


def test_pictures_that_cannot_be_written_are_one_line(constant_detector, tmp_path):
    data = read_data_set([write_data_set(tmp_path / "data", 1)])
    with pytest.raises(TrainingError, match=r"cannot write .*samples.png \(No such file"):
        write_samples(constant_detector, data, tmp_path / "missing" / "samples.png")
