"""Users and passwords stay inside: real processes, real servers, and every output is checked."""

import base64
import http.server
import json
import logging
import re
import signal
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import quote

import av
import pytest

from tests.conftest import free_port, wait_until
from tests.faults.rtsp_faults import CLOSE, SILENT, Camera, Clip
from worker.cli import main
from worker.errors import SinkError
from worker.secrecy import redaction
from worker.servers.address import connect
from worker.sources.live import LiveSource

USER = "watchman"
PASSWORD = "alpha@bravo:charlie/delta#eagle?fox07%golfer hotel"
ENCODED = quote(PASSWORD, safe="")
RAW_BUT_READABLE = "alpha@bravo:charlie%golfer hotel"
"""Without / # ?, which end the authority part of a URL, it works unencoded."""
LOGIN = f"{USER}:{ENCODED}"
FRAGMENTS = (USER, *re.split(r"[@:/#?% ]", PASSWORD))


def assert_nothing_shows(where, text):
    """No part of the user or the password, in any writing, is in the text."""
    text = text.decode(errors="replace") if isinstance(text, bytes) else text
    for fragment in FRAGMENTS:
        assert len(fragment) > 4
        assert fragment not in text, f"{fragment} in {where}: {text[:2000]}"
    assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in text, where


def everything_in(client):
    """Every key and every value of a server, its clients and what it logged."""
    dumps = [client.execute_command("CLIENT", "LIST"), str(client.slowlog_get(128)).encode()]
    for key in client.scan_iter():
        dumps.append(key)
        kind = client.type(key)
        read = {
            b"stream": lambda k: client.xrange(k),
            b"hash": lambda k: client.hgetall(k),
            b"set": lambda k: client.smembers(k),
            b"string": lambda k: client.get(k),
        }[kind]
        dumps.append(repr(read(key)).encode())
    return b"\n".join(dumps)


def files_under(directory):
    """Names and contents of all files that a worker wrote."""
    for path in Path(directory).rglob("*"):
        yield str(path.relative_to(directory)), path.read_bytes() if path.is_file() else b""


def command_line_of(process):
    """The command lines that other users see, where `ps` reads them."""
    return Path(f"/proc/{process.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="camera"')
        self.end_headers()

    def log_message(self, *arguments):
        pass


class Nonsense(socketserver.StreamRequestHandler):
    def handle(self):
        self.request.recv(1000)
        self.wfile.write(b"\0\xff nonsense " * 5000)


@pytest.fixture
def servers():
    """Cameras, each failing in its own way; camera id to address."""
    clip = Clip("H264", (), "packetization-mode=1")
    cameras = {
        "unauthorized": Camera(clip, password="another"),
        "not_found": Camera(clip, answers={"DESCRIBE": 404}),
        "closed": Camera(clip, answers={"DESCRIBE": CLOSE}),
        "timeout": Camera(clip, answers={"DESCRIBE": SILENT}),
    }
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    noise = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Nonsense)
    noise.daemon_threads = True
    for server in (web, noise):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    addresses = {name: f"rtsp://{LOGIN}@127.0.0.1:{c.port}/s" for name, c in cameras.items()}
    addresses["refused"] = f"rtsp://{LOGIN}@127.0.0.1:{free_port()}/s"
    addresses["web"] = f"http://{LOGIN}@127.0.0.1:{web.server_port}/s"
    addresses["nonsense"] = f"tcp://{LOGIN}@127.0.0.1:{noise.server_address[1]}"
    addresses["raw"] = addresses["unauthorized"].replace(ENCODED, RAW_BUT_READABLE)
    yield addresses
    for camera in cameras.values():
        camera.stop()
    for server in (web, noise):
        server.shutdown()
        server.server_close()


@pytest.mark.long
def test_a_camera_that_fails_in_any_way_shows_its_id_and_never_its_login(
    exec_cli, valkey_server, servers
):
    cameras = [*(f"{name}={url}" for name, url in servers.items()), servers["refused"]]
    options = ["--redis-url", valkey_server.url, "--log-level", "debug"]
    workers = {  # side by side, since a camera takes 5 s to time out
        "text": exec_cli.start("run", *cameras, *options, "--key-prefix", "text"),
        "json": exec_cli.start("run", *cameras, *options, "--key-prefix", "json", "--log-json"),
    }
    client = valkey_server.client
    for prefix in workers:
        for camera in (*servers, "127.0.0.1"):
            status = f"{prefix}:{{{camera}}}:status"
            wait_until(lambda key=status: client.exists(key), 40, f"{camera}'s state")
    states = {c: client.hgetall(f"text:{{{c}}}:status") for c in servers}
    reasons = {camera: state[b"reason"].decode() for camera, state in states.items()}
    assert reasons["refused"] == "refused"
    assert reasons["unauthorized"] == reasons["web"] == reasons["raw"] == "unauthorized"
    assert reasons["not_found"] == "not_found"
    assert_nothing_shows("Redis", everything_in(client))
    for worker in workers.values():
        command_line = command_line_of(worker)
        worker.terminate()
        stdout, stderr = worker.communicate(timeout=20)
        assert_nothing_shows("the command line", command_line)
        assert_nothing_shows("what it said", stdout + stderr)
        for camera in servers:
            assert f"camera {camera}: down ({reasons[camera]})" in stderr
            assert f"{camera}=" in command_line
        assert "camera 127.0.0.1: down (refused)" in stderr
        assert "refused=rtsp://127.0.0.1:" in command_line
    assert (exec_cli.cwd / "state" / "spool").stat().st_mode & 0o077 == 0
    for name, content in files_under(exec_cli.cwd):
        assert_nothing_shows("a file's name", name)
        assert_nothing_shows(name, content)


@pytest.mark.long
def test_cameras_get_passwords_of_any_characters_that_are_not_in_their_urls(
    exec_cli, valkey_server, tmp_path
):
    file = tmp_path / "secrets.toml"
    file.write_text(f'ONE_USER = "admin"\nONE_PASSWORD = "{PASSWORD}"\n')
    file.chmod(0o600)
    exec_cli.env |= {"TWO_USER": "admin", "TWO_PASSWORD": PASSWORD}
    cameras = {name: Camera(Clip.h264(), password=PASSWORD) for name in ("ONE", "TWO")}
    sources = [
        f"{name}={camera.url.replace('://', f'://{{{name}_USER}}:{{{name}_PASSWORD}}@')}"
        for name, camera in cameras.items()
    ]
    worker = exec_cli.start("run", *sources, "--redis-url", valkey_server.url, "--secrets", file)
    try:
        for name in cameras:
            status = f"ssd:{{{name}}}:status"
            wait_until(lambda key=status: valkey_server.client.exists(key), 40, f"{name}'s state")
            assert valkey_server.client.hget(status, "reason") == b"connected"
    finally:
        for camera in cameras.values():
            camera.stop()
    worker.terminate()
    assert_nothing_shows("what it said", "".join(worker.communicate(timeout=20)))


@pytest.mark.parametrize(
    "character", ["/", *(pytest.param(c, marks=pytest.mark.long) for c in "#?")]
)
def test_a_password_that_makes_a_url_unreadable_is_refused_without_being_shown(exec_cli, character):
    found = exec_cli("run", f"gate=rtsp://{USER}:alpha{character}bravo@127.0.0.1/s", "--log-json")
    assert found.returncode == 2
    assert_nothing_shows("stderr", found.stderr + found.stdout)
    assert "camera gate: the camera's URL cannot be read" in found.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [f"rtsp://{USER}:{PASSWORD}@127.0.0.1/s"],
        ["run", f"gate={USER}:{RAW_BUT_READABLE}@127.0.0.1/s"],
        ["run", "gate=x.mp4", "--redis-ulr", f"redis://{LOGIN}@127.0.0.1"],
        *(
            pytest.param(arguments, marks=pytest.mark.long)
            for arguments in [
                [
                    "run",
                    f"--redis-url=redis://{LOGIN}@127.0.0.1",
                    "--max-batch",
                    f"redis://{LOGIN}@h",
                ],
                ["replay", f"gate=rtsp://{LOGIN}@127.0.0.1/s"],
                ["subscribe", f"rtsp://{LOGIN}@127.0.0.1/s"],
                ["run", f"gate=ssh://{LOGIN}@127.0.0.1/s"],
                [
                    "run",
                    "samples/walkway.mp4",
                    "--redis-url",
                    f"redis://{USER}:[{PASSWORD}@127.0.0.1",
                ],
            ]
        ),
    ],
)
def test_a_mistyped_command_does_not_echo_secrets(exec_cli, arguments):
    found = exec_cli(*arguments)
    assert found.returncode == 2
    assert_nothing_shows("stderr", found.stderr + found.stdout)
    assert len(found.stderr.splitlines()) == 1


class OldRedis(socketserver.StreamRequestHandler):
    """Rejects a login with a user name and, like Redis 5, echoes all of it."""

    def handle(self):
        while (first := self.rfile.readline()).startswith(b"*"):
            words = []
            for _ in range(int(first[1:])):
                length = int(self.rfile.readline()[1:])
                words.append(self.rfile.read(length + 2)[:-2].decode())
            echo = ", ".join(f"`{word}`" for word in words[1:])
            answer = f"-ERR unknown command `{words[0]}`, with args beginning with: {echo}\r\n"
            self.wfile.write(answer.encode())


@pytest.fixture
def old_redis():
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), OldRedis)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_an_error_that_echoes_the_login_is_redacted(old_redis):
    with pytest.raises(SinkError, match="answered: unknown command") as caught:
        connect(f"redis://{LOGIN}@127.0.0.1:{old_redis}")
    assert_nothing_shows("the error", str(caught.value))


def redis_addresses(valkey, old, silent):
    nobody = free_port()
    yield f"redis://{LOGIN}@127.0.0.1:{valkey}/0", f"127.0.0.1:{valkey} refused the login"
    yield f"redis://{USER}:{RAW_BUT_READABLE}@127.0.0.1:{valkey}", f"127.0.0.1:{valkey}"
    yield f"redis://127.0.0.1:{valkey}?username={USER}&password={ENCODED}", f"127.0.0.1:{valkey}"
    yield f"redis://{LOGIN}@127.0.0.1:{nobody}", f"no Redis answers at 127.0.0.1:{nobody}"
    yield f"redis+cluster://{LOGIN}@127.0.0.1:{nobody}", f"127.0.0.1:{nobody}"
    yield f"rediss://{LOGIN}@127.0.0.1:{silent}", f"127.0.0.1:{silent} does not answer in TLS"
    yield f"redis://{LOGIN}@127.0.0.1:{old}", f"127.0.0.1:{old}"
    yield f"redis://{LOGIN}@127.0.0.1:{valkey}?pass={ENCODED}", "unknown option pass"
    yield f"http://{LOGIN}@127.0.0.1:{valkey}", f"127.0.0.1:{valkey}: expected redis://"
    yield f"redis://{USER}:{PASSWORD}@127.0.0.1:{valkey}", "cannot be read"
    yield f"{USER}:{RAW_BUT_READABLE}@127.0.0.1:{valkey}", "expected redis://"


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command in this process and restore its state; exit code and output."""
    monkeypatch.setattr("worker.cli.setproctitle", lambda title: None)
    monkeypatch.setattr(redaction, "_hidden", {})
    for where, name in ((sys, "excepthook"), (threading, "excepthook"), (logging, "lastResort")):
        monkeypatch.setattr(where, name, getattr(where, name))
    handlers = {name: logging.getLogger(name).handlers[:] for name in ("worker", "ssd_core")}
    on_terminate = signal.getsignal(signal.SIGTERM)

    def command(*arguments):
        capsys.readouterr()
        return main([*arguments]), "".join(capsys.readouterr())

    yield command
    signal.signal(signal.SIGTERM, on_terminate)
    for name, before in handlers.items():
        logging.getLogger(name).handlers[:] = before
        logging.getLogger(name).propagate = True


def test_no_failure_of_redis_shows_the_login_of_its_address(
    valkey_server, old_redis, command, monkeypatch
):
    monkeypatch.setattr("worker.servers.address.REPLY_TIMEOUT_SECONDS", 0.5)
    valkey_server.client.config_set("requirepass", "another")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        ports = valkey_server.port, old_redis, silent.getsockname()[1]
        for address, expected in redis_addresses(*ports):
            redaction._hidden.clear()
            code, said = command("subscribe", "--redis-url", address, "--log-level", "debug")
            assert code in (1, 2), address
            assert_nothing_shows(address, said)
            assert expected in said, said
            assert len(said.splitlines()) == 1


def test_doctor_and_the_command_line_show_the_host_of_redis_only(valkey_server, exec_cli):
    valkey_server.client.execute_command(
        "ACL", "SETUSER", USER, "on", f">{PASSWORD}", "~*", "+@all"
    )
    address = f"redis://{LOGIN}@127.0.0.1:{valkey_server.port}/0"
    reader = exec_cli.start("subscribe", "--redis-url", address, "--log-level", "debug")
    wait_until(lambda: b"user=watchman" in valkey_server.client.execute_command("CLIENT", "LIST"))
    assert_nothing_shows("the command line", command_line_of(reader))
    assert f"redis://127.0.0.1:{valkey_server.port}" in command_line_of(reader)
    names = re.findall(rb" name=(\S*)", valkey_server.client.execute_command("CLIENT", "LIST"))
    assert set(names) == {b""}
    found = exec_cli("doctor", "--redis-url", address.replace("alpha", "wrong"))
    assert_nothing_shows("doctor", found.stdout + found.stderr)
    assert f"127.0.0.1:{valkey_server.port} refused the login" in found.stdout
    reader.terminate()
    assert_nothing_shows("what subscribe said", "".join(reader.communicate(timeout=10)))


@pytest.mark.parametrize("style", [[], ["--log-json"]], ids=["text", "json"])
def test_the_traceback_of_a_bug_shows_where_it_is_and_no_login(monkeypatch, command, capsys, style):
    url = f"rtsp://{LOGIN}@127.0.0.1:{free_port()}/s"

    def fail(*arguments, **options):
        try:
            av.open(url)
        except av.error.ConnectionRefusedError as error:
            raise RuntimeError(f"cannot open {url}") from error

    def run_live(settings):
        source = LiveSource("gate", settings.sources[0].removeprefix("gate="), (9, 9), lambda: 1)
        (down,) = (item for item in source if not source.stop())
        assert down.reason == "internal_error"
        assert_nothing_shows("the event", repr(down))
        return 0

    monkeypatch.setattr("worker.sources.connection.open_camera", fail)
    monkeypatch.setattr("worker.commands.run.run_live", run_live)
    code, said = command("run", f"gate={url}", *style)
    assert code == 0
    assert_nothing_shows("the log", said)
    assert "RuntimeError: cannot open rtsp://127.0.0.1:" in said
    assert "Connection refused: 'rtsp://127.0.0.1:" in said
    if style:
        assert all(json.loads(line)["message"] for line in said.splitlines())


BUGS = """
import logging, sys, threading
from worker import cli
from worker.logs import set_up_logging

def fail(*_):
    raise RuntimeError(f"cannot open {sys.argv[2]}")

def run(*_):
    set_up_logging("info", as_json=False)
    logging.getLogger("somebody.else").warning("opening %s", sys.argv[2])
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    fail()

cli._run = run
cli.main()
"""


def test_neither_an_uncaught_bug_nor_a_librarys_warning_shows_a_login():
    found = subprocess.run(
        [sys.executable, "-c", BUGS, "run", f"rtsp://{LOGIN}@127.0.0.1/s"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "WARNING opening rtsp://127.0.0.1" in found.stderr
    assert found.stderr.count("RuntimeError: cannot open rtsp://127.0.0.1") == 2
    assert_nothing_shows("stderr", found.stderr)
