"""Consumers whose streams, groups, keys, replies and servers are taken from them."""

import contextlib
import logging

import pytest
import redis

from tests.conftest import REDIS_BINARIES, RedisServer, free_port, wait_until
from tests.consuming import Consuming, wait_for_blocked
from tests.events import detections_event
from tests.faults.tcp_proxy import TcpProxy
from worker.consumer import EventConsumer
from worker.errors import SinkError, UsageError
from worker.sinks.redis_stream import RedisStreamSink

STREAM = "ssd:{gate}:detections"


@pytest.fixture
def publish(redis_server):
    """Publish live events numbered first to last of a camera."""
    sinks = []

    def publish(camera_id, first, last, server=redis_server):
        sinks.append(RedisStreamSink(server.url))
        sinks[-1].publish([detections_event(camera_id, seq=seq) for seq in range(first, last + 1)])

    yield publish
    for sink in sinks:
        sink.close()


def consuming(server, **options):
    return Consuming(server.url, group="alerts", consumer="one", **options)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


GONE = {
    "deleted": lambda client: client.delete(STREAM),
    "renamed": lambda client: client.rename(STREAM, "elsewhere"),
    "expired": lambda client: client.pexpire(STREAM, 1),
    "flushed": lambda client: client.flushall(),
}


@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("cameras", [None, ["gate"]], ids=["all", "named"])
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


def test_a_stream_that_comes_back_with_earlier_ids_is_read_whole(redis_server, publish):
    client = redis_server.client
    publish("gate", 0, 0)
    with consuming(redis_server) as one:
        one.wait_for(0)
        client.delete(STREAM)
        for seq in (1, 2):  # a server whose clock is behind
            client.xadd(STREAM, {"event": detections_event(seq=seq).to_json()}, id=f"{seq}-1")
        one.wait_for(0, 1, 2)


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


def test_a_reader_that_starts_beyond_the_end_waits_there(redis_server, publish, monkeypatch):
    monkeypatch.setattr("worker.consuming.plain.CHECK_SECONDS", 0.0)
    publish("gate", 0, 3)
    future = f"{redis_server.client.time()[0] + 3600}000-0"
    with EventConsumer(redis_server.url, start=future, timeout_seconds=0.3) as consumer:
        assert list(consumer) == []


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


def test_a_group_that_was_deleted_before_anything_was_read_begins_where_it_had_begun(
    redis_server, publish
):
    publish("gate", 0, 4)
    with consuming(redis_server, start="new") as one:
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 6)
        one.wait_for(5, 6)


def test_a_group_that_was_joined_and_deleted_is_created_again_where_it_was(redis_server, publish):
    publish("gate", 0, 4)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as earlier:
        earlier.ack_many(list(earlier))
    with consuming(redis_server) as one:
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_destroy(STREAM, "alerts")
        publish("gate", 5, 6)
        one.wait_for(5, 6)


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


# A key of a wrong type


@pytest.mark.parametrize("group", [None, "alerts"])
@pytest.mark.parametrize("start", ["start", "new"])
def test_a_key_of_a_wrong_type_sets_its_camera_aside_and_no_other(
    redis_server, publish, caplog, monkeypatch, group, start
):
    monkeypatch.setattr("worker.consuming.reading.SET_ASIDE_SECONDS", 0.1)
    client = redis_server.client
    client.sadd("ssd:cameras", "gate")
    client.set(STREAM, "somebody else's")
    with Consuming(redis_server.url, group=group, start=start) as one:
        publish("yard", 0, 2)
        one.wait_for(0, 1, 2, camera_id="yard")
        publish("yard", 3, 3)
        one.wait_for(0, 1, 2, 3, camera_id="yard")
        client.delete(STREAM)
        publish("gate", 0, 1)
        one.wait_for(0, 1)
    (said,) = warnings(caplog)
    assert said == (
        f"camera gate: set aside: {STREAM} in Redis at 127.0.0.1:{redis_server.port} is not a "
        "stream: delete or rename it"
    )


@pytest.mark.parametrize("group", [None, "alerts"])
def test_a_stream_that_is_replaced_by_something_else_sets_its_camera_aside(
    redis_server, publish, caplog, group
):
    publish("gate", 0, 0)
    publish("yard", 0, 0)
    with Consuming(redis_server.url, group=group) as one:
        one.wait_for(0)
        one.wait_for(0, camera_id="yard")
        wait_for_blocked(redis_server.client)
        redis_server.client.set(STREAM, "somebody else's")
        publish("yard", 1, 1)
        one.wait_for(0, 1, camera_id="yard")
        wait_until(lambda: warnings(caplog), what="the log line")
    assert [line for line in warnings(caplog) if STREAM in line and "set aside" in line]


def test_pending_entries_of_other_cameras_are_claimed_beside_a_key_of_a_wrong_type(
    redis_server, publish
):
    publish("gate", 0, 0)
    publish("yard", 0, 0)
    options = {"group": "alerts", "timeout_seconds": 0.3, "claim_after_seconds": 0.01}
    with EventConsumer(redis_server.url, consumer="dead", **options) as dead:
        assert len(list(dead)) >= 2
    with EventConsumer(redis_server.url, consumer="living", **options) as living:
        events = iter(living)
        redis_server.client.set(STREAM, "somebody else's")
        assert next(events).data.camera_id == "yard"


def test_an_event_whose_stream_is_gone_can_be_acknowledged(redis_server, publish):
    publish("gate", 0, 1)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as consumer:
        first, second = list(consumer)
        redis_server.client.delete(STREAM)
        consumer.ack(first)
        redis_server.client.set(STREAM, "somebody else's")
        consumer.ack(second)


@pytest.mark.parametrize("group", [None, "alerts"])
def test_a_camera_id_that_is_not_utf8_is_named_once_and_left_out(
    redis_server, publish, caplog, group, monkeypatch
):
    monkeypatch.setattr("worker.consumer.DISCOVER_SECONDS", 0.0)
    redis_server.client.sadd("ssd:cameras", b"\xff\xfegate")
    publish("gate", 0, 1)
    with EventConsumer(redis_server.url, group=group, timeout_seconds=0.3) as consumer:
        assert [event.data.seq for event in consumer] == [0, 1]
    (said,) = warnings(caplog)
    assert r"the camera id b'\xff\xfegate' in ssd:cameras of Redis" in said
    assert "remove it with SREM" in said


def test_a_set_of_cameras_of_a_wrong_type_is_named_at_the_start(redis_server):
    redis_server.client.set("ssd:cameras", "x")
    with pytest.raises(SinkError, match=r"ssd:cameras in Redis at 127.0.0.1:[0-9]+ is not a set"):
        EventConsumer(redis_server.url)


def test_a_set_of_cameras_that_is_replaced_later_stops_no_camera(
    redis_server, publish, caplog, monkeypatch
):
    monkeypatch.setattr("worker.consumer.DISCOVER_SECONDS", 0.0)
    publish("gate", 0, 0)
    with consuming(redis_server) as one:
        one.wait_for(0)
        redis_server.client.set("ssd:cameras", "x")
        event = detections_event(seq=1).to_json()
        redis_server.client.xadd(STREAM, {"event": event})
        one.wait_for(0, 1)
        wait_until(lambda: warnings(caplog), what="the log line")
    assert len(warnings(caplog)) == 1


@pytest.mark.parametrize(
    "names", [{"group": "\udcff"}, {"prefix": "\udcff"}, {"cameras": ["\udcff"]}]
)
def test_names_that_are_not_text_are_refused(names):
    with pytest.raises(UsageError, match="UTF-8"):
        EventConsumer("redis://127.0.0.1:1", **names)


def test_a_single_name_is_not_taken_for_a_list_of_cameras():
    with pytest.raises(UsageError, match="expected a list of camera ids"):
        EventConsumer("redis://127.0.0.1:1", "gate")


# Lost replies


def test_an_entry_given_to_a_read_of_a_broken_connection_comes_in_its_place(redis_server, publish):
    publish("gate", 0, 5)
    with TcpProxy(redis_server.port) as proxy, Consuming(
        f"redis://127.0.0.1:{proxy.port}", group="alerts", claim_after_seconds=2
    ) as one:  # fmt: skip
        one.wait_for(*range(6))
        proxy.abandon_request = b"BLOCK"
        wait_until(lambda: proxy.cuts, what="the cut")
        wait_for_blocked(redis_server.client, 2)
        publish("gate", 6, 6)  # to the read that came first
        publish("gate", 7, 11)
        one.wait_for(*range(12))


def test_an_entry_given_to_a_read_of_a_broken_connection_comes_soon_on_a_quiet_camera(
    redis_server, publish
):
    publish("gate", 0, 0)
    with TcpProxy(redis_server.port) as proxy, Consuming(
        f"redis://127.0.0.1:{proxy.port}", group="alerts", claim_after_seconds=3600
    ) as one:  # fmt: skip
        one.wait_for(0)
        proxy.abandon_request = b"BLOCK"
        wait_until(lambda: proxy.cuts, what="the cut")
        wait_for_blocked(redis_server.client, 2)
        publish("gate", 1, 1)
        one.wait_for(0, 1)


@pytest.fixture
def cluster(tmp_path):
    """Two nodes, of which the one that has the camera's stream is behind a proxy."""
    with TcpProxy(0) as proxy:
        nodes = []
        for name, announced in (("one", (str(proxy.port),)), ("two", ())):
            (tmp_path / name).mkdir()
            options = ["--cluster-announce-port", *announced] if announced else []
            bus = free_port()
            nodes.append((bus, RedisServer(
                REDIS_BINARIES["valkey"], tmp_path / name, "--cluster-enabled", "yes",
                "--cluster-port", str(bus), *options,
            )))  # fmt: skip
        (_, one), (bus, two) = nodes
        proxy.target_port = one.port
        slot = one.client.execute_command("CLUSTER", "KEYSLOT", STREAM)
        first, last = ((0, 8191), (8192, 16383)) if slot < 8192 else ((8192, 16383), (0, 8191))
        one.client.execute_command("CLUSTER", "ADDSLOTSRANGE", *first)
        two.client.execute_command("CLUSTER", "ADDSLOTSRANGE", *last)
        one.client.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        for node in (one, two):
            wait_until(
                lambda node=node: (
                    b"cluster_state:ok" in node.client.execute_command("CLUSTER", "INFO")
                )
            )
        yield f"redis+cluster://127.0.0.1:{two.port}", proxy
        for _, server in nodes:
            server.stop()


def test_a_lost_reply_of_a_cluster_is_noticed(cluster):
    url, proxy = cluster
    sink = RedisStreamSink(url)
    sink.publish([detections_event(seq=0)])
    with EventConsumer(url, group="alerts", timeout_seconds=10) as consumer:
        events = iter(consumer)
        assert next(events).data.seq == 0
        sink.publish([detections_event(seq=seq) for seq in range(1, 4)])
        proxy.cut_replies_to = b"$1\r\n>\r\n"  # of a read of new entries
        found = [next(events).data.seq]
        sink.publish([detections_event(seq=4)])
        found += [next(events).data.seq for _ in range(3)]
        assert found == [1, 2, 3, 4]
        assert proxy.cuts == 1
    sink.close()


def test_no_camera_of_a_cluster_waits_for_another_to_fall_silent(cluster):
    url, _ = cluster
    cameras = ["door", "gate", "hall", "yard"]
    sink = RedisStreamSink(url)
    sink.publish([detections_event(camera, seq=seq) for camera in cameras for seq in range(100)])
    for group in (None, "alerts"):
        with EventConsumer(url, cameras, group=group, timeout_seconds=1) as consumer:
            first = [event.data.camera_id for event, _ in zip(consumer, range(40), strict=False)]
        assert {camera: first.count(camera) for camera in cameras} == dict.fromkeys(cameras, 10)
    sink.close()


def test_retries_become_rarer_up_to_a_limit(redis_server, publish, monkeypatch):
    publish("gate", 0, 0)
    with EventConsumer(redis_server.url, timeout_seconds=1) as consumer:
        redis_server.stop()
        pauses = []

        def pause(seconds):
            pauses.append(seconds)
            if len(pauses) == 8:
                consumer.stop()

        monkeypatch.setattr(consumer, "_sleep", pause)
        assert list(consumer) == []
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


# A master that becomes a replica


@pytest.fixture
def second_server(redis_server, tmp_path):
    """Another server of the same kind."""
    (tmp_path / "second").mkdir()
    name = "redis" if redis_server.command[0] == REDIS_BINARIES["redis"] else "valkey"
    server = RedisServer(REDIS_BINARIES[name], tmp_path / "second")
    yield server
    server.stop()


def replicate(replica, master):
    replica.client.replicaof("127.0.0.1", master.port)
    wait_until(
        lambda: replica.client.info("replication")["master_link_status"] == "up", what="the replica"
    )


@pytest.mark.parametrize("group", ["alerts", None])
def test_a_consumer_follows_its_address_when_the_master_becomes_a_replica(
    redis_server, second_server, publish, group
):
    publish("gate", 0, 2)
    replicate(second_server, redis_server)
    with TcpProxy(redis_server.port) as address, Consuming(
        f"redis://127.0.0.1:{address.port}", group=group
    ) as one:  # fmt: skip
        one.wait_for(0, 1, 2)
        wait_for_blocked(redis_server.client)
        address.target_port = second_server.port
        redis_server.client.execute_command("FAILOVER")
        wait_until(
            lambda: second_server.client.info("replication")["role"] == "master", what="failover"
        )
        publish("gate", 3, 4, second_server)
        one.wait_for(0, 1, 2, 3, 4)


def test_a_consumer_waits_out_a_master_that_is_a_replica_for_a_while(
    redis_server, second_server, publish, caplog
):
    publish("gate", 0, 2)
    with consuming(redis_server) as one:
        one.wait_for(0, 1, 2)
        wait_for_blocked(redis_server.client)
        redis_server.client.replicaof("127.0.0.1", second_server.port)
        wait_until(lambda: warnings(caplog), what="the log line")
        redis_server.client.replicaof("NO", "ONE")
        publish("gate", 3, 4)
        one.wait_for(0, 1, 2, 3, 4)
