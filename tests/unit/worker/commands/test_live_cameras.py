import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.clips import pictures
from tests.conftest import WALKWAY
from tests.snapshots import pixels
from tests.spools import spool_in
from worker.commands.live_cameras import LiveCameras
from worker.commands.wiring import DetectorSetup
from worker.errors import UsageError
from worker.frames import Frame
from worker.settings.fields import RunSettings
from worker.settings.loading import load_settings
from worker.sources.conversion import PictureConverter

AHEAD = round(time.time() * 1000) + 10**9
"""An epoch of a worker whose clock is ahead of ours."""

GATE = f'[cameras.gate]\nsource = "{WALKWAY}"\n'
YARD = f'[cameras.yard]\nsource = "{WALKWAY}"\n'


class Detector:
    labels = ("background", "Person")
    default_threshold = 0.3
    score_threshold = 0.3
    image_size = (300, 300)
    antialias = True
    takes_planes = False

    def lowest_threshold(self, thresholds):
        return min(0.3 if threshold is None else threshold for threshold in thresholds)


class Sink:
    """Knows the last epochs of some cameras, and notes which it was asked for."""

    def __init__(self):
        self.last = {}
        self.asked = []

    def last_epoch(self, camera_id):
        self.asked.append(camera_id)
        return self.last.get(camera_id, 0)

    def close(self):
        pass


@pytest.fixture
def sink():
    return Sink()


@pytest.fixture
def live(tmp_path, sink):
    """The cameras of a run; ``live.file`` is their file."""
    file = tmp_path / "cameras.toml"
    file.write_text(GATE)
    settings = load_settings(RunSettings, "run", ["--cameras", str(file)])
    live = LiveCameras(
        settings,
        DetectorSetup(Detector(), 4, together=4, gpu=None),
        lambda: sink,
        partial(spool_in, tmp_path),
    )
    live.file = Path(file)
    return live


def epoch_of(live, camera_id):
    (camera,) = [camera for camera in live.read() if camera.camera_id == camera_id]
    return camera.open().current_epoch()


def test_an_untouched_camera_is_not_asked_for_again(live, sink):
    live.read()
    live.file.write_text(GATE + YARD)
    live.read()
    assert sink.asked == ["gate", "yard"]


def test_a_camera_that_comes_back_begins_above_what_another_worker_published_meanwhile(live, sink):
    live.file.write_text(GATE + YARD)
    live.read()
    live.file.write_text(GATE)
    live.read()
    sink.last["yard"] = AHEAD
    live.file.write_text(GATE + YARD)
    assert epoch_of(live, "yard") == AHEAD + 1


def test_a_camera_with_other_settings_begins_above_what_another_worker_published(live, sink):
    live.read()
    sink.last["gate"] = AHEAD
    live.file.write_text(f"{GATE}fps = 2\n")
    assert epoch_of(live, "gate") == AHEAD + 1


@pytest.mark.parametrize("antialias", [True, False])
def test_frames_of_a_camera_are_scaled_as_the_model_wants_them(live, monkeypatch, antialias):
    monkeypatch.setattr(Detector, "antialias", antialias)
    (camera,) = live.read()
    source = camera.open()
    frame = next(item for item in source if isinstance(item, Frame))
    source.stop()
    *_, picture = pictures(WALKWAY, frame.frame_index + 1)
    expected = PictureConverter((300, 300), antialias).convert(picture)
    assert np.array_equal(frame.image, expected)


def first_frame(camera):
    source = camera.open()
    frame = next(item for item in source if isinstance(item, Frame))
    source.stop()
    return frame


def test_a_camera_has_snapshots_as_its_table_says_and_is_read_anew_if_that_changes(live):
    (plain,) = live.read()
    assert first_frame(plain).snapshot is None
    live.file.write_text(f"{GATE}snapshots = true\n")
    (sharp,) = live.read()
    live.file.write_text(f"{GATE}snapshots = 'blur'\n")
    (blurred,) = live.read()
    assert len({camera.source_settings for camera in (plain, sharp, blurred)}) == 3
    made = [first_frame(camera).snapshot for camera in (sharp, blurred)]
    assert [each.info.blurred for each in made] == [False, True]
    assert [pixels(each.jpeg).shape for each in made] == [(480, 640, 3)] * 2
    live._settings.snapshot_width = 64
    live.file.write_text(f"{GATE}snapshots = true\nfps = 3\n")
    (small,) = live.read()
    assert pixels(first_frame(small).snapshot.jpeg).shape == (48, 64, 3)


def test_what_cannot_be_taken_over_leaves_the_detector_as_it_was(live, monkeypatch):
    live.read()
    live.file.write_text(f"{GATE}score_threshold = 0.9\n")
    monkeypatch.setattr("worker.commands.live_cameras.fill_in", gone)
    with pytest.raises(UsageError):
        live.read()
    assert live._setup.detector.score_threshold == 0.3


def gone(text, secrets):
    raise UsageError("a secret is gone")
