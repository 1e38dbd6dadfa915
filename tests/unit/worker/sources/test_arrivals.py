from fractions import Fraction

import pytest

from worker.sources.arrivals import (
    FASTEST_DRIFT,
    JUMP_AHEAD_SECONDS,
    JUMP_BACK_REORDERED_SECONDS,
    JUMP_BACK_SECONDS,
    PRFT,
    PTS_DRIFT,
    REPORT_JUMP_SECONDS,
    ArrivalClock,
    SenderClock,
)

MILLISECONDS = Fraction(1, 1000)
UNIX = 1_795_000_000.0
"""Unix time at monotonic 0."""


class SideData(bytes):
    @property
    def buffer_size(self):
        return len(self)


class Packet:
    """As PyAV's, with pts in milliseconds."""

    time_base = MILLISECONDS
    size = 1000
    is_keyframe = False

    def __init__(self, seconds, wall_clock=None):
        self.pts = None if seconds is None else round(seconds * 1000)
        self._wall_clock = wall_clock

    def get_sidedata(self, kind):
        assert kind == "prft"
        if self._wall_clock is None:
            return SideData()
        return SideData(PRFT.pack(round(self._wall_clock * 1e6), 0))


def dated(clock, pairs):
    """Arrivals of packets by (pts in seconds, arrival), optionally with the sender's wall clock."""
    return [clock.date(Packet(seconds, *wall), at) for seconds, at, *wall in pairs]


@pytest.fixture
def clock():
    return ArrivalClock(timed=True)


def lags(arrivals):
    return [round(arrival.lag_seconds(arrival.at), 3) for arrival in arrivals]


def test_what_waits_here_ages_by_the_second(clock):
    (arrival,) = dated(clock, [(0.0, 10.0)])
    assert arrival.lag_seconds(10.0) == 0
    assert arrival.lag_seconds(13.5) == 3.5


def test_what_was_delayed_more_than_the_fastest_packet_lags_by_that(clock):
    found = dated(clock, [(0.0, 10.0), (1.0, 11.3), (2.0, 12.0)])
    assert lags(found)[0] == 0
    assert lags(found)[1] == pytest.approx(0.3, abs=0.1)
    assert lags(found)[2] == 0


def test_a_burst_at_the_start_is_as_old_as_the_packet_that_ends_it_shows(clock):
    found = dated(clock, [(i / 10, 5.0) for i in range(6)])
    assert lags(found) == [0.5, 0.4, 0.3, 0.2, 0.1, 0.0]


def test_a_clock_that_runs_slow_is_no_lag(clock):
    slow = 1 - PTS_DRIFT + 0.005
    found = dated(clock, [(at * slow, at) for at in range(0, 100, 1)])
    assert max(lags(found)) < 0.01


def test_a_clock_that_runs_slower_than_clocks_do_is(clock):
    found = dated(clock, [(at * 0.8, at) for at in range(0, 20)])
    assert lags(found)[-1] == pytest.approx(19 * (0.2 - PTS_DRIFT), abs=0.1)


def test_a_jump_forward_begins_a_run_and_is_no_lag(clock):
    pairs = [(0.0, 0.0), (0.1, 0.1), (100.0, 0.2), (100.1, 0.3), (200.0, 0.4)]
    found = dated(clock, [(seconds, 5000 + at) for seconds, at in pairs])
    assert [arrival.run for arrival in found] == [0, 0, 1, 1, 2]
    assert lags(found) == [0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("has_b_frames", "back"), [(False, JUMP_BACK_SECONDS), (True, JUMP_BACK_REORDERED_SECONDS)]
)
def test_a_jump_back_begins_a_run_and_is_no_lag(has_b_frames, back):
    clock = ArrivalClock(timed=True, has_b_frames=lambda: has_b_frames)
    found = dated(clock, [(50.0, 0.0), (50.1, 0.1), (50.1 - back - 0.01, 0.2)])
    assert [arrival.run for arrival in found] == [0, 0, 1]
    assert lags(found) == [0, 0, 0]


def test_reordering_is_no_jump(clock):
    found = dated(clock, [(0.0, 0.0), (0.5, 0.1), (0.1, 0.2), (0.2, 0.3), (1.0, 0.4)])
    assert {arrival.run for arrival in found} == {0}


def test_what_catches_up_after_a_pause_of_the_network_is_no_jump(clock):
    found = dated(clock, [(0.0, 0.0), *((i / 10, 8.0) for i in range(1, 80)), (8.0, 8.0)])
    assert {arrival.run for arrival in found} == {0}
    assert lags(found)[1] == pytest.approx(7.9, abs=0.5)
    assert lags(found)[-1] == 0


def test_what_was_lost_in_a_pause_of_the_network_is_no_jump(clock):
    found = dated(clock, [(0.0, 0.0), (0.1, 8.0), (4.1, 8.0), (8.0, 8.0)])
    assert {arrival.run for arrival in found} == {0}


def test_a_step_as_long_as_the_limit_is_no_jump():
    for has_b_frames, back in [(False, JUMP_BACK_SECONDS), (True, JUMP_BACK_REORDERED_SECONDS)]:
        clock = ArrivalClock(timed=True, has_b_frames=lambda given=has_b_frames: given)
        found = dated(clock, [(back, 0.0), (0.0, 0.1), (JUMP_AHEAD_SECONDS, 0.1)])
        assert {arrival.run for arrival in found} == {0}


def test_a_packet_is_never_captured_after_it_arrived(clock):
    slow = 1 - PTS_DRIFT + 0.005
    first, *_ = dated(clock, [(at * slow, at) for at in range(100)])
    assert first.captured_at == first.at


def test_timestamps_that_ffmpeg_guesses_say_nothing(clock):
    clock = ArrivalClock(timed=False)
    found = dated(clock, [(0.0, 0.0), (0.04, 3.0)])
    assert lags(found) == [0, 0]
    assert found[1].seconds == 0.04
    assert dated(ArrivalClock(timed=False), [(None, 3.0)])[0].pts is None


def test_a_packet_whose_ticks_have_no_unit_has_no_time(clock):
    packet = Packet(0.0)
    packet.time_base = None
    arrival = clock.date(packet, 3.0)
    assert (arrival.pts, arrival.seconds, arrival.captured_at) == (None, None, 3.0)


def test_the_first_packet_of_a_camera_counts_from_zero(clock):
    first, second = dated(clock, [(None, 5.0), (0.1, 5.0)])
    assert (first.pts, first.seconds) == (0, 0.0)
    assert (first.captured_at, second.captured_at) == pytest.approx((4.9, 5.0))
    (later,) = dated(clock, [(None, 6.0)])
    assert later.pts is None
    assert later.captured_at == 6.0


def by_sender(pairs, delay=0.1):
    """(pts, arrival, wall clock) by (pts, offset of the wall clock from pts)."""
    return [(seconds, seconds + delay, UNIX + seconds + offset) for seconds, offset in pairs]


def times(arrivals):
    return [
        None if arrival.sender_seconds is None else round(arrival.sender_seconds - UNIX, 3)
        for arrival in arrivals
    ]


def test_a_report_counts_from_the_second_packet_that_bears_it(clock):
    # FFmpeg's parser gives the first one the time of the packet after it.
    found = dated(clock, by_sender([(0.0, 0.04), (0.04, 0.0), (0.08, 0.0)]))
    assert times(found) == [None, None, 0.08]


def test_the_rate_between_two_reports_carries_on(clock):
    steps = [i / 10 for i in range(40)]
    # Pts run 5 % slow, a report comes each second.
    found = dated(clock, by_sender([(s, int(s) * 0.05) for s in steps]))
    wrong = [t - s * 1.05 for t, s in zip(times(found), steps, strict=True) if t is not None]
    assert min(wrong) > -0.06
    assert max(map(abs, wrong[15:])) < 0.011  # from the second report on


def test_two_reports_close_together_say_nothing_about_later(clock):
    # The second is 8 ms off, as a busy camera's: a tenth of the time between them.
    pairs = [(i / 25, 0.0 if i < 5 else 0.008) for i in range(1500)]
    found = dated(clock, by_sender(pairs))
    wrong = [t - s for t, (s, _) in zip(times(found), pairs, strict=True) if t is not None]
    assert max(map(abs, wrong)) < 0.02


def test_a_report_with_each_packet_is_followed_though_the_rate_is_wrong(clock):
    steps = [i / 25 for i in range(100)]
    found = dated(clock, by_sender([(s, s * 0.05) for s in steps]))
    assert times(found)[1:] == pytest.approx([s * 1.05 for s in steps[1:]], abs=0.003)


def test_a_clock_that_is_set_moves_no_time_and_is_marked(clock):
    before = [(i / 10, 0.0) for i in range(10)]
    after = [(i / 10, REPORT_JUMP_SECONDS + 0.1) for i in range(10, 20)]
    found = dated(clock, by_sender(before + after))
    assert times(found)[2:] == [round(i / 10, 3) for i in range(2, 20)]
    assert [arrival.clock_was_set for arrival in found] == [False] * 11 + [True] * 9
    assert max(lags(found)) < 0.01


def test_reports_that_disagree_a_little_are_followed(clock):
    before = [(i / 10, 0.0) for i in range(10)]
    after = [(i / 10, 0.02) for i in range(10, 12)]
    found = dated(clock, by_sender(before + after))
    assert times(found)[-1] == pytest.approx(1.12, abs=0.001)
    assert not found[-1].clock_was_set


def test_after_a_jump_of_the_timestamps_only_a_new_report_counts(clock):
    before = by_sender([(i / 10, 0.0) for i in range(5)])
    # FFmpeg applies the old report to the new timestamps.
    stale = [(100 + s, 0.5 + s + 0.1, UNIX + 100 + s) for s in (0.0, 0.1, 0.2)]
    fresh = [(100 + s, 0.5 + s + 0.1, UNIX + 0.5 + s) for s in (0.3, 0.4, 0.5)]
    found = dated(clock, before + stale + fresh)
    assert times(found)[5:] == [None, None, None, None, 0.9, 1.0]
    assert max(lags(found)) < 0.01


def test_what_is_late_by_arrival_is_late_by_report(clock):
    found = dated(clock, [(0.0, 0.0), (0.1, 0.6), (0.2, 0.7, UNIX + 0.2), (0.3, 0.8, UNIX + 0.3)])
    assert lags(found)[1:] == pytest.approx([0.47, 0.46, 0.46], abs=0.05)


def test_the_senders_clock_is_believed_where_pts_drift(clock):
    # 9 % slow, with a report each second: by pts alone the lag would be 0.6 s after 20 s.
    steps = [i / 10 for i in range(200)]
    pairs = [(s * 0.91, s + 0.1, UNIX + int(s) + (s - int(s)) * 0.91) for s in steps]
    assert max(lags(dated(clock, pairs))) < 0.2


@pytest.mark.parametrize("wall_clock", [0.0, -5.0])
def test_an_unset_wall_clock_is_none(clock, wall_clock):
    found = dated(clock, [(0.1, 0.1, wall_clock), (0.1, 0.2, wall_clock), (0.1, 0.3, wall_clock)])
    assert times(found) == [None, None, None]


def reported(clock, reports, last):
    """The last arrival, if a report each gave these offsets from pts on; two packets bear each."""
    pairs = [(seconds + step, offset) for seconds, offset in reports for step in (0, 0)]
    return dated(clock, by_sender([*pairs, last]))[-1]


def test_a_drift_between_distant_reports_is_no_clock_that_was_set(clock):
    rate = 0.09
    reports = [(seconds, seconds * rate) for seconds in (0, 20, 40)]
    arrival = reported(clock, reports, (50, 40 * rate))
    assert times([arrival]) == [50 + 50 * rate]
    assert not arrival.clock_was_set


def test_a_report_soon_after_another_is_not_expected_to_have_drifted(clock):
    reports = [(0, 0.0), (1, 0.09), (1.05, 0.0945)]
    assert not reported(clock, reports, (1.06, 0.0945)).clock_was_set


@pytest.mark.parametrize("change", [0.5, -0.5])
def test_a_report_far_from_the_last_is_no_drift_that_goes_on(clock, change):
    arrival = reported(clock, [(0, 0.0), (1, change)], (2, change))
    assert not arrival.clock_was_set
    drift = FASTEST_DRIFT if change > 0 else -FASTEST_DRIFT
    assert times([arrival]) == [2 + change + drift]


def test_a_clock_that_is_set_keeps_its_drift(clock):
    reports = [(0, 0.0), (1, 0.05), (2, 100.1)]
    arrival = reported(clock, reports, (2.5, 100.1))
    assert times([arrival]) == [2.5 * 1.05]
    assert arrival.clock_was_set


@pytest.mark.parametrize("seconds", [1.0, 0.96])
def test_a_report_on_a_packet_that_is_not_later_says_nothing_of_drift(clock, seconds):
    arrival = reported(clock, [(1.0, 0.0), (seconds, 0.01)], (2.0, 0.01))
    assert times([arrival]) == [2.01]


def test_rounding_to_ticks_does_not_keep_a_report_from_being_confirmed():
    clock = SenderClock()
    assert clock.seconds_of(10.0, 1000.0) is None
    assert clock.seconds_of(10.0, 1000.0005) == pytest.approx(1000.0005)
