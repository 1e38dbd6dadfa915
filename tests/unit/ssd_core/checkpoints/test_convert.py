import argparse
import sys
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssd_core import MODELS, Detector
from ssd_core.checkpoints.convert import main
from ssd_core.checkpoints.loading import load_model
from ssd_core.checkpoints.metadata import to_metadata

NAME = "ssd_mobilenet_v2_oid"
BUNDLED = files("ssd_core") / "weights" / MODELS[NAME].weights


@pytest.fixture
def convert(monkeypatch):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        return main()

    return run


def test_weights_are_converted_to_fp16_safetensors(convert, tmp_path):
    source, target = tmp_path / "trained.pth", tmp_path / "out.safetensors"
    weights = load_file(str(BUNDLED))
    torch.save({name: tensor.float() for name, tensor in weights.items()}, source)

    assert convert(NAME, source, target) == 0
    written = load_file(target)
    assert written.keys() == weights.keys()
    assert all(torch.equal(written[name], tensor) for name, tensor in weights.items())


def test_fp32_keeps_the_full_precision(convert, tmp_path):
    target = tmp_path / "out.safetensors"
    assert convert(NAME, BUNDLED, target, "--fp32") == 0
    assert {tensor.dtype for tensor in load_file(target).values()} == {torch.float32}


@pytest.mark.long
def test_a_file_of_labels_names_the_classes_of_torchvisions_own_training(convert, tmp_path):
    """Its checkpoint as references/detection/train.py saves it, for three classes."""
    from torchvision.models.detection import ssd300_vgg16

    torch.manual_seed(0)
    theirs = ssd300_vgg16(weights=None, weights_backbone=None, num_classes=4).eval()
    source, target, labels = (tmp_path / name for name in ("119.pth", "own.safetensors", "l.txt"))
    options = argparse.Namespace(lr=0.002, world_size=1)
    torch.save({"model": theirs.state_dict(), "args": options, "epoch": 119}, source)
    labels.write_text("Heron\nStork\nCrane\n")

    assert convert("ssd300_vgg16", source, target, "--labels", labels, "--fp32") == 0
    detector = Detector.load(weights=target, device="cpu", precision="fp32")
    assert detector.spec.labels == ("background", "Heron", "Stork", "Crane")
    image = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with torch.inference_mode():
        maps = list(theirs.backbone(detector.preprocess([image])).values())
        expected = theirs.head(maps)
    bbox_regression, cls_logits = detector.model(detector.preprocess([image]))
    torch.testing.assert_close(bbox_regression, expected["bbox_regression"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(cls_logits, expected["cls_logits"], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("count", [21, 25])
def test_a_file_of_too_few_or_too_many_labels_is_refused_in_one_line(
    convert, tmp_path, capsys, count
):
    labels = tmp_path / "labels.txt"
    labels.write_text("Bird\n" * count)
    assert convert(NAME, BUNDLED, tmp_path / "out.safetensors", "--labels", labels) == 2
    assert capsys.readouterr().err == (
        f"convert: weights {BUNDLED}: there are {count} labels, but 24 classes, the background's "
        "among them: give one label per class in the order of training\n"
    )


@pytest.mark.parametrize(
    ("model", "source", "reason"),
    [("yolo", BUNDLED, "unknown model 'yolo'"), (NAME, "absent.pth", "no such file")],
)
def test_what_cannot_be_converted_is_said_in_one_line(
    convert, tmp_path, capsys, model, source, reason
):
    assert convert(model, source, tmp_path / "out.safetensors") == 2
    said = capsys.readouterr().err
    assert said.startswith("convert: ")
    assert reason in said
    assert said.count("\n") == 1


def test_a_target_that_cannot_be_written_is_said_in_one_line(convert, tmp_path, capsys):
    assert convert(NAME, BUNDLED, tmp_path / "absent" / "out.safetensors") == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_file_written_defines_its_model(convert, tmp_path):
    target = tmp_path / "out.safetensors"
    assert convert(NAME, BUNDLED, target) == 0
    _, spec, _ = load_model(None, target)
    assert spec == MODELS[NAME].with_own_weights()
    with safe_open(str(target), framework="pt") as file:
        assert file.metadata() == to_metadata(MODELS[NAME])
