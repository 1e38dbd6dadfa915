"""When pictures were captured, and which are published: compared with what the camera sent."""

import itertools
import random
import re
import time

import pytest

from tests.conftest import wait_until
from tests.faults.numbered_camera import NumberedCamera, number_in, numbered_clip
from tests.faults.watching import BUSY_SECONDS, SIZE, Watch
from worker.frames import Frame, StreamLate
from worker.sources.arrivals import PTS_DRIFT
from worker.sources.connection import STALE_SECONDS
from worker.sources.live import LiveSource

RATE = 25
FRAME_SECONDS = 1 / RATE


@pytest.fixture(scope="module")
def clips():
    """By the number of B-frames between two others."""
    return {count: numbered_clip(b_frames=count) for count in (0, 2)}


def number_of(camera, frame):
    return number_in(frame.image, camera.numbered.size)


def seconds_off(camera, frame):
    """By how much a frame's time is later than its picture was captured."""
    stated = frame.captured_at.timestamp()
    return stated - camera.captured_at(number_of(camera, frame), stated)


def watch_frames(camera, wanted, **options):
    """Frames until ``wanted`` is true of them."""
    with Watch(camera.url, **options) as watch:
        return wait_until(lambda: wanted(f := watch.frames()) and f, 40, "the frames")


def enough_with_reports(frames):
    return sum(frame.clock == "rtcp" for frame in frames) >= 3 * RATE


def assert_in_order(camera, frames):
    seconds = [frame.pts * frame.time_base for frame in frames]
    assert seconds == sorted(seconds)
    times = [frame.captured_at for frame in frames]
    assert times == sorted(times)
    numbers = [number_of(camera, frame) for frame in frames]
    assert all((b - a) % 256 < 128 for a, b in itertools.pairwise(numbers)), numbers


CASES = [
    # first timestamp, speed of the RTP clock, B-frames, stamps
    (0, 0.95, 0, "presentation"),
]
MORE_CASES = [
    (0, 1.0, 2, "decoding"),
    (None, 1.0, 0, "presentation"),
    (None, 1.05, 2, "presentation"),
    (0, 1.05, 0, "presentation"),
    (None, 0.95, 2, "presentation"),
    (0, 1.0, 2, "presentation"),
    (None, 1.0, 2, "decoding"),
    (None, 1.0001, 0, "presentation"),
]


@pytest.mark.parametrize(
    ("first_timestamp", "clock_speed", "b_frames", "stamps"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.long) for case in MORE_CASES)],
)
def test_times_are_right_to_a_frame_by_arrival_and_better_by_report(
    clips, first_timestamp, clock_speed, b_frames, stamps
):
    with NumberedCamera(
        clips[b_frames], first_timestamp=first_timestamp, clock_speed=clock_speed, stamps=stamps
    ) as camera:
        frames = watch_frames(camera, enough_with_reports)
        assert_in_order(camera, frames)
        by_arrival = [seconds_off(camera, f) for f in frames[2:] if f.clock == "arrival"]
        by_report = [seconds_off(camera, f) for f in frames if f.clock == "rtcp"]
    # FFmpeg passes a picture on when the next one begins; pictures arrive in decoding order.
    held_back = (1 + camera.numbered.reordered) * FRAME_SECONDS
    assert min(by_arrival) > -FRAME_SECONDS
    assert max(by_arrival) < held_back + FRAME_SECONDS
    # One frame, where timestamps count packets; up to the second report, 5 % of a second.
    assert max(abs(off) for off in by_report) < 1.5 * FRAME_SECONDS
    if stamps == "presentation":
        assert max(abs(off) for off in by_report[RATE + 5 :]) < FRAME_SECONDS / 4


def test_pts_count_the_pictures_that_were_sent(clips):
    with NumberedCamera(clips[2], stamps="presentation") as camera:
        frames = watch_frames(camera, lambda frames: len(frames) >= 2 * RATE)
        first, *others = [frame for frame in frames if frame.pts is not None]
        for frame in others:
            pictures = (frame.pts - first.pts) * frame.time_base * RATE
            assert pictures == (number_of(camera, frame) - number_of(camera, first)) % 256


@pytest.mark.parametrize("reports", [1.0, pytest.param(None, marks=pytest.mark.long)])
@pytest.mark.long
def test_what_is_read_too_slowly_is_dropped_and_what_is_handed_on_is_of_now(clips, reports):
    with NumberedCamera(clips[0], report_seconds=reports) as camera:
        source = LiveSource("gate", camera.url, SIZE, itertools.count(1000).__next__)
        frames, late, ages, began = [], [], [], time.monotonic()
        for item in source:
            if isinstance(item, StreamLate):
                late.append(item)
            if isinstance(item, Frame):
                frames.append(item)
                now = time.time()
                ages.append(now - camera.captured_at(number_of(camera, item), now))
                time.sleep(0.3)  # as decoding 4K does on a busy machine
            if time.monotonic() - began > 12:
                source.stop()
        sent = camera.sent
    assert max(ages) < STALE_SECONDS + BUSY_SECONDS
    assert late
    dropped = sum(item.dropped for item in [*frames, *late])
    # What waits, what FFmpeg holds, what it read before the camera was up.
    assert sent - 3 * RATE <= len(frames) + dropped <= sent
    assert {frame.clock for frame in frames[-20:]} == {"rtcp" if reports else "arrival"}
    assert max(abs(seconds_off(camera, frame)) for frame in frames[2:]) < 3 * FRAME_SECONDS
    assert_in_order(camera, frames)


@pytest.mark.parametrize("reports", [1.0, pytest.param(None, marks=pytest.mark.long)])
def test_of_a_server_that_sends_what_it_kept_only_what_is_of_now_is_handed_on(clips, reports):
    began = time.monotonic()
    with NumberedCamera(clips[0], cached=8 * RATE, report_seconds=reports) as camera:
        with Watch(camera.url) as watch:
            watch.wait_for_frames(2 * RATE)
        ages = [at - began for at, item in watch.items if isinstance(item, Frame)]
        frames = watch.frames()
    assert max(abs(seconds_off(camera, frame)) for frame in frames[2:]) < 3 * FRAME_SECONDS
    # 8 s of video came at once; the next key frame would not have been waited for.
    assert ages[0] < 3 + BUSY_SECONDS
    assert frames[0].captured_at.timestamp() > camera.began_at + 8 - STALE_SECONDS
    assert frames[0].dropped == 0
    assert watch.downs() == []


@pytest.mark.long
def test_a_camera_of_few_pictures_is_up_though_b_frames_keep_all_of_them_back(clips):
    # Two B-frames at 2 frames/s: every picture comes out of the decoder more than 0.5 s late.
    with NumberedCamera(clips[2], rate=2) as camera, Watch(camera.url) as watch:
        watch.wait_for_frames(6)
    assert watch.downs() == []
    for at, item in watch.items:
        if isinstance(item, Frame):
            assert at - item.captured_monotonic < STALE_SECONDS + BUSY_SECONDS


@pytest.mark.long
def test_pictures_that_are_late_on_their_way_say_so_and_are_reconnected(clips):
    # Half a second of delay more each second: a network that carries two thirds.
    with (
        NumberedCamera(clips[0], delay=lambda seconds: seconds / 2) as camera,
        Watch(camera.url) as watch,
    ):
        down = watch.wait_for_down(timeout=40)
        assert down.reason == "late"
        assert re.fullmatch("its pictures arrive [23] s late", down.detail)
        frames = watch.frames()
        late = [item for _, item in watch.items if isinstance(item, StreamLate)]
        assert late
        lost = sum(item.dropped for item in [*late, *frames])
        assert down.frames >= len(frames)
        assert camera.sent - RATE <= len(frames) + lost + 25 * 3
        for at, item in watch.items:
            if isinstance(item, Frame):
                assert at - item.captured_monotonic < STALE_SECONDS + BUSY_SECONDS
        wait_until(lambda: len(watch.ups()) == 2, 20, "the next connection")


@pytest.mark.long
def test_slow_timestamps_without_reports_are_found_out_and_then_ignored(clips, caplog):
    with (
        NumberedCamera(clips[0], clock_speed=0.5, report_seconds=None) as camera,
        Watch(camera.url) as watch,
    ):
        wait_until(lambda: len(watch.ups()) == 3, 60, "the third connection")
        third = watch.ups()[-1].epoch
        wait_until(
            lambda: len([f for f in watch.frames() if f.epoch == third]) > 20 * RATE, 40, "frames"
        )
        assert [down.reason for down in watch.downs()] == ["late", "late"]
        frames = [frame for frame in watch.frames() if frame.epoch == third]
        assert not any(frame.dropped for frame in frames)
    assert "its timestamps are too slow, twice in a row" in caplog.text


def test_a_camera_whose_timestamps_restart_begins_a_new_epoch(clips):
    with NumberedCamera(clips[0]) as camera, Watch(camera.url) as watch:
        watch.wait_for_frames(RATE)
        camera.restart_timestamps()
        wait_until(lambda: len(watch.ups()) == 2, 10, "the second epoch")
        watch.wait_for_frames(3 * RATE)
        assert [down.reason for down in watch.downs()] == ["timestamps"]
        for up in watch.ups():
            frames = [frame for frame in watch.frames() if frame.epoch == up.epoch]
            assert frames[0].frame_index == 0
            assert_in_order(camera, frames)
            assert max(abs(seconds_off(camera, frame)) for frame in frames[2:]) < 3 * FRAME_SECONDS


@pytest.mark.long
def test_a_clock_that_is_set_in_a_connection_moves_no_time(clips):
    with NumberedCamera(clips[0]) as camera, Watch(camera.url) as watch:
        wait_until(lambda: enough_with_reports(watch.frames()), 20, "reports")
        camera.set_clock_by = 20.0
        wait_until(lambda: watch.frames()[-1].clock == "arrival", 10, "the other clock")
        watch.wait_for_frames(len(watch.frames()) + RATE)
        frames = watch.frames()
        assert_in_order(camera, frames)
        assert max(abs(seconds_off(camera, frame)) for frame in frames[2:]) < 3 * FRAME_SECONDS


def items_until_camera_hangs_up(camera, seconds, **options):
    """What a source gives of one connection, and how many packets were sent in it."""
    with camera, Watch(camera.url, **options) as watch:
        watch.wait_for_frames(2)
        wait_until(lambda: camera.sent > seconds * RATE, 40, "pictures")
        sent = camera.sent
        camera.hang_up()
        down = watch.wait_for_down()
        before = [item for _, item in watch.items]
    return before[1 : before.index(down) + 1], sent


@pytest.mark.long
@pytest.mark.parametrize("b_frames", [0, 2])
@pytest.mark.parametrize("fps", [0.5, 1, 5, 24, None])
def test_pictures_analysed_skipped_and_dropped_are_those_that_were_sent(clips, b_frames, fps):
    items, sent = items_until_camera_hangs_up(NumberedCamera(clips[b_frames]), 4, fps=fps)
    frames = [item for item in items if isinstance(item, Frame)]
    left_out = sum(item.skipped + item.dropped for item in items)
    # The last one is held back by FFmpeg; some may have come between counting and hanging up.
    assert sent - 1 <= len(frames) + left_out <= sent + 2
    assert not any(item.dropped for item in items)


def test_a_camera_whose_clock_is_behind_does_not_halt_the_time(clips):
    with NumberedCamera(clips[0]) as camera:
        camera.set_clock_by = -20.0
        frames = watch_frames(camera, lambda frames: len(frames) >= 3 * RATE)
        assert_in_order(camera, frames)
        assert {frame.clock for frame in frames} == {"arrival"}
        assert max(abs(seconds_off(camera, frame)) for frame in frames[2:]) < 3 * FRAME_SECONDS


@pytest.mark.long
def test_a_camera_whose_wrong_clock_is_set_right_begins_a_new_epoch(clips, caplog):
    with NumberedCamera(clips[0], report_seconds=0.2) as camera, Watch(camera.url) as watch:
        camera.set_clock_by = 20.0
        wait_until(lambda: enough_with_reports(watch.frames()), 20, "reports")
        camera.set_clock_by = 0.0
        wait_until(lambda: len(watch.ups()) == 2, 10, "the second epoch")
        watch.wait_for_frames(len(watch.frames()) + RATE)
        assert [down.reason for down in watch.downs()] == ["timestamps"]
        for up in watch.ups():
            assert_in_order(camera, [frame for frame in watch.frames() if frame.epoch == up.epoch])
        last = watch.frames()[-1]
        assert last.clock == "arrival"
        assert abs(seconds_off(camera, last)) < 3 * FRAME_SECONDS
    assert "the clock for its times jumped back" in caplog.text


@pytest.mark.long
def test_fps_holds_on_a_network_with_jitter():
    rng = random.Random(0)
    camera = NumberedCamera(
        numbered_clip(gop=256), report_seconds=None, delay=lambda seconds: rng.uniform(0, 0.4)
    )
    with camera, Watch(camera.url, fps=5) as watch:
        frames = watch.wait_for_frames(40)
    indices = [frame.frame_index for frame in frames]
    assert min(b - a for a, b in itertools.pairwise(indices)) > 1


@pytest.mark.long
@pytest.mark.parametrize("reports", [1.0, None])
def test_what_a_pause_of_the_network_held_up_catches_up_without_a_new_connection(clips, reports):
    def delay(seconds):
        return max(5.6 - seconds, 0) if seconds > 3 else 0

    with (
        NumberedCamera(clips[0], delay=delay, report_seconds=reports) as camera,
        Watch(camera.url) as watch,
    ):
        frames = watch.wait_for_frames(7 * RATE)
        assert watch.downs() == []
        for at, item in watch.items:
            if isinstance(item, Frame):
                assert at - item.captured_monotonic < STALE_SECONDS + BUSY_SECONDS
        assert any(item.dropped for _, item in watch.items[1:])
        assert_in_order(camera, frames)
        # Without reports a pause may also be a clock that runs slow, by a share of it.
        unsure = 0.0 if reports else PTS_DRIFT * 5
        off = max(abs(seconds_off(camera, frame)) for frame in frames[2:])
        assert off < 3 * FRAME_SECONDS + unsure
