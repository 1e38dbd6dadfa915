"""The lint of the Dockerfile finds what an image lacks for a GPU, even where none can be built."""

import pytest

from tests.conftest import ROOT
from tests.lint_deploy import gpu_problems

DOCKERFILE = (ROOT / "deploy" / "Dockerfile").read_text()


def test_the_image_has_what_a_gpu_needs():
    assert list(gpu_problems(DOCKERFILE)) == []


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("compute,utility,video", "compute,utility", "NVIDIA_DRIVER_CAPABILITIES without video"),
        ("NVIDIA_DRIVER_CAPABILITIES", "OTHER", "without compute, utility, video"),
        ("NVIDIA_VISIBLE_DEVICES=all", "", "NVIDIA_VISIBLE_DEVICES is not set"),
        ("recommends gcc ", "recommends ", "has no gcc"),
        (" libc6-dev", "", "has no libc6-dev"),
        ("state/triton", "cache", "TRITON_CACHE_DIR is not in the state directory"),
        ("TRITON_CACHE_DIR=", "OTHER=", "TRITON_CACHE_DIR is not in the state directory"),
    ],
)
def test_a_missing_part_is_named(before, after, problem):
    assert before in DOCKERFILE
    (found,) = gpu_problems(DOCKERFILE.replace(before, after))
    assert problem in found


def test_a_compiler_in_the_first_stage_does_not_count():
    first, last = DOCKERFILE.rsplit("\nFROM ", 1)
    both = f"{first.replace('recommends g++', 'recommends g++ gcc libc6-dev')}\nFROM "
    found = list(gpu_problems(both + last.replace("gcc libc6-dev", "curl")))
    assert len(found) == 2
