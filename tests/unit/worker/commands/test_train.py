"""What `ssd-worker train` refuses before anything is trained, and what it says."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ssd_core.training.augment import LIGHT, PAPER
from ssd_core.training.data_sets.reading import read_data_set
from ssd_core.training.loader import BatchLoader
from ssd_core.training.loop import Training
from ssd_core.training.recipe import Recipe
from ssd_core.training.run_folder import RunFolder
from tests.lorries import write_data_set
from tests.unit.ssd_core.conftest import TINY, tiny_network
from worker.commands import requirements, train
from worker.commands.train import run_train
from worker.commands.training_console import TrainingConsole, duration
from worker.errors import UsageError
from worker.settings.learning import TrainSettings
from worker.settings.loading import load_settings


@pytest.fixture
def refusal(tmp_path):
    """The message with which a run is refused."""
    data = write_data_set(tmp_path / "data", 2)

    def refusal(*, data=(data,), output=tmp_path / "own.safetensors", **options):
        with pytest.raises(UsageError) as error:
            run_train(TrainSettings(data=[str(each) for each in data], output=output, **options))
        assert "\n" not in str(error.value)
        return str(error.value)

    return refusal


# Settings


def test_it_needs_data_and_somewhere_to_write():
    for arguments, message in (
        ([], "no labelled images to learn from"),
        (["a.json"], "give --output FILE.safetensors, or --preview FILE.png"),
        (["a.json", "--output", "own.pth"], "--output own.pth: expected .safetensors"),
        (["a.json", "--preview", "page.jpg"], "--preview page.jpg: expected .png"),
        (["a.json", "--output", "x.safetensors", "--lr", "0"], "--lr: "),
        (["a.json", "--output", "x.safetensors", "--batch", "0"], "--batch: "),
        (["a.json", "--output", "x.safetensors", "--freeze", "-1"], "--freeze: "),
        (["a.json", "--output", "x.safetensors", "--lr", "nan"], "--lr: "),
        (["a.json", "--output", "x.safetensors", "--ema", "1"], "--ema: "),
        (["a.json", "--output", "x.safetensors", "--ema", "-0.1"], "--ema: "),
        (["a.json", "--output", "x.safetensors", "--optimizer", "adam"], "--optimizer: "),
        (["a.json", "--output", "x.safetensors", "--augment", "heavy"], "--augment: "),
    ):
        with pytest.raises(UsageError) as error:
            load_settings(TrainSettings, "train", arguments)
        assert message in str(error.value), arguments


def test_files_with_commas_and_brackets_are_taken_as_they_are():
    names = ["a,b.json", "[c].json"]
    settings = load_settings(TrainSettings, "train", [*names, "--output", "x.safetensors"])
    assert settings.data == names


# Refused before the start


def test_an_output_that_exists_is_kept(refusal, tmp_path):
    (tmp_path / "own.safetensors").write_text("precious")
    assert "exists already: choose another name or give --overwrite" in refusal()
    assert (tmp_path / "own.safetensors").read_text() == "precious"
    # --resume is for a run that is not finished, which this file is not of
    assert "exists already" in refusal(resume=True, epochs=1)
    assert (tmp_path / "own.safetensors").read_text() == "precious"


def test_a_place_that_cannot_be_written_to_is_refused(refusal, tmp_path):
    assert "does not exist: create it" in refusal(output=tmp_path / "missing" / "x.safetensors")
    assert "cannot write there" in refusal(output=Path("/proc/x.safetensors"))
    (tmp_path / "folder.safetensors").mkdir()
    assert "is a directory" in refusal(output=tmp_path / "folder.safetensors", overwrite=True)


def test_data_that_is_not_there_or_has_no_object_is_refused(refusal, tmp_path):
    assert "no such file" in refusal(data=[tmp_path / "missing.json"])
    empty = write_data_set(tmp_path / "empty", 0, empty=2)
    assert "no object is labelled" in refusal(data=[empty])
    assert not list(tmp_path.glob("*.training"))


def test_the_faults_of_a_data_set_are_listed_before_the_error(refusal, tmp_path, capsys):
    other = write_data_set(tmp_path / "val", 2)
    content = json.loads(other.read_text())
    content["categories"][0]["name"] = "Tram"
    other.write_text(json.dumps(content))
    assert refusal(val=other) == ("1 fault in the data set (--skip-invalid goes on without them)")
    (fault,) = lines(capsys)
    assert fault.startswith(f"{other}, annotation ")
    assert "'Tram': not one of the labels" in fault


def test_validation_without_its_library_names_the_extra(refusal, monkeypatch, tmp_path):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert "pip install 'ssd-worker[train]'" in refusal(val=tmp_path / "val.json")


def test_curves_without_their_library_name_the_extra(refusal, monkeypatch, tmp_path):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None)
    assert "pip install 'ssd-worker[train]'" in refusal(tensorboard=tmp_path / "runs")


def test_a_run_that_is_not_finished_is_not_overwritten(refusal, tmp_path):
    folder = tmp_path / "own.safetensors.training"
    folder.mkdir()
    (folder / "state.pt").write_text("hours of work")
    assert "holds a run that is not finished: give --resume to go on, or --overwrite" in refusal()
    assert "cannot be read" in refusal(resume=True)
    assert (folder / "state.pt").read_text() == "hours of work"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "ssd301"}, "unknown model 'ssd301'"),
        ({"weights": "missing.safetensors"}, "missing.safetensors: no such file"),
        ({"weights": "imagenet"}, "ssd_mobilenet_v2_oid: no ImageNet weights are published"),
        ({"device": "tpu"}, "device 'tpu'"),
        ({"device": "cpu", "precision": "fp16"}, "precision 'fp16' needs a CUDA device"),
        ({"device": "cpu", "freeze": 6}, "has 5 stages, not 6: freeze at most 5"),
    ],
)
def test_what_is_not_there_is_refused(refusal, options, message):
    assert message in refusal(**options)


# What it trains with


def recipe_of(data_set, *options):
    arguments = ["a.json", "--output", "x.safetensors", *options]
    settings = load_settings(TrainSettings, "train", arguments)
    return train._recipe(settings, data_set, "ssd300_vgg16", "fp32")


def test_the_recipe_is_what_the_options_say(tmp_path):
    data_set = read_data_set([write_data_set(tmp_path, 8)])
    default = recipe_of(data_set)
    assert (default.optimizer, default.schedule, default.ema) == ("adamw", "cosine", 0)
    assert default.augmentation == PAPER
    assert default.learning_rate == pytest.approx(1e-4 * 0.5**0.5)
    sgd = recipe_of(data_set, "--optimizer", "sgd", "--schedule", "step", "--ema", "0.99")
    assert (sgd.optimizer, sgd.schedule, sgd.ema) == ("sgd", "step", 0.99)
    assert sgd.learning_rate == pytest.approx(5e-4)
    assert recipe_of(data_set, "--augment", "light").augmentation == LIGHT
    unflipped = recipe_of(data_set, "--augment", "light", "--no-flip").augmentation
    assert unflipped == replace(LIGHT, flip=False)
    assert recipe_of(data_set, "--augment", "none", "--no-flip").augmentation is None


# What it says


@pytest.mark.parametrize(("aps", "warned"), [((0.4, 0.3), True), ((0.4, 0.5), False)])
def test_starting_weights_that_stay_the_best_are_told_with_a_way_out(
    tmp_path, caplog, capsys, aps, warned
):
    data_set = read_data_set([write_data_set(tmp_path, 2)])
    spec = replace(TINY, labels=data_set.labels)
    recipe = Recipe(epochs=1, batch=2, learning_rate=0.125)
    folder = RunFolder(tmp_path / "own.safetensors")
    folder.claim()
    device = torch.device("cpu")
    training = Training(tiny_network(spec, False), spec, data_set, recipe, device, folder, {})
    measured = iter(aps)
    with BatchLoader(data_set, spec, 2) as loader:
        training.run(loader, lambda detector: {"AP": next(measured)})
    settings = TrainSettings(data=["x.json"], output=folder.output)
    train._finish(training, folder, settings, data_set, data_set)
    folder.release()
    assert f"best epoch: {0 if warned else 1} of 1 (AP " in capsys.readouterr().err
    told = [record.message for record in caplog.records if "starting weights" in record.message]
    if not warned:
        assert told == []
        return
    (message,) = told
    assert "no epoch reached a higher AP than the starting weights (0.400): the output" in message
    assert "a lower --lr than 0.12, or more images" in message
    assert "\n" not in message


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_off_a_terminal_there_is_a_line_per_epoch(capsys):
    numbers = {"AP": 0.41, "AP50": 0.7, "AP_small": None}
    with TrainingConsole(3, 10, done=1) as console:
        for image in range(10):
            console.step(2, image + 1, 1.5)
        console.validating(1, 2)
        console.epoch(2, {"boxes": 0.5, "classes": 1.0}, numbers, 12.34, is_best=True)
        console.epoch(3, {"boxes": 0.25, "classes": 1.0}, {"AP": None}, 12.34, is_best=False)
    second, third = lines(capsys)
    assert second == (
        "epoch 2/3: loss 1.500 (boxes 0.500, classes 1.000), AP 0.410, AP50 0.700, "
        "12.3 images/s, 0 s left, the best so far"
    )
    assert third == "epoch 3/3: loss 1.250 (boxes 0.250, classes 1.000), 12.3 images/s"


def test_the_starting_weights_have_a_line_before_the_epochs(capsys):
    with TrainingConsole(3, 10) as console:
        console.start({"AP": 0.41, "AP50": 0.7, "AP_small": 0.1})
        console.start({"AP": None, "AP50": None})
    assert lines(capsys) == [
        "epoch 0/3: AP 0.410, AP50 0.700 (the starting weights)",
        "epoch 0/3: no AP (the starting weights)",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (9e3, "2.5 h")],
)  # fmt: skip
def test_durations_are_in_units_that_people_use(seconds, text):
    assert duration(seconds) == text
