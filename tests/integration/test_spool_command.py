"""`ssd-worker spool` beside real workers."""

import json
import signal

from tests.conftest import wait_until
from tests.events import detections_event
from tests.spools import spool_in
from tests.streams import assert_whole, events_of, frames_of


def fill(directory, destination, camera, count):
    spool = spool_in(directory, [camera], destination=destination)
    spool.append([detections_event(camera, epoch=1, seq=seq) for seq in range(count)])
    spool.close()


def test_what_waits_is_listed_and_what_nobody_uses_is_purged(cli, tmp_path):
    directory = tmp_path / "state" / "spool"
    assert cli("spool").stderr == f"no events wait in {directory}\n"
    fill(directory, "gone.example:6379/0 ssd", "gate", 3)
    fill(directory, "redis.local:6379/0 ssd", "yard", 2)
    listed = cli("spool", "list")
    assert listed.returncode == 0
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert lines[0][:3] == ["camera", "for", "events"]
    assert [(line[0], line[1], line[3]) for line in lines[1:]] == [
        ("gate", "gone.example:6379/0", "3"),
        ("yard", "redis.local:6379/0", "2"),
    ]
    found = json.loads(cli("spool", "--json").stdout)["waiting"]
    assert [(row["camera_id"], row["events"], row["in_use"]) for row in found] == [
        ("gate", 3, False),
        ("yard", 2, False),
    ]
    purged = cli("spool", "purge", "--server", "gone.example:6379")
    assert purged.returncode == 0
    assert purged.stdout == "purged gate for gone.example:6379/0 ssd: 3 events\n"
    unknown = cli("spool", "purge", "yard", "gat")
    assert unknown.returncode == 1
    assert unknown.stdout == "purged yard for redis.local:6379/0 ssd: 2 events\n"
    assert "camera gat: no events of it wait in" in unknown.stderr
    assert cli("spool").stdout == ""


def test_to_purge_everything_has_to_be_asked_for(cli, tmp_path):
    fill(tmp_path / "state" / "spool", "redis.local:6379/0 ssd", "yard", 2)
    result = cli("spool", "purge")
    assert result.returncode == 2
    assert "give CAMERA..., --server HOST:PORT or --all" in result.stderr
    assert "yard" in cli("spool").stdout
    assert cli("spool", "purge", "--all").returncode == 0


def test_the_events_of_a_running_worker_are_left_alone_and_all_arrive(
    cli, valkey_server, short_clip, tmp_path
):
    directory = tmp_path / "state" / "spool"
    worker = cli.start(
        "run", f"gate={short_clip}", "--loop", "--publish", "all",
        "--redis-url", valkey_server.url,
    )  # fmt: skip
    wait_until(lambda: frames_of(valkey_server.client, "gate"), 40, "a frame")
    valkey_server.stop()
    fill(directory, f"127.0.0.1:{valkey_server.port}/0 ssd", "yard", 2)

    def spooled():
        rows = json.loads(cli("spool", "--json").stdout)["waiting"]
        return {row["camera_id"]: row["in_use"] for row in rows}

    wait_until(lambda: spooled() == {"gate": True, "yard": False}, 20, "events in the spool")
    purged = cli("spool", "purge", "--all")
    assert purged.returncode == 0
    assert "purged yard for" in purged.stdout
    assert "camera gate: a running worker publishes its events" in purged.stderr
    assert cli("spool", "purge", "gate").returncode == 1
    valkey_server.start()
    before = len(events_of(valkey_server.client, "gate"))
    wait_until(lambda: len(events_of(valkey_server.client, "gate")) > before + 20, 20)
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=20)
    assert worker.returncode == 0, said
    assert_whole(events_of(valkey_server.client, "gate"))
    assert cli("spool").stdout == ""


def test_a_worker_says_that_events_wait_which_it_does_not_publish_and_reports_those_purged(
    cli, valkey_server, short_clip, tmp_path
):
    directory = tmp_path / "state" / "spool"
    fill(directory, "gone.example:6379/0 ssd", "gate", 3)
    fill(directory, f"127.0.0.1:{valkey_server.port}/0 ssd", "gate", 4)
    cli("spool", "purge", "--server", f"127.0.0.1:{valkey_server.port}")
    worker = cli.start("run", f"gate={short_clip}", "--loop", "--redis-url", valkey_server.url)

    def lost():
        events = events_of(valkey_server.client, "gate")
        return [e["data"]["dropped"] for e in events if e["data"].get("reason") == "events_lost"]

    wait_until(lambda: lost() == [4], 40, "the loss to be reported")
    worker.send_signal(signal.SIGTERM)
    _, said = worker.communicate(timeout=20)
    assert "the spool holds 3 events that this worker does not publish" in said
    assert "`ssd-worker spool`" in said
