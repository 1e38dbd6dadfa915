import os

import pytest

from ssd_core.cores import cpu_quota, usable_cores

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"
V1_MOUNT = "32 31 0:29 {root} /sys/fs/cgroup/{at} rw,relatime - cgroup cgroup rw,{controllers}"


class Machine:
    """A tree with /proc and control groups."""

    def __init__(self, root):
        self.root = root

    def process(self, *groups, mounts):
        proc = self.root / "proc/self"
        proc.mkdir(parents=True, exist_ok=True)
        (proc / "cgroup").write_text("".join(f"{line}\n" for line in groups))
        lines = "".join(f"{line}\n" for line in mounts)
        (proc / "mountinfo").write_bytes(lines.encode(errors="surrogateescape"))

    def v2(self, path, **quotas):
        """In the group ``path``, where groups (by their path, ROOT for "/") have a cpu.max."""
        self.process(f"0::{path}", mounts=[V2_MOUNT])
        for name, quota in quotas.items():
            self.write("sys/fs/cgroup" if name == "ROOT" else f"sys/fs/cgroup/{name}", quota)
        return self

    def write(self, folder, quota, name="cpu.max"):
        folder = self.root / folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{quota}\n")

    def v1(self, path, folder, quota, period=100_000, root="/", at="cpu", controllers="cpu"):
        mount = V1_MOUNT.format(root=root, at=at, controllers=controllers)
        self.process("5:memory:/x", f"4:{controllers}:{path}", "0::/", mounts=[mount])
        self.write(f"sys/fs/cgroup/{at}/{folder}", quota, "cpu.cfs_quota_us")
        self.write(f"sys/fs/cgroup/{at}/{folder}", period, "cpu.cfs_period_us")
        return self


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def cores(monkeypatch):
    def cores(number):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(number)), raising=False)

    cores(32)
    return cores


@pytest.mark.parametrize(
    ("quota", "usable"),
    [
        ("200000 100000", 2),
        ("max 100000", 32),
        ("150000 100000", 2),  # 1.5
        ("50000 100000", 1),  # half of a core
        ("1000 1000000", 1),
        ("6400000 100000", 32),  # more than there are
        ("50000 25000", 2),
    ],
)
def test_a_quota_limits_the_cores_that_count(machine, cores, quota, usable):
    assert usable_cores(machine.v2("/", ROOT=quota).root) == usable


def test_the_tightest_of_nested_groups_counts(machine, cores):
    machine.v2("/a/b/c", a="300000 100000")
    machine.write("sys/fs/cgroup/a/b", "max 100000")
    machine.write("sys/fs/cgroup/a/b/c", "800000 100000")
    assert usable_cores(machine.root) == 3
    machine.write("sys/fs/cgroup/a/b/c", "200000 100000")
    assert usable_cores(machine.root) == 2
    machine.write("sys/fs/cgroup/other", "100000 100000")
    assert usable_cores(machine.root) == 2


@pytest.mark.parametrize("seen", ["/../../system.slice/x", "/docker/0123"])
def test_a_group_that_is_seen_from_outside_the_container_is_the_one_on_top(machine, cores, seen):
    assert usable_cores(machine.v2(seen, ROOT="200000 100000").root) == 2


@pytest.mark.parametrize("controllers", ["cpu", "cpu,cpuacct", "cpuacct,cpu"])
def test_version_1_has_its_quota_in_two_files(machine, cores, controllers):
    machine.v1("/docker/x", "docker/x", 250_000, controllers=controllers, at="cpu,cpuacct")
    assert usable_cores(machine.root) == 3
    assert cpu_quota(machine.root) == 2.5


def test_version_1_mounts_a_container_s_own_group(machine, cores):
    assert usable_cores(machine.v1("/docker/x", ".", 200_000, root="/docker/x").root) == 2


def test_version_1_without_a_quota_says_minus_one(machine, cores):
    assert usable_cores(machine.v1("/", ".", -1).root) == 32


def test_groups_for_other_controllers_do_not_count(machine, cores):
    machine.v1("/", ".", 100_000, controllers="cpuset", at="cpuset")
    assert usable_cores(machine.root) == 32


def test_a_mount_point_with_a_blank_in_its_name_is_found(machine, cores):
    mount = r"29 23 0:26 / /my\040groups rw - cgroup2 cgroup2 rw"
    machine.process("0::/", mounts=[mount])
    machine.write("my groups", "200000 100000")
    assert usable_cores(machine.root) == 2


@pytest.mark.parametrize("content", ["", "100000\n", "max\n", "x y\n", "100000 0\n"])
def test_a_file_that_makes_no_sense_is_no_limit(machine, cores, content):
    machine.v2("/", ROOT="")
    (machine.root / "sys/fs/cgroup/cpu.max").write_text(content)
    assert usable_cores(machine.root) == 32


def test_without_control_groups_the_cores_count_that_the_process_may_run_on(tmp_path, cores):
    cores(3)
    assert cpu_quota(tmp_path) is None
    assert usable_cores(tmp_path) == 3


def test_fewer_cores_than_the_quota_count(machine, cores):
    cores(2)
    assert usable_cores(machine.v2("/", ROOT="800000 100000").root) == 2


def test_this_machine_has_a_core():
    assert usable_cores() >= 1


@pytest.mark.parametrize(
    "mount",
    [
        "36 29 0:31 / /mnt rw,relatime - tmpfs  rw",
        "36 29 0:31 / /mnt/caf\udce9 rw,relatime - ext4 /dev/sda1 rw",
        "36 29 0:31 / /mnt/a\x0cb rw,relatime - ext4 /dev/sda1 rw",
    ],
    ids=["without a source", "not UTF-8", "with a form feed"],
)
def test_a_quota_is_found_among_odd_mounts(machine, cores, mount):
    machine.v2("/", ROOT="200000 100000")
    machine.process("0::/", mounts=[mount, V2_MOUNT])
    assert usable_cores(machine.root) == 2
