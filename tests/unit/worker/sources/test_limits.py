"""Each limit, on real files and a real server: exact at its boundary, reported with its flag."""

import itertools
import struct
from contextlib import suppress
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import cut, pictures
from tests.conftest import WALKWAY
from tests.unit.worker.sources.test_opening import http_server
from worker.errors import SourceError
from worker.frames import Frame, StreamDown
from worker.settings.fields import RunSettings
from worker.settings.loading import load_settings
from worker.sources import limits as limits_module
from worker.sources.decoding import DecodedPictures
from worker.sources.limits import Limits, Meter, OverLimit
from worker.sources.live import LiveSource
from worker.sources.recording import RecordingSource, probe_recording

SIZE = (120, 160)
PIXELS = 768 * 576
KINDS = [
    ("clip.mp4", "libx264"),
    ("clip.mkv", "libx264"),
    ("clip.ts", "libx264"),
    ("clip.h264", "libx264"),
    ("clip.avi", "mjpeg"),
    ("clip.mjpeg", "mjpeg"),
    ("clip.mpg", "mpeg2video"),
    ("clip.webm", "libvpx"),
]


def read(path, limits):
    """Frames of a recording, and its StreamDown."""
    *items, down = RecordingSource(probe_recording(path, "clip", limits), SIZE, limits=limits)
    return [item for item in items if isinstance(item, Frame)], down


def play(source, limits):
    """Frames of a camera's first connection, and its StreamDown."""
    frames = []
    for item in LiveSource("gate", str(source), SIZE, itertools.count(1).__next__, limits=limits):
        if isinstance(item, Frame):
            frames.append(item)
        if isinstance(item, StreamDown):
            return frames, item
    raise AssertionError("it never went down")


def raw(path, codec, sizes, *, frames=3):
    """A raw stream whose pictures change their size."""
    with path.open("wb") as file:
        for width, height in sizes:
            encoder = av.CodecContext.create(codec, "w")
            encoder.width, encoder.height = width, height
            encoder.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            encoder.time_base = Fraction(1, 25)
            if codec == "libx264":
                encoder.options = {"preset": "ultrafast", "tune": "zerolatency"}
            for index, picture in enumerate(pictures(WALKWAY, frames)):
                image = picture.reformat(width, height, encoder.pix_fmt)
                image.pts, image.time_base = index, encoder.time_base
                file.write(b"".join(map(bytes, encoder.encode(image))))
            file.write(b"".join(map(bytes, encoder.encode(None))))
    return path


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_pictures_as_large_as_the_limit_are_read_and_larger_ones_are_refused(tmp_path, name, codec):
    path = cut(WALKWAY, tmp_path / name, frames=4, codec=codec, options={})
    frames, down = read(path, Limits(max_pixels=PIXELS))
    assert (len(frames), down.reason) == (4, "end_of_file")
    with pytest.raises(SourceError, match=r"768x576 .* 442367 pixels .*\(--max-pixels\)$"):
        probe_recording(path, "clip", Limits(max_pixels=PIXELS - 1))


@pytest.mark.parametrize(("name", "codec"), KINDS)
def test_the_decoder_itself_refuses_what_is_far_too_large(tmp_path, name, codec):
    path = cut(WALKWAY, tmp_path / name, frames=4, codec=codec, options={})
    with pytest.raises(SourceError, match=r"10000 pixels.*\(--max-pixels\)"):
        probe_recording(path, "clip", Limits(max_pixels=10_000))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.options = Limits(max_pixels=10_000).decoder_options()
        for packet in container.demux(stream):
            with pytest.raises((av.error.FFmpegError, StopIteration)):
                next(iter(packet.decode()))


@pytest.mark.parametrize(("name", "codec"), [("grows.h264", "libx264"), ("grows.mjpeg", "mjpeg")])
def test_a_recording_whose_pictures_grow_over_the_limit_ends_there(tmp_path, name, codec):
    path = raw(tmp_path / name, codec, [(320, 240), (336, 240), (320, 240)])
    frames, down = read(path, Limits(max_pixels=320 * 240))
    assert [(frame.width, frame.height) for frame in frames] == [(320, 240)] * 3
    assert (down.state, down.reason, down.frames) == ("ended", "over_limit", 3)
    assert "336x240" in down.detail
    assert "--max-pixels" in down.detail
    frames, down = read(path, Limits())
    assert (len(frames), down.reason) == (9, "end_of_file")


@pytest.mark.parametrize(("name", "codec"), [("grows.h264", "libx264"), ("grows.mjpeg", "mjpeg")])
def test_pictures_far_over_the_limit_are_skipped_as_damaged(tmp_path, name, codec):
    path = raw(tmp_path / name, codec, [(320, 240), (768, 576), (320, 240)])
    frames, down = read(path, Limits(max_pixels=320 * 240))
    assert {(frame.width, frame.height) for frame in frames} == {(320, 240)}
    assert (len(frames), down.reason) == (6, "damaged")


def test_a_header_that_claims_a_huge_picture_allocates_none(tmp_path):
    path = tmp_path / "huge.gif"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "rgb8"
        for picture in pictures(WALKWAY, 2):
            container.mux(stream.encode(picture.reformat(64, 48, "rgb8")))
        container.mux(stream.encode(None))
    content = bytearray(path.read_bytes())
    content[6:10] = struct.pack("<2H", 6200, 6200)
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"6200x6200 .*\(--max-pixels\)"):
        probe_recording(path, "clip", Limits())
    allowed = DecodedPictures(path, limits=Limits(max_pixels=6200 * 6200))
    assert next(iter(allowed)).picture.width == 6200


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts", "avi"])
def test_as_many_streams_as_the_limit_are_read_and_more_are_refused(tmp_path, ending):
    path = tmp_path / f"many.{ending}"
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mpeg4", rate=25) for _ in range(5)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index, picture in enumerate(pictures(WALKWAY, 3)):
            image = picture.reformat(64, 48, "yuv420p")
            image.pts, image.time_base = index, Fraction(1, 25)
            for stream in streams:
                container.mux(stream.encode(image))
        for stream in streams:
            container.mux(stream.encode(None))
    assert len(read(path, Limits(max_streams=5))[0]) == 3
    with pytest.raises(SourceError, match=r"more than 4 streams \(--max-streams\)"):
        probe_recording(path, "clip", Limits(max_streams=4))
    with http_server() as server:
        server.pages["/camera"] = path.read_bytes()
        frames, down = play(server.url("/camera"), Limits(max_streams=4))
    assert (frames, down.state, down.reason) == ([], "down", "over_limit")
    assert "--max-streams" in down.detail


@pytest.fixture(scope="module")
def long_sound(tmp_path_factory):
    """Six pictures, and 400 kB of sound after them."""
    path = tmp_path_factory.mktemp("limits") / "sound.mkv"
    noise = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for index, picture in enumerate(pictures(WALKWAY, 6)):
            image = picture.reformat(160, 120, "yuv420p")
            image.pts, image.time_base = index, Fraction(1, 25)
            container.mux(video.encode(image))
        container.mux(video.encode(None))
        for index in range(200):
            samples = noise.integers(-9000, 9000, (1, 1000), np.int16)
            sound = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            sound.sample_rate, sound.pts, sound.time_base = 8000, index * 1000, Fraction(1, 8000)
            container.mux(audio.encode(sound))
    return path


def test_a_recording_that_continues_without_pictures_ends_at_the_limit(long_sound):
    frames, down = read(long_sound, Limits(max_bytes_without_frame=300_000))
    assert (len(frames), down.state, down.reason) == (6, "ended", "over_limit")
    assert "300000" in down.detail
    assert "--max-bytes-without-frame" in down.detail
    frames, down = read(long_sound, Limits(max_bytes_without_frame=500_000))
    assert (len(frames), down.reason) == (6, "end_of_file")


def test_a_file_played_live_ends_at_the_limit_and_is_not_retried(long_sound):
    frames, down = play(long_sound, Limits(max_bytes_without_frame=300_000))
    assert (len(frames), down.state, down.reason) == (6, "ended", "over_limit")


def test_a_camera_that_stops_sending_pictures_is_down_at_the_limit(long_sound):
    with http_server() as server:
        server.pages["/camera"] = long_sound.read_bytes()
        frames, down = play(server.url("/camera"), Limits(max_bytes_without_frame=300_000))
        assert (len(frames), down.state, down.reason) == (6, "down", "over_limit")
        assert "--max-bytes-without-frame" in down.detail
        frames, down = play(server.url("/camera"), Limits(max_bytes_without_frame=500_000))
        assert (len(frames), down.reason) == (6, "closed")


@pytest.mark.parametrize("name", ["noise.mjpeg", "noise.h264", "noise.ts", "noise.mp4"])
def test_a_file_of_noise_is_abandoned_at_the_limit(tmp_path, name):
    path = cut(WALKWAY, tmp_path / name, frames=1, codec="mjpeg" if "mj" in name else "libx264")
    content = path.read_bytes()
    noise = np.random.default_rng(0).integers(1, 255, 8 << 20, np.uint8).tobytes()
    path.write_bytes(content[: len(content) // 2] + noise)
    limits = Limits(max_bytes_without_frame=1 << 20)
    pictures = DecodedPictures(path, limits=limits)
    with suppress(SourceError):
        assert len(list(pictures)) <= 1
    assert pictures._meter._bytes <= limits.max_bytes_without_frame + (1 << 16)


def test_the_meter_counts_from_frame_to_frame():
    meter = Meter(Limits(max_pixels=100, max_bytes_without_frame=10))
    for _ in range(3):
        meter.count(10)
        meter.check()
        meter.frame(10, 10)
    meter.count(11)
    meter.frame(10, 10)  # a frame that was already being decoded does not reset it
    with pytest.raises(OverLimit, match="more than 10 bytes"):
        meter.check()
    with pytest.raises(OverLimit, match="11x10"):
        meter.frame(11, 10)


def test_the_meter_counts_from_the_first_byte_and_does_not_forget():
    meter = Meter(Limits(max_bytes_without_frame=10))
    meter.count(10)
    meter.check()
    meter.count(1)
    meter.frame(10, 10)
    meter.count(1)
    with pytest.raises(OverLimit, match="more than 10 bytes"):
        meter.check()


@pytest.mark.parametrize(
    "limits", [Limits(max_pixels=1, max_bytes_without_frame=1 << 20), Limits(100_000, 64, 1)]
)
def test_ffmpeg_allocates_no_larger_block_than_the_limits_need(limits):
    try:
        limits.limit_blocks()
        av.VideoFrame(1000, 1000, "gray")
        with pytest.raises(MemoryError):
            av.VideoFrame(2000, 1000, "gray")
    finally:
        Limits(max_bytes_without_frame=2**31 - 1).limit_blocks()  # as FFmpeg has it


def test_each_limit_is_a_setting(monkeypatch):
    monkeypatch.setenv("SSD_WORKER_MAX_STREAMS", "7")
    arguments = ["x.mp4", "--max-pixels", "100", "--max-bytes-without-frame", "1000"]
    assert load_settings(RunSettings, "run", arguments).limits == Limits(100, 7, 1000)
    monkeypatch.delenv("SSD_WORKER_MAX_STREAMS")
    assert load_settings(RunSettings, "run", ["x.mp4"]).limits == Limits()


def test_where_allocations_cannot_be_limited_a_line_says_so_and_reading_goes_on(
    monkeypatch, caplog
):
    class WithoutFunction:
        pass

    def cannot_load(name):
        raise OSError("no such library")

    for library in (cannot_load, lambda name: WithoutFunction()):
        caplog.clear()
        monkeypatch.setattr(limits_module.ctypes, "CDLL", library)
        limits_module._set_largest_block.__wrapped__()(1000)
        assert "the size of FFmpeg's allocations cannot be limited here" in caplog.text
