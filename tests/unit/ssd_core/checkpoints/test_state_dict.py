"""Files of training scripts: how they wrap a model's weights, with the real wrappers."""

import argparse
import logging
import pickle
import zipfile
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ssd_core.checkpoints.loading import load_model
from ssd_core.checkpoints.state_dict import find_state_dict
from ssd_core.errors import CheckpointError
from tests.unit.ssd_core.checkpoints.malicious import Malicious


class Lightning(nn.Module):
    """A training module that has the model as an attribute, beside parts of its own."""

    def __init__(self, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.register_buffer("class_weights", torch.ones(3))


def changed(model, by=1.0):
    """A copy with other weights."""
    copy = AveragedModel(model).module
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter += by
    return copy


def assert_loads(content, expected, spec, path):
    torch.save(content, path)
    actual = load_model(spec, path)[0].state_dict()
    assert actual.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(actual[name], tensor), name


def refusal(content, spec, path):
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        load_model(spec, path)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.pth"


# torchvision's references/detection/train.py


def test_a_checkpoint_of_torchvisions_training_script_loads(tiny_model, tiny_spec, path):
    optimizer = torch.optim.SGD(tiny_model.parameters(), lr=0.002, momentum=0.9)
    for parameter in tiny_model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [80, 110])
    content = {
        "model": tiny_model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": scheduler.state_dict(),
        "args": argparse.Namespace(
            data_path="/data/coco", lr=0.002, lr_steps=[80, 110], amp=False, resume=None
        ),
        "epoch": 119,
        "scaler": torch.amp.GradScaler("cpu").state_dict(),
    }
    assert_loads(content, tiny_model, tiny_spec, path)


def test_options_with_a_path_load(tiny_model, tiny_spec, path):
    content = {"model": tiny_model.state_dict(), "args": argparse.Namespace(out=Path("runs"))}
    assert_loads(content, tiny_model, tiny_spec, path)


@pytest.mark.parametrize(
    "kept",
    [
        np.float64(0.31), np.float32(0.5), np.int64(7), np.bool_(True), np.array([0.1, 0.2]),
        np.array(["Person", "Car"]), SimpleNamespace(lr=0.1, scores=[np.float64(0.3)]),
        PurePosixPath("runs/7"),
    ],
    ids=lambda kept: type(kept).__name__,
)  # fmt: skip
@pytest.mark.parametrize("numpy_1", [False, True])
def test_what_scripts_keep_beside_the_weights_loads(tiny_model, tiny_spec, path, kept, numpy_1):
    content = {"best": kept, "model": tiny_model.state_dict()}
    torch.save(content, path)
    if numpy_1:  # its names, in a file whose parts are laid out anew
        with zipfile.ZipFile(path) as old:
            parts = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, part in parts.items():
                new.writestr(name, part.replace(b"numpy._core.", b"numpy.core."))
    actual = load_model(tiny_spec, path)[0].state_dict()
    assert all(torch.equal(actual[n], t) for n, t in tiny_model.state_dict().items())


def test_complex_numbers_are_refused(tiny_model, tiny_spec, path):
    content = tiny_model.state_dict()
    name = next(iter(content))
    content[name] = content[name].to(torch.complex64)
    assert refusal(content, tiny_spec, path) == (
        f"weights {path}: {name} holds complex numbers, which no weights are: save real ones"
    )


@pytest.mark.parametrize("save", [torch.save, lambda c, p: p.write_bytes(pickle.dumps(c, 2))])
def test_code_in_saved_options_does_not_run(tiny_model, tiny_spec, path, tmp_path, save):
    marker = tmp_path / "executed"
    options = argparse.Namespace(lr=0.1, hook=Malicious(marker))
    save({"model": tiny_model.state_dict(), "args": options}, path)
    with pytest.raises(CheckpointError, match="refused, not a plain file of tensors"):
        load_model(tiny_spec, path)
    assert not marker.exists()


def test_a_class_that_is_refused_is_named_with_the_way_out(tiny_model, tiny_spec, path):
    content = {"model": tiny_model.state_dict(), "optimizer": torch.optim.SGD}
    assert refusal(content, tiny_spec, path) == (
        f"weights {path}: refused, not a plain file of tensors (it holds torch.optim.sgd.SGD): "
        "save it again with torch.save(model.state_dict(), PATH)"
    )


# Wrapping modules


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "compiled": torch.compile,
    "averaged": AveragedModel,
    "Lightning": lambda model: Lightning(model=model),
    "another attribute": lambda model: Lightning(ssd=model),
    "compiled in DataParallel": lambda model: nn.DataParallel(torch.compile(model)),
    "averaged in DataParallel in Lightning": lambda model: Lightning(
        net=nn.DataParallel(AveragedModel(model))
    ),
}


@pytest.mark.parametrize("nested", [(), ("model",), ("state", "net", "state_dict")])
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_weights_of_a_wrapped_model_load(tiny_model, tiny_spec, path, wrap, nested):
    content = wrap(tiny_model).state_dict()
    for key in nested:
        content = {"epoch": 3, key: content}
    assert_loads(content, tiny_model, tiny_spec, path)


def test_wrapped_parts_of_a_model_load(tiny_model, tiny_spec, path):
    expected = changed(tiny_model, by=0)
    tiny_model.backbone = nn.DataParallel(tiny_model.backbone)
    tiny_model.classification_heads = nn.DataParallel(tiny_model.classification_heads)
    assert "classification_heads.module.0.weight" in tiny_model.state_dict()
    assert_loads({"model": tiny_model.state_dict()}, expected, tiny_spec, path)


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_model_loads_from_safetensors_too(tiny_model, tiny_spec, tmp_path, wrap):
    path = tmp_path / "wrapped.safetensors"
    save_file(wrap(tiny_model).state_dict(), path)
    actual = load_model(tiny_spec, path)[0].state_dict()
    assert all(torch.equal(actual[name], t) for name, t in tiny_model.state_dict().items())


def test_weights_in_a_list_load(tiny_model, tiny_spec, path):
    assert_loads({"models": [tiny_model.state_dict()]}, tiny_model, tiny_spec, path)


def test_a_tensor_that_no_model_has_is_named_though_it_is_wrapped(tiny_model, tiny_spec, path):
    tiny_model.neck = nn.Linear(1, 1)
    content = {"model": nn.DataParallel(tiny_model).state_dict()}
    assert "neck.weight: expected nothing, found [1, 1]" in refusal(content, tiny_spec, path)


def test_a_tensor_that_a_wrapped_model_lacks_is_named(tiny_model, tiny_spec, path):
    content = nn.DataParallel(tiny_model).state_dict()
    del content["module.backbone.convolution.bias"]
    message = refusal(content, tiny_spec, path)
    assert message.endswith(
        "do not fit tiny: backbone.convolution.bias: expected [4], found nothing"
    )


# Several copies


AVERAGED = ["model_ema", "ema", "ema_model", "state_dict_ema", "EMA", "swa_model", "shadow"]


@pytest.mark.parametrize("key", AVERAGED)
@pytest.mark.parametrize("first", [True, False])
def test_averaged_weights_go_before_those_they_average(tiny_model, tiny_spec, path, key, first):
    averaged = changed(tiny_model)
    content = {"model": tiny_model.state_dict(), "epoch": 3}
    wrapped = {key: AveragedModel(averaged).state_dict()}
    assert_loads(content | wrapped if first else wrapped | content, averaged, tiny_spec, path)


def test_averaged_weights_beside_the_others_in_one_state_dict_load(tiny_model, tiny_spec, path):
    averaged = changed(tiny_model)
    trainer = Lightning(model=tiny_model, ema=AveragedModel(averaged))
    assert_loads({"state_dict": trainer.state_dict()}, averaged, tiny_spec, path)


def test_an_average_that_is_part_of_the_model_itself_loads(tiny_model, tiny_spec, path):
    averaged = changed(tiny_model)
    tiny_model.ema = AveragedModel(averaged)
    assert_loads(tiny_model.state_dict(), averaged, tiny_spec, path)


def test_an_average_nested_in_its_own_dict_loads(tiny_model, tiny_spec, path):
    averaged = changed(tiny_model)
    content = {
        "model": tiny_model.state_dict(),
        "ema": {"module": averaged.state_dict(), "updates": 7},
    }
    assert_loads(content, averaged, tiny_spec, path)


def test_an_average_without_every_tensor_is_passed_over(tiny_model, tiny_spec, path):
    averaged = changed(tiny_model).state_dict()
    del averaged["backbone.convolution.bias"]
    content = {"model": tiny_model.state_dict(), "ema": averaged}
    assert_loads(content, tiny_model, tiny_spec, path)


def test_the_log_says_which_copy_is_taken(tiny_model, tiny_spec, path, caplog):
    content = {"model": tiny_model.state_dict(), "model_ema": tiny_model.state_dict()}
    content["model_ema"] = AveragedModel(tiny_model).state_dict()
    torch.save(content, path)
    with caplog.at_level(logging.INFO, "ssd_core"):
        load_model(tiny_spec, path)
    assert caplog.messages == [f"weights {path}: taken from model_ema.module, not from model"]


def test_one_model_alone_is_not_worth_a_log_line(tiny_model, tiny_spec, path, caplog):
    torch.save({"model": nn.DataParallel(tiny_model).state_dict()}, path)
    with caplog.at_level(logging.INFO, "ssd_core"):
        load_model(tiny_spec, path)
    assert caplog.messages == []


def test_one_state_dict_under_two_names_is_one(tiny_model, tiny_spec, path):
    weights = tiny_model.state_dict()
    assert_loads({"model": weights, "state_dict": weights}, tiny_model, tiny_spec, path)


def test_several_models_are_refused_by_their_names(tiny_model, tiny_spec, path):
    content = {"student": tiny_model.state_dict(), "teacher": changed(tiny_model).state_dict()}
    assert refusal(content, tiny_spec, path) == (
        f"weights {path}: refused, not a plain file of tensors: it holds several models "
        "(student, teacher): save the model's alone with torch.save(model.state_dict(), PATH)"
    )


# Hostile nesting


def test_a_dict_that_holds_itself_is_looked_into_once():
    content = {"weights": torch.zeros(1)}
    content["self"] = content["list"] = content
    assert find_state_dict(content)[0] == {"weights": content["weights"]}


def test_endless_nesting_is_refused():
    content = {"weights": torch.zeros(1)}
    for _ in range(100_000):
        content = {"model": content}
    with pytest.raises(CheckpointError, match="expected a dict of tensors by name"):
        find_state_dict(content)
    while content:  # else Python frees it in one recursion
        content = content.pop("model", None)
