"""What labelling tools make of a replay's tags is a data set, with the corrections made there.

tests/data/README.md says how the files came about.
"""

import json
import shutil

import numpy as np
import pytest

from ssd_core.training.data_sets.reading import read_data_set
from tests.conftest import ROOT, WALKWAY
from tests.events import PERSON, detections_event
from tests.labelled import painted, save
from worker.commands.recordings import Recordings
from worker.sinks.coco import write_coco
from worker.sources.indexed_frames import IndexedFrames

FILES = ROOT / "tests" / "data" / "labelling"
EXPORTS = [
    "cvat",
    "label_studio.json",
    "label_studio_with_images.json",
    "label_studio_uploaded.json",
]
INDICES = (0, 5, 10)


def read(name, images=WALKWAY.parent):
    return read_data_set([FILES / name], images=images, recordings=Recordings())


@pytest.fixture(scope="module")
def frames():
    recorded = IndexedFrames(WALKWAY, INDICES[-1])
    return [recorded.read(index) for index in INDICES]


def objects(image, labels):
    """Label and box of each object, in the order of boxes."""
    found = zip(image.boxes.tolist(), image.classes.tolist(), strict=True)
    return [(labels[number], pytest.approx(box, abs=0.01)) for box, number in sorted(found)]


def in_order(found):
    return sorted(found, key=lambda each: each[1])


def test_the_tools_were_given_what_a_replay_writes(tmp_path):
    events = [detections_event("walkway", detections=(PERSON,))]
    write_coco(lambda: events, tmp_path / "tags.json", ("???", "Person"))
    written = json.loads((tmp_path / "tags.json").read_text())
    given = json.loads((FILES / "walkway.json").read_text())
    assert given.keys() == written.keys()
    for part in ("images", "annotations", "categories"):
        assert given[part][0].keys() == written[part][0].keys()


@pytest.mark.parametrize("name", EXPORTS)
def test_corrections_made_in_a_tool_are_read_with_the_frames_of_the_recording(name, frames):
    tagged = [
        [("Person" if number == 1 else "Car", box) for box, number in zip(
            image.boxes.tolist(), image.classes.tolist(), strict=True
        )]
        for image in read("walkway.json").images
    ]  # fmt: skip
    (_, moved), (_, relabelled), _deleted, *untouched = tagged[0]
    moved = [moved[0] + 3, moved[1], moved[2] + 3, moved[3]]
    added = [7.68, 11.52, 53.76, 69.12]
    first = [("Person", moved), ("Car", relabelled), *untouched, ("Person", added)]

    data_set = read(name)
    assert set(data_set.labels) == {"__background__", "Person", "Car"}
    background = []
    for image, expected in zip(data_set.images, (first, background, tagged[2]), strict=True):
        assert objects(image, data_set.labels) == in_order(expected)
    for image, frame in zip(data_set.images, frames, strict=True):
        assert np.array_equal(image.read(), frame)


@pytest.mark.parametrize("name", EXPORTS)
def test_frames_that_the_tools_were_given_may_take_the_place_of_the_recording(name, tmp_path):
    for index in INDICES:
        save(painted(576, 768, grey=index), tmp_path / f"walkway-{index:06d}.jpg")
    greys = [int(image.read().mean()) for image in read(name, images=tmp_path).images]
    assert greys == list(INDICES)


def test_an_export_of_cvat_with_pictures_stands_alone(tmp_path):
    shutil.copytree(FILES / "cvat", tmp_path, dirs_exist_ok=True)
    for index in INDICES:
        picture = painted(576, 768, grey=index)
        save(picture, tmp_path / "images" / "default" / f"walkway-{index:06d}.jpg")
    greys = [int(image.read().mean()) for image in read_data_set([tmp_path]).images]
    assert greys == list(INDICES)


def test_an_export_of_label_studio_with_pictures_stands_alone(tmp_path):
    shutil.copy(FILES / "label_studio_with_images.json", tmp_path / "result.json")
    content = json.loads((tmp_path / "result.json").read_text())
    for index, item in zip(INDICES, content["images"], strict=True):
        save(painted(576, 768, grey=index), tmp_path / item["file_name"])
    greys = [int(image.read().mean()) for image in read_data_set([tmp_path]).images]
    assert greys == list(INDICES)


@pytest.mark.parametrize("name", ["20261127-walkway-000005.jpg", "deadbeef-walkway-000005.jpg"])
def test_a_name_that_only_looks_like_an_uploaded_one_is_no_other_picture(name, tmp_path, caplog):
    """A recording may be named by its date; that of another name is not taken in its place."""
    content = json.loads((FILES / "walkway.json").read_text())
    content["images"][1]["file_name"] = name
    (tmp_path / "tags.json").write_text(json.dumps(content))
    data_set = read_data_set(
        [tmp_path / "tags.json"],
        images=WALKWAY.parent,
        recordings=Recordings(),
        skip_invalid=True,
    )
    assert [image.name for image in data_set.images] == [
        "walkway-000000.jpg",
        "walkway-000010.jpg",
    ]
    assert "no such image" in caplog.text
