"""Page faults of a detector, counted in processes of their own: malloc's settings last."""

import ctypes
import os
import subprocess
import sys

import pytest

from ssd_core.runners import heap

COUNT = """
import ctypes, resource, sys
import numpy as np
from ssd_core.runners.heap import keep_freed_memory

# PR_SET_THP_DISABLE: where the system gives every process huge pages, faults are few anyway.
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)
kept = sys.argv[1] == "keep" and keep_freed_memory()
from ssd_core import Detector

detector = Detector.load(device="cpu", precision="fp32")
images = [np.zeros((300, 300, 3), np.uint8)] * 8
for _ in range(4):
    detector.detect(images)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    detector.detect(images)
print(kept, (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) // 32)
"""

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"),
    reason="the C library is not glibc",
)


def run(code, *arguments, **environment):
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MALLOC_") and name != "GLIBC_TUNABLES"
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=clean | environment, timeout=100,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.long
def test_a_detector_faults_hardly_any_page_in_again_once_freed_memory_is_kept():
    kept, faults_an_image = run(COUNT, "keep")
    assert kept == "True"
    assert int(faults_an_image) < 500


@pytest.mark.long
def test_a_detector_alone_leaves_the_processs_malloc_as_it_is():
    assert int(run(COUNT, "leave")[1]) > 1000  # fp32 activations above glibc's limit are mapped


@pytest.mark.parametrize(
    "environment",
    [
        {"MALLOC_ARENA_MAX": "2"},
        {"MALLOC_TRIM_THRESHOLD_": "100000"},
        {"GLIBC_TUNABLES": "glibc.malloc.arena_max=2"},
    ],
    ids=lambda environment: next(iter(environment)),
)
def test_what_the_user_configured_stays(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(heap.ctypes, "CDLL", CLibrary)
    assert heap.keep_freed_memory() is False


class CLibrary:
    """glibc, of which nothing may be asked."""

    def __init__(self, name):
        self.gnu_get_libc_version = None

    def mallopt(self, name, value):
        pytest.fail("malloc was configured")
