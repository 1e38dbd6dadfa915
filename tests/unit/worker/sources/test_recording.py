"""A recording with damaged numbers and colours ends with a reason, never an exception."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial
from hashlib import sha256
from itertools import islice

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import cut, set_rotation
from tests.conftest import WALKWAY
from worker.errors import SourceError, UsageError
from worker.frames import Frame
from worker.sources import recording as recordings
from worker.sources.decoding import DecodedPictures
from worker.sources.orientation import UPRIGHT
from worker.sources.pictures import DecodedPicture
from worker.sources.recording import (
    Recording,
    RecordingSource,
    _stated_start,
    check_playable,
    open_pictures,
    probe_recording,
    recording_digest,
    upright_images,
)

SIZE = (120, 160)


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = cut(WALKWAY, tmp_path_factory.mktemp("recording") / "clip.mp4", frames=14)
    return probe_recording(path, "clip")


def test_a_frame_with_an_impossible_time_has_no_capture_time(recording):
    latest = replace(recording, start=datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
    *items, down = RecordingSource(latest, SIZE)
    frames = [item for item in items if isinstance(item, Frame)]
    assert [frame.captured_at is None for frame in frames] == [False] * 10 + [True] * 4
    assert down.reason == "end_of_file"


class FailsAfter:
    """A converter that fails, as FFmpeg does, after the first pictures."""

    def __init__(self, converter, pictures):
        self._converter, self._left = converter, pictures

    def convert(self, picture, orientation):
        self._left -= 1
        if self._left < 0:
            raise av.error.ArgumentError(22, "Invalid argument")
        return self._converter.convert(picture, orientation)


def test_a_picture_that_cannot_be_converted_ends_a_recording_as_truncated(recording):
    source = RecordingSource(recording, SIZE)
    source._converter = FailsAfter(source._converter, 5)
    *items, down = source
    assert len([item for item in items if isinstance(item, Frame)]) == down.frames == 5
    assert (down.state, down.reason) == ("ended", "truncated")


@pytest.mark.parametrize("start_seconds", [0, 3600])
def test_a_recording_that_starts_late_is_dated_from_its_start(tmp_path, start_seconds):
    plain = cut(WALKWAY, tmp_path / "plain.mkv", frames=12, size=(48, 64))
    late = tmp_path / "late.mkv"
    with av.open(str(plain)) as source, av.open(str(late), "w") as target:
        target.metadata["creation_time"] = "2024-05-01T10:00:00.000000Z"
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                shift = round(start_seconds / packet.time_base)
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = stream
                target.mux(packet)
    frames = [f for f in RecordingSource(probe_recording(late, "x"), SIZE) if isinstance(f, Frame)]
    assert float(frames[0].pts * frames[0].time_base) == start_seconds
    first = datetime(2024, 5, 1, 10, tzinfo=UTC)
    seconds = [(frame.captured_at - first).total_seconds() for frame in frames]
    assert seconds == pytest.approx([i / 10 for i in range(12)], abs=1e-3)


@pytest.mark.parametrize(("degrees", "aspect"), [(0, 2), (90, Fraction(1, 2)), (180, 2)])
def test_the_shape_of_pixels_turns_with_the_picture(tmp_path, degrees, aspect):
    path = tmp_path / "wide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        picture = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), "rgb24")
        container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    if degrees:
        set_rotation(path, degrees)
    recording = probe_recording(path, "clip")
    assert recording.pixel_aspect == aspect
    assert (recording.height, recording.width) == ((64, 48) if degrees == 90 else (48, 64))


def test_what_is_no_file_is_refused_with_its_reason(tmp_path):
    with pytest.raises(UsageError, match=r"gone\.mp4: no such file$"):
        probe_recording(tmp_path / "gone.mp4", "clip")
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(UsageError, match=r"pipe\.mp4: is not a regular file"):
        probe_recording(tmp_path / "pipe.mp4", "clip")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(SourceError, match=r"empty\.mp4: is empty$"):
        probe_recording(tmp_path / "empty.mp4", "clip")


def test_a_folder_and_a_moving_webp_cannot_be_played_like_a_camera(tmp_path, recording):
    check_playable(recording.path)
    check_playable(tmp_path / "gone.mp4")  # said when it is opened
    with pytest.raises(UsageError, match="is a directory: analyse it with `ssd-worker replay"):
        check_playable(tmp_path)
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "x.webp", save_all=True, append_images=[second], duration=100)
    with pytest.raises(UsageError, match="is a moving WebP: analyse it with `ssd-worker replay"):
        check_playable(tmp_path / "x.webp")


def test_what_a_file_states_of_itself(tmp_path):
    path = cut(WALKWAY, tmp_path / "x.mp4", frames=14, size=(48, 64),
               metadata={"creation_time": "2024-05-01T12:00:00+02:00"})  # fmt: skip
    found = probe_recording(path, "clip")
    assert (found.frames, found.rate, found.start_seconds, found.pixel_aspect) == (14, 10, 0, 1)
    assert found.start == datetime(2024, 5, 1, 10, tzinfo=UTC)
    plain = probe_recording(cut(WALKWAY, tmp_path / "x.mkv", frames=14, size=(48, 64)), "clip")
    assert (plain.frames, plain.start) == (14, None)


def test_the_frames_of_all_parts_are_counted_and_the_first_states_the_rest(tmp_path):
    content = b""
    for pid, rate in (("256", 10), ("512", 20)):
        content += cut(WALKWAY, tmp_path / "x.ts", frames=20, size=(48, 64), rate=rate,
                       container_options={"mpegts_start_pid": pid}).read_bytes()  # fmt: skip
    (tmp_path / "x.ts").write_bytes(content)
    found = probe_recording(tmp_path / "x.ts", "clip")
    assert found.frames in range(36, 45)
    assert found.rate == 10


@pytest.mark.parametrize(
    ("stated", "start"),
    [
        ("1971-01-01T00:00:00", datetime(1971, 1, 1, tzinfo=UTC)),
        ("2024-05-01T12:00:00+02:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("1970-12-31T23:59:59Z", None),
        ("some day", None),
        ("", None),
    ],
)
def test_a_creation_time_before_1971_is_none(stated, start):
    assert _stated_start({"creation_time": stated}) == start
    assert _stated_start({}) is None


def test_a_picture_to_draw_on_stays_for_its_duration(recording):
    shown = list(islice(upright_images(recording.path), 2))
    assert [(each.frame_index, each.stays_seconds) for each in shown] == [
        (0, Fraction(1, 10)),
        (1, Fraction(1, 10)),
    ]


@pytest.fixture
def moving(tmp_path):
    """A WebP of two pictures."""
    path = tmp_path / "moving.webp"
    first, second = (Image.new("RGB", (32, 16), colour) for colour in ("red", "blue"))
    first.save(path, save_all=True, append_images=[second], duration=250)
    return path


def test_what_is_known_of_pictures_without_a_container(moving, tmp_path):
    digest = recording_digest(moving)
    assert probe_recording(moving, "x") == Recording(
        moving, "x", digest, 2, Fraction(4), None, 0.0, 16, 32, Fraction(1)
    )
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (32, 16)).save(folder / "x.png")
    found = probe_recording(folder, "x")
    assert found == Recording(
        folder, "x", found.digest, 1, Fraction(1), None, 0.0, 16, 32, Fraction(1)
    )


@pytest.mark.parametrize(
    "call", [partial(probe_recording, camera_id="x"), check_playable, open_pictures]
)
def test_a_file_that_cannot_be_read_says_why(recording, monkeypatch, call):
    def fail(path):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(recordings, "is_animated_webp", fail)
    with pytest.raises(SourceError, match=r"clip\.mp4: cannot read it: Input/output error$"):
        call(recording.path)


@pytest.mark.parametrize(
    ("content", "digested"),
    [(b"abcdefghij", b"10abcdghij"), (b"abcd", b"4abcdabcd"), (b"ab", b"2abab")],
)
def test_a_digest_is_of_the_size_and_both_edges(tmp_path, monkeypatch, content, digested):
    monkeypatch.setattr(recordings, "DIGEST_EDGE_BYTES", 4)
    (tmp_path / "x").write_bytes(content)
    assert recording_digest(tmp_path / "x") == sha256(digested).hexdigest()


def test_a_frame_says_what_the_recording_says(recording):
    source = RecordingSource(recording, SIZE, stride=4, first_seq=1)
    up, *frames, down = source
    assert (up.camera_id, up.epoch, up.first_seq) == ("clip", 0, 1)
    assert source.current_epoch() == 0
    assert [(f.epoch, f.frame_index, f.pts * f.time_base, f.skipped) for f in frames] == [
        (0, 4, Fraction(2, 5), 3),
        (0, 8, Fraction(4, 5), 3),
        (0, 12, Fraction(6, 5), 3),
    ]
    assert {(f.camera_id, f.clock, f.captured_at, f.width, f.height) for f in frames} == {
        ("clip", "file", None, 768, 576)
    }
    assert (down.epoch, down.state, down.reason, down.detail) == (0, "ended", "end_of_file", "")
    assert down.frames == 14


@pytest.mark.parametrize(
    ("what", "stated", "reason", "detail"),
    [
        ({"over_limit": "too much", "cut_off": True}, 9, "over_limit", "too much"),
        ({"cut_off": True, "damaged": 3}, 9, "truncated", "8 of about 9 frames could be read"),
        ({"cut_off": True}, 8, "truncated", "8 frames could be read"),
        ({"cut_off": True}, 0, "truncated", "8 frames could be read"),
        ({"broken": ["a.jpg", "b.jpg"], "damaged": 1}, 9, "damaged",
         "2 of 9 pictures are damaged: a.jpg, b.jpg"),
        ({"damaged": 1}, 9, "damaged", "1 packets or pictures were damaged"),
        ({}, 9, "end_of_file", ""),
    ],
)  # fmt: skip
def test_how_a_recording_ended(recording, what, stated, reason, detail):
    pictures = DecodedPictures(recording.path)
    for name, value in what.items():
        setattr(pictures, name, value)
    source = RecordingSource(replace(recording, frames=stated), SIZE)
    assert source._how_it_ended(8, pictures) == (reason, detail)


def test_a_recording_without_a_frame_is_the_error_of_its_pictures(recording):
    pictures = DecodedPictures(recording.path)
    pictures.over_limit = "too much"
    with pytest.raises(SourceError, match=r"clip\.mp4: too much$"):
        RecordingSource(recording, SIZE)._how_it_ended(0, pictures)


def test_a_recording_without_times_is_sampled_by_its_rate(tmp_path):
    path = cut(WALKWAY, tmp_path / "x.h264", frames=11, size=(48, 64), options={})
    found = probe_recording(path, "x")
    frames = [f for f in RecordingSource(found, SIZE, fps=5) if isinstance(f, Frame)]
    assert [(f.frame_index, f.pts, f.skipped) for f in frames] == [
        (0, None, 0), (5, None, 4), (10, None, 4),
    ]  # fmt: skip


def test_a_still_picture_has_no_time_and_stays_for_none_that_is_stated(tmp_path, moving):
    Image.new("RGB", (32, 16)).save(tmp_path / "still.png")
    for path in (tmp_path / "still.png", tmp_path):
        assert None in {shown.stays_seconds for shown in upright_images(path)}
        found = probe_recording(path, "x")
        frames = [f for f in RecordingSource(found, SIZE) if isinstance(f, Frame)]
        assert {(f.pts, f.time_base) for f in frames} == {(None, 1 / found.rate)}
    assert {shown.stays_seconds for shown in upright_images(moving)} == {Fraction(1, 4)}


def test_a_picture_that_states_no_duration_stays_for_none_that_is_stated(recording, monkeypatch):
    picture = av.VideoFrame(16, 16, "rgb24")
    picture.pts, picture.time_base = 0, Fraction(1, 10)
    found = [DecodedPicture(picture, UPRIGHT)]
    monkeypatch.setattr(recordings, "open_pictures", lambda path, limits: found)
    (shown,) = upright_images(recording.path)
    assert shown.stays_seconds is None


def test_a_source_that_is_stopped_gives_nothing_more(recording):
    source = RecordingSource(recording, SIZE)
    items = iter(source)
    next(items)
    next(items)
    source.stop()
    assert list(items) == []
