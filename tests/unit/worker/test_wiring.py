import logging

import numpy as np
import pytest
import torch

from worker import wiring
from worker.errors import UsageError
from worker.settings import ReplaySettings, load_settings


@pytest.fixture(autouse=True)
def log_is_seen(monkeypatch):
    """The command line keeps the worker's log to itself; another test may have called it."""
    monkeypatch.setattr(logging.getLogger("worker"), "propagate", True)
    monkeypatch.setattr(logging.getLogger("worker"), "level", logging.INFO)


def settings_of(*arguments):
    return load_settings(ReplaySettings, "replay", ["clip.mp4", *map(str, arguments)])


@pytest.fixture
def decoder(monkeypatch):
    """Pretends that a GPU's decoder fails for a reason, or works; notes which was asked."""

    def decoder(reason):
        asked = []
        monkeypatch.setattr(
            "worker.sources.capabilities.claim_gpu", lambda gpu: asked.append(gpu) or reason
        )
        return asked

    return decoder


@pytest.mark.parametrize("hwaccel", ["auto", "cuda"])
@pytest.mark.parametrize(("device", "gpu"), [("cuda", 0), ("cuda:3", 3)])
def test_frames_are_decoded_on_the_gpu_that_detects_if_it_can(decoder, hwaccel, device, gpu):
    asked = decoder("")
    chosen = wiring._claim_decoding_gpu(settings_of("--hwaccel", hwaccel), torch.device(device))
    assert chosen == (gpu, "")
    assert asked == [gpu]


def test_a_gpu_that_cannot_decode_leaves_it_to_the_cpu_with_the_reason(decoder):
    decoder("no such device")
    chosen = wiring._claim_decoding_gpu(settings_of(), torch.device("cuda"))
    assert chosen == (None, "no such device")


@pytest.mark.parametrize(("hwaccel", "device"), [("auto", "cpu"), ("none", "cuda")])
def test_no_hardware_decoder_is_asked_where_none_is_wanted(decoder, hwaccel, device):
    asked = decoder("")
    settings = settings_of("--hwaccel", hwaccel)
    assert wiring._claim_decoding_gpu(settings, torch.device(device))[0] is None
    assert asked == []


def test_the_detector_comes_ready_with_its_batch():
    setup = wiring.load_detector(settings_of("--device", "cpu", "--max-batch", 3))
    assert setup.max_batch == 3
    assert setup.gpu is None
    assert setup.detector([np.zeros((300, 300, 3), np.uint8)])() == [[]]


def test_the_batch_is_the_detectors_unless_asked_for():
    setup = wiring.load_detector(settings_of("--device", "cpu", "--score-threshold", 0.7))
    assert setup.max_batch == setup.detector.default_batch
    assert setup.detector.affecting["score_threshold"] == 0.7


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--device", "cuda"), "no usable CUDA device"),
        (("--device", "cpu", "--precision", "fp16"), "fp16"),
        (("--hwaccel", "cuda"), "--hwaccel cuda"),
    ],
)
def test_what_the_machine_does_not_have_is_refused_as_wrong_usage(arguments, message):
    with pytest.raises(UsageError, match=message):
        wiring.load_detector(settings_of(*arguments))
