"""Pictures appear as people see them, and boxes stay on what they were drawn around."""

import numpy as np
import pytest
from PIL import Image

from ssd_core.errors import DataError
from ssd_core.training.data_sets.image_files import open_image_file
from ssd_core.training.data_sets.reading import read_data_set
from tests.labelled import coco, painted, save, write

STORED = painted(40, 60, [("red", 5, 6, 25, 16)])
BOX = [5, 6, 25, 16]


def with_orientation(path, orientation, image=STORED):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(image, path, exif=exif)


def red_box(image):
    ys, xs = np.nonzero((image[..., 0] > 200) & (image[..., 1] < 90))
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def labelled(tmp_path, orientation, box, size):
    path, content = coco(tmp_path, {"a.png": (40, 60, [("red", *BOX)])})
    with_orientation(tmp_path / "a.png", orientation)
    x1, y1, x2, y2 = map(int, box)
    content["annotations"][0]["bbox"] = [x1, y1, x2 - x1, y2 - y1]
    del content["images"][0]["height"], content["images"][0]["width"]
    if size is not None:
        content["images"][0] |= {"height": size[0], "width": size[1]}
    return read_data_set([write(path, content)]).images[0]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("states_size", [False, True])
def test_boxes_refer_to_the_upright_picture(tmp_path, orientation, states_size):
    upright = open_image_file(with_orientation(tmp_path / "x.png", orientation))()
    size = upright.shape[:2] if states_size else None
    image = labelled(tmp_path, orientation, red_box(upright), size)
    assert image.boxes[0].tolist() == red_box(image.read())
    assert (image.height, image.width) == image.read().shape[:2]


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_boxes_of_a_picture_labelled_as_stored_turn_with_it(tmp_path, orientation):
    image = labelled(tmp_path, orientation, BOX, (40, 60))
    assert image.read().shape == (60, 40, 3)
    assert image.boxes[0].tolist() == red_box(image.read())


def test_pillow_agrees_about_what_is_upright(tmp_path):
    from PIL import ImageOps

    for orientation in range(1, 9):
        path = with_orientation(tmp_path / "x.png", orientation)
        with Image.open(path) as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(open_image_file(path)(), expected)


def test_a_photo_looks_as_the_worker_decodes_it(tmp_path):
    pytest.importorskip("av")
    from worker.sources.conversion import PictureConverter
    from worker.sources.decoding import DecodedPictures

    for orientation in (1, 3, 6, 8):
        path = with_orientation(tmp_path / "x.jpg", orientation)
        (decoded,) = DecodedPictures(path)
        shown = PictureConverter(None).convert(decoded.picture, decoded.orientation)
        difference = shown.astype(int) - open_image_file(path)()
        assert np.abs(difference).mean() < 3


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1"])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.fromarray(STORED).convert(mode).save(path)
    assert open_image_file(path)().shape == (40, 60, 3)


def test_sixteen_bits_keep_their_shades(tmp_path):
    grey = (np.arange(60, dtype=np.uint16) * 1000)[None].repeat(40, 0)
    Image.fromarray(grey).save(tmp_path / "x.png")
    image = open_image_file(tmp_path / "x.png")()
    assert image[0, :, 0].tolist() == [value * 1000 // 256 for value in range(60)]


def test_a_picture_that_ends_early_is_told_when_it_is_read(tmp_path):
    path = save(
        np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8), tmp_path / "x.jpg"
    )
    path.write_bytes(path.read_bytes()[:2000])
    file = open_image_file(path)
    with pytest.raises(DataError, match=r"x\.jpg: cannot be decoded \(image file is truncated"):
        file()


def test_a_picture_that_is_gone_or_another_is_told(tmp_path):
    file = open_image_file(save(STORED, tmp_path / "x.png"))
    save(painted(10, 10), tmp_path / "x.png")
    with pytest.raises(DataError, match="has changed since the data set was read"):
        file()
    (tmp_path / "x.png").unlink()
    with pytest.raises(DataError, match="No such file"):
        file()


def test_damaged_exif_data_mean_upright(tmp_path):
    path = save(STORED, tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff" + b"\xff" * 40)
    assert open_image_file(path).size == (40, 60)
