import numpy as np
import pytest

from tests.clips import cut, pictures, set_rotation
from tests.conftest import WALKWAY
from worker.sources.conversion import PictureConverter, make_converter
from worker.sources.orientation import Orientation, orientation_of
from worker.sources.picture import seconds_of, time_base_of, upright_size
from worker.sources.planes import PlaneReader


@pytest.fixture(scope="module")
def picture():
    return next(pictures(WALKWAY, 1))


@pytest.fixture
def rotated(tmp_path):
    def rotated(degrees):
        path = cut(WALKWAY, tmp_path / f"{degrees}.mp4", frames=1, size=(120, 160))
        return next(pictures(set_rotation(path, degrees) if degrees else path, 1))

    return rotated


def test_a_picture_is_scaled_to_rgb_of_the_size_asked_for(picture):
    image = PictureConverter((30, 50)).convert(picture)
    assert (image.shape, image.dtype) == ((30, 50, 3), np.uint8)


def test_without_a_size_a_picture_keeps_its_own(picture):
    image = PictureConverter(None).convert(picture)
    assert image.shape == (576, 768, 3)
    expected = picture.to_ndarray(format="rgb24")
    assert abs(image.astype(int) - expected).mean() < 2  # chroma in full


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 3), (180, 2), (270, 1)])
def test_a_rotated_picture_is_turned_upright_whatever_its_size(rotated, degrees, turns):
    picture = rotated(degrees)
    plain = PictureConverter(None).convert(rotated(0))
    image = PictureConverter(None).convert(picture)
    assert orientation_of(picture) == Orientation(turns)
    assert np.array_equal(image, np.rot90(plain, turns))
    assert upright_size(picture) == image.shape[:2]
    assert PictureConverter((40, 60)).convert(picture).shape == (40, 60, 3)


def test_a_detector_that_takes_planes_gets_them(picture):
    assert isinstance(make_converter((300, 300), as_planes=True), PlaneReader)
    assert isinstance(make_converter((300, 300), as_planes=False), PictureConverter)


def test_the_time_of_a_picture_is_its_pts_in_its_time_base(picture):
    assert seconds_of(picture) == float(picture.pts * time_base_of(picture))
    picture = next(pictures(WALKWAY, 1))
    picture.pts = None
    assert seconds_of(picture) is None
