import platform

import pytest
import torch

from ssd_core import Detector
from ssd_core.device import PRECISIONS, choose_device, choose_precision, cpu_has_bf16
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


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is one GPU of a compute capability."""

    def gpu(capability, name="Tesla T4"):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
        return choose_device("cuda:0")

    return gpu


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((6, 1), torch.float16),
        ((7, 5), torch.float16),
        ((8, 0), torch.bfloat16),
        ((8, 9), torch.bfloat16),
        ((9, 0), torch.bfloat16),
        ((12, 0), torch.bfloat16),
    ],
)
def test_auto_precision_on_a_gpu_is_bf16_where_it_has_it_and_else_fp16(gpu, capability, dtype):
    assert choose_precision("auto", gpu(capability)) == dtype


def test_bf16_is_refused_on_a_gpu_that_cannot_do_it_with_the_way_out(gpu):
    with pytest.raises(DeviceError, match="'bf16': Tesla T4 does not support it: use fp16 or auto"):
        choose_precision("bf16", gpu((7, 5)))


@pytest.mark.parametrize("name", ["fp32", "fp16", "bf16"])
def test_a_gpu_with_bf16_takes_every_precision(gpu, name):
    assert choose_precision(name, gpu((9, 0))) == PRECISIONS[name]


def test_the_gpu_is_chosen_where_there_is_one(gpu):
    gpu((9, 0))
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cuda:0") == torch.device("cuda:0")


def test_a_gpu_that_does_not_exist_is_refused_with_the_last_that_does(gpu):
    gpu((9, 0))
    with pytest.raises(DeviceError, match="'cuda:1': no such GPU: the last one here is cuda:0"):
        choose_device("cuda:1")


@pytest.mark.parametrize(
    "options", [{"device": "gpu"}, {"device": "cpu", "precision": "fp16"}], ids=["device", "fp16"]
)
def test_loading_a_detector_refuses_what_the_machine_does_not_have(options):
    with pytest.raises(DeviceError):
        Detector.load(**options)
