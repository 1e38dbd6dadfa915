import json
import os
import signal
import time

import av
import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.clips import cut, pictures, set_matrix
from tests.conftest import WALKWAY, json_lines, redis_only_in_long, stream_events, wait_until
from worker.sources.recording import upright_images

STREAM = "ssd:{walkway}:replay"
FRAMES = 150


@redis_only_in_long
def test_replay_publishes_one_event_per_frame_and_an_end(cli, redis_server):
    result = cli("replay", WALKWAY, "--redis-url", redis_server.url)
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    events = [json.loads(text) for text in stream_events(redis_server.client, STREAM)]
    assert len(events) == FRAMES + 1
    frames, end = events[:-1], events[-1]
    assert [e["data"]["frame_index"] for e in frames] == list(range(FRAMES))
    assert [e["data"]["seq"] for e in events] == list(range(FRAMES + 1))
    assert len({e["id"] for e in events}) == FRAMES + 1
    assert end["type"] == "ssd.camera.v1"
    assert end["data"]["state"] == "ended"
    assert end["data"]["frames"] == FRAMES
    assert redis_server.client.smembers("ssd:replays") == {b"walkway"}
    assert not redis_server.client.exists("ssd:cameras")  # subscribers would wait for it
    people = sum(d["label"] == "Person" for e in frames for d in e["data"]["detections"])
    assert 600 < people < 1000  # the clip has about five walkers at a time
    assert "Person" in result.stderr
    assert f"{FRAMES} frames" in result.stderr


@redis_only_in_long
def test_replay_killed_three_times_ends_with_the_same_events_as_an_uninterrupted_one(
    cli, redis_server, tmp_path
):
    uninterrupted = tmp_path / "uninterrupted.jsonl"
    assert cli("replay", WALKWAY, "--output", uninterrupted).returncode == 0

    for frames in (20, 60, 100):
        process = cli.start("replay", WALKWAY, "--redis-url", redis_server.url)
        wait_until(lambda n=frames: redis_server.client.xlen(STREAM) >= n, what=f"{frames} events")
        process.kill()
        process.wait()
        assert redis_server.client.xlen(STREAM) < FRAMES
    result = cli("replay", WALKWAY, "--redis-url", redis_server.url)
    assert result.returncode == 0, result.stderr
    assert "resuming after" in result.stderr

    expected = uninterrupted.read_text().splitlines()
    assert stream_events(redis_server.client, STREAM) == expected


@pytest.mark.long
def test_replay_into_a_file_killed_and_restarted_gives_the_same_bytes(cli, exec_cli, tmp_path):
    reference, output = tmp_path / "reference.jsonl", tmp_path / "tags.jsonl"
    assert cli("replay", WALKWAY, "--output", reference).returncode == 0

    process = exec_cli.start("replay", WALKWAY, "--output", output)
    journal = wait_until(lambda: next(tmp_path.glob("tags.jsonl.partial-*"), None), 60)
    wait_until(lambda: journal.stat().st_size > 30_000, 60, "some events")
    process.kill()
    process.wait()
    assert not output.exists()
    with journal.open("ab") as file:
        file.write(b'{"specversion":"1.0","id":"torn')

    result = exec_cli("replay", WALKWAY, "--output", output)
    assert result.returncode == 0, result.stderr
    assert "resuming after" in result.stderr
    assert output.read_bytes() == reference.read_bytes()
    assert not journal.exists()


def test_replay_interrupted_stops_at_a_checkpoint_and_says_how_to_resume(exec_cli, valkey_server):
    process = exec_cli.start("replay", WALKWAY, "--redis-url", valkey_server.url, "--max-batch", 4)
    wait_until(lambda: valkey_server.client.xlen(STREAM) >= 8, 60, "some events")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "run the same command to resume" in stderr
    stored = valkey_server.client.xlen(STREAM)
    assert 8 <= stored < FRAMES
    assert stored % 4 == 0  # whole batches of the requested size
    assert int(valkey_server.client.hget(f"{STREAM}:producer", "seq")) == stored - 1


@pytest.mark.long
def test_a_replay_waits_while_redis_is_unavailable_and_then_resumes(cli, valkey_server):
    process = cli.start("replay", WALKWAY, "--redis-url", valkey_server.url)
    wait_until(lambda: valkey_server.client.xlen(STREAM) >= 40, what="some events")
    valkey_server.stop()
    time.sleep(4)  # long enough to analyse everything in the queues
    assert process.poll() is None
    valkey_server.start()
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    events = [json.loads(text) for text in stream_events(valkey_server.client, STREAM)]
    assert [e["data"]["seq"] for e in events] == list(range(FRAMES + 1))


def test_a_finished_replay_is_not_repeated_unless_asked(cli, valkey_server, short_clip):
    replay = ("replay", short_clip, "--redis-url", valkey_server.url)
    assert cli(*replay).returncode == 0
    first = valkey_server.client.xrange("ssd:{short}:replay")
    again = cli(*replay)
    assert again.returncode == 0
    assert "already finished" in again.stderr
    assert valkey_server.client.xrange("ssd:{short}:replay") == first

    assert cli(*replay, "--restart").returncode == 0
    restarted = valkey_server.client.xrange("ssd:{short}:replay")
    assert [fields for _, fields in restarted] == [fields for _, fields in first]
    assert restarted[0][0] > first[-1][0]


def test_another_recording_or_other_settings_under_the_same_id_are_refused(
    cli, valkey_server, short_clip, tmp_path
):
    other = cut(WALKWAY, tmp_path / "other.mp4", frames=8)
    url = ("--redis-url", valkey_server.url)
    assert cli("replay", f"gate={short_clip}", *url).returncode == 0
    before = valkey_server.client.xlen("ssd:{gate}:replay")

    for arguments in ((f"gate={other}",), (f"gate={short_clip}", "--score-threshold", "0.7")):
        result = cli("replay", *arguments, *url)
        assert result.returncode == 2
        assert "ID=PATH" in result.stderr
        assert "--restart" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
    assert valkey_server.client.xlen("ssd:{gate}:replay") == before


def test_every_output_is_made_and_agrees(cli, short_clip, tmp_path):
    video = tmp_path / "annotated.mp4"
    for name in ("tags.jsonl", "tags.parquet", "tags.json"):
        extra = ("--annotate", video) if name == "tags.jsonl" else ()
        result = cli("replay", short_clip, "--output", tmp_path / name, *extra)
        assert result.returncode == 0, result.stderr
    events = json_lines(tmp_path / "tags.jsonl")
    frames = events[:-1]
    detections = [d for e in frames for d in e["data"]["detections"]]
    assert len(detections) > 100

    rows = pq.read_table(tmp_path / "tags.parquet").to_pylist()
    assert [row["frame_index"] for row in rows] == list(range(40))
    assert [d["label"] for row in rows for d in row["detections"]] == [
        d["label"] for d in detections
    ]
    assert rows[7]["id"] == frames[7]["id"]
    assert rows[7]["pts_seconds"] == pytest.approx(0.7)

    coco = json.loads((tmp_path / "tags.json").read_text())
    assert len(coco["images"]) == 40
    assert len(coco["annotations"]) == len(detections)
    names = {c["id"]: c["name"] for c in coco["categories"]}
    first = coco["annotations"][0]
    assert names[first["category_id"]] == detections[0]["label"]
    x, y, width, height = first["bbox"]
    assert [x / 768, y / 576, (x + width) / 768, (y + height) / 576] == pytest.approx(
        detections[0]["box"], abs=1e-3
    )

    drawn = list(pictures(video, 1000))
    assert len(drawn) == 40
    assert (drawn[0].width, drawn[0].height) == (768, 576)
    assert float(drawn[39].pts * drawn[39].time_base) == pytest.approx(3.9, abs=0.01)
    assert sorted(p.name for p in tmp_path.iterdir() if "tags" in p.name) == [
        "tags.json",
        "tags.jsonl",
        "tags.parquet",
    ]


def test_an_annotated_frame_has_its_boxes_where_the_events_say(cli, short_clip, tmp_path):
    tags, video = tmp_path / "tags.jsonl", tmp_path / "annotated.mp4"
    result = cli("replay", short_clip, "--output", tags, "--annotate", video)
    assert result.returncode == 0, result.stderr
    plain = next(pictures(short_clip, 1)).to_ndarray(format="rgb24").astype(int)
    drawn = next(pictures(video, 1)).to_ndarray(format="rgb24").astype(int)
    changed = abs(drawn - plain).max(axis=2) > 60
    best = json_lines(tags)[0]["data"]["detections"][0]["box"]
    x1, y1, x2, y2 = (round(e * s) for e, s in zip(best, (768, 576, 768, 576), strict=True))
    assert changed[y1:y2, x1 - 2 : x1 + 3].max(axis=1).mean() > 0.8  # the left edge is a line
    assert changed[y2 - 2 : y2 + 3, x1:x2].max(axis=0).mean() > 0.8  # and the bottom one
    assert changed[400:, :].mean() < 0.01  # nothing is drawn on the empty lawn


def test_stride_and_labels_choose_frames_and_detections(cli, short_clip, tmp_path):
    output = tmp_path / "tags.jsonl"
    result = cli("replay", short_clip, "--output", output, "--stride", 3, "--labels", "Car")
    assert result.returncode == 0, result.stderr
    frames = json_lines(output)[:-1]
    assert [e["data"]["frame_index"] for e in frames] == list(range(0, 40, 3))
    assert [e["data"]["skipped"] for e in frames] == [0] + [2] * 13
    assert {d["label"] for e in frames for d in e["data"]["detections"]} == {"Car"}


def test_fps_limits_the_frames_analysed_per_second(cli, short_clip, tmp_path):
    output = tmp_path / "tags.jsonl"
    assert cli("replay", short_clip, "--output", output, "--fps", 2).returncode == 0
    frames = json_lines(output)[:-1]
    assert [e["data"]["frame_index"] for e in frames] == list(range(0, 40, 5))


def test_several_recordings_go_into_one_output_in_order(cli, short_clip, tmp_path):
    output = tmp_path / "tags.jsonl"
    result = cli("replay", f"a={short_clip}", f"b={short_clip}", "--output", output)
    assert result.returncode == 0, result.stderr
    cameras = [e["data"]["camera_id"] for e in json_lines(output)]
    assert cameras == ["a"] * 41 + ["b"] * 41


def test_a_replay_with_an_output_starts_no_server(cli, short_clip, tmp_path):
    assert cli("replay", short_clip, "--output", tmp_path / "tags.jsonl").returncode == 0
    assert not (tmp_path / "state").exists()


def test_a_truncated_recording_yields_its_frames_and_is_reported(cli, tmp_path):
    whole = cut(WALKWAY, tmp_path / "whole.mp4", frames=60)
    truncated = tmp_path / "cut.mp4"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    result = cli("replay", truncated, "--output", tmp_path / "tags.jsonl")
    assert result.returncode == 0, result.stderr
    assert "cut off or damaged" in result.stderr
    *frames, end = json_lines(tmp_path / "tags.jsonl")
    assert 5 < len(frames) < 60
    assert end["data"]["reason"] == "truncated"


def test_a_creation_time_in_the_file_becomes_the_time_of_the_events(cli, tmp_path):
    clip = cut(
        WALKWAY, tmp_path / "dated.mp4", frames=12,
        metadata={"creation_time": "2026-03-01T10:00:00.000000Z"},
    )  # fmt: skip
    assert cli("replay", clip, "--output", tmp_path / "tags.jsonl").returncode == 0
    frames = json_lines(tmp_path / "tags.jsonl")[:-1]
    assert frames[0]["time"] == "2026-03-01T10:00:00Z"
    assert frames[11]["time"].startswith("2026-03-01T10:00:01.1")
    assert {e["data"]["clock"] for e in frames} == {"file"}


@pytest.mark.parametrize(
    "name", ["tags.parquet", pytest.param("tags.json", marks=pytest.mark.long)]
)
def test_a_replay_that_ended_after_its_annotated_video_goes_on_with_the_same_command(
    cli, short_clip, tmp_path, name
):
    video, output = tmp_path / "drawn.mp4", tmp_path / name
    replay = ("replay", short_clip, "--output", output, "--annotate", video, "--stride", 10)
    in_the_way = tmp_path / f".tags.unfinished{output.suffix}"
    in_the_way.mkdir()
    assert cli(*replay).returncode == 1
    drawn = video.stat()
    in_the_way.rmdir()
    result = cli(*replay)
    assert result.returncode == 0, result.stderr
    assert output.exists()
    assert (video.stat().st_ino, video.stat().st_mtime_ns) == (drawn.st_ino, drawn.st_mtime_ns)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["drawn.mp4", name]
    again = cli(*replay)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_a_video_that_the_unfinished_replay_did_not_make_is_kept(cli, short_clip, tmp_path):
    video, output = tmp_path / "drawn.mp4", tmp_path / "tags.parquet"
    replay = ("replay", short_clip, "--output", output, "--annotate", video, "--stride", 10)
    (tmp_path / ".tags.unfinished.parquet").mkdir()
    assert cli(*replay).returncode == 1
    video.write_bytes(b"another one, put there meanwhile")
    result = cli(*replay)
    assert result.returncode == 2
    assert "exists already" in result.stderr
    assert video.read_bytes() == b"another one, put there meanwhile"


@pytest.mark.long
def test_restart_draws_again_what_the_unfinished_replay_made(cli, short_clip, tmp_path):
    video, output = tmp_path / "drawn.mp4", tmp_path / "tags.parquet"
    replay = ("replay", short_clip, "--output", output, "--annotate", video)
    (tmp_path / ".tags.unfinished.parquet").mkdir()
    assert cli(*replay, "--stride", 10).returncode == 1
    (tmp_path / ".tags.unfinished.parquet").rmdir()
    result = cli(*replay, "--stride", 20, "--restart")
    assert result.returncode == 0, result.stderr
    assert len(list(pictures(video, 100))) == 2


def test_a_recording_too_narrow_for_a_video_is_refused_before_it_is_analysed(cli, tmp_path):
    path = tmp_path / "narrow.png"
    av.VideoFrame(1, 40, "rgb24").save(path)
    result = cli("replay", path, "--annotate", tmp_path / "drawn.mp4")
    assert result.returncode == 2
    assert "are 1x40, and a video needs 2 pixels each way: leave out --annotate" in result.stderr
    assert list(tmp_path.iterdir()) == [path]
    assert cli("replay", path, "--output", tmp_path / "tags.jsonl").returncode == 0


def test_a_recording_too_wide_for_a_video_is_refused_before_it_is_analysed(cli, tmp_path):
    path = tmp_path / "wide.png"
    av.VideoFrame(20_000, 40, "rgb24").save(path)
    result = cli("replay", path, "--annotate", tmp_path / "drawn.mp4")
    assert result.returncode == 2
    assert "are 20000x40, and a video has at most 16384 pixels each way: leave" in result.stderr
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def photos(tmp_path, short_clip):
    """Four photos of the sample in a folder, one of them broken and one larger, and a text."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in zip((1, 2, 10, 3), pictures(short_clip, 4), strict=True):
        image = picture.to_image()
        (image.resize((1024, 768)) if number == 2 else image).save(folder / f"img{number}.jpg")
    (folder / "img3.jpg").write_bytes(b"broken")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def test_a_folder_of_pictures_is_tagged_under_the_pictures_own_names(cli, photos, tmp_path):
    output = tmp_path / "tags.json"
    result = cli("replay", photos, "--output", output)
    assert result.returncode == 0, result.stderr
    coco = json.loads(output.read_text())
    assert [image["file_name"] for image in coco["images"]] == ["img1.jpg", "img2.jpg", "img10.jpg"]
    assert [image["width"] for image in coco["images"]] == [768, 1024, 768]
    assert {a["image_id"] for a in coco["annotations"]} == {1, 2, 3}
    assert "only its pictures are analysed, not notes.txt" in result.stderr
    assert "1 of 4 pictures are damaged: img3.jpg" in result.stderr


def test_the_events_of_a_folder_name_its_pictures_and_it_can_be_drawn_into(cli, photos, tmp_path):
    output, video = tmp_path / "tags.jsonl", tmp_path / "drawn.mp4"
    result = cli("replay", photos, "--output", output, "--annotate", video)
    assert result.returncode == 0, result.stderr
    *frames, end = json_lines(output)
    assert [e["data"]["file_name"] for e in frames] == ["img1.jpg", "img2.jpg", "img10.jpg"]
    assert {e["data"]["camera_id"] for e in frames} == {"photos"}
    assert not any("pts" in e["data"] or "time" in e for e in frames)
    assert (end["data"]["reason"], end["data"]["frames"]) == ("damaged", 3)
    drawn = list(pictures(video, 10))
    assert [float(p.pts * p.time_base) for p in drawn] == [0, 1, 2]
    assert {(p.width, p.height) for p in drawn} == {(768, 576)}


@pytest.mark.parametrize(
    "name",
    ["photo.jpg", *(pytest.param(n, marks=pytest.mark.long) for n in ("photo.png", "photo.webp"))],
)
def test_a_photo_is_a_recording(cli, short_clip, tmp_path, name):
    next(pictures(short_clip, 1)).to_image().save(tmp_path / name)
    result = cli("replay", tmp_path / name, "--output", tmp_path / "tags.jsonl")
    assert result.returncode == 0, result.stderr
    frame, end = json_lines(tmp_path / "tags.jsonl")
    assert frame["data"]["file_name"] == name
    assert any(d["label"] == "Person" for d in frame["data"]["detections"])
    assert end["data"]["reason"] == "end_of_file"


@pytest.mark.parametrize(
    "matrix",
    [
        (-1, 0, 0, 1),
        *(pytest.param(m, marks=pytest.mark.long) for m in [(1, 0, 0, -1), (-1, 0, 0, -1)]),
    ],
)
def test_a_recording_that_is_stored_mirrored_has_the_boxes_of_the_plain_one(
    cli, short_clip, tmp_path, matrix
):
    plain = next(upright_images(short_clip)).image
    stored = np.ascontiguousarray(plain[:: matrix[3], :: matrix[0]])
    found = []
    for name, image, display in (("plain", plain, (1, 0, 0, 1)), ("stored", stored, matrix)):
        path, output = tmp_path / f"{name}.mp4", tmp_path / f"{name}.jsonl"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", rate=10, options={"crf": "5"})
            stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
            container.mux(stream.encode(None))
        set_matrix(path, *display)
        assert cli("replay", path, "--output", output).returncode == 0
        detections = json_lines(output)[0]["data"]["detections"]
        found.append(detections)
    sure = [d["box"] for d in found[0] if d["score"] > 0.55]
    boxes = np.array([d["box"] for d in found[1]])
    assert len(sure) > 1
    assert all(abs(boxes - box).max(axis=1).min() < 0.02 for box in sure)


@pytest.mark.long
@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2 if hasattr(os, "sched_getaffinity") else True,
    reason="two cores (there is one)",
)
def test_a_replay_resumes_on_another_number_of_cores_with_the_same_events(
    cli, exec_cli, valkey_server, tmp_path
):
    uninterrupted = tmp_path / "uninterrupted.jsonl"
    assert cli("replay", WALKWAY, "--output", uninterrupted).returncode == 0
    one_core = {min(os.sched_getaffinity(0))}
    arguments = "replay", WALKWAY, "--redis-url", valkey_server.url
    process = exec_cli.start(*arguments, preexec_fn=lambda: os.sched_setaffinity(0, one_core))
    wait_until(lambda: valkey_server.client.xlen(STREAM) >= 12, 60, "some events")
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    stored = valkey_server.client.xlen(STREAM)
    assert stored < FRAMES
    result = cli(*arguments)
    assert result.returncode == 0, result.stderr
    assert f"resuming after {stored} frames" in result.stderr
    assert stream_events(valkey_server.client, STREAM) == uninterrupted.read_text().splitlines()
