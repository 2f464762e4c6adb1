from __future__ import annotations

import io
import os
import stat
import threading
import time
from pathlib import Path

import pytest

from buildit.archive.tar.write import write_tar
from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError, StoreError
from buildit.model.tree import Entry, Kind
from buildit.store.cas import Store
from buildit.store.trees import _SETTLED, ROOT_MTIME, boot
from buildit.store.upkeep import prune_trees
from tests.unit.store.build import leftovers

pytestmark = pytest.mark.unit


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def add_layer(store: Store) -> Digest:
    out = io.BytesIO()
    tool = b"#!/bin/sh\n"
    entries = (
        Entry("usr", Kind.DIRECTORY, 0o755, 1000),
        Entry("usr/bin", Kind.DIRECTORY, 0o755, 1000),
        Entry("usr/bin/tool", Kind.FILE, 0o755, 1000, size=len(tool), digest=digest_bytes(tool)),
    )
    write_tar(entries, lambda _: io.BytesIO(tool), out)
    return store.put_bytes(out.getvalue())


def test_a_layer_is_unpacked_once(store: Store) -> None:
    layer = add_layer(store)
    tree = store.tree(layer)
    assert tree == store.root / "trees" / layer
    assert (tree / "usr/bin/tool").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tree / "usr/bin/tool").stat().st_mode) == 0o755
    assert stat.S_IMODE(tree.stat().st_mode) == 0o755
    assert tree.stat().st_mtime == ROOT_MTIME
    inode = tree.stat().st_ino
    store.close()
    assert leftovers(store.root) == []
    assert Store.open(store.root).tree(layer).stat().st_ino == inode


@pytest.mark.parametrize("offset", [0, 600, 1030])
def test_a_corrupt_layer_makes_no_tree_and_is_set_aside(store: Store, offset: int) -> None:
    layer = add_layer(store)
    content = bytearray(store.read(layer))
    content[offset] ^= 1
    store.path(layer).chmod(0o644)
    store.path(layer).write_bytes(content)
    with pytest.raises(IntegrityError, match="corrupt; it was set aside"):
        store.tree(layer)
    assert not store.has(layer)
    assert os.listdir(store.root / "trees") == []
    assert os.listdir(store.root / "tmp") == []


def test_what_is_no_layer_makes_no_tree(store: Store) -> None:
    with pytest.raises(IntegrityError):
        store.tree(store.put_bytes(b"no tar" * 500))
    with pytest.raises(StoreError, match="not in the store"):
        store.tree(Digest("0" * 64))
    assert os.listdir(store.root / "trees") == []


def test_a_tree_counts_only_with_the_mark_of_this_boot(store: Store) -> None:
    fills = []

    def fill(directory: Path) -> None:
        assert list(directory.iterdir()) == []
        (directory / "whole").write_text("x")
        fills.append(directory)

    tree = store.named_tree("toolchain", fill)
    mark = tree.with_name("toolchain.ok")
    assert mark.read_bytes() == boot()
    assert store.named_tree("toolchain", fill) == tree
    assert len(fills) == 1
    mark.unlink()  # killed between rename and mark
    (tree / "whole").unlink()
    store.named_tree("toolchain", fill)
    assert len(fills) == 2
    mark.chmod(0o644)
    mark.write_bytes(b"another boot")  # power was lost
    store.named_tree("toolchain", fill)
    assert len(fills) == 3
    os.utime(mark, (1, 1))  # written back long ago
    store.named_tree("toolchain", fill)
    assert mark.read_bytes() == _SETTLED
    store.named_tree("toolchain", fill)
    assert len(fills) == 3


def test_a_fill_that_fails_leaves_nothing(store: Store) -> None:
    def fill(directory: Path) -> None:
        (directory / "half").mkdir(mode=0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.named_tree("toolchain", fill)
    assert os.listdir(store.root / "trees") == os.listdir(store.root / "tmp") == []


def test_threads_that_want_one_tree_fill_it_once(store: Store) -> None:
    fills = []
    start = threading.Barrier(6)

    def fill(directory: Path) -> None:
        fills.append(directory)

    def want() -> None:
        start.wait()
        store.named_tree("toolchain", fill)

    threads = [threading.Thread(target=want) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fills) == 1


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x.ok", "x" * 300, "\n"])
def test_a_tree_name_cannot_lead_elsewhere(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="not a tree's name"):
        store.named_tree(name, lambda _: None)


def test_trees_that_are_not_used_are_pruned(store: Store) -> None:
    """The last used stay, and what a living process holds; others of another kind are not asked."""

    def fill(tree: Path) -> None:
        (tree / "file").write_text("x")

    now = time.time()
    for number in range(6):
        path = store.named_tree(f"more-{number}", fill)
        used = now - 1000 * number
        os.utime(path.with_name(f"{path.name}.ok"), (used, used))
    base = store.named_tree("base-0", fill)
    os.utime(base.with_name("base-0.ok"), (0, 0))
    store.pin(["more-5"])
    assert prune_trees(store, "more", 9, 1e6) == ()
    assert prune_trees(store, "more", 3, 1500) == ("more-2", "more-3", "more-4")
    left = sorted(path.name for path in (store.root / "trees").iterdir() if path.is_dir())
    assert left == ["base-0", "more-0", "more-1", "more-5"]
    store.trees.touch(base)
    assert prune_trees(store, "base", 1, 60) == ()
    store.close()
    assert leftovers(store.root) == []


def test_a_tree_that_is_pinned_while_others_are_pruned_stays(store: Store) -> None:
    """Who pins before it looks has what it found, as with a collection."""
    path = store.named_tree("more-0", lambda tree: (tree / "file").touch())
    os.utime(path.with_name("more-0.ok"), (0, 0))
    pruning = threading.Thread(target=prune_trees, args=(store, "more", 9, 60))
    with store.publishing():
        pruning.start()
        pruning.join(0.2)
        store.lease().pin(["more-0"])
    pruning.join()
    assert store.trees.is_whole(path)
