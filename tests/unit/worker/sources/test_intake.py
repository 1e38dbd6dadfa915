import threading
import time
from types import SimpleNamespace

import pytest

from tests.conftest import wait_until
from worker.sources import intake
from worker.sources.arrivals import Arrival
from worker.sources.intake import QUIET_SECONDS, READ_WAITED_SECONDS, Intake


def packet(number, size=1000):
    return SimpleNamespace(number=number, size=size)


class Feed:
    """Packets that a camera sends when it is asked to."""

    def __init__(self):
        self._sent = threading.Semaphore(0)
        self.packets = []
        self.taken = 0

    def send(self, *packets):
        self.packets += packets
        for _ in packets:
            self._sent.release()

    def __iter__(self):
        while True:
            self._sent.acquire()
            item = self.packets[self.taken]
            self.taken += 1
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item


@pytest.fixture
def feed():
    return Feed()


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def reading(feed, stop):
    def start(silence_seconds=60.0):
        return Intake(
            iter(feed), Arrival, "camera", silence_seconds=silence_seconds, is_stopped=stop.is_set
        )

    yield start
    feed.send(None)


def test_packets_come_in_order_each_with_its_arrival(feed, reading):
    feed.send(packet(0), packet(1), None)
    before = time.monotonic()
    with reading() as taken:
        found = [arrival for arrival, _ in taken]
    assert [arrival.packet.number for arrival in found] == [0, 1]
    assert before <= found[0].at <= found[1].at <= time.monotonic()


def test_a_packet_ages_while_nobody_takes_it(feed, reading):
    with reading() as taken:
        feed.send(packet(0))
        wait_until(lambda: feed.taken == 1, what="the packet")
        read_at = time.monotonic()
        time.sleep(0.2)
        arrival, _ = next(iter(taken))
        assert arrival.at <= read_at
        feed.send(None)


def test_what_ended_reading_is_raised_after_the_packets_before_it(feed, reading):
    feed.send(packet(0), OSError("gone"))
    with reading() as taken:
        packets = iter(taken)
        assert next(packets)[0].packet.number == 0
        with pytest.raises(OSError, match="gone"):
            next(packets)


def test_it_says_how_long_each_read_waited(feed, reading):
    with reading() as taken:
        packets = iter(taken)
        feed.send(packet(0))
        next(packets)
        time.sleep(0.3)
        assert taken.read_seconds >= 0.3
        feed.send(packet(1))
        _, seconds = next(packets)
        assert seconds >= 0.3
        feed.send(None)


def test_a_read_of_full_silence_is_the_last(feed, reading):
    feed.send(packet(0))
    with reading(silence_seconds=0.2) as taken:
        packets = iter(taken)
        next(packets)
        time.sleep(0.25)
        feed.send(packet(1), packet(2))
        assert next(packets)[0].packet.number == 1
        assert list(packets) == []
    assert feed.taken == 2


def test_waiting_packets_are_bounded_and_the_rest_is_read_later(feed, reading, monkeypatch):
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 3000)
    feed.send(*(packet(number) for number in range(20)), None)
    with reading() as taken:
        wait_until(lambda: feed.taken == 5, what="a full queue")  # one more is in hand
        time.sleep(0.1)
        assert feed.taken == 5
        assert [arrival.packet.number for arrival, _ in taken] == list(range(20))


@pytest.mark.parametrize("waiting", [0, 10])
def test_a_source_that_is_stopped_ends_both_threads(feed, reading, stop, monkeypatch, waiting):
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 3000)
    feed.send(*(packet(number) for number in range(waiting)))
    taken = reading()
    with taken:
        wait_until(lambda: feed.taken == min(waiting, 5), what="packets")
        stop.set()
        assert list(taken) == []
        feed.send(packet(99))  # a read that goes on cannot be interrupted
    assert not taken._thread.is_alive()


def test_it_has_caught_up_once_a_read_waited(feed, reading):
    with reading() as taken:
        feed.send(packet(0), packet(1))
        taken.wait_until_caught_up(60)
        assert taken.read_seconds >= min(QUIET_SECONDS, READ_WAITED_SECONDS)
        assert feed.taken == 2
        feed.send(None)


def test_a_burst_without_an_end_is_waited_for_a_while_only(feed, reading, monkeypatch):
    monkeypatch.setattr(intake, "QUIET_SECONDS", 60)
    with reading() as taken:
        feed.send(packet(0))
        started = time.monotonic()
        taken.wait_until_caught_up(0.2)
        assert time.monotonic() - started >= 0.2
        feed.send(None)
