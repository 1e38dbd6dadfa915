"""The newest state, and what viewers are sent of it."""

import asyncio
import json
from itertools import count

import pytest

from worker.dashboard import hub as hub_module
from worker.dashboard.cameras import CameraRecord
from worker.dashboard.clock import RedisClock
from worker.dashboard.hub import (
    MAX_VIEWERS,
    MAX_VIEWERS_OF_ADDRESS,
    MAX_WAITING_CHANGES,
    SLOW_SECONDS,
    Hub,
    TooManyViewers,
    Wanted,
)
from worker.dashboard.messages import Message

EVERYTHING = Wanted()


def camera(camera_id="gate", **fields):
    shown = {**CameraRecord(camera_id).describe(0.0), **fields}
    return Message("camera", camera_id, shown)


def detections(camera_id="gate", seq=0, *found):
    boxes = [{"label": label, "score": score, "box": [0, 0, 1, 1]} for label, score in found]
    data = {"camera": camera_id, "seq": seq, "detections": boxes}
    return Message("detections", camera_id, data)


def change(seq, camera_id="gate"):
    return Message("change", camera_id, {"camera": camera_id, "seq": seq})


@pytest.fixture
def hub():
    return Hub(RedisClock())


@pytest.fixture
def now(monkeypatch):
    """The monotonic clock of the hub; set by a test."""
    found = [1000.0]
    monkeypatch.setattr(hub_module.time, "monotonic", lambda: found[0])
    return found


def parsed(sent):
    """(name, data) of each event in a chunk."""
    found = []
    for event in sent.decode().split("\n\n")[:-1]:
        name, data = event.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def take(hub, viewer):
    async def now_or_never():
        async with asyncio.timeout(0.01):
            return parsed(await viewer.take(hub))

    try:
        return asyncio.run(now_or_never())
    except TimeoutError:
        return []


def admitted(hub, wanted=EVERYTHING, address="10.0.0.1"):
    """A viewer who has the state already."""
    viewer = hub.admit(wanted, address)
    take(hub, viewer)
    return viewer


def test_a_new_viewer_is_sent_the_state_and_then_what_changes(hub):
    hub.receive([camera(state="up")])
    viewer = hub.admit(EVERYTHING, "10.0.0.1")
    hub.receive([camera(state="down")])
    ((name, state),) = take(hub, viewer)
    assert (name, state["cameras"][0]["state"]) == ("state", "down")
    assert take(hub, viewer) == []
    hub.receive([camera(state="up"), detections(seq=3), change(1)])
    assert [name for name, _ in take(hub, viewer)] == ["change", "camera", "detections"]


def test_the_newest_replaces_what_waits_but_every_change_is_sent(hub):
    viewer = admitted(hub)
    for seq in range(5):
        hub.receive([detections("gate", seq), detections("yard", 10 + seq), change(seq)])
    found = take(hub, viewer)
    assert [data["seq"] for name, data in found if name == "detections"] == [4, 14]
    assert [data["seq"] for name, data in found if name == "change"] == [0, 1, 2, 3, 4]


def test_a_viewer_who_takes_nothing_is_sent_the_state_in_the_end_and_costs_no_memory(hub, now):
    viewer = admitted(hub)
    for seq in range(1000):
        now[0] += 0.2
        hub.receive([detections(f"camera-{seq}", seq), camera(state="up"), change(seq)])
    assert not viewer._waiting
    assert not viewer._changes
    assert [name for name, _ in take(hub, viewer)] == ["state"]
    hub.receive([change(7)])
    assert [name for name, _ in take(hub, viewer)] == ["change"]


def test_a_viewer_without_news_for_long_is_not_slow(hub, now):
    viewer = admitted(hub)
    now[0] += 100 * SLOW_SECONDS
    hub.receive([change(1)])
    assert [name for name, _ in take(hub, viewer)] == ["change"]


def test_too_many_changes_at_once_become_the_state(hub):
    viewer = admitted(hub)
    for seq in range(MAX_WAITING_CHANGES + 2):
        hub.receive([change(seq)])
    assert [name for name, _ in take(hub, viewer)] == ["state"]


def test_filters_choose_cameras_labels_and_scores(hub):
    hub.receive([camera("gate"), camera("yard")])
    viewer = hub.admit(Wanted(frozenset({"gate"}), frozenset({"Person"}), 0.5), "10.0.0.1")
    ((_, state),) = take(hub, viewer)
    assert [each["id"] for each in state["cameras"]] == ["gate"]
    found = ("Person", 0.9), ("Person", 0.4), ("Car", 0.9)
    hub.receive([detections("gate", 1, *found), detections("yard", 1, *found), change(1, "yard")])
    ((name, data),) = take(hub, viewer)
    assert (name, data["camera"]) == ("detections", "gate")
    assert [(each["label"], each["score"]) for each in data["detections"]] == [("Person", 0.9)]
    hub.receive([detections("gate", 2, ("Car", 0.9))])
    assert take(hub, viewer) == []
    hub.receive([camera("gate", state="down"), Message("redis", None, {"up": False})])
    assert {name for name, _ in take(hub, viewer)} == {"camera", "redis"}


def test_what_is_for_the_hub_alone_is_sent_to_nobody(hub):
    viewer = admitted(hub)
    hub.receive([Message("past", "gate", [{"state": "up"}]), Message("unreadable_ids", None, 2)])
    assert take(hub, viewer) == []
    assert hub.changes("gate") == [{"state": "up"}]
    assert hub.state()["unreadable_ids"] == 2


def test_a_camera_that_is_removed_is_gone(hub):
    viewer = admitted(hub)
    hub.receive([camera("gate", malformed=2), camera("yard", malformed=3)])
    assert hub.state()["malformed"] == 5
    take(hub, viewer)
    hub.receive([Message("removed", "gate", {"id": "gate"})])
    assert take(hub, viewer) == [("removed", {"id": "gate"})]
    assert hub.camera_ids == ["yard"]


def test_only_so_many_viewers_are_let_in_and_their_places_come_back(hub):
    viewers = [hub.admit(EVERYTHING, "10.0.0.1") for _ in range(MAX_VIEWERS_OF_ADDRESS)]
    with pytest.raises(TooManyViewers, match="from this address"):
        hub.admit(EVERYTHING, "10.0.0.1")
    hub.leave(viewers.pop())
    hub.admit(EVERYTHING, "10.0.0.1")
    addresses = (f"10.1.0.{number}" for number in count())
    for _ in range(MAX_VIEWERS - MAX_VIEWERS_OF_ADDRESS):
        hub.admit(EVERYTHING, next(addresses))
    with pytest.raises(TooManyViewers, match="close some"):
        hub.admit(EVERYTHING, next(addresses))


def test_the_end_of_the_server_ends_the_events(hub, monkeypatch):
    monkeypatch.setattr(hub_module, "QUIET_SECONDS", 0.01)

    async def watch():
        viewer = hub.admit(EVERYTHING, "10.0.0.1")
        names = []
        async for sent in hub.events(viewer):
            names += [name for name, _ in parsed(sent)]
            if names.count("time") == 2:
                hub.close()
        return names

    assert asyncio.run(watch()) == ["state", "time", "time"]
    assert not hub._viewers


def test_no_line_end_in_an_event_begins_another():
    hostile = Message("camera", "a\nb", {"id": "a\ndata: x\r\n\r\nevent: y\u2028", "x": "\x85"})
    assert hostile.frame.count(b"\n") == 3
    assert b"\r" not in hostile.frame
