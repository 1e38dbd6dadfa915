import pytest

from tests.events import camera_event
from tests.sinks import FlakySink
from worker.errors import CameraRefused, SinkUnavailable
from worker.observing import Observer
from worker.publishing.observed import ObservedOwningSink, ObservedSink
from worker.publishing.ownership import Bid, Holder
from worker.sinks.memory import MemorySink


class Reports(Observer):
    def __init__(self):
        self.all = []

    def published(self, sink, events, seconds):
        assert seconds >= 0
        self.all.append(("published", sink, len(events)))

    def sink_answered(self, sink):
        self.all.append(("answered", sink))

    def sink_failed(self, sink):
        self.all.append(("failed", sink))


class OwningSink(FlakySink):
    name = "Redis"

    def own(self, bids):
        if not self.back.is_set():
            raise SinkUnavailable("away")
        return {name: Holder(True, None, "", 0.0, 0) for name in bids}


def test_writes_and_failures_are_reported_and_passed_on():
    inner, reports = FlakySink(), Reports()
    sink = ObservedSink(inner, reports)
    assert sink.name == inner.name
    with pytest.raises(SinkUnavailable):
        sink.publish([camera_event()])
    inner.back.set()
    sink.publish([camera_event()])
    sink.publish([])
    assert reports.all == [("failed", "memory"), ("published", "memory", 1)]
    assert inner.events == [camera_event()]


def test_a_refused_camera_is_no_failure_of_the_sink():
    class Refusing(MemorySink):
        def publish(self, events):
            raise CameraRefused("gate", "no")

    reports = Reports()
    with pytest.raises(CameraRefused):
        ObservedSink(Refusing(), reports).publish([camera_event()])
    assert reports.all == []


def test_what_a_sink_answers_of_owners_tells_that_it_is_there():
    inner, reports = OwningSink(), Reports()
    sink = ObservedOwningSink(inner, reports)
    with pytest.raises(SinkUnavailable):
        sink.own({"gate": Bid("me", "")})
    inner.back.set()
    assert sink.own({"gate": Bid("me", "")})["gate"].taken
    assert reports.all == [("failed", "Redis"), ("answered", "Redis")]


def test_closing_closes_the_sink_inside():
    closed = []
    inner = MemorySink()
    inner.close = lambda: closed.append(True)
    ObservedSink(inner, Reports()).close()
    assert closed == [True]
