import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.conftest import json_lines, redis_only_in_long, wait_until
from tests.consuming import Consuming
from tests.events import detections_event
from tests.faults.tcp_proxy import TcpProxy
from worker.consumer import EventConsumer
from worker.errors import UsageError
from worker.events import DetectionsEvent
from worker.sinks.redis_stream import RedisStreamSink


@pytest.fixture
def publish(redis_server):
    """Publish live events numbered first to last of a camera."""
    sink = RedisStreamSink(redis_server.url)

    def publish(camera_id, first, last):
        sink.publish([detections_event(camera_id, seq=seq) for seq in range(first, last + 1)])

    yield publish
    sink.close()


def seqs(events):
    return [(event.data.camera_id, event.data.seq) for event in events]


def pending_in(group, redis_server):
    return redis_server.client.xpending("ssd:{gate}:detections", group)["pending"]


def test_a_reader_gets_typed_events_of_all_cameras_in_order(redis_server, publish):
    publish("gate", 0, 4)
    publish("yard", 0, 2)
    with EventConsumer(redis_server.url, timeout_seconds=0.3) as consumer:
        events = list(consumer)
    assert all(isinstance(event, DetectionsEvent) for event in events)
    assert seqs(e for e in events if e.data.camera_id == "gate") == [("gate", n) for n in range(5)]
    assert seqs(e for e in events if e.data.camera_id == "yard") == [("yard", n) for n in range(3)]
    assert events[0].data.detections[0].label == "Person"


@redis_only_in_long
def test_a_reader_that_starts_at_new_gets_later_events_and_new_cameras_whole(
    redis_server, publish, monkeypatch
):
    monkeypatch.setattr("worker.consumer.DISCOVER_SECONDS", 0.0)
    publish("gate", 0, 4)
    with EventConsumer(redis_server.url, start="new", timeout_seconds=0.3) as consumer:
        publish("gate", 5, 6)
        publish("yard", 0, 1)
        events = list(consumer)
    assert sorted(seqs(events)) == [("gate", 5), ("gate", 6), ("yard", 0), ("yard", 1)]


@redis_only_in_long
def test_a_reader_can_start_at_an_entry(redis_server, publish):
    publish("gate", 0, 4)
    entry_id = redis_server.client.xrange("ssd:{gate}:detections")[2][0].decode()
    with EventConsumer(redis_server.url, start=entry_id, timeout_seconds=0.3) as consumer:
        assert seqs(consumer) == [("gate", 3), ("gate", 4)]


@redis_only_in_long
def test_only_unacknowledged_events_are_redelivered(redis_server, publish):
    publish("gate", 0, 4)
    with EventConsumer(
        redis_server.url, group="alerts", consumer="one", timeout_seconds=0.3
    ) as consumer:
        for event in consumer:
            if event.data.seq < 3:
                consumer.ack(event)
    with EventConsumer(
        redis_server.url, group="alerts", consumer="one", timeout_seconds=0.3
    ) as consumer:
        assert seqs(consumer) == [("gate", 3), ("gate", 4)]


@redis_only_in_long
def test_events_of_a_dead_consumer_are_claimed_by_another(redis_server, publish):
    publish("gate", 0, 4)
    dead = EventConsumer(redis_server.url, group="alerts", consumer="dead", timeout_seconds=0.3)
    with dead:
        assert len(list(dead)) == 5
    living = EventConsumer(
        redis_server.url, group="alerts", consumer="living",
        claim_after_seconds=0.5, timeout_seconds=2,
    )  # fmt: skip
    with living:
        for event in living:
            living.ack(event)
    assert pending_in("alerts", redis_server) == 0


def leave_pending(redis_server, consumer, count, idle_ms):
    """Read entries as a consumer that died ``idle_ms`` ago without acknowledging them."""
    stream, client = "ssd:{gate}:detections", redis_server.client
    if not client.xinfo_groups(stream):
        client.xgroup_create(stream, "alerts", "0")
    ((_, entries),) = client.xreadgroup("alerts", consumer, {stream: ">"}, count=count)
    ids = [entry_id for entry_id, _ in entries]
    client.xclaim(stream, "alerts", consumer, 0, ids, idle=idle_ms)


@redis_only_in_long
def test_all_that_a_dead_consumer_left_is_claimed_at_once(redis_server, publish):
    publish("gate", 0, 34)
    leave_pending(redis_server, "dead", 35, idle_ms=3_600_000)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.5) as consumer:
        assert seqs(consumer) == [("gate", seq) for seq in range(35)]


@redis_only_in_long
def test_events_of_a_dead_consumer_are_claimed_past_those_that_a_busy_one_holds(
    redis_server, publish
):
    publish("gate", 0, 154)
    leave_pending(redis_server, "busy", 150, idle_ms=0)
    leave_pending(redis_server, "dead", 5, idle_ms=3_600_000)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.5) as consumer:
        assert seqs(consumer) == [("gate", seq) for seq in range(150, 155)]


@redis_only_in_long
def test_events_of_a_lost_reply_arrive_in_order_after_the_reconnect(redis_server, publish):
    publish("gate", 0, 1)
    with TcpProxy(redis_server.port) as proxy, EventConsumer(
        f"redis://127.0.0.1:{proxy.port}", group="alerts", timeout_seconds=10
    ) as consumer:  # fmt: skip
        events = iter(consumer)
        unacknowledged, acknowledged = next(events), next(events)
        consumer.ack(acknowledged)
        publish("gate", 2, 4)
        proxy.cut_replies_to = b"XREADGROUP"
        assert next(events).data.seq == 2
        assert proxy.cuts == 1
        publish("gate", 5, 5)
        assert [next(events).data.seq for _ in range(3)] == [3, 4, 5]
        consumer.ack(unacknowledged)


@redis_only_in_long
def test_an_event_can_be_acknowledged_again_after_redis_was_unavailable(redis_server, publish):
    publish("gate", 0, 0)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=10) as consumer:
        event = next(iter(consumer))
        consumer.stop()
        redis_server.process.terminate()  # and not kill: it may not have written the group yet
        redis_server.process.wait()
        consumer.ack(event)
        redis_server.start()
        consumer.ack(event)
    assert pending_in("alerts", redis_server) == 0


@redis_only_in_long
def test_the_timeout_counts_from_when_the_last_event_was_handled(redis_server, publish):
    publish("gate", 0, 0)
    with EventConsumer(redis_server.url, timeout_seconds=0.5) as consumer:
        for event in consumer:
            if event.data.seq < 2:
                time.sleep(0.6)  # a handler slower than the timeout
                publish("gate", event.data.seq + 1, event.data.seq + 1)
        assert event.data.seq == 2


@redis_only_in_long
def test_two_consumers_of_a_group_share_the_events(redis_server, publish):
    publish("gate", 0, 0)
    got = {"one": [], "two": []}

    def consume(name):
        with EventConsumer(
            redis_server.url, group="alerts", consumer=name, timeout_seconds=2
        ) as consumer:
            for event in consumer:
                got[name].append(event.data.seq)
                consumer.ack(event)

    threads = [threading.Thread(target=consume, args=(name,)) for name in got]
    for thread in threads:
        thread.start()
    for seq in range(1, 60):
        publish("gate", seq, seq)
        time.sleep(0.005)
    for thread in threads:
        thread.join()
    assert sorted(got["one"] + got["two"]) == list(range(60))
    assert got["one"] == sorted(got["one"])


@redis_only_in_long
def test_trimmed_entries_that_were_pending_are_skipped_and_acknowledged(redis_server, publish):
    publish("gate", 0, 4)
    settings = {"group": "alerts", "consumer": "one", "timeout_seconds": 0.3}
    with EventConsumer(redis_server.url, **settings) as consumer:
        assert len(list(consumer)) == 5
    redis_server.client.xtrim("ssd:{gate}:detections", maxlen=2, approximate=False)
    with EventConsumer(redis_server.url, **settings) as consumer:
        events = iter(consumer)
        first = next(events)
        assert pending_in("alerts", redis_server) == 2  # before XAUTOCLAIM removes trimmed ones too
        assert seqs([first, *events]) == [("gate", 3), ("gate", 4)]


@redis_only_in_long
def test_an_entry_that_is_not_an_event_is_skipped(redis_server, publish):
    publish("gate", 0, 0)
    redis_server.client.xadd("ssd:{gate}:detections", {"event": "{"})
    publish("gate", 1, 1)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as consumer:
        assert seqs(consumer) == [("gate", 0), ("gate", 1)]
    assert pending_in("alerts", redis_server) == 2


@redis_only_in_long
def test_ack_without_a_group_is_refused(redis_server, publish):
    publish("gate", 0, 0)
    with EventConsumer(redis_server.url, timeout_seconds=0.3) as consumer:
        event = next(iter(consumer))
        with pytest.raises(UsageError, match="group"):
            consumer.ack(event)


@redis_only_in_long
def test_a_consumer_waits_out_a_restart_of_redis(redis_server, publish):
    publish("gate", 0, 2)
    with EventConsumer(redis_server.url, timeout_seconds=20) as consumer:
        events = iter(consumer)
        assert [next(events).data.seq for _ in range(3)] == [0, 1, 2]
        redis_server.stop()
        restart = threading.Timer(0.5, redis_server.start)
        restart.start()
        later = threading.Timer(1.5, lambda: publish("gate", 3, 3))
        later.start()
        assert next(events).data.seq == 3
        restart.join()
        later.join()


@redis_only_in_long
def test_subscribe_prints_json_lines_and_counts(cli, redis_server, publish):
    publish("gate", 0, 4)
    result = cli("subscribe", "--from", "start", "--count", 3, "--redis-url", redis_server.url)
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["data"]["seq"] for line in result.stdout.splitlines()] == [0, 1, 2]


def test_subscribe_in_a_group_resumes_where_it_stopped(cli, redis_server, publish):
    publish("gate", 0, 4)
    subscribe = ("subscribe", "gate", "--group", "g", "--consumer", "c", "--from", "start")
    url = ("--redis-url", redis_server.url)
    first = cli(*subscribe, "--count", 2, *url)
    second = cli(*subscribe, "--count", 3, *url)
    lines = (first.stdout + second.stdout).splitlines()
    assert [json.loads(line)["data"]["seq"] for line in lines] == [0, 1, 2, 3, 4]


def test_subscribe_stops_at_a_signal(exec_cli, valkey_server):
    process = exec_cli.start("subscribe", "--redis-url", valkey_server.url)
    wait_until(lambda: len(valkey_server.client.client_list()) > 1, what="the subscriber")
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=5)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_the_embedded_server_is_started_by_a_subscriber_and_shared(exec_cli, short_clip, tmp_path):
    with (tmp_path / "events.jsonl").open("w") as file:
        subscriber = exec_cli.start("subscribe", "--replay", "--count", 41, stdout=file)
        wait_until(lambda: list(tmp_path.glob("state/valkey-*/valkey.pid")), what="the server")
        result = exec_cli("replay", short_clip)
        assert result.returncode == 0, result.stderr
        assert "using the embedded Valkey" in result.stderr
        assert subscriber.wait(timeout=20) == 0
    assert len(json_lines(tmp_path / "events.jsonl")) == 41


def test_events_in_the_embedded_server_survive_its_restart(cli, short_clip, tmp_path):
    assert cli("replay", short_clip).returncode == 0
    pid = int(next(tmp_path.glob("state/valkey-*/valkey.pid")).read_text())
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the server")
    result = cli("subscribe", "--replay", "--from", "start", "--count", 41)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 41


@redis_only_in_long
def test_a_reader_that_stops_in_the_middle_resumes_after_the_last_event_it_got(
    redis_server, publish
):
    publish("gate", 0, 19)
    with EventConsumer(redis_server.url, timeout_seconds=0.3) as consumer:
        for event in consumer:
            if event.data.seq == 4:
                break
        assert [event.data.seq for event in consumer] == list(range(5, 20))


@redis_only_in_long
@pytest.mark.parametrize("group", [None, "alerts"])
def test_a_closed_consumer_holds_no_connection_and_gives_nothing_more(redis_server, publish, group):
    publish("gate", 0, 4)
    before = len(redis_server.client.client_list())
    with EventConsumer(redis_server.url, group=group, timeout_seconds=0.3) as consumer:
        events = iter(consumer)
        assert next(events).data.seq == 0
    wait_until(
        lambda: len(redis_server.client.client_list()) == before, what="the end of the connection"
    )
    assert list(events) == []
    assert list(consumer) == []


@redis_only_in_long
def test_a_consumer_that_is_stopped_gives_none_of_what_it_has_read_already(redis_server, publish):
    publish("gate", 0, 4)
    with EventConsumer(redis_server.url, timeout_seconds=0.3) as consumer:
        got = []
        for event in consumer:
            got.append(event.data.seq)
            consumer.stop()
    assert got == [0]


@redis_only_in_long
def test_a_consumer_ends_in_time_after_its_timeout_and_after_stop(
    redis_server, publish, monkeypatch
):
    publish("gate", 0, 0)
    started = time.monotonic()
    with EventConsumer(redis_server.url, timeout_seconds=0.05) as consumer:
        assert seqs(consumer) == [("gate", 0)]
    assert time.monotonic() - started < 0.8  # a read waits for up to a second
    monkeypatch.setattr("worker.consumer.BLOCK_SECONDS", 0.05)
    with Consuming(redis_server.url, timeout_seconds=60) as one:
        one.wait_for(0)
        started = time.monotonic()
    assert time.monotonic() - started < 2


@redis_only_in_long
@pytest.mark.parametrize("in_cluster", [False, True])
def test_a_consumer_pauses_only_where_a_read_cannot_wait_and_finds_nothing(
    redis_server, publish, monkeypatch, in_cluster
):
    publish("gate", 0, 29)
    with EventConsumer(redis_server.url, timeout_seconds=0.2) as consumer:
        consumer._reader._cluster = in_cluster
        pauses, sleep = [], consumer._sleep
        monkeypatch.setattr(consumer, "_sleep", lambda s: (pauses.append(s), sleep(s)))
        for event in consumer:
            assert pauses == [], event.data.seq
        assert event.data.seq == 29
    assert bool(pauses) == in_cluster


@redis_only_in_long
def test_a_pause_ends_soon_after_stop_and_uses_no_processor_time(redis_server, monkeypatch):
    slept, sleep = [], time.sleep

    def record(seconds):
        slept.append(threading.current_thread())
        sleep(seconds)

    with EventConsumer(redis_server.url) as consumer:
        monkeypatch.setattr(time, "sleep", record)
        threading.Timer(0.2, consumer.stop).start()
        started, used = time.monotonic(), time.thread_time()
        consumer._sleep(30)
        assert time.monotonic() - started < 1
        assert time.thread_time() - used < 0.1
        assert threading.current_thread() in slept
