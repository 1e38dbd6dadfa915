import logging
from types import SimpleNamespace

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


def detector(*, on_cuda, takes_planes=None, gpu=0):
    takes_planes = on_cuda if takes_planes is None else takes_planes
    return SimpleNamespace(takes_planes=takes_planes, works_ahead=on_cuda, gpu=gpu)


@pytest.fixture
def decoder(monkeypatch):
    """Pretends that hardware decoders fail for a reason, or work; notes which were asked."""

    def decoder(reason):
        asked = []
        monkeypatch.setattr(
            "worker.sources.capabilities.why_no_hardware_decoder",
            lambda device, index: asked.append((device, index)) or reason,
        )
        return asked

    return decoder


@pytest.mark.parametrize("hwaccel", ["auto", "cuda"])
def test_frames_are_decoded_on_the_gpu_that_detects_if_it_can(decoder, caplog, hwaccel):
    asked = decoder("")
    chosen = wiring._choose_decoding_gpu(
        settings_of("--hwaccel", hwaccel), detector(on_cuda=True, gpu=3)
    )
    assert chosen == 3
    assert asked == [("cuda", 3)]
    assert [r.getMessage() for r in caplog.records] == [
        "frames are decoded on the GPU, where it knows the codec"
    ]


def test_a_gpu_that_cannot_decode_leaves_it_to_the_cpu_with_the_reason(decoder, caplog):
    decoder("no such device")
    assert wiring._choose_decoding_gpu(settings_of(), detector(on_cuda=True)) is None
    assert [r.getMessage() for r in caplog.records] == [
        "frames are decoded on the CPU: no such device"
    ]


def test_a_detector_on_the_cpu_decodes_on_the_cpu_and_says_nothing(decoder, caplog):
    asked = decoder("")
    assert wiring._choose_decoding_gpu(settings_of(), detector(on_cuda=False)) is None
    assert (asked, caplog.records) == ([], [])


def test_a_detector_that_takes_no_planes_decodes_on_the_cpu_with_the_reason(decoder, caplog):
    asked = decoder("")
    without_kernels = detector(on_cuda=True, takes_planes=False)
    assert wiring._choose_decoding_gpu(settings_of(), without_kernels) is None
    assert asked == []
    assert "without" not in caplog.text
    assert "Triton" in caplog.text


def test_no_hardware_decoder_is_asked_where_none_is_wanted(decoder, caplog):
    asked = decoder("")
    settings = settings_of("--hwaccel", "none")
    assert wiring._choose_decoding_gpu(settings, detector(on_cuda=True)) is None
    assert (asked, caplog.records) == ([], [])


@pytest.mark.parametrize(
    ("on_cuda", "reason"), [(True, "no such device"), (False, "does not run on CUDA")]
)
def test_a_hardware_decoder_asked_for_that_cannot_be_had_is_refused(decoder, on_cuda, reason):
    decoder("no such device")
    with pytest.raises(UsageError, match=f"--hwaccel cuda: .*{reason}.*: use auto or none"):
        wiring._choose_decoding_gpu(settings_of("--hwaccel", "cuda"), detector(on_cuda=on_cuda))


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
