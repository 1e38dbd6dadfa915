"""What snapshot.lua promises, on each server."""

import pytest

from tests.events import detections_event
from tests.snapshots import snapshot
from worker.errors import CameraRefused, SinkUnavailable
from worker.publishing.ownership import NOBODY, Bid
from worker.sinks.redis_stream import RedisStreamSink
from worker.snapshots import read_snapshot

KEY = "ssd:{gate}:snapshot"


@pytest.fixture
def sink(redis_server):
    sink = RedisStreamSink(redis_server.url, owner="a")
    yield sink
    sink.close()


def shown(server, camera_id="gate"):
    """The index of the frame that a camera's snapshot shows; None without one."""
    data = server.client.get(f"ssd:{{{camera_id}}}:snapshot")
    return None if data is None else read_snapshot(data)[0].frame_index


def put(sink, *snapshots, seconds=10):
    sink.put_snapshots([(each, seconds) for each in snapshots])


def test_a_snapshot_replaces_the_one_before_byte_for_byte_and_expires(sink, redis_server):
    put(sink, snapshot(index=1), seconds=1_000_000)
    assert 999_900_000 < redis_server.client.pttl(KEY) <= 1_000_000_000
    put(sink, newer := snapshot(index=2), seconds=9.5)
    assert redis_server.client.get(KEY) == newer.jpeg
    assert 8000 < redis_server.client.pttl(KEY) <= 9500
    put(sink, snapshot(index=3), seconds=0.0001)
    assert redis_server.client.pttl(KEY) <= 1
    assert redis_server.client.keys() in ([], [KEY.encode()])


def test_many_cameras_are_written_at_once_also_after_the_server_lost_its_scripts(
    sink, redis_server
):
    put(sink, *(snapshot(name, 1) for name in "abc"))
    redis_server.client.script_flush()
    put(sink, *(snapshot(name, 2) for name in "abc"))
    assert [shown(redis_server, name) for name in "abc"] == [2, 2, 2]
    put(sink)


def test_a_camera_of_another_worker_keeps_its_snapshot(sink, redis_server):
    theirs = RedisStreamSink(redis_server.url, owner="b")
    theirs.own({"gate": Bid("b", NOBODY)})
    put(theirs, snapshot(index=1))
    put(sink, snapshot(index=2), snapshot("yard", 2))
    assert shown(redis_server) == 1
    assert shown(redis_server, "yard") == 2
    theirs.own({"gate": Bid(NOBODY, "b")})
    put(sink, snapshot(index=3))
    assert shown(redis_server) == 3
    theirs.close()


def test_a_picture_of_an_earlier_connection_is_not_shown_after_a_later_one_began(
    sink, redis_server
):
    epoch = 1795391742279
    sink.publish([detections_event(epoch=epoch)])
    put(sink, snapshot(index=1, epoch=epoch - 1))
    assert shown(redis_server) is None
    put(sink, snapshot(index=2, epoch=epoch))
    put(sink, snapshot(index=3, epoch=epoch + 1))
    assert shown(redis_server) == 3


def test_a_snapshot_makes_nobody_an_owner_and_moves_no_epoch(sink, redis_server):
    sink.own({"gate": Bid("a", NOBODY)})
    before = redis_server.client.hgetall("ssd:{gate}:producer")
    put(sink, snapshot(epoch=99))
    assert redis_server.client.hgetall("ssd:{gate}:producer") == before
    assert redis_server.client.exists("ssd:cameras") == 0


def test_keys_of_a_wrong_type_are_refused_or_replaced(sink, redis_server):
    redis_server.client.sadd(KEY, "not a picture")
    redis_server.client.set("ssd:{yard}:producer", "not a hash")
    put(sink, snapshot(index=1))
    assert shown(redis_server) == 1
    with pytest.raises(CameraRefused):
        put(sink, snapshot("yard"))


def test_without_a_server_it_is_unavailable_and_connects_again_later(sink, redis_server):
    put(sink, snapshot(index=1))
    redis_server.stop()
    with pytest.raises(SinkUnavailable):
        put(sink, snapshot(index=2))
    redis_server.start()
    put(sink, snapshot(index=3))
    assert shown(redis_server) == 3
