"""`ssd-worker run` with snapshots: real processes on a real server."""

import json
import signal
from itertools import pairwise

import pytest

from tests.clips import pictures
from tests.conftest import wait_until
from tests.snapshots import pixels
from tests.streams import assert_whole, events_of, frames_of
from worker.snapshots import read_snapshot
from worker.sources.snapshots import blurred_size


class Worker:
    """Watches cameras, and is asked for what it publishes of them."""

    def __init__(self, cli, server, file, *options):
        self.server = server
        self.process = cli.start(
            "run", "--cameras", file, "--loop", "--publish", "all", "--fps", "3",
            "--max-batch", "1", "--redis-url", server.url, *options,
        )  # fmt: skip

    def key(self, camera_id):
        return f"ssd:{{{camera_id}}}:snapshot"

    def snapshot(self, camera_id):
        data = self.server.client.get(self.key(camera_id))
        return None if data is None else read_snapshot(data)

    def frame_of(self, info):
        """The event of the frame that a snapshot shows."""
        return next(
            (
                event
                for event in frames_of(self.server.client, info.camera_id)
                if (event["data"]["epoch"], event["data"]["frame_index"])
                == (info.epoch, info.frame_index)
            ),
            None,
        )

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        _, said = self.process.communicate(timeout=30)
        assert self.process.returncode == 0, said
        return said


@pytest.fixture
def start(cli, valkey_server, tmp_path, short_clip):
    def start(snapshots, *options):
        """``snapshots``: what the cameras' tables say."""
        file = tmp_path / "cameras.toml"
        tables = (f"[cameras.{name}]\nsource = '{short_clip}'\n{said}\n"
                  for name, said in snapshots.items())  # fmt: skip
        file.write_text("".join(tables))
        return Worker(cli, valkey_server, file, *options)

    return start


def difference(jpeg, image):
    return abs(pixels(jpeg) - image).mean()


def test_cameras_have_the_snapshots_that_they_were_given_and_no_others(
    start, short_clip, valkey_server
):
    worker = start({"gate": "snapshots = true", "yard": "snapshots = 'blur'", "unsaid": ""})
    wait_until(lambda: worker.snapshot("gate") and worker.snapshot("yard"), 40, "snapshots")
    wait_until(lambda: frames_of(valkey_server.client, "unsaid"), 40, "frames")
    found = {key.decode() for key in valkey_server.client.scan_iter("*:snapshot")}
    assert found == {worker.key("gate"), worker.key("yard")}
    (info, sharp), (blurred_info, blurred) = worker.snapshot("gate"), worker.snapshot("yard")
    assert (info.blurred, blurred_info.blurred) == (False, True)
    event = wait_until(lambda: worker.frame_of(info), 10, "the event of the frame shown")
    assert event["time"] == json.loads(info.to_json())["time"]
    assert 0 < worker.server.client.pttl(worker.key("gate")) <= 10_000
    *_, picture = pictures(short_clip, info.frame_index + 1)
    image = picture.reformat(640, 480, "rgb24").to_ndarray().astype(float)
    assert difference(sharp, image) < 6
    *_, other = pictures(short_clip, blurred_info.frame_index + 1)
    image = other.reformat(640, 480, "rgb24").to_ndarray().astype(float)
    assert difference(blurred, image) > 12
    assert blurred_size(480, 640) == (12, 16)
    assert "snapshots are not published" not in worker.stop()


@pytest.mark.long
def test_snapshots_follow_each_other_at_most_once_in_their_period(start):
    worker = start({"gate": ""}, "--snapshots", "--snapshot-seconds", "2")
    times = []

    def saw_five():
        if (found := worker.snapshot("gate")) and found[0].time not in times:
            times.append(found[0].time)
        return len(times) == 5

    wait_until(saw_five, 60, "five snapshots")
    gaps = [(b - a).total_seconds() for a, b in pairwise(times)]
    assert sum(gaps) / len(gaps) >= 1.9
    assert min(gaps) >= 1.5  # the time is that of the capture, the period that of the reader
    worker.stop()


@pytest.mark.long
def test_without_a_server_no_picture_waits_and_no_event_is_lost(start, valkey_server):
    worker = start({"gate": ""}, "--snapshots")
    wait_until(lambda: worker.snapshot("gate"), 40, "a snapshot")
    before = len(events_of(valkey_server.client, "gate"))
    valkey_server.stop()
    line = wait_until(
        lambda: next((x for x in worker.process.stderr if "snapshots are not" in x), None), 20
    )
    assert "no Redis answers" in line
    valkey_server.start()
    wait_until(lambda: len(events_of(valkey_server.client, "gate")) > before + 10, 40, "events")
    newest = wait_until(lambda: worker.snapshot("gate"), 20, "a snapshot")[0]
    wait_until(lambda: worker.snapshot("gate")[0].time > newest.time, 20, "the next one")
    assert "snapshots are published again" in worker.stop()
    assert_whole(events_of(valkey_server.client, "gate"))


@pytest.mark.long
def test_a_server_that_freezes_holds_up_neither_the_cameras_nor_the_end(start, valkey_server):
    worker = start({"gate": "", "yard": ""}, "--snapshots")
    wait_until(lambda: worker.snapshot("gate") and worker.snapshot("yard"), 40, "snapshots")
    valkey_server.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: next((x for x in worker.process.stderr if "is unavailable" in x), None), 20)
    worker.process.send_signal(signal.SIGTERM)
    try:
        assert worker.process.wait(15) == 0
    finally:
        valkey_server.process.send_signal(signal.SIGCONT)


@pytest.mark.long
def test_who_lost_a_camera_shows_nothing_more_of_it(start, cli, valkey_server, short_clip):
    first = start({"gate": "", "yard": ""}, "--snapshots")
    old = wait_until(lambda: first.snapshot("gate"), 40, "a snapshot")[0]
    second = cli.start(
        "run", f"gate={short_clip}", "--loop", "--take-over", "--snapshots", "--snapshot-blur",
        "--redis-url", valkey_server.url,
    )  # fmt: skip
    wait_until(lambda: first.snapshot("gate")[0].blurred, 40, "a snapshot of the second")
    seen = set()

    def saw_a_few():
        seen.add(first.snapshot("gate")[0])
        return len(seen) == 4

    wait_until(saw_a_few, 40, "more of them")
    assert {info.blurred for info in seen} == {True}
    assert min(info.epoch for info in seen) > old.epoch
    second.send_signal(signal.SIGTERM)
    assert second.wait(20) == 0
    first.process.kill()


@pytest.mark.long
def test_snapshots_that_are_switched_off_in_the_file_are_gone_soon(start, tmp_path):
    worker = start({"gate": "snapshots = true"})
    wait_until(lambda: worker.snapshot("gate"), 40, "a snapshot")
    file = tmp_path / "cameras.toml"
    file.write_text(file.read_text().replace("true", "'blur'"))
    wait_until(lambda: worker.snapshot("gate")[0].blurred, 40, "a blurred one")
    file.write_text(file.read_text().replace("'blur'", "false"))
    wait_until(lambda: worker.snapshot("gate") is None, 20, "none")
    worker.stop()
