"""A recording with damaged numbers and colours ends with a reason, never an exception."""

import os
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import islice

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import cut, set_rotation
from tests.conftest import WALKWAY
from worker.errors import SourceError, UsageError
from worker.frames import Frame
from worker.sources.recording import (
    RecordingSource,
    _stated_start,
    check_playable,
    probe_recording,
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
    assert (found.frames, found.rate, found.start_seconds) == (14, 10, 0)
    assert found.start == datetime(2024, 5, 1, 10, tzinfo=UTC)
    plain = probe_recording(cut(WALKWAY, tmp_path / "x.mkv", frames=14, size=(48, 64)), "clip")
    assert (plain.frames, plain.start) == (14, None)


def test_the_frames_of_all_parts_are_counted(tmp_path):
    content = b""
    for pid in ("256", "512"):
        content += cut(WALKWAY, tmp_path / "x.ts", frames=20, size=(48, 64),
                       container_options={"mpegts_start_pid": pid}).read_bytes()  # fmt: skip
    (tmp_path / "x.ts").write_bytes(content)
    assert probe_recording(tmp_path / "x.ts", "clip").frames in range(36, 45)


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
