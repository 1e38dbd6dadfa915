"""Two workers and one camera, as real processes on a real server."""

import signal
import time

import pytest

from tests.conftest import wait_until
from tests.streams import assert_whole, events_of, states_of

PRODUCER = "ssd:{gate}:producer"


@pytest.fixture
def run(cli, valkey_server, short_clip):
    """Start `ssd-worker run` on cameras by name, into the server."""

    def run(*cameras, options=()):
        named = [f"{camera}={short_clip}" for camera in cameras]
        return cli.start(
            "run", *named, "--loop", "--publish", "all", "--redis-url", valkey_server.url,
            "--max-batch", "1", *options,
        )  # fmt: skip

    return run


def events_from(server, camera="gate", *, epoch_after=0):
    return [e for e in events_of(server.client, camera) if e["data"]["epoch"] > epoch_after]


def latest_epoch(server, camera="gate"):
    return events_of(server.client, camera)[-1]["data"]["epoch"]


def owner(server, camera="gate"):
    return server.client.hget(f"ssd:{{{camera}}}:producer", "owner")


def stop(process):
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    return said


@pytest.mark.long
def test_a_second_worker_refuses_to_start_a_camera_that_another_is_watching(valkey_server, run):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the first worker")
    before = owner(valkey_server)
    second = run("gate")
    _, said = second.communicate(timeout=40)
    assert second.returncode == 1
    assert f"another worker ({before.decode()}) is watching it: stop that one" in said
    assert "--take-over" in said
    assert "Traceback" not in said
    assert first.poll() is None
    assert owner(valkey_server) == before
    said = stop(first)
    assert "taken over" not in said
    assert_whole(events_of(valkey_server.client, "gate"))


def test_a_worker_watches_its_other_cameras_and_waits_for_the_one_that_another_has(
    valkey_server, run
):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the first worker")
    second = run("yard", "gate")
    wait_until(lambda: events_from(valkey_server, "yard"), 40, "the other camera")
    line = wait_until(
        lambda: next((line for line in second.stderr if "held by another" in line), None), 20
    )
    assert "camera gate: held by another worker" in line
    assert second.poll() is None
    last = latest_epoch(valkey_server)
    stop(first)
    assert states_of(valkey_server.client, "gate")[-1] == ("down", "stopped")
    wait_until(lambda: events_from(valkey_server, epoch_after=last), 10, "its successor")
    stop(second)
    assert_whole(events_of(valkey_server.client, "gate"))
    assert_whole(events_of(valkey_server.client, "yard"))


@pytest.mark.long
def test_a_worker_that_was_stopped_in_order_is_back_at_once(valkey_server, run):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the worker")
    stop(first)
    assert owner(valkey_server) == b""
    last = latest_epoch(valkey_server)
    again = run("gate")
    wait_until(lambda: events_from(valkey_server, epoch_after=last), 40, "the next")
    said = stop(again)
    assert "waiting" not in said
    assert "taken over" not in said


@pytest.mark.long
def test_a_worker_that_was_killed_is_succeeded_by_its_restart_within_fifteen_seconds(
    valkey_server, run
):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the worker")
    first.kill()
    first.wait()
    killed, last = time.monotonic(), latest_epoch(valkey_server)
    again = run("gate")
    wait_until(lambda: events_from(valkey_server, epoch_after=last), 40, "its restart")
    assert time.monotonic() - killed < 15 + 5  # a busy machine
    said = stop(again)
    assert "to see whether that one is still there" in said
    assert "camera gate: taken over from worker" in said


@pytest.mark.long
def test_a_worker_that_waits_for_a_camera_takes_it_after_the_death_of_its_owner(valkey_server, run):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the first worker")
    second = run("yard", "gate")
    wait_until(lambda: next((x for x in second.stderr if "held by another" in x), None), 40)
    first.kill()
    killed = time.monotonic()
    first.wait()
    last = latest_epoch(valkey_server)
    wait_until(lambda: events_from(valkey_server, epoch_after=last), 40, "its successor")
    assert time.monotonic() - killed < 15 + 5  # a busy machine
    stop(second)


@pytest.mark.long
def test_a_camera_is_taken_over_if_asked_and_the_old_worker_says_so_and_stops(valkey_server, run):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the first worker")
    old = owner(valkey_server)
    second = run("gate", options=["--take-over"])
    _, said = first.communicate(timeout=40)
    assert first.returncode == 1
    new = owner(valkey_server)
    assert new not in (old, b"")
    assert f"another worker ({new.decode()}) has taken over its stream" in said or (
        "another worker has taken over its stream" in said
    )
    assert "Traceback" not in said
    last = latest_epoch(valkey_server)
    wait_until(lambda: events_from(valkey_server, epoch_after=last), 20, "more of the new one")
    assert owner(valkey_server) == new
    assert f"taken over from worker {old.decode()}" in stop(second)
    assert_whole(events_of(valkey_server.client, "gate"))


@pytest.mark.long
def test_a_worker_that_was_frozen_finds_its_camera_taken_and_says_so(valkey_server, run):
    first = run("gate")
    wait_until(lambda: events_from(valkey_server), 40, "the first worker")
    first.send_signal(signal.SIGSTOP)
    last = latest_epoch(valkey_server)
    second = run("gate")
    wait_until(lambda: events_from(valkey_server, epoch_after=last), 40, "its successor")
    first.send_signal(signal.SIGCONT)
    _, said = first.communicate(timeout=20)
    assert first.returncode == 1
    assert "has taken over its stream" in said
    assert second.poll() is None
    stop(second)
    assert_whole(events_of(valkey_server.client, "gate"))


@pytest.mark.long
def test_a_quiet_camera_stays_with_its_worker(valkey_server, cli, short_clip):
    """No event is made for longer than an owner may be unseen: only renewals keep it."""
    worker = cli.start(
        "run", f"gate={short_clip}", "--loop", "--labels", "Laptop",
        "--redis-url", valkey_server.url,
    )  # fmt: skip
    wait_until(lambda: owner(valkey_server), 40, "the worker")

    def seen():
        return valkey_server.client.hget(PRODUCER, "owner_seen")

    for _ in range(2):
        before = seen()
        wait_until(lambda before=before: seen() != before, 8, "a renewal")
    stop(worker)


@pytest.mark.long
def test_a_camera_that_is_removed_from_the_cameras_file_is_free_at_once(
    valkey_server, cli, short_clip, tmp_path
):
    cameras = tmp_path / "cameras.toml"
    both = "".join(f'[cameras.{name}]\nsource = "{short_clip}"\n' for name in ("gate", "yard"))
    cameras.write_text(both)
    worker = cli.start(
        "run", "--cameras", cameras, "--loop", "--publish", "all",
        "--redis-url", valkey_server.url,
    )  # fmt: skip
    wait_until(lambda: owner(valkey_server) and events_from(valkey_server), 40, "the camera")
    cameras.write_text(both[both.index("[cameras.yard]") :])
    wait_until(lambda: owner(valkey_server) == b"", 20, "its return")
    assert states_of(valkey_server.client, "gate")[-1] == ("ended", "removed")
    cameras.write_text(both)
    wait_until(lambda: owner(valkey_server), 20, "the camera again")
    stop(worker)
    assert_whole(events_of(valkey_server.client, "gate"))
