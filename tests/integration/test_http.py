"""`--http` of real processes: what probes, Prometheus and people get."""

import http.client
import json
import re
import signal
from contextlib import closing

import pytest

from tests.conftest import free_port, wait_until
from tests.events import camera_event, detections_event
from tests.faults.test_worker import HANGING_DETECTOR, HANGING_SINK, run_patched
from worker.observing import STAGES
from worker.sinks.redis_stream import RedisStreamSink

SECRETS = ("s3cret", "admin", "rtsp:")


class Server:
    """The HTTP server of a process, on a port of its own."""

    def __init__(self):
        self.port = free_port()

    def ask(self, path):
        """(status, text), or None while nothing listens."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as connection:
            try:
                connection.request("GET", path)
                response = connection.getresponse()
            except ConnectionRefusedError:
                return None
            return response.status, response.read().decode()

    def answers(self, path, status, text=""):
        """Whether a path gives this status and a line with this text."""
        answer = self.ask(path)
        return answer is not None and answer[0] == status and text in answer[1]

    def series(self, name):
        """Values of a metric by their labels; nothing while nobody answers."""
        answer = self.ask("/metrics")
        text = "" if answer is None else answer[1]
        found = re.findall(rf"^ssd_worker_{name}(?:\{{(.*)\}})? (.+)$", text, re.MULTILINE)
        return {",".join(re.findall(r'"([^"]*)"', labels)): float(value) for labels, value in found}


@pytest.fixture
def server():
    return Server()


def test_a_live_worker_tells_probes_prometheus_and_people_how_it_is(
    cli, valkey_server, server, short_clip
):
    worker = cli.start(
        "run", f"gate={short_clip}", f"dead=rtsp://admin:s3cret@127.0.0.1:{free_port()}/x",
        "--loop", "--fps", 4, "--redis-url", valkey_server.url, "--http", server.port, "--log-json",
    )  # fmt: skip
    wait_until(lambda: server.answers("/healthz", 200, "alive"), 40, "the server")
    wait_until(lambda: server.answers("/readyz", 200, "ready"), 40, "a camera")
    wait_until(lambda: server.series("camera_frames_analysed_total").get("gate", 0) > 5)
    wait_until(lambda: server.series("camera_up") == {"dead": 0, "gate": 1})
    assert server.series("camera_frames_skipped_total")["gate"] > 0
    wait_until(lambda: server.series("redis_up") == {"": 1})
    wait_until(lambda: server.series("publish_latency_seconds_count").get("", 0) > 0)
    stages = server.series("stage_seconds_count")
    assert all(stages[stage] for stage in STAGES)
    assert set(server.series("camera_frame_age_seconds")) == {"gate"}
    assert server.series("detections_total")["gate,Person"] > 0
    rows = {row["id"]: row for row in json.loads(server.ask("/cameras")[1])["cameras"]}
    assert (rows["gate"]["state"], rows["dead"]["reason"]) == ("up", "refused")
    assert not any(secret in server.ask("/metrics")[1] for secret in SECRETS)
    assert not any(secret in server.ask("/cameras")[1] for secret in SECRETS)

    valkey_server.stop()
    wait_until(lambda: server.answers("/readyz", 200, "events are spooled to disk"))
    wait_until(lambda: server.series("redis_up") == {"": 0})
    assert server.series("redis_errors_total")[""] >= 1
    wait_until(lambda: server.series("spool_events").get("", 0) > 0)
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=15)
    assert worker.returncode == 0, said
    lines = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
    of_cameras = [line for line in lines if line["message"].startswith("camera ")]
    assert {line["camera"] for line in of_cameras} == {"gate", "dead"}
    assert all(line["message"].startswith(f"camera {line['camera']}: ") for line in of_cameras)


@pytest.mark.parametrize("command", ["run", "replay", "subscribe"])
def test_a_port_that_is_taken_ends_the_command_with_one_line(cli, valkey_server, command):
    arguments = [] if command == "subscribe" else ["clip.mp4"]
    where = f"127.0.0.1:{valkey_server.port}"
    done = cli(command, *arguments, "--http", valkey_server.port, "--redis-url", valkey_server.url)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"--http {where}: cannot listen there (Address already in use): choose another" in line


def test_a_subscriber_tells_how_far_its_group_is_behind(cli, valkey_server, server):
    sink = RedisStreamSink(valkey_server.url)
    sink.publish([camera_event(seq=0), *(detections_event(seq=seq) for seq in range(1, 4))])
    sink.close()
    valkey_server.client.xgroup_create("ssd:{gate}:detections", "alerts", "0")
    left = valkey_server.client.xreadgroup(
        "alerts", "other", {"ssd:{gate}:detections": ">"}, count=1
    )
    assert left
    subscriber = cli.start(
        "subscribe", "gate", "--group", "alerts", "--redis-url", valkey_server.url,
        "--http", server.port,
    )  # fmt: skip
    assert len([subscriber.stdout.readline() for _ in range(3)]) == 3
    wait_until(lambda: server.answers("/readyz", 200), 20, "the first answer of Redis")
    assert server.answers("/healthz", 200)
    wait_until(lambda: server.series("consumer_pending") == {"gate,alerts": 1}, 20, "the group")
    assert server.series("consumer_lag").get("gate,alerts") in (0, 3)  # as it was when it began
    assert server.answers("/cameras", 404)


@pytest.mark.long
def test_a_replay_tells_where_it_is_and_waits_for_redis_unready(
    cli, valkey_server, server, short_clip
):
    replay = cli.start(
        "replay", short_clip, "--redis-url", valkey_server.url, "--http", server.port
    )
    wait_until(lambda: server.answers("/readyz", 503, "loading"), 40, "the server")
    wait_until(lambda: server.series("replay_frames_total").get("short", 0) > 0, 40, "a frame")
    valkey_server.stop()
    wait_until(lambda: server.answers("/readyz", 503, "Redis is unavailable"), 20, "the outage")
    wait_until(lambda: server.series("redis_up") == {"": 0})
    assert 0 < server.series("replay_position_seconds")["short"] <= 3.9
    valkey_server.start()
    _, said = replay.communicate(timeout=60)
    assert replay.returncode == 0, said


@pytest.mark.long
def test_a_camera_that_is_taken_out_of_the_file_leaves_the_metrics(
    cli, valkey_server, server, short_clip, tmp_path
):
    file = tmp_path / "cameras.toml"
    gate, yard = (f'[cameras.{name}]\nsource = "{short_clip}"\n' for name in ("gate", "yard"))
    file.write_text(gate + yard)
    cli.start(
        "run", "--cameras", file, "--loop", "--redis-url", valkey_server.url, "--http", server.port
    )
    wait_until(lambda: server.series("camera_up") == {"gate": 1, "yard": 1}, 40, "both cameras")
    file.write_text(gate)
    wait_until(lambda: server.series("camera_up") == {"gate": 1}, 20, "one camera")
    assert "yard" not in server.ask("/metrics")[1]
    file.write_text(gate + yard)
    wait_until(lambda: server.series("camera_up") == {"gate": 1, "yard": 1}, 20, "both again")
    assert server.series("camera_reconnects_total") == {"gate": 0, "yard": 0}


@pytest.mark.long
@pytest.mark.parametrize("patch", [HANGING_DETECTOR, HANGING_SINK])
def test_a_worker_that_is_stuck_says_so_before_its_watchdog_ends_it(
    exec_cli, valkey_server, server, short_clip, patch
):
    worker = run_patched(
        exec_cli, patch, "run", f"gate={short_clip}", "--loop", "--redis-url", valkey_server.url,
        "--http", server.port, "--watchdog-seconds", 8,
    )  # fmt: skip
    wait_until(lambda: server.answers("/readyz", 200, "ready"), 40, "the worker")
    assert server.answers("/healthz", 200, "alive")
    wait_until(lambda: server.answers("/healthz", 503, "stalled: no progress for"), 20, "the hang")
    worker.communicate(timeout=30)
    assert worker.returncode == 70
