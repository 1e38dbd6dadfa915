"""Frames by their index: where decoders start for them, which no image shows."""

from dataclasses import replace
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from worker.sources import indexed_frames
from worker.sources.decoding import DecodedPictures
from worker.sources.indexed_frames import IndexedFrames, _checksum
from worker.sources.recording import upright_images

FRAMES, KEY_FRAMES, RATE = 30, 7, 25
TICKS = 512
"""Of one frame, in an MP4 file of that rate."""
BEGINNING = "beginning"
ULTRAFAST = {"preset": "ultrafast", "g": str(KEY_FRAMES)}


def shaded(path, frames=FRAMES, codec="libx264", options=ULTRAFAST, pts=None, **container_options):
    """A video of plain pictures, each brighter than the one before; ``pts``: in frames."""
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=RATE, options=options)
        stream.width, stream.height = 48, 32
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for index in range(frames):
            shade = np.full((48, 48), 8 * index, np.uint8)
            picture = av.VideoFrame.from_ndarray(shade, stream.pix_fmt)
            picture.pts, picture.time_base = index, Fraction(1, RATE)
            for packet in stream.encode(picture):
                if pts is not None:
                    packet.pts = pts[index]
                container.mux(packet)
        container.mux(stream.encode(None))
    return path


def images_of(path):
    return [shown.image for shown in upright_images(path)]


@pytest.fixture
def video(tmp_path):
    """Key frames: 0, 7, 14, 21 and 28."""
    return shaded(tmp_path / "x.mp4")


@pytest.fixture
def starts(monkeypatch):
    """Where decoders start: at a pts or at the beginning, where the first pass starts as well."""
    found = []
    opened, since = indexed_frames.open_pictures, DecodedPictures.since

    def recorded_open(path, **options):
        found.append(BEGINNING)
        return opened(path, **options)

    def recorded_since(self, pts):
        found.append(pts)
        return since(self, pts)

    monkeypatch.setattr(indexed_frames, "open_pictures", recorded_open)
    monkeypatch.setattr(DecodedPictures, "since", recorded_since)
    return found


def read(path, frames, *indices):
    """Reads frames and compares them with those of a replay."""
    expected = images_of(path)
    for index in indices:
        assert np.array_equal(frames.read(index), expected[index]), index


def sought(*indices):
    return [index * TICKS for index in indices]


def test_a_decoder_starts_at_the_last_key_frame_and_goes_on_until_there_is_a_later_one(
    video, starts, caplog
):
    frames = IndexedFrames(video, FRAMES - 1)
    before = [frames.key_frame_before(index) for index in range(FRAMES)]
    assert before == [index // KEY_FRAMES * KEY_FRAMES for index in range(FRAMES)]
    starts.clear()
    read(video, frames, 24, 10, 17, 3)
    assert starts == [*sought(21, 7, 14), BEGINNING]
    read(video, frames, 6, 7, 9)
    assert len(starts) == 4, "the decoder was about to give them"
    read(video, frames, 24)
    assert starts[4:] == sought(21)
    assert not caplog.messages


def test_a_seek_that_ends_too_late_is_noticed_at_the_first_picture(
    video, starts, caplog, monkeypatch
):
    given = []
    since = DecodedPictures.since

    def late(self, pts):
        for decoded in since(self, pts + KEY_FRAMES * TICKS):
            given.append(decoded.picture.pts // TICKS)
            yield decoded

    frames = IndexedFrames(video, FRAMES - 1)
    monkeypatch.setattr(DecodedPictures, "since", late)
    starts.clear()
    read(video, frames, 10)
    assert starts == [*sought(14), BEGINNING]
    assert given == [14]
    read(video, frames, 24)
    assert given == [14, 21, 22, 23, 24]
    assert not caplog.messages


def test_pictures_after_the_last_frame_are_no_frames(video, starts, monkeypatch):
    since = DecodedPictures.since
    frames = IndexedFrames(video, 12)
    monkeypatch.setattr(DecodedPictures, "since", lambda self, pts: since(self, pts + 7 * TICKS))
    starts.clear()
    read(video, frames, 12)
    assert starts == [*sought(14), BEGINNING]


def test_a_start_two_key_frames_earlier_is_kept_to_if_it_is_early_enough(
    video, starts, caplog, monkeypatch
):
    frames = IndexedFrames(video, FRAMES - 1)
    starts.clear()
    since = DecodedPictures.since

    def in_vain_twice(self, pts):
        return (picture for picture in since(self, pts) if len(starts) > 2)

    monkeypatch.setattr(DecodedPictures, "since", in_vain_twice)
    read(video, frames, 29)
    assert starts == sought(28, 21, 14)
    read(video, frames, 22, 3, 8)
    assert starts[3:] == [*sought(7), BEGINNING]
    read(video, frames, 8)
    assert starts[5:] == [BEGINNING]
    assert not caplog.messages


def test_a_file_in_which_ffmpeg_cannot_seek_is_decoded_from_its_beginning(tmp_path, starts, caplog):
    path = tmp_path / "x.mjpeg"
    with av.open(str(path), "w", format="mpjpeg") as container:
        stream = container.add_stream("mjpeg", rate=RATE)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuvj420p"
        for index in range(9):
            shade = np.full((48, 48), 8 * index, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(shade, "yuvj420p")))
    frames = IndexedFrames(path, 8)
    starts.clear()
    read(path, frames, 7, 5)
    assert starts == [7, 6, 5, BEGINNING, BEGINNING]
    assert len(caplog.messages) == 1
    assert frames.key_frame_before(7) == 0


def test_a_picture_that_differs_in_one_pixel_is_another(video, starts, monkeypatch):
    since = DecodedPictures.since

    def differing(self, pts):
        for decoded in since(self, pts):
            planes = decoded.picture.to_ndarray()
            planes[31, 47] ^= 1  # the last of luma
            picture = av.VideoFrame.from_ndarray(planes, "yuv420p")
            picture.pts = decoded.picture.pts
            yield replace(decoded, picture=picture)

    frames = IndexedFrames(video, FRAMES - 1)
    monkeypatch.setattr(DecodedPictures, "since", differing)
    starts.clear()
    read(video, frames, 10)
    assert starts == [*sought(7), BEGINNING]


def in_two_parts(path):
    """A transport stream whose video has another PID and later times from frame 8 on."""
    options = {"preset": "ultrafast", "g": "4"}
    first = shaded(path.with_name("1.ts"), 8, options=options, mpegts_start_pid="256")
    second = shaded(path.with_name("2.ts"), 8, options=options)
    later = path.with_name("later.ts")
    with av.open(str(second)) as container:
        stream = container.streams.video[0]
        with av.open(str(later), "w", options={"mpegts_start_pid": "512"}) as copy:
            copied = copy.add_stream_from_template(stream)
            for packet in container.demux(stream):
                if packet.dts is not None:
                    packet.pts, packet.dts = packet.pts + 90_000, packet.dts + 90_000
                    packet.stream = copied
                    copy.mux(packet)
    path.write_bytes(first.read_bytes() + later.read_bytes())


def moving_webp(path):
    first, *others = (Image.new("RGB", (48, 32), (8 * index,) * 3) for index in range(16))
    first.save(path, save_all=True, append_images=others, lossless=True)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("none.h264", shaded),
        ("equal.mkv", lambda path: shaded(path, 6, "mjpeg", {}, pts=[5, 6, 6, 7, 8, 9])),
        ("falling.mkv", lambda path: shaded(path, 6, "mjpeg", {}, pts=[5, 6, 9, 7, 8, 10])),
        ("parts.ts", in_two_parts),
        ("moving.webp", moving_webp),
    ],
)
def test_without_times_of_their_own_frames_are_counted_from_the_beginning(
    tmp_path, starts, caplog, name, make
):
    path = tmp_path / name
    make(path)
    frames = IndexedFrames(path, FRAMES)
    assert frames.count == len(images_of(path))
    starts.clear()
    last = frames.count - 1
    read(path, frames, last, 2, 1)
    assert starts == [BEGINNING] * 3
    assert frames.key_frame_before(last) == 0
    assert not caplog.messages


@pytest.mark.parametrize(
    ("pixel_format", "row_bytes"),
    [
        ("yuv420p", 34),
        ("nv12", 34),
        ("yuv420p9le", 68),
        ("yuv420p10le", 68),
        ("yuyv422", 68),
        ("rgb24", 102),
        ("bgra", 136),
    ],
)
def test_a_checksum_covers_whole_rows_without_their_padding(pixel_format, row_bytes):
    frame = av.VideoFrame(34, 20, pixel_format)
    pixels = np.frombuffer(memoryview(frame.planes[0]), np.uint8)
    pixels[:] = 0
    before = _checksum(frame)
    pixels[row_bytes] = 1
    assert _checksum(frame) == before
    pixels[row_bytes - 1] = 1
    assert _checksum(frame) != before
