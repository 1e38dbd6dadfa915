from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker.sources.stills import is_still_picture, taken_at

TIME, OFFSET = "ExifIFD/DateTimeOriginal", "ExifIFD/OffsetTimeOriginal"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("x.jpg", "jpeg_pipe", True), ("x.PNG", "png_pipe", True),
        ("x.mjpeg", "jpeg_pipe", False), ("x.jpg", "mjpeg", False),
    ],
)  # fmt: skip
def test_a_still_picture_has_the_name_and_the_format_of_one(name, kind, expected):
    assert is_still_picture(Path(name), kind) is expected


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({TIME: "2026:01:01 10:30:00", OFFSET: "+02:00"}, datetime(2026, 1, 1, 8, 30, tzinfo=UTC)),
        ({TIME: " 2026:01:01 10:30:00 ", "0x9011": "-01:30 "},
         datetime(2026, 1, 1, 12, tzinfo=UTC)),
        ({OFFSET: "+02:00"}, None),
        ({TIME: "2026:01:01 10:30:00"}, None),
        ({TIME: "some day", OFFSET: "+02:00"}, None),
        ({TIME: "0001:01:01 00:00:00", OFFSET: "+02:00"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_picture_says_when_it_was_taken_only_with_its_time_zone(stated, expected):
    assert taken_at(SimpleNamespace(metadata=stated)) == expected
