"""A recording with damaged numbers and colours ends with a reason, never an exception."""

from dataclasses import replace
from datetime import UTC, datetime

import av
import pytest

from tests.clips import cut
from tests.conftest import WALKWAY
from worker.frames import Frame
from worker.sources.recording import RecordingSource, probe_recording

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
