import logging
import os
import signal
import threading

import pytest
import redis

from tests.conftest import free_port, wait_until
from worker.errors import WorkerError
from worker.servers.embedded import data_directory, ensure_running, is_ours, watching_memory


@pytest.fixture
def port(tmp_path):
    port = free_port()
    yield port
    pid_file = data_directory(tmp_path, port) / "valkey.pid"
    if pid_file.exists():
        os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_it_listens_on_loopback_only_and_keeps_its_data(tmp_path, port):
    url = ensure_running(tmp_path, port)
    assert url == f"redis://127.0.0.1:{port}"
    client = redis.Redis(port=port)
    config = client.config_get("*")
    assert config["bind"] == "127.0.0.1"
    assert config["appendonly"] == "yes"
    assert config["dir"] == str(data_directory(tmp_path, port))


def test_many_starters_at_once_start_one_server(tmp_path, port):
    urls = []
    starters = [
        threading.Thread(target=lambda: urls.append(ensure_running(tmp_path, port)))
        for _ in range(6)
    ]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    assert urls == [f"redis://127.0.0.1:{port}"] * 6
    assert redis.Redis(port=port).info("clients")["connected_clients"] >= 1


def test_a_server_that_was_killed_is_started_again_with_its_data(tmp_path, port):
    ensure_running(tmp_path, port)
    client = redis.Redis(port=port)
    client.set("kept", "yes")
    client.execute_command("WAITAOF", 1, 0, 2000)
    pid = int((data_directory(tmp_path, port) / "valkey.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_ours(data_directory(tmp_path, port), port))
    ensure_running(tmp_path, port)
    assert redis.Redis(port=port).get("kept") == b"yes"


def test_another_server_on_the_port_is_refused(tmp_path, port, valkey_server):
    with pytest.raises(WorkerError, match=f"port {valkey_server.port} is taken"):
        ensure_running(tmp_path, valkey_server.port)


def test_its_memory_is_bounded_and_nothing_is_evicted(tmp_path, port):
    ensure_running(tmp_path, port)
    client = redis.Redis(port=port)
    assert client.config_get("maxmemory*")["maxmemory"] == str(2 << 30)
    assert client.config_get("maxmemory*")["maxmemory-policy"] == "noeviction"


def test_a_bound_asked_for_applies_to_a_server_that_runs_and_stays(tmp_path, port):
    ensure_running(tmp_path, port, 50_000_000)
    client = redis.Redis(port=port)
    ensure_running(tmp_path, port)
    assert client.config_get("maxmemory")["maxmemory"] == "50000000"
    ensure_running(tmp_path, port, 60_000_000)
    assert client.config_get("maxmemory")["maxmemory"] == "60000000"


def test_a_server_that_was_started_without_a_bound_gets_one(tmp_path, port):
    ensure_running(tmp_path, port)
    client = redis.Redis(port=port)
    client.config_set("maxmemory", 0)
    ensure_running(tmp_path, port)
    assert client.config_get("maxmemory")["maxmemory"] == str(2 << 30)


def test_a_server_that_fills_up_warns_at_three_quarters_and_nine_tenths_once_each(
    tmp_path, port, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    ensure_running(tmp_path, port, 40_000_000)
    client = redis.Redis(port=port)

    def fill(share):
        while client.info("memory")["used_memory"] < share * 40_000_000:
            client.rpush("filling", *["x" * 10_000] * 20)

    def warnings():
        return [r for r in caplog.records if "has used" in r.getMessage()]

    with watching_memory(port, 0.01):
        fill(0.5)
        for expected, share in ((1, 0.78), (2, 0.92)):
            fill(share)
            wait_until(lambda n=expected: len(warnings()) == n)
        fill(0.95)
    assert len(warnings()) == 2
    assert "--embedded-max-bytes" in warnings()[0].getMessage()
