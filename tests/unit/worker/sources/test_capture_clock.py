from datetime import UTC, datetime, timedelta

import pytest

from worker.sources.arrivals import Arrival, Timeline
from worker.sources.capture_clock import (
    FURTHEST_SECONDS,
    LONGEST_HALT_SECONDS,
    CaptureClock,
)

NOW = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
MONOTONIC = 5000.0
"""The same moment."""


def arrival(ago, *, delayed=0.0, **fields):
    """A packet that arrived some seconds ago, delayed so much more than others."""
    return Arrival(None, MONOTONIC - ago, timeline=Timeline(0.0), delay_seconds=delayed, **fields)


def time_of(clock, arrived):
    captured_at, source = clock.time_of(arrived, NOW, MONOTONIC)
    return round((captured_at - NOW).total_seconds(), 6), source


def test_without_a_report_it_is_the_arrival_not_the_end_of_decoding():
    assert time_of(CaptureClock(), arrival(0.7)) == (-0.7, "arrival")


def test_what_a_packet_was_delayed_more_than_others_is_taken_off():
    assert time_of(CaptureClock(), arrival(0.7, delayed=1.5)) == (-2.2, "arrival")


def test_a_report_gives_the_time():
    reported = arrival(0.1, sender_seconds=NOW.timestamp() - 0.35)
    assert time_of(CaptureClock(), reported) == (-0.35, "rtcp")


def test_after_the_senders_clock_was_set_it_is_not_called_the_senders():
    reported = arrival(0.1, sender_seconds=NOW.timestamp() - 0.35, clock_was_set=True)
    assert time_of(CaptureClock(), reported) == (-0.35, "arrival")


@pytest.mark.parametrize(
    "off", [-FURTHEST_SECONDS - 1, FURTHEST_SECONDS + 1, -NOW.timestamp(), 1e15]
)
def test_an_implausible_report_gives_this_hosts_time(off):
    reported = arrival(0.0, sender_seconds=NOW.timestamp() + off)
    assert time_of(CaptureClock(), reported) == (0.0, "arrival")


@pytest.mark.parametrize("off", [-FURTHEST_SECONDS + 1, FURTHEST_SECONDS - 1])
def test_a_clock_within_the_limit_is_believed(off):
    reported = arrival(0.0, sender_seconds=NOW.timestamp() + off)
    assert time_of(CaptureClock(), reported) == (off, "rtcp")


def test_times_do_not_run_backwards_when_the_first_report_arrives():
    clock = CaptureClock()
    assert time_of(clock, arrival(0.0)) == (0.0, "arrival")
    assert time_of(clock, arrival(0.0, sender_seconds=NOW.timestamp() - 0.06)) == (0.0, "rtcp")
    assert time_of(clock, arrival(0.0, sender_seconds=NOW.timestamp() + 0.04)) == (0.04, "rtcp")


def reported(off, ago=0.0, **fields):
    return arrival(ago, sender_seconds=NOW.timestamp() - ago + off, **fields)


def test_a_clock_that_would_halt_the_time_for_long_is_not_taken_up():
    clock = CaptureClock()
    assert time_of(clock, arrival(0.2)) == (-0.2, "arrival")
    off = -LONGEST_HALT_SECONDS - 0.3
    assert time_of(clock, reported(off, ago=0.1)) == (-0.1, "arrival")
    assert time_of(clock, reported(-0.05, ago=0.0)) == (0.0, "arrival")


def test_a_clock_at_the_limit_is_given_up_for_good():
    clock = CaptureClock()
    assert time_of(clock, reported(-FURTHEST_SECONDS + 0.1, ago=0.3))[1] == "rtcp"
    assert time_of(clock, reported(-FURTHEST_SECONDS - 0.1, ago=0.2)) == (-0.2, "arrival")
    assert time_of(clock, reported(-FURTHEST_SECONDS + 0.1, ago=0.1)) == (-0.1, "arrival")


def test_a_clock_that_was_wrong_until_it_was_set_is_given_up():
    clock = CaptureClock()
    assert time_of(clock, reported(-20.0, ago=0.1)) == (-20.1, "rtcp")
    assert time_of(clock, reported(-20.0, clock_was_set=True)) == (0.0, "arrival")


@pytest.mark.parametrize(("back", "does"), [(0.1, True), (-0.1, False)])
def test_a_time_that_runs_far_back_is_found(back, does):
    clock = CaptureClock()
    assert not clock.runs_back(arrival(0.0), NOW, MONOTONIC)
    assert time_of(clock, arrival(0.0)) == (0.0, "arrival")
    earlier = NOW - timedelta(seconds=LONGEST_HALT_SECONDS + back)  # this host's clock was set
    assert clock.runs_back(arrival(0.0), earlier, MONOTONIC) == does
