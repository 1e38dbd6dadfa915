"""What forgetting an id deletes, and when it refuses to."""

import pytest

from tests.events import camera_event, detections_event
from worker.errors import SinkError, SinkUnavailable
from worker.keys import Keys
from worker.publishing.checkpoint import ReplayClaim
from worker.publishing.ownership import NOBODY, OWNED_SECONDS, Bid
from worker.sinks.forgetting import Deleted, forget
from worker.sinks.redis_stream import RedisStreamSink

PRODUCER = "ssd:{gate}:producer"
LIVE = [
    Deleted(PRODUCER, None),
    Deleted("ssd:{gate}:detections", 2),
    Deleted("ssd:{gate}:status", None),
    Deleted("ssd:{gate}:snapshot", None),
]
REPLAY = [Deleted("ssd:{gate}:replay", 1), Deleted("ssd:{gate}:replay:producer", None)]


@pytest.fixture
def server(valkey_server):
    """Holds a camera that a worker owns, and a replay, of one name; and another camera."""
    live = RedisStreamSink(valkey_server.url, owner="worker-1")
    live.own({"gate": Bid("worker-1", NOBODY)})
    live.publish([camera_event("gate"), detections_event("gate", seq=1), detections_event("yard")])
    valkey_server.client.set("ssd:{gate}:snapshot", b"JPEG")
    replay = RedisStreamSink(valkey_server.url)
    replay.claim_replay("gate", ReplayClaim("r", "m", "s"), restart=False)
    replay.publish([detections_event("gate", epoch=0, mode="replay")])
    live.close()
    replay.close()
    return valkey_server


def seen_seconds_ago(server, seconds):
    now, _ = server.client.time()
    server.client.hset(PRODUCER, "owner_seen", (now - seconds) * 1000)


def ids(server):
    return [server.client.smembers(f"ssd:{name}") for name in ("cameras", "replays")]


def test_a_camera_that_is_owned_is_refused_and_nothing_is_deleted(server):
    seen_seconds_ago(server, OWNED_SECONDS - 4)
    before = set(server.client.scan_iter())
    with pytest.raises(SinkError, match=r"gate: worker worker-1 is .* last seen [67] s ago: stop"):
        forget(server.url, Keys(), "gate")
    assert set(server.client.scan_iter()) == before
    assert ids(server) == [{b"gate", b"yard"}, {b"gate"}]


def test_a_camera_whose_owner_was_not_seen_for_long_is_forgotten(server):
    seen_seconds_ago(server, OWNED_SECONDS + 1)
    assert forget(server.url, Keys(), "gate") == LIVE + REPLAY
    assert ids(server) == [{b"yard"}, set()]
    assert forget(server.url, Keys(), "gate") == []


def test_an_owned_camera_is_forgotten_by_force(server):
    assert forget(server.url, Keys(), "gate", force=True) == LIVE + REPLAY


def test_the_replay_of_an_owned_camera_is_forgotten_alone(server):
    assert forget(server.url, Keys(), "gate", live=False) == REPLAY
    assert ids(server) == [{b"gate", b"yard"}, set()]


def test_an_empty_stream_held_0_events(server):
    server.client.xtrim("ssd:{gate}:replay", maxlen=0, approximate=False)
    (stream, _) = forget(server.url, Keys(), "gate", live=False)
    assert stream == Deleted("ssd:{gate}:replay", 0)


def test_without_a_server_forgetting_fails_in_one_line(server):
    server.stop()
    with pytest.raises(SinkUnavailable, match="no Redis answers"):
        forget(server.url, Keys(), "gate")


def test_a_user_that_may_not_forget_deletes_nothing(server):
    before = set(server.client.scan_iter())
    server.client.acl_setuser("default", enabled=True, commands=["-evalsha"])
    with pytest.raises(SinkError, match="does not let this user run EVALSHA"):
        forget(server.url, Keys(), "gate", force=True)
    assert set(server.client.scan_iter()) == before
