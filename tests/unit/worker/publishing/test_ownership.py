import logging

import pytest

from tests.events import camera_event, detections_event
from worker.errors import CameraRefused, SinkUnavailable, TakenOver
from worker.publishing import ownership
from worker.publishing.ownership import OWNED_SECONDS, RENEW_SECONDS, Holder, Ownership


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(ownership, "time", clock)
    return clock


class Sink:
    """Keeps owners as own.lua does (tests/contract/test_owners.py), by the clock of the test."""

    def __init__(self, clock):
        self.clock = clock
        self.owners = {}
        self.epochs = {}
        self.away = False
        self.damaged = set()

    def own(self, bids):
        if self.away:
            raise SinkUnavailable("away")
        return {name: self._own(name, bid) for name, bid in bids.items()}

    def _own(self, camera_id, bid):
        if camera_id in self.damaged:
            return CameraRefused(camera_id, "damaged")
        owner, seen = self.owners.get(camera_id, (None, ""))
        as_expected = (owner or "") == bid.expected and bid.expected_seen in ("*", seen)
        taken = (owner or "") == bid.owner or as_expected
        if taken and (bid.owner or owner is not None):
            self.owners[camera_id] = bid.owner, str(self.clock.now) if bid.owner else ""
        age = self.clock.now - float(seen or self.clock.now)
        return Holder(taken, owner, seen, max(age, 0), self.epochs.get(camera_id, 0))


@pytest.fixture
def sink(clock):
    return Sink(clock)


def run(ours, clock, seconds, each=lambda: None):
    """Lets time pass and steps whenever something is due; returns what was lost."""
    lost, end = [], clock.now + seconds
    while clock.now < end:
        each()
        lost += ours.step()
        clock.now += 0.25
    return lost


def owner_of(sink, camera_id="gate"):
    return sink.owners[camera_id][0]


def one(sink, owner, cameras=("gate",), **options):
    ours = Ownership(sink, owner, **options)
    ours.add(cameras)
    return ours


def test_a_camera_that_nobody_has_is_taken_and_kept(sink, clock):
    ours = one(sink, "a")
    assert not ours.may_watch("gate")
    assert ours.step() == []
    assert ours.may_watch("gate")
    assert ours.take_watchable() == ["gate"]
    assert run(ours, clock, 60) == []
    assert sink.clock.now - float(sink.owners["gate"][1]) <= RENEW_SECONDS + 0.25


def test_a_camera_whose_owner_lives_is_held_and_stays_with_it(sink, clock):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    assert run(second, clock, RENEW_SECONDS + 1, each=first.step) == []
    assert not second.may_watch("gate")
    assert "another worker (a) is watching it: stop that one" in second.held["gate"]
    assert "--take-over" in second.held["gate"]
    assert run(second, clock, 60, each=first.step) == []
    assert owner_of(sink) == "a"


def test_an_owner_is_seen_to_live_before_anybody_says_that_it_does(sink, clock):
    one(sink, "a").step()
    second = one(sink, "b")
    run(second, clock, OWNED_SECONDS - 1)
    assert second.held == {}
    assert not second.may_watch("gate")


@pytest.mark.parametrize("dead_for", [0, 7, 9.5, 3600])
def test_the_camera_of_a_dead_owner_is_taken_when_its_time_is_over(sink, clock, dead_for):
    one(sink, "a").step()
    died_at = clock.now
    clock.now += dead_for
    taken = []
    second = one(sink, "b", on_taken=lambda *camera: taken.append(camera))
    sink.epochs["gate"] = 77
    while not second.may_watch("gate"):
        run(second, clock, 0.25)
    waited_until = max(died_at + OWNED_SECONDS, died_at + dead_for)
    assert waited_until <= clock.now <= waited_until + 1
    assert taken == [("gate", 77)]


def test_a_worker_that_waits_for_a_held_camera_takes_it_soon_after_the_owners_death(sink, clock):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    run(second, clock, 20, each=first.step)
    died_at = clock.now
    while not second.may_watch("gate"):
        run(second, clock, 0.25)
    assert clock.now - died_at < 13
    assert second.held == {}


def test_a_camera_that_is_given_back_is_taken_by_the_next_look(sink, clock):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    run(second, clock, 20, each=first.step)
    first.give_back()
    run(second, clock, 2.5)
    assert second.may_watch("gate")
    third = one(sink, "c")
    second.give_back(["gate"])
    third.step()
    assert third.may_watch("gate")


def test_a_camera_is_taken_over_at_once_if_asked_and_the_first_owner_hears_of_it(sink, clock):
    first, second = one(sink, "a"), one(sink, "b", take_over=True)
    first.step()
    run(second, clock, 0.5)
    assert second.may_watch("gate")
    (lost,) = run(first, clock, RENEW_SECONDS + 0.5)
    assert isinstance(lost, TakenOver)
    assert "another worker (b) has taken over its stream" in str(lost)
    assert not first.may_watch("gate")
    assert run(first, clock, 60, each=second.step) == []
    assert owner_of(sink) == "b"


def test_a_camera_is_taken_over_once(sink, clock):
    first, second = one(sink, "a", take_over=True), one(sink, "b", take_over=True)
    first.step()
    run(second, clock, 0.5)
    run(first, clock, 4, each=second.step)
    first.add(["gate"])  # a reload
    run(first, clock, 20, each=second.step)
    assert owner_of(sink) == "b"


def test_a_frozen_worker_that_wakes_after_another_took_its_camera_has_lost_it(sink, clock):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    run(second, clock, 12)
    assert second.may_watch("gate")
    assert [error.camera_id for error in first.step()] == ["gate"]


def test_a_frozen_worker_whose_camera_nobody_took_keeps_it(sink, clock):
    first = one(sink, "a")
    first.step()
    clock.now += 3600
    assert first.step() == []
    assert first.may_watch("gate")


def test_a_worker_whose_sink_was_away_for_minutes_keeps_its_camera(sink, clock):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    run(second, clock, 20, each=first.step)
    sink.away = True
    for _ in range(200):
        for each in (first, second):
            with pytest.raises(SinkUnavailable):
                each.step(all_due=True)
        clock.now += 1
    assert first.may_watch("gate")
    assert not second.may_watch("gate")
    sink.away = False
    second.step(all_due=True)  # the one that waits is first to find it
    run(second, clock, 3)
    assert first.step(all_due=True) == []
    assert owner_of(sink) == "a"


def test_owners_that_the_sink_has_lost_are_noted_again_by_those_who_were(sink, clock):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    run(second, clock, 20, each=first.step)
    sink.owners.clear()
    second.step(all_due=True)
    run(second, clock, 20, each=first.step)
    assert owner_of(sink) == "a"


def test_without_an_answer_at_the_start_cameras_are_watched_and_decided_later(sink, clock):
    sink.away = True
    ours = one(sink, "a")
    with pytest.raises(SinkUnavailable):
        ours.step()
    assert ours.may_watch("gate")
    assert ours.take_watchable() == ["gate"]
    sink.away = False
    assert ours.step() == []
    assert owner_of(sink) == "a"
    assert ours.take_watchable() == []


def test_a_camera_watched_without_an_answer_waits_until_its_owner_is_known_to_live_or_not(
    sink, clock
):
    first = one(sink, "a")
    first.step()
    sink.away = True
    second = one(sink, "b")
    with pytest.raises(SinkUnavailable):
        second.step()
    sink.away = False
    with pytest.raises(SinkUnavailable, match="camera gate: it is not decided yet"):
        second.step(all_due=True)
    clock.now += RENEW_SECONDS
    first.step()
    (lost,) = second.step(all_due=True)
    assert isinstance(lost, TakenOver)
    assert owner_of(sink) == "a"


def test_a_camera_that_ended_is_given_back_and_owned_again_once_it_is_watched_again(sink, clock):
    ours = one(sink, "a")
    ours.step()
    ended = camera_event(epoch=7, seq=3, state="ended", reason="end_of_file")
    ours.give_back_ended([ended], lambda camera_id, epoch: True)  # of an earlier run
    assert owner_of(sink) == "a"
    ours.give_back_ended([ended], lambda camera_id, epoch: False)
    assert owner_of(sink) == ""
    ours.add_watched([ended, camera_event(epoch=7, seq=4, state="degraded")], but=[])
    ours.step()
    assert owner_of(sink) == ""
    ours.add_watched([detections_event(epoch=8)], but=["gate"])
    ours.step()
    assert owner_of(sink) == ""
    ours.add_watched([detections_event(epoch=8)], but=[])
    ours.step()
    assert owner_of(sink) == "a"


def test_a_damaged_camera_leaves_the_others_theirs(sink, clock):
    sink.damaged = {"gate"}
    ours = one(sink, "a", ["gate", "yard"])
    assert [error.camera_id for error in ours.step()] == ["gate"]
    assert ours.may_watch("yard")
    assert ours.seconds_left() == pytest.approx(RENEW_SECONDS)


def test_cameras_that_nobody_wants_any_more_are_not_waited_for(sink, clock):
    one(sink, "a").step()
    second = one(sink, "b")
    second.step()
    second.give_back(["gate"])
    assert second.seconds_left() is None
    assert owner_of(sink) == "a"


def test_a_takeover_from_a_dead_worker_is_reported(sink, clock, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    one(sink, "a").step()
    second = one(sink, "b")
    run(second, clock, 12)
    assert "camera gate: taken over from worker a, last seen 10 s ago" in caplog.text


def test_without_a_sink_that_knows_owners_every_camera_may_be_watched(clock):
    ours = Ownership(None)
    ours.add(["gate"])
    ours.add_watched([detections_event("yard")], but=[])
    assert ours.take_watchable() == ["gate"]
    assert ours.may_watch("gate")
    assert ours.step() == []
    ours.give_back()
    assert ours.seconds_left() is None
