import threading
import time

import pytest

from worker.sources.reasons import SILENCE_SECONDS
from worker.sources.reconnecting import (
    FIRST_BACKOFF_SECONDS,
    LAST_BACKOFF_SECONDS,
    STEADY_SECONDS,
    Backoff,
    Turnstile,
    longest_backoff,
)

PROMISED_SECONDS = 5.0
FIRST_FRAME_SECONDS = 0.6
"""From the connect, measured with a 10 fps camera."""


def waits(backoff, count, reason="refused", attempt_seconds=0.0, up_seconds=0.0):
    return [
        backoff.seconds(reason, attempt_seconds=attempt_seconds, up_seconds=up_seconds)
        for _ in range(count)
    ]


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.5), (2, 1), (3, 2), (4, 3), (10**6, 3)])
def test_the_wait_for_a_dead_camera_grows_to_a_limit_and_stays_there(failures, seconds):
    assert longest_backoff(failures) == seconds


def test_a_camera_is_back_in_time_whenever_its_fault_ends():
    refused = max(waits(Backoff(), 1000))
    assert refused + FIRST_FRAME_SECONDS < PROMISED_SECONDS
    silent = max(waits(Backoff(), 1000, "timeout", attempt_seconds=SILENCE_SECONDS))
    assert SILENCE_SECONDS + silent + FIRST_FRAME_SECONDS < PROMISED_SECONDS


def test_no_wait_is_as_long_as_another_or_shorter_than_half():
    last = waits(Backoff(), 100)[10:]
    assert len({round(seconds, 3) for seconds in last}) > 50
    assert min(last) >= LAST_BACKOFF_SECONDS / 2


def test_a_connection_that_held_is_followed_at_once_and_one_that_broke_is_not():
    backoff = Backoff()
    waits(backoff, 10)
    broke = waits(backoff, 1, "closed", attempt_seconds=0.5, up_seconds=0.1)[0]
    assert broke >= LAST_BACKOFF_SECONDS / 2 - 0.5
    held = waits(backoff, 1, "closed", attempt_seconds=60, up_seconds=STEADY_SECONDS)[0]
    assert held <= FIRST_BACKOFF_SECONDS


def longest_waits(steps):
    """The longest wait after each of some attempts, of many cameras that went through them."""
    cameras = [[waits(backoff, 1, **step)[0] for step in steps] for backoff in cameras_of(400)]
    return [max(of_cameras) for of_cameras in zip(*cameras, strict=True)]


def cameras_of(count):
    return [Backoff() for _ in range(count)]


def test_every_failure_doubles_the_wait_from_the_first_on():
    longest = longest_waits([{}] * 5)
    assert longest == pytest.approx([0.5, 1, 2, 3, 3], rel=0.1)


@pytest.mark.parametrize(
    ("up_seconds", "longest"), [(STEADY_SECONDS, [0.5, 1, 2]), (STEADY_SECONDS - 0.1, [0.5, 3, 3])]
)
def test_after_a_connection_that_held_the_waits_begin_anew(up_seconds, longest):
    held = {"attempt_seconds": 60, "up_seconds": up_seconds}
    assert longest_waits([{}] * 5 + [held, {}, {}])[5:] == pytest.approx(longest, rel=0.1)


def test_no_camera_is_tried_again_at_once_however_long_the_attempt_took():
    attempts = waits(Backoff(), 200, "timeout", attempt_seconds=60)
    assert min(attempts) >= FIRST_BACKOFF_SECONDS / 2
    assert max(attempts) <= FIRST_BACKOFF_SECONDS
    assert len(set(attempts)) > 100


def test_a_refused_login_is_tried_again_slowly_from_the_first():
    assert min(waits(Backoff(), 100, "unauthorized", attempt_seconds=5)) >= 15


def test_the_time_of_an_attempt_counts_as_waiting():
    backoff = Backoff()
    waits(backoff, 10)
    assert max(waits(backoff, 200, attempt_seconds=1)) <= LAST_BACKOFF_SECONDS - 1
    assert max(waits(backoff, 200, attempt_seconds=1)) > LAST_BACKOFF_SECONDS - 1.5


def test_a_turnstile_lets_one_through_after_another_and_none_wait_for_nobody():
    turnstile = Turnstile(10.0)
    assert turnstile.seconds() == 0
    assert turnstile.seconds() == pytest.approx(10, abs=1)
    assert turnstile.seconds() == pytest.approx(20, abs=1)
    idle = Turnstile(0.001)
    idle.seconds()
    time.sleep(0.002)
    assert idle.seconds() == 0


def test_a_turn_is_given_to_one_thread_at_a_time():
    turnstile = Turnstile(10.0)
    waits = []
    thread = threading.Thread(target=lambda: waits.append(turnstile.seconds()), daemon=True)
    with turnstile._lock:
        thread.start()
        thread.join(0.05)
        assert waits == []
    thread.join(20)
    assert waits == [0]
