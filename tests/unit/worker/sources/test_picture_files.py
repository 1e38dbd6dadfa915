import pytest
from PIL import Image

from worker.sources.animated_webp import is_animated_webp
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
    ("x.webp", b"RIFX----WEBPVP8 "),
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


@pytest.mark.parametrize(
    ("start", "kind", "flags", "length", "expected"),
    [
        (b"RIFF", b"WEBPVP8X", 0x02, 30, True),
        (b"RIFF", b"WEBPVP8X", 0x3E, 40, True),
        (b"RIFF", b"WEBPVP8X", 0x3C, 30, False),
        (b"RIFX", b"WEBPVP8X", 0x02, 30, False),
        (b"RIFF", b"AVI LIST", 0x02, 30, False),
        (b"RIFF", b"WEBPVP8X", 0x02, 29, False),
    ],
)
def test_an_animated_webp_says_so_in_its_header(tmp_path, start, kind, flags, length, expected):
    header = start + bytes(4) + kind + bytes(4) + bytes([flags])
    (tmp_path / "x").write_bytes(header.ljust(length, b"\0"))
    assert is_animated_webp(tmp_path / "x") is expected
