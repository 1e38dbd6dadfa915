"""What containers state about their end, byte by byte, and how it compares with what was read."""

import struct
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest

from worker.sources.completeness import CUT_SECONDS, Completeness, is_cut, stated_length

MOV = "mov,mp4,m4a,3gp,3g2,mj2"
MILLISECONDS = Fraction(1, 1000)


@pytest.fixture
def cut(tmp_path):
    """Whether a file of these bytes ends where its format cannot."""

    def cut(kind, content):
        path = tmp_path / "x"
        path.write_bytes(content)
        return is_cut(path, kind)

    return cut


def riff(length, content=b""):
    return struct.pack("<4sI", b"RIFF", length) + content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (riff(100, bytes(100)), False),
        (riff(100, bytes(99)), False),  # its padding, perhaps
        (riff(100, bytes(98)), True),
        (riff(99, bytes(99)), False),
        (riff(99, bytes(98)), True),
        (riff(99, bytes(100)) + riff(50, bytes(50)), False),
        (riff(100, bytes(100)) + riff(50, bytes(40)), True),
        (riff(100, bytes(100)) + b"junk" * 20, False),
        (riff(100, bytes(100)) + b"RIFF\x50", False),
        (riff(0, bytes(50)), False),
        (riff(0x7FFFFFFF, bytes(50)), False),
        (riff(0xFFFFFFFF, bytes(50)), False),
        (riff(100, bytes(100)) + riff(0xFFFFFFFF, bytes(8)), False),
        (b"", False),
    ],
)
def test_an_avi_is_cut_if_a_chunk_goes_on_after_its_end(cut, content, expected):
    assert cut("avi", content) == expected


def box(name, length, content=b""):
    return struct.pack(">I4s", length, name) + content


FTYP = box(b"ftyp", 16, bytes(8))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FTYP + box(b"mdat", 30, bytes(22)), False),
        (FTYP + box(b"mdat", 30, bytes(21)), True),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 40) + bytes(24), False),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 40) + bytes(23), True),
        (FTYP + struct.pack(">I4sQ", 1, b"mdat", 40) + bytes(24) + box(b"moov", 20), True),
        (FTYP + struct.pack(">I4s", 1, b"mdat"), False),  # its length is cut off: it is unknown
        (FTYP + box(b"mdat", 0, bytes(50)), False),
        (FTYP + box(b"mdat", 7, bytes(50)), False),
        (FTYP + box(b"free", 8) + box(b"moov", 20, bytes(4)), True),
        (FTYP + box(b"junk", 90, bytes(8)), False),
        (FTYP + b"\0\0\1", False),
    ],
)
def test_an_mp4_is_cut_if_a_box_goes_on_after_its_end(cut, content, expected):
    assert cut(MOV, content) == expected
    assert not cut("matroska,webm", content)
    assert not cut("nut", content)


def segment(marker, content=b""):
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


THUMBNAIL = segment(0xE1, b"Exif\xff\xd8\xff\xda\0\2abc\xff\xd9")
SCAN = segment(0xDA, b"\1") + b"coded"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\xff\xd8" + THUMBNAIL + SCAN + b"\xff\xd9", False),
        (b"\xff\xd8" + THUMBNAIL + SCAN + b"\xff\xd9padding", False),
        (b"\xff\xd8" + THUMBNAIL + SCAN + b"\xff", True),
        (b"\xff\xd8" + THUMBNAIL, True),
        (b"\xff\xd8" + THUMBNAIL[:-5], True),
        (b"\xff\xd8" + THUMBNAIL + b"?" * 8, False),  # the decoder's word counts
        (b"\xff\xd8" + segment(0xE0, bytes(0x1FF)) + SCAN + b"\xff\xd9", False),
        (b"\xff\xd8" + segment(0xE0, bytes(0x1FF)) + SCAN, True),
        (b"\xff\xd8" + segment(0xDA)[:4], True),
        (b"\xff\xd8" + THUMBNAIL + b"\xff\xe1\0", False),
    ],
)
def test_a_jpeg_is_cut_if_no_end_follows_its_first_scan(cut, content, expected):
    assert cut("jpeg_pipe", content) == expected


def test_a_transport_stream_is_cut_within_a_packet(cut):
    packet = b"\x47" + bytes(187)
    assert not cut("mpegts", packet * 6)
    assert cut("mpegts", packet * 6 + packet[:1])
    assert not cut("mpegts", b"something else, which is as long as it likes" * 50)


def gif(flags=0, table=b""):
    """The header, and the colours of all pictures."""
    return b"GIF89a" + b"\1\0\1\0" + bytes([flags, 0, 0]) + table


def gif_image(flags=0, table=b""):
    return b"\x2c\0\0\0\0\1\0\1\0" + bytes([flags]) + table + b"\2\2ab\0"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gif() + gif_image() + b"\x3b", False),
        (gif() + gif_image(), True),
        (gif(0x81, b"\xff" * 12) + gif_image(0x80, b"\xff" * 6) + b"\x3b", False),
        (gif(0x81, b"\xff" * 12) + gif_image(0x80, b"\xff" * 6)[:-1], True),
        (gif(0x07) + gif_image(0x47) + b"\x3b", False),
        (gif() + b"\x21\xf9\4\0\0\0\0\0" + gif_image() + b"\x3b", False),
    ],
)
def test_a_gif_is_cut_if_its_blocks_go_on_after_its_end(cut, content, expected):
    assert cut("gif", content) == expected


PNG, IEND = b"\x89PNG\r\n\x1a\n", b"\0\0\0\0IEND....."[:12]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PNG + struct.pack(">I4s", 3, b"IDAT") + b"abc...." + IEND, False),
        (PNG + struct.pack(">I4s", 3, b"IDAT") + b"abc...." + IEND[:-1], True),
        (PNG + struct.pack(">I4s", 3, b"IDAT") + b"abc....", True),
        (PNG + struct.pack(">I4s", 3, b"IDAT") + b"abc", True),
        (PNG + struct.pack(">I4s", 3, b"\0\0\0\0"), False),
        (PNG + struct.pack(">I4s", 1000, b"\0\0\0\1") + IEND, False),
    ],
)
def test_a_png_is_cut_if_its_last_chunk_is_missing(cut, content, expected):
    assert cut("png_pipe", content) == expected


FLV = b"FLV\1\1\0\0\0\x09" + bytes(4)


def flv_tag(kind, length, content=b""):
    return bytes([kind]) + length.to_bytes(3, "big") + bytes(7) + content


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FLV + flv_tag(9, 5, bytes(5)) + bytes(4), False),
        (FLV + flv_tag(9, 5, bytes(5)), False),  # its size says nothing
        (FLV + flv_tag(9, 5, bytes(4)), True),
        (FLV + flv_tag(9, 0x10000, bytes(100)), True),
        (FLV + flv_tag(19, 1000, bytes(100)), False),  # the decoder's word counts
    ],
)
def test_an_flv_is_cut_if_a_tag_goes_on_after_its_end(cut, content, expected):
    assert cut("flv", content) == expected


def ivf(header_bytes, *frames):
    """Frames are their stated lengths and their contents."""
    header = (b"DKIF\0\0" + struct.pack("<H", header_bytes)).ljust(header_bytes, b"\0")
    return header + b"".join(struct.pack("<IQ", *frame[:1], 0) + frame[1] for frame in frames)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (ivf(32, (5, b"\xff" * 5), (3, b"\xff" * 3)), False),
        (ivf(32, (5, b"\xff" * 5), (3, b"\xff" * 2)), True),
        (ivf(0x120, (5, b"\xff" * 5), (300, b"\xff" * 300)), False),
        (ivf(32, (1 << 24, b"")), True),
    ],
)
def test_an_ivf_is_cut_if_a_frame_goes_on_after_its_end(cut, content, expected):
    assert cut("ivf", content) == expected


EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (EBML + b"\x80" + SEGMENT + b"\xe4" + bytes(100), False),
        (EBML + b"\x80" + SEGMENT + b"\xe4" + bytes(99), True),
        (EBML + b"\x82ab" + SEGMENT + b"\x41\0" + bytes(255), True),
        (EBML + b"\x80" + SEGMENT + b"\xff" + bytes(9), False),  # unknown
        (b"junk\x84abcd" + SEGMENT + b"\x90", False),
        (EBML + b"\x80" + b"junk\x90", False),
        (EBML + b"\x80" + SEGMENT, False),
        (EBML, False),
    ],
)
def test_a_matroska_file_is_cut_if_its_segment_goes_on_after_its_end(cut, content, expected):
    assert cut("matroska,webm", content) == expected


def container(name, duration=None, start=None):
    """An open file; times in seconds."""
    ticks = [None if each is None else round(each * av.time_base) for each in (duration, start)]
    return SimpleNamespace(
        format=SimpleNamespace(name=name), duration=ticks[0], start_time=ticks[1]
    )


def stream(duration=None, start=None):
    """In milliseconds."""
    return SimpleNamespace(duration=duration, start_time=start, time_base=MILLISECONDS)


def stated(path, *arguments):
    path.write_bytes(b"")
    return Completeness(path, *arguments, 0.04).stated_seconds


@pytest.mark.parametrize(
    ("file", "of_stream", "expected"),
    [
        (container(MOV, 10), stream(9000), 9),
        (container(MOV, 10), stream(9000, 500), 9.5),
        (container(MOV, 8), stream(9000), 8),  # an edit list
        (container(MOV, 8, 2), stream(12000), 10),
        (container(MOV, 10), stream(), 0),
        (container(MOV), stream(9000), 0),
        (container("avi", 10), stream(9000), 9),
        (container("flv", 10), stream(), 10),
        (container("mpegts", 10), stream(9000), 0),
        (container("matroska,webm", 10), stream(9000), 0),  # a guess
    ],
)
def test_the_end_that_a_container_states(tmp_path, file, of_stream, expected):
    assert stated(tmp_path / "x", file, of_stream) == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"\x15\x49\xa9\x66..\x44\x89\x84....", 10),
        (b"\x15\x49\xa9\x66..\x44\x89\x88........\x1f\x43\xb6\x75", 10),
        (b"\x15\x49\xa9\x66..\x1f\x43\xb6\x75\x44\x89\x84....", 0),
        (b"\x44\x89\x84....\x15\x49\xa9\x66....", 0),
    ],
)
def test_a_matroska_file_states_its_length_in_its_information(tmp_path, content, expected):
    (tmp_path / "x").write_bytes(b"head" + content)
    file = container("matroska,webm", 10)
    assert Completeness(tmp_path / "x", file, stream(), 0.04).stated_seconds == expected


def packet(pts, duration=None, time_base=MILLISECONDS):
    return SimpleNamespace(pts=pts, duration=duration, time_base=time_base)


def picture(pts, duration=None):
    return SimpleNamespace(pts=pts, duration=duration, time_base=MILLISECONDS)


@pytest.fixture
def of_ten_seconds(tmp_path):
    """A file of a kind, of which these pictures and packets were read: is its end missing?"""

    def of_ten_seconds(kind, pictures, packets=()):
        (tmp_path / "x").write_bytes(b"")
        whole = Completeness(tmp_path / "x", container(kind, 10), stream(10_000), 0.25)
        for each in packets:
            whole.packet(each)
        for each in pictures:
            whole.picture(each)
        return whole.end_is_missing

    return of_ten_seconds


LAST = round((10 - CUT_SECONDS) * 1000)


@pytest.mark.parametrize(
    ("pictures", "expected"),
    [
        ([picture(0), picture(LAST - 100, 100)], False),
        ([picture(0), picture(LAST - 101, 100)], True),
        ([picture(LAST - 250)], False),  # shown for the usual time
        ([picture(LAST - 251)], True),
        ([picture(9900, 100), picture(1000, 100)], False),  # out of order
        ([picture(None)], False),
        ([picture(0), picture(None, 10_000)], True),
        ([], False),
    ],
)
def test_an_end_is_missing_if_the_last_picture_is_over_long_before_it(
    of_ten_seconds, pictures, expected
):
    assert of_ten_seconds(MOV, pictures) == expected


def test_of_a_short_recording_half_a_second_may_be_missing(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    for kind, name in ((MOV, "picture"), ("flv", "packet")):
        for last, expected in ((400, False), (300, True)):
            whole = Completeness(tmp_path / "x", container(kind, 1), stream(1000), 0.04)
            whole.picture(picture(0, 100))
            getattr(whole, name)(picture(last, 100))
            assert whole.end_is_missing == expected


def test_of_a_long_recording_a_share_may_be_missing(tmp_path):
    (tmp_path / "x").write_bytes(b"")
    for last, expected in ((979_000, False), (978_000, True)):
        whole = Completeness(tmp_path / "x", container(MOV, 1000), stream(1_000_000), 0.04)
        whole.picture(picture(last, 1000))
        assert whole.end_is_missing == expected


@pytest.mark.parametrize(
    ("packets", "expected"),
    [
        ([packet(9000, 1000)], False),
        ([packet(9000, 1000), packet(100)], False),
        ([packet(8000, 1000)], True),
        ([packet(9900)], False),
        ([packet(10, None, Fraction(1))], False),
        ([packet(9, None, Fraction(1))], True),
        ([packet(None, 10_000), packet(9000, 1000, None)], True),
    ],
)
def test_where_one_length_is_stated_for_all_streams_sound_reaches_it_too(
    of_ten_seconds, packets, expected
):
    assert of_ten_seconds("flv", [picture(0)], packets) == expected
    assert not of_ten_seconds("flv", [picture(9900, 100)], packets)
    assert of_ten_seconds(MOV, [picture(0)], packets)


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (container(MOV), 0),
        (container(MOV, 10), 10),
        (container(MOV, 10, 3), 10),
        (container("matroska,webm", 10, 3), 7),
        (container("matroska,webm", 10, 10), 10),
        (container("matroska,webm", 10, 0), 10),
        (container("matroska,webm", 10, 0.5), 9.5),
        (container("matroska,webm", 10, -0.5), 10),
        (container("flv", 10, 3), 7),
    ],
)
def test_how_long_a_container_says_it_lasts(file, expected):
    assert stated_length(file) == expected
