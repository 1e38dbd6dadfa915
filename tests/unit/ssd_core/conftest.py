"""Models and pictures that many tests share."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ssd_core import MODELS, Detector, build_model
from ssd_core.models.ssd import SSD, initialise
from ssd_core.ops.decode_nms import fallback

GOLDEN = Path(__file__).parents[2] / "data" / "ssd_mobilenet_v2_oid_golden.npz"


class TinyBackbone(nn.Module):
    """(B, 3, 16, 24) to one map of (2, 3) cells."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, stride=8, padding=1)

    def forward(self, x):
        return [self.convolution(x)]


def tiny_network(spec, batch_norm):
    model = SSD(TinyBackbone(), [], [4], [2], spec.num_classes, head_kernel_size=1)
    initialise(model)
    return model


TINY = replace(
    MODELS["ssd_mobilenet_v2_oid"],
    name="tiny",
    image_size=(16, 24),
    feature_maps=((2, 3),),
    box_sizes=(((0.5, 0.5), (0.25, 0.25)),),
    labels=("background", "Cat", "Dog"),
    network=tiny_network,
    weights=None,
    digest=None,
)
"""An SSD of a few weights with an input that is not square."""


@pytest.fixture(autouse=True)
def kernels_are_trusted_again():
    """A test that breaks the kernels leaves them as they were for the next."""
    yield
    fallback.reason = ""


@pytest.fixture
def tiny_spec():
    return TINY


@pytest.fixture
def tiny_model(tiny_spec):
    torch.manual_seed(0)
    return tiny_network(tiny_spec, False)


@pytest.fixture
def constant_detector(tiny_model, tiny_spec):
    """Sees a Dog in the smaller box of each of the 2 x 3 cells, whatever the image."""
    for parameter in tiny_model.parameters():
        nn.init.zeros_(parameter)
    # two boxes of three classes
    tiny_model.classification_heads[0].bias.data = torch.tensor([9.0, -9, -9, 9, -9, 2])
    return Detector(tiny_model, tiny_spec, torch.device("cpu"), torch.float32, 0.5)


@pytest.fixture
def constant_weights(tiny_model, tmp_path):
    """A file of weights that see a Dog in the smaller box of each cell."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in tiny_model.state_dict().items()}
    weights["classification_heads.0.bias"] = torch.tensor([9.0, -9, -9, 9, -9, 2])
    path = tmp_path / "constant.pth"
    torch.save(weights, path)
    return path


@pytest.fixture
def trained_mobilenet():
    """A MobileNet with batch norm whose statistics are those of no identity."""
    torch.manual_seed(0)
    model = build_model("ssd_mobilenet_v2_oid", batch_norm=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.1, 0.6)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0.2, 0.2)
    return model


@pytest.fixture(scope="session")
def golden():
    """Five pictures, and what LiteRT computes for them with the published MobileNet."""
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def mobilenet():
    """The bundled model in fp32 on the CPU."""
    return Detector.load("ssd_mobilenet_v2_oid", device="cpu", precision="fp32")


@pytest.fixture(scope="session")
def torchvision_ssd300():
    """torchvision's own SSD300 with random weights.

    Its heads are scaled until logits and offsets are as large as trained ones, and the background
    is raised until most boxes hold nothing, as in a picture.
    """
    from torchvision.models.detection import ssd300_vgg16

    torch.manual_seed(0)
    model = ssd300_vgg16(weights=None, weights_backbone=None, score_thresh=0.01).eval()
    heads = model.head
    for layer in (*heads.classification_head.module_list, *heads.regression_head.module_list):
        layer.weight.data *= 0.25
    for layer in heads.classification_head.module_list:
        layer.bias.data[:: heads.classification_head.num_columns] = 6.0
    return model


@pytest.fixture(scope="session")
def torchvision_ssd300_file(torchvision_ssd300, tmp_path_factory):
    path = tmp_path_factory.mktemp("torchvision") / "ssd300_vgg16.pth"
    torch.save(torchvision_ssd300.state_dict(), path)
    return path
