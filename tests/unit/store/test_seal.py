"""Trees held against their seal: what changed since they were filled is seen, and filled again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.errors import StoreError
from buildit.store.cas import Store
from buildit.store.disk import Vanished
from buildit.store.trees import look, read_seal, seal
from buildit.store.upkeep import Remedy, check_store

pytestmark = pytest.mark.unit


def fill(directory: Path) -> None:
    (directory / "bin").mkdir()
    (directory / "bin/sh").write_text("#!/bin/true\n")
    (directory / "bin/sh").chmod(0o755)
    (directory / "bin/bash").symlink_to("sh")
    (directory / "empty").mkdir()


def sealed(root: Path) -> Path:
    """A tree that an earlier run filled."""
    with Store.open(root) as store:
        return store.named_tree("tree", fill)


def append(tree: Path) -> None:
    with (tree / "bin/sh").open("a") as stream:
        stream.write("echo POISONED\n")


def same_length(tree: Path) -> None:
    (tree / "bin/sh").write_text("#!/bin/evil\n")


def rewritten_in_the_past(tree: Path) -> None:
    before = (tree / "bin/sh").stat()
    (tree / "bin/sh").write_text("#!/bin/evil\n")
    os.utime(tree / "bin/sh", ns=(before.st_atime_ns, before.st_mtime_ns + 1))


def relink(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


CHANGES: tuple[Callable[[Path], object], ...] = (
    append,
    same_length,
    rewritten_in_the_past,
    lambda tree: (tree / "bin/sh").unlink(),
    lambda tree: (tree / "bin/sh").chmod(0o4755),
    lambda tree: (tree / "bin/more").touch(),
    lambda tree: (tree / "bin/sh").rename(tree / "bin/zsh"),
    lambda tree: (tree / "empty").rmdir(),
    lambda tree: relink(tree / "bin/bash", "bash2"),
    lambda tree: relink(tree / "bin/sh", "bash"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_tree_that_changed_is_filled_again_in_the_same_run(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    tree = sealed(tmp_path / "s")
    kept = read_seal(tree)
    change(tree)
    said: list[str] = []
    with Store.open(tmp_path / "s") as store:
        store.tell = said.append
        assert store.named_tree("tree", fill) == tree
        assert (tree / "bin/sh").read_text() == "#!/bin/true\n"
        assert os.readlink(tree / "bin/bash") == "sh"
        assert store.trees.is_as_sealed(tree)
    assert len(said) == 1
    assert str(tree) in said[0]
    assert kept is not None


def test_a_tree_that_is_right_is_left_alone_and_looked_at_once(tmp_path: Path) -> None:
    tree = sealed(tmp_path / "s")
    with Store.open(tmp_path / "s") as store:
        store.tell = pytest.fail
        inode = store.named_tree("tree", fill).stat().st_ino
        append(tree)  # within a run it is believed
        assert store.named_tree("tree", fill).stat().st_ino == inode


def test_bytes_that_no_time_tells_of_are_found_by_store_verify(tmp_path: Path) -> None:
    tree = sealed(tmp_path / "s")
    before = (tree / "bin/sh").stat()
    with (tree / "bin/sh").open("r+b") as stream:
        stream.write(b"#!/bin/evil\n")
    os.utime(tree / "bin/sh", ns=(before.st_atime_ns, before.st_mtime_ns))
    with Store.open(tmp_path / "s") as store:
        assert store.trees.is_as_sealed(tree)
        (fault,) = check_store(store).faults
        assert (fault.path, fault.remedy) == ("trees/tree", Remedy.REPAIRED)
        assert not tree.exists()
        assert store.named_tree("tree", fill) == tree
        assert check_store(store).faults == ()


def test_a_tree_from_before_there_were_seals_is_sealed_on_use(tmp_path: Path) -> None:
    tree = sealed(tmp_path / "s")
    tree.with_name("tree.seal").unlink()
    inode = tree.stat().st_ino
    with Store.open(tmp_path / "s") as store:
        assert store.named_tree("tree", fill).stat().st_ino == inode
    kept = read_seal(tree)
    assert kept == seal(tree)
    append(tree)
    with Store.open(tmp_path / "s") as store:
        store.named_tree("tree", fill)
    assert (tree / "bin/sh").read_text() == "#!/bin/true\n"


@pytest.mark.parametrize("content", [b"", b"x", b"0" * 129, b"\xff" * 200])
def test_a_garbled_seal_is_no_seal_that_fits(tmp_path: Path, content: bytes) -> None:
    tree = sealed(tmp_path / "s")
    beside = tree.with_name("tree.seal")
    beside.chmod(0o644)
    beside.write_bytes(content)
    inode = tree.stat().st_ino
    with Store.open(tmp_path / "s") as store:
        assert store.named_tree("tree", fill).stat().st_ino != inode
    assert read_seal(tree) is not None


def test_names_cannot_be_taken_for_what_is_beside_them(tmp_path: Path) -> None:
    """Each field has its end: no two trees have one text."""
    one, two = tmp_path / "one", tmp_path / "two"
    for tree, names in ((one, ("a", "b")), (two, ("ab",))):
        tree.mkdir()
        for name in names:
            (tree / name).touch()
            os.utime(tree / name, (0, 0))
    assert look(one) != look(two)


def test_a_tree_deleted_while_it_is_filled_is_said_as_that(tmp_path: Path) -> None:
    def cut(directory: Path) -> None:
        directory.rmdir()
        (directory / "x").write_text("")

    with Store.open(tmp_path / "s") as store, pytest.raises(Vanished, match="while it was filled"):
        store.named_tree("tree", cut)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256", "k", "trees", "tmp", "locks", "cache"])
def test_a_part_of_the_store_that_others_may_write_is_refused(tmp_path: Path, name: str) -> None:
    Store.open(tmp_path / "s").close()
    (tmp_path / "s" / name).chmod(0o775)
    with pytest.raises(StoreError, match="other users may write") as caught:
        Store.open(tmp_path / "s")
    assert caught.value.hint is not None
    assert f"chmod go-w {tmp_path / 's' / name}" in caught.value.hint


@pytest.mark.parametrize("name", ["tmp", "leases", "locks", "trees", "cache", "logs"])
def test_a_part_of_the_store_that_was_deleted_is_made_again(tmp_path: Path, name: str) -> None:
    with Store.open(tmp_path / "s") as store:
        digest = store.put_bytes(b"x")
        os.rename(store.root / name, tmp_path / "gone")
        assert store.lost()
    with Store.open(tmp_path / "s") as store:
        assert store.read(digest) == b"x"
        assert not store.lost()
        store.named_tree("tree", fill)
        assert check_store(store).faults == ()
