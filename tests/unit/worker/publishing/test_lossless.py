import pytest

from tests.conftest import wait_until
from tests.events import detections_event
from tests.sinks import FlakySink
from worker.errors import SinkError
from worker.publishing import outage
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


def test_a_sink_that_is_away_gets_its_events_when_it_is_back():
    sink = FlakySink()
    publisher = start(sink)
    publisher.submit(events(0, 9))
    wait_until(lambda: sink.tries > 3)
    sink.back.set()
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(10))
    assert publisher.failure is None


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
