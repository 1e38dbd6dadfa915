"""The video of a container, among others that are not it."""

import itertools
import logging
from fractions import Fraction
from types import SimpleNamespace

import av
import pytest
from av.stream import Disposition

from tests.clips import SOUND_HZ, pictures, silence
from tests.conftest import WALKWAY
from worker.errors import SourceError
from worker.frames import Frame
from worker.sources.camera_pictures import of_file
from worker.sources.limits import DEFAULT_LIMITS, Meter
from worker.sources.live import LiveSource
from worker.sources.recording import RecordingSource, probe_recording
from worker.sources.streams import packets_of, rate_of, video_of

LARGE, SMALL = (96, 128), (48, 64)


def file_of(path, *streams, frames=8, pictures_of=None):
    """Streams of (codec, size, disposition); a cover has one picture.

    ``pictures_of``: how many a stream has, by its index, if it has fewer.
    """
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
                if index >= (pictures_of or {}).get(stream.index, frames):
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


@pytest.mark.parametrize("ending", ["mov", "mp4"])
def test_a_track_of_one_picture_beside_a_longer_one_is_not_the_video(tmp_path, ending):
    path = tmp_path / f"x.{ending}"
    file_of(path, ("mjpeg", SMALL, DEFAULT), ("libx264", LARGE, PLAIN), pictures_of={0: 1})
    for frames in frames_of(path):
        assert len(frames) == 8
        assert {(frame.height, frame.width) for frame in frames} == {LARGE}


def test_a_cover_is_not_a_video(tmp_path):
    path = tmp_path / "song.m4a"
    with av.open(str(path), "w", format="mp4") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = COVER
        sound = container.add_stream("aac", rate=SOUND_HZ)
        for index in range(10):
            container.mux(sound.encode(silence(index)))
        container.mux(sound.encode(None))
        container.mux(cover.encode(next(pictures(WALKWAY, 1)).reformat(64, 48, "yuvj420p")))
        container.mux(cover.encode(None))
    with pytest.raises(SourceError, match="has no video stream"):
        probe_recording(path, "clip")


def flv_tags(path):
    """The header of an FLV file, and its tags with the sizes that follow them."""
    content, at, tags = path.read_bytes(), 13, []
    while at < len(content):
        end = at + 15 + int.from_bytes(content[at + 1 : at + 4], "big")
        tags.append(content[at:end])
        at = end
    return content[:13], tags


def test_a_video_that_begins_in_mid_file_does_not_end_the_one_that_is_read(tmp_path):
    """Its codec changes behind what FFmpeg looks into at the start."""
    first = file_of(tmp_path / "first.flv", ("libx264", (480, 640), PLAIN), frames=120)
    header, tags = flv_tags(first)
    later = file_of(tmp_path / "later.flv", ("flv", SMALL, PLAIN), frames=20)
    for tag in flv_tags(later)[1][1:]:  # without the metadata
        milliseconds = int.from_bytes(tag[4:7], "big") + 13_000
        tags.append(tag[:4] + milliseconds.to_bytes(3, "big") + tag[7:])
    path = tmp_path / "x.flv"
    path.write_bytes(header + b"".join(tags))
    recorded = RecordingSource(probe_recording(path, "clip"), (24, 32))
    assert len([item for item in recorded if isinstance(item, Frame)]) == 120
    with av.open(str(path)) as container:  # as a file that is played live
        played = of_file(container, video_of(container), Meter(DEFAULT_LIMITS))
        assert len(list(played)) == 120


def test_the_packets_of_a_new_stream_are_left_out_and_it_is_noted():
    class Container:
        packets = iter(["one", IndexError(), IndexError(), "two"])

        def demux(self):
            for packet in self.packets:
                if isinstance(packet, IndexError):
                    raise packet
                yield packet

    noted = []
    assert list(packets_of(Container(), lambda: noted.append("new"))) == ["one", "two"]
    assert noted == ["new", "new"]


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
        return SimpleNamespace(disposition=disposition, codec_context=codec, frames=0)

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


@pytest.mark.parametrize(
    ("average", "guessed", "rate"), [(10, 25, 10), (None, 12, 12), (0, 12, 12), (None, None, 25)]
)
def test_the_average_rate_counts_before_what_ffmpeg_guesses(average, guessed, rate):
    assert rate_of(SimpleNamespace(average_rate=average, guessed_rate=guessed)) == rate


def test_a_video_of_one_picture_is_chosen_only_where_there_is_no_longer_one(tmp_path):
    one = file_of(tmp_path / "one.mp4", ("libx264", SMALL, DEFAULT), frames=1)
    two = file_of(
        tmp_path / "two.mp4", ("libx264", SMALL, DEFAULT), ("libx264", LARGE, PLAIN),
        frames=2, pictures_of={0: 1},
    )  # fmt: skip
    for path, frames, (height, width) in ((one, 1, SMALL), (two, 2, LARGE)):
        with av.open(str(path)) as container:
            stream = video_of(container)
            found = stream.frames, stream.codec_context.height, stream.codec_context.width
        assert found == (frames, height, width)
