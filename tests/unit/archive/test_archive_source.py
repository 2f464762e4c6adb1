"""Sources as GNU tar, unzip and the usual compressors read them, beneath one directory."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import shutil
import subprocess
import tarfile
import time
import warnings
import zipfile
from pathlib import Path

import pytest

from buildit.archive import unpack
from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.unpack import LATEST, OLDEST, SETTLED, Unpacked, place_source, unpack_source
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.model.tree import Entry
from tests.unit.archive import tarmaker
from tests.unit.archive.trees import directory, file, hardlink, on_disk, packed, symlink

pytestmark = pytest.mark.unit

LIMITS = Budget()


def read(
    archive: Path,
    tree: Path,
    strip: int = 0,
    budget: Budget = LIMITS,
    single: str = "",
    exclude: tuple[str, ...] = (),
    owner: tuple[int, int] | None = None,
) -> Unpacked:
    tree.mkdir(exist_ok=True)
    with Root.open(tree) as root:
        return unpack_source(
            archive,
            root,
            place=archive.name,
            strip=strip,
            exclude=exclude,
            single=single,
            budget=budget,
            owner=owner,
        )


def unpacked(archive: Path, tree: Path, strip: int = 0, budget: Budget = LIMITS) -> int:
    """The newest time inside."""
    return read(archive, tree, strip, budget).newest


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


def times(tmp_path: Path, **members: float) -> tuple[int, dict[str, int]]:
    """The newest time of a tar with such files, and the times on the disk."""
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, time in members.items():
            member = tarfile.TarInfo(name)
            member.mtime = time
            tar.addfile(member)
    newest = unpacked(tmp_path / "a.tar", tmp_path / "t")
    return newest, {node[0]: node[3] for node in on_disk(tmp_path / "t")}


NOW, NEXT_YEAR, IN_2049 = 1_600_000_000, 1_800_000_000, 2_500_000_000


@pytest.mark.parametrize(
    ("members", "newest", "on_the_disk"),
    [
        ({"a": NOW + 0.75, "b": NOW - 0.5}, NOW, {"a": NOW, "b": NOW - 1}),
        ({"a": 0, "b": 1, "c": -3.5}, OLDEST, {"a": OLDEST, "b": OLDEST, "c": OLDEST}),
        ({"a": 1, "b": NOW}, NOW, {"a": OLDEST, "b": NOW}),
        ({"a": NEXT_YEAR, "b": NOW}, NEXT_YEAR, {"a": SETTLED, "b": NOW}),
        ({"a": IN_2049, "b": IN_2049 - 9}, SETTLED, {"a": SETTLED, "b": SETTLED}),
        ({"a": IN_2049, "b": NOW}, SETTLED, {"a": SETTLED, "b": NOW}),
        ({"a": LATEST, "b": LATEST + 1}, LATEST, {"a": SETTLED, "b": SETTLED}),
    ],
)
def test_times_follow_a_dated_rule(
    members: dict[str, float], newest: int, on_the_disk: dict[str, int], tmp_path: Path
) -> None:
    """No file is in the future of a build, and none is older than a zip can say."""
    assert times(tmp_path, **members) == (newest, on_the_disk)
    assert max(SETTLED, *on_the_disk.values()) <= time.time()


@pytest.mark.parametrize(
    ("nodes", "strip", "hint"),
    [
        ([file("README"), file("src/x")], 1, "strip: 0"),
        ([file("src/x"), file("README")], 1, "strip: 0"),
        ([file("include/x.h"), file("src/main.c")], 1, "strip: 0"),
        ([directory("include"), directory("src"), file("src/x")], 1, "strip: 0"),
        ([file("top/x")], 2, "strip: 1"),
        ([file("top/a/x"), file("top/b/y")], 2, "strip: 0"),
    ],
)
def test_strip_that_fits_not_all_members(
    nodes: list[tuple[Entry, bytes]], strip: int, hint: str, tmp_path: Path
) -> None:
    archive = written(tmp_path / "a.tar", packed(nodes))
    with pytest.raises(RecipeError, match=f"strip: {strip}") as caught:
        unpacked(archive, tmp_path / "t", strip=strip)
    assert caught.value.place == "a.tar"
    assert hint in (caught.value.hint or "")
    assert "exclude:" in (caught.value.hint or "")
    assert unpacked(archive, tmp_path / "u", strip=0)


def test_members_that_exclude_names_are_left_out(tmp_path: Path) -> None:
    nodes = [file("._x-1"), directory("x-1"), file("x-1/a"), file("x-1/t/b"), symlink("x-1/l", "a")]
    archive = written(tmp_path / "a.tar", packed(nodes))
    found = read(archive, tmp_path / "t", strip=1, exclude=("._*", "*/t/**", "**/l"))
    assert [node[0] for node in on_disk(tmp_path / "t")] == ["a"]
    assert not found.remarks
    found = read(archive, tmp_path / "v", strip=1, exclude=("._*", "t/**"))
    assert found.remarks == (
        "exclude: 't/**' names no member (paths are the archive's, unstripped)",
    )
    linked = written(tmp_path / "b.tar", packed([file("a"), hardlink("b", "a")]))
    with pytest.raises(IntegrityError, match="hard link") as caught:
        read(linked, tmp_path / "u", exclude=("a",))
    assert "exclude the link" in (caught.value.hint or "")


def test_a_later_source_adds_and_replaces_and_that_is_told(tmp_path: Path) -> None:
    first = packed([directory("d"), file("d/a", b"1"), symlink("d/l", "/etc"), directory("d/e")])
    second = packed(
        [directory("d"), file("d/b", b"2"), file("d/a", b"3"), file("d/l"), file("d/e")]
    )
    read(written(tmp_path / "1.tar", first), tmp_path / "t")
    found = read(written(tmp_path / "2.tar", second), tmp_path / "t")
    assert (tmp_path / "t/d/a").read_bytes() == b"3"
    assert {node[0]: node[1] for node in on_disk(tmp_path / "t")} == {
        "d": "directory", "d/a": "file", "d/b": "file", "d/e": "file", "d/l": "file",
    }  # fmt: skip
    assert found.remarks == tuple(
        f"'d/{name}' replaces that of an earlier source" for name in ("a", "e", "l")
    )
    third = written(tmp_path / "3.tar", packed([file("d")]))
    with pytest.raises(IntegrityError, match="directory that is not empty"):
        unpacked(third, tmp_path / "t")


def test_never_through_a_link_of_an_earlier_source(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    tree = tmp_path / "t"
    tree.mkdir()
    (tree / "d").symlink_to(outside)
    with pytest.raises(IntegrityError, match="symbolic link"):
        unpacked(written(tmp_path / "a.tar", packed([file("d/a")])), tree)
    for nodes in ([directory("d"), file("d/a")], [symlink("d", "outside")], [file("d")]):
        unpacked(written(tmp_path / "a.tar", packed(nodes)), tree)
        shutil.rmtree(tree)
        tree.mkdir()
        (tree / "d").symlink_to(outside)
    assert os.listdir(outside) == []


# as GNU tar

F, S, L, D = tarmaker.file, tarmaker.symlink, tarmaker.hardlink, tarmaker.directory
END = tarmaker.END
AS_TAR_READS: dict[str, tuple[bytes, str]] = {
    "lone zero block": (F(b"p/a") + bytes(512), "lone zero block"),
    "lone zero block, then more": (F(b"p/a") + bytes(512) + F(b"p/b") + END, "not read"),
    "no end mark": (F(b"p/a") + F(b"p/b"), "no end mark"),
    "bytes behind the end": (F(b"p/a") + END + F(b"p/b") + END, "not read"),
    "twice the same": (F(b"p/a") + F(b"p/b") + F(b"p/a") + END, "again"),
    "twice, others": (F(b"p/a", b"old") + F(b"p/a", b"new", mode=0o755) + END, "again"),
    "file over link": (S(b"p/a", b"b") + F(b"p/a") + END, "again"),
    "link over file": (F(b"p/a") + S(b"p/a", b"b") + END, "again"),
    "file over empty directory": (D(b"p/a") + F(b"p/a") + END, "again"),
    "directory over file": (F(b"p/a") + D(b"p/a") + F(b"p/a/b") + END, "again"),
    "replaced, its other name stays": (
        F(b"p/a", b"old") + L(b"p/b", b"p/a") + F(b"p/a", b"new") + END,
        "again",
    ),
    "absolute link": (F(b"p/a") + S(b"p/l", b"/usr/share/x") + END, "out of the source"),
    "link up": (F(b"p/a") + S(b"p/l", b"../../x") + END, "out of the source"),
    "link to itself": (F(b"p/a") + S(b"p/l", b"l") + END, ""),
    "links in a ring": (S(b"p/a", b"b") + S(b"p/b", b"a") + END, ""),
    "dangling link": (S(b"p/l", b"nothing") + END, ""),
    "below a link that stays inside": (
        D(b"p/s") + S(b"p/l", b"./s") + S(b"p/m", b"l") + F(b"p/m/x") + END,
        "below a link",
    ),
    "hard links": (F(b"p/a") + L(b"p/b", b"p/a") + S(b"p/s", b"a") + L(b"p/t", b"p/s") + END, ""),
    "absolute names": (F(b"/p/a") + L(b"p/h", b"/p/a") + END, "'/'"),
    "dot slash": (D(b"./") + D(b"./p") + F(b"./p/a") + END, ""),
    "pax_global_header": (
        tarmaker.pax((b"comment", b"1" * 40), kind=b"g") + D(b"p/") + F(b"p/a") + END,
        "",
    ),
    "global time": (tarmaker.pax((b"mtime", b"1500000000"), kind=b"g") + F(b"p/a") + END, ""),
    "keyword twice": (tarmaker.pax((b"path", b"p/a"), (b"path", b"p/b")) + F(b"c") + END, ""),
    "vendor's type": (F(b"p/a", kind=b"Z") + END, "as a file"),
    "old directory": (tarmaker.header(b"p/", b"\0", magic=b"") + F(b"p/a", magic=b"") + END, ""),
    "hard link that states a size": (
        F(b"p/a") + tarmaker.header(b"p/h", b"1", link=b"p/a", size=5) + F(b"p/b") + END,
        "",
    ),
}


def seen(top: Path) -> list[tuple[object, ...]]:
    """All below a directory, but for modes and times of directories: ours, or the clock's."""
    return [node if node[1] != "directory" else node[:2] for node in on_disk(top)]


@pytest.mark.parametrize("name", AS_TAR_READS)
def test_what_gnu_tar_reads_is_read_alike(name: str, tmp_path: Path) -> None:
    data, remark = AS_TAR_READS[name]
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    argv = ["tar", "-x", "-C", str(theirs), "--no-same-owner", "--no-same-permissions"]
    subprocess.run(argv, input=data, check=True, capture_output=True)
    found = read(written(tmp_path / "a.tar", data), tmp_path / "ours")
    assert seen(tmp_path / "ours") == seen(theirs)
    assert any(remark in line for line in found.remarks) if remark else not found.remarks


@pytest.mark.parametrize(
    "nodes",
    [
        S(b"p/l", b"/tmp") + F(b"p/l/x"),
        D(b"p/d") + S(b"p/d/l", b"..") + F(b"p/d/l/x"),
        S(b"p/l", b"l") + F(b"p/l/x"),
        S(b"p/a", b"b") + S(b"p/b", b"a") + F(b"p/a/x"),
        S(b"p/a", b"b") + S(b"p/b", b"..") + F(b"p/a/x"),
        S(b"p/a", b"s/../..") + F(b"p/a/x"),
        F(b"p/f") + S(b"p/a", b"f") + F(b"p/a/x"),
    ],
)
def test_nothing_goes_below_a_link_that_could_lead_out(nodes: bytes, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="below"):
        read(written(tmp_path / "a.tar", nodes + END), tmp_path / "t")
    assert sorted(os.listdir(tmp_path)) == ["a.tar", "t"]


def test_what_no_build_could_have_is_left_out(tmp_path: Path) -> None:
    special = [tarmaker.header(b"p/%b" % kind, kind) for kind in (b"3", b"4", b"6")]
    data = F(b"p/a") + b"".join(special) + L(b"p/h", b"p/6") + F(b"p/b") + END
    found = read(written(tmp_path / "a.tar", data), tmp_path / "t", strip=1)
    assert [node[0] for node in on_disk(tmp_path / "t")] == ["a", "b"]
    assert [line.partition(": ")[2] for line in found.remarks] == [
        "it is a character device",
        "it is a block device",
        "it is a FIFO",
        "it is a hard link to 'p/6', which is left out",
    ]


@pytest.mark.parametrize("form", ["oldgnu", "gnu", "0.0", "0.1", "1.0"])
def test_sparse_files_of_gnu_tar(form: str, tmp_path: Path) -> None:
    top = tmp_path / "p"
    top.mkdir()
    pieces = {0: b"begin", 3 << 20: b"middle" * 999, (8 << 20) + 7: b"end"}
    for name, tail in (("holes", 0), ("tail", 5 << 20)):
        with (top / name).open("wb") as out:
            for at, data in pieces.items():
                out.seek(at)
                out.write(data)
            out.truncate(out.tell() + tail)
    with (top / "many").open("wb") as out:
        for number in range(60):
            out.seek(number << 17)
            out.write(b"%d" % number)
    os.truncate(written(top / "empty", b""), 9 << 20)
    how = (
        [f"--format={form}"]
        if form.endswith("gnu")
        else ["--format=pax", f"--sparse-version={form}"]
    )
    packer = ["tar", *how, "-S", "-C", str(tmp_path), "-cf", str(tmp_path / "a.tar"), "p"]
    subprocess.run(packer, check=True)
    assert (tmp_path / "a.tar").stat().st_size < 9 << 20
    found = read(tmp_path / "a.tar", tmp_path / "t", strip=1)
    assert not found.remarks
    for path in top.iterdir():
        assert (tmp_path / "t" / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_map_of_a_sparse_file_that_lies_is_refused(tmp_path: Path) -> None:
    maps = (b"0,9,5,4", b"0,5,4,5", b"9,1", b"0", b"x,1", b"0,%d" % (1 << 63))
    for text in maps:
        records = ((b"GNU.sparse.map", text), (b"GNU.sparse.size", b"9"))
        data = tarmaker.pax(*records) + F(b"s", b"123456789") + END
        with pytest.raises(IntegrityError, match="sparse"):
            read(written(tmp_path / "a.tar", data), tmp_path / "t")
    large = ((b"GNU.sparse.map", b"0,5"), (b"GNU.sparse.size", b"%d" % (1 << 60)))
    data = tarmaker.pax(*large) + F(b"s", b"12345") + END
    with pytest.raises(BuildError, match="total_bytes"):
        read(written(tmp_path / "a.tar", data), tmp_path / "t")


# compressors

CODECS = {
    "gzip": ["gzip", "-c"], "bzip2": ["bzip2", "-c"], "xz": ["xz", "-c"], "lzma": ["lzma", "-c"],
    "zstd": ["zstd", "-q", "-c"], "lzip": ["lzip", "-c"],
}  # fmt: skip


def packed_by(codec: str, data: bytes) -> bytes:
    return subprocess.run(CODECS[codec], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("codec", CODECS)
def test_the_usual_compressors(codec: str, tmp_path: Path) -> None:
    data = packed([file("p/a", os.urandom(90_000)), file("p/b", b"text" * 40_000)])
    whole = packed_by(codec, data)
    read(written(tmp_path / "a", whole), tmp_path / "t", strip=1)
    assert (tmp_path / "t/b").read_bytes() == b"text" * 40_000
    for bent in (whole[:-9], whole[: len(whole) // 2], whole[:40_000] + b"xyz" + whole[40_003:]):
        with pytest.raises(IntegrityError):
            read(written(tmp_path / "b", bent), tmp_path / "u", strip=1)
    if codec != "lzma":  # it has no members
        both = packed_by(codec, data[:70_000]) + packed_by(codec, data[70_000:])
        read(written(tmp_path / "c", both), tmp_path / "v", strip=1)
        assert on_disk(tmp_path / "v") == on_disk(tmp_path / "t")
    padded = read(written(tmp_path / "d", whole + bytes(64)), tmp_path / "w", strip=1)
    assert not padded.remarks


@pytest.mark.parametrize("codec", ["gzip", "bzip2", "lzip"])
def test_what_follows_the_compressed_data_is_passed_over(codec: str, tmp_path: Path) -> None:
    data = packed_by(codec, packed([file("p/a")])) + b"garbage, and more of it"
    found = read(written(tmp_path / "a", data), tmp_path / "t", strip=1)
    assert found.remarks == ("bytes follow the compressed data; they are not read",)


def test_lzip_s_checks(tmp_path: Path) -> None:
    whole = packed_by("lzip", packed([file("p/a", b"x" * 999)]))
    for at in (-20, -12, -8, 4):  # CRC, size, size of the member, version
        bent = bytearray(whole)
        bent[at] ^= 0xFF
        with pytest.raises((IntegrityError, BuildError)):
            read(written(tmp_path / "a", bytes(bent)), tmp_path / "t", strip=1)


@pytest.mark.parametrize(
    ("start", "way"),
    [(b"\x1f\x9d\x90", "gzip -dc"), (b"7z\xbc\xaf\x27\x1c", "7zr x"), (b"Rar!", "unar"),
     (b"\x89LZO", "lzop -dc")],
)  # fmt: skip
def test_what_is_not_read_has_a_way(start: bytes, way: str, tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="it is") as caught:
        read(written(tmp_path / "a", start + bytes(99)), tmp_path / "t")
    assert "`unpack: no`" in (caught.value.hint or "")
    assert way in (caught.value.hint or "")


def test_one_file(tmp_path: Path) -> None:
    tool = b"#!/bin/sh\necho tool\n"
    tree = tmp_path / "t"
    found = read(written(tmp_path / "a", tool), tree, strip=1, single="tool.sh")
    assert found == Unpacked(OLDEST, ())
    read(written(tmp_path / "b", gzip.compress(tool)), tree, strip=1, single="tool.gz")
    read(written(tmp_path / "c", packed_by("lzip", tool)), tree, strip=1, single="x")
    read(written(tmp_path / "d", b""), tree, single="empty")
    assert {path.name: path.read_bytes() for path in tree.iterdir()} == {
        "tool.sh": tool, "tool": tool, "x": tool, "empty": b"",
    }  # fmt: skip
    assert {node[3] for node in on_disk(tree)} == {OLDEST}
    archive = written(tmp_path / "e", lzma.compress(packed([file("p/inside")])))
    read(archive, tree, strip=1, single="v1.0")
    assert (tree / "inside").exists()


def test_what_is_named_an_archive_and_is_none(tmp_path: Path) -> None:
    for data in (b"<html>not found</html>" * 99, b"", gzip.compress(b"x"), b"short"):
        with pytest.raises(IntegrityError) as caught:
            read(written(tmp_path / "a", data), tmp_path / "t")
        assert "`unpack: no`" in (caught.value.hint or "")


def test_a_source_as_it_is(tmp_path: Path) -> None:
    archive = written(tmp_path / "0123", gzip.compress(packed([file("a")])))
    (tmp_path / "t").mkdir()
    with Root.open(tmp_path / "t") as into:
        place_source(archive, into, "x.tgz", place="a/b: x.tgz", owner=None)
        found = place_source(archive, into, "x.tgz", place="a/b: x.tgz", owner=None)
        assert found.remarks == ("'x.tgz' replaces that of an earlier source",)
        into.mkdir("d")
        into.mkdir("d/e")
        with pytest.raises(IntegrityError, match="not empty"):
            place_source(archive, into, "d", place="a/b: d", owner=None)
    assert (tmp_path / "t/x.tgz").read_bytes() == archive.read_bytes()
    assert on_disk(tmp_path / "t")[-1][2:4] == (0o644, OLDEST)


def test_a_bomb_of_empty_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source may have MANY members; more where it is as large as such a source would be."""
    monkeypatch.setattr(unpack, "MANY", 500)
    count = 1_000
    data = b"".join(F(b"%d" % number, b"") for number in range(count)) + END
    with pytest.raises(BuildError, match="entries") as caught:
        read(written(tmp_path / "a.tar", gzip.compress(data, 1)), tmp_path / "t")
    assert "`unpack: no`" in (caught.value.hint or "")


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_owner_is_set_on_every_node(upstream: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(upstream, arcname="top")
    tree = tmp_path / "t"
    read(tmp_path / "a.tar", tree, owner=(1234, 2345))
    with Root.open(tree) as root:
        nodes = [status for _, status in root.walk()]
    assert len(nodes) == 11
    assert {(status.st_uid, status.st_gid) for status in nodes} == {(1234, 2345)}


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
    "'..'": zipped(("../x", b"")),
    "yet has content": zipped((special("d/", 0o40755), b"x")),
    "below": zipped((special("l", 0o120777), b".."), ("l/x", b"")),
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


def dos(name: str) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system = 0
    return member


def test_zip_is_read_as_unzip_reads_it(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile's, of the name that comes twice
        data = zipped(
            ("/p/abs", b""), (dos("p\\a\\b"), b"B"), ("p/twice", b"1"), ("p/twice", b"2"),
            (special("p/fifo", 0o010644), b""), (special("p/dev", 0o020644), b""),
            (special("p/l", 0o120777), b"/etc"), (special("p/own", 0o120777), b"own"),
        )  # fmt: skip
    found = read(written(tmp_path / "a.zip", data), tmp_path / "t", strip=1)
    tree = {path: what for path, _, _, _, what in on_disk(tmp_path / "t")}
    assert set(tree) == {"abs", "a", "a/b", "twice", "l", "own"}
    assert (tmp_path / "t/twice").read_bytes() == b"2"
    assert (tmp_path / "t/a/b").read_bytes() == b"B"
    assert tree["l"] == "/etc"
    texts = ("'/'", "backslashes", "again", "FIFO", "character device", "out of the source")
    assert [any(text in line for text in texts) for line in found.remarks] == [True] * len(texts)


AS_UNZIP_READS: dict[str, tuple[tuple[str | zipfile.ZipInfo, bytes], ...]] = {
    "as Unix packs": (
        (special("p/", 0o40755), b""),
        (special("p/run", 0o100755), b"#!/bin/sh"),
        (special("p/data", 0o100640), b"x" * 9000),
        (special("p/l", 0o120777), b"data"),
        (special("p/out", 0o120777), b"/etc/passwd"),
        ("p/caf\u00e9", b"name"),
    ),
    "as DOS packs": ((dos("p/"), b""), (dos("p/a.c"), b"int a;\r\n"), (dos("p/q/b.c"), b"")),
    "backslashes": ((dos("p\\a"), b"1"), (dos("p\\q\\b"), b"2")),
    "absolute": (("/p/a", b"1"),),
    "no top": (("a", b"1"), ("b/c", b"2")),
}


@pytest.mark.parametrize("name", AS_UNZIP_READS)
def test_what_unzip_reads_is_read_alike(name: str, tmp_path: Path) -> None:
    archive = written(tmp_path / "a.zip", zipped(*AS_UNZIP_READS[name]))
    argv = ["unzip", "-q", "-o", str(archive), "-d", str(tmp_path / "theirs")]
    done = subprocess.run(
        argv, capture_output=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    )
    assert done.returncode in (0, 1), "1 is a warning"
    read(archive, tmp_path / "ours")
    normal = {0o640: 0o644, 0o664: 0o644, 0o600: 0o644}
    theirs = [
        (*node[:2], normal.get(node[2], node[2]), *node[3:])
        if node[1] == "file"
        else (node[0], node[1], node[4])
        if node[1] == "symlink"
        else node[:2]
        for node in on_disk(tmp_path / "theirs")
    ]
    ours = [
        (node[0], node[1], node[4]) if node[1] == "symlink" else node
        for node in seen(tmp_path / "ours")
    ]
    assert ours == theirs


def test_scripts_of_a_zip_without_modes_run(tmp_path: Path) -> None:
    script = b"#!/bin/sh\n"
    data = zipped((dos("p/configure"), script), (dos("p/x.c"), b"#"), (dos("p/e"), b""))
    read(written(tmp_path / "a.zip", data), tmp_path / "t", strip=1)
    assert {n: m for n, _, m, _, _ in on_disk(tmp_path / "t")} == {
        "configure": 0o755, "x.c": 0o644, "e": 0o644,
    }  # fmt: skip
    assert (tmp_path / "t/configure").read_bytes() == script
    mixed = zipped((dos("p/quiet"), script), (special("p/run", 0o100755), script))
    read(written(tmp_path / "b.zip", mixed), tmp_path / "u", strip=1)
    assert not os.access(tmp_path / "u/quiet", os.X_OK), "as `git archive` leaves it"
    assert os.access(tmp_path / "u/run", os.X_OK)


def test_zip_without_times(tmp_path: Path) -> None:
    data = bytearray(zipped((dos("a"), b"")))
    for at in (data.index(b"PK\3\4") + 10, data.index(b"PK\1\2") + 12):
        data[at : at + 4] = bytes(4)
    assert unpacked(written(tmp_path / "a.zip", bytes(data)), tmp_path / "t") == OLDEST


def test_zip_names_flagged_utf8_that_are_not(tmp_path: Path) -> None:
    good = zipped(("caf\u00e9", b"x"))
    for bent in (
        good.replace("\u00e9".encode(), b"\xe9\xe9"),
        good.replace("\u00e9".encode(), b"\xff\xff", 1),
        good[::-1].replace("\u00e9".encode()[::-1], b"\xff\xff", 1)[::-1],
    ):
        with pytest.raises(IntegrityError, match=r"UTF-8|differ"):
            unpacked(written(tmp_path / "a.zip", bent), tmp_path / "t")


def test_zip_of_other_methods(tmp_path: Path) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("a", b"x" * 9000)
    unpacked(written(tmp_path / "a.zip", out.getvalue()), tmp_path / "t")
    assert (tmp_path / "t/a").read_bytes() == b"x" * 9000
    bent = bytearray(out.getvalue())
    bent[40] ^= 0xFF
    with pytest.raises(IntegrityError):
        unpacked(written(tmp_path / "b.zip", bytes(bent)), tmp_path / "t")


def test_zip_overlap(tmp_path: Path) -> None:
    data = zipped(("a", b"1"), ("b", b"2"))
    second = data.index(b"PK\1\2", data.index(b"PK\1\2") + 1)
    data = bent(data, second + 42, bytes(4))  # its header's offset: the first member's
    with pytest.raises(IntegrityError, match="overlap"):
        unpacked(written(tmp_path / "a.zip", data), tmp_path / "t")


def test_gzip_source_as_root_of_nothing(tmp_path: Path) -> None:
    empty = written(tmp_path / "e.tgz", gzip.compress(packed([])))
    assert unpacked(empty, tmp_path / "t") == OLDEST
    assert os.listdir(tmp_path / "t") == []


def bent_at_random(data: bytes, chance: random.Random) -> bytes:
    """A few bytes flipped, dropped or doubled; the sums of tar headers are mended mostly."""
    copy = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5))):
        at = chance.randrange(len(copy))
        match chance.randrange(4):
            case 0:
                copy[at] ^= 1 << chance.randrange(8)
            case 1:
                copy[at] = chance.choice(b"\0\xff\x80/.07")
            case 2:
                copy[at : at + 8] = chance.randbytes(8)
            case _:
                copy[at:at] = copy[: chance.randrange(600)]
    if data[:2] != b"PK" and chance.random() < 0.8:
        for at in range(0, len(copy) - 511, 512):
            header = copy[at : at + 512]
            if any(header):
                total = sum(header) - sum(header[148:156]) + 256
                copy[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(copy)


@pytest.mark.scale
def test_bent_archives_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    """5 000 and more of these, with other seeds, were tried when this was written."""
    outside = written(tmp_path / "outside", b"alive")
    chance = random.Random(4)
    bases = [data for data, _ in AS_TAR_READS.values()]
    bases += [zipped(("a", b"x" * 99), ("d/\u00e9", b"y"), (special("l", 0o120777), b"a")), GOOD]
    bases += [packed_by(codec, packed([file("p/a", b"z" * 300)])) for codec in CODECS]
    budget = Budget(total_bytes=8 << 20, entries=500, ratio_free=1 << 20, memory=64 << 20)
    outcomes = set()
    for number in range(250):
        archive = written(tmp_path / "a", bent_at_random(bases[number % len(bases)], chance))
        try:
            read(archive, tmp_path / "t", number % 2, budget, "single" if number % 3 else "")
            outcomes.add("read")
        except (IntegrityError, BuildError, RecipeError) as error:
            outcomes.add("refused")
            told = error.hint
            assert told
        shutil.rmtree(tmp_path / "t")
    assert outcomes == {"read", "refused"}
    assert outside.read_bytes() == b"alive"
    assert sorted(os.listdir(tmp_path)) == ["a", "outside"]
