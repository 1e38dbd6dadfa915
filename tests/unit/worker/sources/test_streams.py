"""The video of a container, among others that are not it."""

import itertools
import logging
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.clips import pictures
from tests.conftest import WALKWAY
from worker.errors import SourceError
from worker.frames import Frame
from worker.sources.live import LiveSource
from worker.sources.recording import RecordingSource, probe_recording
from worker.sources.streams import video_of

LARGE, SMALL = (96, 128), (48, 64)


def file_of(path, *streams, frames=8):
    """Streams of (codec, size, disposition); a cover has one picture."""
    with av.open(str(path), "w") as container:
        made = []
        for codec, (height, width), disposition in streams:
            stream = container.add_stream(codec, rate=10)
            stream.height, stream.width = height, width
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            stream.disposition = disposition
            made.append(stream)
        for index, picture in enumerate(pictures(WALKWAY, frames)):
            for stream in made:
                if stream.disposition & Disposition.attached_pic and index:
                    continue
                image = picture.reformat(stream.width, stream.height, stream.pix_fmt)
                image.pts, image.time_base = index, Fraction(1, 10)
                container.mux(stream.encode(image))
        for stream in made:
            container.mux(stream.encode(None))
    return path


def frames_of(path):
    recorded = RecordingSource(probe_recording(path, "clip"), (24, 32))
    played = LiveSource("clip", str(path), (24, 32), itertools.count(1).__next__)
    return [[item for item in source if isinstance(item, Frame)] for source in (recorded, played)]


PLAIN, COVER = Disposition(0), Disposition.attached_pic
DEFAULT, PREVIEW = Disposition.default, Disposition.attached_pic | Disposition.timed_thumbnails


@pytest.mark.parametrize(
    ("name", "streams", "size"),
    [
        ("x.mp4", [("mjpeg", SMALL, COVER), ("libx264", LARGE, DEFAULT)], LARGE),
        ("x.mkv", [("libx264", SMALL, PLAIN), ("libx264", LARGE, DEFAULT)], LARGE),
        ("x.mkv", [("libx264", LARGE, PLAIN), ("libx264", SMALL, DEFAULT)], SMALL),
        ("x.mp4", [("libx264", LARGE, DEFAULT), ("libx264", SMALL, PLAIN)], LARGE),
    ],
)  # fmt: skip
def test_the_default_track_is_the_video_and_no_preview(tmp_path, name, streams, size):
    path = file_of(tmp_path / name, *streams)
    for frames in frames_of(path):
        assert len(frames) == 8
        assert {(frame.height, frame.width) for frame in frames} == {size}


def test_a_cover_is_not_a_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = COVER
        sound = container.add_stream("aac", rate=44100)
        for index in range(10):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            samples.sample_rate, samples.pts = 44100, index * 1024
            container.mux(sound.encode(samples))
        container.mux(sound.encode(None))
        container.mux(cover.encode(next(pictures(WALKWAY, 1)).reformat(64, 48, "yuvj420p")))
        container.mux(cover.encode(None))
    with pytest.raises(SourceError, match="has no video stream"):
        probe_recording(path, "clip")


def test_other_videos_are_named_in_one_line(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = file_of(
        tmp_path / "two.mkv",
        ("mjpeg", SMALL, PLAIN),
        ("libx264", LARGE, DEFAULT),
    )
    probe_recording(path, "clip")
    (line,) = [r.getMessage() for r in caplog.records if "not 0" in r.getMessage()]
    assert line == (
        f"{path}: analysing video stream 1 (h264, 128x96), not 0 (mjpeg, 64x48)"
    )  # fmt: skip


def test_nothing_is_said_about_a_cover(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    cover = ("mjpeg", SMALL, COVER)
    probe_recording(file_of(tmp_path / "x.mp4", cover, ("libx264", (96, 128), DEFAULT)), "clip")
    assert caplog.records == []


def test_where_no_track_is_marked_it_is_ffmpegs_choice_but_never_a_preview():
    def stream(disposition, codec="h264"):
        return SimpleNamespace(disposition=disposition, codec_context=codec)

    class Streams:
        def __init__(self, best, *video):
            self.video = video
            self.best = lambda kind: best if kind == "video" else None

    first, second, preview = stream(PLAIN), stream(PLAIN), stream(PREVIEW)
    marked, undecodable = stream(DEFAULT), stream(DEFAULT, None)
    for best, videos, expected in [
        (second, [first, second], second),
        (preview, [preview, first, second], first),
        (preview, [preview, first, marked], marked),
        (None, [undecodable, first], first),
        (None, [undecodable], None),
    ]:
        assert video_of(SimpleNamespace(streams=Streams(best, *videos))) is expected
