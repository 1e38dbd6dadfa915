import copy
import logging
import shutil

import numpy as np
import pytest
import torch

from ssd_core import Detector
from ssd_core.runners.compiled import compile_network

CPU = torch.device("cpu")


def random_input(batch):
    x = torch.rand(batch, 3, 16, 24, generator=torch.Generator().manual_seed(batch))
    return x.to(memory_format=torch.channels_last)


def compiler_that_raises(error):
    """torch.compile as where there is no compiler: it fails when the network first runs."""

    def compile_lazily(model, **options):
        def network(x):
            raise error

        return network

    return compile_lazily


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCH_LOGS"),
        OSError("cannot write to the cache"),
        NotImplementedError(""),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_machine_that_cannot_compile_says_so_in_one_line(tiny_model, monkeypatch, caplog, error):
    monkeypatch.setattr(torch, "compile", compiler_that_raises(error))
    assert compile_network(tiny_model, random_input(1)) is None
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "--compile is left out, the network cannot be compiled here" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert str(error).partition("\n")[0] in record.getMessage()


def test_no_memory_to_compile_is_not_taken_for_no_compiler(tiny_model, monkeypatch):
    error = torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(torch, "compile", compiler_that_raises(error))
    with pytest.raises(torch.OutOfMemoryError):
        compile_network(tiny_model, random_input(1))


def test_a_detector_that_cannot_be_compiled_detects_all_the_same(
    tiny_model, tiny_spec, golden, monkeypatch
):
    images = list(golden["inputs"][:2])
    plain = Detector(copy.deepcopy(tiny_model), tiny_spec, CPU, torch.float32, 0.3)
    monkeypatch.setattr(torch, "compile", compiler_that_raises(RuntimeError("no compiler")))
    detector = Detector(tiny_model, tiny_spec, CPU, torch.float32, 0.3, compile=True)
    assert detector.implementation == plain.implementation == "fused"
    for found, expected in zip(detector.detect(images), plain.detect(images), strict=True):
        assert len(found) > 0
        assert torch.equal(found.boxes, expected.boxes)


@pytest.mark.skipif(not shutil.which("g++"), reason="there is no C++ compiler")
def test_a_compiled_network_gives_the_same_outputs_and_detections(tiny_model, tiny_spec, caplog):
    caplog.set_level(logging.INFO, logger="ssd_core.runners.compiled")
    plain = Detector(copy.deepcopy(tiny_model), tiny_spec, CPU, torch.float32, 0.3)
    detector = Detector(copy.deepcopy(tiny_model), tiny_spec, CPU, torch.float32, 0.3, compile=True)
    assert detector.implementation == "compiled"
    assert "compiled the network in" in caplog.text

    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (16, 24, 3), np.uint8) for _ in range(3)]
    for batch in (images[:1], images, images[1:]):
        x = plain.preprocess(batch)
        with torch.inference_mode():
            outputs = zip(detector._runner.network(x), tiny_model(x), strict=True)
        for actual, expected in outputs:
            torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
        for found, wanted in zip(detector.detect(batch), plain.detect(batch), strict=True):
            assert len(found) > 0
            assert found.names == wanted.names
            torch.testing.assert_close(found.boxes, wanted.boxes, atol=1e-3, rtol=1e-4)
