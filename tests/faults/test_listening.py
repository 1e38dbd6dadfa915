"""A worker exposes nothing to others on the network."""

import ipaddress
import os
from pathlib import Path

import pytest

from tests.conftest import WALKWAY, free_port, wait_until
from tests.faults.rtsp_faults import Camera, Clip
from worker.errors import WorkerError
from worker.frames import Frame
from worker.servers.embedded import ensure_running
from worker.sources.live import LiveSource

LISTEN = "0A"


def processes(pid):
    """A process and its descendants."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    children = [child for task in tasks for child in task.read_text().split()]
    return [pid, *(p for child in children for p in processes(int(child)))]


def sockets_of(pid):
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(descriptor.readlink())
        except OSError:
            continue
        if target.startswith("socket:["):
            yield target.removeprefix("socket:[").removesuffix("]")


def reachable(protocol, pids):
    """Addresses at which the processes accept connections, or datagrams from anyone."""
    owned = {inode for pid in pids for inode in sockets_of(pid)}
    for family in ("", "6"):
        for line in Path(f"/proc/net/{protocol}{family}").read_text().splitlines()[1:]:
            _, local, remote, state, *rest = line.split()
            waits = state == LISTEN if protocol == "tcp" else int(remote.split(":")[1], 16) == 0
            if rest[5] in owned and waits:
                yield address_of(local)


def address_of(text):
    address, port = text.split(":")
    words = [bytes.fromhex(address)[i : i + 4][::-1] for i in range(0, len(address) // 2, 4)]
    return ipaddress.ip_address(b"".join(words)), int(port, 16)


pytestmark = pytest.mark.skipif(
    not Path("/proc/net/tcp").exists(), reason="reads Linux's tables of sockets"
)


@pytest.mark.long
def test_a_worker_and_its_embedded_server_listen_on_loopback_only(exec_cli, rtsp_server):
    worker = exec_cli.start("run", f"gate={rtsp_server.publish(WALKWAY, 'walkway.mp4')}")
    lines = []
    wait_until(lambda: lines.append(worker.stderr.readline()) or "gate: up" in lines[-1], 60)
    server = int((exec_cli.cwd / "state" / f"valkey-{exec_cli.port}" / "valkey.pid").read_text())
    pids = {*processes(worker.pid), server}
    found = [*reachable("tcp", pids), *reachable("udp", pids)]
    assert (ipaddress.ip_address("127.0.0.1"), exec_cli.port) in found
    assert [f"{address} port {port}" for address, port in found if not address.is_loopback] == []


def test_udp_packets_are_accepted_from_the_camera_only():
    camera = Camera(Clip.h264(), transports=("udp",))
    source = LiveSource("gate", camera.url, (300, 300), lambda: 1)
    try:
        for item in source:
            if isinstance(item, Frame):
                found = list(reachable("udp", [os.getpid()]))
                source.stop()
    finally:
        camera.stop()
    # The camera's own socket is one of this process too.
    assert {str(address) for address, _ in found} == {"127.0.0.1"}
    assert len(found) == 1


def test_the_embedded_server_does_not_inherit_the_passwords_of_the_environment(
    tmp_path, monkeypatch
):
    program = tmp_path / "server"
    program.write_text(f"#!/bin/sh\necho started > {tmp_path}/seen\nexport >> {tmp_path}/seen\n")
    program.chmod(0o700)
    monkeypatch.setattr("worker.servers.embedded.get_binary_path", lambda: program)
    monkeypatch.setenv("GATE_PASSWORD", "alpha bravo")
    with pytest.raises(WorkerError, match="did not start"):
        ensure_running(tmp_path, free_port())
    seen = (tmp_path / "seen").read_text()
    assert "started" in seen
    assert "alpha" not in seen
