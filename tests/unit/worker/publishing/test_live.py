import logging
import threading
import time
from unittest import mock

import pytest

from tests.conftest import wait_until
from tests.events import camera_event, detections_event
from tests.sinks import DeduplicatingSink, FlakySink, HangingSink
from tests.spools import spool_in
from worker.errors import (
    CameraRefused,
    Fenced,
    SinkError,
    SinkUnavailable,
    SpoolError,
    TakenOver,
)
from worker.publishing import live, outage, ownership
from worker.publishing.live import LivePublisher
from worker.publishing.ownership import Holder, Ownership
from worker.publishing.spool import Spool
from worker.sinks.memory import MemorySink


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 0.001)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 0.01)
    monkeypatch.setattr(live, "DISK_RETRY_SECONDS", 0.01)


def events(first, last, camera="gate", epoch=1):
    return [detections_event(camera, epoch=epoch, seq=seq) for seq in range(first, last + 1)]


def seqs(sink):
    return [event.data.seq for event in sink.events]


def seqs_of(spool):
    return [event.data.seq for event in spool.oldest(1000).events]


@pytest.fixture
def start(tmp_path):
    """A publisher over the spool in the test's directory, as a process would start it."""
    publishers = []

    def start(sink, capacity=100, spool=None):
        publisher = LivePublisher(
            sink, spool_in(tmp_path) if spool is None else spool, capacity=capacity
        )
        publishers.append(publisher)
        publisher.start()
        return publisher

    yield start
    for publisher in publishers:
        publisher.close(1)


@pytest.fixture
def logged(caplog, monkeypatch):
    """The messages of the publisher so far."""
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    caplog.set_level(logging.INFO, "worker")
    return lambda: [r.getMessage() for r in caplog.records if r.name == live.__name__]


class UnreliableDisk(Spool):
    """A spool whose disk takes nothing while it is full."""

    full = False

    def append(self, events):
        if self.full:
            raise SpoolError("database or disk is full")
        super().append(events)

    def forget(self, portion):
        super().forget(portion)
        if self.full:
            raise SpoolError("database or disk is full")


def disk_in(directory):
    return UnreliableDisk(directory, "here", ["gate", "yard"], 1 << 30)


def test_events_arrive_in_order_and_the_spool_stays_empty(start, tmp_path):
    sink = MemorySink()
    publisher = start(sink)
    for seq in range(50):
        publisher.submit(events(seq, seq))
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(50))
    assert len(spool_in(tmp_path)) == 0


def test_events_made_while_the_sink_is_away_arrive_afterwards_once_and_in_order(start, tmp_path):
    sink = FlakySink()
    publisher = start(sink, capacity=10)
    for seq in range(0, 200, 10):  # far more than memory may hold
        publisher.submit(events(seq, seq + 9))
        wait_until(lambda until=seq + 10: len(spool_in(tmp_path)) == until, what="the spool")
    sink.back.set()
    publisher.submit(events(200, 209))
    wait_until(lambda: publisher.waiting == 0)
    assert seqs(sink) == list(range(210))
    assert publisher.take_lost(["gate"]) == {}
    publisher.submit(events(210, 219))
    publisher.close(5)
    assert seqs(sink) == list(range(220))


def test_it_knows_how_long_the_oldest_event_has_waited(start, monkeypatch):
    sink = FlakySink()
    publisher = start(sink)
    assert publisher.behind_seconds == 0
    now = time.monotonic()
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher.behind_seconds > 0.2, what="an event to wait")
    publisher.submit(events(1, 1))
    assert 0.2 < publisher.behind_seconds <= time.monotonic() - now
    sink.back.set()
    publisher.submit(events(2, 2))
    wait_until(lambda: publisher.behind_seconds == 0, what="the sink to catch up")
    assert seqs(sink) == [0, 1, 2]


def test_a_write_that_was_done_but_not_confirmed_is_sent_again(start):
    class CutOff(DeduplicatingSink):
        """Writes, and loses the reply, the first time."""

        def publish(self, events):
            super().publish(events)
            if len(self.events) == 5:
                self.events_before = len(self.events)
                if not getattr(self, "cut", False):
                    self.cut = True
                    raise SinkUnavailable("no reply")

    sink = CutOff()
    sink.back.set()
    publisher = start(sink)
    publisher.submit(events(0, 4))
    wait_until(lambda: publisher.waiting == 0)
    publisher.submit(events(5, 6))
    publisher.close(5)
    assert seqs(sink) == list(range(7))
    assert sink.cut


def test_a_process_that_died_leaves_its_events_to_the_next(start, tmp_path):
    publisher = start(FlakySink())
    publisher.submit(events(0, 9))
    wait_until(lambda: len(spool_in(tmp_path)) == 10)
    sink = MemorySink()
    after = start(sink)  # beside the first, which can do nothing: as good as killed
    after.submit(events(0, 3, epoch=2))
    wait_until(lambda: len(sink.events) == 14)
    assert [(e.data.epoch, e.data.seq) for e in sink.events] == [
        *((1, seq) for seq in range(10)),
        *((2, seq) for seq in range(4)),
    ]


def test_closing_while_the_sink_is_away_is_quick_and_loses_nothing(start, tmp_path):
    publisher = start(FlakySink())
    publisher.submit(events(0, 4))
    wait_until(lambda: len(spool_in(tmp_path)) > 0)
    publisher.submit(events(5, 9))
    started = time.monotonic()
    assert publisher.close(10) == 0
    assert time.monotonic() - started < 5
    assert len(spool_in(tmp_path)) == 10


def test_closing_while_the_sink_hangs_keeps_what_waits_behind(start, tmp_path):
    hanging = threading.Event()

    class Hanging(MemorySink):
        def publish(self, events):
            hanging.wait(0.5)
            raise SinkUnavailable("no reply")

    publisher = start(Hanging())
    publisher.submit(events(0, 4))
    publisher.submit(events(5, 9))
    assert publisher.close(5) == 0
    assert len(spool_in(tmp_path)) == 10


def test_nobody_who_submits_waits_for_a_sink_that_hangs(start):
    sink = HangingSink()
    publisher = start(sink)
    started = time.monotonic()
    for seq in range(1000):
        publisher.submit(events(seq, seq))
    assert time.monotonic() - started < 5
    sink.released.set()


def test_what_the_spool_could_not_hold_is_told_once_the_sink_is_back(start, tmp_path):
    probe = spool_in(tmp_path / "probe")
    probe.append(events(0, 9))
    sink = FlakySink()
    spool = spool_in(tmp_path, max_bytes=probe._bytes)  # room for ten
    publisher = start(sink, spool=spool)
    for seq in range(30):
        publisher.submit(events(seq % 10, seq % 10))
    wait_until(lambda: publisher.waiting == 10)
    assert publisher.take_lost(["gate"]) == {}
    sink.back.set()
    assert wait_until(lambda: publisher.take_lost(["gate"])) == {"gate": 20}


def test_a_full_disk_leaves_the_newest_events_in_memory_and_counts_the_others(
    start, tmp_path, caplog
):
    sink, spool = FlakySink(), disk_in(tmp_path)
    spool.full = True
    publisher = start(sink, capacity=10, spool=spool)
    for seq in range(30):
        publisher.submit(events(seq, seq))
        time.sleep(0.001)
    wait_until(lambda: publisher.waiting == 10)
    sink.back.set()
    assert wait_until(lambda: publisher.take_lost(["gate"])) == {"gate": 20}
    assert seqs(sink) == list(range(20, 30))
    assert caplog.text.count("cannot spool events") == 1
    assert caplog.text.count("is unavailable") == 1
    publisher.submit(events(30, 30))
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(20, 31))


def test_a_disk_that_fills_up_while_events_wait_neither_mixes_nor_repeats_them(start, tmp_path):
    sink, spool = FlakySink(), disk_in(tmp_path)
    publisher = start(sink, spool=spool)
    publisher.submit(events(0, 9))
    wait_until(lambda: len(spool) == 10)
    spool.full = True
    publisher.submit(events(10, 14))
    sink.back.set()
    wait_until(lambda: len(sink.events) == 15)
    publisher.submit(events(15, 16))
    assert publisher.close(5) == 0
    assert seqs(sink) == list(range(17))


def test_a_disk_that_takes_events_again_is_used_again(start, tmp_path, logged):
    sink, spool = FlakySink(), disk_in(tmp_path)
    spool.full = True
    publisher = start(sink, spool=spool)
    publisher.submit(events(0, 4))
    wait_until(lambda: sink.tries > 2)
    spool.full = False
    wait_until(lambda: len(spool) == 5)
    for first in (5, 10):
        publisher.submit(events(first, first + 4))
        wait_until(lambda until=first + 5: len(spool) == until)
    assert logged().count("events can be spooled again") == 1
    sink.back.set()
    wait_until(lambda: publisher.waiting == 0)
    assert seqs(sink) == list(range(15))


@pytest.mark.parametrize(
    "error",
    [Fenced("yard", 1, "camera yard: taken"), CameraRefused("yard", "camera yard: taken")],
)
def test_a_refused_camera_is_left_out_and_the_others_go_on(start, error):
    class Refusing(FlakySink):
        def publish(self, events):
            if self.back.is_set() and any(e.data.camera_id == "yard" for e in events):
                raise error
            super().publish(events)

    sink = Refusing()
    publisher = start(sink)
    publisher.submit(events(0, 1, "yard") + events(0, 1))
    wait_until(lambda: publisher.waiting == 4)
    sink.back.set()
    wait_until(lambda: len(sink.events) == 2)
    assert publisher.refused == {"yard": "camera yard: taken"}
    publisher.submit(events(2, 2, "yard") + events(2, 2))
    publisher.close(5)
    assert [(e.data.camera_id, e.data.seq) for e in sink.events] == [
        ("gate", 0),
        ("gate", 1),
        ("gate", 2),
    ]


def test_an_error_that_no_retry_helps_is_kept_for_the_pipeline_and_events_for_the_next_start(
    start, tmp_path
):
    class Broken(MemorySink):
        def publish(self, events):
            raise SinkError("wrong password")

    publisher = start(Broken())
    publisher.submit(events(0, 3))
    wait_until(lambda: publisher.failure)
    assert str(publisher.failure) == "wrong password"
    publisher.submit(events(4, 5))
    assert publisher.close(1) == 0
    assert seqs_of(spool_in(tmp_path)) == list(range(6))


def test_a_camera_that_is_refused_for_now_has_its_events_kept_for_the_next_start(start, tmp_path):
    class Refusing(FlakySink):
        def publish(self, events):
            if self.back.is_set() and any(e.data.camera_id == "yard" for e in events):
                raise CameraRefused("yard", "camera yard: WRONGTYPE")
            super().publish(events)

    sink = Refusing()
    publisher = start(sink)
    publisher.submit(events(0, 3, "yard") + events(0, 1))
    wait_until(lambda: len(spool_in(tmp_path)) == 6)
    sink.back.set()
    wait_until(lambda: len(sink.events) == 2)
    assert publisher.close(5) == 0
    assert [e.data.camera_id for e in spool_in(tmp_path).oldest(9).events] == ["yard"] * 4


def test_the_spool_knows_the_epochs_of_what_never_went_through_it(start, tmp_path):
    publisher = start(MemorySink())
    publisher.submit(events(0, 3, epoch=8) + events(0, 3, "yard", epoch=9))
    assert publisher.close(5) == 0
    assert [spool_in(tmp_path).last_epoch(name) for name in ("gate", "yard")] == [8, 9]


def test_losses_of_a_camera_that_has_not_come_up_are_kept_until_it_has(start, tmp_path):
    sink, spool = FlakySink(), disk_in(tmp_path)
    spool.full = True
    publisher = start(sink, capacity=10, spool=spool)
    for seq in range(30):
        publisher.submit(events(seq, seq))
        time.sleep(0.001)
    wait_until(lambda: publisher.waiting == 10)
    sink.back.set()
    wait_until(lambda: publisher.waiting == 0)
    assert publisher.take_lost(["yard"]) == {}
    assert wait_until(lambda: publisher.take_lost(["gate", "yard"])) == {"gate": 20}
    assert publisher.take_lost(["gate", "yard"]) == {}


def test_losses_that_were_never_told_are_left_for_the_next_start(start, tmp_path):
    publisher = start(FlakySink(), capacity=10, spool=disk_in(tmp_path))
    publisher._spool.full = True
    publisher.submit(events(0, 29))
    wait_until(lambda: publisher.waiting == 10)
    publisher._spool.full = False
    publisher.close(1)
    assert spool_in(tmp_path).take_lost() == {"gate": 20}


def test_what_a_write_that_hangs_holds_up_is_kept_for_the_next_start(start, tmp_path):
    sink = HangingSink()
    publisher = start(sink)
    publisher.submit(events(0, 3))
    assert sink.entered.wait(5)
    publisher.submit(events(4, 5))
    assert publisher.close(0.1) == 0
    assert seqs_of(spool_in(tmp_path)) == list(range(6))
    sink.released.set()


def test_a_write_that_is_under_way_when_the_time_is_up_has_another_second(start, tmp_path):
    sink = HangingSink()
    publisher = start(sink)
    publisher.submit(events(0, 2))
    assert sink.entered.wait(5)
    release = threading.Timer(0.15, sink.released.set)
    release.start()
    assert publisher.close(0) == 0
    release.join()
    assert seqs(sink) == [0, 1, 2]
    assert len(spool_in(tmp_path)) == 0  # or the next run would send them again


def test_what_an_earlier_run_left_behind_later_events_does_not_turn_this_run_away(start, tmp_path):
    class Held(DeduplicatingSink):
        """Has events of epoch 5."""

        def publish(self, events):
            newest = events[-1].data.epoch if events else 5
            if newest < 5:
                raise Fenced("gate", newest, "camera gate: taken")
            super().publish(events)

    spool_in(tmp_path).append(events(0, 3, epoch=4))
    sink = Held()
    sink.back.set()
    publisher = start(sink)
    publisher.submit(events(0, 1, epoch=6))
    assert publisher.close(5) == 0
    assert [(e.data.epoch, e.data.seq) for e in sink.events] == [(6, 0), (6, 1)]
    assert publisher.refused == {}
    assert len(spool_in(tmp_path)) == 0


def test_the_watchdog_sees_progress_while_the_sink_is_away(start):
    publisher = start(FlakySink())
    assert not publisher.has_work()
    publisher.submit(events(0, 0))
    before = publisher.progress()
    wait_until(lambda: publisher.progress() > before + 3)
    assert publisher.has_work()


class OwningSink(DeduplicatingSink):
    """Keeps the owners of cameras, too; whoever ``lives`` is seen at each look."""

    def __init__(self):
        super().__init__()
        self.back.set()
        self.owners, self.looks, self.lives = {}, 0, set()

    def own(self, bids):
        if not self.back.is_set():
            raise SinkUnavailable("away")
        self.looks += 1
        return {name: self._own(name, bid) for name, bid in bids.items()}

    def _own(self, name, bid):
        owner = self.owners.get(name)
        taken = (owner or "") in (bid.owner, bid.expected)
        if taken:
            self.owners[name] = bid.owner
        seen = str(self.looks) if owner in self.lives else "long ago"
        return Holder(taken, owner, seen, 0.0, 0)

    def publish(self, events):
        for event in events:
            if self.owners.get(event.data.camera_id) not in ("us", None, ""):
                raise TakenOver(event.data.camera_id, "another")
        super().publish(events)


@pytest.fixture
def soon(monkeypatch):
    """Looks follow one another at once, and an owner is dead after a tenth of a second."""
    monkeypatch.setattr(ownership, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ownership, "HELD_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(ownership, "RENEW_SECONDS", 0.02)
    monkeypatch.setattr(ownership, "OWNED_SECONDS", 0.1)


@pytest.fixture
def owning(tmp_path, soon):
    """Starts a publisher of the worker "us" that serves no camera yet."""
    publishers = []

    def owning(sink, *cameras):
        publisher = LivePublisher(
            sink, spool_in(tmp_path, ()), capacity=100, ownership=Ownership(sink, "us")
        )
        publishers.append(publisher)
        publisher.add_cameras(cameras)
        publisher.start()
        return publisher

    yield owning
    for publisher in publishers:
        publisher.close(1)


def test_a_camera_is_owned_while_it_is_published_and_given_back_at_the_end(owning):
    sink = OwningSink()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    looks = sink.looks
    wait_until(lambda: sink.looks > looks + 3, what="renewals without any event")
    publisher.submit(events(0, 4))
    assert publisher.close(5) == 0
    assert seqs(sink) == [0, 1, 2, 3, 4]
    assert sink.owners == {"gate": ""}


def test_what_an_earlier_run_spooled_waits_until_the_camera_is_ours(owning, tmp_path):
    spool_in(tmp_path).append([*events(0, 2), *events(0, 1, "yard")])
    sink = OwningSink()
    sink.owners, sink.lives = {"gate": "another"}, {"another"}
    publisher = owning(sink, "gate", "yard")
    wait_until(lambda: len(sink.events) == 2)
    wait_until(lambda: "gate" in publisher.held)
    assert {event.data.camera_id for event in sink.events} == {"yard"}
    assert len(spool_in(tmp_path)) == 3
    sink.lives.clear()
    wait_until(lambda: len(sink.events) == 5, what="the death of the other worker")
    assert publisher.held == {}
    publisher.submit(events(0, 0, epoch=2))
    publisher.close(5)
    assert [e.data.epoch for e in sink.events if e.data.camera_id == "gate"] == [1, 1, 1, 2]


def test_a_camera_that_was_taken_over_is_refused_and_the_others_go_on(owning, tmp_path):
    sink = OwningSink()
    publisher = owning(sink, "gate", "yard")
    wait_until(lambda: publisher.may_watch("gate") and publisher.may_watch("yard"))
    sink.owners["gate"] = "another"
    wait_until(lambda: "gate" in publisher.refused, what="a renewal to find it")
    assert "has taken over its stream" in publisher.refused["gate"]
    assert not publisher.may_watch("gate")
    publisher.submit([*events(0, 2), *events(0, 2, "yard")])
    publisher.close(5)
    assert {event.data.camera_id for event in sink.events} == {"yard"}
    assert sink.owners == {"gate": "another", "yard": ""}
    assert len(spool_in(tmp_path)) == 0


def test_events_that_are_refused_since_another_took_the_camera_refuse_the_camera(owning):
    sink = OwningSink()
    publisher = owning(sink, "gate", "yard")
    wait_until(lambda: publisher.may_watch("gate") and publisher.may_watch("yard"))
    with mock.patch.object(sink, "_own", return_value=Holder(True, "us", "", 0.0, 0)):
        sink.owners["gate"] = "another"  # renewals do not find it
        publisher.submit([*events(0, 2), *events(0, 2, "yard")])
        wait_until(lambda: "gate" in publisher.refused)
        wait_until(lambda: len(sink.events) == 3)
    assert {event.data.camera_id for event in sink.events} == {"yard"}


def test_without_an_answer_cameras_are_watched_and_spooled_and_owned_afterwards(owning, tmp_path):
    spool_in(tmp_path).append(events(0, 2))
    sink = OwningSink()
    sink.back.clear()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    publisher.submit(events(0, 4, epoch=2))
    wait_until(lambda: len(spool_in(tmp_path)) == 8)
    sink.back.set()
    wait_until(lambda: publisher.waiting == 0)
    assert [(e.data.epoch, e.data.seq) for e in sink.events] == [
        (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2), (2, 3), (2, 4),
    ]  # fmt: skip
    assert sink.owners == {"gate": "us"}


def test_a_renewal_that_fails_begins_an_outage_and_one_that_succeeds_ends_it(
    owning, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    caplog.set_level(logging.INFO)
    sink = OwningSink()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    sink.back.clear()
    wait_until(lambda: "is unavailable" in caplog.text)
    assert publisher.may_watch("gate")
    sink.back.set()
    wait_until(lambda: "is available again" in caplog.text)
    assert sink.owners == {"gate": "us"}


def test_a_camera_is_not_given_back_by_a_sink_that_is_away(owning):
    sink = OwningSink()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    sink.back.clear()
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher.waiting)
    publisher.close(1)
    assert sink.owners == {"gate": "us"}


def test_a_camera_that_ended_is_given_back_while_the_others_go_on(owning):
    sink = OwningSink()
    publisher = owning(sink, "gate", "yard")
    wait_until(lambda: publisher.may_watch("gate") and publisher.may_watch("yard"))
    ended = camera_event(seq=3, state="ended", reason="removed")
    publisher.submit([*events(0, 2), ended, *events(0, 0, "yard")])
    wait_until(lambda: sink.owners == {"gate": "", "yard": "us"})
    publisher.submit(events(0, 0, epoch=2))  # it is watched again
    wait_until(lambda: sink.owners == {"gate": "us", "yard": "us"})


def test_a_camera_that_is_wanted_no_longer_is_not_waited_for(owning):
    sink = OwningSink()
    sink.owners, sink.lives = {"gate": "another"}, {"another"}
    publisher = owning(sink, "gate")
    wait_until(lambda: "gate" in publisher.held)
    publisher.remove_cameras(["gate"])
    wait_until(lambda: publisher.held == {})
    sink.owners["gate"] = ""
    publisher.submit(events(0, 0, "yard"))
    wait_until(lambda: len(sink.events) == 1)
    assert sink.owners["gate"] == ""


def test_what_an_earlier_run_left_is_announced_once(start, tmp_path, logged):
    spool_in(tmp_path).append(events(0, 2))
    sink = MemorySink()
    assert start(sink).close(5) == 0
    assert logged() == ["3 events of an earlier run are in the spool: publishing them first"]
    assert start(sink).close(5) == 0
    assert len(logged()) == 1


def test_what_an_earlier_run_left_of_cameras_is_announced_when_they_are_added(
    start, tmp_path, logged
):
    spool_in(tmp_path).append([*events(0, 2), *events(0, 0, "yard")])
    sink = MemorySink()
    publisher = start(sink, spool=spool_in(tmp_path, ()))
    publisher.submit(events(0, 0, "door"))
    wait_until(lambda: len(sink.events) == 1)
    assert logged() == []
    publisher.add_cameras(["gate"])
    wait_until(lambda: len(sink.events) == 4, what="the events of an earlier run")
    assert logged() == ["3 events of an earlier run are in the spool: publishing them first"]


def test_what_is_left_at_the_end_is_said(start, tmp_path, logged):
    publisher = start(FlakySink())
    publisher.submit(events(0, 4))
    wait_until(lambda: len(spool_in(tmp_path)) == 5)
    publisher.close(1)
    assert logged() == ["5 events are in the spool: the next run publishes them"]


def test_events_that_neither_the_sink_nor_the_disk_takes_are_counted_at_the_end(
    start, tmp_path, logged
):
    spool = disk_in(tmp_path)
    spool.full = True
    publisher = start(FlakySink(), spool=spool)
    publisher.submit(events(0, 4))
    wait_until(lambda: "cannot spool events, the newest stay in memory" in "".join(logged()))
    assert publisher.close(1) == 5
    assert logged()[-1].startswith("5 events are lost: they could be neither published nor spooled")
    spool.full = False


def test_losses_are_reported_once_there_is_room_for_it(start):
    sink = HangingSink()
    publisher = start(sink, capacity=10)
    publisher.submit(events(0, 0))
    assert sink.entered.wait(5)
    publisher.submit(events(1, 13))  # three too many
    assert publisher.take_lost(["gate"]) == {}
    sink.released.set()
    assert wait_until(lambda: publisher.take_lost(["gate"])) == {"gate": 3}


def test_a_queue_that_is_half_full_has_room_for_a_report(start):
    sink = HangingSink()
    publisher = start(sink, capacity=10)
    publisher.submit(events(0, 0))
    assert sink.entered.wait(5)
    publisher._lost["gate"] = 4
    publisher.submit(events(1, 6))
    assert publisher.take_lost(["gate"]) == {}
    with publisher._condition:
        publisher._queue.pop()
    assert publisher.take_lost(["gate"]) == {"gate": 4}
    sink.released.set()


class RefusingYard(FlakySink):
    """Refuses a camera, for as long as it is told to."""

    refuses = True

    def publish(self, events):
        if self.back.is_set() and self.refuses and any(e.data.camera_id == "yard" for e in events):
            raise CameraRefused("yard", "camera yard: WRONGTYPE")
        super().publish(events)


def test_a_refused_camera_that_is_added_again_is_accepted(start):
    sink = RefusingYard()
    sink.back.set()
    publisher = start(sink)
    publisher.submit(events(0, 0, "yard"))
    wait_until(lambda: publisher.refused)
    sink.refuses = False
    publisher.add_cameras(["yard"])
    assert publisher.refused == {}
    publisher.submit(events(1, 1, "yard"))
    wait_until(lambda: 1 in seqs(sink))


def test_events_of_a_refused_camera_are_not_kept_during_an_outage(start, tmp_path):
    sink = RefusingYard()
    sink.back.set()
    publisher = start(sink)
    publisher.submit(events(0, 0, "yard"))
    wait_until(lambda: publisher.refused)
    sink.back.clear()
    publisher.submit([*events(1, 3, "yard"), *events(0, 1)])
    wait_until(lambda: len(spool_in(tmp_path)) >= 2)
    publisher.close(1)
    assert [e.data.camera_id for e in spool_in(tmp_path).oldest(9).events] == ["gate"] * 2


def test_what_is_asked_before_the_thread_looks_is_done_in_order(tmp_path, soon):
    sink = OwningSink()
    publisher = LivePublisher(
        sink, spool_in(tmp_path, ()), capacity=100, ownership=Ownership(sink, "us")
    )
    publisher.add_cameras(["gate", "yard", "door"])
    publisher.remove_cameras(["gate"])
    publisher.remove_cameras(["door"])
    publisher.start()
    wait_until(lambda: publisher.may_watch("yard"))
    assert sink.owners == {"yard": "us"}
    publisher.close(5)


def test_a_long_queue_is_written_in_pieces(start):
    hold, release = threading.Event(), threading.Event()

    class Counting(MemorySink):
        sizes = ()

        def publish(self, events):
            hold.set()
            assert release.wait(20)
            self.sizes = (*self.sizes, len(events))
            super().publish(events)

    sink = Counting()
    publisher = start(sink, capacity=10_000)
    publisher.submit(events(0, 0))
    assert hold.wait(5)
    publisher.submit(events(1, 1500))
    assert publisher.waiting == 1501
    release.set()
    assert publisher.close(10) == 0
    assert sink.sizes == (1, 512, 512, 476)
    assert seqs(sink) == list(range(1501))


def test_a_sink_that_is_away_is_not_asked_again_before_it_is_time(start, tmp_path, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    sink = FlakySink()
    publisher = start(sink)
    for seq in range(5):
        publisher.submit(events(seq, seq))
        wait_until(lambda until=seq + 1: len(spool_in(tmp_path)) == until, what="the spool")
    assert sink.tries == 1


def test_a_sink_that_is_away_is_not_asked_again_while_closing(start, tmp_path, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 0)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 0)

    class HangsAndIsAway(HangingSink, FlakySink):
        pass

    sink = HangsAndIsAway()
    publisher = start(sink)
    publisher.submit(events(0, 0))
    assert sink.entered.wait(5)
    publisher.submit(events(1, 3))
    closer = threading.Thread(target=publisher.close, args=(20,))
    closer.start()
    wait_until(lambda: publisher._closing)
    sink.released.set()
    closer.join(20)
    assert sink.tries == 1
    assert seqs_of(spool_in(tmp_path)) == [0, 1, 2, 3]


def test_what_an_earlier_run_left_is_published_though_closing_begins_at_once(tmp_path):
    spool_in(tmp_path).append(events(0, 2))
    sink = MemorySink()
    publisher = LivePublisher(sink, spool_in(tmp_path), capacity=100)
    publisher._closing = True  # before the thread first looks
    publisher.start()
    assert publisher.close(5) == 0
    assert seqs(sink) == [0, 1, 2]
    assert len(spool_in(tmp_path)) == 0


@pytest.mark.parametrize("is_taken_over", [True, False])
def test_spooled_events_of_a_camera_are_dropped_if_another_took_it_and_kept_if_it_is_damaged(
    owning, tmp_path, logged, is_taken_over
):
    sink = OwningSink()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    sink.back.clear()
    publisher.submit(events(0, 2))
    wait_until(lambda: len(spool_in(tmp_path)) == 3)
    if is_taken_over:
        sink.owners["gate"] = "another"
    else:
        sink.own = lambda bids: {name: CameraRefused(name, "damaged") for name in bids}
    sink.back.set()
    wait_until(lambda: publisher.refused)
    publisher.close(5)
    assert len(spool_in(tmp_path)) == (0 if is_taken_over else 3)
    said = "camera gate: 3 events in the spool are dropped"
    assert logged().count(said) == int(is_taken_over)
    assert sink.events == []


def test_what_an_earlier_run_lost_of_a_camera_is_reported_once_it_is_added(start, tmp_path):
    spool_in(tmp_path).add_lost({"gate": 7})
    publisher = start(MemorySink(), spool=spool_in(tmp_path, ()))
    publisher.add_cameras(["gate"])
    assert wait_until(lambda: publisher.take_lost(["gate"])) == {"gate": 7}


def test_closing_ends_in_the_midst_of_a_long_spool_when_its_time_is_over(
    start, tmp_path, monkeypatch
):
    monkeypatch.setattr(live, "EVENTS_AT_ONCE", 1)
    spool_in(tmp_path).append(events(0, 4))
    sink = HangingSink()
    publisher = start(sink)
    publisher.add_cameras([])  # wakes it
    assert sink.entered.wait(5)
    closer = threading.Thread(target=publisher.close, args=(0,))
    closer.start()
    wait_until(lambda: publisher._give_up_at < time.monotonic())
    sink.released.set()
    closer.join(20)
    assert seqs(sink) == [0]
    assert seqs_of(spool_in(tmp_path)) == [1, 2, 3, 4]


def test_events_are_always_taken(start):
    assert start(MemorySink()).submit(events(0, 0)) is True


def test_events_of_a_refused_camera_do_not_wait(start):
    publisher = start(MemorySink())
    publisher.refused["gate"] = "camera gate: taken"
    publisher.submit(events(0, 0))
    assert publisher._behind_since is None


def test_losses_are_not_reported_during_an_outage(start, tmp_path):
    sink = FlakySink()
    publisher = start(sink)
    publisher.submit(events(0, 0))
    wait_until(lambda: len(spool_in(tmp_path)) == 1, what="the spool")
    publisher._lost["gate"] = 4
    assert publisher.take_lost(["gate"]) == {}
    sink.back.set()
    assert wait_until(lambda: publisher.take_lost(["gate"])) == {"gate": 4}


@pytest.mark.parametrize(
    "ask", [lambda publisher: publisher.waiting, lambda publisher: publisher.take_lost(["gate"])]
)
def test_what_is_asked_while_events_are_being_moved_waits_for_the_end_of_that(start, ask):
    publisher = start(MemorySink())
    asking = threading.Thread(target=ask, args=(publisher,), daemon=True)
    with publisher._condition:
        asking.start()
        asking.join(0.05)
        assert asking.is_alive()
    asking.join(20)
    assert not asking.is_alive()


def test_a_disk_that_takes_nothing_is_no_matter_when_nothing_is_left(start, tmp_path, logged):
    class FullDisk(Spool):
        def append(self, events):
            raise SpoolError("database or disk is full")

        add_lost = oldest = append

    publisher = start(MemorySink(), spool=FullDisk(tmp_path, "here", ["gate"], 1 << 30))
    assert publisher.close(5) == 0
    assert logged() == []


def failing(spool, method):
    return mock.patch.object(spool, method, side_effect=SpoolError("no disk"))


def test_losses_that_cannot_be_saved_are_logged_with_their_numbers(start, tmp_path, logged):
    spool = spool_in(tmp_path)
    publisher = start(MemorySink(), spool=spool)
    publisher._lost["gate"] = 4
    with failing(spool, "add_lost"):
        assert publisher.close(5) == 0
    assert logged() == [
        "no disk: cannot save the counts of lost events, so they will not be reported: {'gate': 4}"
    ]


def test_losses_that_cannot_be_read_stop_no_events(start, tmp_path, logged):
    sink, spool = FlakySink(), spool_in(tmp_path)
    with failing(spool, "take_lost"):
        publisher = start(sink, spool=spool)
        publisher.submit(events(0, 0))
        wait_until(lambda: len(spool) == 1, what="the outage")
        sink.back.set()
        wait_until(lambda: "no disk" in logged(), what="the line about the spool")
        publisher.submit(events(1, 1))
        wait_until(lambda: seqs(sink) == [0, 1], what="the events")


def test_a_spool_that_cannot_be_read_is_tried_again_after_a_while(
    start, tmp_path, monkeypatch, logged
):
    spool_in(tmp_path).append(events(0, 2))
    sink, spool = MemorySink(), spool_in(tmp_path)
    monkeypatch.setattr(live, "DISK_RETRY_SECONDS", 0.3)
    with failing(spool, "oldest") as oldest:
        publisher = start(sink, spool=spool)
        wait_until(lambda: "cannot read the spool: no disk" in logged(), what="the line")
        publisher.submit(events(3, 3))
        time.sleep(0.05)
        assert oldest.call_count == 1
    wait_until(lambda: seqs(sink) == [0, 1, 2, 3], what="the events")


def test_a_camera_whose_spooled_events_cannot_be_read_is_published_all_the_same(tmp_path, logged):
    sink, spool = OwningSink(), spool_in(tmp_path, ())
    publisher = LivePublisher(sink, spool, capacity=100, ownership=Ownership(sink, "us"))
    with failing(spool, "add_cameras"):
        publisher.add_cameras(["gate"])
        publisher.start()
        line = "cannot read the spooled events of new cameras, gate: no disk"
        wait_until(lambda: line in logged(), what="the line")
    publisher.submit(events(0, 0))
    wait_until(lambda: seqs(sink) == [0], what="the event")
    publisher.close(5)


def test_a_camera_that_is_refused_is_left_also_if_the_spool_cannot_forget_it(owning, logged):
    sink = OwningSink()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    sink.back.clear()
    publisher.submit(events(0, 2))
    with failing(Spool, "remove_camera"):
        sink.own = lambda bids: {name: CameraRefused(name, "damaged") for name in bids}
        sink.back.set()
        wait_until(lambda: "no disk" in logged(), what="the line about the spool")
    assert publisher.refused == {"gate": "damaged"}


def test_losses_are_kept_for_the_next_run_once(start, tmp_path):
    publisher = start(MemorySink())
    publisher._lost["gate"] = 4
    for _ in range(2):
        publisher.close(5)
    assert spool_in(tmp_path).take_lost() == {"gate": 4}


def test_losses_are_not_reported_before_an_earlier_event_is_published(tmp_path):
    spool_in(tmp_path).append(events(0, 0))
    publisher = LivePublisher(MemorySink(), spool_in(tmp_path), capacity=100)
    publisher._lost["gate"] = 4
    assert publisher.take_lost(["gate"]) == {}
    publisher.start()
    assert wait_until(lambda: publisher.take_lost(["gate"])) == {"gate": 4}
    publisher.close(5)


def test_events_of_a_write_that_hangs_are_lost_with_the_others_if_the_disk_is_full(start, tmp_path):
    class FullDisk(Spool):
        def append_apart(self, events):
            raise SpoolError("database or disk is full")

    sink = HangingSink()
    publisher = start(sink, spool=FullDisk(tmp_path, "here", ["gate"], 1 << 30))
    publisher.submit(events(0, 0))
    assert sink.entered.wait(5)
    publisher.submit(events(1, 2))
    assert publisher.close(-1) == 3
    sink.released.set()


def test_to_keep_an_event_during_an_outage_is_progress(start, tmp_path, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    publisher = start(FlakySink())
    publisher.submit(events(0, 0))
    wait_until(lambda: len(spool_in(tmp_path)) == 1, what="the spool")
    before = publisher.progress()
    publisher.submit(events(1, 1))
    wait_until(lambda: len(spool_in(tmp_path)) == 2, what="the spool")
    assert publisher.progress() > before


def test_while_neither_sink_nor_disk_takes_events_it_waits_for_its_time_also_with_a_new_camera(
    start, tmp_path, monkeypatch
):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    spool = disk_in(tmp_path)
    spool.full = True
    sink = FlakySink()
    publisher = start(sink, spool=spool)
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher._disk_refuses and publisher._queue, what="a full disk")
    before = publisher.progress()
    publisher._thread.join(0.05)
    assert publisher.progress() == before
    publisher.add_cameras(["door"])
    wait_until(lambda: publisher.progress() > before)
    spool.full = False
    publisher.close(5)
    assert sink.tries == 1


def test_cameras_are_not_given_back_to_a_sink_that_is_away(owning, tmp_path, monkeypatch):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    sink, asked = OwningSink(), []
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    sink.back.clear()
    publisher.submit(events(0, 0))
    wait_until(lambda: len(spool_in(tmp_path)) == 1, what="the spool")
    sink.own = lambda bids: asked.append(bids) or {}
    publisher.close(5)
    assert asked == []


@pytest.mark.parametrize("is_away", [False, True])
def test_an_owner_does_nothing_until_it_is_time_to_renew_or_to_try_again(
    tmp_path, monkeypatch, is_away
):
    monkeypatch.setattr(ownership, "RENEW_SECONDS", 0.02 if is_away else 60)
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    sink, tries = OwningSink(), []

    def away(bids):
        tries.append(sink.tries)
        raise SinkUnavailable("away")

    publisher = LivePublisher(
        sink, spool_in(tmp_path, ()), capacity=100, ownership=Ownership(sink, "us")
    )
    publisher.add_cameras(["gate"])
    publisher.start()
    wait_until(lambda: publisher.may_watch("gate"))
    if is_away:
        sink.own = away
        wait_until(lambda: publisher._outage)
    before = publisher.progress()
    publisher._thread.join(0.1)
    assert publisher.progress() <= before + 2
    if is_away:
        assert tries == [sink.tries]
    publisher.close(5)


def test_the_disk_is_not_asked_for_losses_while_the_sink_takes_events(start, tmp_path):
    spool, asked = spool_in(tmp_path), []
    spool.take_lost = lambda: asked.append(True) or {}
    sink = MemorySink()
    publisher = start(sink, spool=spool)
    publisher.submit(events(0, 0))
    wait_until(lambda: len(sink.events) == 1)
    publisher.submit(events(1, 1))
    assert publisher.close(5) == 0
    assert asked == []


def test_what_an_earlier_run_left_of_a_camera_counts_from_when_it_is_added_in_an_outage(
    start, tmp_path, monkeypatch, logged
):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    spool_in(tmp_path, ["door"]).append(events(0, 2, "door"))
    spool, asked = spool_in(tmp_path), []
    spool.take_lost = lambda: asked.append(True) or {}
    publisher = start(FlakySink(), spool=spool)
    publisher.submit(events(0, 0))
    wait_until(lambda: len(spool_in(tmp_path)) == 1, what="the spool")
    publisher.add_cameras(["door"])
    wait_until(lambda: publisher.waiting == 4)
    publisher.close(1)
    assert logged() == ["4 events are in the spool: the next run publishes them"]
    assert asked == []  # they are reported after the outage


def test_an_owner_asks_the_disk_for_losses_once_for_a_new_camera(tmp_path):
    sink, asked = OwningSink(), []
    spool = spool_in(tmp_path, ())
    spool.take_lost = lambda: asked.append(True) or {}
    publisher = LivePublisher(sink, spool, capacity=100, ownership=Ownership(sink, "us"))
    publisher.add_cameras(["gate"])
    publisher.start()
    wait_until(lambda: publisher.may_watch("gate"))
    publisher.submit(events(0, 0))
    wait_until(lambda: len(sink.events) == 1)
    publisher.close(5)
    assert asked == [True]


def test_every_write_of_a_long_spool_is_progress(start, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "EVENTS_AT_ONCE", 1)
    spool_in(tmp_path).append(events(0, 4))
    sink = MemorySink()
    publisher = start(sink)
    wait_until(lambda: len(sink.events) == 5)
    assert publisher.progress() > 5


def test_spooled_events_are_dropped_if_a_write_finds_that_another_took_the_camera(start, tmp_path):
    class Taken(FlakySink):
        def publish(self, events):
            if self.back.is_set() and events:
                raise TakenOver("gate", "another")
            super().publish(events)

    sink = Taken()
    publisher = start(sink)
    publisher.submit(events(0, 2))
    wait_until(lambda: len(spool_in(tmp_path)) == 3, what="the spool")
    sink.back.set()
    wait_until(lambda: publisher.refused)
    publisher.close(5)
    assert len(spool_in(tmp_path)) == 0


def test_a_sink_that_does_not_take_what_an_earlier_run_left_is_not_asked_again_at_once(
    start, tmp_path, monkeypatch
):
    monkeypatch.setattr(outage, "FIRST_RETRY_SECONDS", 60)
    monkeypatch.setattr(outage, "LAST_RETRY_SECONDS", 60)
    spool_in(tmp_path).append(events(0, 0))
    sink = FlakySink()
    publisher = start(sink)
    wait_until(lambda: sink.tries)
    publisher.submit(events(1, 1))
    wait_until(lambda: len(spool_in(tmp_path)) == 2, what="the spool")
    publisher.close(5)
    assert sink.tries == 1


def test_nothing_is_written_to_the_disk_while_an_earlier_run_s_events_are_published(
    start, tmp_path
):
    spool_in(tmp_path).append(events(0, 2))
    spool, written = spool_in(tmp_path), []
    spool.append = written.append
    sink = MemorySink()
    publisher = start(sink, spool=spool)
    assert publisher.close(5) == 0
    assert (seqs(sink), written) == ([0, 1, 2], [])


def test_events_that_come_back_from_a_full_disk_take_no_more_room_than_there_is(start, tmp_path):
    class Fails(HangingSink):
        def publish(self, events):
            super().publish([])
            raise SinkUnavailable("away")

    spool = disk_in(tmp_path)
    spool.full = True
    sink = Fails()
    publisher = start(sink, spool=spool, capacity=3)
    publisher.submit(events(0, 2))
    assert sink.entered.wait(5)
    publisher.submit(events(3, 5))
    sink.released.set()
    wait_until(lambda: publisher._disk_refuses and not publisher._in_flight)
    with publisher._condition:
        assert [e.data.seq for e in publisher._queue] == [3, 4, 5]
        assert publisher._lost == {"gate": 3}
    spool.full = False


def test_a_camera_that_is_refused_is_asked_for_no_longer(owning):
    class Refusing(OwningSink):
        bids = ()

        def own(self, bids):
            self.bids = (*self.bids, *bids)
            return super().own(bids)

        def publish(self, events):
            if any(event.data.camera_id == "gate" for event in events):
                raise CameraRefused("gate", "camera gate: WRONGTYPE")

    sink = Refusing()
    publisher = owning(sink, "gate", "yard")
    wait_until(lambda: publisher.may_watch("gate") and publisher.may_watch("yard"))
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher.refused)
    looks = sink.looks
    wait_until(lambda: sink.looks > looks + 1)
    sink.bids = ()
    wait_until(lambda: sink.bids.count("yard") > 2)
    assert "gate" not in sink.bids


def test_of_a_camera_that_another_took_nothing_is_said_to_be_dropped_if_nothing_was_spooled(
    start, logged
):
    class Taken(MemorySink):
        def publish(self, events):
            if events:
                raise TakenOver("gate", "another")

    publisher = start(Taken())
    publisher.submit(events(0, 0))
    wait_until(lambda: publisher.refused)
    publisher.close(5)
    assert not any("are dropped" in line for line in logged())


def test_a_renewal_does_not_end_the_outage_of_a_sink_that_takes_no_events(owning, caplog):
    class ReadOnly(OwningSink):
        def publish(self, events):
            self.tries += 1
            if events:
                raise SinkUnavailable("read-only")

    sink = ReadOnly()
    publisher = owning(sink, "gate")
    wait_until(lambda: publisher.may_watch("gate"))
    publisher.submit(events(0, 0))
    before, looks = sink.tries, sink.looks
    wait_until(lambda: sink.tries > before + 3 and sink.looks > looks + 3)
    assert caplog.text.count("is unavailable") == 1
