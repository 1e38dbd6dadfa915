"""The pictures of an evaluation: what is drawn where."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from ssd_core.drawing import DETECTED, LABELLED
from ssd_core.errors import DataError
from ssd_core.evaluation import evaluate
from ssd_core.evaluation.curves import _envelope, write_curves
from ssd_core.evaluation.operating_points import Curve
from ssd_core.evaluation.pages import TILE_PX, TITLE_PX, write_mistakes
from tests.unit.ssd_core.evaluation.scenes import (
    SIDE,
    data_set,
    detected,
    labelled,
    random_scenes,
)


def checkerboard():
    """A red square on blue where the object is."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[..., 2] = 255
    pixels[100:200, 40:80] = (255, 0, 0)
    return pixels


def pages(tmp_path, image, found):
    labelled_images = data_set(image)
    evaluation = evaluate([found], labelled_images, score_threshold=0.4)
    paths = tmp_path / "misses.png", tmp_path / "false-alarms.png"
    write_mistakes(evaluation, labelled_images, *paths)
    assert {path.name for path in tmp_path.iterdir()} == {"misses.png", "false-alarms.png"}
    return [np.array(Image.open(path)) for path in paths]


def extent(page, colour):
    """(x1, y1, x2, y2) of a colour in the first tile of a page, in pixels of the tile."""
    tile = page[TITLE_PX : TITLE_PX + TILE_PX, 8 : 8 + TILE_PX]
    rows, columns = np.nonzero((tile == colour).all(axis=2))
    return columns.min(), rows.min(), columns.max(), rows.max()


def test_a_miss_is_framed_where_the_object_is_seen(tmp_path):
    image = replace(labelled([[40, 100, 80, 200]], [1]), read=checkerboard)
    misses, false_alarms = pages(tmp_path, image, detected([], [], []))
    scale = TILE_PX / 250  # 2.5 sides of 100 px
    left, top = 0, 25  # as far as the picture goes on the left, and around the middle
    expected = np.array([40 - left, 100 - top, 80 - left, 200 - top]) * scale
    x1, y1, x2, y2 = extent(misses, LABELLED)
    assert (x1, x2, y2) == pytest.approx((expected[0], expected[2], expected[3]), abs=4)
    assert y1 == pytest.approx(expected[1] - 15, abs=4)  # its name above it
    inside = misses[TITLE_PX + int(expected[1]) + 8, 8 + int(expected[0]) + 8]
    assert inside.tolist() == [255, 0, 0]
    assert not (false_alarms == DETECTED).all(axis=2).any()


def test_detections_below_the_threshold_are_not_drawn(tmp_path):
    image = replace(labelled([[40, 100, 80, 200]], [1]), read=checkerboard)
    misses, _ = pages(tmp_path, image, detected([[100, 100, 150, 200]], [0.39], ["cat"]))
    assert not (misses == DETECTED).all(axis=2).any()


def test_the_mistake_is_drawn_above_other_boxes(tmp_path):
    image = replace(labelled([[40, 100, 80, 200]], [1]), read=checkerboard)
    crossing = detected([[60, 80, 100, 150]], [0.9], ["dog"])  # at (60, 100)
    misses, false_alarms = pages(tmp_path, image, crossing)
    scale, top = TILE_PX / 250, 25
    x, y = 8 + round(60 * scale) + 1, TITLE_PX + round((100 - top) * scale) + 1
    assert tuple(misses[y, x]) == LABELLED
    assert (false_alarms == DETECTED).all(axis=2).any()


def test_a_false_alarm_is_framed_beside_the_object(tmp_path):
    image = replace(labelled([[40, 100, 80, 200]], [1]), read=checkerboard)
    found = detected([[40, 100, 80, 200], [140, 100, 180, 200]], [0.9, 0.8], ["cat", "cat"])
    misses, false_alarms = pages(tmp_path, image, found)
    scale, left = TILE_PX / 250, 160 - 125
    assert not (misses == LABELLED).all(axis=2).any()
    x1, _, x2, _ = extent(false_alarms, DETECTED)
    # Both detections are seen; the true one begins left of the false one.
    assert x1 == pytest.approx((40 - left) * scale, abs=3)
    assert x2 >= (180 - left) * scale - 3


def test_a_picture_smaller_than_a_tile_shows_all_of_it(tmp_path):
    small = replace(
        labelled([[2, 2, 9, 5]], [1]),
        read=lambda: np.full((8, 12, 3), 200, np.uint8), width=12, height=8,
    )  # fmt: skip
    misses, _ = pages(tmp_path, small, detected([], [], []))
    assert misses.shape[1] > TILE_PX
    assert (misses == 200).all(axis=2).sum() > TILE_PX * 100


def test_the_worst_twenty_are_shown(tmp_path):
    labelled_images, _ = random_scenes(0, images=60)
    evaluation = evaluate(
        [detected([], [], [])] * 60, labelled_images, metric="voc07", score_threshold=0.4
    )
    assert evaluation.objects > 50
    write_mistakes(evaluation, labelled_images, tmp_path / "m.png", tmp_path / "f.png")
    tile = TILE_PX + 54 + 8
    assert Image.open(tmp_path / "m.png").height == TITLE_PX + 5 * tile
    assert Image.open(tmp_path / "f.png").height == TITLE_PX


def test_an_image_that_is_gone_leaves_no_half_page(tmp_path):
    def gone():
        raise DataError("1.jpg: no such image")

    labelled_images = data_set(replace(labelled([[0, 0, 50, 50]], [1]), read=gone))
    evaluation = evaluate([detected([], [], [])], labelled_images, score_threshold=0.4)
    with pytest.raises(DataError, match="no such image"):
        write_mistakes(evaluation, labelled_images, tmp_path / "m.png", tmp_path / "f.png")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_need_a_working_threshold(tmp_path):
    labelled_images, detections = random_scenes(0, images=4)
    evaluation = evaluate(detections, labelled_images)
    with pytest.raises(ValueError, match="without a working threshold"):
        write_mistakes(evaluation, labelled_images, tmp_path / "m.png", tmp_path / "f.png")


def test_the_curve_has_the_best_precision_at_each_recall_or_above_and_ends_at_0():
    curve = Curve(np.array([0.9, 0.8, 0.7]), np.array([True, False, True]), 4)
    recall, precision = _envelope(curve)
    assert recall.tolist() == [0, 0.25, 0.25, 0.5, 0.5]
    assert precision.tolist() == pytest.approx([1, 1, 2 / 3, 2 / 3, 0])


@pytest.mark.parametrize("classes", [3, 14])
def test_curves_of_few_and_of_many_classes_are_one_picture(tmp_path, classes):
    labelled_images, detections = random_scenes(0, classes=classes)
    evaluation = evaluate(detections, labelled_images, score_threshold=0.4)
    write_curves(evaluation, tmp_path / "curves.png")
    pixels = np.array(Image.open(tmp_path / "curves.png").convert("RGB"))
    blue = (pixels == (31, 119, 180)).all(axis=2)  # matplotlib's first colour
    assert blue.any()
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
