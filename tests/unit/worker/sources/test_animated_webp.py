import pytest
from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile

from worker.errors import SourceError
from worker.sources.animated_webp import AnimatedWebp
from worker.sources.limits import Limits

HEIGHT, WIDTH = 16, 32


@pytest.fixture
def path(tmp_path):
    """Three pictures."""
    first, *rest = (Image.new("RGB", (WIDTH, HEIGHT), name) for name in ("red", "green", "blue"))
    first.save(tmp_path / "x.webp", save_all=True, append_images=rest, duration=[250, 0, 50])
    return tmp_path / "x.webp"


def test_a_picture_without_a_duration_stays_for_a_tenth_of_a_second(path):
    found = [each.picture for each in AnimatedWebp(path)]
    assert [(each.pts, each.duration) for each in found] == [(0, 250), (250, 100), (350, 50)]


def test_pictures_of_up_to_the_limits_are_read_and_larger_ones_refused(path):
    pixels, size = WIDTH * HEIGHT, path.stat().st_size
    for limits in (Limits(max_pixels=pixels), Limits(max_bytes_without_frame=size)):
        assert len(list(AnimatedWebp(path, limits))) == 3
    for limits, said in (
        (Limits(max_pixels=pixels - 1), rf"x\.webp: {WIDTH}x{HEIGHT} is over the limit"),
        (Limits(max_bytes_without_frame=size - 1), rf"x\.webp: {size} bytes are over the limit"),
    ):
        with pytest.raises(SourceError, match=said):
            list(AnimatedWebp(path, limits))


def test_the_size_that_a_header_states_has_three_bytes(path):
    content = bytearray(path.read_bytes())
    content[24:30] = bytes([0, 0, 1, 255, 255, 2])
    path.write_bytes(content)
    with pytest.raises(SourceError, match=f"{(1 << 16) + 1}x{3 << 16} is over the limit"):
        list(AnimatedWebp(path))


def test_what_is_no_webp_is_refused(path):
    path.write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r"x\.webp: is not a picture that can be decoded$"):
        list(AnimatedWebp(path))


def test_what_is_damaged_right_behind_its_header_is_cut_off(path):
    path.write_bytes(path.read_bytes()[:30] + b"noise" * 100)
    pictures = AnimatedWebp(path)
    assert list(pictures) == []
    assert pictures.cut_off
    assert str(pictures.no_picture()) == f"{path}: no frame in it can be decoded"


@pytest.mark.parametrize("kind", [OSError, EOFError, ValueError, SyntaxError])
def test_an_error_in_its_midst_cuts_it_off(path, monkeypatch, kind):
    seek = WebPImageFile.seek

    def fail(image, index):
        if index == 2:
            raise kind("damaged")
        seek(image, index)

    monkeypatch.setattr(WebPImageFile, "seek", fail)
    pictures = AnimatedWebp(path)
    assert len(list(pictures)) == 2
    assert pictures.cut_off
