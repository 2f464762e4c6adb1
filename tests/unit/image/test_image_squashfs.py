"""squashfs: what is written is read again, whatever the tree; damage is told and ends."""

from __future__ import annotations

import io
import random

import pytest

from buildit.digest import digest_bytes
from buildit.errors import BuildError, BuilditError
from buildit.image.squash.layout import BLOCK_SIZE, SUPERBLOCK
from buildit.image.squash.read import read_squashfs
from buildit.image.squash.write import write_squashfs
from buildit.model.tree import Entry, Kind, sort_key

pytestmark = pytest.mark.unit

EPOCH = 1_700_000_000


def a_tree(seed: int) -> dict[str, tuple[Entry, bytes]]:
    """Directories of up to 700 names, files of up to three blocks, holes, twins, links, owners."""
    chance = random.Random(seed)
    tree: dict[str, tuple[Entry, bytes]] = {}
    directories = [""]
    for number in range(chance.choice((3, 40, 900))):
        parent = chance.choice(directories)
        name = chance.choice(("x", "\udcff", "a b", "long" * 40)) + str(number)
        path = f"{parent}/{name}" if parent else name
        kind = chance.choice((Kind.DIRECTORY, Kind.FILE, Kind.FILE, Kind.SYMLINK))
        mode = chance.choice((0o644, 0o755, 0o4711, 0o1777))
        owners = chance.choice((0, 7, 1000, 4_000_000_000)), chance.choice((0, 8))
        plain = Entry(path, kind, mode, chance.choice((0, EPOCH, 2**32 - 1)), *owners)
        if kind is Kind.DIRECTORY:
            directories.append(path)
            tree[path] = plain, b""
        elif kind is Kind.SYMLINK:
            entry = Entry(path, kind, 0o777, EPOCH, target=chance.choice(("x", "../y" * 50)))
            tree[path] = entry, b""
        else:
            content = chance.choice((b"", b"same", chance.randbytes(chance.randrange(9000))))
            if chance.random() < 0.02:
                content = chance.choice((bytes(BLOCK_SIZE), chance.randbytes(BLOCK_SIZE))) * 2
                content += b"end" * chance.randrange(3)
            attributes = {"user.x": b"1"} if chance.random() < 0.1 else {}
            entry = Entry(
                path,
                kind,
                mode,
                plain.mtime,
                *owners,
                size=len(content),
                digest=digest_bytes(content),
                xattrs=attributes,
            )
            tree[path] = entry, content
    files = [one for one, _ in tree.values() if one.kind is Kind.FILE]
    for number, target in enumerate(chance.sample(files, min(3, len(files)))):
        link = Entry(f"zz{number}", Kind.HARDLINK, target.mode, target.mtime, target=target.path)
        tree[link.path] = link, b""
    return tree


def written(tree: dict[str, tuple[Entry, bytes]], codec: str) -> bytes:
    out = io.BytesIO()
    entries = sorted((entry for entry, _ in tree.values()), key=sort_key)
    write_squashfs(entries, lambda one: io.BytesIO(tree[one.path][1]), EPOCH, codec, out)
    return out.getvalue()


@pytest.mark.parametrize("codec", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("seed", range(6))
def test_a_tree_comes_back(seed: int, codec: str) -> None:
    tree = a_tree(seed)
    image = written(tree, codec)
    assert image == written(tree, codec)
    assert len(image) % 4096 == 0
    found = {one.path: one for one in read_squashfs(io.BytesIO(image), 1 << 30)}
    root = found.pop("")
    assert (root.mode, root.uid, root.mtime) == (0o755, 0, EPOCH)
    files = {path: entry for path, (entry, _) in tree.items()}
    assert found.keys() == files.keys()
    for path, entry in found.items():
        wanted = files[path]
        if wanted.kind is Kind.HARDLINK:
            wanted = files[wanted.target]
        one = found[entry.target] if entry.kind is Kind.HARDLINK else entry
        assert (one.kind, one.digest, one.target) == (wanted.kind, wanted.digest, wanted.target)
        assert (one.mode, one.mtime, one.uid, one.gid) == (
            wanted.mode,
            wanted.mtime,
            wanted.uid,
            wanted.gid,
        )
        assert one.xattrs == wanted.xattrs


def test_damage_is_told_and_ends() -> None:
    chance = random.Random(1)
    image = written(a_tree(1), "gzip")
    told: list[str] = []
    for _ in range(400):
        broken = bytearray(image)
        for _ in range(chance.choice((1, 1, 4))):
            at = chance.choice((chance.randrange(SUPERBLOCK.size), chance.randrange(len(image))))
            broken[at] = chance.randrange(256)
        if chance.random() < 0.1:
            del broken[chance.randrange(len(broken)) :]
        try:
            list(read_squashfs(io.BytesIO(bytes(broken)), 1 << 26))
        except BuilditError as error:
            told.append(error.message)
    assert len(told) > 100
    assert [one for one in told if "squashfs" not in one and "device" not in one] == []


def test_what_squashfs_cannot_hold() -> None:
    early = Entry("a", Kind.DIRECTORY, 0o755, mtime=-1)
    with pytest.raises(BuildError, match="times from 1970 to 2106"):
        written({"a": (early, b"")}, "none")
    odd = Entry("a", Kind.DIRECTORY, 0o755, xattrs={"system.posix_acl_access": b"x"})
    with pytest.raises(BuildError, match=r"system\.posix_acl_access"):
        written({"a": (odd, b"")}, "none")
