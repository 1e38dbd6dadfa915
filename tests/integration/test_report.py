"""`ssd-worker report`: from a file or a stream to a page, with the real recording or snapshot."""

import io
import json
import re
import shutil
from contextlib import closing
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from PIL import Image

from tests.events import PERSON, camera_event, detections_event
from tests.unit.worker.reports.events import end_of_recording, recorded
from tests.unit.worker.reports.test_page import Tags
from worker.publishing.checkpoint import ReplayClaim
from worker.sinks.redis_stream import RedisStreamSink
from worker.snapshots import SnapshotInfo
from worker.sources.recording import recording_digest

FRAMES = 40


@pytest.fixture
def clip(short_clip, tmp_path):
    return shutil.copy(short_clip, tmp_path / "clip.mp4")


def replay_of(clip):
    digest = recording_digest(clip)
    people = [PERSON] * 2
    events = [
        recorded(n, *people, digest=digest, pts=n * 1024, time_base="1/10240")
        for n in range(FRAMES)
    ]
    return [*events, end_of_recording(FRAMES, digest=digest)]


def write(path, events):
    path.write_text("".join(event.to_json() + "\n" for event in events))
    return path


def page(result, path):
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return Tags(path.read_text())


def refused(result, words):
    assert result.returncode == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_a_replay_is_reported_over_the_frames_of_its_recording(cli, clip, tmp_path):
    tags = write(tmp_path / "tags.jsonl", replay_of(clip))
    tags.write_text(tags.read_text() + "not an event\n")
    found = cli("report", tags, "--output", "report.html")
    tags = page(found, tmp_path / "report.html")
    assert "tags.jsonl: 1 of 42 lines hold no event, the first is line 42" in found.stderr
    assert "tags.jsonl: 1 of 42 lines hold no event" in tags.text
    assert "frames analysed 40 detections 80 mean in a frame 2" in tags.text
    assert len(tags.of("image")) > 3
    assert "Over frame " in tags.text
    assert str(tmp_path) not in tags.text
    assert not list(tmp_path.glob(".report*"))


def test_a_report_replaces_nothing_unless_told_to(cli, clip, tmp_path):
    tags = write(tmp_path / "tags.jsonl", replay_of(clip)[:3])
    (tmp_path / "report.html").write_text("mine")
    command = ("report", tags, "--output", "report.html", "--video", clip)
    refused(cli(*command), "report.html: exists already: choose another name or give --overwrite")
    assert (tmp_path / "report.html").read_text() == "mine"
    assert "frames analysed 3" in page(cli(*command, "--overwrite"), tmp_path / "report.html").text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "nothing to report on: give FILE.jsonl, or the id of a camera"),
        (("tags.jsonl",), "the report has nowhere to go: give --output report.html"),
        (("tags.jsonl", "--output", "r.pdf"), "--output r.pdf: expected .html"),
        (("gate", "--output", "r.html", "--redis-url", "none"), "an id needs the Redis server"),
        (("none.jsonl", "--output", "r.html"), "none.jsonl: no such file"),
        (("empty.jsonl", "--output", "r.html"), "empty.jsonl: no event to report on"),
        (("tags.parquet", "--output", "r.html"), "a report is made of JSON Lines"),
        (("tags.jsonl", "--output", "r.html", "--from", "2d"), "--from and --to are times of live"),
        (("tags.jsonl", "--output", "r.html", "--video", "x.mp4"), "--video x.mp4: no such file"),
        (
            ("tags.jsonl", "--output", "r.html", "--video", "empty.jsonl"),
            "--video empty.jsonl: these events are of another recording",
        ),
        (
            ("live.jsonl", "--output", "r.html", "--video", "empty.jsonl"),
            "--video empty.jsonl: is for a replay, and these are events of live cameras",
        ),
    ],
)
def test_what_cannot_work_is_one_line(cli, tmp_path, options, words):
    write(tmp_path / "tags.jsonl", [recorded(0, PERSON)])
    write(tmp_path / "live.jsonl", [detections_event()])
    write(tmp_path / "empty.jsonl", [])
    refused(cli("report", *options), words)
    assert not (tmp_path / "r.html").exists()


def test_a_file_without_any_event_names_its_first_line(cli, tmp_path):
    (tmp_path / "notes.jsonl").write_text("# notes\n{}\n")
    found = cli("report", "notes.jsonl", "--output", "r.html")
    assert found.returncode == 2
    assert "2 of 2 lines hold no event, the first is line 1" in found.stderr
    assert "notes.jsonl: no event to report on" in found.stderr


def snapshot(camera_id, epoch, frame_index, **options):
    info = SnapshotInfo(
        camera_id=camera_id, epoch=epoch, frame_index=frame_index, time=datetime.now(UTC), **options
    )
    jpeg = io.BytesIO()
    image = Image.fromarray(np.full((90, 160, 3), 99, np.uint8))
    image.save(jpeg, "JPEG", comment=info.to_json().encode())
    return jpeg.getvalue()


def test_a_live_camera_is_reported_up_to_now_over_its_last_snapshot(cli, tmp_path, valkey_server):
    begin = datetime.now(UTC) - timedelta(seconds=90)
    events = [camera_event(seq=0), *(detections_event(seq=n) for n in range(1, 9))]
    events = [
        event.model_copy(update={"time": begin + timedelta(seconds=n)})
        for n, event in enumerate(events)
    ]
    with closing(RedisStreamSink(valkey_server.url)) as sink:
        sink.publish(events)
    valkey_server.client.xadd("ssd:{gate}:detections", {"event": "?"})
    valkey_server.client.set("ssd:{gate}:snapshot", snapshot("gate", 1, 5))
    command = ("report", "gate", "--output", "r.html", "--redis-url", valkey_server.url)
    found = cli(*command)
    tags = page(found, tmp_path / "r.html")
    assert "gate: 1 of 10 entries hold no event" in found.stderr
    assert "From the stream of gate in Redis." in tags.text
    assert "worker down" in tags.text
    assert "Over snapshot" not in tags.text
    assert "Over its last snapshot, of " in tags.text
    assert len(tags.of("image")) == 1
    assert len([rect for rect in tags.of("rect") if rect.get("class") == "box"]) == 1
    assert "Person 0.90" in tags.text
    assert str(valkey_server.port) not in tags.text

    valkey_server.client.set("ssd:{gate}:snapshot", snapshot("gate", 1, 999, blurred=True))
    tags = page(cli(*command, "--overwrite"), tmp_path / "r.html")
    assert "Its snapshots are blurred by choice." in tags.text
    assert "no event has its boxes" in tags.text

    valkey_server.client.set("ssd:{gate}:snapshot", b"not a picture")
    found = cli(*command, "--overwrite")
    assert "camera gate: its snapshot in Redis is left out" in found.stderr
    assert "no snapshot was at hand" in page(found, tmp_path / "r.html").text


def test_a_report_can_be_of_a_time(cli, tmp_path):
    begin = datetime.now(UTC) - timedelta(hours=3)
    events = [
        detections_event(seq=n).model_copy(update={"time": begin + timedelta(minutes=n)})
        for n in range(180)
    ]
    write(tmp_path / "seen.jsonl", events)
    command = ("report", "seen.jsonl", "--overwrite", "--output", "r.html")
    assert "detections 180" in page(cli(*command), tmp_path / "r.html").text
    tags = page(cli(*command, "--from", "2h", "--to", "90m"), tmp_path / "r.html")
    assert "detections 30 " in tags.text
    assert "missing" not in tags.text
    assert re.search(f"{begin + timedelta(hours=1):%Y-%m-%d %H:%M}:.. to", tags.text)
    refused(
        cli(*command, "--to", "7d"), "seen.jsonl: no event to report on between --from and --to"
    )
    refused(cli(*command, "--from", "1h", "--to", "2h"), "--from 1h: no time is left up to --to 2h")
    refused(cli(*command, "--from", "soon"), "--from: ")


def test_a_replay_in_redis_is_reported_with_its_recording(cli, clip, tmp_path, valkey_server):
    with closing(RedisStreamSink(valkey_server.url)) as sink:
        sink.claim_replay("clip", ReplayClaim("r", "m", "s"), restart=False)
        sink.publish(replay_of(clip))
    command = ("report", "clip", "--output", "r.html", "--redis-url", valkey_server.url)
    refused(cli(*command), "there is a replay of this name: give --replay")
    tags = page(cli(*command, "--replay", "--video", clip), tmp_path / "r.html")
    assert "frames analysed 40 detections 80" in tags.text
    assert len(tags.of("image")) > 3


def test_an_unknown_camera_names_those_that_there_are(cli, tmp_path, valkey_server):
    command = ("report", "gata", "--output", "r.html", "--redis-url", valkey_server.url)
    refused(cli(*command), "with this id: there is no camera yet")
    with closing(RedisStreamSink(valkey_server.url)) as sink:
        sink.publish([camera_event("gate"), camera_event("yard")])
    found = cli(*command)
    refused(found, "gata: neither a file, nor has Redis at 127.0.0.1:")
    assert "events of a camera with this id: there are gate, yard" in found.stderr


@pytest.mark.long
def test_the_output_of_subscribe_and_plots_make_a_report(cli, tmp_path, valkey_server):
    events = [camera_event(seq=0), *(detections_event(seq=n) for n in range(1, 9))]
    with closing(RedisStreamSink(valkey_server.url)) as sink:
        sink.publish(events)
    options = ("--from", "start", "--count", "9", "--redis-url", valkey_server.url)
    (tmp_path / "seen.jsonl").write_text(cli("subscribe", *options).stdout)
    found = cli("report", "seen.jsonl", "--output", "r.html", "--plots", "plots")
    assert "detections 8" in page(found, tmp_path / "r.html").text
    plots = sorted(path.name for path in (tmp_path / "plots").iterdir())
    assert plots == ["gate-counts.png", "gate-heatmap.png"]
    assert json.loads((tmp_path / "seen.jsonl").read_text().splitlines()[0])["data"]["seq"] == 0
