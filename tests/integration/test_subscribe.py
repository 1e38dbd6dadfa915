"""`ssd-worker subscribe`: filters, and the lag of a group."""

import json
from contextlib import closing

import pytest

from tests.events import PERSON, camera_event, detections_event
from worker.consumer import EventConsumer
from worker.events import Detection
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.redis_stream import RedisStreamSink

CAR = Detection(label="Car", class_id=5, score=0.5, box=(0.1, 0.2, 0.3, 0.4))
EVENTS = [
    camera_event(seq=0),
    detections_event(seq=1),
    detections_event(seq=2, detections=(CAR,)),
    camera_event(seq=3, state="down", reason="stall"),
    detections_event(seq=4, detections=(CAR, PERSON)),
]


@pytest.fixture
def url(valkey_server):
    sink = RedisStreamSink(valkey_server.url)
    sink.publish(EVENTS)
    sink.close()
    return valkey_server.url


def lines(result):
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    ("options", "printed"),
    [
        (("--filter-labels", "Car"), [2, 4]),
        (("--filter-labels", "Tree, Person"), [1, 4]),
        (("--filter-score", "0.5"), [1, 4]),
        (("--filter-states", "down,ended", "--filter-labels", "Person"), [1, 3, 4]),
    ],
)
def test_subscribe_prints_what_is_asked_for(cli, url, options, printed):
    found = cli(
        "subscribe", "--from", "start", "--count", len(printed), "--redis-url", url, *options
    )
    assert [event["data"]["seq"] for event in lines(found)] == printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--filter-states", "dwon"), "--filter-states"),
        (("--filter-labels", "a,,b"), "expected names separated by commas"),
        (("--filter-labels", ""), "expected names separated by commas"),
        (("--filter-score", "1"), "--filter-score"),
        (("--lag",), "--lag is that of a group: give --group too"),
    ],
)
def test_subscribe_refuses_options_that_cannot_work(cli, options, words):
    found = cli("subscribe", *options)
    assert found.returncode == 2
    assert words in found.stderr
    assert "Traceback" not in found.stderr


def test_subscribe_prints_the_lag_of_a_group_and_changes_nothing(cli, url, valkey_server):
    with EventConsumer(url, group="alerts", timeout_seconds=0.2) as consumer:
        consumer.ack_many([event for event in consumer if event.data.seq != 1])
    sink = RedisStreamSink(url)
    sink.publish([detections_event(seq=seq) for seq in (5, 6)])
    sink.publish([detections_event("yard", seq=0)])  # which has no group
    sink.close()
    for cameras in ((), ("gate", "yard", "none")):
        found = cli("subscribe", *cameras, "--lag", "--group", "alerts", "--redis-url", url)
        assert lines(found) == [{"camera_id": "gate", "lag": 2, "pending": 1}]
    assert not valkey_server.client.exists("ssd:{none}:detections")
    assert valkey_server.client.xinfo_groups("ssd:{yard}:detections") == []


def test_subscribe_finds_the_replays_whose_lag_is_asked_for(cli, url, valkey_server):
    claim = ReplayClaim(recording="r", model="m", settings="s")
    with closing(RedisStreamSink(valkey_server.url)) as sink:
        sink.claim_replay("clip", claim, restart=False)
        sink.publish([detections_event("clip", epoch=0, seq=n, mode="replay") for n in range(3)])
    EventConsumer(url, group="alerts", replay=True).close()
    found = cli("subscribe", "--replay", "--lag", "--group", "alerts", "--redis-url", url)
    assert lines(found) == [{"camera_id": "clip", "lag": 3, "pending": 0}]


def test_subscribe_prints_null_for_the_lag_of_what_is_not_a_stream(cli, url, valkey_server):
    valkey_server.client.set("ssd:{odd}:detections", "x")
    found = cli("subscribe", "odd", "--lag", "--group", "alerts", "--redis-url", url)
    assert lines(found) == [{"camera_id": "odd", "lag": None, "pending": None}]


def test_subscribe_names_a_group_that_no_stream_has(cli, url):
    found = cli("subscribe", "--lag", "--group", "alters", "--redis-url", url)
    assert found.returncode == 2
    assert "no stream has the group 'alters': check its name, and --replay" in found.stderr
