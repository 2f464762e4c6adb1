from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import stat
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.links import escaping
from buildit.archive.unpack import unpack_entries, unpack_layer, unpack_source
from buildit.errors import BuildError, IntegrityError
from tests.unit.archive.trees import directory, file, on_disk, packed, symlink

pytestmark = pytest.mark.unit

LIMITS = Budget()


def unpacked(archive: Path, tree: Path, strip: int = 0, budget: Budget = LIMITS) -> int:
    tree.mkdir(exist_ok=True)
    with Root.open(tree) as root:
        return unpack_source(archive, root, strip=strip, budget=budget, owner=None)


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.fixture
def upstream(tmp_path: Path) -> Path:
    """A directory as upstreams pack it, made by ordinary means."""
    top = tmp_path / "zlib-1.3"
    (top / "doc" / ("long" * 22)).mkdir(parents=True)
    (top / "configure").write_text("#!/bin/sh\n")
    (top / "configure").chmod(0o775)
    (top / "inflate.c").write_bytes(os.urandom(70_000))
    (top / "doc" / ("long" * 22) / ("name" * 20)).write_text("x")
    (top / "doc" / "caf\u00e9").write_text("")
    (top / "Makefile").symlink_to("doc/Makefile.in")
    os.link(top / "inflate.c", top / "same.c")
    os.symlink("same.c", top / "link1")
    os.link(top / "link1", top / "link2", follow_symlinks=False)
    for number, path in enumerate(sorted(top.rglob("*"))):
        os.utime(path, (10**9 + number, 10**9 + number), follow_symlinks=False)
    os.utime(top, (10**9 + 500, 10**9 + 500))
    return top


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
@pytest.mark.parametrize("form", ["gnu", "ustar", "pax", "oldgnu"])
def test_upstream_tarball_is_what_gnu_tar_makes_of_it(
    upstream: Path, tmp_path: Path, form: str
) -> None:
    tar = subprocess.run(
        ["tar", f"--format={form}", "-C", str(tmp_path), "-c", upstream.name],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    argv = ["tar", "-x", "-C", str(theirs), "--strip-components=1", "--mode=u=rwX,go=rX"]
    subprocess.run(argv, input=tar, check=True)
    newest = unpacked(written(tmp_path / "z.tar.xz", lzma.compress(tar)), tmp_path / "ours", 1)
    want = [(path, kind, mode, time, what) for path, kind, mode, time, what in on_disk(theirs)]
    got = on_disk(tmp_path / "ours")
    normal = {0o775: 0o755, 0o664: 0o644, 0o600: 0o644, 0o700: 0o755}
    assert got == [(p, k, normal.get(m, m), t, w) for p, k, m, t, w in want]
    assert newest == 10**9 + 500
    ours = tmp_path / "ours"
    assert (ours / "same.c").stat().st_ino == (ours / "inflate.c").stat().st_ino
    assert os.readlink(ours / "link2") == "same.c"


def test_tarfile_s_own_formats_are_read(upstream: Path, tmp_path: Path) -> None:
    trees = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = tmp_path / f"{form}.tar.gz"
        with tarfile.open(out, "w:gz", format=form) as tar:
            tar.add(upstream, arcname="./top")
        unpacked(out, tmp_path / str(form), strip=1)
        trees.append(on_disk(tmp_path / str(form)))
    assert trees[0] == trees[1] == trees[2]
    assert len(trees[0]) == 10


def test_pax_times_are_cut_to_seconds_and_negative_ones_are_1970(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, time in (("a", 5.75), ("b", -3.5)):
            member = tarfile.TarInfo(name)
            member.mtime = time
            tar.addfile(member)
    assert unpacked(tmp_path / "a.tar", tmp_path / "t") == 5
    assert [node[3] for node in on_disk(tmp_path / "t")] == [5, 0]


def test_strip_that_leaves_nothing_of_a_file(tmp_path: Path) -> None:
    archive = written(tmp_path / "a.tar", packed([file("README"), file("src/x")]))
    with pytest.raises(IntegrityError, match="README") as caught:
        unpacked(archive, tmp_path / "t", strip=1)
    assert caught.value.hint == "set the source's strip to 0 or less"


def test_two_sources_may_share_directories_but_not_files(tmp_path: Path) -> None:
    first = written(tmp_path / "1.tar", packed([directory("d"), file("d/a", b"1")]))
    second = written(tmp_path / "2.tar", packed([directory("d"), file("d/b", b"2")]))
    third = written(tmp_path / "3.tar", packed([file("d/a", b"3")]))
    unpacked(first, tmp_path / "t")
    unpacked(second, tmp_path / "t")
    with pytest.raises(IntegrityError, match="there already"):
        unpacked(third, tmp_path / "t")
    assert (tmp_path / "t/d/a").read_bytes() == b"1"


def test_never_through_a_link_of_an_earlier_source(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = tmp_path / "t"
    tree.mkdir()
    (tree / "d").symlink_to(outside)
    for nodes in ([file("d/a")], [directory("d"), file("d/a")], [file("d")], [symlink("d", "x")]):
        archive = written(tmp_path / "a.tar", packed(nodes))
        with pytest.raises(IntegrityError):
            unpacked(archive, tree)
    assert os.listdir(outside) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_is_set_on_every_node(upstream: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(upstream, arcname="top")
    tree = tmp_path / "t"
    tree.mkdir()
    with Root.open(tree) as root:
        unpack_source(tmp_path / "a.tar", root, strip=0, budget=LIMITS, owner=(1234, 2345))
        nodes = [status for _, status in root.walk()]
    assert len(nodes) == 11
    assert {(status.st_uid, status.st_gid) for status in nodes} == {(1234, 2345)}


def test_layer_keeps_modes_and_times_but_no_set_id(tmp_path: Path) -> None:
    layer = packed(
        [
            directory("locked", 0o555),
            file("locked/secret", b"x", mode=0o400),
            file("su", b"", mode=0o6755, mtime=99),
            directory("tmp", 0o1777),
            file("usr/bin/tool", b"", mode=0o751),
        ]
    )
    with Root.open(tmp_path) as root:
        unpack_layer(io.BytesIO(layer), root)
        found = {path: (stat.S_IMODE(status.st_mode), int(status.st_mtime))
                 for path, status in root.walk()}  # fmt: skip
    assert found == {
        "locked": (0o555, 7), "locked/secret": (0o400, 7), "su": (0o755, 99), "tmp": (0o777, 7),
        "usr": (0o755, 0), "usr/bin": (0o755, 0), "usr/bin/tool": (0o751, 7),
    }  # fmt: skip


def test_entries_need_bytes(tmp_path: Path) -> None:
    with Root.open(tmp_path) as root, pytest.raises(ValueError, match="without bytes"):
        unpack_entries([(file("a")[0], None)], root)


@pytest.mark.parametrize(
    ("links", "out"),
    [
        ({"a": "b"}, False),
        ({"a/b/c": "../../x"}, False),
        ({"a/b/c": "../../../x"}, True),
        ({"a": "/x"}, True),
        ({"a": "."}, False),
        ({"a": ".."}, True),
        ({"a": "x/../../b"}, True),
        ({"a": "s/../x", "s": "d/e"}, False),
        ({"a": "s/../..", "s": "."}, True),
        ({"a": "b/x", "b": "a/x"}, True),
        ({"a": "b", "b": "/etc"}, True),
        ({"a": "lib/x", "lib": "usr/lib"}, False),
    ],
)
def test_links_are_resolved_as_the_kernel_would(links: dict[str, str], out: bool) -> None:
    assert escaping("a" if "a" in links else "a/b/c", links) is out


# zip


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, data in members:
            if isinstance(member, str):
                member = zipfile.ZipInfo(member, (2001, 9, 9, 1, 46, 40))
                member.external_attr = 0o100644 << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, data)
    return out.getvalue()


def special(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 3
    member.external_attr = mode << 16
    return member


def test_zip_is_unpacked_like_a_tar(tmp_path: Path) -> None:
    data = zipped(
        (special("p/", 0o40755), b""),
        ("p/a.c", b"int a;" * 999),
        (special("p/run", 0o104755), b"#!/bin/sh"),
        (special("p/l", 0o120777), b"a.c"),
        ("p/caf\u00e9", b""),
    )
    newest = unpacked(written(tmp_path / "p.zip", data), tmp_path / "t", strip=1)
    found = {path: (kind, mode, time) for path, kind, mode, time, _ in on_disk(tmp_path / "t")}
    assert newest == 10**9
    assert found["a.c"] == ("file", 0o644, 10**9)
    assert found["run"][:2] == ("file", 0o755)
    assert os.readlink(tmp_path / "t/l") == "a.c"
    assert set(found) == {"a.c", "run", "l", "caf\u00e9"}


GOOD = zipped(("a", b"x" * 300))
LOCAL_CRC = 14


def bent(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


HOSTILE_ZIPS = {
    "absolute": zipped(("/etc/x", b"")),
    "'..'": zipped(("../x", b"")),
    "backslash": zipped(("..\\x", b"")),
    "out of the tree": zipped((special("l", 0o120777), b"/etc")),
    "type 10000": zipped((special("p", 0o010644), b"")),
    "type 20000": zipped((special("c", 0o020644), b"")),
    "yet has content": zipped((special("d/", 0o40755), b"x")),
    "below": zipped((special("l", 0o120777), b"."), ("l/x", b"")),
    "come before them": GOOD + GOOD,
    "two headers differ": bent(GOOD, LOCAL_CRC, b"\0\0\0\0"),
    "local header is missing": bent(GOOD, 0, b"PK\5\6"),
    "CRC": GOOD.replace(GOOD[LOCAL_CRC : LOCAL_CRC + 4], b"\1\2\3\4"),
    "damaged": GOOD[:-10],
    "zip is damaged": GOOD[:40],
    "total_bytes": zipped(("a", bytes(3 << 20))),
    "ratio": zipped(("a", bytes(1 << 20))),
    "entries": zipped(*((f"f{number}", b"") for number in range(60))),
    "encrypted": GOOD.replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0").replace(
        b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0"
    ),
}


@pytest.mark.parametrize("says", HOSTILE_ZIPS)
def test_hostile_zip_is_refused(says: str, tmp_path: Path) -> None:
    budget = Budget(total_bytes=2 << 20, entries=50, ratio=50, ratio_free=1 << 19)
    archive = written(tmp_path / "a.zip", HOSTILE_ZIPS[says])
    with pytest.raises((IntegrityError, BuildError)) as caught:
        unpacked(archive, tmp_path / "t", budget=budget)
    assert says in caught.value.message
    assert caught.value.place == "a.zip"
    assert caught.value.hint
    assert sorted(os.listdir(tmp_path)) == ["a.zip", "t"]


def test_zip_duplicate(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate"):
        data = zipped(("a", b"1"), ("a", b"2"))
    with pytest.raises(IntegrityError, match="twice"):
        unpacked(written(tmp_path / "a.zip", data), tmp_path / "t")


def test_zip_overlap(tmp_path: Path) -> None:
    data = zipped(("a", b"1"), ("b", b"2"))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data = bent(data, second + 42, bytes(4))  # its header's offset: the first member's
    with pytest.raises(IntegrityError, match="overlap"):
        unpacked(written(tmp_path / "a.zip", data), tmp_path / "t")


def test_gzip_source_as_root_of_nothing(tmp_path: Path) -> None:
    empty = written(tmp_path / "e.tgz", gzip.compress(packed([])))
    assert unpacked(empty, tmp_path / "t") == 0
    assert os.listdir(tmp_path / "t") == []
