from __future__ import annotations

import gzip
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from buildit.archive.beneath import Root
from buildit.build.capability import CAPABILITY_XATTR, encoded_capabilities
from buildit.build.normalise import Change, FileRule, Normalised, normalised, open_content
from buildit.digest import digest_bytes
from buildit.errors import BuildError, RecipeError
from buildit.model.tree import Entry, Kind, sort_key

pytestmark = pytest.mark.unit

EPOCH = 1_234_567_890


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    (tmp_path / "d/usr/bin").mkdir(parents=True)
    return tmp_path / "d"


def run(dest: Path, *rules: FileRule) -> Normalised:
    with Root.open(dest) as root:
        return normalised(root, rules, EPOCH)


def by_path(found: Normalised) -> dict[str, Entry]:
    return {entry.path: entry for entry in found.entries}


def put(path: Path, data: bytes = b"data", mode: int = 0o644) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_modes_owners_and_times_are_the_same_everywhere(dest: Path) -> None:
    put(dest / "usr/bin/tool", b"#!/bin/sh\n", 0o775)
    put(dest / "etc/conf", b"x", 0o600)
    (dest / "usr/bin/link").symlink_to("tool")
    (dest / "var").mkdir(mode=0o2770)
    (dest / "usr/bin").chmod(0o2775)
    found = by_path(run(dest))
    assert found["usr/bin/tool"] == Entry(
        "usr/bin/tool", Kind.FILE, 0o755, EPOCH, size=10, digest=digest_bytes(b"#!/bin/sh\n")
    )
    assert found["etc/conf"].mode == 0o644
    assert found["usr/bin/link"] == Entry("usr/bin/link", Kind.SYMLINK, 0o777, EPOCH, target="tool")
    assert {e.mode for e in found.values() if e.kind is Kind.DIRECTORY} == {0o755}
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


def test_set_id_bits_go_unless_declared(dest: Path) -> None:
    put(dest / "usr/bin/su", mode=0o4755)
    put(dest / "usr/bin/wall", mode=0o2755)
    found = run(dest, FileRule("usr/bin/su", mode=0o4711))
    assert by_path(found)["usr/bin/su"].mode == 0o4711
    assert by_path(found)["usr/bin/wall"].mode == 0o755
    assert found.changes == (Change("usr/bin/wall", "set-id bit, not declared", set_id=True),)


def test_rules(dest: Path) -> None:
    put(dest / "etc/secret/key")
    put(dest / "etc/secret/sub/key")
    (dest / "tmp").mkdir()
    found = by_path(
        run(
            dest,
            FileRule("etc/secret/**", mode=0o640, owner=(0, 33)),
            FileRule("etc/secret/key", mode=0o600),
            FileRule("etc/secret", mode=0o710),
            FileRule("tmp", mode=0o1777),
        )
    )
    assert (found["etc/secret/key"].mode, found["etc/secret/key"].gid) == (0o600, 33)
    assert found["etc/secret/sub/key"].mode == 0o640
    assert (found["etc/secret/sub"].mode, found["etc/secret/sub"].gid) == (0o755, 33)
    assert found["etc/secret"].mode == 0o710
    assert found["tmp"].mode == 0o1777


def test_a_rule_that_matches_nothing_is_an_error(dest: Path) -> None:
    with pytest.raises(BuildError, match="'usr/bin/gone', which was not installed") as caught:
        run(dest, FileRule("usr/bin/gone", mode=0o755))
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
    found = by_path(run(dest, FileRule("usr/bin/b", mode=0o4755)))
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


def test_what_only_describes_the_installation_is_left_out(dest: Path) -> None:
    put(dest / "usr/lib/x86_64-linux-gnu/libz.la")
    put(dest / "usr/share/info/dir")
    put(dest / "usr/lib/perl/auto/X/.packlist")
    put(dest / "usr/share/dir")
    found = run(dest)
    assert [e.path for e in found.entries if e.kind is Kind.FILE] == ["usr/share/dir"]
    assert [change.path for change in found.changes] == [
        "usr/lib/perl/auto/X/.packlist",
        "usr/lib/x86_64-linux-gnu/libz.la",
        "usr/share/info/dir",
    ]


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
                with open_content(root, entry) as stream:
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
    assert found["usr/bin/x"].mode == 0o755
    assert "shut/file" in found
    assert stat.S_IMODE((dest / "usr/bin/x").stat().st_mode) == 0o511


def test_capabilities_are_an_attribute(dest: Path) -> None:
    put(dest / "usr/bin/ping", mode=0o755)
    rule = FileRule.parse("usr/bin/ping", "", "", ("cap_net_raw=ep",), place="p")
    found = by_path(run(dest, rule))
    value = encoded_capabilities(["cap_net_raw"], place="p")
    assert found["usr/bin/ping"].xattrs == {CAPABILITY_XATTR: value}
    (dest / "usr/bin/link").symlink_to("ping")
    with pytest.raises(BuildError, match="capabilities on a symlink"):
        run(dest, FileRule("usr/bin/link", capabilities=("cap_net_raw",)))


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
    glob: str, mode: str, owner: str, capabilities: tuple[str, ...], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        FileRule.parse(glob, mode, owner, capabilities, place="pkg.yaml:9:3")
    assert caught.value.place == "pkg.yaml:9:3"


def test_rules_from_text() -> None:
    assert FileRule.parse("x", "4755", "0:33", (), place="p") == FileRule("x", 0o4755, (0, 33))
    assert FileRule.parse("x", "", "", (), place="p") == FileRule("x")
