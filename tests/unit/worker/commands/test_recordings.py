"""A replay's COCO output is a data set: its frames come out of the recording."""

import json
import logging
import pickle

import numpy as np
import pytest

from ssd_core.errors import DataError
from ssd_core.models.zoo import get_spec
from ssd_core.training.augment import PAPER
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.loader import BatchLoader
from tests import clips
from tests.conftest import WALKWAY
from tests.labelled import faults_of, painted, save
from worker.commands.recordings import Recordings
from worker.events import DetectionsEvent
from worker.sinks.coco import write_coco
from worker.sources.recording import RecordingSource, probe_recording

LABELS = ("???", "Person", "Car")
FRAMES = 12


def clip(path, frames=FRAMES):
    path.parent.mkdir(exist_ok=True)
    return clips.cut(WALKWAY, path, frames=frames, size=(72, 96), options={"g": "5"})


def event(camera_id, index, detections):
    return DetectionsEvent.model_validate({
        "specversion": "1.0", "id": f"x/{index}", "source": "ssd-worker/x",
        "type": "ssd.detections.v1", "time": None, "datacontenttype": "application/json",
        "data": {
            "camera_id": camera_id, "mode": "replay", "epoch": 0, "seq": index,
            "frame_index": index, "pts": index, "time_base": "1/10", "pts_seconds": index / 10,
            "clock": "file", "width": 96, "height": 72, "skipped": 0, "dropped": 0,
            "model": {"name": "m", "digest": "sha256:0"}, "detections": detections,
        },
    })  # fmt: skip


def tagged(path, camera_id="gate", indices=range(0, FRAMES, 2)):
    """What ``replay --output x.json`` writes."""
    found = [{"label": "Person", "class_id": 1, "score": 0.9, "box": [0.25, 0.5, 0.5, 1]}]
    events = [event(camera_id, index, found if index % 4 == 0 else []) for index in indices]
    write_coco(lambda: events, path, LABELS)
    return path


def replayed(path):
    source = RecordingSource(probe_recording(path, "x"), None)
    return [item.image for item in source if hasattr(item, "frame_index")]


def test_frames_of_a_replay_are_read_from_the_recording(tmp_path):
    recording = clip(tmp_path / "gate.mp4")
    data_set = read_data_set([tagged(tmp_path / "tags.json")], recordings=Recordings())
    assert data_set.labels == ("__background__", "Person", "Car")
    assert [len(image.boxes) for image in data_set.images] == [1, 0, 1, 0, 1, 0]
    assert data_set.images[0].boxes.tolist() == [[24, 36, 48, 72]]
    expected = replayed(recording)
    for number in (4, 0, 5, 2):
        image = data_set.images[number]
        assert image.name == f"gate-{2 * number:06d}.jpg"
        assert np.array_equal(image.read(), expected[2 * number])
        assert image.recording == str(recording)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate.mp4", "tags.json"]


def test_the_recording_may_lie_elsewhere_and_have_a_name_of_its_own(tmp_path):
    clip(tmp_path / "videos" / "Tor (außen).mp4")
    tags = tagged(tmp_path / "tags.json", "Tor--au-en-")
    data_set = read_data_set([tags], images=tmp_path / "videos", recordings=Recordings())
    assert len(data_set.images) == 6


def test_pictures_that_were_taken_out_come_before_the_recording(tmp_path):
    clip(tmp_path / "gate.mp4")
    save(painted(72, 96), tmp_path / "gate-000002.jpg")
    data_set = read_data_set([tagged(tmp_path / "tags.json")], recordings=Recordings())
    assert np.ptp(data_set.images[1].read()) == 0
    assert data_set.images[1].recording == ""
    assert np.ptp(data_set.images[2].read()) > 0


def as_cvat_names_frames(path):
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["file_name"] = f"frame_{image.pop('frame_index'):06d}.PNG"
    path.write_text(json.dumps(content))
    return path


def test_frames_named_by_cvat_come_from_the_only_recording(tmp_path):
    recording = clip(tmp_path / "gate.mp4")
    tags = as_cvat_names_frames(tagged(tmp_path / "tags.json"))
    data_set = read_data_set([tags], recordings=Recordings())
    assert np.array_equal(data_set.images[2].read(), replayed(recording)[4])
    clip(tmp_path / "door.mp4")
    (line,) = faults_of(tags, recordings=Recordings())
    assert "several recordings may be meant (door.mp4, gate.mp4): keep one" in line


def test_a_missing_recording_is_told(tmp_path):
    lines = faults_of(tagged(tmp_path / "tags.json"), recordings=Recordings())
    assert lines[0].startswith("6 faults")
    assert "no such image (looked around" in lines[1]
    assert lines[1].endswith("also for a video gate)")


def test_two_recordings_of_one_name_are_told(tmp_path):
    clip(tmp_path / "gate.mp4")
    clip(tmp_path / "gate.mkv")
    (line,) = faults_of(tagged(tmp_path / "tags.json"), recordings=Recordings())
    assert "several recordings may be meant (gate.mkv, gate.mp4): keep one" in line


def test_a_recording_that_is_shorter_or_of_another_size_is_told(tmp_path):
    clip(tmp_path / "gate.mp4", frames=7)
    lines = faults_of(tagged(tmp_path / "tags.json"), recordings=Recordings())
    assert lines[0].startswith("2 faults")
    assert "image 5 (gate-000008.jpg): no such frame" in lines[1]
    assert lines[1].endswith("gate.mp4 has 7 frames)")
    clips.cut(WALKWAY, tmp_path / "gate.mp4", frames=FRAMES, size=(96, 96))
    assert (
        "image of another size (96x96, annotated as 96x72)"
        in faults_of(tmp_path / "tags.json", recordings=Recordings())[1]
    )


def test_a_recording_that_cannot_be_decoded_is_told(tmp_path):
    (tmp_path / "gate.mp4").write_bytes(b"no video")
    (line,) = faults_of(tagged(tmp_path / "tags.json"), recordings=Recordings())
    assert line.startswith("recording gate: ")
    assert "gate.mp4: " in line


def test_a_recording_that_goes_away_is_told_in_one_line(tmp_path):
    recording = clip(tmp_path / "gate.mp4")
    data_set = read_data_set([tagged(tmp_path / "tags.json")], recordings=Recordings())
    recording.unlink()
    with pytest.raises(DataError, match=r"gate\.mp4"):
        pickle.loads(pickle.dumps(data_set)).images[3].read()


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_frames_are_loaded_in_a_random_order(tmp_path, workers, caplog):
    recording = clip(tmp_path / "gate.mp4")
    tags = tagged(tmp_path / "tags.json", indices=range(FRAMES))
    caplog.set_level(logging.WARNING)
    data_set = read_data_set([tags], recordings=Recordings())
    assert len({image.together for image in data_set.images}) > 1
    spec = get_spec(None).with_labels(data_set.labels)
    with BatchLoader(data_set, spec, 5, seed=5, augment=PAPER, workers=workers) as loader:
        seen = [index for batch in loader.epoch(0) for index in batch.indices]
    assert sorted(seen) == list(range(FRAMES))
    assert seen != sorted(seen)
    assert caplog.messages == ["classes without an example: Car"]
    assert json.loads(tags.read_text())["images"][3]["file_name"] == "gate-000003.jpg"
    assert recording.exists()
