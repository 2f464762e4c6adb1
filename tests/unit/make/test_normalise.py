from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.digest import digest_bytes
from buildit.errors import BuildError, RecipeError
from buildit.make.capture.capture import claims
from buildit.make.capture.normalise import (
    CAPABILITY_XATTR,
    Change,
    Normalised,
    encoded_capabilities,
    normalised,
    open_content,
)
from buildit.model.config import Limits
from buildit.model.tree import Entry, Kind, sort_key
from buildit.plan.identity import OutputInput, RuleInput
from buildit.store.disk import remove_tree

pytestmark = pytest.mark.unit

EPOCH = 1_234_567_890


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    (tmp_path / "d/usr/bin").mkdir(parents=True)
    return tmp_path / "d"


def rule(path: str, mode: str = "", owner: str = "", *capabilities: str) -> RuleInput:
    return RuleInput(path, mode, owner, capabilities)


def run(dest: Path, *rules: RuleInput) -> Normalised:
    with Root.open(dest) as root:
        return normalised(root, rules, EPOCH, place="pkg.yaml:9:3")


def by_path(found: Normalised) -> dict[str, Entry]:
    return {entry.path: entry for entry in found.entries}


def put(path: Path, data: bytes = b"data", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_owners_and_times_are_the_same_everywhere_and_modes_stay(dest: Path) -> None:
    put(dest / "usr/bin/tool", b"#!/bin/sh\n", 0o775)
    put(dest / "etc/secret", b"x", 0o600)
    put(dest / "etc/sudoers", b"x", 0o440)
    put(dest / "etc/none", b"x", 0)
    put(dest / "usr/bin/su", b"x", 0o4755)
    (dest / "usr/bin/link").symlink_to("tool")
    (dest / "var").mkdir()
    (dest / "var").chmod(0o2770)
    (dest / "usr/bin").chmod(0o755)
    found = by_path(run(dest))
    assert found["usr/bin/tool"] == Entry(
        "usr/bin/tool", Kind.FILE, 0o775, EPOCH, size=10, digest=digest_bytes(b"#!/bin/sh\n")
    )
    modes = {path: entry.mode for path, entry in found.items()}
    assert modes["etc/secret"] == 0o600
    assert modes["etc/sudoers"] == 0o440
    assert modes["etc/none"] == 0
    assert modes["usr/bin/su"] == 0o4755
    assert modes["var"] == 0o2770
    assert found["usr/bin/link"] == Entry("usr/bin/link", Kind.SYMLINK, 0o777, EPOCH, target="tool")
    assert {(e.uid, e.gid, e.mtime) for e in found.values()} == {(0, 0, EPOCH)}


def test_entries_are_in_the_order_of_layers(dest: Path) -> None:
    for name in ("a", "a-b", "a/c".replace("/", "_"), "B", "é", "\udcff"):
        put(dest / name)
    (dest / "x").mkdir()
    put(dest / "x/y")
    put(dest / "x-y")
    entries = run(dest).entries
    assert list(entries) == sorted(entries, key=sort_key)
    assert len(entries) == len({e.path for e in entries})


def test_which_modes_are_declared(dest: Path) -> None:
    put(dest / "usr/bin/su", mode=0o4755)
    put(dest / "usr/bin/wall", mode=0o2755)
    (dest / "usr/bin/spool").mkdir(mode=0o700)
    found = run(dest, rule("usr/bin/su", "04711"), rule("usr/bin/s*", "0750"))
    assert by_path(found)["usr/bin/wall"].mode == 0o2755
    assert by_path(found)["usr/bin/su"].mode == 0o750
    assert by_path(found)["usr/bin/spool"].mode == 0o700
    assert found.declared == {"usr/bin/su"}


def bounded(dest: Path, **bounds: int) -> None:
    with Root.open(dest) as root:
        normalised(root, (), EPOCH, limits=Limits(**bounds))


def test_no_more_is_taken_than_the_bounds(dest: Path) -> None:
    for name in ("a", "b", "c"):
        put(dest / name, b"x" * 100)
    os.link(dest / "a", dest / "a2")
    bounded(dest, installed_bytes=301, installed_files=6)  # one inode counts once; two directories
    with pytest.raises(BuildError, match="more than 5 files and directories") as caught:
        bounded(dest, installed_files=5)
    assert caught.value.place == "usr/bin"
    with pytest.raises(BuildError, match="300 B or more were installed") as caught:
        bounded(dest, installed_bytes=300)
    assert caught.value.place == "c"
    os.truncate(dest / "b", 4 << 30)
    with pytest.raises(BuildError, match=r"has 4\.3 GB, most of it holes \(4\.3 GB\)") as caught:
        bounded(dest)
    assert caught.value.place == "b"
    assert "limits: installed" in (caught.value.hint or "")


@pytest.mark.scale
def test_directories_are_not_followed_for_ever(tmp_path: Path) -> None:
    dest = tmp_path / "d"
    dest.mkdir()
    at = os.open(dest, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=at)
        deeper = os.open("d", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = deeper
    os.close(at)
    with pytest.raises(BuildError, match="256 deep") as caught:
        run(dest)
    assert (caught.value.place or "").startswith("d/d/d/")
    remove_tree(dest)
    assert not dest.exists()


def test_long_paths_end_where_no_engine_unpacks_them(dest: Path) -> None:
    put(dest / "/".join(["n" * 250] * 13) / "x")
    run(dest)
    (dest / "/".join(["n" * 250] * 13) / ("m" * 250)).mkdir()
    with pytest.raises(BuildError, match="a path of 3500 bytes"):
        run(dest)


def test_rules(dest: Path) -> None:
    put(dest / "etc/secret/key")
    put(dest / "etc/secret/sub/key")
    (dest / "tmp").mkdir()
    found = by_path(
        run(
            dest,
            rule("etc/secret/**", "640", "0:33"),
            rule("etc/secret/key", "0600"),
            rule("etc/secret", "0710"),
            rule("tmp", "01777"),
        )
    )
    assert (found["etc/secret/key"].mode, found["etc/secret/key"].gid) == (0o600, 33)
    assert found["etc/secret/sub/key"].mode == 0o640
    assert (found["etc/secret/sub"].mode, found["etc/secret/sub"].gid) == (0o755, 33)
    assert found["etc/secret"].mode == 0o710
    assert found["tmp"].mode == 0o1777


def test_a_rule_that_matches_nothing_is_an_error(dest: Path) -> None:
    with pytest.raises(BuildError, match="'usr/bin/gone', which was not installed") as caught:
        run(dest, rule("usr/bin/gone", "0755"))
    assert caught.value.hint


def test_hard_links_have_a_fixed_first_name(dest: Path) -> None:
    first = put(dest / "usr/bin/zz", b"same", 0o755)
    for name in ("aa", "mm"):
        os.link(first, dest / "usr/bin" / name)
    found = by_path(run(dest))
    assert found["usr/bin/aa"].kind is Kind.FILE
    for name in ("mm", "zz"):
        entry = found[f"usr/bin/{name}"]
        assert (entry.kind, entry.target, entry.digest) == (Kind.HARDLINK, "usr/bin/aa", None)


def test_names_of_one_inode_that_rules_part_are_files(dest: Path) -> None:
    os.link(put(dest / "usr/bin/a", mode=0o755), dest / "usr/bin/b")
    found = by_path(run(dest, rule("usr/bin/b", "04755")))
    assert found["usr/bin/a"].kind is Kind.FILE
    assert found["usr/bin/b"].kind is Kind.FILE
    assert found["usr/bin/b"].digest == found["usr/bin/a"].digest


def test_a_link_to_something_outside_is_a_file(dest: Path, tmp_path: Path) -> None:
    os.link(put(tmp_path / "store"), dest / "usr/bin/x")
    assert by_path(run(dest))["usr/bin/x"].kind is Kind.FILE


@pytest.mark.parametrize(("kind", "bits"), [("FIFO", stat.S_IFIFO), ("socket", stat.S_IFSOCK)])
def test_special_files_are_refused(dest: Path, kind: str, bits: int) -> None:
    os.mknod(dest / "usr/bin/odd", bits | 0o644)
    with pytest.raises(BuildError, match=f"a {kind} was installed") as caught:
        run(dest)
    assert caught.value.place == "usr/bin/odd"
    assert caught.value.hint


def left_out(dest: Path, *globs: str) -> tuple[list[str], list[tuple[str, bool]]]:
    """The files that stay, and those that do not, where a recipe claims the globs for runtime."""
    with Root.open(dest) as root:
        claimed = claims((OutputInput("runtime", globs, optional=True),))
        found = normalised(root, (), EPOCH, claimed=claimed)
    kept = [e.path for e in found.entries if e.kind is Kind.FILE]
    return kept, [(change.path, change.loud) for change in found.changes]


def test_what_only_describes_the_installation_is_left_out(dest: Path) -> None:
    library, plugin = "usr/lib/x86_64-linux-gnu/libz.la", "usr/lib/x86_64-linux-gnu/p/m.la"
    for path in (library, plugin, "usr/share/info/dir", "usr/lib/perl/auto/X/.packlist"):
        put(dest / path)
    put(dest / "usr/share/dir")
    kept, changes = left_out(dest)
    assert kept == ["usr/share/dir"]
    assert changes == [
        ("usr/lib/perl/auto/X/.packlist", False),
        (library, False),
        (plugin, True),
        ("usr/share/info/dir", False),
    ]
    assert left_out(dest, plugin)[0] == [plugin, "usr/share/dir"]
    assert left_out(dest, "usr/lib/**")[0] == [library, plugin, "usr/share/dir"]
    assert "usr/share/info/dir" in left_out(dest, "usr/share/info/dir")[0]
    assert "usr/share/info/dir" not in left_out(dest, "usr/share/**")[0]


def test_attributes_are_left_out_and_told(dest: Path) -> None:
    path = put(dest / "usr/bin/x")
    try:
        os.setxattr(path, "user.note", b"x")
    except OSError:
        pytest.skip("this file system has no user attributes")
    assert Change("attribute user.note left out", "usr/bin/x") in run(dest).changes


def test_compressed_manuals_lose_their_time_and_nothing_else(dest: Path) -> None:
    early, late = (gzip.compress(b"manual", mtime=time) for time in (1, 99))
    assert early != late
    for i, data in enumerate((early, late)):
        put(dest / f"usr/share/man/man1/{i}.1.gz", data)
        put(dest / f"usr/share/x/{i}.gz", data)
    put(dest / "usr/share/doc/x/no.gz", b"plain text")
    with Root.open(dest) as root:
        found = by_path(normalised(root, (), EPOCH))
        read = {}
        for path, entry in found.items():
            if entry.kind is Kind.FILE:
                with open_content(root, path) as stream:
                    stream.seek(2)
                    stream.seek(0)
                    read[path] = stream.read()
                assert digest_bytes(read[path]) == entry.digest
                assert len(read[path]) == entry.size
    first, second = read["usr/share/man/man1/0.1.gz"], read["usr/share/man/man1/1.1.gz"]
    assert first == second == early[:4] + bytes(4) + early[8:]
    assert read["usr/share/x/1.gz"] == late
    assert read["usr/share/doc/x/no.gz"] == b"plain text"


def test_what_its_owner_may_not_read_is_read_all_the_same(dest: Path) -> None:
    put(dest / "usr/bin/x", b"secret", 0o111)
    put(dest / "shut/file")
    (dest / "shut").chmod(0)
    found = by_path(run(dest))
    assert found["usr/bin/x"].digest == digest_bytes(b"secret")
    assert found["usr/bin/x"].mode == 0o111
    assert "shut/file" in found
    assert stat.S_IMODE((dest / "usr/bin/x").stat().st_mode) == 0o511


def test_capabilities_are_an_attribute(dest: Path) -> None:
    put(dest / "usr/bin/ping", mode=0o755)
    found = by_path(run(dest, rule("usr/bin/ping", "", "", "cap_net_raw=ep")))
    value = encoded_capabilities(["cap_net_raw"], place="p")
    assert found["usr/bin/ping"].xattrs == {CAPABILITY_XATTR: value}
    (dest / "usr/bin/link").symlink_to("ping")
    with pytest.raises(BuildError, match="capabilities on a symlink"):
        run(dest, rule("usr/bin/link", "", "", "cap_net_raw"))


@pytest.mark.parametrize(
    ("clauses", "value"),
    [
        (["cap_net_bind_service=ep"], "0100000200040000000000000000000000000000"),
        (["cap_net_raw+p"], "0000000200200000000000000000000000000000"),
        (["cap_chown,cap_bpf=eip"], "0100000201000000010000008000000080000000"),
    ],
)
def test_the_attribute_s_bytes(clauses: list[str], value: str) -> None:
    assert encoded_capabilities(clauses, place="p").hex() == value


@pytest.mark.skipif(
    os.getuid() != 0 or shutil.which("setcap") is None, reason="needs root and setcap"
)
@pytest.mark.parametrize("text", ["cap_net_bind_service=ep", "cap_bpf,cap_chown=eip"])
def test_the_attribute_is_what_setcap_writes(tmp_path: Path, text: str) -> None:
    path = put(tmp_path / "x", mode=0o755)
    done = subprocess.run(["setcap", text, str(path)], check=False, capture_output=True)
    if done.returncode:
        pytest.skip(f"setcap does not work here: {done.stderr.decode().strip()}")
    assert os.getxattr(path, CAPABILITY_XATTR) == encoded_capabilities([text], place="p")


@pytest.mark.parametrize(
    ("glob", "mode", "owner", "capabilities", "message"),
    [
        ("/abs", "", "", (), "malformed glob"),
        ("x", "0888", "", (), "malformed mode"),
        ("x", "17777", "", (), "malformed mode"),
        ("x", "-1", "", (), "malformed mode"),
        ("x", "", "root:root", (), "malformed owner"),
        ("x", "", "33", (), "malformed owner"),
        ("x", "", "1:4294967295", (), "malformed owner"),
        ("x", "", "", ("cap_foo",), "unknown capability 'cap_foo'"),
        ("x", "", "", ("cap_net_raw=x",), "malformed capabilities"),
        ("x", "", "", ("cap_net_raw=ep", "cap_chown=p"), "effective in part only"),
    ],
)
def test_malformed_rules(
    dest: Path, glob: str, mode: str, owner: str, capabilities: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        run(dest, rule(glob, mode, owner, *capabilities))
    assert caught.value.place == "pkg.yaml:9:3"


def test_a_rule_of_empty_texts_says_nothing(dest: Path) -> None:
    put(dest / "usr/bin/x", mode=0o750)
    found = run(dest, rule("usr/bin/x"))
    assert by_path(found)["usr/bin/x"] == by_path(run(dest))["usr/bin/x"]
    assert found.declared == frozenset()
