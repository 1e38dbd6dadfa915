import json
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.clips import pictures
from tests.events import PERSON, camera_event, detections_event
from worker.errors import SinkError
from worker.sinks import parquet
from worker.sinks.annotated_video import Annotator, write_annotated
from worker.sinks.coco import write_coco
from worker.sinks.files import complete_or_absent
from worker.sinks.parquet import write_parquet

LABELS = ("???", "Bicycle", "Boot", "Laptop", "Person")


def replay(pts=(0, 1, 2)):
    events = [
        detections_event("clip", epoch=0, seq=i, mode="replay", detections=(PERSON,) * i)
        for i in range(len(pts))
    ]
    events = [
        e.model_copy(update={"data": e.data.model_copy(update={"pts": p})})
        for e, p in zip(events, pts, strict=True)
    ]
    return [*events, camera_event("clip", epoch=0, seq=len(pts), mode="replay", state="ended")]


def images(count, height=90, width=120):
    return ((i, np.full((height, width, 3), 40 * i, np.uint8)) for i in range(count))


def test_coco_has_every_frame_and_detection(tmp_path):
    write_coco(replay, tmp_path / "tags.json", LABELS)
    coco = json.loads((tmp_path / "tags.json").read_text())
    assert [image["id"] for image in coco["images"]] == [1, 2, 3]
    assert [a["image_id"] for a in coco["annotations"]] == [2, 3, 3]
    assert coco["annotations"][0]["bbox"] == pytest.approx([76.8, 115.2, 153.6, 115.2])
    assert coco["categories"][-1] == {"id": 4, "name": "Person"}


def test_an_image_and_an_annotation_of_coco_have_all_that_is_known(tmp_path):
    write_coco(replay, tmp_path / "tags.json", LABELS)
    coco = json.loads((tmp_path / "tags.json").read_text())
    assert coco["images"][2] == {
        "id": 3, "file_name": "clip-000002.jpg", "width": 768, "height": 576, "frame_index": 2,
        "pts_seconds": 0.2,
    }  # fmt: skip
    assert coco["annotations"][2] == {
        "id": 3, "image_id": 3, "category_id": 4, "bbox": [76.8, 115.2, 153.6, 115.2],
        "area": 17694.72, "iscrowd": 0, "score": 0.9,
    }  # fmt: skip
    assert [category["id"] for category in coco["categories"]] == [1, 2, 3, 4]


def test_pixels_in_coco_have_two_decimals(tmp_path):
    thirds = PERSON.model_copy(update={"box": (0.11111, 0.22225, 0.33333, 0.44441)})
    event = detections_event("clip", detections=(thirds,))
    write_coco(lambda: [event], tmp_path / "tags.json", LABELS)
    (annotation,) = json.loads((tmp_path / "tags.json").read_text())["annotations"]
    assert annotation["bbox"] == [85.33, 128.02, 170.67, 127.96]
    assert annotation["area"] == 21838.93


def test_coco_of_nothing_is_empty_and_valid(tmp_path):
    write_coco(list, tmp_path / "tags.json", LABELS)
    assert json.loads((tmp_path / "tags.json").read_text())["images"] == []


def test_a_row_of_parquet_has_all_that_is_known_of_a_frame(tmp_path):
    event = detections_event("clip", seq=1)
    write_parquet([event], tmp_path / "tags.parquet")
    (row,) = pq.read_table(tmp_path / "tags.parquet").to_pylist()
    (detection,) = row.pop("detections")
    assert (detection["label"], detection["class_id"]) == ("Person", 4)
    assert row == {
        "id": event.id, "camera_id": "clip", "frame_index": 1, "pts": 1, "time_base": "1/10",
        "pts_seconds": 0.1, "time": event.time, "width": 768, "height": 576, "skipped": 0,
        "model": "ssd_mobilenet_v2_oid", "model_digest": "sha256:00",
    }  # fmt: skip


def test_parquet_has_every_frame_of_a_replay_that_does_not_fit_into_one_piece(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(parquet, "ROWS_AT_ONCE", 2)
    write_parquet(replay(range(5)), tmp_path / "tags.parquet")
    assert pq.read_table(tmp_path / "tags.parquet")["frame_index"].to_pylist() == list(range(5))


def test_parquet_keeps_frames_without_detections(tmp_path):
    write_parquet(replay(), tmp_path / "tags.parquet")
    rows = pq.read_table(tmp_path / "tags.parquet").to_pylist()
    assert [len(row["detections"]) for row in rows] == [0, 1, 2]
    assert rows[1]["detections"][0]["box"] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("pts", "seconds"),
    [
        ((0, 1, 2), [0, 0.1, 0.2]),
        ((5, 6, 9), [0.5, 0.6, 0.9]),
        ((7, 0, 1), [0.7, 0.8, 0.9]),  # a clock that restarts
        ((0, None, 1), [0, 0.1, 0.2]),
    ],
)
def test_annotated_video_keeps_timestamps_and_shifts_those_that_do_not_rise(tmp_path, pts, seconds):
    target = tmp_path / "video.mp4"
    write_annotated(images(3), replay(pts), target, Fraction(10))
    found = [float(p.pts * p.time_base) for p in pictures(target, 9)]
    assert np.diff(found) == pytest.approx(np.diff(seconds), abs=1e-3)


def test_annotated_video_ends_with_its_events_whatever_comes_after_them(tmp_path):
    def one_too_many():
        yield from images(3)
        raise OSError("a picture that cannot be converted")

    write_annotated(one_too_many(), replay(), tmp_path / "video.mp4", Fraction(10))
    assert len(list(pictures(tmp_path / "video.mp4", 9))) == 3


def test_annotated_video_of_an_odd_size_is_made_even(tmp_path):
    target = tmp_path / "video.mp4"
    write_annotated(images(3, height=91, width=121), replay(), target, Fraction(10))
    first = next(pictures(target, 1))
    assert (first.width, first.height) == (120, 90)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (2160, 3840), (20, 20)])
def test_boxes_are_drawn_at_every_size_and_the_image_is_unchanged(height, width):
    image = np.zeros((height, width, 3), np.uint8)
    drawn = Annotator(image)(image, [PERSON])
    assert drawn.shape == image.shape
    assert not image.any()
    x, y = round(0.1 * width), round(0.3 * height)
    assert drawn[y, max(x - 2, 0) : x + 3].any()  # the left edge


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    target = tmp_path / "out.txt"
    with pytest.raises(RuntimeError), complete_or_absent(target) as path:  # noqa: PT012
        path.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with complete_or_absent(target) as path:
        path.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"


@pytest.mark.parametrize("error", [OSError(28, "No space left"), OSError("No space left")])
def test_an_error_in_writing_is_one_line_with_its_reason(tmp_path, error):
    with (
        pytest.raises(SinkError, match=r"^cannot write .*out\.txt: No space left$"),
        complete_or_absent(tmp_path / "out.txt"),
    ):
        raise error


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SinkError, match=r"cannot write .*absent"):
        write_coco(replay, tmp_path / "absent" / "tags.json", LABELS)
