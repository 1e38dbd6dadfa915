import logging
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from ssd_core import Detector
from tests.detectors import FakeDetector
from worker.commands import wiring
from worker.errors import UsageError
from worker.settings.fields import ReplaySettings
from worker.settings.loading import load_settings


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


@pytest.fixture
def on_cuda(monkeypatch):
    """Pretends that there is a GPU and a detector on it."""

    def on_cuda(*, takes_yuv=True, load=lambda: None):
        fake = FakeDetector("cuda", takes_yuv=takes_yuv)
        monkeypatch.setattr("ssd_core.device.choose_device", torch.device)
        monkeypatch.setattr(Detector, "load", lambda *_, **options: load() or fake)
        return fake

    return on_cuda


def test_a_gpu_is_claimed_for_decoding_before_the_detector_takes_it(decoder, on_cuda, caplog):
    asked = decoder("")
    claimed_before = []
    fake = on_cuda(load=lambda: claimed_before.extend(asked))
    setup = wiring.load_detector(settings_of("--device", "cuda:2"))
    assert claimed_before == [2]
    assert asked == [2, 2]  # once more when PyTorch has the device
    assert (setup.gpu, setup.max_batch, fake.warmed_up) == (
        2,
        fake.default_batch,
        [fake.default_batch],
    )
    assert "frames are decoded on the GPU, where it knows the codec" in caplog.text


@pytest.mark.parametrize(
    ("refusal", "takes_yuv", "arguments", "reason"),
    [
        ("no such device", True, (), "no such device"),
        ("", False, (), "no Triton kernels"),
        ("", True, ("--hwaccel", "none"), "--hwaccel none"),
    ],
)
def test_a_detector_on_cuda_whose_frames_the_cpu_decodes_says_why(
    decoder, on_cuda, caplog, refusal, takes_yuv, arguments, reason
):
    decoder(refusal)
    on_cuda(takes_yuv=takes_yuv)
    assert wiring.load_detector(settings_of("--device", "cuda", *arguments)).gpu is None
    (line,) = (r.getMessage() for r in caplog.records)
    assert line.startswith("frames are decoded on the CPU: ")
    assert reason in line


@pytest.mark.parametrize(
    ("refusal", "takes_yuv", "reason"),
    [("no such device", True, "no such device"), ("", False, "no Triton kernels")],
)
def test_a_hardware_decoder_asked_for_that_cannot_be_had_is_refused(
    decoder, on_cuda, refusal, takes_yuv, reason
):
    decoder(refusal)
    on_cuda(takes_yuv=takes_yuv)
    with pytest.raises(UsageError, match=f"--hwaccel cuda: .*{reason}.*: use auto or none"):
        wiring.load_detector(settings_of("--device", "cuda", "--hwaccel", "cuda"))


def test_a_gpu_without_memory_for_the_model_is_refused_in_one_line(decoder, on_cuda):
    def out_of_memory():
        raise torch.OutOfMemoryError("CUDA out of memory\nTried to allocate 2 GiB")

    decoder("")
    on_cuda(load=out_of_memory)
    with pytest.raises(UsageError, match="--device cuda: no memory left for the model") as caught:
        wiring.load_detector(settings_of("--device", "cuda"))
    assert "\n" not in str(caught.value)


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


TWO_SIGNALS = """
import signal, sys
from worker.commands import wiring
wiring.SECOND_SIGNAL_SECONDS = float(sys.argv[1])
stops = []
with wiring.on_stop_signals(lambda: stops.append(1)) as signals:
    signal.raise_signal(signal.SIGINT)
signal.raise_signal(signal.SIGTERM)
print(len(stops), signals)
"""


@pytest.mark.parametrize(
    ("seconds", "code", "printed"), [(60, 0, "2 [2, 15]\n"), (1e-9, -signal.SIGTERM, "")]
)
def test_a_second_signal_ends_the_process_only_some_time_after_the_first(seconds, code, printed):
    done = subprocess.run(
        [sys.executable, "-c", TWO_SIGNALS, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert (done.returncode, done.stdout) == (code, printed)


def test_pytorch_uses_no_more_threads_than_a_quota_allows(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    monkeypatch.setattr("ssd_core.cores.usable_cores", lambda: 2)
    try:
        wiring.load_detector(settings_of("--device", "cpu", "--max-batch", 1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_replays_detector_says_how_many_frames_are_computed_together():
    settings = settings_of("--device", "cpu", "--max-batch", 8)
    assert wiring.load_detector(settings, alike=True).together == 4
    assert wiring.load_detector(settings).together == 8
