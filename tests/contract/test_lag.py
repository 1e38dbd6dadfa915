"""How far a group is behind, seen from outside it."""

import pytest

from tests.events import detections_event
from worker.consuming.lag import Backlog, backlogs
from worker.errors import SinkError, SinkUnavailable, UsageError
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.redis_stream import RedisStreamSink


@pytest.fixture
def server(valkey_server):
    """A group has read one of three entries of a camera, and nothing of another's two."""
    sink = RedisStreamSink(valkey_server.url)
    sink.publish([detections_event("gate", seq=seq) for seq in range(3)])
    sink.publish([detections_event("yard", seq=seq) for seq in range(2)])
    sink.publish([detections_event("door")])
    sink.claim_replay("clip", ReplayClaim("r", "m", "s"), restart=False)
    sink.publish([detections_event("clip", epoch=0, mode="replay")])
    sink.close()
    client = valkey_server.client
    for stream in ("ssd:{gate}:detections", "ssd:{yard}:detections", "ssd:{clip}:replay"):
        client.xgroup_create(stream, "a-first", "$")
        client.xgroup_create(stream, "alerts", "0")
    client.xreadgroup("alerts", "one", {"ssd:{gate}:detections": ">"}, count=1)
    return valkey_server


def of_alerts(server, cameras=None, *, replay=False):
    return backlogs(server.url, cameras, "alerts", replay=replay, prefix="ssd")


def test_the_backlogs_of_a_group_are_those_of_the_streams_that_have_it(server):
    before = set(server.client.scan_iter())
    assert of_alerts(server) == {"gate": Backlog(2, 1), "yard": Backlog(2, 0)}
    assert of_alerts(server, ["gate", "door", "none"]) == {"gate": Backlog(2, 1)}
    assert of_alerts(server, replay=True) == {"clip": Backlog(1, 0)}
    assert set(server.client.scan_iter()) == before


def test_a_group_that_no_stream_has_is_wrong_usage(server):
    with pytest.raises(UsageError, match="no stream has the group 'alerts'"):
        of_alerts(server, ["door", "none"])


def test_the_backlog_of_what_is_not_a_stream_is_unknown(server):
    server.client.set("ssd:{odd}:detections", "x")
    assert of_alerts(server, ["odd", "gate"])["odd"] == Backlog(None, None)


def test_without_a_server_there_is_no_backlog(server):
    server.stop()
    with pytest.raises(SinkUnavailable, match="no Redis answers"):
        of_alerts(server)


@pytest.mark.parametrize("command", ["xinfo|groups", "xinfo|stream"])
def test_a_user_that_may_not_look_gets_an_error_and_no_backlog(server, command):
    server.client.acl_setuser("default", enabled=True, commands=[f"-{command}"])
    with pytest.raises(SinkError, match="does not let this user run XINFO"):
        of_alerts(server)


def test_what_is_left_of_a_trimmed_stream_is_known_however_much_it_is(server, monkeypatch):
    monkeypatch.setattr("worker.consuming.lag.COUNT_LIMIT", 1)
    server.client.xtrim("ssd:{gate}:detections", maxlen=2, approximate=False)
    assert of_alerts(server)["gate"] == Backlog(2, 1)
