"""A recording is cut off only where something is missing."""

import re
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.clips import cut, pictures
from tests.conftest import WALKWAY
from worker.frames import Frame
from worker.sources.recording import RecordingSource, probe_recording


def ended(path):
    *items, down = RecordingSource(probe_recording(path, "clip"), (24, 32))
    return len([item for item in items if isinstance(item, Frame)]), down.reason


def timed(path, codec, pixel_format, pts, last_stays, *, time_base=Fraction(1, 100)):
    """A file whose pictures are at ``pts``; the last one stays for ``last_stays`` ticks."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixel_format
        stream.codec_context.time_base = time_base
        packets = []
        for at, picture in zip(pts, pictures(WALKWAY, len(pts)), strict=True):
            image = picture.reformat(64, 48, pixel_format)
            image.pts, image.time_base = at, time_base
            packets += stream.encode(image)
        packets += stream.encode(None)
        packets[-1].duration = last_stays
        for packet in packets:
            container.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("long.gif", "gif", "rgb8"), ("long.mp4", "mpeg4", "yuv420p"),
        ("long.mkv", "mpeg4", "yuv420p"), ("long.mov", "mjpeg", "yuvj420p"),
    ],
)  # fmt: skip
def test_a_last_picture_that_stays_long_is_no_missing_end(tmp_path, name, codec, pixel_format):
    path = timed(tmp_path / name, codec, pixel_format, [0, 10, 20, 30], 500)
    assert ended(path) == (4, "end_of_file")


def multipart(path):
    """Six pictures, and the boundary after them, as a camera's stream is saved."""
    with av.open(str(path), "w", format="mpjpeg") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuvj420p"
        for picture in pictures(WALKWAY, 6):
            container.mux(stream.encode(picture.reformat(160, 120, "yuvj420p")))
        container.mux(stream.encode(None))
    assert path.read_bytes().endswith(b"--ffmpeg\r\n")
    return path


def test_a_saved_multipart_stream_is_whole_though_it_states_nothing(tmp_path):
    path = multipart(tmp_path / "saved.mpjpeg")
    assert ended(path) == (6, "end_of_file")


def test_a_saved_multipart_stream_that_ends_in_a_picture_is_cut_off(tmp_path):
    path = multipart(tmp_path / "saved.mpjpeg")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - 3000])
    frames, reason = ended(path)
    assert frames in (5, 6)
    assert reason in ("truncated", "damaged")


def with_sound(path, frames, seconds, codec="libx264", sound_codec="aac", **container_options):
    """Pictures for ``frames`` tenths of a second, and sound for ``seconds``, interleaved."""
    with av.open(str(path), "w", container_options=container_options) as container:
        video = container.add_stream(codec, rate=10, options={"g": "5", "bf": "0"})
        sound = container.add_stream(sound_codec, rate=8000)
        sound.layout = "mono"
        video.width, video.height, video.pix_fmt = 384, 288, "yuv420p"
        packets = []
        for index, picture in enumerate(pictures(WALKWAY, frames)):
            image = picture.reformat(384, 288, "yuv420p")
            image.pts, image.time_base = index, Fraction(1, 10)
            packets += video.encode(image)
        packets += video.encode(None)
        for index in range(seconds * 8000 // 1024):
            kind, planes = (np.float32, "fltp") if sound_codec == "aac" else (np.int16, "s16")
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), kind), planes, "mono")
            samples.sample_rate, samples.pts = 8000, index * 1024
            packets += sound.encode(samples)
        packets += sound.encode(None)
        for packet in sorted(packets, key=lambda p: float(p.dts * p.time_base)):
            container.mux(packet)
    return path


@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts", "asf"])
def test_sound_that_goes_on_after_the_pictures_is_no_missing_end(tmp_path, ending):
    assert ended(with_sound(tmp_path / f"x.{ending}", 20, 10)) == (20, "end_of_file")


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("x.mkv", "mpeg4", {"live": "1"}),  # FFmpeg guesses 12 s from the bit rate of the sound
        ("x.mkv", "libx264", {"live": "1"}),
        ("x.flv", "flv1", {"flvflags": "no_duration_filesize"}),
        ("x.mov", "mpeg4", {"movflags": "frag_keyframe+empty_moov"}),
        ("x.ts", "mpeg2video", {}),
    ],
)
def test_a_recording_that_states_no_length_lacks_nothing(tmp_path, name, codec, options):
    path = tmp_path / name
    if codec == "mpeg2video":
        cut(WALKWAY, path, frames=40, codec=codec, options={}, rate=25)
    else:
        with_sound(path, 40, 4, codec, "pcm_s16le", **options)
    assert ended(path) == (40, "end_of_file")


def test_a_fragmented_file_that_is_cut_off_within_a_fragment_is_truncated(tmp_path):
    path = tmp_path / "x.mov"
    with_sound(path, 40, 4, "mpeg4", "pcm_s16le", movflags="frag_keyframe+empty_moov")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert ended(path)[1] == "truncated"


@pytest.mark.parametrize("ending", ["mp4", "avi", "gif", "mkv"])
@pytest.mark.parametrize("extra", [b"\0" * 100, b"junk" * 50])
def test_bytes_after_the_end_are_no_missing_end(tmp_path, ending, extra):
    path = tmp_path / f"x.{ending}"
    if ending == "gif":
        timed(path, "gif", "rgb8", [0, 10, 20], 10)
    else:
        cut(WALKWAY, path, frames=3, codec="mpeg4", options={}, size=(48, 64))
    path.write_bytes(
        path.read_bytes() + extra[:12] if ending == "gif" else path.read_bytes() + extra
    )
    frames, reason = ended(path)
    assert (frames, reason != "truncated") == (3, True)


@pytest.mark.long
@pytest.mark.parametrize(
    "share", [0.4, *(pytest.param(share, marks=pytest.mark.long) for share in (0.5, 0.8))]
)
@pytest.mark.parametrize("sound", [False, True])
@pytest.mark.parametrize("ending", ["mp4", "mkv", "avi", "ts"])
def test_a_file_that_is_cut_in_the_middle_is_cut_off(tmp_path, ending, sound, share):
    path = tmp_path / f"x.{ending}"
    if sound:
        with_sound(path, 40, 4)
    else:
        cut(WALKWAY, path, frames=40, codec="mpeg4", options={"g": "5"}, size=(120, 160))
    if ending == "mp4" and sound:  # its index comes last
        with (
            av.open(str(path)) as whole,
            av.open(
                str(tmp_path / "fast.mp4"), "w", container_options={"movflags": "+faststart"}
            ) as fast,
        ):
            copies = {s.index: fast.add_stream_from_template(s) for s in whole.streams}
            for packet in whole.demux():
                if packet.dts is not None:
                    packet.stream = copies[packet.stream.index]
                    fast.mux(packet)
        path = tmp_path / "fast.mp4"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share) | 1])
    frames, reason = ended(path)
    assert 0 < frames < 40
    assert reason == "truncated"


def test_a_gif_that_ends_within_a_picture_is_cut_off_whatever_its_last_bytes_are(tmp_path):
    path = timed(tmp_path / "x.gif", "gif", "rgb8", [0, 10, 20, 30], 10)
    content = path.read_bytes()
    middle = len(content) * 3 // 5
    path.write_bytes(content[:middle])
    assert ended(path)[1] == "truncated"
    path.write_bytes(content[: content.index(b"\x3b", middle) + 1])  # the trailer's byte
    assert ended(path)[1] == "truncated"


@pytest.mark.parametrize("lacks", [1, 0.05, 0.15])
@pytest.mark.parametrize(
    ("name", "codec", "pixel_format"),
    [
        ("x.gif", "gif", "rgb8"), ("x.apng", "apng", "rgb24"), ("x.mkv", "mpeg4", "yuv420p"),
        ("x.mjpeg", "mjpeg", "yuvj420p"), ("x.ivf", "libvpx", "yuv420p"),
        ("x.flv", "flv", "yuv420p"), ("x.webm", "libvpx", "yuv420p"),
    ],
)  # fmt: skip
def test_a_file_that_lacks_its_last_bytes_is_cut_off(tmp_path, name, codec, pixel_format, lacks):
    path = timed(tmp_path / name, codec, pixel_format, range(12), 1, time_base=Fraction(1, 10))
    assert ended(path) == (12, "end_of_file")
    content = path.read_bytes()
    last = len(content) - (5 if name == "x.flv" else 1)  # the size of the last tag says nothing
    path.write_bytes(content[: last if lacks == 1 else round(last * (1 - lacks))])
    assert ended(path)[1] == "truncated"


def test_a_matroska_file_whose_size_is_unknown_is_whole(tmp_path):
    path = timed(tmp_path / "x.mkv", "mpeg4", "yuv420p", range(6), 1, time_base=Fraction(1, 10))
    content = bytearray(path.read_bytes())
    size = content.index(b"\x18\x53\x80\x67") + 4
    content[size : size + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(content)
    assert ended(path) == (6, "end_of_file")


def test_a_stream_of_jpegs_with_something_after_the_last_one_is_whole(tmp_path):
    path = timed(tmp_path / "x.mjpeg", "mjpeg", "yuvj420p", range(4), 1)
    path.write_bytes(path.read_bytes() + b"\r\n--boundary--\r\n")
    assert ended(path) == (4, "end_of_file")


@pytest.mark.parametrize(
    ("start", "ending"), [(3600, "mkv"), (7, "mp4"), (95000, "ts"), (50, "flv")]
)
def test_a_recording_that_starts_late_is_whole(tmp_path, start, ending):
    path = cut(WALKWAY, tmp_path / "x.mkv", frames=12, size=(48, 64))
    late = tmp_path / f"late.{ending}"
    with av.open(str(path)) as whole, av.open(str(late), "w") as target:
        stream = target.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None:
                shift = round(start / packet.time_base)
                packet.pts, packet.dts, packet.stream = (
                    packet.pts + shift,
                    packet.dts + shift,
                    stream,
                )
                target.mux(packet)
    recording = probe_recording(late, "clip")
    assert ended(late) == (12, "end_of_file")
    assert re.fullmatch(r"1[0-4]", str(recording.frames))
