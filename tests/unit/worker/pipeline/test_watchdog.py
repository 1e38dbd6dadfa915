import logging
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import wait_until
from worker.pipeline import watchdog as module
from worker.pipeline.watchdog import CHECKS, EXIT_CODE, watchdog

SECONDS = 0.2


class Work:
    def __init__(self, busy=True):
        self.busy = busy
        self.steps = 0

    def progress(self):
        return self.steps

    def has_work(self):
        return self.busy


@pytest.fixture
def ends():
    return []


def test_work_that_stands_still_ends_the_process_and_says_where(ends, caplog, capfd):
    with watchdog(Work(), SECONDS, ends.append):
        wait_until(lambda: ends)
    assert ends == [EXIT_CODE] == [70]
    assert "no progress" in caplog.text
    assert "test_watchdog.py" in capfd.readouterr().err  # the stack of every thread


STUCK = """
import logging, os, sys, time
from worker.pipeline.watchdog import watchdog

class Work:
    progress = lambda self: 0
    has_work = lambda self: True

logging.basicConfig()
with watchdog(Work(), 0.2):
    os.set_blocking(2, True)
    sys.stderr.write("x" * (1 << 20))  # holds the lock of the log's stream for ever
"""


@pytest.mark.long
def test_a_process_whose_log_nobody_reads_is_ended_too():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stderr=subprocess.PIPE)
    try:
        assert process.wait(30) == EXIT_CODE
    finally:
        process.kill()
        process.stderr.close()


def test_work_that_goes_on_does_not(ends):
    work = Work()
    with watchdog(work, SECONDS, ends.append):
        deadline = time.monotonic() + 3 * SECONDS
        while time.monotonic() < deadline:
            work.steps += 1
            time.sleep(SECONDS / 50)
    assert ends == []


def test_nothing_to_do_is_no_reason(ends):
    with watchdog(Work(busy=False), SECONDS, ends.append):
        time.sleep(3 * SECONDS)
    assert ends == []


def test_the_time_counts_from_when_work_came(ends):
    work = Work(busy=False)
    with watchdog(work, SECONDS, ends.append):
        time.sleep(2 * SECONDS)
        assert ends == []
        work.busy = True
        started = time.monotonic()
        wait_until(lambda: ends)
    assert time.monotonic() - started > SECONDS / 2


def test_zero_seconds_are_for_ever(ends):
    threads = threading.active_count()
    with watchdog(Work(), 0, ends.append):
        assert threading.active_count() == threads
        time.sleep(SECONDS)
    assert ends == []


def test_it_goes_away_with_the_work(ends):
    with watchdog(Work(), SECONDS, ends.append):
        pass
    wait_until(lambda: all(t.name != "watchdog" for t in threading.enumerate()))
    time.sleep(2 * SECONDS)
    assert ends == []


def test_a_process_that_was_stopped_for_a_while_is_not_ended(ends, monkeypatch):
    work, stopped_seconds = Work(), [0]
    monotonic = time.monotonic
    monkeypatch.setattr(
        "worker.pipeline.watchdog.time.monotonic", lambda: monotonic() + sum(stopped_seconds)
    )
    with watchdog(work, 10 * SECONDS, ends.append):  # looks twice within SECONDS
        for _ in range(4):
            time.sleep(SECONDS)
            stopped_seconds.append(3600)
            time.sleep(SECONDS)
            work.steps += 1
    assert ends == []


class Looks:
    """Time that passes only while the watchdog waits for its next look."""

    def __init__(self, steps, stopped):
        """``steps``: looks before which the work progresses; ``stopped``: for an hour, before."""
        self.now = 0.0
        self.count = 0
        self.work = Work()
        self._steps, self._stopped = steps, stopped

    def wait(self, seconds):
        self.count += 1
        self.now += seconds + (3600 if self.count in self._stopped else 0)
        self.work.steps += self.count in self._steps
        return self.count > 10 * CHECKS


@pytest.mark.parametrize(
    ("steps", "stopped", "ended_at"),
    [
        ([], [], CHECKS + 1),
        ([7], [], 7 + CHECKS + 1),
        ([7, 20], [], 20 + CHECKS + 1),
        (range(1, 100), [], 99 + CHECKS + 1),
        ([], [1], CHECKS),  # an hour alone is no proof: it looks as often as ever
        ([], [CHECKS - 1], CHECKS),
        ([7], [8], 7 + CHECKS),
    ],
)
def test_it_ends_the_process_so_many_looks_after_the_last_step(
    monkeypatch, steps, stopped, ended_at
):
    looks, ended = Looks(steps, stopped), []
    monkeypatch.setattr(module.time, "monotonic", lambda: looks.now)
    module._watch(looks.work, CHECKS, looks, lambda code: ended.append((code, looks.count)))
    assert ended == [(EXIT_CODE, ended_at)]


def test_a_log_that_hangs_does_not_keep_it_from_ending_the_process(ends, monkeypatch):
    monkeypatch.setattr(module, "DUMP_SECONDS", 0.01)
    go_on = threading.Event()

    class Hanging(logging.Handler):
        def emit(self, record):
            go_on.wait(30)

    module.log.addHandler(handler := Hanging())
    try:
        with watchdog(Work(), SECONDS, ends.append):
            wait_until(lambda: ends)
            assert not go_on.is_set()
            go_on.set()
            wait_until(lambda: all(t.name != "watchdog" for t in threading.enumerate()))
    finally:
        module.log.removeHandler(handler)
    assert ends[0] == EXIT_CODE


def test_it_ends_the_process_once(ends, monkeypatch):
    looks = Looks([], [])
    monkeypatch.setattr(module, "DUMP_SECONDS", 0.5)
    monkeypatch.setattr(module.time, "monotonic", lambda: looks.now)
    module._watch(looks.work, CHECKS, looks, ends.append)
    monkeypatch.undo()
    for thread in threading.enumerate():
        if isinstance(thread, threading.Timer):
            thread.join(20)
    assert ends == [EXIT_CODE]
