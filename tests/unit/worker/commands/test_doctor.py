"""What `doctor` reports about a GPU, on a machine without one."""

import ctypes

import pytest
import torch

from ssd_core.ops.decode_nms import fallback
from worker.commands.doctor import run_doctor
from worker.settings.fields import DoctorSettings
from worker.sources import capabilities


@pytest.fixture(autouse=True)
def kernels_are_trusted_again(monkeypatch):
    monkeypatch.setattr(fallback, "reason", "")


@pytest.fixture
def doctor(capsys, tmp_path):
    def doctor(device="auto"):
        settings = DoctorSettings(device=device, redis_url="none", state_dir=tmp_path)
        code = run_doctor(settings)
        lines = capsys.readouterr().out.splitlines()
        return code, {line[4:].partition(":")[0]: line for line in lines}

    return doctor


@pytest.fixture
def gpu(monkeypatch):
    """Pretends that there is a GPU, which no kernel runs on; notes what is asked of it, in turn."""
    asked = []

    def choose(name):
        return torch.device(name)

    def no_decoding(number):
        asked.append(f"decode on {number}")
        return "libnvcuvid.so.1 of NVIDIA's driver is missing"

    def capability(device):
        asked.append("PyTorch")
        return (9, 0)

    monkeypatch.setattr("ssd_core.device.choose_device", choose)
    monkeypatch.setattr(capabilities, "why_no_gpu_decoding", no_decoding)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    return asked


def test_the_decoder_is_tried_before_pytorch_takes_the_gpu_and_on_the_same_one(doctor, gpu):
    _, lines = doctor("cuda:1")
    assert gpu[0] == "decode on 1"
    assert "PyTorch" in gpu
    assert lines["hardware decode"] == (
        "no  hardware decode: frames are decoded on the CPU: "
        "libnvcuvid.so.1 of NVIDIA's driver is missing"
    )


def test_a_gpu_that_decodes_is_named(doctor, gpu, monkeypatch):
    monkeypatch.setattr(capabilities, "why_no_gpu_decoding", lambda number: "")
    _, lines = doctor("cuda")
    assert lines["hardware decode"] == "ok  hardware decode: H.264 on GPU 0"


def test_without_a_gpu_frames_are_decoded_where_detection_runs(doctor):
    code, lines = doctor("cpu")
    assert code == 0
    assert lines["hardware decode"].startswith("no  hardware decode: frames are decoded on the CPU")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("built_for", "driver", "said"),
    [
        (None, True, "this PyTorch is built without CUDA"),
        ("13.0", False, "no NVIDIA driver (libcuda.so.1; a container needs --gpus all)"),
        ("13.0", True, "NVIDIA's driver is installed, but it finds no GPU that it can use"),
    ],
)
def test_why_there_is_no_cuda_is_said(doctor, monkeypatch, built_for, driver, said):
    def load(name):
        if not driver:
            raise OSError(name)

    monkeypatch.setattr(torch.version, "cuda", built_for)
    monkeypatch.setattr(ctypes, "CDLL", load)
    _, lines = doctor("cpu")
    assert lines["cuda"] == f"no  cuda: {said}: detection runs on the CPU"
