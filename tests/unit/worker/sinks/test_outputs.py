import json
from fractions import Fraction

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.clips import pictures
from tests.events import PERSON, camera_event, detections_event
from worker.errors import SinkError
from worker.frames import ShownPicture
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
    return (ShownPicture(i, np.full((height, width, 3), 40 * i, np.uint8)) for i in range(count))


def test_coco_has_every_frame_and_detection(tmp_path):
    write_coco(replay, tmp_path / "tags.json", LABELS)
    coco = json.loads((tmp_path / "tags.json").read_text())
    assert [image["id"] for image in coco["images"]] == [1, 2, 3]
    assert [a["image_id"] for a in coco["annotations"]] == [2, 3, 3]
    assert coco["annotations"][0]["bbox"] == pytest.approx([76.8, 115.2, 153.6, 115.2])
    assert coco["categories"][-1] == {"id": 4, "name": "Person"}


def test_coco_of_nothing_is_empty_and_valid(tmp_path):
    write_coco(list, tmp_path / "tags.json", LABELS)
    assert json.loads((tmp_path / "tags.json").read_text())["images"] == []


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


def test_a_target_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(SinkError, match=r"cannot write .*absent"):
        write_coco(replay, tmp_path / "absent" / "tags.json", LABELS)
