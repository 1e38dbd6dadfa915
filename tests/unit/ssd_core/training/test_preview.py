"""The page of samples shows what the network sees, with boxes on the objects."""

import numpy as np
import pytest
from PIL import Image

from ssd_core.errors import TrainingError
from ssd_core.models.zoo import get_spec
from ssd_core.training.augment import LIGHT
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.preview import COLUMNS, GAP_PX, ROWS, write_preview
from tests.labelled import coco

SPEC = get_spec(None)
HEIGHT, WIDTH = SPEC.image_size


@pytest.fixture
def data_set(tmp_path):
    path, _ = coco(
        tmp_path, {"a.png": (120, 160, [("red", 30, 30, 110, 90)]), "b.png": (90, 90, [])}
    )
    return read_data_set([path])


def test_a_page_of_few_images_is_full(data_set, tmp_path):
    write_preview(data_set, SPEC, tmp_path / "page.png", seed=1)
    page = np.asarray(Image.open(tmp_path / "page.png"))
    assert page.shape == (ROWS * (HEIGHT + GAP_PX) - GAP_PX, COLUMNS * (WIDTH + GAP_PX) - GAP_PX, 3)
    reds = 0
    for number in range(ROWS * COLUMNS):
        y, x = number // COLUMNS * (HEIGHT + GAP_PX), number % COLUMNS * (WIDTH + GAP_PX)
        tile = page[y : y + HEIGHT, x : x + WIDTH].astype(int)
        reds += ((tile[..., 0] - tile[..., 1:].max(-1)) > 60).sum() > 50
    assert reds == ROWS * COLUMNS // 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "a.png", "b.png", "data.json", "page.png",
    ]  # fmt: skip


def test_a_page_shows_the_augmentation_that_is_wanted(data_set, tmp_path):
    def tiles(augment):
        write_preview(data_set, SPEC, tmp_path / "page.png", augment=augment)
        page = np.asarray(Image.open(tmp_path / "page.png"))
        corners = [
            (number // COLUMNS * (HEIGHT + GAP_PX), number % COLUMNS * (WIDTH + GAP_PX))
            for number in range(ROWS * COLUMNS)
        ]
        return {page[y : y + HEIGHT, x : x + WIDTH].tobytes() for y, x in corners}

    assert len(tiles(None)) == len(data_set.images)
    assert len(tiles(LIGHT)) > ROWS * COLUMNS // 2


def test_a_page_that_cannot_be_written_is_told_in_one_line(data_set, tmp_path):
    target = tmp_path / "no such folder" / "page.png"
    with pytest.raises(TrainingError, match=r"cannot write .*page\.png \(No such file or dir"):
        write_preview(data_set, SPEC, target)
