import hashlib
import pickle
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ssd_core import MODELS, Detector, build_model
from ssd_core.checkpoints.loading import load_model, read_checkpoint, save_checkpoint
from ssd_core.errors import CheckpointError
from tests.unit.ssd_core.checkpoints.malicious import Malicious


def assert_same_weights(model, expected):
    actual = model.state_dict()
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(actual[name], tensor), name


def refusal(spec, weights):
    """The one line that says why the weights are refused."""
    with pytest.raises(CheckpointError) as error:
        load_model(spec, weights)
    assert "\n" not in str(error.value)
    return str(error.value)


# Round trips and formats


def test_safetensors_come_back_as_they_were_saved(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(tiny_model, path, tiny_spec)
    loaded, spec, _ = load_model(tiny_spec, path)
    assert_same_weights(loaded, tiny_model.state_dict())
    assert spec == tiny_spec


def test_safetensors_bring_their_labels(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "birds.safetensors"
    save_checkpoint(tiny_model, path, tiny_spec.with_labels(("background", "Møw", "Dück")))
    assert load_model(tiny_spec, path)[1].labels == ("background", "Møw", "Dück")


def test_labels_in_safetensors_decide_the_number_of_classes(tiny_spec, tmp_path):
    path = tmp_path / "one_class.safetensors"
    one_class = tiny_spec.with_labels(("background", "Duck"))
    save_checkpoint(build_model(one_class), path, one_class)
    model, spec, _ = load_model(tiny_spec, path)
    assert model.num_classes == spec.num_classes == 2


def test_safetensors_without_labels_keep_those_of_the_model(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file(tiny_model.state_dict(), path)
    assert load_model(tiny_spec, path)[1].labels == tiny_spec.labels


def test_fp16_safetensors_become_fp32_weights(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "half.safetensors"
    save_checkpoint(tiny_model, path, tiny_spec, torch.float16)
    loaded, _, _ = load_model(tiny_spec, path)
    tensors, _ = read_checkpoint(path, tiny_spec)
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    expected = {name: tensor.half().float() for name, tensor in tiny_model.state_dict().items()}
    assert load_file(path)["backbone.convolution.weight"].dtype == torch.float16
    assert_same_weights(loaded, expected)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt"])
@pytest.mark.parametrize("key", [None, "model", "state_dict"])
def test_a_saved_state_dict_loads_bare_or_wrapped(tiny_model, tiny_spec, tmp_path, key, suffix):
    weights = tiny_model.state_dict()
    path = tmp_path / f"weights{suffix}"
    torch.save(weights if key is None else {key: weights, "epoch": 3}, path)
    assert_same_weights(load_model(tiny_spec, path)[0], weights)


def test_torchvisions_ssd300_state_dict_fits_and_keeps_its_values(
    torchvision_ssd300, torchvision_ssd300_file
):
    spec = MODELS["ssd300_vgg16"]
    found, read_spec = read_checkpoint(torchvision_ssd300_file, spec)
    with torch.device("meta"):
        expected = build_model(spec).state_dict()
    assert {name: t.shape for name, t in found.items()} == {
        name: t.shape for name, t in expected.items()
    }
    assert read_spec == spec
    theirs = torchvision_ssd300.state_dict()
    for ours, name in {
        "backbone.l2_norm.scale": "backbone.scale_weight",
        "backbone.conv1_to_conv4_3.21.weight": "backbone.features.21.weight",
        "backbone.conv5_to_fc7.10.bias": "backbone.extra.0.7.3.bias",
        "extra_layers.3.2.weight": "backbone.extra.4.2.weight",
        "regression_heads.5.weight": "head.regression_head.module_list.5.weight",
    }.items():
        assert torch.equal(found[ours], theirs[name]), ours


def test_a_mobilenet_with_batch_norm_loads_as_one(tmp_path):
    spec = MODELS["ssd_mobilenet_v2_oid"]
    model = build_model(spec, batch_norm=True)
    path = tmp_path / "trained.safetensors"
    save_checkpoint(model, path, spec)
    assert_same_weights(load_model(spec, path)[0], model.state_dict())


# Digests


def test_the_digest_is_the_sha256_of_the_file(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "tiny.pth"
    torch.save(tiny_model.state_dict(), path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load_model(tiny_spec, path)[2] == f"sha256:{expected}"


@pytest.mark.parametrize("spec", [s for s in MODELS.values() if s.weights], ids=lambda s: s.name)
def test_bundled_weights_have_the_digest_that_the_spec_states(spec):
    content = (files("ssd_core") / "weights" / spec.weights).read_bytes()
    assert hashlib.sha256(content).hexdigest() == spec.digest


def test_a_detector_carries_the_digest_of_its_weights(mobilenet):
    assert mobilenet.digest == f"sha256:{MODELS['ssd_mobilenet_v2_oid'].digest}"


# Weights that do not fit


def test_a_wrong_shape_is_named_with_what_was_expected(tiny_model, tiny_spec, tmp_path):
    weights = tiny_model.state_dict()
    weights["classification_heads.0.bias"] = torch.zeros(8)
    path = tmp_path / "wrong.pth"
    torch.save(weights, path)
    assert refusal(tiny_spec, path) == (
        f"weights {path} do not fit tiny: classification_heads.0.bias: expected [6], found [8]"
    )


def test_missing_and_unknown_tensors_are_named(tiny_model, tiny_spec, tmp_path):
    weights = tiny_model.state_dict()
    weights["neck.weight"] = weights.pop("backbone.convolution.bias")
    path = tmp_path / "renamed.pth"
    torch.save(weights, path)
    message = refusal(tiny_spec, path)
    assert "backbone.convolution.bias: expected [4], found nothing" in message
    assert "neck.weight: expected nothing, found [4]" in message


def test_only_the_first_differences_are_named_and_the_rest_counted(tiny_spec, tmp_path):
    path = tmp_path / "empty.pth"
    torch.save({}, path)
    message = refusal(tiny_spec, path)
    assert message.count("found nothing") == 3
    assert message.endswith("; and 3 more")


def test_weights_of_another_model_are_refused(tmp_path):
    bundled = str(files("ssd_core") / "weights" / MODELS["ssd_mobilenet_v2_oid"].weights)
    with pytest.raises(CheckpointError, match="it is for 'ssd_mobilenet_v2_oid', not for ssd300"):
        Detector.load("ssd300_vgg16", weights=bundled, device="cpu")


# Weights with other classes


@pytest.fixture
def four_classes(tiny_spec, tmp_path):
    """A file of weights for four classes."""
    path = tmp_path / "four.pth"
    model = build_model(tiny_spec.with_labels(("background", "Cat", "Dog", "Cow")))
    torch.save({"model": model.state_dict()}, path)
    return path


def test_labels_decide_the_number_of_classes_of_a_plain_file(tiny_spec, four_classes):
    model, spec, _ = load_model(tiny_spec, four_classes, ["Katze", "Hund", "Kuh"])
    assert spec.labels == ("background", "Katze", "Hund", "Kuh")
    assert model.num_classes == 4


def test_labels_that_are_not_as_many_as_the_classes_are_refused(tiny_spec, four_classes):
    with pytest.raises(CheckpointError) as error:
        load_model(tiny_spec, four_classes, ["Katze", "Hund"])
    assert str(error.value) == (
        f"weights {four_classes}: there are 2 labels, but 4 classes, the background's among them: "
        "give one label per class in the order of training"
    )


def test_without_labels_other_classes_are_refused_with_the_way_out(tiny_spec, four_classes):
    assert refusal(tiny_spec, four_classes) == (
        f"weights {four_classes} have 4 classes, the background's among them, and tiny has 3: "
        "convert them with a file of their labels: python -m ssd_core.checkpoints.convert tiny "
        f"{four_classes} OUT.safetensors --labels FILE"
    )


def test_labels_rename_the_classes_of_a_file_that_has_some(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_checkpoint(tiny_model, path, tiny_spec)
    assert load_model(tiny_spec, path, ["Chat", "Chien"])[1].labels == (
        "background", "Chat", "Chien",
    )  # fmt: skip


def test_a_detector_takes_labels(constant_weights, tiny_spec):
    detector = Detector.load(
        tiny_spec, weights=constant_weights, labels=["Chat", "Chien"], device="cpu"
    )
    assert set(detector.detect([np.zeros((16, 24, 3), np.uint8)])[0].names) == {"Chien"}


def test_whole_numbers_become_weights(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "whole.pth"
    weights = {name: (tensor * 100).long() for name, tensor in tiny_model.state_dict().items()}
    torch.save(weights, path)
    expected = {name: tensor.float() for name, tensor in weights.items()}
    assert_same_weights(load_model(tiny_spec, path)[0], expected)


# Weights that are not numbers


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 1e300])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["backbone.convolution.weight", "regression_heads.0.bias"])
def test_weights_that_are_not_finite_are_refused_by_name(
    tiny_model, tiny_spec, tmp_path, bad, suffix, name
):
    path = tmp_path / f"bad{suffix}"
    weights = {name: tensor.double() for name, tensor in tiny_model.state_dict().items()}
    weights[name].view(-1)[-1] = bad
    (torch.save if suffix == ".pth" else save_file)(weights, path)
    assert refusal(tiny_spec, path) == (
        f"weights {path}: {name} holds NaN or infinity, and so would all results: "
        "take weights from before the training diverged"
    )


def test_a_wrapped_tensor_that_is_not_finite_is_refused_by_its_own_name(
    torchvision_ssd300, tmp_path
):
    path = tmp_path / "diverged.pth"
    weights = dict(torchvision_ssd300.state_dict())
    weights["backbone.scale_weight"] = torch.full((512,), torch.nan)
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}}, path)
    assert f"{path}: backbone.scale_weight holds NaN" in refusal(MODELS["ssd300_vgg16"], path)


def test_tensors_without_numbers_are_refused_by_name(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "odd.pth"
    weights = tiny_model.state_dict()
    weights["backbone.convolution.bias"] = torch.zeros(4, device="meta")
    torch.save(weights, path)
    assert "backbone.convolution.bias is not a plain tensor" in refusal(tiny_spec, path)


def test_weights_that_are_not_finite_are_not_saved(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "tiny.safetensors"
    tiny_model.backbone.convolution.bias.data[1] = torch.nan
    with pytest.raises(
        CheckpointError, match=r"backbone\.convolution\.bias holds numbers that are"
    ):
        save_checkpoint(tiny_model, path, tiny_spec)
    assert not path.exists()


def test_weights_that_a_smaller_type_cannot_hold_are_not_saved_in_it(
    tiny_model, tiny_spec, tmp_path
):
    path = tmp_path / "tiny.safetensors"
    tiny_model.backbone.convolution.bias.data[1] = 70_000
    with pytest.raises(CheckpointError, match=r"too large for torch.float16: keep fp32"):
        save_checkpoint(tiny_model, path, tiny_spec, torch.float16)
    save_checkpoint(tiny_model, path, tiny_spec)
    assert load_model(tiny_spec, path)[0].backbone.convolution.bias[1] == 70_000


# Files that are not weights


def test_a_missing_file_is_named(tiny_spec, tmp_path):
    path = tmp_path / "absent.pth"
    assert refusal(tiny_spec, path) == f"weights {path}: no such file"


def test_a_directory_is_no_file(tiny_spec, tmp_path):
    assert refusal(tiny_spec, tmp_path) == f"weights {tmp_path}: no such file"


@pytest.mark.parametrize("name", ["weights.onnx", "weights"])
def test_an_unknown_suffix_is_refused_with_the_known_ones(tiny_spec, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"something")
    assert refusal(tiny_spec, path).endswith("expected .safetensors, .pth, .pt, .ckpt or .tflite")


@pytest.mark.parametrize("content", [b"", b"garbage", bytes(range(256)) * 4])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".tflite"])
def test_garbage_is_refused(tiny_spec, tmp_path, suffix, content):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(tiny_spec, path)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_truncated_file_is_refused(tiny_model, tiny_spec, tmp_path, suffix, share):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save(tiny_model.state_dict(), path)
    else:
        save_checkpoint(tiny_model, path, tiny_spec)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert str(path) in refusal(tiny_spec, path)


def test_a_truncated_file_of_the_old_torch_format_is_refused(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "old.pth"
    torch.save(tiny_model.state_dict(), path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        assert str(path) in refusal(tiny_spec, path)


@pytest.mark.parametrize("labels", ["not JSON", "5", '"abc"', "[1]"])
def test_labels_that_are_not_a_list_in_json_are_refused(tiny_model, tiny_spec, tmp_path, labels):
    path = tmp_path / "labels.safetensors"
    save_file(tiny_model.state_dict(), path, metadata={"labels": labels})
    assert refusal(tiny_spec, path) == (
        f"weights {path}: its `labels` metadata is not a JSON list of names: write it again"
    )


# Pickles


def save_pickle(content, path):
    path.write_bytes(pickle.dumps(content, protocol=2))


@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_the_malicious_file_of_these_tests_runs_code_elsewhere(tmp_path, save):
    marker, path = tmp_path / "executed", tmp_path / "malicious.pth"
    save({"backbone.weight": Malicious(marker)}, path)
    load = torch.load if save is torch.save else lambda path, **_: pickle.loads(path.read_bytes())
    load(path, weights_only=False)
    assert marker.exists()


@pytest.mark.parametrize("save", [torch.save, save_pickle])
def test_code_in_a_pickle_does_not_run(tiny_spec, tmp_path, save):
    marker, path = tmp_path / "executed", tmp_path / "malicious.pth"
    save({"backbone.weight": Malicious(marker)}, path)
    assert "refused, not a plain file of tensors" in refusal(tiny_spec, path)
    assert not marker.exists()


@pytest.mark.parametrize(
    "content",
    [[torch.zeros(3)], torch.zeros(3), {"epoch": 3}, {0: torch.zeros(3)}, {"model": "a name"}],
    ids=["list", "tensor", "number", "unnamed tensor", "string"],
)
def test_a_pickle_of_anything_but_tensors_by_name_is_refused(tiny_spec, tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    assert "expected a dict of tensors by name" in refusal(tiny_spec, path)


def test_a_whole_pickled_model_is_refused_with_the_way_out(tiny_model, tiny_spec, tmp_path):
    path = tmp_path / "model.pth"
    torch.save(tiny_model, path)
    assert "torch.save(model.state_dict(), PATH)" in refusal(tiny_spec, path)


# The package's weights, and others' on the network


def test_without_weights_a_model_that_has_none_says_what_to_give():
    message = refusal(MODELS["ssd300_vgg16"], None)
    assert message == ("ssd300_vgg16 comes without weights: give --weights FILE or --weights coco")


def test_a_model_without_published_weights_does_not_offer_them():
    assert refusal(MODELS["ssd512_vgg16"], None).endswith("give --weights FILE")
    assert refusal(MODELS["ssd512_vgg16"], "coco") == (
        "ssd512_vgg16: no COCO weights are published for it: give --weights FILE"
    )
