"""`make test-gpu` selects by markers: what runs kernels must have one."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent / "ssd_core"
RUN_KERNELS = sorted(
    path
    for path in HERE.rglob("test_*.py")
    if any(text in path.read_text() for text in ("KERNEL_DEVICE", "ssd_core.cuda_runners"))
)


def test_there_are_modules_that_run_kernels():
    assert len(RUN_KERNELS) > 3


@pytest.mark.parametrize("path", RUN_KERNELS, ids=lambda path: path.stem)
def test_a_module_that_runs_kernels_where_they_are_tested_is_marked(path):
    assert "pytest.mark.kernels" in path.read_text()
