"""Where cgroups are found, what a group is told, and what is counted without one."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from buildit.model.config import Limits
from buildit.sandbox.limits import (
    CGroup,
    DiskWatch,
    HardLimits,
    Hierarchy,
    TreeWatch,
    disk_use,
    hierarchies,
    open_group_in,
    tree_use,
)
from buildit.sandbox.probe import forbidden
from buildit.store.disk import HOST_ID, has_uid

pytestmark = pytest.mark.unit

HYBRID = """\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 24 0:26 / /sys/fs/cgroup rw - tmpfs cgroup rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
"""

UNIFIED = """\
24 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
"""


def test_v1_groups_are_taken_below_the_own_one_and_v2_comes_after() -> None:
    own = "9:pids:/\n4:memory:/box/1\n1:cpu,cpuacct:/\n0::/box\n"
    memory, pids = Path("/sys/fs/cgroup/memory/box/1"), Path("/sys/fs/cgroup/pids")
    unified = Path("/sys/fs/cgroup/unified")
    assert hierarchies(HYBRID, own) == (
        Hierarchy(1, memory, pids),
        Hierarchy(2, unified / "box", unified / "box"),
        Hierarchy(2, unified, unified),
    )


def test_v2_groups_are_tried_from_the_own_one_upwards() -> None:
    found = hierarchies(UNIFIED, "0::/user.slice/app.slice/x.scope\n")
    root = Path("/sys/fs/cgroup")
    assert [place.memory for place in found] == [
        root / "user.slice/app.slice/x.scope",
        root / "user.slice/app.slice",
        root / "user.slice",
        root,
    ]


def test_a_container_sees_a_part_of_the_hierarchy() -> None:
    mountinfo = "30 24 0:26 /docker/ab\\040c /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    found = hierarchies(mountinfo, "0::/docker/ab c/build\n")
    assert found[0].memory == Path("/sys/fs/cgroup/build")
    assert hierarchies("", "0::/\n") == ()


def tree_v2(root: Path, handed: str) -> Hierarchy:
    (root / "buildit").mkdir(parents=True)
    (root / "cgroup.subtree_control").write_text(handed)
    (root / "buildit/cgroup.subtree_control").write_text("")
    return Hierarchy(2, root, root)


def test_nothing_handed_down_is_no_group(tmp_path: Path) -> None:
    place = tree_v2(tmp_path, "cpu pids\n")
    assert open_group_in(place, Limits()) is None
    assert list((tmp_path / "buildit").iterdir()) == [tmp_path / "buildit/cgroup.subtree_control"]


def test_plain_directories_are_no_cgroups(tmp_path: Path) -> None:
    # a directory without the kernel's files: creating them instead would enforce nothing
    place = tree_v2(tmp_path, "memory pids\n")
    assert open_group_in(place, Limits()) is None
    assert [each.name for each in (tmp_path / "buildit").iterdir()] == ["cgroup.subtree_control"]


def test_groups_of_dead_processes_are_swept(tmp_path: Path) -> None:
    place = tree_v2(tmp_path, "memory pids\n")
    gone, alive, foreign = (
        tmp_path / "buildit" / name for name in ("4194399-ab", f"{os.getpid()}-cd", "other")
    )
    for each in (gone, alive, foreign):
        each.mkdir()
    assert open_group_in(place, Limits()) is None
    assert not gone.exists()
    assert alive.exists()
    assert foreign.exists()


@pytest.mark.parametrize("version", [1, 2])
def test_the_kernels_counters_name_the_limit(tmp_path: Path, version: int) -> None:
    group = CGroup(version, tmp_path, tmp_path)
    assert group.exceeded() is None
    events = tmp_path / ("memory.oom_control" if version == 1 else "memory.events")
    events.write_text("under_oom 0\noom_kill 0\n")
    (tmp_path / "pids.events").write_text("max 3\n")
    assert group.exceeded() == "processes"
    events.write_text("under_oom 0\noom_kill 1\n")
    assert group.exceeded() == "memory"


def test_rlimits_are_the_same_on_every_host_that_allows_them() -> None:
    limits = Limits(disk_bytes=1000)
    words = HardLimits().ulimits(limits)
    pairs = dict(zip(words[1::2], words[2::2], strict=True))
    expected = {"c": "0", "l": "64", "Sn": "1024", "Hn": "4096", "f": "2"}
    expected |= dict.fromkeys("tdmv", "unlimited")
    assert pairs == expected | {"Ss": "8192", "Hs": "65536"}
    assert HardLimits(20000, 1 << 30).ulimits(limits) == words


def test_rlimits_are_never_above_what_may_be_handed_down() -> None:
    words = HardLimits(files=512, stack=4 << 20).ulimits(Limits())
    pairs = dict(zip(words[1::2], words[2::2], strict=True))
    assert (pairs["Sn"], pairs["Hn"]) == ("512", "512")
    assert (pairs["Ss"], pairs["Hs"]) == ("4096", "4096")
    assert int(HardLimits().ulimits(Limits(processes=10))[0]) > 10


def test_rlimits_are_those_of_the_shell_in_the_units_of_the_kernel() -> None:
    limits = Limits(disk_bytes=1000, processes=10)
    found = {kind: pair for kind, *pair in HardLimits().rlimits(limits, memory=False)}
    assert found[resource.RLIMIT_NOFILE] == [1024, 4096]
    assert found[resource.RLIMIT_STACK] == [8 << 20, 64 << 20]
    assert found[resource.RLIMIT_FSIZE] == [1024, 1024]
    assert found[resource.RLIMIT_MEMLOCK] == [64 << 10, 64 << 10]
    assert found[resource.RLIMIT_AS] == [resource.RLIM_INFINITY] * 2
    assert found[resource.RLIMIT_NPROC][0] > 10
    bounded = {kind: soft for kind, soft, _ in HardLimits().rlimits(limits, memory=True)}
    assert bounded[resource.RLIMIT_AS] == limits.memory_bytes


def test_a_callers_hard_limit_below_ours_is_taken() -> None:
    hard = HardLimits(
        file_bytes=10_000 * 512 + 1,
        address_bytes=(3 << 30) + 5,
        data_bytes=2 << 30,
        resident_bytes=1 << 30,
        locked_bytes=16 << 10,
        cpu_seconds=77,
        processes=100,
    )
    words = hard.ulimits(Limits())
    pairs = dict(zip(words[1::2], words[2::2], strict=True))
    expected = {"f": "10000", "v": str(3 << 20), "d": str(2 << 20), "m": str(1 << 20)}
    assert expected | {"l": "16", "t": "77"} == {name: pairs[name] for name in "fvdmlt"}
    assert words[0] == "100"
    assert hard.address_limit(Limits()) == hard.address_bytes
    assert hard.address_limit(Limits(memory_bytes=1 << 20)) == 1 << 20
    assert HardLimits().address_limit(Limits(memory_bytes=1 << 20)) == 1 << 20


def test_disk_use_counts_files_but_follows_nothing(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    empty = disk_use(tmp_path, 1 << 40)
    (tmp_path / "a/b/file").write_bytes(b"x" * 100_000)
    (tmp_path / "out").symlink_to("/usr")
    (tmp_path / "sparse").touch()
    os.truncate(tmp_path / "sparse", 1 << 40)
    assert empty + 100_000 <= disk_use(tmp_path, 1 << 40) < empty + 200_000


def test_disk_use_of_a_deep_tree_needs_few_descriptors(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    fd = os.open(tmp_path, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    assert disk_use(tmp_path, 1 << 40) > 0
    assert disk_use(tmp_path, 1) > 1
    assert disk_use(tmp_path / "absent", 1) == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_disk_watch_reports_once_over_the_limit(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 100_000)
    over = DiskWatch((tmp_path,), limit=50_000, reserve=0, _free=1 << 62)
    assert over() == "disk"
    under = DiskWatch((tmp_path,), limit=1 << 30, reserve=0, _free=1 << 62)
    assert under() is None
    full = DiskWatch((tmp_path,), limit=1 << 62, reserve=1 << 60, _free=1 << 62)
    assert full() == "full"
    assert DiskWatch((), limit=0)() is None


def test_a_process_and_its_children_are_counted() -> None:
    _, threads, memory, _ = tree_use(os.getpid())
    assert threads >= 1
    assert memory > 1 << 20
    assert tree_use(4194399)[1] == 0
    assert TreeWatch(os.getpid(), Limits())() is None
    assert TreeWatch(os.getpid(), Limits(memory_bytes=1))() == "memory"
    assert TreeWatch(os.getpid(), Limits(processes=1))() == "processes"


def test_what_forbids_namespaces_is_named(tmp_path: Path) -> None:
    (tmp_path / "user").mkdir()
    (tmp_path / "kernel").mkdir()
    assert forbidden(tmp_path) is None
    (tmp_path / "kernel/apparmor_restrict_unprivileged_userns").write_text("1\n")
    assert "apparmor_restrict" in str(forbidden(tmp_path))
    (tmp_path / "kernel/unprivileged_userns_clone").write_text("0\n")
    assert "unprivileged_userns_clone=1" in str(forbidden(tmp_path))
    (tmp_path / "user/max_user_namespaces").write_text("0\n")
    assert "max_user_namespaces" in str(forbidden(tmp_path))


def test_the_build_users_id_is_looked_up_in_the_namespaces_map() -> None:
    assert has_uid("         0          0 4294967295\n", HOST_ID)
    assert has_uid("0 1000 1\n1 100000 65535\n", HOST_ID)
    assert not has_uid("0 1000 1\n", HOST_ID)
    assert not has_uid("", HOST_ID)
