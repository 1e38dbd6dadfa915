import platform

import pytest
import torch

from ssd_core import Detector
from ssd_core.device import choose_device, choose_precision, cpu_has_bf16
from ssd_core.errors import DeviceError

CPU = torch.device("cpu")
without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize("name", ["gpu", "mps", "cpu:0", "cuda:x", "cuda-0", ""])
def test_an_unknown_device_is_refused_with_the_known_ones(name):
    with pytest.raises(DeviceError, match="expected auto, cpu, cuda or cuda:N"):
        choose_device(name)


@without_cuda
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "cuda:7"])
def test_cuda_without_a_gpu_is_refused_with_the_way_out(name):
    with pytest.raises(DeviceError, match=f"{name!r}: no usable CUDA device here: use cpu or auto"):
        choose_device(name)


@without_cuda
def test_auto_without_a_gpu_is_the_cpu():
    assert choose_device("auto") == CPU


def test_the_cpu_can_be_asked_for():
    assert choose_device("cpu") == CPU


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_is_what_it_says(name, dtype):
    assert choose_precision(name, CPU) == dtype


def test_fp16_on_the_cpu_is_refused_with_the_way_out():
    with pytest.raises(DeviceError, match="use bf16 or fp32 on the CPU"):
        choose_precision("fp16", CPU)


def test_an_unknown_precision_is_refused_with_the_known_ones():
    with pytest.raises(DeviceError, match="'int8': expected auto, fp32, bf16, fp16"):
        choose_precision("int8", CPU)


def test_auto_precision_on_the_cpu_is_bf16_only_with_hardware_for_it():
    expected = torch.bfloat16 if cpu_has_bf16() else torch.float32
    assert choose_precision("auto", CPU) == expected


def test_a_system_that_is_not_linux_counts_as_without_bf16(monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert cpu_has_bf16() is False


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"device": "cpu", "precision": "fp16"}], ids=["device", "fp16"]
)
def test_loading_a_detector_refuses_what_the_machine_does_not_have(options):
    with pytest.raises(DeviceError):
        Detector.load(**options)
