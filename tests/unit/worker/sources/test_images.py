"""Real images in streams of bytes that surround them with all kinds of things."""

import io

import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image as Picture

from worker.sources.images import ImageSplitter
from worker.sources.limits import Limits, OverLimit

LIMITS = Limits()


def coded(kind, number, **options):
    """A picture of 32x24 pixels with some texture."""
    content = io.BytesIO()
    noise = bytes((x * number * 7919 >> 3) % 256 for x in range(32 * 24 * 3))
    Picture.frombytes("RGB", (32, 24), noise).save(content, kind, **options)
    return content.getvalue()


JPEGS = [coded("JPEG", number) for number in range(1, 4)]
PNGS = [coded("PNG", number) for number in range(1, 4)]


def split(content, piece_bytes=None, limits=LIMITS):
    splitter = ImageSplitter(limits)
    piece_bytes = piece_bytes or max(len(content), 1)
    found = []
    for start in range(0, len(content), piece_bytes):
        found += splitter.feed(content[start : start + piece_bytes])
    return [image.content for image in found]


def multipart(jpegs, header=b"--b\r\nContent-Type: image/jpg\r\n\r\n", tail=b"\r\n"):
    return b"".join(header + jpeg + tail for jpeg in jpegs)


@pytest.mark.parametrize("piece_bytes", [1, 2, 7, 100, 1 << 20])
@pytest.mark.parametrize("images", [JPEGS, PNGS, [JPEGS[0], PNGS[0], JPEGS[1]]])
def test_images_are_found_whatever_the_size_of_the_pieces(images, piece_bytes):
    assert split(multipart(images), piece_bytes) == images
    assert split(b"".join(images), piece_bytes) == images
    assert split(b"Welcome\r\n" + multipart(images), piece_bytes) == images


def test_an_image_is_complete_with_its_last_byte():
    splitter = ImageSplitter(LIMITS)
    assert splitter.feed(b"--b\r\n\r\n" + JPEGS[0][:-1]) == []
    assert [image.content for image in splitter.feed(JPEGS[0][-1:])] == [JPEGS[0]]


@pytest.mark.parametrize(
    "options",
    [
        {"progressive": True},
        {"restart_marker_blocks": 1},
        {"comment": b"\xff\xd8\xff\xe0 and \xff\xd9"},
        {"exif": b"Exif\0\0" + JPEGS[2]},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_inside_of_an_image_does_not_end_it(options):
    images = [coded("JPEG", number, **options) for number in (1, 2)]
    for piece_bytes in (1, 1 << 20):
        assert split(multipart(images), piece_bytes) == images


def test_fill_bytes_before_a_marker_belong_to_the_image():
    filled = JPEGS[0].replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1)
    assert split(multipart([filled, JPEGS[1]])) == [filled, JPEGS[1]]


def test_an_image_without_an_end_marker_ends_at_the_next_one():
    first, second, third = split(multipart([JPEGS[0][:-2], JPEGS[1], JPEGS[2]]))
    assert first.startswith(JPEGS[0][:-2])
    assert [second, third] == JPEGS[1:]


def test_an_image_that_is_cut_off_in_its_header_is_left_out():
    assert split(multipart([JPEGS[0][:100], JPEGS[1], JPEGS[2]]))[-1] == JPEGS[2]
    assert split(multipart([PNGS[0][:20], PNGS[1], PNGS[2]]))[-1] == PNGS[2]


def test_a_start_that_another_start_follows_is_no_image():
    assert split(b"\xff\xd8\xff\xe0\0\4ab" + JPEGS[0]) == [JPEGS[0]]


def test_an_image_says_of_which_kind_it_is():
    found = ImageSplitter(LIMITS).feed(JPEGS[0] + PNGS[0])
    assert [image.kind for image in found] == ["jpeg", "png"]


def test_a_start_and_an_end_without_a_scan_are_no_image():
    assert split(b"\xff\xd8\xff\xd9" + JPEGS[0]) == [JPEGS[0]]


def test_the_bytes_before_an_image_are_counted():
    splitter = ImageSplitter(LIMITS)
    splitter.feed(b"x" * 100)
    assert splitter.bytes_before == pytest.approx(100, abs=8)
    assert len(splitter.feed(JPEGS[0] * 2)) == 2
    assert splitter.bytes_before == 0


def test_the_bytes_before_an_image_are_counted_to_the_byte():
    splitter = ImageSplitter(LIMITS)
    splitter.feed(b"x" * 100)
    assert splitter.bytes_before == 100 - 7  # the last may be those of a start
    splitter.feed(JPEGS[0][:50])
    assert splitter.bytes_before == 100
    splitter.feed(JPEGS[0][50:])
    assert splitter.bytes_before == 0
    splitter.feed(b"xx\xff\xd8\xff\xd9")  # no scan: no image
    assert splitter.bytes_before == 2 + 4


@pytest.mark.parametrize("start", [b"", b"\xff\xd8\xff\xe0\xff\xff", b"xx\xff\xd8\xff\xe0\xff\xff"])
def test_the_limit_is_met_to_the_byte(start):
    splitter = ImageSplitter(Limits(max_bytes_without_frame=1000))
    assert splitter.feed(start.ljust(1000, b"x")) == []
    with pytest.raises(OverLimit, match="more than 1000 bytes without a frame"):
        splitter.feed(b"x")


def test_a_segment_of_any_length_is_passed_over():
    comment = b"\xff\xfe\x01\x02" + b"\xff\xd9" * 128
    image = JPEGS[0][:2] + comment + JPEGS[0][2:]
    assert split(multipart([image, JPEGS[1]])) == [image, JPEGS[1]]


def test_a_segment_between_the_last_scan_and_the_end_belongs_to_the_image():
    image = JPEGS[0][:-2] + b"\xff\xfe\0\4ab" + JPEGS[0][-2:]
    assert split(multipart([image, JPEGS[1]])) == [image, JPEGS[1]]


def test_no_marker_begins_in_a_segment_and_ends_after_it():
    image = b"\xff\xd8\xff\xda\0\3\xff" + b"\xd9coded" + b"\xff\xd9"
    assert split(multipart([image, JPEGS[1]])) == [image, JPEGS[1]]


@pytest.mark.parametrize("name", [b"\1\2\3\4", b"\1abc", b"abc\1"])
def test_a_png_whose_chunks_have_no_names_is_left_out(name):
    broken = PNGS[0][:8] + b"\0\0\0\4" + name + bytes(8)
    splitter = ImageSplitter(LIMITS)
    assert [image.content for image in splitter.feed(broken + PNGS[1])] == [PNGS[1]]
    splitter = ImageSplitter(LIMITS)
    assert splitter.feed(broken) == []
    assert splitter.bytes_before == len(broken) - 7


@pytest.mark.parametrize("endless", [b"x", b"\xff\xd8\xff\xe0\x00\x10", b"\x89PNG\r\n\x1a\n\xff"])
def test_endless_bytes_without_an_image_are_over_the_limit(endless):
    with pytest.raises(OverLimit, match="--max-bytes-without-frame"):
        split(endless.ljust(1100, b"x"), 1, Limits(max_bytes_without_frame=1000))


def test_images_in_a_row_are_not_over_the_limit():
    size = max(map(len, JPEGS))
    assert len(split(multipart(JPEGS * 10), 64, Limits(max_bytes_without_frame=size + 200))) == 30


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.binary(max_size=60) | st.sampled_from([*JPEGS, *PNGS, b"\xff\xd8"]), max_size=6),
    st.integers(1, 2000),
)
def test_any_bytes_give_the_same_images_in_pieces_as_in_one(parts, piece_bytes):
    content = b"".join(parts)
    assert split(content, piece_bytes) == split(content)
