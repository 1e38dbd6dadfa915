"""When pictures are played, by a clock that only waiting moves."""

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import pytest

from tests.clocks import Clock
from worker.sources import pacing
from worker.sources.pacing import FASTEST, LONGEST_GAP_SECONDS, Pace, PlaylistPace, wait_until


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(pacing, "time", clock)
    return clock


@pytest.fixture
def of_file(clock):
    return Pace(clock.wait, 0.04)


@pytest.fixture
def of_playlist(clock):
    return Pace(clock.wait, 0.04, longest_gap_seconds=2, latest_seconds=math.inf)


def played(clock, pace, seconds, busy_seconds=0.0):
    """When each picture is played, if each then takes so long."""
    times = []
    for each in seconds:
        pace.wait_for(each)
        times.append(clock.now)
        clock.now += busy_seconds
    return times


def steps(times):
    return [round(b - a, 6) for a, b in itertools.pairwise(times)]


@pytest.mark.parametrize("start", [0.0, 3600.0, -5.0])
def test_pictures_are_played_when_their_times_say(clock, of_file, start):
    times = played(clock, of_file, [start, start + 0.1, start + 0.5, start + 5])
    assert steps(times) == [0.1, 0.4, 4.5]


def test_waiting_that_takes_too_long_is_made_up_for(clock, of_file):
    times = played(clock, of_file, [i / 25 for i in range(50)], busy_seconds=0.03)
    assert times[-1] - times[0] == pytest.approx(49 / 25)


def test_what_is_late_is_caught_up_without_a_burst(clock, of_playlist):
    played(clock, of_playlist, [0.0, 0.04])
    clock.now += 3
    times = played(clock, of_playlist, [i / 25 for i in range(2, 400)])
    assert min(steps(times)) == pytest.approx(0.04 / FASTEST, abs=1e-6)
    assert times[-1] == pytest.approx(1000 + 399 / 25)


@pytest.mark.parametrize("jump", [-3600.0, -1.0, 12.0, 3600.0])
def test_after_a_jump_the_next_picture_is_played_at_once(clock, of_file, jump):
    before = [0.0, 0.04]
    times = played(clock, of_file, [*before, 0.08 + jump, 0.12 + jump])
    assert steps(times) == [0.04, 0.0, 0.04]


def test_a_gap_is_a_pause_in_a_file_and_not_in_a_playlist(clock, of_file, of_playlist):
    assert steps(played(clock, of_file, [0.0, 4.0])) == [4.0]
    assert steps(played(clock, of_playlist, [0.0, 4.0])) == [0.0]


def test_a_playlist_of_few_pictures_has_no_gaps(clock):
    pace = Pace(clock.wait, 5.0, longest_gap_seconds=2, latest_seconds=math.inf)
    assert steps(played(clock, pace, [0.0, 5.0, 10.0])) == [5.0, 5.0]


def test_pictures_that_are_slightly_out_of_order_do_not_move_the_schedule(clock, of_file):
    times = played(clock, of_file, [0.0, 0.12, 0.04, 0.08, 0.16, 0.2, 0.24, 0.28, 0.32])
    assert times[-1] - times[0] == pytest.approx(0.32)


def test_a_file_that_is_far_behind_goes_on_from_where_it_is(clock, of_file, of_playlist):
    for pace, expected in ((of_file, 0.04), (of_playlist, 0.04 / FASTEST)):
        played(clock, pace, [0.0, 0.04])
        clock.now += 11
        assert steps(played(clock, pace, [0.08, 0.12]))[0] == pytest.approx(expected, abs=1e-6)


def test_when_the_last_picture_was_played_is_known_to_the_moment(clock, of_file):
    played(clock, of_file, [5.0, 5.04], busy_seconds=0.01)
    assert of_file.played_at == pytest.approx(1000.04)


def test_what_is_just_within_a_limit_is_neither_a_jump_nor_too_late(clock, of_file):
    assert steps(played(clock, of_file, [1.0, 0.5, 1.5])) == [0.0, round(1 / FASTEST, 6)]
    assert steps(played(clock, Pace(clock.wait, 0.04), [0.0, LONGEST_GAP_SECONDS])) == [10.0]
    late = Pace(clock.wait, 0.04)
    played(clock, late, [0.0])
    clock.now += LONGEST_GAP_SECONDS
    assert steps(played(clock, late, [0.0, 3.0])) == [2.0]  # it catches up


@pytest.fixture
def sleeps(clock):
    """How long each sleep was."""
    found = []
    clock.sleep = lambda seconds: (found.append(seconds), clock.wait(seconds))
    return found


def test_a_wait_ends_when_it_is_due_and_looks_meanwhile_whether_it_was_stopped(clock, sleeps):
    assert wait_until(clock.now + 0.5, lambda: False)
    assert sleeps == pytest.approx([0.2, 0.2, 0.1])
    assert wait_until(clock.now, lambda: False)
    assert wait_until(clock.now - 1, lambda: False)
    assert len(sleeps) == 3
    stopped_at = clock.now + 0.3
    assert not wait_until(clock.now + 60, lambda: clock.now >= stopped_at)
    assert len(sleeps) == 5
    assert not wait_until(clock.now - 1, lambda: True)


def test_the_packets_of_a_playlist_are_passed_on_when_its_pictures_are_due(clock, sleeps):
    def packet(index, dts):
        return SimpleNamespace(stream_index=index, dts=dts, time_base=Fraction(1, 10))

    packets = [
        packet(1, 0), packet(0, 500), packet(1, 3), packet(0, None), packet(1, None), packet(1, 5),
    ]  # fmt: skip
    # Gaps of up to four pictures are played: of 3 s here.
    stream = SimpleNamespace(index=1, average_rate=Fraction(4, 3), guessed_rate=None)
    pace = PlaylistPace(stream, is_stopped=lambda: False)
    began_at, passed = clock.now, []
    for each in pace.of(iter(packets)):
        passed.append((each, round(clock.now - began_at, 3)))
    assert passed == list(zip(packets, [0, 0, 0.3, 0.3, 0.3, 0.5], strict=True))
    assert pace.played_at == pytest.approx(began_at + 0.5)
    for dts, waited in ((5 + 30, 3), (35 + 31, 0)):
        before = clock.now
        list(pace.of(iter([packet(1, dts)])))
        assert clock.now - before == pytest.approx(waited)


def test_a_playlist_that_is_stopped_waits_no_longer(clock, sleeps):
    stream = SimpleNamespace(index=0, average_rate=Fraction(10), guessed_rate=None)
    pace = PlaylistPace(stream, is_stopped=lambda: True)
    packets = [SimpleNamespace(stream_index=0, dts=n, time_base=Fraction(1)) for n in (0, 1)]
    assert list(pace.of(iter(packets))) == packets
    assert sleeps == []
