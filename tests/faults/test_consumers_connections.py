"""Consumers that lose replies, connections and the master."""

import pytest

from tests.conftest import REDIS_BINARIES, RedisServer, free_port, redis_only_in_long, wait_until
from tests.consuming import Consuming, calls_of, wait_for_blocked, warnings
from tests.events import detections_event
from tests.faults.tcp_proxy import TcpProxy
from worker.consumer import EventConsumer
from worker.sinks.redis_stream import RedisStreamSink

STREAM = "ssd:{gate}:detections"


def consuming(server, **options):
    return Consuming(server.url, group="alerts", consumer="one", **options)


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


@redis_only_in_long
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


@redis_only_in_long
def test_after_an_outage_reading_soon_costs_what_it_did_before(redis_server, publish, monkeypatch):
    monkeypatch.setattr("worker.consuming.group.DOUBT_SECONDS", 0.0)
    publish("gate", 0, 0)
    with TcpProxy(redis_server.port) as proxy, EventConsumer(
        f"redis://127.0.0.1:{proxy.port}", group="alerts", timeout_seconds=1
    ) as consumer:  # fmt: skip
        events = iter(consumer)
        consumer.ack(next(events))
        publish("gate", 1, 1)
        proxy.cut_replies_to = b"XREADGROUP"
        assert next(events).data.seq == 1
        publish("gate", 2, 301)
        before = calls_of(redis_server, "xreadgroup")
        assert len([next(events) for _ in range(300)]) == 300
        assert calls_of(redis_server, "xreadgroup") - before < 40  # 30, and twice that in doubt


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


def start_of_command(length, *words):
    return b"*%d\r\n" % length + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def test_a_lost_reply_of_a_cluster_is_noticed(cluster):
    url, proxy = cluster
    sink = RedisStreamSink(url)
    sink.publish([detections_event(seq=0)])
    with EventConsumer(url, group="alerts", consumer="one", timeout_seconds=10) as consumer:
        events = iter(consumer)
        assert next(events).data.seq == 0
        sink.publish([detections_event(seq=seq) for seq in range(1, 4)])
        # Of a read of new entries, and not of the question before it which keys such a read has.
        proxy.cut_replies_to = start_of_command(
            9, b"XREADGROUP", b"GROUP", b"alerts", b"one", b"COUNT", b"10"
        )
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


@redis_only_in_long
def test_retries_become_rarer_up_to_a_limit_and_one_line_says_so(
    redis_server, publish, monkeypatch, caplog
):
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
    (said,) = warnings(caplog)
    assert said.endswith("; retrying")


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


@pytest.mark.long
@redis_only_in_long
@pytest.mark.parametrize("group", ["alerts", pytest.param(None, marks=pytest.mark.long)])
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


@pytest.mark.long
@redis_only_in_long
def test_a_consumer_does_not_stay_with_a_replica_because_its_connection_lives(
    redis_server, second_server, publish
):
    publish("gate", 0, 0)
    replicate(second_server, redis_server)
    with TcpProxy(redis_server.port) as address, EventConsumer(
        f"redis://127.0.0.1:{address.port}", group="alerts", timeout_seconds=20
    ) as consumer:  # fmt: skip
        events = iter(consumer)
        consumer.ack(next(events))
        address.target_port = second_server.port  # while nothing waits in the old master
        redis_server.client.execute_command("FAILOVER")
        wait_until(
            lambda: second_server.client.info("replication")["role"] == "master", what="failover"
        )
        publish("gate", 1, 1, second_server)
        assert next(events).data.seq == 1


@redis_only_in_long
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
