"""How many cores this process may use: everything that counts cores asks here.

A container's CPU quota does not change the number of cores that the system shows: with 32 cores
seen and a quota of 2, threads for 32 halved the speed of a replay and doubled its memory.
"""

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

CONTROLLER = "cpu"
ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may use: those it may run on, or fewer if a quota allows less.

    A quota of 1.5 cores counts as 2, since 1 would leave a third of it unused; one below a core as
    1. ``root`` is where /proc and the control groups are found.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota(root)
    return cores if quota is None else max(min(cores, math.ceil(quota)), 1)


def cpu_quota(root: Path = ROOT) -> float | None:
    """The CPU time per time that this process's control groups allow: 1.5 is one and a half cores.

    None without a limit. The tightest of nested groups counts. Reads ``cpu.max`` of control groups
    version 2 (the kernel's cgroup-v2.rst) and ``cpu.cfs_quota_us`` of version 1 (sched-bwc.rst).
    """
    try:
        groups = [_quota(folder) for folder in _group_folders(root)]
    except OSError:  # not Linux, or hidden
        return None
    return min((quota for quota in groups if quota is not None), default=None)


def _group_folders(root: Path) -> Iterator[Path]:
    """The folder of each control group around this process that may limit its CPU time."""
    paths = {}
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" and not controllers:
            paths["cgroup2"] = path
        elif CONTROLLER in controllers.split(","):
            paths["cgroup"] = path
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind = line.partition(" - ")
        mounted, place = map(_unescaped, mount.split()[3:5])
        filesystem, _, options = kind.split(" ", 2)  # the device in the middle may be empty
        is_ours = filesystem == "cgroup2" or CONTROLLER in options.split(",")
        if filesystem not in paths or not is_ours:
            continue
        top = root / place.lstrip("/")
        folder = top / _below(paths[filesystem], mounted)
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _lines(path: Path) -> list[str]:
    """The lines of a file of the kernel: names in it may be any bytes but a newline."""
    text = path.read_bytes().decode(errors="surrogateescape")
    return [line for line in text.split("\n") if line]


def _below(path: str, mounted: str) -> str:
    """The part of a group's path below the group that is mounted; "" if it is not below it.

    In a container either may be seen from outside its namespace; its own group is then on top.
    """
    if ".." in path.split("/"):
        return ""
    try:
        return str(Path(path).relative_to(mounted))
    except ValueError:
        return ""


def _unescaped(text: str) -> str:
    """A path as mountinfo writes it: blanks and the like in octal."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _quota(folder: Path) -> float | None:
    """The limit of one group; None without one."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        limit = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # "max", or no such file
        return None
    return limit if limit > 0 else None  # version 1 writes -1 for none
