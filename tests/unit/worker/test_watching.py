import contextlib
import itertools
import subprocess
import sys
import threading

import av
import numpy as np
import pytest

import worker
from ssd_core import Detector
from tests.conftest import WALKWAY, wait_until
from worker.errors import SourceError, UsageError
from worker.pipeline.batching import LosslessBatcher
from worker.sources.recording import upright_images


def test_every_frame_of_a_recording_is_returned_in_order_with_its_detections(short_clip):
    frames = list(worker.watch(str(short_clip)))
    assert [frame.frame_index for frame, _ in frames] == list(range(40))
    assert {frame.camera_id for frame, _ in frames} == {"short"}
    assert sum(d.label == "Person" for _, found in frames for d in found) > 40


def test_images_are_the_whole_pictures_unless_asked_otherwise(short_clip):
    expected = next(upright_images(short_clip)).image
    frame, detections = next(worker.watch(str(short_clip)))
    assert np.array_equal(frame.image, expected)
    assert frame.image.shape == (frame.height, frame.width, 3)
    small, _ = next(worker.watch(str(short_clip), full_size=False))
    assert small.image.shape == (300, 300, 3)
    alone = Detector.load().detect([frame.image])[0]
    boxes = np.array([d.box for d in detections])
    assert boxes == pytest.approx(alone.boxes_normalised.numpy(), abs=0.02)


@pytest.mark.long
def test_labels_and_thresholds_choose_detections(short_clip):
    found = [d for _, found in worker.watch(str(short_clip), labels=["Car"]) for d in found]
    assert {d.label for d in found} == {"Car"}
    sure = worker.watch(str(short_clip), score_threshold=0.6)
    assert all(d.score > 0.6 for _, found in sure for d in found)


@pytest.mark.long
def test_recordings_come_one_after_another(short_clip):
    ids = [f.camera_id for f, _ in worker.watch(f"a={short_clip}", f"b={short_clip}")]
    assert ids == ["a"] * 40 + ["b"] * 40


def test_frames_of_a_camera_come_until_the_loop_ends(short_clip, rtsp_server):
    url = rtsp_server.publish(WALKWAY, "gate.mp4")
    frames = list(itertools.islice(worker.watch(f"gate={url}", fps=5), 5))
    assert {frame.camera_id for frame, _ in frames} == {"gate"}
    indices = [frame.frame_index for frame, _ in frames]
    assert indices == sorted(set(indices))
    assert sum(frame.skipped for frame, _ in frames) > 0


def test_a_reader_does_not_outlive_the_loop(short_clip):
    def readers():
        return [t for t in threading.enumerate() if t.name == "source-outlived"]

    for _frame, _detections in worker.watch(f"outlived={short_clip}"):
        assert readers()
        break
    wait_until(lambda: not readers(), what="its thread to end")


@pytest.mark.parametrize("times", [1, 2])
def test_frames_can_be_closed_early_which_ends_the_readers(short_clip, times):
    with contextlib.closing(worker.watch(*[f"c{n}={short_clip}" for n in range(times)])) as frames:
        next(frames)
    assert not [t.name for t in threading.enumerate() if t.name.startswith("source-")]


def test_what_cannot_be_watched_is_refused_at_once(short_clip, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        worker.watch(str(tmp_path / "missing.mp4"))
    with pytest.raises(UsageError, match="camera gate: not the URL of a camera"):
        worker.watch("gate=ftp://127.0.0.1/x")
    with pytest.raises(UsageError, match="fps must be above 0, not 0"):
        worker.watch(str(short_clip), fps=0)
    with pytest.raises(UsageError, match="does not know Zebra"):
        worker.watch(str(short_clip), labels=["Zebra"])
    with pytest.raises(UsageError, match="unknown model"):
        worker.watch(str(short_clip), model="yolo")
    with pytest.raises(UsageError, match="nothing to watch"):
        worker.watch()
    with pytest.raises(UsageError, match="cannot be watched together"):
        worker.watch(str(short_clip), "rtsp://127.0.0.1:1/x")


def test_a_recording_that_breaks_off_raises(short_clip, monkeypatch):
    def broken(self, item):
        raise SourceError("cannot read it")

    monkeypatch.setattr(LosslessBatcher, "put", broken)
    with pytest.raises(SourceError, match="cannot read it"):
        list(worker.watch(str(short_clip)))


def test_importing_worker_loads_neither_pytorch_nor_pyav():
    script = "import sys, worker.events; print({'torch', 'av', 'numpy'} & {*sys.modules})"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.stdout.strip() == "set()"


def test_an_unknown_attribute_is_reported_as_python_does():
    with pytest.raises(AttributeError, match="module 'worker' has no attribute 'wacth'"):
        worker.wacth  # noqa: B018


def test_a_folder_of_pictures_is_watched_like_a_recording(short_clip, tmp_path):
    picture = next(upright_images(short_clip)).image
    for name in ("2.png", "10.png"):
        av.VideoFrame.from_ndarray(picture, "rgb24").to_image().save(tmp_path / name)
    found = list(worker.watch(f"photos={tmp_path}"))
    assert [frame.file_name for frame, _ in found] == ["2.png", "10.png"]
    assert all(detections for _, detections in found)
