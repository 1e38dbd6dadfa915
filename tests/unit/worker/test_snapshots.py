import subprocess
import sys

import pytest
from hypothesis import given, strategies as st
from PIL import Image

from tests.snapshots import info_of, jpeg_with
from worker.snapshots import read_snapshot

INFO = info_of("gate", 26051, epoch=1795391742279)
JPEG = jpeg_with(INFO.to_json())


def test_a_snapshot_says_what_it_shows_and_is_a_jpeg_as_it_stands():
    assert INFO.to_json() == (
        '{"camera_id":"gate","epoch":1795391742279,"frame_index":26051,'
        '"time":"2026-01-01T12:00:00.123456Z","blurred":false}'
    )
    info, jpeg = read_snapshot(JPEG)
    assert info == INFO
    assert jpeg == JPEG


def test_what_others_wrote_into_a_picture_is_passed_over():
    exif = Image.Exif()
    exif[0x010E] = "a description"
    assert read_snapshot(jpeg_with(INFO.to_json(), exif=exif))[0] == INFO
    other = jpeg_with("made by another tool")
    comment = other[other.index(b"\xff\xfe") :].partition(b"\xff\xdb")[0]
    after_soi = JPEG[:2] + comment + b"\xff\xff\xff\x01" + JPEG[2:]  # and fill, and a TEM
    assert read_snapshot(after_soi)[0] == INFO


def test_a_field_that_is_added_later_does_no_harm():
    later = INFO.to_json()[:-1] + ',"zoom":2}'
    assert read_snapshot(jpeg_with(later))[0] == INFO


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff",
        b"\xff\xd8",
        b"\xff\xd8\xff\xfe",
        b"\xff\xd8\xff\xfe\x00\x00\xff\xfe\x00\x01",
        b"not a JPEG",
        jpeg_with(),
        jpeg_with("{}"),
        jpeg_with(INFO.to_json().replace("26051", "-1")),
        jpeg_with(INFO.to_json().replace("26051", '"<script>"')),
        jpeg_with(INFO.to_json().replace("Z", "")),  # of which zone?
        jpeg_with(INFO.to_json()[:-1]),
        jpeg_with() + b"\xff\xfe\x00\x80" + INFO.to_json().encode(),  # after the picture
        b"\x89PNG" + JPEG,
    ],
)
def test_anything_else_is_refused(data):
    with pytest.raises(ValueError, match="not a snapshot"):
        read_snapshot(data)


@given(st.integers(0, len(JPEG)), st.binary(max_size=8), st.integers(0, 8))
def test_damaged_bytes_are_read_or_refused_and_never_anything_else(at, new, length):
    data = JPEG[:at] + new + JPEG[at + length :]
    try:
        info, jpeg = read_snapshot(data)
    except ValueError:
        return
    assert jpeg == data
    assert info.epoch >= 0


@given(st.binary(max_size=64))
def test_hostile_segments_come_to_an_end(data):
    with pytest.raises(ValueError, match="not a snapshot"):
        read_snapshot(b"\xff\xd8" + data)


def test_reading_imports_neither_video_nor_pictures_nor_redis():
    program = (
        "import sys, worker.snapshots;"
        "sys.exit(bool({'av', 'PIL', 'numpy', 'redis', 'torch'} & {*sys.modules}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
