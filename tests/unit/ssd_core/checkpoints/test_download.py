"""`weights="coco"`: torchvision's own download, with its cache in a directory of the test."""

import pytest
import torch
from torchvision.models.detection import SSD300_VGG16_Weights

from ssd_core import MODELS, Detector
from ssd_core.checkpoints.loading import find_weights, load_model
from ssd_core.errors import CheckpointError
from tests.unit.ssd_core.checkpoints.malicious import Malicious

SPEC = MODELS["ssd300_vgg16"]
URL = SSD300_VGG16_Weights.COCO_V1.url


@pytest.fixture
def cached_file(torchvision_cache):
    """Where torchvision keeps the file once it has it."""
    return torchvision_cache / URL.rsplit("/", 1)[-1]


def test_a_downloaded_file_is_used_without_a_network(
    cached_file, no_network, torchvision_ssd300_file
):
    cached_file.symlink_to(torchvision_ssd300_file)
    detector = Detector.load("ssd300_vgg16", weights="coco", device="cpu", precision="fp32")
    _, _, digest = load_model(SPEC, torchvision_ssd300_file)
    assert detector.digest == digest


def test_without_a_network_the_error_names_the_url_and_the_way_out(cached_file, no_network):
    with pytest.raises(CheckpointError) as error:
        load_model(SPEC, "coco")
    assert URL in str(error.value)
    assert "fetch that file elsewhere and give --weights FILE.pth" in str(error.value)


def test_a_failed_download_leaves_no_file_behind(cached_file, no_network):
    with pytest.raises(CheckpointError):
        load_model(SPEC, "coco")
    assert list(cached_file.parent.iterdir()) == []


def test_downloading_prints_nothing_on_stdout(cached_file, no_network, capfd):
    with pytest.raises(CheckpointError):
        load_model(SPEC, "coco")
    assert capfd.readouterr().out == ""


def test_code_in_a_downloaded_file_does_not_run(cached_file, no_network, tmp_path):
    marker = tmp_path / "executed"
    torch.save({"backbone.weight": Malicious(marker)}, cached_file)
    with pytest.raises(CheckpointError):
        load_model(SPEC, "coco")
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_a_damaged_downloaded_file_is_refused_by_name(cached_file, no_network, content):
    cached_file.write_bytes(content)
    with pytest.raises(CheckpointError, match=cached_file.name):
        load_model(SPEC, "coco")


def test_a_file_called_coco_comes_before_the_download(tmp_path, monkeypatch, no_network):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "coco").write_bytes(b"")
    assert find_weights(SPEC, "coco").resolve() == tmp_path / "coco"
