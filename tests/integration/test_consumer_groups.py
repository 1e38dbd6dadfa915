"""What groups add: claims, acknowledgements, filters, lag, and consumers that are gone."""

import itertools
import json
import pickle
import time

import pytest

from tests.conftest import redis_only_in_long
from tests.consuming import Consuming, calls_of, wait_for_blocked
from tests.events import PERSON, camera_event, detections_event
from worker.consumer import EventConsumer
from worker.errors import SinkUnavailable, UsageError
from worker.events import Detection, parse_event
from worker.sinks.redis_stream import RedisStreamSink

STREAM = "ssd:{gate}:detections"
CAR = Detection(label="Car", class_id=5, score=0.5, box=(0.1, 0.2, 0.3, 0.4))


@pytest.fixture
def publish(redis_server):
    """Publish events, or those numbered first to last of a camera."""
    sink = RedisStreamSink(redis_server.url)

    def publish(what, first=None, last=None):
        events = what
        if first is not None:
            events = [detections_event(what, seq=seq) for seq in range(first, last + 1)]
        sink.publish(events)

    yield publish
    sink.close()


def member(server, name="one", *, timeout_seconds=0.3, **options):
    return EventConsumer(
        server.url, group="alerts", consumer=name, timeout_seconds=timeout_seconds, **options
    )


def seqs(events):
    return [event.data.seq for event in events]


def pending(server, stream=STREAM):
    return server.client.xpending(stream, "alerts")["pending"]


def leave_pending(server, consumer, count, idle_ms=3_600_000):
    """Read entries as a consumer that died ``idle_ms`` ago without acknowledging them."""
    client = server.client
    if not client.xinfo_groups(STREAM):
        client.xgroup_create(STREAM, "alerts", "0")
    reply = client.xreadgroup("alerts", consumer, {STREAM: ">"}, count=count)
    ((_, entries),) = reply.items() if isinstance(reply, dict) else reply
    entries = entries[0] if isinstance(entries[0], list) else entries
    ids = [entry_id for entry_id, _ in entries]
    client.xclaim(STREAM, "alerts", consumer, 0, ids, idle=idle_ms)


# Claims


@redis_only_in_long
def test_a_slow_handler_that_acknowledges_nothing_still_gets_all_that_was_left(
    redis_server, publish
):
    publish("gate", 0, 59)
    leave_pending(redis_server, "dead", 60)
    with member(redis_server, claim_after_seconds=0.1) as consumer:
        got = []
        for event in consumer:
            got.append(event.data.seq)
            time.sleep(0.015)  # ten of them take longer than it takes to claim them again
            if len(got) == 60:
                break
    assert got == list(range(60))


@redis_only_in_long
def test_claims_look_at_each_pending_entry_once(redis_server, publish):
    publish("gate", 0, 399)
    leave_pending(redis_server, "busy", 200, idle_ms=0)
    leave_pending(redis_server, "dead", 200)
    with member(redis_server, claim_after_seconds=600) as consumer:
        assert seqs(consumer) == list(range(200, 400))
    # One call looks at 100 entries, or claims ten. From the first entry on it would be 60 calls.
    assert calls_of(redis_server, "xautoclaim") < 30


@redis_only_in_long
def test_new_events_have_their_turn_though_there_is_always_something_to_claim(
    redis_server, publish
):
    publish("gate", 0, 19)
    leave_pending(redis_server, "dead", 20)
    publish("yard", 0, 0)
    with member(redis_server, claim_after_seconds=0.001) as consumer:
        cameras = [event.data.camera_id for event, _ in zip(consumer, range(60), strict=False)]
    assert "yard" in cameras


@redis_only_in_long
def test_an_event_that_the_user_holds_for_too_long_is_delivered_again(redis_server, publish):
    publish("gate", 0, 0)
    with member(redis_server, claim_after_seconds=0.2, timeout_seconds=10) as consumer:
        events = iter(consumer)
        first = next(events)
        assert next(events) == first


def test_entries_that_were_trimmed_are_cleared_while_claiming(redis_server, publish):
    publish("gate", 0, 29)
    leave_pending(redis_server, "dead", 30)
    redis_server.client.xtrim(STREAM, maxlen=5, approximate=False)
    with member(redis_server) as consumer:
        assert seqs(consumer) == list(range(25, 30))
    assert pending(redis_server) == 5


# Consumers that are gone


def consumers(server):
    return {found["name"].decode() for found in server.client.xinfo_consumers(STREAM, "alerts")}


@redis_only_in_long
def test_consumers_that_hold_nothing_are_removed_after_a_while(redis_server, publish):
    publish("gate", 0, 2)
    leave_pending(redis_server, "holds three", 3, idle_ms=0)
    for name in ("was here", "was here too"):
        redis_server.client.xgroup_createconsumer(STREAM, "alerts", name)
    with member(redis_server) as consumer:
        assert list(consumer) == []
    assert consumers(redis_server) == {"holds three", "was here", "was here too", "one"}
    with member(redis_server, remove_idle_after_seconds=0) as consumer:
        assert list(consumer) == []
    assert consumers(redis_server) == {"holds three", "one"}
    assert pending(redis_server) == 3


@redis_only_in_long
def test_a_consumer_that_is_removed_while_it_waits_reads_on(redis_server, publish):
    publish("gate", 0, 0)
    with Consuming(redis_server.url, group="alerts", consumer="one") as one:
        one.wait_for(0)
        wait_for_blocked(redis_server.client)
        redis_server.client.xgroup_delconsumer(STREAM, "alerts", "one")
        publish("gate", 1, 2)
        one.wait_for(0, 1, 2)
    assert pending(redis_server) == 0


@redis_only_in_long
def test_looking_after_the_group_costs_little(redis_server, publish):
    publish("gate", 0, 299)
    with member(redis_server, timeout_seconds=0.1) as consumer:
        assert len(list(consumer)) == 300
    with EventConsumer(redis_server.url, timeout_seconds=0.1) as reader:
        assert len(list(reader)) == 300
    for command in ("xinfo|stream", "xinfo|consumers"):
        assert calls_of(redis_server, command) <= 2, command
    assert calls_of(redis_server, "xautoclaim") <= 2
    assert calls_of(redis_server, "smembers") < 20


# Acknowledgements


def test_many_events_are_acknowledged_with_one_command_per_camera(redis_server, publish):
    publish("gate", 0, 9)
    publish("yard", 0, 9)
    with member(redis_server) as consumer:
        events = list(consumer)
        before = calls_of(redis_server, "xack")
        consumer.ack_many(event for event in events if event.data.seq != 4)
        assert calls_of(redis_server, "xack") == before + 2
        assert seqs(consumer) == [4, 4]
        consumer.ack_many([])


@redis_only_in_long
def test_events_are_acknowledged_by_another_consumer_of_the_group(redis_server, publish):
    publish("gate", 0, 2)
    with member(redis_server, "reads") as reading, member(redis_server, "acknowledges") as other:
        sent = [pickle.dumps(event) for event in reading]
        other.ack_many(map(pickle.loads, sent))
        assert pending(redis_server) == 0


@redis_only_in_long
def test_an_event_that_comes_back_as_json_is_acknowledged(redis_server, publish):
    publish("gate", 0, 1)
    with member(redis_server) as consumer:
        texts = [event.to_json() for event in consumer]
        consumer.ack(parse_event(texts[1]))
        assert seqs(consumer) == [0]
        consumer.ack(detections_event("never seen"))  # nothing to acknowledge


@redis_only_in_long
def test_what_was_acknowledged_is_not_remembered(redis_server, publish):
    publish("gate", 0, 9)
    with member(redis_server) as consumer:
        consumer.ack_many(list(consumer))
        assert not consumer._places  # it would grow for ever


@redis_only_in_long
def test_of_two_entries_with_one_event_only_the_one_that_was_acknowledged_is_done(
    redis_server, publish
):
    publish("gate", 0, 0)
    event = detections_event(seq=0).to_json()
    redis_server.client.xadd(STREAM, {"event": event})  # restored from older data, sent again
    with member(redis_server) as consumer:
        first, second = list(consumer)
        assert first == second
        assert first.entry_id != second.entry_id
        consumer.ack(first)
        (left,) = list(consumer)
        assert left.entry_id == second.entry_id


@redis_only_in_long
def test_a_reader_without_a_group_gives_entry_ids_that_it_can_start_after(redis_server, publish):
    publish("gate", 0, 4)
    with EventConsumer(redis_server.url, timeout_seconds=0.3) as consumer:
        third = list(consumer)[2]
    with EventConsumer(redis_server.url, start=third.entry_id, timeout_seconds=0.3) as consumer:
        assert seqs(consumer) == [3, 4]


@redis_only_in_long
def test_own_pending_events_of_a_camera_that_is_found_later_are_delivered_again(
    redis_server, publish, monkeypatch
):
    monkeypatch.setattr("worker.consumer.DISCOVER_SECONDS", 0.0)
    publish("gate", 0, 1)
    publish("yard", 0, 0)
    leave_pending(redis_server, "one", 2, idle_ms=0)
    redis_server.client.srem("ssd:cameras", "gate")
    with member(redis_server, claim_after_seconds=3600) as consumer:
        events = iter(consumer)
        assert next(events).data.camera_id == "yard"
        redis_server.client.sadd("ssd:cameras", "gate")
        assert [next(events).data.seq for _ in range(2)] == [0, 1]


# Filters

MIXED = [
    camera_event(seq=0),
    detections_event(seq=1),
    detections_event(seq=2, detections=(CAR,)),
    camera_event(seq=3, state="down", reason="stall"),
    detections_event(seq=4, detections=(CAR, PERSON)),
    detections_event(seq=5, detections=()),
]


@redis_only_in_long
@pytest.mark.parametrize(
    ("filters", "delivered"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"labels": ["Car"]}, [2, 4]),
        ({"score_threshold": 0.6}, [1, 4]),
        ({"labels": ["Car"], "score_threshold": 0.6}, []),
        ({"states": ["down"]}, [3]),
        ({"labels": ["Person"], "states": ["up", "down"]}, [0, 1, 3, 4]),
    ],
)
@pytest.mark.parametrize("group", [None, "alerts"])
def test_only_what_is_asked_for_is_delivered(redis_server, publish, filters, delivered, group):
    publish(MIXED)
    options = {"group": group, "timeout_seconds": 0.3, **filters}
    with EventConsumer(redis_server.url, **options) as consumer:
        assert seqs(consumer) == delivered
    if group:
        assert pending(redis_server) == len(delivered)  # the others are acknowledged


@redis_only_in_long
def test_what_is_filtered_out_is_acknowledged_with_one_command_per_read(redis_server, publish):
    publish("gate", 0, 99)
    with member(redis_server, states=["down"]) as consumer:
        assert list(consumer) == []
    assert pending(redis_server) == 0
    assert calls_of(redis_server, "xack") == 10


@redis_only_in_long
def test_the_timeout_counts_what_is_delivered_only(redis_server, publish):
    publish("gate", 0, 0)
    with Consuming(redis_server.url, states=["down"], timeout_seconds=1) as one:
        seq = 1
        deadline = time.monotonic() + 20
        while one.is_alive and time.monotonic() < deadline:
            publish("gate", seq, seq)
            seq += 1
        assert not one.is_alive


@redis_only_in_long
def test_a_reader_that_stops_in_the_middle_of_what_is_filtered_loses_nothing(redis_server, publish):
    publish(MIXED)
    with EventConsumer(redis_server.url, labels=["Person"], timeout_seconds=0.3) as consumer:
        assert next(iter(consumer)).data.seq == 1
        assert seqs(consumer) == [4]


@redis_only_in_long
def test_what_is_no_event_passes_no_filter(redis_server, publish):
    redis_server.client.xadd(STREAM, {"event": "{"})
    publish(MIXED)
    redis_server.client.xadd(STREAM, {"other": "x"})
    with member(redis_server, states=["up"]) as consumer:
        assert seqs(consumer) == [0]
    assert pending(redis_server) == 1


@redis_only_in_long
def test_events_of_a_later_type_are_reported_and_acknowledged(redis_server, publish, caplog):
    publish("gate", 0, 0)
    for seq in (1, 2):
        track = json.loads(detections_event(seq=seq).to_json()) | {"type": "ssd.track.v1"}
        redis_server.client.xadd(STREAM, {"event": json.dumps(track)})
    with member(redis_server) as consumer:
        assert seqs(consumer) == [0]
    assert pending(redis_server) == 1
    assert len([line for line in caplog.messages if "ssd.track.v1" in line]) == 1


# Lag and pending


def test_a_group_knows_what_it_has_not_read_and_not_acknowledged(redis_server, publish):
    publish("gate", 0, 29)
    publish("yard", 0, 2)
    with member(redis_server) as consumer:
        assert consumer.lag() == {"gate": 30, "yard": 3}
        assert consumer.pending() == {"gate": 0, "yard": 0}
        leave_pending(redis_server, "another", 12, idle_ms=0)
        assert consumer.lag() == {"gate": 18, "yard": 3}
        assert consumer.pending() == {"gate": 12, "yard": 0}
        consumer.ack_many(list(consumer))
        assert consumer.lag() == {"gate": 0, "yard": 0}
        assert consumer.pending() == {"gate": 12, "yard": 0}


@redis_only_in_long
def test_lag_counts_from_the_entry_after_the_last_one_that_was_read(redis_server, publish):
    publish("gate", 0, 9)
    with member(redis_server) as consumer:
        for left in (9, 8):
            leave_pending(redis_server, "another", 1)
            assert consumer.lag() == {"gate": left}


@redis_only_in_long
def test_a_reader_knows_what_it_has_not_read(redis_server, publish):
    publish("gate", 0, 4)
    with EventConsumer(redis_server.url) as consumer:
        assert consumer.lag() == {"gate": 5}
        events = iter(consumer)
        next(events)
        next(events)
        assert consumer.lag() == {"gate": 3}
        with pytest.raises(UsageError, match="pending needs a consumer group"):
            consumer.pending()
    with EventConsumer(redis_server.url, start="new") as consumer:
        assert consumer.lag() == {"gate": 0}
        publish("gate", 5, 6)
        assert consumer.lag() == {"gate": 2}


@redis_only_in_long
def test_lag_is_right_after_entries_that_were_not_read_have_been_trimmed(redis_server, publish):
    client = redis_server.client
    publish("gate", 0, 99)
    with member(redis_server) as consumer:
        leave_pending(redis_server, "one", 10)
        client.xtrim(STREAM, maxlen=50, approximate=False)
        assert consumer.lag() == {"gate": 50}  # the server says 90
        leave_pending(redis_server, "one", 10)
        assert consumer.lag() == {"gate": 40}  # Redis 7.0 says 80
        client.xtrim(STREAM, maxlen=0, approximate=False)
        assert consumer.lag() == {"gate": 0}


@redis_only_in_long
@pytest.mark.parametrize(("limit", "lag"), [(40, 40), (39, None)])
def test_lag_is_unknown_where_it_would_have_to_be_counted_for_long(
    redis_server, publish, monkeypatch, limit, lag
):
    monkeypatch.setattr("worker.consuming.lag.COUNT_LIMIT", limit)
    publish("gate", 0, 99)
    with member(redis_server) as consumer:
        leave_pending(redis_server, "one", 60)
        assert consumer.lag() == {"gate": 40}  # nothing was removed: the server knows it
        redis_server.client.xtrim(STREAM, maxlen=99, approximate=False)
        assert consumer.lag() == {"gate": lag}


def test_lag_does_not_count_entries_that_were_deleted(redis_server, publish):
    publish("gate", 0, 9)
    with member(redis_server) as consumer:
        leave_pending(redis_server, "one", 3)
        ids = [entry_id for entry_id, _ in redis_server.client.xrange(STREAM)]
        redis_server.client.xdel(STREAM, ids[5], ids[1])
        assert consumer.lag() == {"gate": 6}


@redis_only_in_long
def test_lag_of_a_group_that_began_in_the_middle_is_counted(redis_server, publish):
    publish("gate", 0, 9)
    ids = [entry_id for entry_id, _ in redis_server.client.xrange(STREAM)]
    with member(redis_server, start=ids[3].decode()) as consumer:
        assert consumer.lag() == {"gate": 6}


@redis_only_in_long
def test_what_redis_cannot_say_is_none(redis_server, publish):
    publish("gate", 0, 1)
    with member(redis_server, cameras=["gate", "none-yet", "odd"]) as consumer:
        redis_server.client.set("ssd:{odd}:detections", "x")
        redis_server.client.delete("ssd:{none-yet}:detections")
        assert consumer.lag() == {"gate": 2, "none-yet": None, "odd": None}
        assert consumer.pending() == {"gate": 0, "none-yet": None, "odd": None}
    with EventConsumer(redis_server.url, ["gate", "none-yet", "odd"]) as reader:
        assert reader.lag() == {"gate": 2, "none-yet": 0, "odd": None}


@redis_only_in_long
def test_lag_is_not_waited_for_while_redis_is_unavailable(redis_server, publish):
    publish("gate", 0, 1)
    with member(redis_server) as consumer:
        redis_server.stop()
        with pytest.raises(SinkUnavailable, match="no Redis answers"):
            consumer.lag()
        with pytest.raises(SinkUnavailable, match="no Redis answers"):
            consumer.pending()


@redis_only_in_long
def test_who_iterates_again_gets_what_was_not_acknowledged_again(redis_server, publish):
    publish("gate", 0, 3)
    with EventConsumer(redis_server.url, group="g", consumer="c", timeout_seconds=0.3) as consumer:
        first, second = itertools.islice(consumer, 2)
        consumer.ack(first)
        assert [event.data.seq for event in consumer] == [1, 2, 3]
        consumer.ack(second)
        assert [event.data.seq for event in consumer] == [2, 3]


@redis_only_in_long
def test_without_a_group_nothing_is_remembered(redis_server, publish):
    publish("gate", 0, 3)
    with EventConsumer(redis_server.url, timeout_seconds=0.3) as consumer:
        assert len(list(consumer)) == 4
        assert consumer._places == {}
