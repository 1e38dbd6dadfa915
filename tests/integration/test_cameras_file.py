"""`ssd-worker run --cameras FILE`: cameras come, go and change while the worker runs."""

import json
import signal

import pytest

from tests.conftest import WALKWAY, stream_events, wait_until

GATE = f"""
[cameras.gate]
source = "{WALKWAY}"
fps = 5
labels = ["Person"]
score_threshold = 0.5
"""
YARD = f"""
[cameras.yard]
source = "{WALKWAY}"
fps = 5
score_threshold = 0.2
ignore = [[[0, 0], [0.5, 0], [0.5, 1], [0, 1]]]
"""


class Worker:
    def __init__(self, cli, server, file, *options):
        self.server = server
        self.file = file
        self.process = cli.start(
            "run", "--cameras", file, "--loop", "--redis-url", server.url, *options
        )

    def events(self, camera_id):
        stream = f"ssd:{{{camera_id}}}:detections"
        return [json.loads(e)["data"] for e in stream_events(self.server.client, stream)]

    def frames(self, camera_id):
        return [data for data in self.events(camera_id) if "detections" in data]

    def wait_for_frames(self, camera_id, more=3):
        enough = len(self.frames(camera_id)) + more
        wait_until(
            lambda: len(self.frames(camera_id)) >= enough,
            timeout=60,
            what=f"frames of {camera_id}",
        )

    def wait_for_state(self, camera_id, *expected):
        def found():
            return expected in [(d["state"], d["reason"]) for d in self.events(camera_id)
                                if "state" in d]  # fmt: skip

        wait_until(found, timeout=60, what=f"{camera_id} to be {expected}")

    def stop(self):
        self.process.send_signal(signal.SIGINT)
        _, stderr = self.process.communicate(timeout=60)
        return self.process.returncode, stderr


@pytest.fixture
def start(cli, valkey_server, tmp_path):
    def start(content, *options):
        file = tmp_path / "cameras.toml"
        file.write_text(content)
        return Worker(cli, valkey_server, file, *options)

    return start


def test_cameras_come_go_and_change_and_an_untouched_one_keeps_its_epoch(start):
    worker = start(GATE, "--max-wait-ms", "1")
    worker.wait_for_frames("gate")
    (epoch,) = {data["epoch"] for data in worker.events("gate")}

    worker.file.write_text(GATE + YARD)
    worker.wait_for_frames("yard")
    worker.file.write_text(GATE + YARD.replace("fps = 5", "fps = 2"))
    worker.wait_for_state("yard", "down", "reconfigured")
    worker.file.write_text(GATE)
    worker.wait_for_state("yard", "ended", "removed")
    seen = len(worker.events("gate"))
    worker.wait_for_frames("gate")

    states = [data for data in worker.events("gate")[:seen] if "state" in data]
    assert {data["state"] for data in states} == {"up"}  # a new round of the file is a new epoch
    assert worker.events("gate")[0]["epoch"] == epoch
    assert worker.stop()[0] == 130


def test_labels_thresholds_and_ignored_areas_are_each_cameras_own(start):
    worker = start(GATE + YARD)
    worker.wait_for_frames("gate")
    worker.wait_for_frames("yard", 10)
    worker.stop()
    of_gate = [d for data in worker.frames("gate") for d in data["detections"]]
    of_yard = [d for data in worker.frames("yard") for d in data["detections"]]
    assert {d["label"] for d in of_gate} == {"Person"}
    assert all(d["score"] >= 0.5 for d in of_gate)
    assert min(d["score"] for d in of_yard) < 0.4  # the model's own threshold
    assert {d["label"] for d in of_yard} > {"Person"}
    assert all((d["box"][0] + d["box"][2]) / 2 > 0.5 for d in of_yard)


def test_a_run_without_a_camera_waits_for_one(start):
    worker = start("# none yet\n")
    assert any("no camera yet" in line for line in iter(worker.process.stderr.readline, ""))
    worker.file.write_text(GATE)
    worker.wait_for_frames("gate")
    worker.file.write_text("")
    worker.wait_for_state("gate", "ended", "removed")
    assert worker.stop()[0] == 130


def test_a_file_with_a_mistake_changes_nothing_and_is_one_log_line(start):
    worker = start(GATE)
    worker.wait_for_frames("gate")
    worker.file.write_text(GATE.replace("fps = 5", "fps = -5") + YARD)
    worker.process.send_signal(signal.SIGHUP)
    worker.wait_for_frames("gate", 5)
    code, stderr = worker.stop()
    assert code == 130
    assert not worker.events("yard")
    mistakes = [line for line in stderr.splitlines() if "ERROR" in line]
    assert len({line.split("ERROR")[1] for line in mistakes}) == 1
    assert "cameras.toml:4: camera gate: fps" in mistakes[0]


def test_mistakes_at_the_start_are_one_line_and_exit_code_2(cli, tmp_path):
    file = tmp_path / "cameras.toml"
    file.write_text(GATE.replace("fps = 5", "fps = -5").replace("Person", "Zebra"))
    result = cli("run", "--cameras", file)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "cameras.toml:4: camera gate: fps" in line
    assert "and 1 more" in line


HANGUP_WHILE_LOADING = """
import os, signal
from worker.commands import run

def run_live(settings):
    os.kill(os.getpid(), signal.SIGHUP)
    return 0

run.run_live = run_live
from worker.cli import run_and_exit
run_and_exit()
"""


def test_sighup_while_the_detector_is_loading_does_not_end_the_worker(exec_cli, tmp_path):
    file = tmp_path / "cameras.toml"
    file.write_text(GATE)
    process = exec_cli.start("run", "--cameras", file, code=HANGUP_WHILE_LOADING)
    assert process.wait(60) == 0
