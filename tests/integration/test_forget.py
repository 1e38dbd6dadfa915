"""`ssd-worker forget` on real servers."""

import signal

import pytest
import redis

from tests.conftest import redis_only_in_long, wait_until
from tests.events import camera_event, detections_event
from tests.streams import frames_of
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.redis_stream import RedisStreamSink


@pytest.fixture
def forget(cli):
    def forget(server, *arguments):
        return cli("forget", *arguments, "--redis-url", server.url)

    return forget


def fill(server, *names):
    """A live camera and a replay of each name."""
    live, replay = RedisStreamSink(server.url), RedisStreamSink(server.url)
    for name in names:
        live.publish([camera_event(name), detections_event(name, seq=1)])
        replay.claim_replay(name, ReplayClaim("r", "m", "s"), restart=False)
        replay.publish([detections_event(name, epoch=0, mode="replay")])
        server.client.set(f"ssd:{{{name}}}:snapshot", b"JPEG")
    live.close()
    replay.close()


def keys(server):
    return sorted(key.decode() for key in server.client.scan_iter())


@redis_only_in_long
def test_everything_of_an_id_is_deleted_and_named_and_nothing_else(redis_server, forget):
    fill(redis_server, "gate", "yard")
    before = keys(redis_server)
    done = forget(redis_server, "gate")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        "deleted ssd:{gate}:detections: 2 events",
        "deleted ssd:{gate}:producer",
        "deleted ssd:{gate}:replay: 1 events",
        "deleted ssd:{gate}:replay:producer",
        "deleted ssd:{gate}:snapshot",
        "deleted ssd:{gate}:status",
    ]
    assert keys(redis_server) == [key for key in before if "{gate}" not in key]
    assert redis_server.client.smembers("ssd:cameras") == {b"yard"}
    assert redis_server.client.smembers("ssd:replays") == {b"yard"}


def test_a_replay_can_be_forgotten_without_its_camera(valkey_server, forget):
    fill(valkey_server, "gate")
    done = forget(valkey_server, "gate", "--replay")
    assert (
        done.stdout == "deleted ssd:{gate}:replay: 1 events\ndeleted ssd:{gate}:replay:producer\n"
    )
    assert valkey_server.client.xlen("ssd:{gate}:detections") == 2
    assert valkey_server.client.smembers("ssd:cameras") == {b"gate"}
    assert not valkey_server.client.exists("ssd:replays")


def test_an_id_that_redis_does_not_have_is_reported_and_the_others_are_forgotten(
    valkey_server, forget
):
    fill(valkey_server, "gate")
    done = forget(valkey_server, "gat", "gate")
    assert done.returncode == 1
    assert "gat: Redis at 127.0.0.1:" in done.stderr
    assert "holds no camera or replay of this name" in done.stderr
    assert keys(valkey_server) == []
    assert forget(valkey_server, "no/id").returncode == 2


def test_keys_of_wrong_types_are_deleted_too(valkey_server, forget):
    valkey_server.client.set("ssd:{gate}:producer", "not a hash")
    valkey_server.client.sadd("ssd:{gate}:detections", "not a stream")
    done = forget(valkey_server, "gate")
    assert done.returncode == 0, done.stderr
    assert keys(valkey_server) == []


def test_a_camera_that_a_worker_is_publishing_to_is_refused_unless_forced(
    valkey_server, forget, cli, short_clip
):
    worker = cli.start("run", f"gate={short_clip}", "--loop", "--redis-url", valkey_server.url)
    wait_until(lambda: frames_of(valkey_server.client, "gate"), 40, "a frame")
    fill(valkey_server, "yard")
    refused = forget(valkey_server, "gate", "yard")
    assert refused.returncode == 1
    assert "camera gate: worker " in refused.stderr
    assert "is publishing to it" in refused.stderr
    assert "stop that one first" in refused.stderr
    assert "{gate}" not in refused.stdout
    assert "{yard}" in refused.stdout
    last = frames_of(valkey_server.client, "gate")[-1]["id"]
    forced = forget(valkey_server, "gate", "--force")
    assert forced.returncode == 0, forced.stderr
    assert "deleted ssd:{gate}:detections" in forced.stdout
    wait_until(lambda: frames_of(valkey_server.client, "gate"), 20, "what follows")
    assert last not in {event["id"] for event in frames_of(valkey_server.client, "gate")}
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    assert forget(valkey_server, "gate").returncode == 0


@pytest.mark.long
def test_a_full_embedded_server_deletes_nothing_and_says_what_to_do(cli, short_clip):
    embedded = "--redis-url", "embedded"
    assert cli("replay", f"old={short_clip}", *embedded).returncode == 0
    client = redis.Redis(port=cli.port)
    while client.info("memory")["used_memory"] < 12_000_000:
        client.xadd("ssd:{old}:replay", {"event": "x" * 100_000})
    cli.env["SSD_WORKER_EMBEDDED_MAX_BYTES"] = "10000000"
    held = client.xlen("ssd:{old}:replay")
    refused = cli("replay", short_clip, *embedded)
    assert refused.returncode == 1
    assert "takes no writes now" in refused.stderr
    assert "`ssd-worker forget ID`, or raise its maxmemory (--embedded-max-bytes)" in refused.stderr
    assert "the embedded Valkey has used 0.01 GiB of its 0.01 GiB" in refused.stderr
    assert client.xlen("ssd:{old}:replay") == held
    assert f"deleted ssd:{{old}}:replay: {held} events" in cli("forget", "old").stdout
    assert cli("replay", short_clip, *embedded).returncode == 0
    assert client.xlen("ssd:{short}:replay") == 41
