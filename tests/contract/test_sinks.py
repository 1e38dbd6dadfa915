"""The guarantees of every sink, checked on all of them."""

import contextlib

import pytest

from tests.conftest import stream_events, wait_until
from tests.consuming import calls_of
from tests.events import camera_event, detections_event
from tests.garbage import alive, no_search_for_cycles
from worker.errors import CameraRefused, Fenced, SinkError, SinkUnavailable, UsageError
from worker.events import DetectionsEvent, parse_event
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.jsonl import JsonlSink
from worker.sinks.memory import MemorySink
from worker.sinks.redis_stream import RedisStreamSink

CLAIM = ReplayClaim(recording="r", model="m", settings="s")


class Memory:
    def __init__(self, request):
        self.sink = MemorySink()

    def reopen(self):
        pass

    def stored(self):
        return [event.to_json() for event in self.sink.events]


class Jsonl:
    def __init__(self, request):
        self._output = request.getfixturevalue("tmp_path") / "tags.jsonl"
        self.sink = JsonlSink(self._output, CLAIM.digest, batch=1)

    def reopen(self):
        self.sink.close()
        self.sink = JsonlSink(self._output, CLAIM.digest, batch=1)

    def stored(self):
        return [event.to_json() for event in self.sink.read()]


class Redis:
    def __init__(self, request):
        self.server = request.getfixturevalue("valkey_server")
        self.reopen()

    def reopen(self):
        self.sink = RedisStreamSink(self.server.url)
        self.sink.claim_replay("clip", CLAIM, restart=False)

    def stored(self):
        return stream_events(self.server.client, "ssd:{clip}:replay")


@pytest.fixture(params=[Memory, Jsonl, Redis])
def place(request):
    place = request.param(request)
    yield place
    place.sink.close()


def replay_events(first, last):
    return [
        detections_event("clip", epoch=0, seq=seq, mode="replay") for seq in range(first, last + 1)
    ]


def status_of(server, camera_id):
    state, reason = server.client.hmget(f"ssd:{{{camera_id}}}:status", "state", "reason")
    return state.decode(), reason.decode()


def jsons(events):
    return [event.to_json() for event in events]


def test_events_are_stored_in_order(place):
    place.sink.publish(replay_events(0, 3))
    place.sink.publish(replay_events(4, 7))
    assert place.stored() == jsons(replay_events(0, 7))


def test_events_sent_again_are_not_stored_again(place):
    place.sink.publish(replay_events(0, 3))
    place.sink.publish(replay_events(0, 3))
    place.sink.publish(replay_events(2, 5))
    assert place.stored() == jsons(replay_events(0, 5))


def test_a_reopened_sink_resumes_where_it_stopped(place):
    place.sink.publish(replay_events(0, 3))
    place.reopen()
    place.sink.publish(replay_events(0, 5))
    assert place.stored() == jsons(replay_events(0, 5))


def test_both_types_of_events_are_stored(place):
    ended = camera_event("clip", epoch=0, seq=1, mode="replay", state="ended")
    place.sink.publish([*replay_events(0, 0), ended])
    assert [parse_event(text).type for text in place.stored()] == [
        "ssd.detections.v1",
        "ssd.camera.v1",
    ]


def test_nothing_is_stored_for_no_events(place):
    place.sink.publish([])
    assert place.stored() == []


def test_a_later_epoch_restarts_the_numbering_and_an_earlier_one_is_fenced_off(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.publish([detections_event(epoch=5, seq=9)])
    sink.publish([detections_event(epoch=6, seq=0)])
    with pytest.raises(Fenced, match="gate"):
        sink.publish([detections_event(epoch=5, seq=10)])
    stored = [parse_event(t) for t in stream_events(redis_server.client, "ssd:{gate}:detections")]
    assert [(e.data.epoch, e.data.seq) for e in stored] == [(5, 9), (6, 0)]
    assert sink.last_epoch("gate") == 6


def test_a_retry_of_events_of_two_epochs_appends_nothing_and_fences_nobody_off(redis_server):
    sink = RedisStreamSink(redis_server.url)
    events = [detections_event(epoch=5, seq=9), detections_event(epoch=6, seq=0)]
    sink.publish(events)
    sink.publish([*events, detections_event(epoch=6, seq=1)])
    sink.publish([events[0], detections_event(epoch=7, seq=0)])
    stored = [parse_event(t) for t in stream_events(redis_server.client, "ssd:{gate}:detections")]
    assert [(e.data.epoch, e.data.seq) for e in stored] == [(5, 9), (6, 0), (6, 1), (7, 0)]
    with pytest.raises(Fenced) as fenced:
        sink.publish(events)
    assert fenced.value.epoch == 6


def test_an_entry_has_id_type_and_event(redis_server):
    sink = RedisStreamSink(redis_server.url, prefix="site1")
    event = detections_event()
    sink.publish([event])
    ((_, fields),) = redis_server.client.xrange("site1:{gate}:detections")
    assert fields == {
        b"id": event.id.encode(),
        b"type": b"ssd.detections.v1",
        b"event": event.to_json().encode(),
    }
    assert redis_server.client.smembers("site1:cameras") == {b"gate"}
    assert {key.split(b":")[0] for key in redis_server.client.scan_iter()} == {b"site1"}


@pytest.mark.parametrize(("stream_maxlen", "kept"), [(100, range(100, 300)), (0, [1000])])
def test_a_stream_is_trimmed_to_about_the_length_asked_for(redis_server, stream_maxlen, kept):
    sink = RedisStreamSink(redis_server.url, stream_maxlen=stream_maxlen)
    for first in range(0, 1000, 50):
        sink.publish([detections_event(seq=seq) for seq in range(first, first + 50)])
    stored = stream_events(redis_server.client, "ssd:{gate}:detections")
    assert len(stored) in kept  # whole nodes of 100 entries go
    assert parse_event(stored[-1]).data.seq == 999


def test_a_batch_of_many_cameras_is_published_to_each(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.publish([detections_event(c, seq=s) for s in range(3) for c in ("a", "b", "c")])
    for camera in "abc":
        assert redis_server.client.xlen(f"ssd:{{{camera}}}:detections") == 3


def test_a_server_that_lost_the_scripts_gets_a_batch_of_many_cameras_once(redis_server):
    sink = RedisStreamSink(redis_server.url)
    for seq in range(2):
        sink.publish([detections_event(camera, seq=seq) for camera in "abc"])
        redis_server.client.script_flush()
    for camera in "abc":
        assert redis_server.client.xlen(f"ssd:{{{camera}}}:detections") == 2
    sink.close()


def test_a_refused_camera_does_not_hold_back_the_others_of_its_batch(redis_server):
    sink = RedisStreamSink(redis_server.url)
    redis_server.client.set("ssd:{b}:detections", "not a stream")
    with pytest.raises(CameraRefused, match="camera b: "):
        sink.publish([detections_event(camera) for camera in "abc"])
    for camera in "ac":
        assert redis_server.client.xlen(f"ssd:{{{camera}}}:detections") == 1
    sink.close()


def test_a_replay_whose_stream_was_claimed_by_another_is_fenced_off(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    other = RedisStreamSink(redis_server.url)
    other.claim_replay("clip", ReplayClaim("other", "m", "s"), restart=True)
    with pytest.raises(Fenced):
        sink.publish(replay_events(0, 0))
    assert redis_server.client.xlen("ssd:{clip}:replay") == 0


def test_a_restart_keeps_the_consumer_groups_of_the_stream(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    sink.publish(replay_events(0, 3))
    redis_server.client.xgroup_create("ssd:{clip}:replay", "taggers", "0")
    checkpoint = sink.claim_replay("clip", CLAIM, restart=True)
    assert (checkpoint.events, checkpoint.finished) == (0, False)
    assert redis_server.client.xlen("ssd:{clip}:replay") == 0
    assert len(redis_server.client.xinfo_groups("ssd:{clip}:replay")) == 1


def test_the_checkpoint_of_a_claim_is_where_its_events_end(redis_server):
    sink = RedisStreamSink(redis_server.url)
    assert sink.claim_replay("clip", CLAIM, restart=False).events == 0
    sink.publish(replay_events(0, 6))
    checkpoint = sink.claim_replay("clip", CLAIM, restart=False)
    assert (checkpoint.events, checkpoint.finished) == (7, False)


def test_a_journal_is_cut_back_to_its_last_whole_batch(tmp_path):
    output = tmp_path / "tags.jsonl"
    sink = JsonlSink(output, "claim", batch=4)
    sink.publish(replay_events(0, 5))
    sink.close()
    with sink.path.open("a") as file:
        file.write('{"torn')
    again = JsonlSink(output, "claim", batch=4)
    assert again.checkpoint("clip").events == 4
    assert [e.data.seq for e in again.read()] == [0, 1, 2, 3]
    again.publish(replay_events(4, 7))
    again.finish(keep=True)
    assert [parse_event(t).data.seq for t in output.read_text().splitlines()] == list(range(8))
    assert list(tmp_path.iterdir()) == [output]


def test_a_journal_whose_last_line_lacks_its_newline_is_cut_back_before_that_line(tmp_path):
    sink = JsonlSink(tmp_path / "tags.jsonl", "claim", batch=4)
    sink.publish(replay_events(0, 7))
    sink.close()
    with sink.path.open("r+b") as file:
        file.truncate(sink.path.stat().st_size - 1)
    again = JsonlSink(tmp_path / "tags.jsonl", "claim", batch=4)
    assert again.checkpoint("clip").events == 4
    again.publish(replay_events(4, 7))
    assert [event.data.seq for event in again.read()] == list(range(8))
    again.close()


def test_an_empty_journal_is_deleted(tmp_path):
    JsonlSink(tmp_path / "tags.jsonl", "claim", batch=4).close()
    assert list(tmp_path.iterdir()) == []


def test_a_stream_that_lost_confirmed_events_accepts_no_later_ones(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    sink.publish(replay_events(0, 7))
    redis_server.client.hset("ssd:{clip}:replay:producer", "seq", 3)  # as an old backup has it
    redis_server.client.xtrim("ssd:{clip}:replay", maxlen=0, approximate=False)
    with pytest.raises(SinkError, match=r"lost events that it had confirmed: run the same"):
        sink.publish(replay_events(8, 11))
    assert redis_server.client.xlen("ssd:{clip}:replay") == 0


def test_a_status_of_a_wrong_type_fails_before_anything_is_written(redis_server):
    sink = RedisStreamSink(redis_server.url)
    redis_server.client.set("ssd:{gate}:status", "text")
    for _ in range(2):
        with pytest.raises(SinkError, match="WRONGTYPE"):
            sink.publish([detections_event("gate", seq=0), camera_event("gate", seq=1)])
    assert redis_server.client.xlen("ssd:{gate}:detections") == 0


def test_the_status_says_that_a_camera_is_late_and_no_longer_is(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.publish([camera_event("gate", seq=0, state="up", reason="connected")])
    sink.publish([camera_event("gate", seq=1, state="degraded", reason="late")])
    assert status_of(redis_server, "gate") == ("degraded", "late")
    sink.publish([camera_event("gate", seq=2, state="up", reason="caught_up")])
    assert status_of(redis_server, "gate") == ("up", "caught_up")


def test_lost_events_leave_the_status_of_their_camera_as_it_was(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.publish([camera_event("gate", seq=0, state="up", reason="connected")])
    sink.publish([camera_event("gate", seq=1, state="degraded", reason="events_lost")])
    assert status_of(redis_server, "gate") == ("up", "connected")


def test_a_stream_of_a_wrong_type_leaves_no_state_of_its_camera(redis_server):
    sink = RedisStreamSink(redis_server.url)
    redis_server.client.set("ssd:{gate}:detections", "text")
    with pytest.raises(SinkError, match="WRONGTYPE"):
        sink.publish([camera_event("gate", seq=0)])
    assert not redis_server.client.exists("ssd:{gate}:status")


@pytest.mark.parametrize("seq", ["text", None])
def test_a_damaged_checkpoint_of_a_replay_is_refused_in_one_line(redis_server, seq):
    sink = RedisStreamSink(redis_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    producer = "ssd:{clip}:replay:producer"
    redis_server.client.hdel(producer, "seq")
    if seq is not None:
        redis_server.client.hset(producer, "seq", seq)
    with pytest.raises(SinkError, match="clip is damaged: use --restart"):
        sink.claim_replay("clip", CLAIM, restart=False)
    assert sink.claim_replay("clip", CLAIM, restart=True).events == 0


@pytest.mark.parametrize("field", ["epoch", "seq"])
def test_a_damaged_producer_hash_refuses_its_camera_alone(redis_server, field):
    sink = RedisStreamSink(redis_server.url)
    sink.publish([detections_event("gate", seq=0)])
    redis_server.client.hset("ssd:{gate}:producer", field, "text")
    with pytest.raises(CameraRefused, match="holds no valid numbers: delete it"):
        sink.publish([detections_event("gate", seq=1)])
    sink.publish([detections_event("yard", seq=0)])


def test_two_replays_cannot_write_one_output(tmp_path):
    first = JsonlSink(tmp_path / "tags.jsonl", "claim", batch=4)
    with pytest.raises(UsageError, match="another replay"):
        JsonlSink(tmp_path / "tags.jsonl", "claim", batch=4)
    first.close()
    JsonlSink(tmp_path / "tags.jsonl", "claim", batch=4).close()


@pytest.mark.parametrize("claim", ["claim", "other"])
def test_a_restarted_replay_does_not_touch_what_another_is_writing(tmp_path, claim):
    first = JsonlSink(tmp_path / "tags.jsonl", "claim", batch=1)
    first.publish(replay_events(0, 3))
    with pytest.raises(UsageError, match="another replay"):
        JsonlSink(tmp_path / "tags.jsonl", claim, batch=1, restart=True)
    first.finish(keep=True)
    assert len((tmp_path / "tags.jsonl").read_text().splitlines()) == 4


def test_a_restarted_replay_deletes_the_journals_that_others_left(tmp_path):
    for claim in ("claim", "other"):
        left = JsonlSink(tmp_path / "tags.jsonl", claim, batch=1, restart=True)
        left.publish(replay_events(0, 3))
        left.close()
    assert JsonlSink(tmp_path / "tags.jsonl", "other", batch=1).checkpoint("clip").events == 4
    anew = JsonlSink(tmp_path / "tags.jsonl", "other", batch=1, restart=True)
    assert anew.checkpoint("clip").events == 0
    anew.close()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_was_just_finished_is_not_mistaken_for_a_new_one(tmp_path, monkeypatch):
    first = JsonlSink(tmp_path / "tags.jsonl", "claim", batch=1)
    first.publish(replay_events(0, 3))

    def flock(file, operation):  # the first finishes only after the second has opened the file
        first.finish(keep=True)

    monkeypatch.setattr("worker.sinks.jsonl.fcntl.flock", flock)
    with pytest.raises(UsageError, match="another replay"):
        JsonlSink(tmp_path / "tags.jsonl", "claim", batch=1, restart=True)
    assert len((tmp_path / "tags.jsonl").read_text().splitlines()) == 4


def test_a_finished_replay_is_recognised_even_if_its_stream_was_trimmed(redis_server):
    sink = RedisStreamSink(redis_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    ended = camera_event("clip", epoch=0, seq=2, mode="replay", state="ended")
    sink.publish([*replay_events(0, 1), ended])
    redis_server.client.xtrim("ssd:{clip}:replay", maxlen=0, approximate=False)
    assert sink.claim_replay("clip", CLAIM, restart=False).finished


def test_a_closed_sink_holds_no_connection_and_connects_again_if_it_is_used(redis_server):
    sink = RedisStreamSink(redis_server.url)

    def connections():
        return len(redis_server.client.client_list())

    alone = connections()
    for seq in (0, 1):
        sink.publish([detections_event(seq=seq)])
        assert connections() > alone
        sink.close()
        wait_until(lambda: connections() == alone, what="the end of the connection")
    sink.close()
    assert redis_server.client.xlen("ssd:{gate}:detections") == 2


def test_cameras_are_announced_again_to_a_server_that_lost_them_at_the_next_connection(
    redis_server,
):
    sink = RedisStreamSink(redis_server.url)
    sink.publish([detections_event(seq=0)])
    redis_server.client.delete("ssd:cameras")
    sink.publish([detections_event(seq=1)])
    assert not redis_server.client.exists("ssd:cameras")  # once in 30 s is enough
    sink.close()
    sink.publish([detections_event(seq=2)])
    assert redis_server.client.smembers("ssd:cameras") == {b"gate"}
    sink.close()


@pytest.mark.parametrize(
    ("claim", "differs"),
    [
        (ReplayClaim("other", "m", "s"), "holds another recording"),
        (ReplayClaim("r", "other", "s"), "holds this recording, analysed with another model"),
        (ReplayClaim("r", "m", "other"), "holds this recording, analysed with other settings"),
    ],
)
def test_a_replay_stream_of_another_claim_is_refused_and_kept(valkey_server, claim, differs):
    sink = RedisStreamSink(valkey_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    sink.publish(replay_events(0, 0))
    with pytest.raises(UsageError, match=differs):
        RedisStreamSink(valkey_server.url).claim_replay("clip", claim, restart=False)
    sink.publish(replay_events(0, 1))
    assert valkey_server.client.xlen("ssd:{clip}:replay") == 2
    sink.close()


def test_a_claim_that_differs_in_none_of_its_parts_is_damaged(valkey_server):
    sink = RedisStreamSink(valkey_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    valkey_server.client.hset("ssd:{clip}:replay:producer", "claim", "text")
    with pytest.raises(SinkError, match="clip is damaged: use --restart"):
        sink.claim_replay("clip", CLAIM, restart=False)
    sink.close()


def test_a_replay_that_was_deleted_meanwhile_accepts_no_later_events(valkey_server):
    sink = RedisStreamSink(valkey_server.url)
    sink.claim_replay("clip", CLAIM, restart=False)
    sink.publish(replay_events(0, 3))
    valkey_server.client.flushall()
    with pytest.raises(SinkError, match="lost all events of this replay: run the same"):
        sink.publish(replay_events(4, 7))
    assert not valkey_server.client.exists("ssd:{clip}:replay")
    sink.close()


def test_the_latest_epoch_of_a_camera_is_0_before_its_first_and_refused_if_it_is_damaged(
    valkey_server,
):
    sink = RedisStreamSink(valkey_server.url)
    assert sink.last_epoch("gate") == 0
    valkey_server.client.hset("ssd:{gate}:producer", "epoch", "text")
    with pytest.raises(CameraRefused, match=r"ssd:\{gate\}:producer holds no valid numbers"):
        sink.last_epoch("gate")
    sink.close()


def test_a_sink_makes_sure_of_its_server_before_each_connection_and_not_before_each_batch(
    valkey_server,
):
    made_sure = []
    sink = RedisStreamSink(valkey_server.url, before_connecting=lambda: made_sure.append(1))
    assert made_sure == []
    for seq in range(3):
        sink.publish([detections_event(seq=seq)])
    assert made_sure == [1]
    sink.close()
    sink.publish([detections_event(seq=3)])
    assert made_sure == [1, 1]
    sink.close()


def test_a_server_that_cannot_be_started_or_does_not_answer_is_tried_again(valkey_server):
    problems = [UsageError("no room")]

    def start_server():
        if problems:
            raise problems.pop()

    sink = RedisStreamSink(valkey_server.url, before_connecting=start_server)
    with pytest.raises(SinkUnavailable, match="no room"):
        sink.publish([detections_event(seq=0)])
    sink.publish([detections_event(seq=0)])
    valkey_server.stop()
    with pytest.raises(SinkUnavailable, match="no Redis answers"):
        sink.publish([detections_event(seq=1)])
    problems.append(UsageError("no room"))  # it is asked for again, as another may be there now
    with pytest.raises(SinkUnavailable, match="no room"):
        sink.publish([detections_event(seq=1)])


def test_a_write_that_fails_leaves_no_events_in_memory(valkey_server):
    valkey_server.client.config_set("maxmemory", 1)
    sink = RedisStreamSink(valkey_server.url)
    with no_search_for_cycles():
        before = len(alive(DetectionsEvent))
        for full in (True, False):
            with contextlib.suppress(SinkUnavailable):
                sink.publish([detections_event(seq=seq) for seq in range(10)])
                pytest.fail("it was published")
            assert len(alive(DetectionsEvent)) == before, "full" if full else "stopped"
            valkey_server.stop()


def test_a_batch_of_many_cameras_costs_one_script_for_each_and_no_transaction(valkey_server):
    sink = RedisStreamSink(valkey_server.url)
    sink.publish([detections_event(camera, seq=0) for camera in "abc"])
    before = calls_of(valkey_server, "evalsha")
    sink.publish([detections_event(camera, seq=1) for camera in "abc"])
    assert calls_of(valkey_server, "evalsha") == before + 3
    assert calls_of(valkey_server, "multi") == 0
    sink.close()


def test_where_a_sink_writes_is_named_without_secrets():
    sink = RedisStreamSink("redis://user:secret@host:1234/5", prefix="site1")
    assert sink.destination == "host:1234/5 site1"
