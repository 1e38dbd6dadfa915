"""The plots: which there are, and that labels are no formulas."""

import warnings

import numpy as np
import pytest
from PIL import Image

from tests.events import PERSON
from tests.unit.worker.reports.events import CAR, recorded, state
from tests.unit.worker.reports.test_page import PICTURE, material_of
from worker.errors import SinkError
from worker.reports.material import Report
from worker.reports.pictures import ShownFrame
from worker.reports.plots import _file_name, write_plots


def written(tmp_path, *materials):
    report = Report("Report", "tags.jsonl", list(materials))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return [path.name for path in write_plots(report, tmp_path)]


def check(tmp_path, material, names):
    assert written(tmp_path, material) == names
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert np.asarray(image.convert("L")).std() > 5, name


@pytest.mark.long
def test_of_a_camera_without_detections_there_is_its_coverage(tmp_path):
    events = [state(n, 10 * n, "up", "heartbeat", frames=50 * n) for n in range(9)]
    check(tmp_path, material_of(*events), ["gate-coverage.png"])


@pytest.mark.long
def test_each_plot_that_has_something_to_show_is_written_whole(tmp_path):
    odd = [PERSON.model_copy(update={"label": label}) for label in ("$\\bad$", "_x", "\u4eba")]
    frame = ShownFrame(PICTURE, recorded(0, *odd))
    recording = material_of(*(recorded(n, *odd, CAR) for n in range(40)), frames=[frame])
    check(tmp_path, recording, ["clip-counts.png", "clip-heatmap.png", "clip-frames.png"])


def test_ids_become_names_of_files_that_differ():
    taken = set()
    ids = ["../../etc/x", "..-..-etc-x", "GATE", "gate", "/", ".", "a" * 300]
    assert [_file_name(camera_id, taken) for camera_id in ids] == [
        "-..-etc-x", "-..-etc-x-2", "GATE", "gate-2", "-", "camera", "a" * 100,
    ]  # fmt: skip


@pytest.mark.long
def test_a_place_that_cannot_be_written_to_is_one_line(tmp_path):
    with pytest.raises(SinkError, match="cannot write"):
        written(
            tmp_path / "none", material_of(state(0, 0, "up", "connected"), state(1, 9, "up", ""))
        )
