"""How the dashboard reads streams: in parts, on from where it was, and whatever happens to them."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest
import redis

from tests.conftest import REDIS_BINARIES, RedisServer, free_port, wait_until
from tests.events import PERSON, camera_event, detections_event
from worker.dashboard import coverage as coverage_module, feed as feed_module, history, replays
from worker.dashboard.clock import RedisClock
from worker.dashboard.coverage import CoverageStore
from worker.dashboard.feed import Feed
from worker.dashboard.history import CameraHistory, Histories, counts_json
from worker.dashboard.hub import Hub
from worker.dashboard.queries import Queries
from worker.dashboard.replays import ReplayRecord, Replays
from worker.keys import Keys

STREAM = "ssd:{gate}:detections"
CAR = PERSON.model_copy(update={"label": "Car"})
NOW = time.time()
"""When the test began."""
EPOCH = round(NOW * 1000) - 3_600_000


@pytest.fixture(autouse=True)
def _begins_now(monkeypatch):
    monkeypatch.setitem(globals(), "NOW", time.time())


@pytest.fixture
def client(valkey_server):
    return valkey_server.client


@pytest.fixture
def read(valkey_server, monkeypatch):
    """A feed that is polled by hand, looks for all that is new each time, and its hub."""
    monkeypatch.setattr(feed_module, "TICK_SECONDS", 0)
    return Reading(valkey_server.url)


class Reading:
    def __init__(self, url):
        self.hub, self.clock, self.messages = Hub(RedisClock()), RedisClock(), []
        self.queries = Queries(url)
        self.coverage = CoverageStore(self.queries, Keys())
        self.feed = Feed(url, Keys(), self.clock, self._deliver, self.coverage)

    def __call__(self):
        """What one poll sends, as (name, data)."""
        self.messages.clear()
        self.feed.poll()
        return [(each.name, each.data) for each in self.messages]

    def _deliver(self, messages):
        self.messages += messages
        self.hub.receive(messages)


def add(client, event, seconds_ago=None, stream=STREAM, camera_id="gate"):
    """An entry of its own time, ``seconds_ago`` before now."""
    entry_id = "*" if seconds_ago is None else f"{round((NOW - seconds_ago) * 1000)}-*"
    moment = datetime.fromtimestamp(NOW, UTC) - timedelta(seconds=seconds_ago or 0)
    event = event.model_copy(update={"time": moment})
    fields = {"id": event.id, "type": event.type, "event": event.to_json()}
    client.sadd("ssd:cameras", camera_id)
    return client.xadd(stream, fields, id=entry_id)


def test_since_when_a_camera_is_down_is_found_further_back(client, read, monkeypatch):
    monkeypatch.setattr(feed_module, "SEARCH_ENTRIES", 50)
    add(client, detections_event(epoch=EPOCH, seq=1), 3000)
    for seq in range(250):
        event = camera_event(epoch=EPOCH, seq=2 + seq, state="down", reason="refused")
        add(client, event, 2495 - 10 * seq)
    read()
    shown = read.hub.camera("gate")
    assert (shown["state"], shown["since_at_least"]) == ("down", False)
    since = datetime.fromisoformat(shown["since"]).timestamp()
    assert since == pytest.approx(NOW - 2495, abs=0.01)


def test_that_search_has_an_end(client, read, monkeypatch):
    monkeypatch.setattr(feed_module, "SEARCH_ENTRIES", 10)
    monkeypatch.setattr(feed_module, "MAX_SEARCHED_ENTRIES", 20)
    reading = Reading(read.feed._url)
    for seq in range(150):
        event = camera_event(epoch=EPOCH, seq=seq, state="down", reason="refused")
        add(client, event, 1500 - 10 * seq)
    reading()
    shown = reading.hub.camera("gate")
    assert shown["since_at_least"]
    since = datetime.fromisoformat(shown["since"]).timestamp()
    assert since == pytest.approx(NOW - 1500 + 10 * 30, abs=0.01)


def test_what_is_known_at_the_start_is_no_news(client, read):
    add(client, camera_event(epoch=EPOCH, seq=0), 60)
    add(client, camera_event(epoch=EPOCH, seq=1, state="down", reason="stall"), 5)
    assert {name for name, _ in read()}.isdisjoint({"change", "detections"})
    assert [each["reason"] for each in read.hub.changes("gate")] == ["stall", "connected"]
    add(client, camera_event(epoch=EPOCH, seq=2))
    assert [name for name, _ in read() if name == "change"] == ["change"]


def test_a_crowd_of_events_is_read_to_its_end_and_the_newest_is_sent(client, read):
    add(client, camera_event(epoch=EPOCH, seq=0))
    read()
    for seq in range(1, 501):
        add(client, detections_event(epoch=EPOCH, seq=seq))
    assert [data["seq"] for name, data in read() if name == "detections"] == [500]


def test_a_camera_that_nothing_is_heard_of_for_long_is_silent(client, read):
    add(client, camera_event(epoch=EPOCH, seq=0), 31)
    read()
    shown = read.hub.camera("gate")
    assert (shown["state"], shown["reason"], shown["fps"]) == ("unknown", "worker_silent", None)


def test_the_clock_is_that_of_redis(client, read, monkeypatch):
    monkeypatch.setattr(feed_module, "time_of", lambda _: NOW + 1000)
    add(client, camera_event(epoch=EPOCH, seq=0))
    read()
    assert read.clock.now() == pytest.approx(NOW + 1000, abs=20)
    assert read.hub.camera("gate")["worker"] == "silent"


def test_a_stream_that_is_deleted_and_begun_again_is_read(client, read):
    add(client, camera_event(epoch=EPOCH, seq=0))
    read()
    client.delete(STREAM)
    add(client, detections_event(epoch=EPOCH, seq=5), 10)  # with an id below the last one
    read.feed._reader._next_check = 0.0
    assert [data["seq"] for name, data in read() if name == "detections"] == [5]


# History


def counts(history, seconds, buckets=60):
    return counts_json(history, NOW - seconds, NOW, buckets)


def test_a_history_is_read_in_parts_the_newest_first(client, monkeypatch):
    monkeypatch.setattr(history, "PAGE_ENTRIES", 4)
    monkeypatch.setattr(history, "ENTRIES_PER_REQUEST", 10)
    add(client, camera_event(epoch=EPOCH, seq=0), 1800)
    for seq in range(1, 30):
        add(client, detections_event(epoch=EPOCH, seq=seq), 1770 - 60 * seq)
    found = CameraHistory("gate", STREAM)
    found.read(client, NOW - 3600)
    answer = counts(found, 3600)
    assert (sum(answer["frames"]), answer["complete"]) == (10, False)
    assert parsed(answer["known_from"]) == pytest.approx(NOW - 1770 + 60 * 20, abs=0.01)
    assert sum(answer["frames"][-10:]) >= 9
    assert not found.has_all_changes
    for _ in range(3):
        found.read(client, NOW - 3600)
    answer = counts(found, 3600)
    assert (sum(answer["frames"]), answer["complete"], answer["known_from"]) == (29, True, None)
    assert [each["reason"] for each in found.changes()] == ["connected"]
    assert found.has_all_changes


def parsed(text):
    return datetime.fromisoformat(text).timestamp()


def test_new_entries_are_added_and_after_a_long_pause_all_is_read_anew(client, monkeypatch):
    found = CameraHistory("gate", STREAM)
    found.read(client, NOW - 3600)
    assert (counts(found, 3600)["labels"], counts(found, 3600)["complete"]) == ({}, True)
    for seq in range(5):
        add(client, detections_event(epoch=EPOCH, seq=seq), 600 - seq)
    found.read(client, NOW - 3600)
    assert sum(counts(found, 3600)["labels"]["Person"]) == 5
    found.read(client, NOW - 3600)
    assert sum(counts(found, 3600)["labels"]["Person"]) == 5
    monkeypatch.setattr(history, "ENTRIES_PER_REQUEST", 8)
    for seq in range(5, 25):
        add(client, detections_event(epoch=EPOCH, seq=seq, detections=(CAR,)), 500 - seq)
    for _ in range(4):
        found.read(client, NOW - 3600)
    labels = counts(found, 3600)["labels"]
    assert (sum(labels["Person"]), sum(labels["Car"])) == (5, 20)


def test_a_trimmed_stream_says_from_when_on_it_knows(client):
    for seq in range(20):
        add(client, detections_event(epoch=EPOCH, seq=seq), 2000 - 100 * seq)
    client.xtrim(STREAM, maxlen=5, approximate=False)
    found = CameraHistory("gate", STREAM)
    found.read(client, NOW - 3600)
    answer = counts(found, 3600)
    assert (sum(answer["frames"]), answer["complete"]) == (5, True)
    assert parsed(answer["known_from"]) == pytest.approx(NOW - 500, abs=0.01)
    assert counts(found, 300)["known_from"] is None


def test_another_stream_in_its_place_is_another_history(client):
    add(client, detections_event(epoch=EPOCH, seq=1), 100)
    found = CameraHistory("gate", STREAM)
    found.read(client, NOW - 3600)
    client.delete(STREAM)
    add(client, detections_event(epoch=EPOCH, seq=0, detections=(CAR,)), 200)
    found.read(client, NOW - 3600)
    assert list(counts(found, 3600)["labels"]) == ["Car"]


def test_only_the_histories_asked_for_last_are_kept(valkey_server, client, monkeypatch):
    monkeypatch.setattr(history, "MAX_CAMERAS", 2)
    monkeypatch.setattr(replays, "MAX_REPLAYS", 2)
    histories = Histories(Queries(valkey_server.url), Keys())
    held = Replays(Queries(valkey_server.url), Keys())

    async def ask():
        for number in range(5):
            await histories.read(f"camera-{number}", NOW - 60, lambda found: None)
            await held.use(f"replay-{number}", lambda client, found: found.read(client))

    asyncio.run(ask())
    assert list(histories._held) == ["camera-3", "camera-4"]
    assert list(held._held) == ["replay-3", "replay-4"]


# Replays


REPLAY = "ssd:{walk}:replay"


def tag(client, seqs, **fields):
    for seq in seqs:
        event = detections_event("walk", epoch=0, seq=seq, mode="replay")
        event = event.model_copy(update={"data": event.data.model_copy(update=fields)})
        client.xadd(REPLAY, {"event": event.to_json()})


def test_a_replay_is_read_in_parts_and_on(client, monkeypatch):
    monkeypatch.setattr(replays, "PAGE_ENTRIES", 20)
    monkeypatch.setattr(replays, "ENTRIES_PER_REQUEST", 40)
    tag(client, range(100))
    record = ReplayRecord("walk", REPLAY)
    record.read(client)
    assert (record.as_json()["frames"], record.as_json()["complete"]) == (40, False)
    for _ in range(3):
        record.read(client)
    shown = record.as_json()
    assert (shown["frames"], shown["complete"], shown["state"]) == (100, True, "running")
    tag(client, range(100, 110))
    record.read(client)
    assert record.as_json()["timeline"]["frames"] == [10] * 11
    for seconds, frame in ((0, 0), (4.26, 43), (7.5, 75), (99999, 109), (-5, 0)):
        assert record.at(client, seconds)["frame_index"] == frame


def test_a_replay_that_begins_again_is_read_again(client):
    tag(client, range(100))
    record = ReplayRecord("walk", REPLAY)
    record.read(client)
    client.xtrim(REPLAY, maxlen=0)
    record.read(client)
    assert not record.is_there
    tag(client, range(10))
    record.read(client)
    assert record.as_json()["frames"] == 10


def test_a_long_recording_has_longer_steps(client, monkeypatch):
    monkeypatch.setattr(replays, "MAX_STEPS", 10)
    for seq in range(100):
        tag(client, [seq], pts_seconds=float(seq))
    record = ReplayRecord("walk", REPLAY)
    record.read(client)
    shown = record.as_json()
    assert shown["timeline"]["step_seconds"] == 16
    assert shown["timeline"]["frames"] == [16] * 6 + [4]
    monkeypatch.setattr(replays, "TIMELINE_STEPS", 4)
    assert record.as_json()["timeline"]["frames"] == [32, 32, 32, 4]


def test_pictures_without_times_are_counted(client):
    tag(client, range(7), pts=None, pts_seconds=None)
    record = ReplayRecord("walk", REPLAY)
    record.read(client)
    shown = record.as_json()
    assert (shown["axis"], shown["duration_seconds"]) == ("frames", 6)
    assert record.at(client, 3)["frame_index"] == 3


@pytest.mark.parametrize("pts_seconds", [-3.0, 1e300])
def test_a_moment_that_cannot_be_does_no_harm(client, pts_seconds):
    tag(client, range(3), pts_seconds=pts_seconds)
    record = ReplayRecord("walk", REPLAY)
    record.read(client)
    assert len(record.as_json()["timeline"]["frames"]) <= replays.TIMELINE_STEPS
    assert record.at(client, 0)["frame_index"] == 0


# Coverage


def covered(reading, seconds=3600):
    found, pending = asyncio.run(reading.coverage.of(["gate"], NOW - seconds, time.time() + 1))
    assert pending == []
    return [(each["state"], each["reason"]) for each in found["gate"]]


def test_coverage_is_read_once_and_kept_up(client, read, monkeypatch):
    add(client, camera_event(epoch=EPOCH, seq=0), 5)
    for seq in range(1, 10):
        add(client, detections_event(epoch=EPOCH, seq=seq), 5 - seq / 2)
    read()
    assert covered(read)[-1] == ("watched", "")
    monkeypatch.setattr(read.queries, "run", None)  # nothing more is read
    add(client, camera_event(epoch=EPOCH, seq=10, state="down", reason="stall"))
    read()
    assert covered(read)[-1] == ("down", "stall")


def test_after_a_gap_in_reading_the_coverage_is_read_again(client, read):
    add(client, camera_event(epoch=EPOCH, seq=0), 5)
    read()
    assert covered(read)[-1] == ("watched", "")
    read.feed._last_read -= 100  # the process was stopped meanwhile
    read()
    assert read.coverage._cameras == {}
    assert covered(read)[-1] == ("watched", "")


def test_events_that_arrive_while_a_stream_is_read_are_added_afterwards(client, read):
    add(client, camera_event(epoch=EPOCH, seq=0), 20)
    late = camera_event(epoch=EPOCH, seq=1, state="down", reason="stall")
    late = late.model_copy(update={"time": datetime.now(UTC)})
    run = read.queries.run

    async def slow(query):
        await run(query)
        read.coverage.add("gate", late)

    read.queries.run = slow
    assert covered(read)[-1] == ("down", "stall")


def test_what_takes_too_long_is_pending(client, read, monkeypatch):
    monkeypatch.setattr(coverage_module, "READ_SECONDS", -1)
    found, pending = asyncio.run(read.coverage.of(["gate", "yard"], NOW - 60, NOW))
    assert (found, pending) == ({}, ["gate", "yard"])


# Clusters


@pytest.mark.long
def test_a_cluster_is_read(tmp_path):
    server = RedisServer(
        REDIS_BINARIES["valkey"], tmp_path, "--cluster-enabled", "yes",
        "--cluster-port", str(free_port()),
    )  # fmt: skip
    try:
        node = redis.Redis(port=server.port)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
        for camera_id in ("gate", "yard", "door"):  # in different slots
            stream = f"ssd:{{{camera_id}}}:detections"
            add(node, camera_event(camera_id, epoch=EPOCH), 5, stream, camera_id)
        reading = Reading(f"redis+cluster://127.0.0.1:{server.port}")
        reading()
        assert reading.hub.camera_ids == ["door", "gate", "yard"]
        for camera_id in ("gate", "yard", "door"):
            for seq in range(1, 30):
                event = detections_event(camera_id, epoch=EPOCH, seq=seq)
                add(node, event, None, f"ssd:{{{camera_id}}}:detections", camera_id)
        newest = [(d["camera"], d["seq"]) for name, d in reading() if name == "detections"]
        assert sorted(newest) == [("door", 29), ("gate", 29), ("yard", 29)]
        assert covered(reading)[-1] == ("watched", "")
    finally:
        server.stop()
