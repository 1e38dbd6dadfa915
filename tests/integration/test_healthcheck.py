"""The image's HEALTHCHECK against real servers: what a publisher, a worker or nobody does there."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import redis
import trustme

from tests.conftest import (
    REDIS_BINARIES,
    ROOT,
    WALKWAY,
    RedisServer,
    free_port,
    redis_only_in_long,
    wait_until,
)
from tests.events import camera_event
from tests.spools import spool_in
from worker.publishing.live import LivePublisher
from worker.servers.embedded import data_directory, ensure_running
from worker.sinks.redis_stream import RedisStreamSink

HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"
TIME_ENOUGH = "30"
"""Seconds in which a busy machine publishes an event."""
NO_TIME = "2"


@pytest.fixture
def check(tmp_path):
    """Run the check of the worker whose state directory is in the test's own."""

    def check(url, seconds, **variables):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SSD_WORKER_")}
        env |= {"SSD_WORKER_STATE_DIR": str(tmp_path / "state")} | variables
        found = subprocess.run(
            [sys.executable, HEALTHCHECK, seconds], capture_output=True, text=True, timeout=90,
            env=env | ({"SSD_WORKER_REDIS_URL": url} if url else {}),
        )  # fmt: skip
        assert found.stderr == ""
        assert found.stdout.count("\n") == 1
        return found.returncode == 0, found.stdout.strip()

    return check


@contextmanager
def publishing(url, state, *, camera="gate", epoch=5, events=None):
    """A worker's publisher and spool with an event every 50 ms, or so many and then silence."""
    sink = RedisStreamSink(url, reply_timeout=2)
    spool = spool_in(state / "spool", [camera], destination=sink.destination)
    publisher = LivePublisher(sink, spool, capacity=1000)
    silent = threading.Event()

    def submit():
        seq = 0
        while (events is None or seq < events) and not silent.wait(0.05):
            publisher.submit([camera_event(camera, epoch=epoch, seq=seq)])
            seq += 1

    publisher.start()
    source = threading.Thread(target=submit)
    source.start()
    try:
        if events is not None:
            source.join()
            wait_until(lambda: not publisher.waiting, what="the events to be published")
        yield publisher
    finally:
        silent.set()
        source.join()
        publisher.close(2)
        sink.close()
        spool.close()


@redis_only_in_long
def test_a_worker_that_publishes_is_healthy(redis_server, check, tmp_path):
    with publishing(redis_server.url, tmp_path / "state"):
        assert check(redis_server.url, TIME_ENOUGH) == (True, "healthy: published events of gate")


@redis_only_in_long
def test_a_worker_that_has_stopped_publishing_is_not(redis_server, check, tmp_path):
    with publishing(redis_server.url, tmp_path / "state", events=3):
        found = check(redis_server.url, NO_TIME)
    assert found == (False, "unhealthy: no new event of gate in 2 s")


@pytest.mark.long
def test_the_same_camera_at_another_worker_does_not_count(valkey_server, check, tmp_path):
    with publishing(valkey_server.url, tmp_path / "state", events=3):
        pass
    with publishing(valkey_server.url, tmp_path / "other", epoch=6):
        stream = "ssd:{gate}:detections"
        wait_until(lambda: valkey_server.client.xlen(stream) > 6, what="the other worker")
        healthy, line = check(valkey_server.url, NO_TIME)
    assert (healthy, line) == (False, "unhealthy: no new event of any camera in 2 s")


def test_a_worker_that_spools_while_redis_is_away_is_healthy(valkey_server, check, tmp_path):
    with publishing(valkey_server.url, tmp_path / "state") as publisher:
        wait_until(lambda: valkey_server.client.exists("ssd:{gate}:producer"), what="an event")
        valkey_server.stop()
        wait_until(lambda: publisher.waiting > 3, what="events in the spool")
        healthy, line = check(valkey_server.url, TIME_ENOUGH)
    assert healthy
    assert re.fullmatch(r"healthy: events are spooled \(no Redis answers at 127.+\)", line)


def test_a_worker_that_has_stopped_while_redis_is_away_is_not(valkey_server, check, tmp_path):
    with publishing(valkey_server.url, tmp_path / "state", events=3):
        pass
    valkey_server.stop()
    healthy, line = check(valkey_server.url, NO_TIME)
    assert not healthy
    assert re.fullmatch(r"unhealthy: no new event .+ \(no Redis answers at 127.+\)", line)


def test_before_the_first_event_the_spool_is_named(valkey_server, check, tmp_path):
    healthy, line = check(valkey_server.url, NO_TIME)
    assert not healthy
    assert f"{tmp_path / 'state' / 'spool'}/spool.sqlite3" in line
    assert "SSD_WORKER_STATE_DIR" in line


def test_a_worker_whose_address_the_check_does_not_know_is_not_vouched_for(
    valkey_server, check, tmp_path
):
    with publishing(valkey_server.url, tmp_path / "state"):
        wait_until(lambda: valkey_server.client.exists("ssd:{gate}:producer"), what="an event")
        healthy, line = check(f"redis://127.0.0.1:{free_port()}", NO_TIME)
    assert not healthy
    assert "give them as SSD_WORKER_* variables" in line


def test_a_camera_with_a_damaged_key_does_not_hide_another(valkey_server, check, tmp_path):
    with publishing(valkey_server.url, tmp_path / "state", camera="gate", events=1):
        pass
    valkey_server.client.delete("ssd:{gate}:producer")
    valkey_server.client.set("ssd:{gate}:producer", "text")
    with publishing(valkey_server.url, tmp_path / "state", camera="yard"):
        found = check(valkey_server.url, TIME_ENOUGH)
    assert found == (True, "healthy: published events of yard")


@pytest.mark.long
def test_a_user_with_the_rights_of_a_publisher_is_enough(check, tmp_path):
    rules = (ROOT / "deploy" / "redis-users.acl").read_text().replace(">PASSWORD", ">p@ss:w/rd#?")
    (tmp_path / "users.acl").write_text(f"{rules}user admin on nopass ~* &* +@all\n")
    server = RedisServer(
        REDIS_BINARIES["valkey"], tmp_path, "--aclfile", str(tmp_path / "users.acl")
    )
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "REDIS_PASSWORD").write_text("p@ss:w/rd#?\n")
    url = f"redis://publisher:{{}}@127.0.0.1:{server.port}"
    secrets = {"SSD_WORKER_SECRETS": str(tmp_path / "secrets")}
    try:
        with publishing(url.format("p%40ss%3Aw%2Frd%23%3F"), tmp_path / "state"):
            in_braces = url.format("{REDIS_PASSWORD}")
            assert check(in_braces, TIME_ENOUGH, **secrets)[0]
            healthy, line = check(url.format("wrong-password"), NO_TIME)
        assert not healthy
        assert "refused the login" in line
        assert "wrong-password" not in line
    finally:
        server.stop()


@pytest.mark.long
def test_a_cluster_is_asked_as_the_worker_asks_it(check, tmp_path):
    server = RedisServer(
        REDIS_BINARIES["valkey"], tmp_path, "--cluster-enabled", "yes",
        "--cluster-port", str(free_port()),
    )  # fmt: skip
    try:
        node = redis.Redis(port=server.port)
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_until(lambda: b"cluster_state:ok" in node.execute_command("CLUSTER", "INFO"))
        url = f"redis+cluster://127.0.0.1:{server.port}"
        with publishing(url, tmp_path / "state"):
            assert check(url, TIME_ENOUGH) == (True, "healthy: published events of gate")
    finally:
        server.stop()


@pytest.mark.long
@pytest.mark.skipif(not shutil.which("redis-server"), reason="Valkey's wheel has no TLS")
def test_a_server_with_tls_is_asked_over_tls(check, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    port = free_port()
    server = RedisServer(
        REDIS_BINARIES["redis"], tmp_path, "--tls-port", str(port), "--tls-auth-clients", "no",
        "--tls-cert-file", str(tmp_path / "cert.pem"), "--tls-key-file", str(tmp_path / "key.pem"),
        "--tls-ca-cert-file", str(tmp_path / "ca.pem"),
    )  # fmt: skip
    url = f"rediss://localhost:{port}"
    try:
        with publishing(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}", tmp_path / "state"):
            assert check(f"{url}?ssl_ca_certs={tmp_path / 'ca.pem'}", TIME_ENOUGH)[0]
            assert "not trusted" in check(url, NO_TIME)[1]
    finally:
        server.stop()


class Embedded:
    """The embedded server of a state directory."""

    def __init__(self, state):
        self._state = state
        self._port = free_port()
        self.variables = {"SSD_WORKER_EMBEDDED_PORT": str(self._port)}

    def start(self):
        return ensure_running(self._state, self._port)

    def kill(self):
        pid_file = data_directory(self._state, self._port) / "valkey.pid"
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        wait_until(lambda: not self.listens(), what="the server's end")

    def listens(self):
        try:
            return redis.Redis(port=self._port, retry=None, socket_timeout=1).ping()
        except redis.exceptions.ConnectionError:
            return False


@pytest.fixture
def embedded(tmp_path):
    server = Embedded(tmp_path / "state")
    yield server
    if server.listens():
        server.kill()


@pytest.mark.parametrize("url", ["embedded", None])
def test_the_embedded_server_is_asked(check, embedded, tmp_path, url):
    with publishing(embedded.start(), tmp_path / "state"):
        found = check(url, TIME_ENOUGH, **embedded.variables)
    assert found == (True, "healthy: published events of gate")


def test_the_embedded_server_is_not_started(check, embedded, tmp_path):
    with publishing(embedded.start(), tmp_path / "state", events=1):
        pass
    embedded.kill()
    assert "no Redis answers" in check("embedded", NO_TIME, **embedded.variables)[1]
    assert not embedded.listens()


@pytest.mark.long
def test_a_real_worker_is_healthy_until_it_hangs(valkey_server, check, cli):
    url = valkey_server.url
    cli.env["SSD_WORKER_REDIS_URL"] = url
    worker = cli.start("run", f"gate={WALKWAY}", "--loop", "--device", "cpu")
    wait_until(lambda: valkey_server.client.exists("ssd:{gate}:producer"), 60, "the first event")
    assert check(url, TIME_ENOUGH)[0]
    worker.send_signal(signal.SIGSTOP)
    assert not check(url, NO_TIME)[0]
    worker.send_signal(signal.SIGCONT)
    assert check(url, TIME_ENOUGH)[0]


@pytest.fixture(scope="module")
def healthcheck():
    spec = spec_from_file_location("healthcheck", HEALTHCHECK)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("command_line", "other"),
    [
        (b"ssd-worker run gate=rtsp://camera.local\0\0\0", None),
        (b"/bin/sh\0/opt/deploy/entrypoint.sh\0run\0replay=rtsp://camera\0", None),
        (b"/sbin/docker-init\0--\0ssd-worker\0replay\0/videos/a.mp4\0", "replay"),
        (b"ssd-worker subscribe gate\0", "subscribe"),
        (b"/sbin/init\0splash\0", None),
    ],
)
def test_what_ends_by_itself_is_not_checked(healthcheck, command_line, other):
    assert healthcheck.other_command(command_line) == other


def test_a_replay_is_told_by_its_title(healthcheck, exec_cli):
    process = exec_cli.start("replay", WALKWAY, "--output", "a.jsonl", "--device", "cpu")
    title = Path(f"/proc/{process.pid}/cmdline")
    wait_until(lambda: title.read_bytes().startswith(b"ssd-worker "), what="the process title")
    assert healthcheck.other_command(title.read_bytes()) == "replay"


def test_it_loads_no_detector_and_no_decoder():
    modules = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", modules, HEALTHCHECK], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "redis" in found
    assert not {"torch", "torchvision", "av", "numpy", "pyarrow", "ssd_core"} & set(found)
