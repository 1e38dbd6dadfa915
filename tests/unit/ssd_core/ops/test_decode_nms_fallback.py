"""Who computes `decode_nms` where kernels or the C++ library are not there."""

import errno
import importlib
import logging
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from ssd_core.ops import DecodedDetections, decode_nms, decode_nms_reference
from tests.conftest import KERNEL_DEVICE
from tests.unit.ssd_core.head_outputs import Case, assert_same, outputs_with_ties, random_outputs

op = importlib.import_module("ssd_core.ops.decode_nms")

# 0 / 0, the overlap of boxes without area, in Triton's interpreter
pytestmark = [
    pytest.mark.kernels,
    pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning:triton"),
]


@pytest.fixture(autouse=True)
def no_fallback_yet(monkeypatch):
    monkeypatch.setattr(op.fallback, "reason", "")


@pytest.fixture
def on_cuda(caplog):
    """What the op does on CUDA: its detections (wherever the tensors are), and the warnings."""
    caplog.set_level(logging.WARNING, "ssd_core.ops.decode_nms")

    def call(case):
        found = op._on_cuda(*case.to(device=KERNEL_DEVICE).flattened())
        return DecodedDetections(*(part.cpu() for part in found)), caplog.messages

    return call


CASE = Case.of(*outputs_with_ties(18, images=1, boxes=20, classes=3), "sigmoid")


def test_kernels_that_run_need_no_warning(on_cuda):
    pytest.importorskip("triton")
    found, messages = on_cuda(CASE)
    expected = decode_nms_reference(*CASE)
    assert expected.count.item() == 30
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert messages == []
    assert not op.fallback.reason


def broken_kernels(error):
    def kernels(*arguments):
        raise error

    return lambda: kernels


@pytest.mark.parametrize(
    ("no_kernels", "reason"),
    [
        (lambda: importlib.import_module("triton_that_is_not"),
         "slower: Triton is not installed (ModuleNotFoundError: No module named 'triton_that"),
        (broken_kernels(RuntimeError("PTXAS error:\n  no such\n  target")),
         "slower: a kernel failed (RuntimeError: PTXAS error: no such target)"),
        (broken_kernels(AssertionError()), "slower: a kernel failed (AssertionError:)"),
        (broken_kernels(RuntimeError("Failed to find C compiler. Please specify via CC")),
         "slower: Triton finds no C compiler for its launcher: install gcc, or set CC"),
        (broken_kernels(AssertionError("libcuda.so cannot found!\nPlease make sure")),
         "slower: Triton finds no libcuda.so.1: run ldconfig, or set TRITON_LIBCUDA_PATH"),
        (broken_kernels(PermissionError(errno.EACCES, "Permission denied", "/root/.triton")),
         "slower: Triton cannot write its cache: set TRITON_CACHE_DIR (PermissionError: "),
        (broken_kernels(FileNotFoundError(errno.ENOENT, "No such file or directory", "cc")),
         "slower: a kernel failed (FileNotFoundError: "),
        (broken_kernels(subprocess.CalledProcessError(1, ["/usr/bin/gcc", "main.c"])),
         "slower: the C compiler cannot build Triton's launcher: is Python.h missing? (Called"),
    ],
)  # fmt: skip
def test_the_reference_stands_in_for_kernels_that_fail_and_one_warning_says_why(
    monkeypatch, on_cuda, no_kernels, reason
):
    monkeypatch.setattr(op, "_triton_kernels", no_kernels)
    for _ in range(2):
        found, messages = on_cuda(CASE)
        assert_same(found, decode_nms_reference(*CASE))
        (message,) = messages
        assert message.startswith("no Triton kernels: ")
        assert reason in message
        assert message.count("\n") == 0
    assert op.fallback.reason in message


def test_the_traceback_of_kernels_that_fail_is_logged_once_for_debugging(
    monkeypatch, on_cuda, caplog
):
    caplog.set_level(logging.DEBUG, "ssd_core.ops.decode_nms")
    monkeypatch.setattr(op, "_triton_kernels", broken_kernels(RuntimeError("no such target")))
    for _ in range(2):
        on_cuda(CASE)
    (record,) = (r for r in caplog.records if r.levelno == logging.DEBUG)
    kind, error, traceback = record.exc_info
    assert (kind, str(error)) == (RuntimeError, "no such target")
    assert traceback is not None


def test_kernels_that_failed_once_are_not_tried_again(monkeypatch, on_cuda):
    tries = []

    def kernels():
        tries.append(1)
        raise ImportError("No module named 'triton'")

    monkeypatch.setattr(op, "_triton_kernels", kernels)
    for _ in range(3):
        on_cuda(CASE)
    assert len(tries) == 1


def test_a_long_reason_is_cut(monkeypatch, on_cuda):
    monkeypatch.setattr(op, "_triton_kernels", broken_kernels(RuntimeError("x" * 10_000)))
    _, (message,) = on_cuda(CASE)
    assert len(message) < 400


def test_kernels_that_failed_elsewhere_are_not_tried(monkeypatch, on_cuda):
    op.fallback.take(RuntimeError("no compiler"))
    monkeypatch.setattr(op, "_triton_kernels", broken_kernels(RuntimeError("tried")))
    found, (message,) = on_cuda(CASE)
    assert "no compiler" in message
    assert_same(found, decode_nms_reference(*CASE))


def test_sizes_that_no_kernel_takes_are_left_to_the_reference_and_no_others(on_cuda):
    kernels = pytest.importorskip("ssd_core.ops.decode_nms_triton")
    case = CASE.change(max_detections=kernels.MAX_SORTED + 1)
    found, messages = on_cuda(case)
    assert_same(found, decode_nms_reference(*case))
    assert not op.fallback.reason
    assert messages == []


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("illegal address")],
)
def test_errors_of_the_device_are_the_callers_affair(monkeypatch, on_cuda, error):
    monkeypatch.setattr(op, "_triton_kernels", broken_kernels(error))
    with pytest.raises(type(error)):
        on_cuda(CASE)
    assert not op.fallback.reason


@pytest.mark.parametrize(
    "said",
    [
        "an illegal memory access was encountered",
        "misaligned address",
        "unspecified launch failure",
    ],
)
def test_a_device_that_a_kernel_brought_down_is_not_asked_for_the_reference(
    monkeypatch, on_cuda, said
):
    error = RuntimeError(f"Triton Error [CUDA]: {said}")
    monkeypatch.setattr(op, "_triton_kernels", broken_kernels(error))
    with pytest.raises(torch.AcceleratorError, match=said):
        on_cuda(CASE)
    assert not op.fallback.reason


def test_memory_that_is_short_for_a_kernel_is_not_the_kernels_fault(monkeypatch, on_cuda):
    error = RuntimeError("Triton Error [CUDA]: out of memory")
    monkeypatch.setattr(op, "_triton_kernels", broken_kernels(error))
    with pytest.raises(torch.OutOfMemoryError):
        on_cuda(CASE)
    assert not op.fallback.reason


# Without the C++ library


@pytest.fixture
def library_in(monkeypatch, tmp_path):
    """Has the library looked for in an empty folder, which this gives."""
    monkeypatch.setattr(op.native, "__file__", str(tmp_path / "decode_nms_native.py"))
    op.native._load.cache_clear()
    yield tmp_path
    op.native._load.cache_clear()


def test_numpy_stands_in_for_a_library_that_was_not_built(library_in):
    assert "C++ compiler" in op.native.why_missing()
    assert_same(decode_nms(*CASE), decode_nms_reference(*CASE))
    with pytest.raises(RuntimeError, match=r"C\+\+ compiler"):
        op.native.decode_nms_native(*CASE)


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_numpy_stands_in_for_a_library_that_cannot_be_loaded(library_in, content):
    (library_in / "_decode_nms_native.abi3.so").write_bytes(content)
    reason = op.native.why_missing()
    assert reason.startswith("_decode_nms_native.abi3.so cannot be loaded: ")
    assert "\n" not in reason
    assert_same(decode_nms(*CASE), decode_nms_reference(*CASE))


def test_numpy_stands_in_for_more_pairs_than_a_key_can_name(monkeypatch):
    monkeypatch.setattr(op.native, "MOST_CANDIDATES", CASE.cls_logits[0].numel())
    assert_same(decode_nms(*CASE), decode_nms_reference(*CASE))


@pytest.mark.skipif(bool(op.native.why_missing()), reason=op.native.why_missing())
def test_the_library_lets_other_threads_work_and_they_do_not_mix():
    cases = [Case.of(*random_outputs(seed, images=8, boxes=400, classes=9)) for seed in range(8)]
    expected = [decode_nms_reference(*case) for case in cases]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            for found, wanted in zip(
                pool.map(lambda case: decode_nms(*case), cases), expected, strict=True
            ):
                assert_same(found, wanted)
