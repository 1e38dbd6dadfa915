import sys
from importlib.resources import files

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssd_core import MODELS
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
