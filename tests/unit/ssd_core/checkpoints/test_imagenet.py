"""`weights="imagenet"`: the backbone that torchvision's own SSD300 starts training from.

The file is made on the spot, where torchvision caches its download. As in the real one, only the
tensors of ``features`` hold numbers.
"""

import math

import pytest
import torch
from torchvision.models import VGG16_Weights, vgg16
from torchvision.models.detection import ssd300_vgg16
from torchvision.models.detection.ssd import SSDFeatureExtractorVGG
from torchvision.models.vgg import cfgs, make_layers

from ssd_core import MODELS
from ssd_core.checkpoints.loading import find_weights, load_imagenet, load_model
from ssd_core.checkpoints.torchvision_file import renamed
from ssd_core.errors import CheckpointError
from ssd_core.training.initialisation import starting_model
from tests.unit.ssd_core.checkpoints.malicious import Malicious

SPEC = MODELS["ssd300_vgg16"]
WEIGHTS = VGG16_Weights.IMAGENET1K_FEATURES
NAME = WEIGHTS.url.rsplit("/", 1)[-1]
LABELS = ("__background__", "Lorry")
NEW = ("backbone.conv5_to_fc7.8.", "backbone.conv5_to_fc7.10.", "extra_layers.")


@pytest.fixture(scope="module")
def vgg16_file(tmp_path_factory):
    with torch.device("meta"):
        shapes = vgg16(weights=None).state_dict()
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.tensor(math.nan).expand(each.shape) for name, each in shapes.items()}
    for name, each in shapes.items():
        if name.startswith("features."):
            scale = (2 / each[0].numel()) ** 0.5 if each.ndim > 1 else 0.1
            tensors[name] = torch.randn(each.shape, generator=generator) * scale
    path = tmp_path_factory.mktemp("vgg16") / NAME
    torch.save(tensors, path)
    return path


@pytest.fixture
def cached(torchvision_cache, no_network, vgg16_file):
    path = torchvision_cache / NAME
    path.symlink_to(vgg16_file)
    return path


def refusal(function, *arguments):
    with pytest.raises(CheckpointError) as error:
        function(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@torch.no_grad()
def assert_starts_as(theirs):
    """``theirs``: torchvision's backbone, which has read the same file."""
    network, _, _ = starting_model(LABELS, "ssd300_vgg16", "imagenet")
    named = {f"backbone.{name}": tensor for name, tensor in theirs.state_dict().items()}
    expected = {name: x for name, x in renamed(named).items() if name.startswith("backbone.")}
    own = network.state_dict()
    assert {name for name in own if name.startswith("backbone.")} == expected.keys()
    new = [name for name in expected if name.startswith(NEW)]
    assert new == [f"{layer}{part}" for layer in NEW[:2] for part in ("weight", "bias")]
    for name, tensor in expected.items():
        assert torch.equal(own[name], tensor) == (name not in new or name.endswith("bias")), name
    network.load_state_dict({name: expected[name] for name in new}, strict=False)
    theirs.extra = theirs.extra[:1]  # the others want larger inputs
    x = torch.randn(1, 3, 76, 100)  # 19 x 25 after two pools: the third rounds up
    for found, wanted in zip(network.backbone(x), theirs(x).values(), strict=True):
        assert found.std() > 0
        torch.testing.assert_close(found, wanted)


def test_the_backbone_is_what_torchvision_makes_of_the_same_vgg16(cached):
    features = make_layers(cfgs["D"])
    tensors = torch.load(cached, weights_only=True)
    own = {name[9:]: x for name, x in tensors.items() if name.startswith("features.")}
    features.load_state_dict(own)
    assert_starts_as(SSDFeatureExtractorVGG(features, highres=False))


@pytest.mark.long
def test_the_backbone_is_that_of_torchvisions_own_ssd300(cached):
    theirs = ssd300_vgg16(weights=None, weights_backbone=WEIGHTS, progress=False)
    assert_starts_as(theirs.backbone)


def test_the_input_of_both_models_is_what_the_weights_were_trained_with():
    preset = WEIGHTS.transforms.keywords
    for name in ("ssd300_vgg16", "ssd512_vgg16"):
        spec = MODELS[name]
        assert spec.mean == pytest.approx([255 * each for each in preset["mean"]])
        assert spec.std == pytest.approx([255 * each for each in preset["std"]])


def test_what_is_new_begins_as_the_papers_new_layers_do(cached):
    network, spec, digest = starting_model(LABELS, "ssd512_vgg16", "imagenet", seed=3)
    assert digest.startswith("sha256:")
    assert spec.labels == LABELS
    assert "Creative Commons Attribution" in spec.licence
    untrained, _, _ = starting_model(LABELS, "ssd512_vgg16", seed=3)
    own, others = network.state_dict(), untrained.state_dict()
    same = {name for name in own if torch.equal(own[name], others[name])}
    convolutions = [name for name in own if name.startswith("backbone.") and "norm" not in name]
    assert len(own.keys() - same) == 2 * 13
    assert own.keys() - same == {name for name in convolutions if not name.startswith(NEW)}


def test_a_model_with_another_backbone_is_refused(cached):
    assert refusal(starting_model, LABELS, None, "imagenet") == (
        "ssd_mobilenet_v2_oid: no ImageNet weights are published for its backbone: give --model "
        "ssd300_vgg16 or ssd512_vgg16, or other --weights"
    )


def test_no_detector_is_made_of_a_backbone(cached):
    message = refusal(load_model, SPEC, "imagenet")
    assert message.startswith("weights imagenet are those of a backbone")


def test_a_file_called_imagenet_comes_before_the_download(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imagenet").write_bytes(b"")
    assert find_weights(SPEC, "imagenet").resolve() == tmp_path / "imagenet"
    message = refusal(starting_model, LABELS, "ssd300_vgg16", "imagenet")
    assert message.startswith("weights imagenet: cannot tell the format")


def test_without_a_network_the_error_says_where_to_put_the_file(
    torchvision_cache, no_network, capfd
):
    message = refusal(starting_model, LABELS, "ssd300_vgg16", "imagenet")
    assert message.startswith(f"cannot download {WEIGHTS.url} (")
    assert message.endswith(f"fetch that file elsewhere and put it at {torchvision_cache / NAME}")
    assert list(torchvision_cache.iterdir()) == []
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("tensors", "fault"),
    [
        ({}, "0.bias: expected [64], found nothing; "),
        ({"features.0.bias": torch.zeros(3)}, "0.bias: expected [64], found [3]; "),
        ({"features.0.bias": torch.full((64,), math.nan)}, "0.bias holds NaN or infinity"),
    ],
)
def test_a_file_that_is_not_vgg16_is_refused_by_name(torchvision_cache, tensors, fault):
    path = torchvision_cache / NAME
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3), **tensors}, path)
    message = refusal(load_imagenet, SPEC)
    assert message.startswith(f"weights {path}")
    assert f"backbone.conv1_to_conv4_3.{fault}" in message
    assert "NaN" in fault or message.endswith("more: delete the file, it is downloaded again")


@pytest.mark.parametrize("damage", ["garbage", "code"])
def test_a_damaged_file_is_refused_by_name_and_no_code_in_it_runs(
    torchvision_cache, tmp_path, damage
):
    path, marker = torchvision_cache / NAME, tmp_path / "executed"
    if damage == "code":
        torch.save({"features.0.weight": Malicious(marker)}, path)
    else:
        path.write_bytes(b"garbage")
    assert NAME in refusal(starting_model, LABELS, "ssd300_vgg16", "imagenet")
    assert not marker.exists()
