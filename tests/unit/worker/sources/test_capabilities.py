import ctypes

import av
import pytest
from av.error import FFmpegError

from worker.sources import capabilities
from worker.sources.capabilities import (
    NotTriedError,
    claim_gpu,
    video_decoders,
    why_no_gpu_decoding,
)


@pytest.fixture(autouse=True)
def nothing_claimed(monkeypatch):
    monkeypatch.setattr(capabilities, "_claimed", [])


@pytest.fixture
def driver(monkeypatch):
    """Pretends that these libraries are installed, and that the GPU opens or fails to."""

    def driver(*libraries, opening=""):
        def load(name):
            if name not in libraries:
                raise OSError(f"{name}: cannot open shared object file")

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(capabilities, "_why_it_does_not_open", lambda _: opening)

    return driver


BOTH = ("libcuda.so.1", "libnvcuvid.so.1")


def test_h264_can_be_decoded():
    assert "h264" in video_decoders()


@pytest.mark.parametrize(
    ("libraries", "missing", "capability"),
    [((), "libcuda.so.1", "compute"), (BOTH[:1], "libnvcuvid.so.1", "video")],
)
def test_a_missing_driver_library_is_named_with_the_capability_that_mounts_it(
    driver, libraries, missing, capability
):
    driver(*libraries)
    for reason in (claim_gpu(0), why_no_gpu_decoding(0)):
        assert reason.startswith(f"{missing} of NVIDIA's driver is missing")
        assert f"NVIDIA_DRIVER_CAPABILITIES without {capability!r}" in reason
        assert "\n" not in reason
    assert capabilities._claimed == []


def test_a_gpu_that_opens_is_held(driver):
    driver(*BOTH)
    assert claim_gpu(1) == ""
    (held,) = capabilities._claimed
    assert held.device_id == 1


def test_a_gpu_that_does_not_open_says_why_and_is_not_held(driver):
    driver(*BOTH, opening="Operation not supported")
    assert claim_gpu(0) == why_no_gpu_decoding(0) == "Operation not supported"
    assert capabilities._claimed == []


def test_without_a_gpu_none_opens():
    assert claim_gpu(99) != ""


def test_a_gpu_that_opens_but_leaves_decoding_to_the_cpu_is_detected(driver, monkeypatch):
    driver(*BOTH)
    monkeypatch.setattr(capabilities, "hardware_decoder", lambda gpu: None)
    assert why_no_gpu_decoding(0) == "the GPU opens, but does not decode H.264"


def test_a_decoder_that_fails_says_why(driver, monkeypatch):
    driver(*BOTH)
    sample = capabilities._encoded_picture()

    def fail(*arguments, **options):
        raise FFmpegError(-1, "No decoder surfaces left")

    monkeypatch.setattr(capabilities, "_encoded_picture", lambda: sample)
    monkeypatch.setattr(av, "open", fail)
    assert "No decoder surfaces left" in why_no_gpu_decoding(0)


def test_without_an_encoder_for_the_sample_gpu_decoding_is_not_tried(driver, monkeypatch):
    def no_encoder():
        raise ValueError("libx264")

    driver(*BOTH)
    monkeypatch.setattr(capabilities, "_encoded_picture", no_encoder)
    with pytest.raises(NotTriedError, match="no libx264"):
        why_no_gpu_decoding(0)
