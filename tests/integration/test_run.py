import functools
import http.server
import json
import signal
import threading
import time
from datetime import UTC, datetime

import pytest

from tests.conftest import WALKWAY, free_port, wait_until
from tests.streams import assert_whole, events_of, frames_of, states_of


@pytest.fixture
def run(cli, valkey_server):
    """Start `ssd-worker run` into the server."""

    def run(*arguments):
        return cli.start("run", *arguments, "--redis-url", valkey_server.url)

    return run


def stop(process, number=signal.SIGTERM):
    """Stop the worker; returns its exit code, how long it took, and its log."""
    started = time.monotonic()
    process.send_signal(number)
    _, stderr = process.communicate(timeout=15)
    assert "Traceback" not in stderr
    return process.returncode, time.monotonic() - started, stderr


def test_a_subscriber_prints_events_of_an_rtsp_camera_within_a_second_of_the_frame(
    cli, valkey_server, rtsp_server, run
):
    url = rtsp_server.publish(WALKWAY, "walkway.mp4")
    subscriber = cli.start("subscribe", "gate", "--redis-url", valkey_server.url)
    worker = run(f"gate={url}")
    delays = []
    for line in subscriber.stdout:
        event = json.loads(line)
        if event["type"] == "ssd.detections.v1":
            captured = datetime.fromisoformat(event["time"])
            delays.append((datetime.now(UTC) - captured).total_seconds())
            assert event["data"]["clock"] in ("rtcp", "arrival")
            assert event["data"]["camera_id"] == "gate"
        if len(delays) == 40:
            break
    assert sorted(delays)[20] < 1.0
    code, seconds, _ = stop(worker)
    assert code == 0
    assert seconds < 5


def test_sequence_numbers_have_no_hole_and_states_frame_the_frames(valkey_server, rtsp_server, run):
    worker = run(f"gate={rtsp_server.publish(WALKWAY, 'walkway.mp4')}")
    wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > 20, 40, "20 frames")
    stop(worker)
    assert_whole(events_of(valkey_server.client, "gate"))
    states = states_of(valkey_server.client, "gate")
    assert states[0] == ("up", "connected")
    assert states[-1] == ("down", "stopped")
    status = valkey_server.client.hgetall("ssd:{gate}:status")
    assert status[b"state"] == b"down"


def test_a_camera_that_comes_back_is_read_again_under_a_later_epoch(
    valkey_server, rtsp_server, run
):
    worker = run(f"gate={rtsp_server.publish(WALKWAY, 'walkway.mp4')}")
    wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > 5, 40, "frames")
    rtsp_server.stop()
    wait_until(lambda: states_of(valkey_server.client, "gate")[-1][0] == "down", 20, "the loss")
    seen = len(frames_of(valkey_server.client, "gate"))
    rtsp_server.start()
    wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > seen + 5, 40, "more frames")
    stop(worker)
    epochs = [e["data"]["epoch"] for e in frames_of(valkey_server.client, "gate")]
    assert epochs == sorted(epochs)
    assert len(set(epochs)) == 2


def test_a_dead_camera_neither_stops_the_others_nor_shows_its_password(
    valkey_server, rtsp_server, run
):
    worker = run(
        f"gate={rtsp_server.publish(WALKWAY, 'walkway.mp4')}",
        f"dead=rtsp://admin:s3cr%40t%2F@127.0.0.1:{free_port()}/stream",
        f"lost={rtsp_server.publish(WALKWAY, 'x.mp4').replace('x.mp4', 'missing.mp4')}",
    )
    wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > 20, 40, "frames")
    wait_until(lambda: states_of(valkey_server.client, "dead"), 10, "the dead camera's state")
    wait_until(lambda: states_of(valkey_server.client, "lost"), 10, "the lost camera's state")
    _, _, stderr = stop(worker)
    assert ("down", "refused") in states_of(valkey_server.client, "dead")
    assert ("down", "not_found") in states_of(valkey_server.client, "lost")
    published = json.dumps(events_of(valkey_server.client, "dead"))
    for text in (stderr, published):
        assert "s3cr" not in text
        assert "rtsp://" not in text


@pytest.mark.long
def test_a_file_is_played_at_its_own_speed_and_ends_the_run(valkey_server, run, short_clip):
    worker = run(str(short_clip))
    wait_until(lambda: frames_of(valkey_server.client, "short"), 40, "the first frame")
    started = time.monotonic()
    _, stderr = worker.communicate(timeout=30)
    assert worker.returncode == 0, stderr
    assert 2 < time.monotonic() - started < 8  # 40 frames at 10 a second
    assert states_of(valkey_server.client, "short") == [
        ("up", "connected"),
        ("ended", "end_of_file"),
    ]
    assert "frames in" in stderr


@pytest.mark.long
def test_a_looped_file_begins_again_under_a_later_epoch(valkey_server, run, short_clip):
    worker = run(str(short_clip), "--loop")
    wait_until(
        lambda: len({e["data"]["epoch"] for e in frames_of(valkey_server.client, "short")}) == 2,
        40, "the second round",
    )  # fmt: skip
    code, seconds, _ = stop(worker, signal.SIGINT)
    assert code == 130
    assert seconds < 5


def test_an_http_source_is_read(tmp_path, valkey_server, run, short_clip):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=short_clip.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    worker = run(f"web=http://127.0.0.1:{server.server_port}/{short_clip.name}")
    wait_until(lambda: frames_of(valkey_server.client, "web"), 40, "a frame")
    stop(worker)
    server.shutdown()


@pytest.mark.long
def test_frames_without_detections_are_published_only_if_asked(valkey_server, run, short_clip):
    quiet = run(f"quiet={short_clip}", "--labels", "Laptop")
    every = run(f"every={short_clip}", "--labels", "Laptop", "--publish", "all")
    for worker in (quiet, every):
        worker.communicate(timeout=60)
        assert worker.returncode == 0
    assert frames_of(valkey_server.client, "quiet") == []
    frames = frames_of(valkey_server.client, "every")
    assert len(frames) > 10
    assert all(e["data"]["detections"] == [] for e in frames)
    # Every frame of the clip was analysed or is accounted for.
    assert len(frames) + sum(e["data"]["dropped"] for e in frames) == 40


def test_events_made_while_redis_is_away_arrive_afterwards_once_and_in_order(
    valkey_server, run, short_clip
):
    worker = run(f"gate={short_clip}", "--loop")
    wait_until(lambda: len(frames_of(valkey_server.client, "gate")) > 5, 40, "frames")
    valkey_server.stop()
    time.sleep(3)
    valkey_server.start()
    before = len(events_of(valkey_server.client, "gate"))
    wait_until(
        lambda: len(events_of(valkey_server.client, "gate")) > before + 50, 30, "the backlog"
    )
    code, _, stderr = stop(worker)
    assert code == 0
    assert "Redis is unavailable" in stderr
    assert "Redis is available again" in stderr
    assert_whole(events_of(valkey_server.client, "gate"))


def test_a_worker_is_turned_away_once_another_has_taken_its_camera(
    cli, valkey_server, run, short_clip
):
    first = run(f"gate={short_clip}", "--loop")
    wait_until(lambda: frames_of(valkey_server.client, "gate"), 40, "the first worker")
    epoch = int(valkey_server.client.hget("ssd:{gate}:producer", "epoch"))
    valkey_server.client.hset("ssd:{gate}:producer", "epoch", epoch + 10_000_000)
    _, stderr = first.communicate(timeout=20)
    assert first.returncode == 1
    assert "taken over" in stderr
    assert "Traceback" not in stderr


@pytest.mark.long
def test_the_stream_is_trimmed_to_about_the_length_asked_for(valkey_server, run, short_clip):
    worker = run(f"gate={short_clip}", "--loop", "--publish", "all", "--stream-maxlen", "10")
    producer = "ssd:{gate}:producer"
    epochs = set()

    def many():
        epochs.add(valkey_server.client.hget(producer, "epoch"))
        return len(epochs) > 5 or valkey_server.client.xinfo_stream(
            "ssd:{gate}:detections"
        )["entries-added"] > 150  # fmt: skip

    wait_until(lambda: valkey_server.client.exists("ssd:{gate}:detections"), 40, "the worker")
    wait_until(many, 40, "150 entries")
    stop(worker)
    assert valkey_server.client.xlen("ssd:{gate}:detections") < 120  # nodes hold 100 entries


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_signals_in_quick_succession_are_one_request_to_stop(
    valkey_server, run, short_clip, number, code
):
    worker = run(f"gate={short_clip}", "--loop")
    wait_until(lambda: frames_of(valkey_server.client, "gate"), 40, "a frame")
    for _ in range(3):
        worker.send_signal(number)
        time.sleep(0.005)  # else the kernel makes one of them
    _, said = worker.communicate(timeout=15)
    assert worker.returncode == code, said
    assert "Traceback" not in said
    assert states_of(valkey_server.client, "gate")[-1] == ("down", "stopped")
