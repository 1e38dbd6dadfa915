"""Consumers whose streams and groups are taken from them."""

import contextlib

import pytest
import redis

from tests.conftest import redis_only_in_long, wait_until
from tests.consuming import Consuming, calls_of, wait_for_blocked, warnings
from tests.events import detections_event
from worker.consumer import EventConsumer

STREAM = "ssd:{gate}:detections"


def consuming(server, **options):
    return Consuming(server.url, group="alerts", consumer="one", **options)


GONE = {
    "deleted": lambda client: client.delete(STREAM),
    "renamed": lambda client: client.rename(STREAM, "elsewhere"),
    "expired": lambda client: client.pexpire(STREAM, 1),
    "flushed": lambda client: client.flushall(),
}


@pytest.mark.parametrize(
    "gone", ["deleted", *(pytest.param(n, marks=pytest.mark.long) for n in GONE if n != "deleted")]
)
@pytest.mark.parametrize(
    "cameras", [None, pytest.param(["gate"], marks=pytest.mark.long)], ids=["all", "named"]
)
def test_a_group_goes_on_after_its_stream_was_taken_away_while_it_waited(
    redis_server, publish, caplog, gone, cameras
):
    publish("gate", 0, 2)
    publish("yard", 0, 0)
    with consuming(redis_server, cameras=cameras) as one:
        one.wait_for(0, 1, 2)
        wait_for_blocked(redis_server.client)
        GONE[gone](redis_server.client)
        wait_until(lambda: warnings(caplog), what="the log line")
        publish("gate", 3, 4)
        one.wait_for(0, 1, 2, 3, 4)
    said = [line for line in warnings(caplog) if STREAM in line]
    assert said == [f"camera gate: {STREAM} was deleted: entries that were not read are lost"]


def test_a_stream_that_is_evicted_is_waited_for(redis_server, publish):
    publish("gate", 0, 2)
    with consuming(redis_server) as one:
        one.wait_for(0, 1, 2)
        wait_for_blocked(redis_server.client)
        redis_server.client.config_set("maxmemory-policy", "allkeys-random")
        redis_server.client.config_set("maxmemory", 1)
        wait_until(lambda: _evicted(redis_server.client), what="the eviction")
        redis_server.client.config_set("maxmemory", 0)
        publish("gate", 3, 4)
        one.wait_for(0, 1, 2, 3, 4)


def _evicted(client):
    with contextlib.suppress(redis.exceptions.RedisError):
        client.set("filler", "x")
    return not client.exists(STREAM)


@redis_only_in_long
def test_a_stream_that_is_deleted_between_two_reads_is_read_whole_when_it_is_back(
    redis_server, publish
):
    publish("gate", 0, 2)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=10) as consumer:
        events = iter(consumer)
        assert [next(events).data.seq for _ in range(3)] == [0, 1, 2]
        redis_server.client.delete(STREAM)
        publish("gate", 3, 5)
        assert [next(events).data.seq for _ in range(3)] == [3, 4, 5]


@redis_only_in_long
def test_a_stream_that_comes_back_with_earlier_ids_is_read_whole(redis_server, publish):
    client = redis_server.client
    publish("gate", 0, 0)
    with consuming(redis_server) as one:
        one.wait_for(0)
        client.delete(STREAM)
        for seq in (1, 2):  # a server whose clock is behind
            client.xadd(STREAM, {"event": detections_event(seq=seq).to_json()}, id=f"{seq}-1")
        one.wait_for(0, 1, 2)


@redis_only_in_long
def test_a_reader_without_a_group_notices_that_ids_begin_again(redis_server, publish, monkeypatch):
    monkeypatch.setattr("worker.consuming.plain.CHECK_SECONDS", 0.1)
    client = redis_server.client
    publish("gate", 0, 0)
    with Consuming(redis_server.url) as one:
        one.wait_for(0)
        client.delete(STREAM)
        for seq in (1, 2):
            client.xadd(STREAM, {"event": detections_event(seq=seq).to_json()}, id=f"{seq}-1")
        one.wait_for(0, 1, 2)


@redis_only_in_long
def test_a_reader_without_a_group_notices_that_its_stream_is_gone(
    redis_server, publish, monkeypatch, caplog
):
    monkeypatch.setattr("worker.consuming.plain.CHECK_SECONDS", 0.1)
    publish("gate", 0, 0)
    with Consuming(redis_server.url) as one:
        one.wait_for(0)
        redis_server.client.delete(STREAM)
        wait_until(lambda: warnings(caplog), what="the log line")
        redis_server.client.xadd(STREAM, {"event": detections_event(seq=1).to_json()}, id="1-1")
        one.wait_for(0, 1)
    said = f"camera gate: {STREAM} was deleted or replaced: reading it from its start"
    assert warnings(caplog) == [said]


@redis_only_in_long
def test_a_reader_looks_at_once_whether_a_restarted_server_has_other_ids(
    redis_server, publish, monkeypatch
):
    monkeypatch.setattr("worker.consuming.plain.CHECK_SECONDS", 3600)
    publish("gate", 0, 0)
    with Consuming(redis_server.url) as one:
        one.wait_for(0)
        redis_server.client.flushall()
        redis_server.client.xadd(STREAM, {"event": detections_event(seq=1).to_json()}, id="1-1")
        redis_server.process.terminate()
        redis_server.process.wait()
        redis_server.start()
        one.wait_for(0, 1)


@redis_only_in_long
def test_a_reader_that_starts_beyond_the_end_waits_there(redis_server, publish, monkeypatch):
    monkeypatch.setattr("worker.consuming.plain.CHECK_SECONDS", 0.0)
    publish("gate", 0, 3)
    future = f"{redis_server.client.time()[0] + 3600}000-0"
    with EventConsumer(redis_server.url, start=future, timeout_seconds=0.3) as consumer:
        assert list(consumer) == []


@redis_only_in_long
def test_a_camera_that_was_forgotten_is_not_created_again(redis_server, publish):
    publish("gate", 0, 0)
    publish("yard", 0, 0)
    with consuming(redis_server) as one:
        one.wait_for(0)
        wait_for_blocked(redis_server.client)
        redis_server.client.srem("ssd:cameras", "gate")
        redis_server.client.delete(STREAM)
        publish("yard", 1, 1)
        one.wait_for(0, 1, camera_id="yard")
        assert not redis_server.client.exists(STREAM)
        publish("gate", 1, 1)  # and is found again
        one.wait_for(0, 1)
        before = calls_of(redis_server, "smembers")
        publish("gate", 2, 301)
        one.wait_for(*range(302))
        assert calls_of(redis_server, "smembers") - before < 10  # not with each of 30 reads


@redis_only_in_long
def test_a_group_that_was_deleted_is_created_again_where_it_was(redis_server, publish, caplog):
    publish("gate", 0, 4)
    with consuming(redis_server) as one:
        one.wait_for(0, 1, 2, 3, 4)
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 6)
        one.wait_for(0, 1, 2, 3, 4, 5, 6)
    (said,) = warnings(caplog)
    assert (
        f"the group alerts of {STREAM} was deleted: created it again, to go on after entry" in said
    )


@redis_only_in_long
def test_a_group_that_was_deleted_before_anything_was_read_begins_where_it_had_begun(
    redis_server, publish
):
    publish("gate", 0, 4)
    with consuming(redis_server, start="new") as one:
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 6)
        one.wait_for(5, 6)


@redis_only_in_long
def test_a_group_that_was_joined_and_deleted_is_created_again_where_it_was(redis_server, publish):
    publish("gate", 0, 4)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as earlier:
        earlier.ack_many(list(earlier))
    redis_server.client.xgroup_create(STREAM, "another", "0")
    redis_server.client.xgroup_create(STREAM, "younger", "0")
    with consuming(redis_server) as one:
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 6)
        one.wait_for(5, 6)


@redis_only_in_long
def test_unacknowledged_events_are_pending_again_in_a_group_that_was_created_again(
    redis_server, publish
):
    publish("gate", 0, 3)
    with EventConsumer(
        redis_server.url, group="alerts", consumer="one", timeout_seconds=0.3
    ) as consumer:
        events = list(consumer)
        consumer.ack_many([events[0], events[2], events[3]])
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 4, 4)
        # Events 2 and 3 were acknowledged, but after 1, which was not.
        assert [event.data.seq for event in consumer] == [1, 2, 3, 4]
        assert redis_server.client.xpending(STREAM, "alerts")["pending"] == 4


@redis_only_in_long
def test_events_that_are_pending_again_though_they_were_acknowledged_are_delivered_again(
    redis_server, publish
):
    publish("gate", 0, 3)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=10) as consumer:
        events = iter(consumer)
        got = [next(events) for _ in range(4)]
        consumer.ack_many([got[0], got[2], got[3]])
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 4, 4)
        again = [next(events) for _ in range(3)]
        assert [event.data.seq for event in again] == [2, 3, 4]
        consumer.ack_many([got[1], *again])
        assert redis_server.client.xpending(STREAM, "alerts")["pending"] == 0


@redis_only_in_long
def test_reading_own_pending_events_again_does_not_move_a_group_back(redis_server, publish):
    publish("gate", 0, 3)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as consumer:
        events = list(consumer)
        consumer.ack_many([events[0], *events[2:]])
        (again,) = list(consumer)
        consumer.ack(again)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 4, 4)
        assert [event.data.seq for event in consumer] == [4]


@redis_only_in_long
def test_what_others_had_read_is_repeated_when_the_group_is_created_again(redis_server, publish):
    client = redis_server.client
    publish("gate", 0, 0)
    with EventConsumer(
        redis_server.url, group="alerts", timeout_seconds=20, claim_after_seconds=5
    ) as consumer:
        events = iter(consumer)
        consumer.ack(next(events))
        publish("gate", 1, 4)
        client.xreadgroup("alerts", "another", {STREAM: ">"})
        ids = [entry_id for entry_id, _ in client.xrange(STREAM)]
        client.xack(STREAM, "alerts", *ids[1:3])
        client.xclaim(STREAM, "alerts", "another", 0, ids[3:], idle=3_600_000)
        assert [next(events).data.seq for _ in range(2)] == [3, 4]
        client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 5)
        assert [next(events).data.seq for _ in range(3)] == [1, 2, 5]


@redis_only_in_long
def test_unacknowledged_events_of_a_deleted_stream_do_not_repeat_those_of_the_next(
    redis_server, publish
):
    publish("gate", 0, 2)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as consumer:
        assert len(list(consumer)) == 3
        redis_server.client.delete(STREAM)
        publish("gate", 3, 4)
        consumer.ack_many(list(consumer))
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 5)
        assert [event.data.seq for event in consumer] == [5]


@redis_only_in_long
def test_events_that_the_user_has_are_not_repeated_when_the_group_is_created_again(
    redis_server, publish
):
    publish("gate", 0, 2)
    with consuming(redis_server, ack=False) as one:
        one.wait_for(0, 1, 2)
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 3, 3)
        one.wait_for(0, 1, 2, 3)
        one.consumer.ack_many(one.events)
        assert redis_server.client.xpending(STREAM, "alerts")["pending"] == 0


@redis_only_in_long
def test_a_consumer_whose_wait_is_ended_by_an_operator_goes_on(redis_server, publish):
    publish("gate", 0, 0)
    with consuming(redis_server) as one:
        one.wait_for(0)
        for how in ("ERROR", "TIMEOUT"):
            wait_for_blocked(redis_server.client)
            (blocked,) = [c for c in redis_server.client.client_list() if "b" in c["flags"]]
            redis_server.client.execute_command("CLIENT", "UNBLOCK", blocked["id"], how)
        publish("gate", 1, 1)
        one.wait_for(0, 1)
