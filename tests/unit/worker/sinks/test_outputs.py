import json
from fractions import Fraction

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from av.video.reformatter import ColorRange, Colorspace

from ssd_core.yuv import yuv_to_rgb_matrix
from tests.clips import pictures
from tests.events import PERSON, camera_event, detections_event
from worker.errors import SinkError
from worker.frames import ShownPicture
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
    return (ShownPicture(i, np.full((height, width, 3), 40 * i, np.uint8)) for i in range(count))


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
        "area": 17694.72, "segmentation": [], "iscrowd": 0, "score": 0.9,
    }  # fmt: skip
    assert [category["id"] for category in coco["categories"]] == [1, 2, 3, 4]


def test_coco_has_the_parts_that_labelling_tools_insist_on(tmp_path):
    write_coco(replay, tmp_path / "tags.json", LABELS)
    coco = json.loads((tmp_path / "tags.json").read_text())
    assert list(coco) == ["info", "licenses", "images", "annotations", "categories"]
    assert coco["info"] == {"description": "detections of ssd-worker"}
    assert coco["licenses"] == []


def test_the_categories_of_coco_are_the_labels_that_are_reported(tmp_path):
    write_coco(replay, tmp_path / "tags.json", LABELS, reported=["Person", "Boot"])
    coco = json.loads((tmp_path / "tags.json").read_text())
    assert coco["categories"] == [{"id": 2, "name": "Boot"}, {"id": 4, "name": "Person"}]


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
        "model": "ssd_mobilenet_v2_oid", "model_digest": "sha256:00", "file_name": None,
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


def shown(seconds, width=96, height=64, **fields):
    """Pictures that stay for ``seconds`` each."""
    for index, stays in enumerate(seconds):
        image = np.full((height, width, 3), 25 * index, np.uint8)
        yield ShownPicture(index, image, stays and Fraction(stays), **fields)


def video_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return stream, list(container.decode(stream)), container.duration / 1e6


@pytest.mark.parametrize("start", [0, 5, 936_000, 8_424_000_000])
def test_annotated_video_begins_at_zero_and_lasts_as_long_as_its_frames(tmp_path, start):
    target = tmp_path / "video.mp4"
    frames = shown([Fraction(1, 10)] * 3)
    write_annotated(frames, replay([start + i for i in range(3)]), target, Fraction(10))
    stream, found, seconds = video_of(target)
    assert [float(p.pts * p.time_base) for p in found] == pytest.approx([0, 0.1, 0.2])
    assert stream.start_time == 0
    assert seconds == pytest.approx(0.3, abs=0.01)


def test_frames_of_a_variable_rate_keep_their_own_durations_to_the_last(tmp_path):
    target = tmp_path / "video.mp4"
    stays = [Fraction(n, 10) for n in (1, 12, 3, 50)]
    write_annotated(shown(stays), replay((0, 1, 13, 16)), target, Fraction(4, 3))
    _, found, seconds = video_of(target)
    assert [float(p.duration * p.time_base) for p in found] == pytest.approx([0.1, 1.2, 0.3, 5])
    assert seconds == pytest.approx(6.6, abs=0.01)


def in_units(events, time_base):
    return [
        e.model_copy(update={"data": e.data.model_copy(update={"time_base": time_base})})
        for e in events
    ]


def test_a_leap_of_many_hours_is_shown_as_the_next_picture(tmp_path):
    target = tmp_path / "video.mp4"
    day = 24 * 3600 * 90_000
    pts = (0, 9000, day, day + 9000)
    events = in_units(replay(pts), "1/90000")
    write_annotated(shown([Fraction(1, 10)] * 4), events, target, Fraction(10))
    _, found, seconds = video_of(target)
    assert [float(p.pts * p.time_base) for p in found] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert seconds == pytest.approx(0.4, abs=0.01)


def test_times_in_nanoseconds_keep_their_distances(tmp_path):
    target = tmp_path / "video.mp4"
    events = in_units(replay((0, 10**8, 10**10)), "1/1000000000")
    write_annotated(shown([Fraction(1, 10)] * 3), events, target, Fraction(10))
    _, found, seconds = video_of(target)
    assert [float(p.pts * p.time_base) for p in found] == pytest.approx([0, 0.1, 10])
    assert seconds == pytest.approx(10.1, abs=0.01)


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(16, 11), Fraction(1)])
def test_annotated_video_keeps_the_shape_of_the_pixels(tmp_path, aspect):
    target = tmp_path / "video.mp4"
    write_annotated(images(3), replay(), target, Fraction(10), pixel_aspect=aspect)
    stream, _, _ = video_of(target)
    assert stream.sample_aspect_ratio == aspect


@pytest.mark.parametrize("size", [(90, 120), (720, 1280)])
@pytest.mark.parametrize("colour", [(254, 0, 0), (20, 200, 60), (30, 40, 250)])
def test_annotated_video_states_the_colours_that_it_is_written_in(tmp_path, size, colour):
    target = tmp_path / "video.mp4"
    image = np.broadcast_to(np.uint8(colour), (*size, 3))
    frames = (ShownPicture(i, image, None, 5, 13) for i in range(3))
    write_annotated(frames, replay(), target, Fraction(10))
    _, (first, *_), _ = video_of(target)
    assert (first.colorspace, first.color_range) == (Colorspace.ITU709, ColorRange.MPEG)
    assert (first.color_primaries, first.color_trc) == (5, 13)  # as the recording's
    y, u, v = (np.frombuffer(plane, np.uint8)[10] for plane in first.planes)
    linear, offset = yuv_to_rgb_matrix(False, "bt709")
    assert linear @ [y, u, v] + offset == pytest.approx(colour, abs=5)


def test_colours_that_a_recording_does_not_state_are_written_as_bt709(tmp_path):
    write_annotated(images(3), replay(), tmp_path / "video.mp4", Fraction(10))
    _, (first, *_), _ = video_of(tmp_path / "video.mp4")
    assert (first.colorspace, first.color_primaries, first.color_trc) == (1, 1, 1)


def test_a_picture_of_another_size_is_fitted_with_its_boxes(tmp_path):
    frames = [
        ShownPicture(0, np.full((100, 200, 3), 90, np.uint8)),
        ShownPicture(1, np.full((400, 200, 3), 90, np.uint8)),
    ]
    write_annotated(frames, replay((0, 1)), tmp_path / "video.mp4", Fraction(10))
    _, (_, second), _ = video_of(tmp_path / "video.mp4")
    image = second.to_ndarray(format="rgb24").astype(int)
    assert image.shape == (100, 200, 3)
    assert image[:, :70].max() < 30  # a bar: the picture is 50 columns wide
    assert image[:, -70:].max() < 30
    assert abs(image[90:, 80:120] - 90).max() < 30
    box = image[30:60, 80:95]  # PERSON is at 0.1..0.3 of the width, 0.2..0.4 of the height
    assert (abs(box - 90).max(axis=2) > 40).any()


@pytest.mark.parametrize("output", ["tags.parquet", "tags.json"])
def test_a_picture_s_own_name_is_in_the_outputs(tmp_path, output):
    def named():
        for event in replay()[:-1]:
            name = f"photo {event.data.seq}.jpg"
            yield event.model_copy(
                update={"data": event.data.model_copy(update={"file_name": name})}
            )

    if output == "tags.json":
        write_coco(named, tmp_path / output, LABELS)
        rows = json.loads((tmp_path / output).read_text())["images"]
    else:
        write_parquet(named(), tmp_path / output)
        rows = pq.read_table(tmp_path / output).to_pylist()
    assert [row["file_name"] for row in rows] == ["photo 0.jpg", "photo 1.jpg", "photo 2.jpg"]
