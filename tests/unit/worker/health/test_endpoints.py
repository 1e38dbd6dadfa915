import json

import pytest
from prometheus_client.registry import Collector

from tests.clocks import Clock
from tests.unit.worker.health.states import Worker, busy
from worker.health import endpoints as module
from worker.health.endpoints import FRESH_SECONDS, consumer_endpoints, endpoints
from worker.health.run_state import Answer


@pytest.fixture
def worker():
    return busy()


def ask(worker, path, accept=""):
    response = endpoints(worker.state, worker.registry)[path](accept)
    return response.status, response.content_type, response.body.decode()


def test_probes_get_a_status_and_one_line(worker):
    plain = "text/plain; charset=utf-8"
    assert ask(worker, "/healthz") == (200, plain, "alive\n")
    assert ask(worker, "/readyz") == (200, plain, "ready\n")
    waiting = Worker()
    assert ask(waiting, "/healthz") == (200, plain, "alive: starting\n")
    assert ask(waiting, "/readyz") == (503, plain, "not ready: the model is loading\n")


def test_the_cameras_are_json(worker):
    status, content_type, body = ask(worker, "/cameras")
    assert (status, content_type) == (200, "application/json")
    assert [row["id"] for row in json.loads(body)["cameras"]] == ["gate"]


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4"),
        ("*/*", "text/plain; version=0.0.4"),
        ("text/plain;version=1.0.0;q=0.5", "text/plain; version=0.0.4"),
        (
            "application/openmetrics-text;version=1.0.0,text/plain;q=0.5",
            "application/openmetrics-text; version=1.0.0",
        ),
        ("application/openmetrics-text; version=x", "application/openmetrics-text; version=1.0.0"),
    ],
)
def test_metrics_come_in_the_form_that_is_asked_for(worker, accept, content_type):
    status, found, body = ask(worker, "/metrics", accept)
    assert (status, found.startswith(content_type)) == (200, True)
    assert body.endswith("# EOF\n") == ("openmetrics" in content_type)
    assert "ssd_worker_camera_up" in body


def test_metrics_are_made_once_for_all_who_ask_at_a_time(worker, monkeypatch):
    class Counting(Collector):
        collected = 0

        def collect(self):
            self.collected += 1
            return ()

    clock, counting = Clock(), Counting()
    monkeypatch.setattr(module, "time", clock)
    worker.registry.register(counting)
    before, answer = counting.collected, endpoints(worker.state, worker.registry)["/metrics"]
    assert answer("") == answer("*/*")
    assert counting.collected == before + 1
    answer("application/openmetrics-text")
    assert counting.collected == before + 2
    clock.now += FRESH_SECONDS * 1.01
    answer("")
    assert counting.collected == before + 3


def test_the_root_says_what_there_is(worker):
    paths = endpoints(worker.state, worker.registry)
    for served in (paths, consumer_endpoints(lambda: Answer(True, "ready"), worker.registry)):
        contents = served["/"]("").body.decode()
        assert {line.split()[0] for line in contents.splitlines()} == served.keys() - {"/"}
