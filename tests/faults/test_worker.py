"""The worker's own faults: stuck, out of disk space, stopped under load."""

import json
import os
import resource
import signal
import subprocess
import textwrap
import time

import pytest

from tests.conftest import WALKWAY, wait_until
from tests.streams import assert_whole, events_of, states_of


def run_patched(exec_cli, patch, *arguments):
    """`ssd-worker` as a separate process, with a part of it broken first."""
    code = textwrap.dedent(patch) + "\nfrom worker.cli import run_and_exit\nrun_and_exit()\n"
    return exec_cli.start(*arguments, code=code)


HANGING_DETECTOR = """
    import threading
    from worker.pipeline.detection import FrameDetector
    detect, batches = FrameDetector.__call__, []
    def hang_for_ever():
        threading.Event().wait()
    def start(self, images, filters):
        batches.append(images)
        wait = detect(self, images, filters)
        return wait if len(batches) < 5 else hang_for_ever
    FrameDetector.__call__ = start
"""
HANGING_SINK = """
    import threading
    from worker.sinks.redis_stream import RedisStreamSink
    publish, batches = RedisStreamSink.publish, []
    def hang_for_ever(self, events):
        batches.append(events)
        return publish(self, events) if len(batches) < 5 else threading.Event().wait()
    RedisStreamSink.publish = hang_for_ever
"""
BROKEN_GPU = """
    import torch
    from ssd_core import Detector
    submit, batches = Detector.submit, []
    def fail(self, images):
        batches.append(images)
        if len(batches) > 20:
            raise torch.AcceleratorError("CUDA error: an illegal memory access\\nmore lines")
        return submit(self, images)
    Detector.submit = fail
"""


@pytest.mark.parametrize(
    "patch",
    [
        pytest.param(HANGING_DETECTOR, id="detector"),
        pytest.param(HANGING_SINK, id="sink", marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize("command", ["run", pytest.param("replay", marks=pytest.mark.long)])
def test_a_stuck_worker_exits_with_code_70_and_its_thread_stacks(
    exec_cli, valkey_server, short_clip, command, patch
):
    options = ["--loop", "--publish", "all"] if command == "run" else ["--max-batch", "4"]
    process = run_patched(
        exec_cli, patch, command, f"gate={short_clip}", "--redis-url", valkey_server.url,
        "--watchdog-seconds", "3", *options,
    )  # fmt: skip
    _, said = process.communicate(timeout=60)
    assert process.returncode == 70, said
    assert "no progress for" in said
    assert "in hang_for_ever" in said  # the stack of the thread that hangs


@pytest.mark.long
def test_a_worker_survives_an_outage_longer_than_the_watchdogs_limit(
    exec_cli, valkey_server, short_clip
):
    process = exec_cli.start(
        "run", f"gate={short_clip}", "--loop", "--redis-url", valkey_server.url,
        "--watchdog-seconds", "4",
    )  # fmt: skip
    wait_until(lambda: events_of(valkey_server.client, "gate"), 40)
    valkey_server.stop()
    time.sleep(8)
    assert process.poll() is None
    valkey_server.start()
    before = len(events_of(valkey_server.client, "gate"))
    wait_until(lambda: len(events_of(valkey_server.client, "gate")) > before + 40)
    assert_whole(events_of(valkey_server.client, "gate"))


@pytest.mark.long
def test_a_gpu_that_fails_ends_the_worker_in_one_line_and_its_cameras_say_so(
    exec_cli, valkey_server, short_clip
):
    process = run_patched(
        exec_cli,
        BROKEN_GPU,
        "run",
        f"gate={short_clip}",
        "--loop",
        "--redis-url",
        valkey_server.url,
    )
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the GPU failed (CUDA error: an illegal memory access): start the worker again" in said
    assert "Traceback" not in said
    assert "more lines" not in said
    assert states_of(valkey_server.client, "gate")[-1] == ("down", "stopped")


def small_disk(size):
    """Before the process starts: limit the size of each of its files."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.long
def test_a_replay_whose_disk_is_full_ends_in_one_line_and_leaves_no_output(exec_cli):
    found = exec_cli("replay", WALKWAY, "--output", "tags.jsonl", preexec_fn=small_disk(50_000))
    assert found.returncode == 1
    assert "Traceback" not in found.stderr
    assert found.stderr.strip().count("\n") == 0
    assert not (exec_cli.cwd / "tags.jsonl").exists()
    again = exec_cli("replay", WALKWAY, "--output", "tags.jsonl")
    assert again.returncode == 0, again.stderr
    events = [json.loads(line) for line in (exec_cli.cwd / "tags.jsonl").read_text().splitlines()]
    assert [e["data"]["seq"] for e in events] == list(range(151))


@pytest.mark.long
def test_a_spool_whose_disk_is_full_costs_events_and_not_the_worker(
    exec_cli, valkey_server, short_clip
):
    valkey_server.stop()
    process = exec_cli.start(
        "run", f"gate={short_clip}", "--loop", "--publish", "all", "--redis-url",
        valkey_server.url, stdout=subprocess.DEVNULL, preexec_fn=small_disk(200_000),
    )  # fmt: skip
    said = []
    for line in process.stderr:
        said.append(line)
        if "cannot spool events" in line:
            break
    valkey_server.start()
    wait_until(lambda: len(events_of(valkey_server.client, "gate")) > 20)
    process.send_signal(signal.SIGTERM)
    _, rest = process.communicate(timeout=15)
    assert process.returncode == 0, rest
    assert "Traceback" not in "".join(said) + rest
    assert_whole(events_of(valkey_server.client, "gate"))


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_under_load_ends_in_time_with_every_event_published(
    exec_cli, valkey_server, short_clip, number
):
    cameras = [f"c{i}={short_clip}" for i in range(12)]
    process = exec_cli.start(
        "run", *cameras, "--loop", "--publish", "all", "--redis-url", valkey_server.url
    )
    wait_until(lambda: len(events_of(valkey_server.client, "c11")) > 20, 60)
    started = time.monotonic()
    os.kill(process.pid, number)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - started < 6  # 5, and a busy machine
    assert process.returncode == (0 if number == signal.SIGTERM else 130)
    assert "Traceback" not in said
    for i in range(12):
        events = events_of(valkey_server.client, f"c{i}")
        assert_whole(events)
        assert events[-1]["data"]["reason"] == "stopped"
