"""Consumers beside keys and ids that are not what they should be."""

import pytest

from tests.conftest import redis_only_in_long, wait_until
from tests.consuming import Consuming, calls_of, wait_for_blocked, warnings
from tests.events import detections_event
from worker.consumer import EventConsumer
from worker.errors import SinkError, UsageError

STREAM = "ssd:{gate}:detections"


def consuming(server, **options):
    return Consuming(server.url, group="alerts", consumer="one", **options)


@pytest.mark.long
@redis_only_in_long
@pytest.mark.parametrize("group", [None, "alerts"])
@pytest.mark.parametrize("start", ["start", pytest.param("new", marks=pytest.mark.long)])
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


@redis_only_in_long
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


@pytest.mark.parametrize("group", [None, "alerts"])
def test_a_camera_that_is_set_aside_costs_the_others_little(redis_server, publish, group):
    redis_server.client.set(STREAM, "somebody else's")
    publish("yard", 0, 299)
    options = {"group": group, "timeout_seconds": 0.1}
    with EventConsumer(redis_server.url, ["gate", "yard"], **options) as consumer:
        assert len(list(consumer)) == 300
    assert calls_of(redis_server, "xgroup|create" if group else "xrevrange") <= 3


def test_a_consumer_whose_cameras_are_all_set_aside_pauses(redis_server, monkeypatch):
    redis_server.client.set(STREAM, "somebody else's")
    with EventConsumer(redis_server.url, ["gate"], timeout_seconds=0.3) as consumer:
        pauses, sleep = [], consumer._sleep
        monkeypatch.setattr(consumer, "_sleep", lambda s: (pauses.append(s), sleep(s)))
        assert list(consumer) == []
    assert 1 <= len(pauses) <= 7


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


def test_an_event_whose_stream_is_gone_can_be_acknowledged(redis_server, publish, caplog):
    publish("gate", 0, 1)
    with EventConsumer(redis_server.url, group="alerts", timeout_seconds=0.3) as consumer:
        first, second = list(consumer)
        redis_server.client.delete(STREAM)
        consumer.ack(first)
        redis_server.client.set(STREAM, "somebody else's")
        consumer.ack(second)
        (said,) = warnings(caplog)
        assert "camera gate: set aside" in said


def test_an_event_of_a_camera_that_is_not_read_here_can_be_acknowledged(valkey_server, publish):
    publish("gate", 0, 1, valkey_server)
    options = {"group": "alerts", "timeout_seconds": 0.1}
    with (
        EventConsumer(valkey_server.url, **options) as reading,
        EventConsumer(valkey_server.url, ["yard"], **options) as other,
    ):
        first, second = list(reading)
        other.ack(first)
        assert valkey_server.client.xpending(STREAM, "alerts")["pending"] == 1
        valkey_server.client.acl_setuser("default", enabled=True, commands=["-xack"])
        with pytest.raises(SinkError, match="does not let this user run XACK"):
            other.ack(second)
        valkey_server.client.acl_setuser("default", enabled=True, commands=["+xack"])
        valkey_server.client.set(STREAM, "somebody else's")
        other.ack(second)


@redis_only_in_long
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


def test_a_consumer_that_may_not_see_the_cameras_fails_at_the_start(valkey_server):
    valkey_server.client.acl_setuser("default", enabled=True, commands=["-smembers"])
    with pytest.raises(SinkError, match="not let this user run SMEMBERS") as refused:
        EventConsumer(valkey_server.url)
    assert "is not a set" not in str(refused.value)


@redis_only_in_long
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


@pytest.mark.parametrize("start", ["yesterday", "$", "-", "1-2-3", "1-", "", "٣-0"])
def test_a_start_that_is_no_entry_id_is_refused(start):
    with pytest.raises(UsageError, match="expected start, new or an entry id"):
        EventConsumer("redis://127.0.0.1:1", start=start)
