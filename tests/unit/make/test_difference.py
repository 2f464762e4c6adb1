"""What an upper directory says, as the change that a layer is."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import replace

import pytest

from buildit.digest import Digest, digest_bytes
from buildit.errors import BuildError
from buildit.image.merge import LayerChange
from buildit.make.difference import (
    Difference,
    Over,
    UpperEntry,
    difference,
    holds_private_key,
    names_temporary,
)
from buildit.model.tree import Entry, Kind

pytestmark = pytest.mark.unit

EPOCH = 1000
NOW = 5000
OLD = digest_bytes(b"old")
BELOW = {
    "etc": Entry("etc", Kind.DIRECTORY, 0o755, 10),
    "etc/conf": Entry("etc/conf", Kind.FILE, 0o640, 20, 0, 42, size=3, digest=OLD),
    "etc/link": Entry("etc/link", Kind.SYMLINK, 0o777, 30, target="conf"),
    "var": Entry("var", Kind.DIRECTORY, 0o2775, 40, 0, 50),
    "var/log": Entry("var/log", Kind.DIRECTORY, 0o755, 50),
    "tool": Entry("tool", Kind.FILE, 0o755, 60, size=3, digest=OLD),
}


def folder(path: str, mode: int = 0o755, mtime: int = NOW, **more: object) -> UpperEntry:
    return replace(UpperEntry(path, stat.S_IFDIR | mode, mtime), **more)  # type: ignore[arg-type]


def regular(path: str, mode: int = 0o644, mtime: int = NOW, **more: object) -> UpperEntry:
    found = UpperEntry(path, stat.S_IFREG | mode, mtime, size=3, inode=hash(path))
    return replace(found, **more)  # type: ignore[arg-type]


def whiteout(path: str) -> UpperEntry:
    return UpperEntry(path, stat.S_IFCHR, NOW, inode=7, links=4)


def read(
    *uppers: UpperEntry,
    below: Mapping[str, Entry] = BELOW,
    points: frozenset[str] = frozenset(),
    alone: bool = False,
    digest: Digest = OLD,
) -> Difference:
    return difference(uppers, Over(below.get, points, alone), EPOCH, lambda _: digest)


def paths(found: Difference) -> list[str]:
    return [entry.path for entry in found.change.entries]


ETC = BELOW["etc"]
UPPER_ETC = folder("etc")


def test_a_new_file_comes_with_the_directories_above_as_they_are_below() -> None:
    found = read(UPPER_ETC, regular("etc/new", uid=33, gid=34))
    made = Entry("etc/new", Kind.FILE, 0o644, EPOCH, 33, 34, size=3)
    assert found.change == LayerChange((ETC, made))
    assert found.remarks == ()


def test_what_is_as_below_is_no_change() -> None:
    conf = regular("etc/conf", 0o640, 20, gid=42)
    link = UpperEntry("etc/link", stat.S_IFLNK | 0o777, 30, target="conf")
    assert read(UPPER_ETC, conf, link, folder("var", 0o2775, gid=50)).change == LayerChange(())


@pytest.mark.parametrize(
    "changed",
    [
        regular("etc/conf", 0o600, 20, gid=42),
        regular("etc/conf", 0o640, 20, gid=41),
        regular("etc/conf", 0o640, 19, gid=42),
        regular("etc/conf", 0o640, NOW, gid=42),
        regular("etc/conf", 0o640, 20, gid=42, size=4),
        regular("etc/conf", 0o640, 20, gid=42, xattrs={"user.x": b"1"}),
    ],
)
def test_each_attribute_of_a_file_counts(changed: UpperEntry) -> None:
    assert paths(read(UPPER_ETC, changed)) == ["etc", "etc/conf"]


def test_a_file_of_the_same_size_and_time_is_read() -> None:
    conf = regular("etc/conf", 0o640, 20, gid=42)
    found = read(UPPER_ETC, conf, digest=digest_bytes(b"new"))
    assert found.change.entries[1].digest == digest_bytes(b"new")


def test_times_are_the_epoch_at_most_and_directories_keep_theirs() -> None:
    found = read(folder("etc", 0o700), folder("new"), regular("new/a", mtime=900))
    assert [(one.path, one.mode, one.mtime) for one in found.change.entries] == [
        ("etc", 0o700, 10),
        ("new", 0o755, EPOCH),
        ("new/a", 0o644, 900),
    ]


def test_whiteouts_delete_what_was_there_though_they_are_links_of_one_inode() -> None:
    found = read(UPPER_ETC, whiteout("etc/conf"), whiteout("etc/never"), whiteout("tool"))
    assert found.change == LayerChange((ETC,), ("etc/conf", "tool"))
    spelt = [entry.path for entry in found.change.spelt()]
    assert spelt == [".wh.tool", "etc", "etc/.wh.conf"]


def test_a_whiteout_by_attribute() -> None:
    upper = regular("tool", size=0, xattrs={"user.overlay.whiteout": b""})
    assert read(upper).change.deleted == ("tool",)


def test_a_directory_made_again_is_opaque_and_a_new_one_is_not() -> None:
    opaque = {"user.overlay.opaque": b"y"}
    found = read(folder("etc", xattrs=opaque), regular("etc/conf"), folder("a", xattrs=opaque))
    assert found.change.opaque == ("etc",)
    assert [(one.path, one.mtime, one.xattrs) for one in found.change.entries] == [
        ("a", EPOCH, {}),
        ("etc", EPOCH, {}),
        ("etc/conf", EPOCH, {}),
    ]


def test_nothing_beneath_an_opaque_directory_is_as_below() -> None:
    opaque = folder("etc", xattrs={"user.overlay.opaque": b"y"})
    found = read(opaque, regular("etc/conf", 0o640, 20, gid=42))
    assert paths(found) == ["etc", "etc/conf"]


def test_a_directory_takes_the_place_of_a_file() -> None:
    found = read(folder("tool", xattrs={"user.overlay.opaque": b"y"}))
    assert found.change == LayerChange((Entry("tool", Kind.DIRECTORY, 0o755, EPOCH),))


def test_hard_links_are_of_the_first_name_and_a_name_from_below_counts_with_a_new_one() -> None:
    names = [
        regular("tool", 0o755, 60, inode=9, links=2),
        regular("also", 0o755, 60, inode=9, links=2),
    ]
    found = read(*names)
    assert [(one.path, one.kind, one.target) for one in found.change.entries] == [
        ("also", Kind.FILE, ""),
        ("tool", Kind.HARDLINK, "also"),
    ]
    assert found.change.entries[1].digest is None


def test_hard_links_that_are_as_below_are_no_change() -> None:
    below = {**BELOW, "also": replace(BELOW["tool"], path="also")}
    names = [regular(one, 0o755, 60, inode=9, links=2) for one in ("also", "tool")]
    assert read(*names, below=below).change == LayerChange(())


def test_logs_and_caches_that_differ_each_time_stay_out() -> None:
    upper = [
        folder("var", 0o2775, gid=50),
        folder("var/log"),
        regular("var/log/dpkg.log"),
        folder("var/log/apt"),
        regular("var/log/apt/term.log"),
        regular("var/log/mine.log"),
    ]
    assert paths(read(*upper)) == ["var", "var/log", "var/log/apt", "var/log/mine.log"]


def test_an_identity_of_a_machine_is_emptied() -> None:
    found = read(UPPER_ETC, regular("etc/machine-id", size=33))
    assert found.emptied == {"etc/machine-id"}
    assert found.change.entries[1].size == 0
    assert [path for _, path in found.remarks] == ["etc/machine-id"]


def test_set_id_bits_are_kept_and_told_and_keys_of_a_host_are_named() -> None:
    below = {**BELOW, "su": Entry("su", Kind.FILE, 0o4755, 5, size=3, digest=OLD)}
    key = "etc/ssh/ssh_host_rsa_key"
    upper = [
        UPPER_ETC,
        folder("etc/ssh"),
        regular(key),
        regular("su", 0o4755),
        regular("up", 0o6755),
    ]
    found = read(*upper, below=below)
    assert found.change.entries[-1].mode == 0o6755
    assert [path for _, path in found.remarks] == [key, "up (6755)"]


def test_sockets_and_fifos_stay_out_and_are_told() -> None:
    found = read(UpperEntry("s", stat.S_IFSOCK | 0o755), UpperEntry("f", stat.S_IFIFO | 0o644))
    assert found.change == LayerChange(())
    assert [path for _, path in found.remarks] == ["s", "f"]


def test_points_to_mount_on_are_no_change_where_they_were_made_for_that() -> None:
    points = frozenset({"tmp", "run", "etc"})
    upper = [UPPER_ETC, folder("run"), folder("tmp")]
    assert read(*upper, points=points).change == LayerChange(())
    assert paths(read(folder("run"), folder("tmp"), points=frozenset({"run"}))) == ["tmp"]


def test_alone_what_was_there_stays_whose_it_was() -> None:
    upper = [folder("var", 0o2770), regular("etc/conf", 0o600), regular("etc/new")]
    found = read(UPPER_ETC, *upper, alone=True)
    assert [(one.path, one.uid, one.gid) for one in found.change.entries] == [
        ("etc", 0, 0),
        ("etc/conf", 0, 42),
        ("etc/new", 0, 0),
        ("var", 0, 50),
    ]


def test_attributes_of_the_kernel_go_and_capabilities_stay() -> None:
    xattrs = {
        "user.overlay.origin": b"1",
        "user.overlay.impure": b"y",
        "security.capability": b"c",
        "security.selinux": b"s",
        "user.mime": b"m",
    }
    found = read(regular("tool", 0o755, xattrs=xattrs))
    kept = {"security.capability": b"c", "user.mime": b"m"}
    assert found.change.entries[0].xattrs == kept


@pytest.mark.parametrize(
    ("upper", "said"),
    [
        (regular(".wh.tool"), "/.wh.tool: names that begin with .wh."),
        (folder("etc/.wh..wh..opq"), "names that begin with .wh."),
        (
            folder("etc", xattrs={"user.overlay.overlay.opaque": b"y"}),
            "/etc: the attribute user.overlay.opaque was set",
        ),
        (regular("a", xattrs={"user.overlay.redirect": b"/"}), "user.overlay.redirect"),
        (UpperEntry("dev0", stat.S_IFBLK | 0o600, device=5), "/dev0: a device was made"),
    ],
)
def test_what_a_layer_would_take_for_something_else_is_refused(
    upper: UpperEntry, said: str
) -> None:
    with pytest.raises(BuildError) as error:
        read(UPPER_ETC, upper)
    assert said in error.value.message
    assert error.value.hint


@pytest.mark.parametrize(
    ("head", "answer"),
    [
        (b"-----BEGIN PRIVATE KEY-----\nMIIE", True),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n", True),
        (b"-----BEGIN PUBLIC KEY-----\n", False),
        (b"\x7fELF", False),
    ],
)
def test_private_keys(head: bytes, answer: bool) -> None:
    assert holds_private_key(head) is answer


def test_debconfs_answers_name_temporary_files() -> None:
    asked = b"Name: ucf/title\nOwners: ucf\nVariables:\n FILE = /etc/x.conf\n%s\n"
    assert names_temporary(asked % b" NEW = /tmp/postgresql-common.a8Kd3x")
    assert not names_temporary(asked % b" NEW = /etc/tmp/x\n WHY = in /tmp/ it is")
