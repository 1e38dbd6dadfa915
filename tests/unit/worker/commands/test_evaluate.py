"""What `ssd-worker evaluate` warns of, and what it draws together."""

import json
import logging

import numpy as np
import pytest
import torch

from ssd_core import Detector
from ssd_core.errors import CheckpointError
from ssd_core.training.data import DataSet, LabelledImage
from worker.commands.evaluate import (
    _described,
    _groups,
    _load,
    _warn_of_learnt,
    _warn_of_unknown,
    run_evaluate,
)
from worker.errors import DetectorError, UsageError
from worker.settings.learning import EvaluateSettings
from worker.settings.loading import load_settings

NAME = "ssd_mobilenet_v2_oid"


def data_set(*recordings, labels=("__background__", "Cat")):
    nothing = np.zeros(0)
    return DataSet(
        labels,
        tuple(
            LabelledImage(
                f"{index}.jpg", lambda: None, 9, 9, nothing.reshape(0, 4), nothing, nothing,
                nothing, recording,
            )
            for index, recording in enumerate(recordings)
        ),
        "sha256:1",
    )  # fmt: skip


@pytest.fixture
def warnings(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    caplog.set_level("WARNING", "worker")
    return lambda: [record.getMessage() for record in caplog.records]


def settings(*arguments):
    return load_settings(EvaluateSettings, "evaluate", list(arguments))


# Images that are alike


def test_image_files_are_drawn_one_by_one(warnings):
    assert _groups(data_set("", "", "")) is None
    assert warnings() == []


def test_frames_of_ten_recordings_are_drawn_by_recording_and_files_by_themselves(warnings):
    frames = [f"/videos/#{n}.mp4" for n in range(10) for _ in range(2)]
    groups = _groups(data_set(*frames, ""))
    assert len(set(groups)) == 11
    assert groups[0] == groups[1] == "/videos/#0.mp4"
    assert groups[-1] == "20.jpg"
    assert warnings() == []


def test_frames_of_few_recordings_are_drawn_one_by_one_with_a_warning(warnings):
    assert _groups(data_set("a.mp4", "a.mp4", "b.mp4")) is None
    (warning,) = warnings()
    assert warning.startswith("frames of 2 recordings: frames that look alike make the interval")


# Classes


def test_unknown_classes_are_named_with_those_that_are_spelt_alike(warnings):
    labels = ("__background__", "Cat", "dog", "unicorn")
    _warn_of_unknown(data_set(labels=labels), {"Cat", "Dog"}, 1)
    assert warnings() == [
        "left out are the classes that the model does not know: dog (it has Dog), unicorn"
    ]


def test_known_classes_are_not_spoken_of(warnings):
    _warn_of_unknown(data_set(), {"Cat", "Dog"}, 2)
    assert warnings() == []


# Data that the weights have seen


def test_weights_that_were_trained_on_the_data_are_told_of(warnings):
    run = {"data": "sha256:1", "validation": "sha256:2"}
    training = json.dumps({"settings": run, "epoch": 3})
    _warn_of_learnt(training, "sha256:1", "own.safetensors")
    _warn_of_learnt(training, "sha256:2", "own.safetensors")
    _warn_of_learnt(training, "sha256:3", "own.safetensors")
    learnt, chosen = warnings()
    assert learnt.startswith("own.safetensors were trained on this data set: ")
    assert chosen.startswith("own.safetensors are the best epoch's on this data set: ")


@pytest.mark.parametrize("training", ["", "Open Images V4", "[]", "{}", '{"settings": null}'])
def test_weights_that_were_trained_elsewhere_are_not(warnings, training):
    _warn_of_learnt(training, "sha256:1", "own.safetensors")
    assert warnings() == []


# Weights by the name of their model


def test_the_name_of_a_model_means_its_weights_in_the_package():
    found = _load(settings("labels.json", NAME, "own.safetensors"), NAME)
    assert found.digest == Detector.load(NAME, device="cpu").digest
    assert _described(found, NAME)["weights"] == "in the package"


def test_a_file_goes_before_a_model_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=f"^{NAME}|weights {NAME}"):
        _load(settings("labels.json", NAME), NAME)


def test_two_models_for_one_place_are_refused():
    wanted = settings("labels.json", NAME, "--model", "ssd300_vgg16")
    with pytest.raises(UsageError, match=f"--model ssd300_vgg16 and {NAME}: name one of them"):
        _load(wanted, NAME)


# No memory left


def test_a_device_without_memory_is_one_line_with_a_way_out(monkeypatch, tmp_path):
    def no_memory(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    monkeypatch.setattr(Detector, "load", no_memory)
    with pytest.raises(DetectorError, match="no memory left: give a lower --max-batch"):
        run_evaluate(settings(str(tmp_path / "labels.json")))


# Settings


def test_the_first_argument_is_the_data_and_the_others_are_weights():
    found = settings("labels,1.json", "a.pth", "coco")
    assert (found.data, found.checkpoints) == ("labels,1.json", ["a.pth", "coco"])
    assert settings("labels.json").checkpoints == []


def test_a_file_for_several_commands_may_list_the_data(tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text('data = ["labels.json"]\nmetric = "voc07"\n')
    found = settings("--config", str(config))
    assert (found.data, found.metric) == ("labels.json", "voc07")
    config.write_text('data = ["a.json", "b.json"]\n')
    with pytest.raises(UsageError, match="one data set: name it as the first argument"):
        settings("--config", str(config))
    assert settings("--config", str(config), "labels.json").data == "labels.json"
