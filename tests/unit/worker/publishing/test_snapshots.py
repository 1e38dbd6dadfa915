"""The thread that writes snapshots, with sinks that fail and hang."""

import logging
import threading

import pytest

from tests.clocks import Clock
from tests.conftest import wait_until
from tests.snapshots import snapshot
from worker.errors import SinkError, SinkUnavailable
from worker.publishing import snapshots as publishing
from worker.publishing.snapshots import LATE_SECONDS, SnapshotPublisher, life_seconds


class Sink:
    """Notes what is written; fails with ``error``, and hangs until ``released``."""

    def __init__(self):
        self.error = None
        self.tries = 0
        self.written = []
        self.lives = []
        self.entered, self.released = threading.Event(), threading.Event()
        self.released.set()
        self.closed = False

    def put_snapshots(self, snapshots):
        self.tries += 1
        self.entered.set()
        assert self.released.wait(20)
        if self.error is not None:
            raise self.error
        self.written += [(s.info.camera_id, s.info.frame_index) for s, _ in snapshots]
        self.lives += [seconds for _, seconds in snapshots]

    def close(self):
        self.closed = True


@pytest.fixture
def sink(monkeypatch):
    monkeypatch.setattr(publishing, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(publishing, "CLOSE_SECONDS", 5)
    return Sink()


@pytest.fixture
def publisher(sink):
    with SnapshotPublisher(sink) as publisher:
        yield publisher
        sink.released.set()
    assert sink.closed


def hang(sink, publisher):
    """The thread is in a write."""
    sink.released.clear()
    publisher.offer(snapshot("other"))
    assert sink.entered.wait(20)


def test_a_snapshot_is_written_and_lives_from_its_capture_on(sink, publisher):
    publisher.offer(snapshot("gate", 3, age_seconds=1))
    wait_until(lambda: sink.written)
    assert sink.written == [("gate", 3)]
    assert sink.lives == [pytest.approx(9, abs=0.9)]
    publisher.offer(snapshot("slow", age_seconds=1, period_seconds=20))
    wait_until(lambda: len(sink.written) == 2)
    assert sink.lives[1] == pytest.approx(59, abs=0.9)


@pytest.mark.parametrize(("period", "seconds"), [(1, 10), (3, 10), (4, 12), (60, 180)])
def test_a_snapshot_outlives_two_that_are_missing(period, seconds):
    assert life_seconds(period) == seconds


def test_while_a_write_hangs_nothing_is_queued_and_the_newest_of_each_camera_is_kept(
    sink, publisher
):
    hang(sink, publisher)
    for index in range(1000):
        publisher.offer(snapshot("gate", index))
        publisher.offer(snapshot("yard", index))
    sink.released.set()
    wait_until(lambda: len(sink.written) == 3)
    assert sorted(sink.written) == [("gate", 999), ("other", 0), ("yard", 999)]


def test_what_has_become_late_is_not_written(sink, publisher, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(publishing, "time", clock)
    hang(sink, publisher)
    for name, age_seconds in (("late", LATE_SECONDS + 0.25), ("gate", LATE_SECONDS)):
        publisher.offer(snapshot(name, age_seconds=age_seconds, now=clock.now))
    sink.released.set()
    wait_until(lambda: ("gate", 0) in sink.written)
    assert ("late", 0) not in sink.written


def test_a_write_that_succeeds_is_followed_by_the_next_at_once_and_by_no_word(
    sink, publisher, caplog, monkeypatch
):
    monkeypatch.setattr(publishing, "RETRY_SECONDS", 1000)
    caplog.set_level(logging.INFO)
    for index in range(3):
        publisher.offer(snapshot("gate", index))
        wait_until(lambda before=index: len(sink.written) > before)
    assert caplog.messages == []


def test_a_write_that_fails_is_followed_by_a_wait(sink, publisher, monkeypatch):
    monkeypatch.setattr(publishing, "RETRY_SECONDS", 1000)
    sink.error = SinkUnavailable("no Redis answers")
    publisher.offer(snapshot())
    wait_until(lambda: sink.tries)
    for index in range(1000):
        publisher.offer(snapshot("gate", index))
    assert sink.tries == 1


def test_only_a_picture_that_was_written_shows_that_they_are_again(sink, publisher, caplog):
    caplog.set_level(logging.INFO)
    sink.error = SinkUnavailable("no Redis answers")
    publisher.offer(snapshot())
    wait_until(lambda: caplog.messages)
    sink.error = None
    for tries in (2, 3):
        publisher.offer(snapshot("late", age_seconds=LATE_SECONDS + 1))
        wait_until(lambda wanted=tries: sink.tries >= wanted)
    assert "snapshots are published again" not in caplog.messages
    for index in range(3):
        publisher.offer(snapshot("gate", index))
        wait_until(lambda before=index: len(sink.written) > before)
    assert caplog.messages.count("snapshots are published again") == 1


def test_what_could_not_be_written_is_not_written_again_and_said_once(sink, publisher, caplog):
    caplog.set_level(logging.INFO)
    sink.error = SinkUnavailable("no Redis answers")
    for index in range(3):
        publisher.offer(snapshot("gate", index))
        wait_until(lambda before=index: sink.tries > before)
    sink.error = None
    publisher.offer(snapshot("gate", 3))
    wait_until(lambda: "snapshots are published again" in caplog.messages)
    assert sink.written == [("gate", 3)]
    assert caplog.messages == [
        "snapshots are not published: no Redis answers",
        "snapshots are published again",
    ]


def test_what_an_operator_has_to_change_is_a_warning(sink, publisher, caplog):
    sink.error = SinkError("give it the ACL rules")
    publisher.offer(snapshot())
    wait_until(lambda: caplog.records)
    assert [(r.levelname, r.message) for r in caplog.records] == [
        ("WARNING", "snapshots are not published: give it the ACL rules")
    ]


def test_a_bug_ends_snapshots_and_not_the_run(sink, publisher, caplog):
    sink.error = KeyError()
    publisher.offer(snapshot())
    wait_until(lambda: sink.closed)
    assert "please report this traceback" in caplog.text
    publisher.offer(snapshot())


def test_a_write_that_hangs_does_not_keep_a_run_from_ending(sink, monkeypatch):
    monkeypatch.setattr(publishing, "CLOSE_SECONDS", 0.01)
    with SnapshotPublisher(sink) as publisher:
        hang(sink, publisher)
    assert not sink.closed
    sink.released.set()
    wait_until(lambda: sink.closed)
