"""`ssd-worker dashboard` against a real server: what it shows, and what cannot break it."""

import json
import socket
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from urllib.parse import quote

import httpx
import pytest

from tests.conftest import free_port, wait_until
from tests.dashboards import LOGIN_TOKEN, RunningDashboard, next_of, sent_events
from tests.events import PERSON, camera_event, detections_event
from tests.snapshots import snapshot
from worker.dashboard import feed, hub, serving
from worker.dashboard.access import Credentials
from worker.dashboard.hub import MAX_VIEWERS_OF_ADDRESS
from worker.events import Detection
from worker.keys import Keys
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.forgetting import forget
from worker.sinks.redis_stream import RedisStreamSink

CAR = Detection(label="Car", class_id=5, score=0.5, box=(0.5, 0.6, 0.7, 0.8))
STREAM = "ssd:{gate}:detections"


def now_ms():
    return round(time.time() * 1000)


def at_once(event):
    """The event, of now."""
    return event.model_copy(update={"time": datetime.now(UTC)})


class Worker:
    """Publishes events of one camera as a worker does."""

    def __init__(self, url, camera_id="gate"):
        self.sink = RedisStreamSink(url)
        self.camera_id = camera_id
        self.epoch, self.seq = now_ms(), -1

    def detects(self, *found):
        event = detections_event(
            self.camera_id, epoch=self.epoch, seq=self._next(), detections=found or (PERSON,)
        )
        self.sink.publish([at_once(event)])

    def says(self, state, reason):
        event = camera_event(
            self.camera_id, epoch=self.epoch, seq=self._next(), state=state, reason=reason
        )
        self.sink.publish([at_once(event)])

    def _next(self):
        self.seq += 1
        return self.seq


@pytest.fixture
def serve(monkeypatch):
    """Start dashboards, which look for what is new more often than once a second."""
    monkeypatch.setattr(feed, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(feed, "POLL_SECONDS", 0.05)
    with ExitStack() as stack:

        def serve(url, *arguments, **options):
            found = RunningDashboard(url, *arguments, **options)
            stack.callback(found.stop)
            return found

        yield serve


@pytest.fixture
def worker(valkey_server):
    found = Worker(valkey_server.url)
    found.says("up", "connected")
    yield found
    found.sink.close()


@pytest.fixture
def dashboard(serve, valkey_server, worker):
    """One that shows the camera of the worker."""
    found = serve(valkey_server.url)
    wait_until(lambda: found.camera(), what="the camera on the page")
    return found


# What it shows


def test_events_arrive_as_they_are_published(dashboard, worker):
    with dashboard.events() as events:
        state = next_of(events, "state")
        assert [(c["id"], c["state"], c["worker"]) for c in state["cameras"]] == [
            ("gate", "up", "alive")
        ]
        worker.detects(PERSON, CAR)
        found = next_of(events, "detections")
        assert (found["camera"], found["epoch"], found["seq"]) == ("gate", worker.epoch, 1)
        assert found["detections"] == [
            {"label": "Person", "score": 0.9, "box": [0.1, 0.2, 0.3, 0.4]},
            {"label": "Car", "score": 0.5, "box": [0.5, 0.6, 0.7, 0.8]},
        ]
        worker.says("down", "stall")
        change = next_of(events, "change")
        assert (change["camera"], change["state"], change["reason"]) == ("gate", "down", "stall")
        shown = next_of(events, "camera", state="down")
        assert (shown["fps"], shown["latency_ms"], shown["labels"]) == (
            None, None, ["Car", "Person"],
        )  # fmt: skip
    page = dashboard.get("/api/cameras/gate").json()
    assert [each["reason"] for each in page["changes"]] == ["stall", "connected"]
    assert page["changes_complete"]


def test_a_viewer_is_sent_what_was_asked_for(dashboard, worker):
    with dashboard.events(camera="gate", label="Car", min_score="0.5") as events:
        next_of(events, "state")
        worker.detects(PERSON)
        worker.detects(PERSON, CAR)
        found = next_of(events, "detections")
        assert [each["label"] for each in found["detections"]] == ["Car"]
    assert dashboard.get("/api/events?min_score=high").json() == {
        "error": "min_score: expected a number"
    }


def test_a_camera_that_appears_and_one_that_is_forgotten(dashboard, worker, valkey_server):
    with dashboard.events() as events:
        next_of(events, "state")
        Worker(valkey_server.url, "yard").says("up", "connected")
        next_of(events, "camera", id="yard")
        assert forget(valkey_server.url, Keys(), "yard", force=True)
        next_of(events, "removed", id="yard")
    assert [each["id"] for each in dashboard.state()["cameras"]] == ["gate"]
    answer = dashboard.get("/api/cameras/yard")
    assert (answer.status_code, answer.json()["error"]) == (
        404, "Redis knows no camera of this id",
    )  # fmt: skip


def test_pictures_come_one_by_one_and_together(dashboard, worker, valkey_server):
    assert dashboard.get("/api/cameras/gate/snapshot").status_code == 404
    picture = snapshot(epoch=worker.epoch)
    worker.sink.put_snapshots([(picture, 10)])
    wait_until(lambda: dashboard.camera()["snapshot"], what="the picture")
    answer = dashboard.get("/api/cameras/gate/snapshot")
    assert answer.content == picture.jpeg
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["X-Frame"] == f"{worker.epoch}/{picture.info.frame_index}"
    assert answer.headers["Cache-Control"] == "no-store"
    together = dashboard.get("/api/snapshots", params={"camera": ["gate", "nobody"]})
    length = int.from_bytes(together.content[:4], "big")
    header = json.loads(together.content[4 : 4 + length])
    assert header["id"] == "gate"
    assert header["bytes"] == len(picture.jpeg)
    assert together.content[4 + length :] == picture.jpeg
    version = together.headers["X-Version"]
    assert dashboard.get("/api/snapshots", params={"after": version}).content == b""
    assert dashboard.get("/api/snapshots", params={"after": "9e14"}).content == together.content
    valkey_server.client.delete("ssd:{gate}:snapshot")  # it has expired
    wait_until(lambda: not dashboard.camera()["snapshot"], what="no picture")
    assert dashboard.get("/api/cameras/gate/snapshot").status_code == 404
    assert dashboard.get("/api/snapshots").content == b""


def test_what_is_no_picture_of_a_camera_is_not_shown(dashboard, valkey_server):
    other = snapshot("other").jpeg
    for place, data in enumerate([b"\xff\xd8no picture", b"GIF89a", other, b""]):
        Worker(valkey_server.url, f"camera-{place}").says("up", "connected")
        valkey_server.client.set(f"ssd:{{camera-{place}}}:snapshot", data)
    valkey_server.client.lpush("ssd:{gate}:snapshot", "a list")
    wait_until(lambda: dashboard.camera("camera-3"), what="the cameras")
    for camera in dashboard.state()["cameras"]:
        assert camera["snapshot"] is None
        assert dashboard.get(f"/api/cameras/{camera['id']}/snapshot").status_code == 404
    assert dashboard.get("/api/snapshots").content == b""


def test_counts_coverage_and_a_replay_are_read_from_the_streams(dashboard, worker, valkey_server):
    for _ in range(3):
        worker.detects(PERSON, CAR, CAR)
    counts = dashboard.get("/api/cameras/gate/counts").json()
    assert (sum(counts["labels"]["Car"]), sum(counts["frames"])) == (6, 3)
    assert (counts["step_seconds"], len(counts["frames"]), counts["complete"]) == (60, 60, True)
    worker.detects(PERSON)
    counts = dashboard.get("/api/cameras/gate/counts?buckets=5").json()
    assert (sum(counts["labels"]["Person"]), counts["step_seconds"]) == (4, 720)

    def covered():
        return dashboard.get("/api/coverage?camera=gate").json()["cameras"]["gate"]

    assert [each["state"] for each in covered()] == ["unknown", "watched"]
    worker.says("down", "stall")
    wait_until(lambda: covered()[-1]["state"] == "down", what="the new event in the coverage")

    claim = ReplayClaim("recording", "model", "settings")
    worker.sink.claim_replay("walk", claim, restart=False)
    events = [detections_event("walk", epoch=0, seq=seq, mode="replay") for seq in range(60)]
    ended = camera_event(
        "walk", epoch=0, seq=60, mode="replay", state="ended", reason="end_of_file"
    )
    worker.sink.publish([*events, ended])
    replay = dashboard.get("/api/replays/walk").json()
    assert (replay["state"], replay["frames"], replay["duration_seconds"]) == ("ended", 60, 5.9)
    assert replay["timeline"]["labels"] == {"Person": [10] * 6}
    assert dashboard.get("/api/replays/walk/at?seconds=4.22").json()["frame_index"] == 42
    assert dashboard.get("/api/replays/nobody").status_code == 404
    wait_until(lambda: dashboard.state()["replays"] == [{"id": "walk"}])


# What other tools and bad luck bring


HOSTILE_IDS = ["<script>alert(1)</script>", "a/b", "{x}", "with space", "Tür ümläut 門", "a\nb",
               "snapshot", "%2F", "?#&="]  # fmt: skip


def test_cameras_of_other_tools_are_shown_whatever_their_names(serve, valkey_server):
    client = valkey_server.client
    for camera_id in HOSTILE_IDS:
        event = at_once(detections_event(camera_id, epoch=now_ms()))
        client.xadd(f"ssd:{{{camera_id}}}:detections", {"event": event.to_json()})
        client.sadd("ssd:cameras", camera_id)
    client.sadd("ssd:cameras", b"\xff\xfe", "no-stream", "no-key")
    client.set("ssd:{no-stream}:detections", "text")
    dashboard = serve(valkey_server.url)
    wait_until(lambda: len(dashboard.state()["cameras"]) == len(HOSTILE_IDS) + 2)
    assert dashboard.state()["unreadable_ids"] == 1
    for camera_id in HOSTILE_IDS:
        path = f"/api/cameras/{quote(camera_id, safe='')}"
        assert dashboard.get(path).json()["id"] == camera_id
        assert dashboard.get(path).headers["Content-Type"] == "application/json"
        assert dashboard.get(f"{path}/counts").json()["labels"]["Person"][-1] == 1
        assert dashboard.get(f"{path}/snapshot").status_code == 404
        assert list(
            dashboard.get("/api/coverage", params={"camera": camera_id}).json()["cameras"]
        ) == [camera_id]
    assert dashboard.camera("no-stream")["reason"] == "not_a_stream"
    assert dashboard.camera("no-key")["reason"] == "no_events"
    for camera_id in ("no-stream", "no-key"):
        answer = dashboard.get(f"/api/cameras/{camera_id}")
        assert (answer.status_code, answer.json()["changes"]) == (200, [])
    assert "not a stream" in dashboard.get("/api/cameras/no-stream/counts").json()["error"]
    assert dashboard.get("/api/coverage").json()["pending"] == []


MALFORMED = [
    {}, {"event": b"\xff"}, {"event": "{"}, {"event": "[" * 5000}, {"event": "null"},
    {"event": '{"type": "ssd.detections.v1"}', "type": "ssd.detections.v1"},
    {"event": detections_event(seq=3).to_json().replace('"seq":3', '"seq":-3')},
    {"event": detections_event(seq=3).to_json().replace('"epoch":1', f'"epoch":{10**300}')},
]  # fmt: skip


def test_malformed_events_are_counted_and_others_go_on(dashboard, worker, valkey_server):
    for fields in MALFORMED:
        valkey_server.client.xadd(STREAM, fields or {"x": "y"})
    valkey_server.client.xadd(STREAM, {"type": "ssd.track.v1", "event": "{}"})  # of later versions
    worker.detects()
    wait_until(lambda: dashboard.camera()["labels"] == ["Person"], what="the event after them")
    assert dashboard.state()["malformed"] == dashboard.camera()["malformed"] == len(MALFORMED)
    assert dashboard.get("/api/cameras/gate/counts").json()["labels"]["Person"][-1] == 1
    assert dashboard.get("/api/coverage").json()["pending"] == []


def test_a_stream_that_is_trimmed_or_begun_again_is_read_on(dashboard, worker, valkey_server):
    with dashboard.events() as events:
        next_of(events, "state")
        for _ in range(5):
            worker.detects()
        valkey_server.client.xtrim(STREAM, maxlen=0)
        dashboard.get("/api/cameras/gate/counts")
        worker.detects(CAR)
        assert next_of(events, "detections", seq=6)["detections"][0]["label"] == "Car"
        counts = dashboard.get("/api/cameras/gate/counts").json()
        assert counts["labels"]["Car"][-1] == 1


def test_redis_may_be_away_at_the_start_and_later(serve, tmp_path, valkey_server):
    valkey_server.stop()
    dashboard = serve(valkey_server.url)
    wait_until(lambda: "does not answer" in dashboard.state()["redis"]["problem"])
    assert dashboard.state()["redis"]["up"] is False
    assert dashboard.state()["cameras"] == []
    valkey_server.start()
    worker = Worker(valkey_server.url)
    worker.says("up", "connected")
    wait_until(lambda: dashboard.camera() and dashboard.camera()["state"] == "up")
    with dashboard.events() as events:
        assert next_of(events, "state")["redis"]["up"]
        valkey_server.stop()
        assert next_of(events, "redis")["up"] is False
        shown = next_of(events, "camera")
        assert (shown["state"], shown["reason"]) == ("unknown", "redis_unavailable")
        for path in ("/api/cameras/gate", "/api/coverage"):
            answer = dashboard.get(path)
            assert (answer.status_code, "Redis" in answer.json()["error"]) == (503, True)
            assert str(valkey_server.port) not in answer.text
        valkey_server.start()
        assert next_of(events, "redis", up=True)["problem"] is None
        next_of(events, "camera", state="up")
        worker.detects()
        next_of(events, "detections")


def test_a_bug_leaves_no_camera_up_on_the_page(dashboard, monkeypatch, caplog):
    def broken(client, key):
        raise ZeroDivisionError

    with dashboard.events() as events:
        next_of(events, "state")
        monkeypatch.setattr(feed, "announced_cameras", broken)
        assert "see its log" in next_of(events, "redis", up=False)["problem"]
        assert next_of(events, "camera")["state"] == "unknown"
        assert caplog.text.count("please report this traceback") == 1
        monkeypatch.undo()
        next_of(events, "camera", state="up")


# Access, and clients that behave badly


def test_a_login_is_needed_for_all_but_the_form(serve, valkey_server):
    dashboard = serve(valkey_server.url, Credentials(LOGIN_TOKEN))
    for path in ("/", "/api/state", "/api/events", "/api/snapshots", "/camera/gate", "/nothing"):
        assert dashboard.get(path).status_code == 401, path
    bearer = {"Authorization": f"Bearer {LOGIN_TOKEN}"}
    assert dashboard.get("/api/state", headers=bearer).status_code == 200
    with dashboard.client.stream("GET", "/api/events", headers=bearer) as answer:
        next_of(sent_events(answer), "state")


UNANSWERABLE = {
    "/static/..%2f..%2fserving.py": 404,
    "/static/../../serving.py": 404,
    "/static/%2e%2e/gate.py": 404,
    "/api": 404,
    "/api/cameras/x/y/z": 404,
    "/api/cameras/gate/counts?from=soon": 400,
    "/api/cameras/gate/counts?buckets=0": 400,
    "/api/cameras/gate/counts?buckets=x": 400,
    "/api/snapshots?after=nan": 400,
    "/api/coverage?from=2026-01-01&to=2025-01-01": 400,
    "/api/coverage?camera=x": 404,
    "/api/replays/x/at?seconds=1e99": 400,
}


def test_what_cannot_be_answered_is_one_line(dashboard):
    for path, status in UNANSWERABLE.items():
        answer = dashboard.get(path)
        assert answer.status_code == status, path
        assert "\n" not in answer.json()["error"]


def test_nothing_can_be_changed(dashboard):
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert dashboard.client.request(method, "/api/cameras/gate").status_code == 405


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_a_viewer_with_many_connections_does_not_keep_others_out(dashboard, count):
    request = b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with ExitStack() as stack:
        statuses = []
        for _ in range(count):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", dashboard.port), timeout=10)
            )
            connection.sendall(request)
            statuses.append(int(connection.recv(12).split()[1]))
            if statuses[-1] == 503:
                connection.close()
        assert statuses.count(200) == MAX_VIEWERS_OF_ADDRESS
        assert statuses.count(503) == count - MAX_VIEWERS_OF_ADDRESS
        answer = httpx.get(f"{dashboard.url}/api/events")
        assert "pages are connected" in answer.json()["error"]
        assert dashboard.state()["redis"]["up"]

    def has_room():
        with dashboard.client.stream("GET", "/api/events") as answer:
            return answer.status_code == 200

    wait_until(has_room, what="a place for another viewer")


def test_connections_that_ask_for_nothing_are_closed(serve, valkey_server, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.3)
    dashboard = serve(valkey_server.url)
    with ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", dashboard.port), timeout=10))
            for _ in range(40)
        ]
        silent[0].sendall(b"GET / HTTP/1.1\r\nX-Slow: ")
        answers = [connection.recv(1000) for connection in silent]
        assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 20
        assert b"too many connections" in answers[-1]
        assert answers.count(b"") == 20
    assert dashboard.state()["cameras"] == []


def test_an_address_elsewhere_may_have_fewer_connections(serve, valkey_server, monkeypatch):
    monkeypatch.setattr(serving, "MAX_CONNECTIONS_OF_ADDRESS", 3)
    dashboard = serve(valkey_server.url)
    monkeypatch.setattr(serving, "is_loopback", lambda address: False)
    with ExitStack() as stack:
        for number in range(5):
            connection = stack.enter_context(
                socket.create_connection(("127.0.0.1", dashboard.port), timeout=10)
            )
            connection.sendall(b"GET /api/state HTTP/1.1\r\nHost: localhost\r\n\r\n")
            expected = b"HTTP/1.1 200" if number < 3 else b"HTTP/1.1 503"
            assert connection.recv(12) == expected, number
        monkeypatch.setattr(serving, "is_loopback", lambda address: True)
        assert dashboard.state()["cameras"] == []


@pytest.mark.long
def test_a_viewer_that_reads_nothing_is_cut_off(serve, valkey_server, monkeypatch):
    monkeypatch.setattr(serving, "READ_SECONDS", 0.3)
    monkeypatch.setattr(hub, "MAX_VIEWERS", 1)
    worker = Worker(valkey_server.url)
    many = tuple(PERSON.model_copy(update={"label": "x" * 200}) for _ in range(300))
    dashboard = serve(valkey_server.url)
    with socket.socket() as viewer:
        viewer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        viewer.connect(("127.0.0.1", dashboard.port))
        viewer.sendall(b"GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert viewer.recv(12) == b"HTTP/1.1 200"
        assert dashboard.get("/api/events").status_code == 503

        def has_room():
            worker.detects(*many)
            with dashboard.client.stream("GET", "/api/events") as answer:
                return answer.status_code == 200

        wait_until(has_room, what="the end of its connection")


def test_it_ends_at_once_though_viewers_are_connected(dashboard):
    with dashboard.events() as events:
        next_of(events, "state")
        dashboard.application.stop()
        for _ in events:
            pass
        dashboard.thread.join(5)
    assert not dashboard.thread.is_alive()


# The command


def test_the_command_says_where_the_page_is_and_ends_at_a_signal(cli, valkey_server):
    process = cli.start("dashboard", "--listen", "0", "--redis-url", valkey_server.url)
    address = process.stderr.readline().split()[-1]
    with httpx.stream("GET", f"{address}/api/events") as answer:
        events = sent_events(answer)
        next_of(events, "state")
        process.terminate()
        assert process.wait(5) == 0
        assert "detections" not in dict(events)  # its end


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--listen", "0.0.0.0:0"), "give --auth-token"),
        (("--listen", "[::]:0", "--auth-token", "short"), "16 characters or more"),
        (("--auth-user", "me", "--auth-password", "short"), "8 characters or more"),
        (("--auth-token", "{NOBODYS_TOKEN}"), "{NOBODYS_TOKEN}"),
        (("--listen", "203.0.113.7:0", "--insecure"), "give an address of this machine"),
        (("--redis-url", "http://x"), "expected redis://"),
    ],
)
def test_what_cannot_be_served_is_one_line(cli, arguments, words):
    url = () if "--redis-url" in arguments else ("--redis-url", f"redis://127.0.0.1:{free_port()}")
    result = cli("dashboard", *url, *arguments)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1), result.stderr
    assert words in result.stderr


def test_a_port_that_is_taken_is_one_line(cli):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = cli("dashboard", "--listen", port, "--redis-url", "redis://127.0.0.1:1")
    assert result.returncode == 2
    assert f"port {port} is taken: choose another" in result.stderr
