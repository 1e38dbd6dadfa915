"""What the image without CUDA is installed from, made of the real lock file."""

import subprocess
import sys
from importlib.metadata import requires

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT
from tests.lint_audit import pins
from tests.lint_deploy import lock_problems

LOCK = (ROOT / "requirements.lock").read_text()


def part(name, lock=ROOT / "requirements.lock"):
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "cpu_requirements.py", lock, name],
        capture_output=True, text=True,
    )  # fmt: skip


def names(lines):
    return {canonicalize_name(line.partition("==")[0]) for line in lines}


def is_for_cuda(name):
    return name == "triton" or name.startswith(("nvidia-", "cuda-"))


def test_pytorch_comes_in_the_versions_of_the_lock_built_for_the_cpu():
    locked = [pin for pin in pins(LOCK) if pin.startswith(("torch==", "torchvision=="))]
    assert len(locked) == 2
    assert part("torch").stdout.splitlines() == [f"{pin}+cpu" for pin in locked]


def test_the_rest_is_the_lock_without_pytorch_and_what_only_cuda_needs():
    rest = part("rest").stdout
    left_out = names(pins(LOCK)) - names(pins(rest))
    assert {name for name in left_out if not is_for_cuda(name)} == {"torch", "torchvision"}
    assert not any(is_for_cuda(name) for name in names(pins(rest)))
    assert set(pins(rest)) < set(pins(LOCK))


def test_the_rest_has_the_hashes_of_the_lock():
    rest = part("rest").stdout
    assert list(lock_problems(rest, ["redis", "setproctitle", "setuptools"])) == []
    assert set(rest.splitlines()) < set(LOCK.splitlines())


def test_both_together_have_every_dependency_of_what_they_install():
    """Since pip resolves nothing for that image. What is installed here has the lock's versions."""
    here = names(pins(part("rest").stdout)) | {"torch", "torchvision"}
    for package in here - {"async-timeout"}:  # for Python 3.11.2 and older
        for requirement in map(Requirement, requires(package) or ()):
            name = canonicalize_name(requirement.name)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                assert name in here or (package == "torch" and is_for_cuda(name)), package


@pytest.mark.parametrize("bad", ["redis>=8\n", "redis==8.1.0\n", "git+https://host/redis\n"])
def test_a_lock_that_is_not_one_stops_the_build(tmp_path, bad):
    lock = tmp_path / "requirements.lock"
    lock.write_text(LOCK + bad)
    found = part("rest", lock)
    assert found.returncode == 1
    assert found.stdout == ""
    assert found.stderr == (
        f"{lock}: expected NAME==VERSION with hashes: {bad.strip()}: make lock\n"
    )
