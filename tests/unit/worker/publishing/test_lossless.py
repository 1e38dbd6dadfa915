import logging
import threading

import pytest

from tests.conftest import wait_until
from tests.events import detections_event
from tests.sinks import FlakySink
from worker.errors import SinkError, SinkUnavailable
from worker.publishing import lossless, outage
from worker.publishing.lossless import LosslessPublisher
from worker.sinks.memory import MemorySink


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 0.01)


def events(first, last, camera="gate"):
    return [detections_event(camera, seq=seq) for seq in range(first, last + 1)]


def seqs(sink):
    return [event.data.seq for event in sink.events]


def start(*sinks, capacity=100):
    publisher = LosslessPublisher(sinks, capacity=capacity)
    publisher.start()
    return publisher


def test_every_sink_gets_every_event_in_order():
    first, second = MemorySink(), MemorySink()
    publisher = start(first, second)
    for seq in range(50):
        publisher.submit(events(seq, seq))
    assert publisher.close(5) == 0
    assert seqs(first) == seqs(second) == list(range(50))


def test_a_sink_that_is_away_gets_its_events_when_it_is_back(caplog):
    caplog.set_level(logging.INFO)
    sink = FlakySink()
    publisher = start(sink)
    publisher.submit(events(0, 9))
    wait_until(lambda: sink.tries > 3)
    sink.back.set()
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(10))
    assert publisher.failure is None
    assert "memory is available again" in caplog.text


def test_a_sink_that_is_back_while_the_publisher_closes_gets_its_events():
    sink = FlakySink()
    publisher = start(sink)
    publisher.submit(events(0, 9))
    wait_until(lambda: sink.tries > 0)
    threading.Timer(0.2, sink.back.set).start()
    publisher.close(30)
    assert seqs(sink) == list(range(10))


def test_a_full_lossless_queue_refuses_and_loses_nothing():
    sink = FlakySink()
    publisher = start(sink, capacity=4)
    assert publisher.submit(events(0, 3))
    wait_until(lambda: sink.tries > 0)
    assert publisher.submit(events(4, 7))
    assert not publisher.submit(events(8, 11))
    sink.back.set()
    wait_until(lambda: publisher.submit(events(8, 11)))
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(12))


def test_closing_gives_up_in_time():
    publisher = start(FlakySink())
    publisher.submit(events(0, 4))
    publisher.close(0.2)
    assert publisher.waiting == 5
    assert isinstance(publisher.failure, SinkUnavailable)


def test_attempts_that_fail_are_progress_for_the_watchdog():
    publisher = start(FlakySink())
    publisher.submit(events(0, 0))
    before = publisher.progress()
    wait_until(lambda: publisher.progress() > before + 3)
    assert publisher.has_work()


def test_an_error_that_no_retry_helps_is_kept_for_the_pipeline():
    class Broken(MemorySink):
        def publish(self, events):
            raise SinkError("disk full")

    publisher = start(Broken())
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher.failure)
    assert str(publisher.failure) == "disk full"


def test_a_publisher_that_was_given_nothing_has_no_work():
    publisher = start(MemorySink())
    assert (publisher.waiting, publisher.has_work(), publisher.progress()) == (0, False, 0)
    publisher.submit(events(0, 2))
    wait_until(lambda: not publisher.has_work())
    assert (publisher.waiting, publisher.progress()) == (0, 1)
    assert publisher.close(5) == publisher.waiting == 0
    assert publisher.refused == {}


@pytest.mark.parametrize("queued", [1, 2])
def test_a_queue_takes_events_up_to_its_capacity_and_more_of_them_if_it_is_empty(queued):
    sink = FlakySink()
    publisher = start(sink, capacity=3)
    assert publisher.submit(events(0, 4))  # more than ever fit, but the queue is empty
    wait_until(lambda: sink.tries > 0)
    assert publisher.submit(events(5, 4 + queued))
    assert not publisher.submit(events(20, 23 - queued))
    assert publisher.submit(events(5 + queued, 7))
    sink.back.set()
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(8))


def test_a_source_that_waits_for_room_has_it_once_the_sink_took_some(monkeypatch):
    monkeypatch.setattr(lossless, "ROOM_SECONDS", 60)
    sink = FlakySink()
    publisher = start(sink, capacity=1)
    publisher.submit(events(0, 0))
    wait_until(lambda: sink.tries > 0)
    publisher.submit(events(1, 1))
    submitted = []
    thread = threading.Thread(
        target=lambda: submitted.append(publisher.submit(events(2, 2))), daemon=True
    )
    thread.start()
    thread.join(0.05)
    assert submitted == []
    sink.back.set()
    thread.join(20)
    assert submitted == [True]
    publisher.close(5)


def test_a_sink_that_hangs_does_not_keep_the_process_from_ending():
    publisher = start(MemorySink())
    assert publisher._thread.daemon
    publisher.close(5)


def test_what_waits_is_not_counted_while_it_changes():
    publisher = start(MemorySink())
    counted = []
    thread = threading.Thread(target=lambda: counted.append(publisher.waiting), daemon=True)
    with publisher._condition:
        thread.start()
        thread.join(0.05)
        assert counted == []
    thread.join(20)
    assert counted == [0]
    publisher.close(5)


def test_a_sink_that_is_away_is_left_alone_until_the_next_try(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    sink = FlakySink()
    publisher = start(sink)
    publisher.submit(events(0, 0))
    wait_until(lambda: sink.tries)
    publisher._thread.join(0.1)
    assert sink.tries == 1
    publisher.close(0.05)
    assert not publisher._thread.is_alive()
    assert isinstance(publisher.failure, SinkUnavailable)


def test_a_write_that_is_under_way_when_the_time_is_over_may_end():
    may_end = threading.Event()

    class Slow(MemorySink):
        def publish(self, events):
            may_end.wait(20)
            super().publish(events)

    sink = Slow()
    publisher = start(sink)
    publisher.submit(events(0, 3))
    threading.Timer(0.3, may_end.set).start()
    publisher.close(0.05)
    assert seqs(sink) == [0, 1, 2, 3]
    assert publisher.waiting == 0


@pytest.mark.parametrize(("seconds_left", "tries_again"), [(0.9, True), (0, False), (-0.1, False)])
def test_a_closing_publisher_tries_again_as_long_as_there_is_time(
    monkeypatch, seconds_left, tries_again
):
    publisher = LosslessPublisher([MemorySink()], capacity=1)
    monkeypatch.setattr(lossless.time, "monotonic", lambda: 100.0)
    publisher._give_up_at = 100.0 + seconds_left
    assert publisher._sleep(0.001) == tries_again


def test_a_recording_has_no_owner_and_nobody_waits_for_its_events():
    publisher = LosslessPublisher([FlakySink()], capacity=10)
    publisher.submit(events(0, 4))
    assert (publisher.held, publisher.refused, publisher.failure) == ({}, {}, None)
    assert publisher.may_watch("clip") is True
    assert publisher.behind_seconds == 0
    assert publisher.take_lost(["gate"]) == {}
