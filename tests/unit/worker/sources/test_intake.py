import threading
import time
import weakref
from types import SimpleNamespace

import pytest

from tests.clocks import Clock
from tests.conftest import wait_until
from tests.garbage import no_search_for_cycles
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


@pytest.mark.parametrize(("most", "read"), [(2999, 4), (3000, 5)])
def test_waiting_packets_are_bounded_and_the_rest_is_read_later(
    feed, reading, monkeypatch, most, read
):
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", most)
    feed.send(*(packet(number) for number in range(20)), None)
    with reading() as taken:
        wait_until(lambda: feed.taken == read, what="a full queue")  # one more is in hand
        packets = iter(taken)
        numbers = [next(packets)[0].packet.number]
        wait_until(lambda: feed.taken == read + 1, what="one packet in its place")
        time.sleep(0.1)
        assert feed.taken == read + 1
        numbers += [arrival.packet.number for arrival, _ in packets]
        assert numbers == list(range(20))


def test_threads_that_wait_for_each_other_are_woken(feed, reading, monkeypatch):
    monkeypatch.setattr(intake, "POLL_SECONDS", 60)
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 3000)
    found = []
    with reading() as taken:
        taker = threading.Thread(target=lambda: found.extend(iter(taken)), daemon=True)
        taker.start()
        for number in range(5):
            feed.send(packet(number))
            wait_until(lambda n=number: len(found) == n + 1, what="the packet")
        feed.send(None)
        taker.join(10)
        assert not taker.is_alive()


def test_a_full_queue_is_read_on_as_soon_as_a_packet_is_taken(feed, reading, monkeypatch):
    monkeypatch.setattr(intake, "POLL_SECONDS", 60)
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 3000)
    feed.send(*(packet(number) for number in range(8)), None)
    with reading() as taken:
        wait_until(lambda: feed.taken == 5, what="a full queue")
        assert len(list(taken)) == 8


def test_leaving_ends_reading_at_once_also_with_a_full_queue(feed, reading, monkeypatch):
    monkeypatch.setattr(intake, "POLL_SECONDS", 60)
    monkeypatch.setattr(intake, "MAX_WAITING_BYTES", 3000)
    feed.send(*(packet(number) for number in range(8)))
    began = time.monotonic()
    with reading() as taken:
        wait_until(lambda: feed.taken == 5, what="a full queue")
    assert time.monotonic() - began < 10
    assert len(taken.take_left()) == 5
    assert taken.take_left() == []


def test_what_ends_reading_after_a_stop_is_not_raised(feed, reading, stop):
    with reading() as taken:
        packets = iter(taken)
        feed.send(packet(0))
        next(packets)
        stop.set()
        feed.send(OSError("closed"))
        wait_until(lambda: not taken._thread.is_alive(), what="the end")
        assert list(packets) == []


def test_a_read_that_never_ends_keeps_no_process(feed, reading):
    with reading() as taken:
        thread = next(each for each in threading.enumerate() if each.name == "camera")
        assert thread.daemon
        assert taken.read_seconds < 60
        feed.send(None)


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


class Steps:
    """Packets that come after steps of a clock; then none for as long as ``more`` is not set."""

    def __init__(self, clock, steps):
        self._clock, self._steps = clock, steps
        self.given = 0
        self.more = threading.Event()

    def __iter__(self):
        for number, step in enumerate(self._steps):
            self._clock.now += step
            self.given += 1
            yield packet(number)
        self.given += 1
        self.more.wait(20)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(intake, "time", clock)
    return clock


def busy_dating(clock):
    def date(each, at):
        clock.now += 1.0
        return Arrival(each, at)

    return date


def intake_of(steps, date=Arrival, silence_seconds=60.0):
    return Intake(
        iter(steps), date, "camera", silence_seconds=silence_seconds, is_stopped=lambda: False
    )


def test_what_is_done_between_two_reads_counts_for_none(clock):
    steps = Steps(clock, [1.0, 2.0, 0.5])
    steps.more.set()
    taken = intake_of(steps, busy_dating(clock))
    assert taken.read_seconds == 0.0
    clock.now += 7.0  # until the thread runs
    with taken:
        assert [seconds for _, seconds in taken] == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(("waited", "read"), [(5.0, 2), (4.75, 3)])
def test_a_read_of_full_silence_to_the_moment_is_the_last(clock, waited, read):
    steps = Steps(clock, [1.0, waited, 1.0])
    steps.more.set()
    with intake_of(steps, silence_seconds=5.0) as taken:
        assert len(list(taken)) == read


class TickingClock(Clock):
    """Moves by itself, but not for other threads."""

    def __init__(self):
        super().__init__()
        self._owner = threading.current_thread()

    def monotonic(self):
        if threading.current_thread() is self._owner:
            self.now += 0.01
        return self.now


@pytest.mark.parametrize(
    ("steps", "waits"),
    [
        ([0.0, 0.0], True),
        ([0.02], True),  # the thread itself took its time to start
        ([0.02, 0.0], True),
        ([0.0, 0.02], False),
        ([0.0, 0.0, 0.02], False),
        ([0.0, 0.02, 0.0], False),
    ],
)
def test_it_has_caught_up_once_a_read_but_the_first_has_waited(monkeypatch, steps, waits):
    monkeypatch.setattr(intake, "QUIET_SECONDS", 60)
    clock = TickingClock()
    monkeypatch.setattr(intake, "time", clock)
    feed = Steps(clock, steps)
    with intake_of(feed) as taken:
        wait_until(lambda: feed.given == len(steps) + 1, what="the packets")
        began = clock.now
        taken.wait_until_caught_up(0.05)
        assert (clock.now - began > 0.05) == waits
        feed.more.set()


@pytest.mark.parametrize("how", ["ended", "stopped"])
def test_nobody_waits_for_what_is_over_to_catch_up(feed, reading, stop, monkeypatch, how):
    monkeypatch.setattr(intake, "QUIET_SECONDS", 60)
    with reading() as taken:
        if how == "ended":
            feed.send(None)
            taken._thread.join(10)
        else:
            stop.set()
        began = time.monotonic()
        taken.wait_until_caught_up(60)
        assert time.monotonic() - began < 10
        feed.send(None)


def test_a_burst_without_an_end_is_waited_for_a_while_only(feed, reading, monkeypatch):
    monkeypatch.setattr(intake, "QUIET_SECONDS", 60)
    with reading() as taken:
        feed.send(packet(0))
        started = time.monotonic()
        taken.wait_until_caught_up(0.2)
        assert time.monotonic() - started >= 0.2
        feed.send(None)


class Owner:
    """What an intake belongs to, and asks for times."""

    def __init__(self, packets):
        self.error = None
        self.intake = Intake(
            packets, self.date, "camera", silence_seconds=60.0, is_stopped=lambda: False
        )

    def date(self, packet, at):
        return Arrival(packet, at)

    def read(self, count):
        try:
            with self.intake as arrivals:
                for _ in zip(range(count), arrivals, strict=False):
                    pass
        except OSError as error:
            self.error = str(error)


def one_packet(error):
    yield packet(0)
    if error:
        raise OSError(error)


@pytest.mark.parametrize(
    ("raised", "count", "seen"),
    [(None, 9, None), ("gone", 9, "gone"), ("gone", 1, None)],
    ids=["the end", "an error", "an error that nobody waited for"],
)
def test_what_is_over_is_freed_at_once(raised, count, seen):
    with no_search_for_cycles():
        owner = Owner(one_packet(raised))
        owner.read(count)
        assert owner.error == seen
        freed = weakref.ref(owner)
        del owner
        assert freed() is None
