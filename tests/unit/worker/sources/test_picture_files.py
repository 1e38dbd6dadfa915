import pytest
from PIL import Image

from worker.sources.picture_files import is_picture, kind_of_picture


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("x.jpg", "jpeg_pipe"), ("x.JPEG", "jpeg_pipe"), ("x.png", "png_pipe"),
        ("x.webp", "webp_pipe"), ("x.gif", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(8, 8), (2000, 1500)])
def test_a_picture_is_known_by_its_first_bytes(tmp_path, name, kind, size):
    Image.effect_noise(size, 90).convert("RGB").save(tmp_path / name)
    assert kind_of_picture(tmp_path / name) == kind


def test_a_png_that_moves_is_another_kind(tmp_path):
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.png", save_all=True, append_images=[second])
    assert kind_of_picture(tmp_path / "x.png") == "apng"


@pytest.mark.parametrize(("name", "content"), [
    ("x.jpg", b""), ("x.jpg", b"\x00\x00\x00\x20ftypisom"), ("x.webp", b"RIFF----AVI LIST"),
    ("x.mp4", b"\xff\xd8\xff"),
])  # fmt: skip
def test_what_is_something_else_is_left_to_ffmpeg(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert kind_of_picture(tmp_path / name) is None


@pytest.mark.parametrize(("name", "expected"), [
    ("a.jpg", True), ("a.JPG", True), ("a.b.webp", True), (".a.jpg", False), ("._a.png", False),
    ("jpg", False), ("a.jpg.txt", False), ("a.mp4", False),
])  # fmt: skip
def test_pictures_are_known_by_their_names(tmp_path, name, expected):
    assert is_picture(tmp_path / name) == expected
