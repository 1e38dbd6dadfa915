from datetime import UTC, datetime, timedelta

import pytest

from worker.sources.capture_clock import CaptureClock

ARRIVED = datetime(2026, 11, 22, 10, 0, 0, tzinfo=UTC)
ZERO = round(ARRIVED.timestamp() * 1e6)


def test_a_plausible_report_gives_the_time():
    captured_at, clock = CaptureClock().time_of(ZERO - 10_200_000, 10.0, ARRIVED)
    assert clock == "rtcp"
    assert captured_at == ARRIVED - timedelta(seconds=0.2)


@pytest.mark.parametrize(
    ("zero", "pts_seconds"),
    [
        (None, 1.0),
        (0, 1.0),
        (-5, 1.0),
        (ZERO, None),
        (86_400_000_000, 0.0),  # 1970: the clock was never set
        (ZERO, 1e15),
        (2**63 - 1, 0.0),
    ],
)
def test_an_implausible_report_gives_this_hosts_time(zero, pts_seconds):
    assert CaptureClock().time_of(zero, pts_seconds, ARRIVED) == (ARRIVED, "arrival")


@pytest.mark.parametrize("jump", [-20.0, 20.0])
def test_timestamps_are_not_trusted_again_after_a_jump(jump):
    capture_clock = CaptureClock()
    assert capture_clock.time_of(ZERO, 0.0, ARRIVED)[1] == "rtcp"
    assert capture_clock.time_of(ZERO, jump, ARRIVED) == (ARRIVED, "arrival")
    assert capture_clock.time_of(ZERO, 0.0, ARRIVED) == (ARRIVED, "arrival")


def test_pictures_delayed_by_the_network_keep_their_time():
    capture_clock = CaptureClock()
    capture_clock.time_of(ZERO, 0.0, ARRIVED)
    late = ARRIVED + timedelta(seconds=3)
    assert capture_clock.time_of(ZERO, 0.1, late) == (ARRIVED + timedelta(seconds=0.1), "rtcp")
