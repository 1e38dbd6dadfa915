"""What own.lua promises, on each server, and what owners mean to publish.lua."""

import pytest

from tests.events import detections_event
from worker.errors import CameraRefused, TakenOver
from worker.publishing.checkpoint import ReplayClaim
from worker.publishing.ownership import JUST_LOOK, NOBODY, Bid
from worker.sinks.redis_stream import RedisStreamSink


@pytest.fixture
def sink(redis_server):
    sink = RedisStreamSink(redis_server.url)
    yield sink
    sink.close()


def own(sink, *bid, camera_id="gate"):
    return sink.own({camera_id: Bid(*bid)})[camera_id]


def test_the_first_bid_takes_a_camera_and_a_second_owner_does_not(sink):
    assert own(sink, "a", NOBODY).taken
    found = own(sink, "b", NOBODY)
    assert (found.taken, found.owner) == (False, "a")
    assert own(sink, "a", NOBODY).taken


def test_an_owner_is_seen_by_the_clock_of_the_server(sink, redis_server):
    own(sink, "a", NOBODY)
    seconds, micros = redis_server.client.time()
    seen = int(redis_server.client.hget("ssd:{gate}:producer", "owner_seen"))
    assert abs(seconds * 1000 + micros // 1000 - seen) < 5000
    redis_server.client.hset("ssd:{gate}:producer", "owner_seen", seen - 60_000)
    assert own(sink, "b", JUST_LOOK).age_seconds == pytest.approx(60, abs=5)
    redis_server.client.hset("ssd:{gate}:producer", "owner_seen", seen - 1_000_000_000)
    assert own(sink, "b", JUST_LOOK).age_seconds == pytest.approx(1_000_000, abs=500)
    redis_server.client.hset("ssd:{gate}:producer", "owner_seen", seen + 60_000)
    assert own(sink, "b", JUST_LOOK).age_seconds == 0  # the server's clock was set back


def test_a_camera_is_taken_only_as_it_was_last_seen(sink, redis_server):
    own(sink, "a", NOBODY)
    seen = own(sink, "b", JUST_LOOK).seen
    assert not own(sink, "b", "a", f"{seen}0").taken
    assert not own(sink, "b", "c", seen).taken
    assert own(sink, "b", "a", seen).taken
    assert redis_server.client.hget("ssd:{gate}:producer", "owner") == b"b"
    assert own(sink, "a", "b").taken  # seen at any time


def test_looking_changes_nothing(sink, redis_server):
    assert own(sink, "b", JUST_LOOK).owner is None
    assert redis_server.client.exists("ssd:{gate}:producer") == 0
    own(sink, "a", NOBODY)
    before = redis_server.client.hgetall("ssd:{gate}:producer")
    own(sink, "b", JUST_LOOK)
    assert redis_server.client.hgetall("ssd:{gate}:producer") == before


def test_only_the_owner_gives_a_camera_back_and_then_anybody_may_have_it(sink, redis_server):
    own(sink, "a", NOBODY)
    assert not own(sink, "", "b").taken
    assert own(sink, "", "a").taken
    assert own(sink, "b", JUST_LOOK).owner == ""
    assert own(sink, "b", NOBODY).taken
    redis_server.client.flushall()
    own(sink, "", "a")
    assert redis_server.client.keys() == []  # nothing is left of what nobody had


def test_the_answer_has_the_camera_s_latest_epoch(sink):
    assert own(sink, "a", NOBODY).epoch == 0
    sink.publish([detections_event(epoch=1795391742279)])
    assert own(sink, "a", NOBODY).epoch == 1795391742279


def test_events_of_another_than_the_owner_are_refused_and_nothing_is_written(sink, redis_server):
    theirs = RedisStreamSink(redis_server.url, owner="b")
    own(sink, "a", NOBODY)
    with pytest.raises(TakenOver, match="camera gate: another worker has taken over its stream"):
        theirs.publish([detections_event(epoch=9), detections_event("yard", epoch=9)])
    assert redis_server.client.xlen("ssd:{gate}:detections") == 0
    assert redis_server.client.xlen("ssd:{yard}:detections") == 1
    own(sink, "", "a")
    theirs.publish([detections_event(epoch=9)])
    theirs.close()


def test_publishing_neither_loses_nor_takes_a_camera(sink, redis_server):
    ours = RedisStreamSink(redis_server.url, owner="a")
    own(ours, "a", NOBODY)
    ours.publish([detections_event(epoch=9)])
    assert redis_server.client.hget("ssd:{gate}:producer", "owner") == b"a"
    ours.publish([detections_event("yard", epoch=9)])
    assert own(sink, "b", JUST_LOOK, camera_id="yard").owner is None
    ours.close()


def test_a_replay_has_no_owner(redis_server):
    sinks = [RedisStreamSink(redis_server.url, owner=owner) for owner in "ab"]
    for seq, sink in enumerate(sinks):
        sink.claim_replay("clip", ReplayClaim("r", "m", "s"), restart=False)
        sink.publish([detections_event("clip", epoch=0, seq=seq, mode="replay")])
        sink.close()
    assert redis_server.client.xlen("ssd:{clip}:replay") == 2


def test_a_camera_with_a_key_of_a_wrong_type_leaves_the_others_theirs(sink, redis_server):
    redis_server.client.set("ssd:{b}:producer", "not a hash")
    found = sink.own({name: Bid("a", NOBODY) for name in "abc"})
    assert isinstance(found["b"], CameraRefused)
    assert found["a"].taken
    assert found["c"].taken


def test_a_damaged_epoch_counts_as_none(sink, redis_server):
    redis_server.client.hset("ssd:{gate}:producer", "epoch", "x")
    assert own(sink, "a", JUST_LOOK).epoch == 0
