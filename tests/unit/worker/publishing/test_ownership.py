import itertools
import logging

import pytest

from tests.clocks import Clock
from tests.events import camera_event, detections_event
from worker.errors import CameraRefused, SinkUnavailable, TakenOver
from worker.publishing import ownership
from worker.publishing.ownership import (
    HELD_LOOK_SECONDS,
    LOOK_SECONDS,
    OWNED_SECONDS,
    RENEW_SECONDS,
    Holder,
    Ownership,
)


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
        self.asked = []
        """The moments."""

    def own(self, bids):
        self.asked.append(self.clock.now)
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
    assert run(second, clock, 60) == []
    assert owner_of(sink) == "b"


def test_a_camera_that_is_taken_over_in_turn_is_not_taken_back(sink, clock):
    one(sink, "a").step()
    second = one(sink, "b", take_over=True)
    run(second, clock, 0.5)
    sink.owners["gate"] = ("a", str(clock.now))
    (lost,) = run(second, clock, RENEW_SECONDS + 0.5)
    assert isinstance(lost, TakenOver)
    assert owner_of(sink) == "a"


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
    assert "another worker (a) has taken over its stream" in str(lost)
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


@pytest.fixture
def logged(caplog, monkeypatch):
    """Messages so far, from a level on."""
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    caplog.set_level(logging.INFO, "worker")
    return lambda: [record.getMessage() for record in caplog.records]


WAITS = "camera gate: worker a watched it {} s ago: waiting at most {} s to see whether that one"


def test_a_takeover_from_a_dead_worker_is_reported(sink, clock, logged):
    one(sink, "a").step()
    clock.now += 3
    second = one(sink, "b")
    run(second, clock, 12)
    waits, taken = logged()
    assert waits.startswith(WAITS.format(3, 7))
    assert taken == "camera gate: taken over from worker a, last seen 10 s ago"


@pytest.mark.parametrize("dead_for", [OWNED_SECONDS, 3600])
def test_nothing_is_said_of_waiting_where_there_is_nothing_to_wait_for(
    sink, clock, logged, dead_for
):
    one(sink, "a").step()
    clock.now += dead_for
    run(one(sink, "b"), clock, 3)
    assert logged() == [f"camera gate: taken over from worker a, last seen {dead_for:.0f} s ago"]


def test_a_takeover_that_was_asked_for_waits_for_nothing(sink, clock, logged):
    one(sink, "a").step()
    run(one(sink, "b", take_over=True), clock, 0.5)
    assert logged() == ["camera gate: taken over from worker a, last seen 0 s ago"]


def test_a_camera_without_another_owner_is_taken_without_a_word(sink, clock, logged):
    first = one(sink, "a")
    first.step()
    first.give_back()
    second = one(sink, "b")
    second.step()  # it was given back
    one(sink, "b").step()  # this worker has it, as a reply that was lost said
    assert owner_of(sink) == "b"
    assert logged() == []


def test_a_camera_that_is_held_is_reported_once(sink, clock, logged):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    run(second, clock, 30, each=first.step)
    assert logged()[1:] == ["camera gate: held by another worker (a)"]


def test_a_camera_lost_after_it_was_watched_without_an_answer_is_not_called_held(
    sink, clock, logged
):
    first, second = one(sink, "a"), one(sink, "b")
    first.step()
    sink.away = True
    with pytest.raises(SinkUnavailable):
        second.step()
    sink.away = False
    with pytest.raises(SinkUnavailable):
        second.step(all_due=True)
    clock.now += RENEW_SECONDS
    first.step()
    assert [error.camera_id for error in second.step(all_due=True)] == ["gate"]
    assert not any("held by" in message for message in logged())


def gaps(sink, since):
    moments = [moment for moment in sink.asked if moment >= since]
    return {later - earlier for earlier, later in itertools.pairwise(moments)}


def test_the_sink_is_asked_no_more_often_than_needed(sink, clock):
    first = one(sink, "a")
    run(first, clock, 10)
    assert gaps(sink, 0) == {RENEW_SECONDS}
    first.step()
    second, began = one(sink, "b"), clock.now
    run(second, clock, RENEW_SECONDS)
    assert gaps(sink, began) == {LOOK_SECONDS}
    first.step()
    run(second, clock, 1)
    assert second.held
    began = clock.now
    run(second, clock, 7)
    assert gaps(sink, began) == {HELD_LOOK_SECONDS}


def test_what_is_due_is_known_to_the_moment(sink, clock):
    ours = one(sink, "a")
    assert ours.seconds_left() == 0
    ours.step()
    clock.now += RENEW_SECONDS - 0.5
    assert ours.seconds_left() == 0.5
    clock.now += 5
    assert ours.seconds_left() == 0


def test_a_dead_owners_camera_is_taken_the_moment_its_time_is_over(sink, clock):
    one(sink, "a").step()
    died_at = clock.now
    second = one(sink, "b")
    for _ in range(50):
        clock.now += second.seconds_left()
        second.step()
        if second.may_watch("gate"):
            break
    assert second.may_watch("gate")
    assert clock.now == died_at + OWNED_SECONDS


def test_a_camera_that_is_asked_for_again_stays_ours(sink, clock):
    taken = []
    ours = one(sink, "a", on_taken=lambda *camera: taken.append(camera))
    ours.step()
    ours.add(["gate"])
    assert ours.may_watch("gate")
    ours.add_watched([detections_event()], but=[])
    run(ours, clock, 10)
    assert ours.take_watchable() == ["gate"]
    assert taken == [("gate", 0)]


def test_a_camera_that_events_show_being_watched_is_decided_later(sink, clock):
    first, second = one(sink, "a"), Ownership(sink, "b", take_over=True)
    first.step()
    second.add_watched([camera_event("gate", state="up"), detections_event("yard")], but=[])
    assert second.may_watch("gate")
    for _ in range(2):
        with pytest.raises(SinkUnavailable):
            second.step(all_due=True)
    assert (owner_of(sink), owner_of(sink, "yard")) == ("a", "b")
    assert second.take_watchable() == []


def test_only_what_is_ours_is_given_back(sink, clock):
    first = one(sink, "a", ["gate", "yard"])
    first.step()
    first.give_back(["gate"])
    assert (owner_of(sink), owner_of(sink, "yard")) == ("", "a")
    assert first.may_watch("yard")
    second = one(sink, "b", ["yard"])
    second.step()
    asked = len(sink.asked)
    second.give_back()
    second.step()
    assert len(sink.asked) == asked


@pytest.mark.parametrize("take_over", [False, True])
def test_a_camera_whose_dead_owner_the_sink_has_lost_is_taken(sink, clock, take_over):
    one(sink, "a").step()
    second = one(sink, "b", take_over=take_over)
    second.step()
    sink.owners.clear()
    run(second, clock, 1)
    assert second.held == {}
    run(second, clock, OWNED_SECONDS)
    assert owner_of(sink) == "b"


def test_a_camera_that_is_being_taken_over_is_never_held(sink, clock):
    one(sink, "a").step()
    second = one(sink, "b", take_over=True)
    second.step()
    sink.owners["gate"] = ("c", str(clock.now))
    second.step()
    assert second.held == {}
    second.step()
    assert owner_of(sink) == "b"


def test_cameras_are_named_once_however_often_the_sink_gives_no_answer(sink, clock):
    ours = one(sink, "a")
    ours.step()
    ours.take_watchable()
    ours.add(["yard"])
    sink.away = True
    for _ in range(3):
        with pytest.raises(SinkUnavailable):
            ours.step(all_due=True)
    assert ours.take_watchable() == ["yard"]
    sink.away = False
    assert ours.step(all_due=True) == []


def test_a_camera_that_is_refused_is_reported_though_others_are_undecided(sink, clock):
    one(sink, "a", ["gate", "yard"]).step()
    sink.away = True
    second = one(sink, "b", ["gate", "yard", "door"])
    with pytest.raises(SinkUnavailable):
        second.step()
    sink.away, sink.damaged = False, {"door"}
    assert [error.camera_id for error in second.step(all_due=True)] == ["door"]
    with pytest.raises(SinkUnavailable, match="camera gate: it is not decided yet"):
        second.step(all_due=True)


def test_without_a_sink_that_knows_owners_every_camera_may_be_watched(clock):
    ours = Ownership(None)
    ours.add(["gate"])
    ours.add_watched([detections_event("yard")], but=[])
    assert ours.take_watchable() == ["gate"]
    assert ours.may_watch("gate")
    assert ours.step() == []
    assert ours.seconds_left() is None
    ours.give_back()


def test_what_cannot_be_given_back_is_not_ours_all_the_same(sink, clock, monkeypatch):
    ours = one(sink, "a")
    ours.step()

    given_back = []

    def away(bids):
        given_back.extend(bids)
        raise SinkUnavailable("away")

    monkeypatch.setattr(sink, "own", away)
    ours.give_back()  # its time runs out
    assert given_back == ["gate"]
