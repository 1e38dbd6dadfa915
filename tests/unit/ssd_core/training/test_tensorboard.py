"""Curves as TensorBoard itself reads them."""

import logging
import resource
from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ssd_core.errors import TrainingError
from ssd_core.training.loop import Epoch, Progress
from ssd_core.training.tensorboard import TensorBoard

START = Epoch(0, None, None, None, None, 1.0, {"AP": 0.1, "AP50": None})
EPOCH = Epoch(1, 1e-3, 2.0, 1.0, 10.0, 1.0, {"AP": 0.5, "AP50": 0.75})
BATCHES = 3


def write(directory, measured, epochs, *, batches=BATCHES, loss=1.0):
    """Epochs of a run that has measured some; of the last, so many batches."""
    measured = list(measured)
    with TensorBoard(directory, BATCHES, measured) as curves:
        for number in epochs:
            if number:
                last = number == epochs[-1]
                for batch in range(batches if last else BATCHES):
                    at = (number - 1) * BATCHES + batch + 1
                    curves.batch(Progress(number, at, batch + 1, 1e-3 / at, loss + at, loss))
                if last and batches < BATCHES:
                    break
            measured.append(replace(EPOCH, number=number) if number else START)
            curves.epoch(measured[-1])
    return measured


def curves_in(directory):
    """(step, value) of each curve."""
    events = EventAccumulator(str(directory)).Reload()
    return {
        tag: [(each.step, pytest.approx(each.value)) for each in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_each_batch_and_each_epoch_is_a_point(tmp_path):
    write(tmp_path / "new" / "runs", [], [0, 1, 2])
    found = curves_in(tmp_path / "new" / "runs")
    assert found == {
        "batch/loss": [(at, 1.0 + at) for at in range(1, 7)],
        "batch/learning_rate": [(at, 1e-3 / at) for at in range(1, 7)],
        "epoch/loss": [(3, 3.0), (6, 3.0)],
        "epoch/loss_boxes": [(3, 2.0), (6, 2.0)],
        "epoch/loss_classes": [(3, 1.0), (6, 1.0)],
        "epoch/learning_rate": [(3, 1e-3), (6, 1e-3)],
        "epoch/images_per_second": [(3, 10.0), (6, 10.0)],
        "validation/AP": [(0, 0.1), (3, 0.5), (6, 0.5)],
        "validation/AP50": [(3, 0.75), (6, 0.75)],
    }


def test_a_run_that_goes_on_continues_its_curves(tmp_path):
    """Of the interrupted epoch, the batches come again."""
    measured = write(tmp_path, [], [0, 1, 2], batches=2)
    assert [epoch.number for epoch in measured] == [0, 1]
    write(tmp_path, measured, [2, 3], loss=100.0)
    found = curves_in(tmp_path)
    before = [(at, 1.0 + at) for at in range(1, 4)]
    assert found["batch/loss"] == before + [(at, 100.0 + at) for at in range(4, 10)]
    assert [step for step, _ in found["validation/AP"]] == [0, 3, 6, 9]


def test_a_run_interrupted_before_its_first_epoch_goes_on_after_the_starting_weights(tmp_path):
    measured = write(tmp_path, [], [0, 1], batches=2)
    assert measured == [START]
    write(tmp_path, measured, [1], loss=100.0)
    found = curves_in(tmp_path)
    assert [step for step, _ in found["validation/AP"]] == [0, 3]
    assert found["batch/loss"] == [(at, 100.0 + at) for at in (1, 2, 3)]


def test_a_run_that_begins_again_hides_the_one_before(tmp_path):
    write(tmp_path, [], [0, 1, 2])
    write(tmp_path, [], [0, 1], loss=100.0)
    found = curves_in(tmp_path)
    assert found["batch/loss"] == [(at, 100.0 + at) for at in (1, 2, 3)]
    assert found["validation/AP"] == [(0, 0.1), (3, 0.5)]


def test_curves_are_there_after_each_epoch_of_a_run_that_is_killed(tmp_path):
    curves = TensorBoard(tmp_path, BATCHES, [])
    curves.epoch(EPOCH)
    assert curves_in(tmp_path)["validation/AP"] == [(3, 0.5)]
    curves.__exit__()


@pytest.mark.parametrize("place", ["file", "/proc/curves"])
def test_a_place_that_cannot_be_written_to_is_refused_in_one_line(tmp_path, place):
    (tmp_path / "file").write_text("a file")
    with pytest.raises(TrainingError, match=r"cannot write there \(.+\): choose another") as error:
        TensorBoard(tmp_path / place, BATCHES, [])
    assert "\n" not in str(error.value)


def test_on_a_full_disk_the_run_goes_on_without_curves_and_says_so_once(tmp_path, caplog, capfd):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with TensorBoard(tmp_path, BATCHES, []) as curves:
        curves.epoch(EPOCH)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
            for number in range(2, 40):
                curves.batch(Progress(number, number, 1, 1e-3, 1.0, 1.0))
                curves.epoch(replace(EPOCH, number=number))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "File too large" in record.getMessage()
    assert capfd.readouterr().err == ""
