from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.beneath import Root
from buildit.archive.streams import HashingWriter, write_all
from buildit.archive.tar.write import TarWriter, header_blocks, write_tar
from buildit.archive.unpack import unpack_layer
from buildit.digest import CHUNK, Digest
from buildit.errors import BuildError
from buildit.model.tree import Entry, Kind, sort_key
from tests.scale import examples
from tests.unit.archive.trees import (
    directory,
    file,
    hardlink,
    listed,
    on_disk,
    packed,
    symlink,
    undigested,
)

pytestmark = pytest.mark.unit

SAMPLE = [
    directory("a"),
    file("a-b", b"after all of a/"),
    file("a/c", b"x" * 1500, mode=0o755),
    hardlink("a/d", "a/c"),
    symlink("a/e", "../a-b"),
    file("caf\u00e9", b"utf-8"),
    file("empty"),
    directory("n" * 99),
    file("n" * 99 + "/" + "m" * 100, b"prefix"),
    file("n" * 99 + "/" + "o" * 101, b"pax"),
    file("new\nline", b"1"),
    symlink("o", "t" * 150),
    file("raw\udcff", b"2"),
    symlink("s", "\udce9\u00e9"),
]


def test_same_bytes_forever() -> None:
    digest = hashlib.sha256(packed(SAMPLE)).hexdigest()
    assert digest == "cb95ecd46f4c8fae0a98e47625c0415c6063cb7acfb3bdc174edd2a0ecc7b2b8"


def test_no_record_where_ustar_can_say_it() -> None:
    plain = Entry("n" * 155 + "/" + "m" * 100, Kind.FILE, 0o7777, (1 << 33) - 1)
    plain = replace(plain, uid=0o7777777, gid=0o7777777, size=(1 << 33) - 1)
    assert len(header_blocks(plain, b"")) == 512
    for change in (
        {"path": "n" * 156 + "/" + "m" * 100},
        {"path": "n" * 10 + "/" + "m" * 101},
        {"path": "\u00e9"},
        {"uid": 0o10000000},
        {"gid": 0o10000000},
        {"size": 1 << 33},
        {"mtime": 1 << 33},
        {"mtime": -1},
        {"xattrs": {"user.a": b""}},
    ):
        blocks = header_blocks(replace(plain, **change), b"")
        assert len(blocks) >= 1536
        assert blocks[:14] == b"././@PaxHeader"
        assert blocks[156:157] == b"x"


def test_large_numbers_read_back_by_tarfile() -> None:
    entry = Entry("f", Kind.FILE, 0o644, -5, uid=1 << 31, gid=(1 << 32) - 2, size=9 << 30)
    with tarfile.open(fileobj=io.BytesIO(header_blocks(entry, b"") + bytes(512))) as tar:
        found = tar.next()
    assert found is not None
    assert (found.size, found.uid, found.gid, found.mtime) == (9 << 30, 1 << 31, (1 << 32) - 2, -5)


def test_ends_in_two_zero_blocks_and_no_more() -> None:
    tar = packed([file("a", b"x")])
    assert len(tar) == 4 * 512
    assert tar.endswith(bytes(1024))


def test_prefix_goes_before_paths_and_hard_links_but_not_link_texts() -> None:
    found = [entry for entry, _ in listed(packed(SAMPLE, "rootfs/"))]
    assert all(entry.path.startswith("rootfs/") for entry in found)
    targets = {entry.path: entry.target for entry in found}
    assert targets["rootfs/a/d"] == "rootfs/a/c"
    assert targets["rootfs/a/e"] == "../a-b"


@pytest.mark.parametrize("prefix", ["rootfs", "/", "../", "a//", "./"])
def test_prefix_must_be_a_plain_directory(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"prefix|name"):
        TarWriter(io.BytesIO(), prefix=prefix)


BAD = {
    "out of order": [file("b"), file("a")],
    "twice": [file("a"), file("a")],
    "lies below": [file("a"), file("a/b"), file("a-b")],
    "'..'": [file("../a")],
    "absolute": [file("/a")],
    "NUL": [file("a\0b")],
    "appears twice": [file("")],
    "plain form": [file("a//b")],
    "not in plain form": [file("./a")],
    "its path is not in plain": [directory("a/")],
    ".wh.": [file("a/.wh.b")],
    "deletion in a layer": [file(".wh..wh..opq")],
    "mode": [(Entry("a", Kind.DIRECTORY, 0o10000), b"")],
    "owner": [(Entry("a", Kind.DIRECTORY, 0o755, uid=-1), b"")],
    "is -1:0": [(Entry("a", Kind.DIRECTORY, 0o755, uid=-1), b"")],
    "its size": [(Entry("a", Kind.DIRECTORY, 0o755, size=3), b"")],
    "link target": [symlink("a", "")],
    "target is 'x'": [(Entry("a", Kind.DIRECTORY, 0o755, target="x"), b"")],
    "no earlier file": [hardlink("a", "b"), file("b")],
    "'d' is no earlier": [directory("d"), hardlink("e", "d")],
    "attribute": [(Entry("a", Kind.DIRECTORY, 0o755, xattrs={"a=b": b""}), b"")],
}


@pytest.mark.parametrize("says", BAD)
def test_refuses_what_a_layer_cannot_hold(says: str) -> None:
    nodes = BAD[says]
    with pytest.raises(BuildError) as caught:
        write_tar([entry for entry, _ in nodes], lambda _: io.BytesIO(), io.BytesIO())
    assert says in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"four", b"sixsix", b"fivf!"])
def test_a_file_that_changed_is_an_error(data: bytes) -> None:
    entry, _ = file("a", b"five!")
    with pytest.raises(BuildError, match="changed while it was packed") as caught:
        write_tar([entry], lambda _: io.BytesIO(data), io.BytesIO())
    assert caught.value.place == "a"


def test_returns_the_digests_that_it_wrote_and_closes_contents() -> None:
    entry, data = file("a", b"x" * (3 * CHUNK + 5))
    streams: list[io.BytesIO] = []

    def content(_: Entry) -> io.BytesIO:
        streams.append(io.BytesIO(data))
        return streams[-1]

    (written,) = write_tar([undigested(entry)], content, io.BytesIO())
    assert written == entry
    assert [stream.closed for stream in streams] == [True]


class Reluctant:
    """A raw stream that takes at most seven bytes at a time."""

    def __init__(self) -> None:
        self.taken = b""

    def write(self, data: bytes) -> int:
        self.taken += data[:7]
        return len(data[:7])


def test_short_writes_are_continued() -> None:
    out = Reluctant()
    write_all(out, bytes(range(100)))
    assert out.taken == bytes(range(100))


@given(st.lists(st.binary(max_size=90_000), max_size=8))
@settings(max_examples=examples(12), deadline=None)
def test_hashing_writer_hashes_in_order_what_it_writes(parts: list[bytes]) -> None:
    out = io.BytesIO()
    writer = HashingWriter(out)
    for part in parts:
        writer.write(part)
    whole = b"".join(parts)
    assert writer.digest() == hashlib.sha256(whole).hexdigest()
    assert out.getvalue() == whole
    assert writer.size == len(whole)


class Full:
    def write(self, _data: bytes, /) -> int:
        raise OSError(28, "No space left on device")


def test_hashing_writer_tells_of_a_full_disk() -> None:
    writer = HashingWriter(Full())
    writer.write(bytes(CHUNK))
    with pytest.raises(OSError, match="No space"):
        writer.digest()
    with pytest.raises(OSError, match="No space"):
        writer.write(b"x")


def test_hashing_writer_does_not_run_ahead_of_a_full_disk() -> None:
    writer = HashingWriter(Full())
    with pytest.raises(OSError, match="No space"):
        fill(writer)
    assert writer.size < 8 * CHUNK
    with pytest.raises(OSError, match="No space"):
        writer.close()


def fill(writer: HashingWriter) -> None:
    for _ in range(1000):
        writer.write(bytes(CHUNK))


PART = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0") | st.just("\udcff"),
    min_size=1,
    max_size=6,
).filter(lambda part: part not in (".", "..") and not part.startswith(".wh."))
PATH = st.lists(PART, min_size=1, max_size=3).map("/".join)


@st.composite
def trees(draw: st.DrawFn) -> list[tuple[Entry, bytes]]:
    nodes: dict[str, tuple[Entry, bytes]] = {}
    leaves: set[str] = set()
    for path in draw(st.sets(PATH, max_size=8)):
        above = ["/".join(path.split("/")[:at]) for at in range(1, path.count("/") + 1)]
        if leaves.intersection(above) or any(other.startswith(path + "/") for other in nodes):
            continue
        kind = draw(st.sampled_from(["file", "directory", "symlink"]))
        if kind == "directory":
            entry, data = directory(path)
        elif kind == "symlink":
            entry, data = symlink(path, draw(PATH))
        else:
            entry, data = file(path, draw(st.binary(max_size=1100)))
        if kind != "directory":
            leaves.add(path)
        entry = replace(
            entry,
            mtime=draw(st.integers(-(1 << 35), 1 << 35)),
            uid=draw(st.integers(0, (1 << 32) - 2)),
            xattrs=draw(st.dictionaries(st.sampled_from(["user.a", "security.b"]), st.binary())),
        )
        nodes[path] = entry, data
    return sorted(nodes.values(), key=lambda node: sort_key(node[0]))


@pytest.mark.scale
@given(trees())
@settings(max_examples=examples(25), deadline=None)
def test_what_is_written_is_read_back(nodes: list[tuple[Entry, bytes]]) -> None:
    tar = packed(nodes)
    assert listed(tar) == [(undigested(entry), data) for entry, data in nodes]
    with tarfile.open(fileobj=io.BytesIO(tar), encoding="utf-8") as other:
        members = other.getmembers()
        assert [member.name for member in members] == [entry.path for entry, _ in nodes]
        for member, (entry, data) in zip(members, nodes, strict=True):
            assert (member.uid, member.mtime, member.linkname) == (
                entry.uid,
                entry.mtime,
                entry.target,
            )
            stream = other.extractfile(member) if member.isreg() else None
            assert (stream.read() if stream else b"") == data


@pytest.mark.skipif(shutil.which("tar") is None, reason="GNU tar is not installed")
def test_gnu_tar_extracts_the_same_tree(tmp_path: Path) -> None:
    tar = packed(SAMPLE)
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    done = subprocess.run(
        ["tar", "-x", "-p", "--delay-directory-restore", "-C", str(theirs), "-f", "-"],
        input=tar,
        capture_output=True,
        env={"LC_ALL": "C", "PATH": "/usr/bin:/bin"},
        check=True,
    )
    # POSIX has the keyword and libarchive needs it; GNU tar takes raw bytes without and says so
    known = b"tar: Ignoring unknown extended header keyword 'hdrcharset'"
    assert set(done.stderr.splitlines()) == {known}
    with Root.open(ours) as root:
        unpack_layer(io.BytesIO(tar), root)
    assert on_disk(theirs) == on_disk(ours)
    assert {node[0] for node in on_disk(ours)} == {entry.path for entry, _ in SAMPLE}
    assert (ours / "a/c").stat().st_ino == (ours / "a/d").stat().st_ino


def test_digest_type_is_plain_hex() -> None:
    assert HashingWriter(io.BytesIO()).digest() == Digest(hashlib.sha256().hexdigest())


def test_deletions_are_written_where_they_are_meant() -> None:
    marks = [file(".wh.gone")[0], directory("a")[0], file("a/.wh..wh..opq")[0]]
    out = io.BytesIO()
    write_tar(marks, lambda _: io.BytesIO(), out, whiteouts=True)
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
        assert tar.getnames() == [".wh.gone", "a", "a/.wh..wh..opq"]


@pytest.mark.parametrize(
    "wrong", [[file("a/.wh.x", b"x")], [directory(".wh.d")], [directory(".wh.d"), file(".wh.d/x")]]
)
def test_a_deletion_is_an_empty_file(wrong: list[tuple[Entry, bytes]]) -> None:
    data = {entry.path: content for entry, content in wrong}
    with pytest.raises(BuildError, match=r"begins with '\.wh\.'"):
        write_tar(
            [entry for entry, _ in wrong],
            lambda entry: io.BytesIO(data[entry.path]),
            io.BytesIO(),
            whiteouts=True,
        )
