import pytest
from prometheus_client import CollectorRegistry

from tests.clocks import Clock
from worker.errors import SinkUnavailable
from worker.health import consumer_lag
from worker.health.consumer_lag import OLD_SECONDS, ConsumerLag


class Consumer:
    def __init__(self):
        self.is_away = False

    def lag(self):
        if self.is_away:
            raise SinkUnavailable("away")
        return {"gate": 3, "yard": None}

    def pending(self):
        return {"gate": 1, "yard": 0}


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(consumer_lag, "time", clock)
    return clock


@pytest.fixture
def consumer():
    return Consumer()


def series(lag):
    registry = CollectorRegistry()
    registry.register(lag)
    return {
        (s.name.removeprefix("ssd_worker_"), *s.labels.values()): s.value
        for metric in registry.collect()
        for s in metric.samples
    }


def test_lag_and_pending_are_those_of_the_group_and_what_is_unknown_is_left_out(consumer):
    lag = ConsumerLag(consumer, "alerts")
    lag.ask()
    assert series(lag) == {
        ("redis_up",): 1,
        ("consumer_lag", "gate", "alerts"): 3,
        ("consumer_pending", "gate", "alerts"): 1,
        ("consumer_pending", "yard", "alerts"): 0,
    }


def test_without_a_group_nothing_is_pending(consumer):
    lag = ConsumerLag(consumer, None)
    lag.ask()
    assert series(lag) == {("redis_up",): 1, ("consumer_lag", "gate", ""): 3}


def test_nothing_is_shown_before_redis_was_asked(consumer):
    lag = ConsumerLag(consumer, "alerts")
    assert series(lag) == {}
    assert lag.ready() == (False, "not ready: Redis does not answer")


def test_a_lag_that_was_heard_long_ago_is_not_shown(consumer, clock):
    lag = ConsumerLag(consumer, "alerts")
    lag.ask()
    consumer.is_away = True
    clock.now += OLD_SECONDS
    lag.ask()
    assert lag.ready() == (True, "ready")
    assert ("consumer_lag", "gate", "alerts") in series(lag)
    clock.now += 0.1
    assert series(lag) == {("redis_up",): 0}
    assert not lag.ready().ok
