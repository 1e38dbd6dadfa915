"""HLS playlists as cameras, read from real servers on loopback."""

import itertools
import math

import pytest

from tests.clips import cut
from tests.conftest import WALKWAY
from tests.faults.watching import SIZE, Watch
from tests.playlists import RATE, PlaylistServer, segments
from worker.frames import Frame, StreamDown
from worker.sources.pacing import FASTEST
from worker.sources.recording import RecordingSource, probe_recording


@pytest.fixture(scope="module")
def contents(tmp_path_factory):
    return segments(tmp_path_factory.mktemp("segments"), 6)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return segments(tmp_path_factory.mktemp("others"), 2)


def pts_seconds(frames):
    return [float(frame.pts * frame.time_base) for frame in frames]


def assert_played_at_its_own_speed(frames):
    """Never faster than what is late is caught up, so that nothing comes as a burst."""
    seconds = pts_seconds(frames)
    times = [frame.captured_monotonic for frame in frames]
    for index in range(1, len(frames)):
        step = seconds[index] - seconds[index - 1]
        assert times[index] - times[index - 1] > step / FASTEST - 0.001


def watched(server, frames, **options):
    with Watch(server.url, allow_playlists=True, **options) as watch:
        found = watch.wait_for_frames(frames, timeout=40)
        return found, watch.downs(), watch.ups()


@pytest.mark.long
def test_a_complete_playlist_is_played_at_its_own_speed(contents):
    with PlaylistServer(contents[:4]) as server:
        found, downs, _ = watched(server, 4 * RATE)
    assert_played_at_its_own_speed(found)
    assert [frame.frame_index for frame in found[: 4 * RATE]] == list(range(4 * RATE))
    assert {frame.dropped for frame in found} == {0}
    assert not downs or downs[0].reason == "closed"


@pytest.mark.long
def test_a_live_playlist_is_played_at_its_own_speed(contents):
    with PlaylistServer(contents, begins_with=3) as server:
        found, _, ups = watched(server, 5 * RATE)
    assert len(ups) == 1
    assert_played_at_its_own_speed(found)
    assert [round((s - pts_seconds(found)[0]) * RATE) for s in pts_seconds(found)][: 5 * RATE] == (
        list(range(5 * RATE))
    )
    assert {frame.dropped for frame in found} == {0}


def test_a_playlist_is_sampled_by_its_timestamps(contents):
    with PlaylistServer(contents[:4]) as server:
        found, _, _ = watched(server, 16, fps=5)
    seconds = pts_seconds(found)
    steps = [round(b - a, 2) for a, b in itertools.pairwise(seconds)]
    assert sorted(steps)[len(steps) // 2] == 0.2  # a late picture shifts the choice by one
    assert sum(steps) / len(steps) == pytest.approx(0.2, abs=0.02)
    assert {frame.dropped for frame in found} == {0}


@pytest.mark.long
def test_after_timestamps_that_jump_back_playing_goes_on_at_its_own_speed(contents, others):
    server = PlaylistServer([*contents[2:4], *others], discontinuities=[2])
    with server, Watch(server.url, allow_playlists=True) as watch:
        watch.wait_for_frames(4 * RATE - 1, timeout=40)
        items = [item for _, item in watch.items]
    jump = next(index for index, item in enumerate(items) if isinstance(item, StreamDown))
    before, after = (
        [item for item in part if isinstance(item, Frame)] for part in (items[:jump], items[jump:])
    )
    # FFmpeg gives the last picture before a jump only with the first one after it.
    assert len(before) == pytest.approx(2 * RATE, abs=1)
    assert pts_seconds(after)[0] < pts_seconds(before)[-1]
    assert_played_at_its_own_speed(before)
    assert_played_at_its_own_speed(after)
    assert after[0].captured_monotonic - before[-1].captured_monotonic < 2


def test_segments_that_are_missing_are_no_pause(contents):
    with PlaylistServer([contents[0], contents[5]]) as server:
        found, _, _ = watched(server, 2 * RATE)
    gap, waited = max(
        (float(b.pts - a.pts) / 90_000, b.captured_monotonic - a.captured_monotonic)
        for a, b in itertools.pairwise(found)
    )
    assert gap > 4
    assert waited < gap / 2


def test_stopping_a_playlist_takes_no_segment(contents):
    with PlaylistServer(contents) as server, Watch(server.url, allow_playlists=True) as watch:
        watch.wait_for_frames(3)
        assert watch.stop() < 5


@pytest.mark.long
@pytest.mark.parametrize("fps", [5, 10])
def test_a_file_without_timestamps_is_sampled_live_as_in_a_replay(tmp_path, fps):
    options = {"g": "4", "preset": "ultrafast"}
    path = cut(WALKWAY, tmp_path / "clip.h264", frames=50, size=(144, 192), options=options)
    with Watch(str(path), fps=fps) as watch:
        watch.wait_for_down()
        found = watch.frames()
    recording = RecordingSource(probe_recording(path, "clip"), SIZE, fps=fps)
    replayed = [item for item in recording if isinstance(item, Frame)]
    assert {frame.pts for frame in found} == {None}
    assert [frame.frame_index for frame in found] == [
        math.ceil(number * 25 / fps) for number in range(2 * fps)
    ]
    assert [(f.frame_index, f.skipped) for f in found] == [
        (f.frame_index, f.skipped) for f in replayed
    ]
