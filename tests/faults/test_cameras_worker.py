"""Failing cameras in the whole worker: its events, the effect on other cameras, its shutdown."""

import contextlib
import itertools
import time
from datetime import datetime

import pytest

from tests.conftest import WALKWAY, free_port, wait_until
from tests.faults.rtsp_faults import CLOSE, SILENT, Camera, Clip, Swallower
from tests.integration.test_run import stop
from tests.streams import assert_whole, events_of, frames_of, states_of

DEAD = 49


@pytest.fixture(scope="module")
def clip():
    return Clip.h264()


@pytest.fixture
def run(cli, valkey_server):
    def run(*arguments):
        return cli.start("run", *arguments, "--redis-url", valkey_server.url)

    return run


def wait_for_state(server, camera, state, timeout=40):
    wait_until(lambda: state in states_of(server.client, camera), timeout, f"{camera}: {state}")


@pytest.mark.long
def test_every_fault_is_published_with_its_reason_and_its_end_too(clip, valkey_server, run):
    faults = {
        "silent": ({"DESCRIBE": SILENT}, "timeout"),
        "rude": ({"accept": CLOSE}, "closed"),
        "lost": ({"DESCRIBE": 404}, "not_found"),
        "locked": ({"DESCRIBE": 401}, "unauthorized"),
        "ill": ({"DESCRIBE": 503}, "error"),
    }
    with contextlib.ExitStack() as stack:
        cameras = {
            name: stack.enter_context(Camera(clip, answers=answers))
            for name, (answers, _) in faults.items()
        }
        stalled = stack.enter_context(Camera(clip, script=lambda session: session.hold()))
        worker = run(*(f"{n}={c.url}" for n, c in cameras.items()), f"stalled={stalled.url}")
        for name, (_, reason) in faults.items():
            wait_for_state(valkey_server, name, ("down", reason))
        wait_for_state(valkey_server, "stalled", ("down", "stall"))
        for camera in cameras.values():
            camera.answers = {}
        stalled.script = lambda session: session.send()
        for name in [*faults, "stalled"]:
            if name != "locked":  # that one is retried slowly
                wait_for_state(valkey_server, name, ("up", "connected"), 8)
        code, seconds, _ = stop(worker)
    assert (code, seconds < 5) == (0, True)
    for name in [*faults, "stalled"]:
        assert_whole(events_of(valkey_server.client, name))
        reasons = [reason for state, reason in states_of(valkey_server.client, name)]
        told = [reason for reason, _ in itertools.groupby(reasons)]
        assert len(told) == len(set(told)), reasons  # each once, but for heartbeats


@contextlib.contextmanager
def dead_cameras(clip):
    """URLs of cameras that fail in every way that takes time, and in some that take none."""
    with contextlib.ExitStack() as stack:
        kinds = [
            stack.enter_context(Swallower()).url,
            stack.enter_context(Camera(clip, answers={"accept": SILENT})).url,
            stack.enter_context(Camera(clip, answers={"SETUP": SILENT})).url,
            stack.enter_context(Camera(clip, answers={"DESCRIBE": 404})).url,
            stack.enter_context(Camera(clip, script=lambda session: session.hold())).url,
            f"rtsp://127.0.0.1:{free_port()}/stream",
        ]
        yield [kinds[index % len(kinds)] for index in range(DEAD)]


def rate_and_delay(server, seconds):
    """Frames per second of the camera "gate" from now on, and the median latency."""
    seen = len(frames_of(server.client, "gate"))
    started = time.monotonic()
    wait_until(lambda: len(frames_of(server.client, "gate")) >= seen + 10 * seconds, 60, "frames")
    rate = (len(frames_of(server.client, "gate")) - seen) / (time.monotonic() - started)
    entries = server.client.xrange("ssd:{gate}:detections")[-10 * seconds :]
    events = frames_of(server.client, "gate")[-10 * seconds :]
    published = {fields[b"id"].decode(): int(key.split(b"-")[0]) / 1e3 for key, fields in entries}
    delays = sorted(
        published[e["id"]] - datetime.fromisoformat(e["time"]).timestamp()
        for e in events
        if e["id"] in published
    )
    return rate, delays[len(delays) // 2]


@pytest.mark.long
@pytest.mark.timeout(240)
def test_one_healthy_camera_among_fifty_keeps_its_rate_and_latency(
    clip, valkey_server, rtsp_server, run, record_property
):
    gate = f"gate={rtsp_server.publish(WALKWAY, 'walkway.mp4')}"
    alone = run(gate, "--publish", "all")
    wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > 10, 40, "frames")
    rate_alone, delay_alone = rate_and_delay(valkey_server, 10)
    stop(alone)
    valkey_server.client.flushall()
    with dead_cameras(clip) as urls:
        worker = run(gate, *(f"dead{i}={url}" for i, url in enumerate(urls)), "--publish", "all")
        wait_until(
            lambda: all(states_of(valkey_server.client, f"dead{i}") for i in range(DEAD)),
            60,
            "the dead",
        )
        wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > 10, 40, "frames")
        rate, delay = rate_and_delay(valkey_server, 15)
        code, seconds, stderr = stop(worker)
    record_property("rate", (round(rate_alone, 2), round(rate, 2)))
    record_property("delay_seconds", (round(delay_alone, 3), round(delay, 3)))
    record_property("seconds_to_stop", round(seconds, 2))
    assert code == 0
    assert seconds < 5
    assert rate > 0.85 * rate_alone
    assert delay < delay_alone + 0.1
    assert "Traceback" not in stderr


@pytest.mark.long
def test_a_worker_stops_in_time_while_all_its_cameras_hang(clip, valkey_server, run):
    with dead_cameras(clip) as urls:
        worker = run(*(f"dead{i}={url}" for i, url in enumerate(urls)))
        wait_until(
            lambda: all(states_of(valkey_server.client, f"dead{i}") for i in range(5)),
            60,
            "the dead",
        )
        code, seconds, _ = stop(worker)
    assert code == 0
    assert seconds < 5
