"""State changes among repetitions."""

from tests.events import camera_event
from worker.dashboard.states import StateNote, without_repetitions


def note(state, reason):
    return StateNote.of(camera_event(state=state, reason=reason), "gate", 0.0)


def test_repetitions_are_no_changes_and_what_is_aside_does_not_hide_them():
    said = [
        ("up", "heartbeat"), ("up", "heartbeat"), ("down", "stall"), ("down", "stall"),
        ("degraded", "events_lost"), ("down", "stall"), ("down", "refused"), ("up", "connected"),
        ("up", "heartbeat"), ("degraded", "late"), ("up", "caught_up"),
    ]  # fmt: skip
    found = without_repetitions([note(*each) for each in said])
    assert [(each.state, each.reason) for each in found] == [
        ("up", "heartbeat"), ("down", "stall"), ("degraded", "events_lost"), ("down", "refused"),
        ("up", "connected"), ("degraded", "late"), ("up", "caught_up"),
    ]  # fmt: skip
    assert without_repetitions(found) == found
