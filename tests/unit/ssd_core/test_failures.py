import pytest
import torch

from ssd_core.failures import is_context_lost, is_out_of_memory, one_line, raise_if_of_device


def raised(*errors):
    """The last of the errors, each raised while the one before was handled."""
    caught = None
    for error in errors:
        try:
            try:
                if caught is not None:
                    raise caught
            finally:
                raise error
        except BaseException as last:
            caught = last
    return caught


SHORT = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    raised(torch.OutOfMemoryError("CUDA out of memory"), torch.AcceleratorError("CUDA error: x")),
]
LOST = [
    torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
    RuntimeError("CUDA error: misaligned address\nCUDA kernel errors might be"),
    raised(RuntimeError("CUDA error: unspecified launch failure"), ValueError("then this")),
]
NEITHER = [
    RuntimeError("Triton Error [CUDA]: device kernel image is invalid"),
    RuntimeError("PassManager::run failed"),
    AssertionError("libcuda.so cannot found!"),
    ImportError("No module named 'triton'"),
]


@pytest.mark.parametrize("error", SHORT)
def test_short_memory_is_seen_whatever_says_so(error):
    assert is_out_of_memory(error)
    assert not is_context_lost(error)
    with pytest.raises((torch.OutOfMemoryError, torch.AcceleratorError)) as caught:
        raise_if_of_device(error)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", LOST)
def test_a_lost_context_is_an_accelerator_error_whatever_says_so(error):
    assert is_context_lost(error)
    assert not is_out_of_memory(error)
    with pytest.raises(torch.AcceleratorError) as caught:
        raise_if_of_device(error)
    assert is_context_lost(caught.value)


@pytest.mark.parametrize("error", NEITHER)
def test_other_errors_leave_the_device_alone(error):
    assert not is_out_of_memory(error)
    assert not is_context_lost(error)
    raise_if_of_device(error)


def test_errors_that_are_their_own_reason_end_the_search():
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert not is_out_of_memory(first)


def test_a_long_error_is_one_short_line():
    line = one_line(ValueError("a\n  b " * 500))
    assert line.startswith("ValueError: a b a b")
    assert len(line) == 200
