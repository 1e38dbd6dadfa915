"""Killed replays and failing servers: the stream is that of an undisturbed run."""

import random
import signal
import subprocess
import time

import pytest

from tests.conftest import ROOT, WALKWAY, stream_events, wait_until
from tests.faults.tcp_proxy import TcpProxy

STREAM = "ssd:{clip}:replay"
KILLS = 50
VTEST = ROOT / "benchmarks" / "data" / "vtest.avi"


@pytest.fixture(scope="module")
def undisturbed():
    """Streams of undisturbed runs, by recording."""
    return {}


def expected(undisturbed, exec_cli, server, path):
    """The stream of an undisturbed run; published under another prefix of the same server."""
    if path not in undisturbed:
        found = exec_cli(
            "replay", f"clip={path}", "--redis-url", server.url, "--key-prefix", "undisturbed"
        )
        assert found.returncode == 0, found.stderr
        undisturbed[path] = stream_events(server.client, "undisturbed:{clip}:replay")
    return undisturbed[path]


@pytest.fixture
def replay(exec_cli):
    """Starts a replay into the server, as a separate process."""
    return lambda url, path=WALKWAY, *options: exec_cli.start(
        "replay", f"clip={path}", "--redis-url", url, *options
    )


def has_entries(server, more_than=0):
    return server.client.exists(STREAM) and server.client.xlen(STREAM) > more_than


def finish(process):
    """Waits for its exit; returns its log."""
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    return said


@pytest.mark.long
def test_a_replay_resumes_after_its_server_was_frozen(undisturbed, exec_cli, valkey_server, replay):
    wanted = expected(undisturbed, exec_cli, valkey_server, WALKWAY)
    process = replay(valkey_server.url)
    wait_until(lambda: has_entries(valkey_server))
    valkey_server.process.send_signal(signal.SIGSTOP)
    time.sleep(12)  # longer than the reply timeout
    valkey_server.process.send_signal(signal.SIGCONT)
    said = finish(process)
    assert "Redis is unavailable, events are queued" in said
    assert stream_events(valkey_server.client, STREAM) == wanted


@pytest.mark.long
def test_a_replay_waits_for_a_server_that_was_killed(undisturbed, exec_cli, redis_server, replay):
    wanted = expected(undisturbed, exec_cli, redis_server, WALKWAY)
    process = replay(redis_server.url)
    wait_until(lambda: has_entries(redis_server))
    redis_server.stop()
    time.sleep(2)
    assert process.poll() is None
    redis_server.start()
    finish(process)
    assert stream_events(redis_server.client, STREAM) == wanted


@pytest.mark.long
def test_a_replay_waits_for_a_server_that_is_full(undisturbed, exec_cli, valkey_server, replay):
    wanted = expected(undisturbed, exec_cli, valkey_server, WALKWAY)
    process = replay(valkey_server.url)
    wait_until(lambda: has_entries(valkey_server))
    valkey_server.client.config_set("maxmemory", "1")
    time.sleep(2)
    assert process.poll() is None
    valkey_server.client.config_set("maxmemory", "0")
    assert "takes no writes now" in finish(process)
    assert stream_events(valkey_server.client, STREAM) == wanted


@pytest.mark.long
def test_lost_replies_change_nothing(undisturbed, exec_cli, valkey_server, replay):
    wanted = expected(undisturbed, exec_cli, valkey_server, WALKWAY)
    with TcpProxy(valkey_server.port) as proxy:
        process = replay(f"redis://127.0.0.1:{proxy.port}")
        for cuts in (1, 2, 3):
            before = valkey_server.client.xlen(STREAM)
            wait_until(lambda before=before: has_entries(valkey_server, before))
            proxy.cut_replies_to = b"EVALSHA"
            wait_until(lambda cuts=cuts: proxy.cuts == cuts or process.poll() is not None)
        finish(process)
    assert proxy.cuts >= 1
    assert stream_events(valkey_server.client, STREAM) == wanted


@pytest.mark.long
def test_a_server_that_lost_its_data_ends_a_replay_and_the_same_command_restarts_it(
    undisturbed, exec_cli, valkey_server, replay
):
    wanted = expected(undisturbed, exec_cli, valkey_server, WALKWAY)
    process = replay(valkey_server.url)
    wait_until(lambda: has_entries(valkey_server))
    valkey_server.client.flushall()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Redis has lost all events of this replay: run the same command" in said
    assert said.count("\n") <= 3
    finish(replay(valkey_server.url))
    assert stream_events(valkey_server.client, STREAM) == wanted


@pytest.mark.long  # tests/integration/test_replay.py has three kills
@pytest.mark.timeout(1500)
def test_a_replay_killed_at_random_moments_ends_with_the_stream_of_an_undisturbed_one(
    undisturbed, exec_cli, valkey_server, replay
):
    wanted = expected(undisturbed, exec_cli, valkey_server, VTEST)
    chance = random.Random(0)
    done = rounds = 0
    process = replay(valkey_server.url, VTEST)
    while True:
        before = valkey_server.client.xlen(STREAM)
        try:
            if chance.random() < 0.7:  # at work; else at any moment of its start
                wait_until(
                    lambda before=before, process=process: (
                        has_entries(valkey_server, before) or process.poll() is not None
                    ),
                    40,
                )
                process.wait(chance.uniform(0, 0.6))
            else:
                process.wait(chance.uniform(0, 4) if done < KILLS else None)
        except subprocess.TimeoutExpired:
            if done < KILLS:
                done += 1
                process.kill()
                process.communicate()
                process = replay(valkey_server.url, VTEST)
                continue
        finish(process)
        rounds += 1
        assert stream_events(valkey_server.client, STREAM) == wanted
        if done >= KILLS:
            break
        valkey_server.client.delete(STREAM, "ssd:{clip}:replay:producer")
        process = replay(valkey_server.url, VTEST)
    assert rounds >= 1
