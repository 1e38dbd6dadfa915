"""Whether the tests notice each barrier of the kernels: deletes one at a time and expects failures.

    PYTHONPATH=benchmarks python benchmarks/gpu/barriers.py [--quick] [--seconds 60]

For every barrier in ssd_core/ops a copy of the package and its tests is made without it, in a
temporary folder, and those tests run there that share long lists among warps, until the first
failure; one copy more is left as it is and must pass. All copies run at the same time on the one
GPU. In Triton's interpreter a barrier does nothing, so this needs a device. A race need not show in
every run: what survives may still be needed. Exits with 1 if a mutant survives or the untouched
copy fails.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import HERE, parser

ROOT = HERE.parent
OPS = Path("ssd_core") / "ops"
TESTS = "tests/unit/ssd_core/ops/test_decode_nms_triton.py"
LONG_LISTS = "selection"
"""Part of the names of the tests in which several warps share long lists."""
WORKERS = 2
"""Processes that test a copy."""
BARRIER = re.compile(r"^( *)\w+\.(?:debug_)?barrier\(\)$", re.MULTILINE)


@dataclass
class Copy:
    """A package whose tests run."""

    name: str
    process: "subprocess.Popen[str]"
    report: Path


def main() -> None:
    """Run all copies, print the table, judge."""
    options = parser(__doc__)
    options.add_argument("--seconds", type=float, default=60, help="for all copies together")
    chosen = options.parse_args()
    barriers = [
        (path.relative_to(ROOT), found)
        for path in sorted((ROOT / OPS).glob("*.py"))
        for found in BARRIER.finditer(path.read_text())
    ]
    with tempfile.TemporaryDirectory() as directory:
        folders = [Path(directory) / f"copy{index}" for index in range(len(barriers) + 1)]
        copies = [start("untouched", copy_into(folders[0]), chosen.quick)]
        for folder, (path, barrier) in zip(folders[1:], barriers, strict=True):
            text = (ROOT / path).read_text()
            line = text.count("\n", 0, barrier.start()) + 1
            copy_into(folder)
            without = text[: barrier.start()] + f"{barrier[1]}pass" + text[barrier.end() :]
            (folder / path).write_text(without)
            copies.append(start(f"{path.name}:{line}", folder, chosen.quick))
        deadline = time.monotonic() + chosen.seconds
        outcomes = {copy.name: outcome(copy, deadline) for copy in copies}
    untouched = outcomes.pop("untouched")
    print(f"untouched: {untouched}")
    for name, found in outcomes.items():
        print(f"without the barrier of {name}: {found}")
    red = sum(found.startswith("red") for found in outcomes.values())
    print(f"{red} of {len(outcomes)} barriers are noticed by a test")
    if not untouched.startswith("green") or (red < len(outcomes) and not chosen.quick):
        sys.exit(1)


def copy_into(folder: Path) -> Path:
    """The package, its tests and pytest's settings; the weights as a link."""
    weights = ROOT / "ssd_core" / "weights"
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(ROOT / "ssd_core", folder / "ssd_core", ignore=ignored)
    (folder / "ssd_core" / "weights").symlink_to(weights)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def start(name: str, folder: Path, quick: bool) -> Copy:
    """Run the tests of a copy until one fails."""
    chosen = "as_little_as_can_be" if quick else LONG_LISTS
    command = [sys.executable, "-m", "pytest", TESTS, "-x", "-m", "cuda or kernels", "-k", chosen]
    command += ["--numprocesses", str(WORKERS), "-p", "no:cacheprovider"]
    report = folder / "report.txt"
    search = [str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    others = [entry for entry in search if entry and Path(entry) != ROOT]
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(others), "OMP_NUM_THREADS": "2"},
        stdout=report.open("w"),
        stderr=subprocess.STDOUT,
        text=True,
    )
    return Copy(name, process, report)


def outcome(copy: Copy, deadline: float) -> str:
    """'red' and the first failure, or 'green', or that there was no time; ends the tests."""
    try:
        code = copy.process.wait(max(0.1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        copy.process.terminate()
        copy.process.wait()
        code = None
    lines = copy.report.read_text().splitlines()
    failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if failures:
        return f"red, {failures[0][:160]}"
    last = lines[-1] if lines else "no output"
    return f"{'green' if code == 0 else 'undecided'}, {last[:160]}"


if __name__ == "__main__":
    main()
