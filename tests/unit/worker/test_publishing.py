import threading

import pytest

from tests.conftest import wait_until
from tests.events import detections_event
from worker import publishing
from worker.errors import Fenced, SinkError, SinkUnavailable
from worker.publishing import Publisher
from worker.sinks.memory import MemorySink


class FlakySink(MemorySink):
    """Away until told to come back; then takes everything."""

    def __init__(self):
        super().__init__()
        self.back = threading.Event()
        self.tries = 0

    def publish(self, events):
        self.tries += 1
        if not self.back.is_set():
            raise SinkUnavailable("away")
        super().publish(events)


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch):
    monkeypatch.setattr(publishing, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(publishing, "LAST_RETRY_SECONDS", 0.01)


def events(first, last, camera="gate"):
    return [detections_event(camera, seq=seq) for seq in range(first, last + 1)]


def seqs(sink):
    return [event.data.seq for event in sink.events]


def start(*sinks, capacity=100, lossless=False):
    publisher = Publisher(sinks, capacity=capacity, lossless=lossless)
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


def test_a_live_queue_loses_its_oldest_events_and_counts_them():
    sink = FlakySink()
    publisher = start(sink, capacity=10)
    publisher.submit(events(0, 0))
    wait_until(lambda: sink.tries > 0)
    publisher.submit(events(1, 30))
    assert publisher.take_lost() == {}  # no room to tell of it yet
    sink.back.set()
    lost = wait_until(publisher.take_lost)
    publisher.close(5)
    assert lost == {"gate": 20}
    assert seqs(sink) == [0, *range(21, 31)]


def test_a_full_lossless_queue_refuses_and_loses_nothing():
    sink = FlakySink()
    publisher = start(sink, capacity=4, lossless=True)
    assert publisher.submit(events(0, 3))
    wait_until(lambda: sink.tries > 0)
    assert publisher.submit(events(4, 7))
    assert not publisher.submit(events(8, 11))
    sink.back.set()
    wait_until(lambda: publisher.submit(events(8, 11)))
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(12))


def test_closing_gives_up_in_time_and_says_how_many_events_did_not_go():
    publisher = start(FlakySink())
    publisher.submit(events(0, 4))
    assert publisher.close(0.2) == 5


def test_an_error_that_no_retry_helps_is_kept_for_the_pipeline():
    class Broken(MemorySink):
        def publish(self, events):
            raise SinkError("disk full")

    publisher = start(Broken())
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher.failure)
    assert str(publisher.failure) == "disk full"


def test_a_fenced_camera_is_left_out_and_the_others_go_on():
    class Fencing(MemorySink):
        def publish(self, events):
            if any(e.data.camera_id == "taken" for e in events):
                raise Fenced("taken", "camera taken: ...")
            super().publish(events)

    sink = Fencing()
    publisher = start(sink)
    publisher.submit(events(0, 1, "taken") + events(0, 1, "gate"))
    wait_until(lambda: len(sink.events) == 2)
    assert publisher.fenced == {"taken"}
    publisher.submit(events(2, 2, "taken") + events(2, 2, "gate"))
    publisher.close(5)
    assert [(e.data.camera_id, e.data.seq) for e in sink.events] == [
        ("gate", 0),
        ("gate", 1),
        ("gate", 2),
    ]
