"""Kernels where they run, plain PyTorch where they do not."""

import pytest
import torch

from ssd_core.training.kernels import Kernels

TENSOR = torch.zeros(1)


class OnEveryDevice(Kernels):
    def serve(self, tensor):
        return not self.reason


def raises(error):
    def kernels():
        raise error

    return kernels


def test_on_a_cpu_plain_pytorch_computes():
    assert Kernels().or_else(TENSOR, raises(AssertionError), lambda: "plain") == "plain"


def test_kernels_compute_where_they_run():
    assert OnEveryDevice().or_else(TENSOR, lambda: "kernels", raises(AssertionError)) == "kernels"


def test_plain_pytorch_stands_in_for_kernels_that_fail_and_one_warning_says_why(caplog):
    choice = OnEveryDevice()
    missing = ImportError("No module named 'triton'")
    assert choice.or_else(TENSOR, raises(missing), lambda: "plain") == "plain"
    assert choice.or_else(TENSOR, lambda: "kernels", lambda: "plain") == "plain"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "no Triton kernels: matching and loss in plain PyTorch, slower: Triton is not installed "
        "(ImportError: No module named 'triton')"
    ]


def test_no_memory_is_no_reason_to_compute_in_plain_pytorch():
    choice = OnEveryDevice()
    error = RuntimeError("Triton Error [CUDA]: out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        choice.or_else(TENSOR, raises(error), lambda: "plain")
    assert not choice.reason
