from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from buildit.archive.beneath import Root
from buildit.errors import IntegrityError
from tests.scale import examples

pytestmark = pytest.mark.unit


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with links out of it: `out` to the canary's directory, `file` to the canary."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "canary").write_bytes(b"alive")
    top = tmp_path / "tree"
    (top / "d/e").mkdir(parents=True)
    (top / "d/f").write_bytes(b"inside")
    (top / "out").symlink_to(outside)
    (top / "up").symlink_to("..")
    (top / "file").symlink_to(outside / "canary")
    (top / "inner").symlink_to("d")
    (top / "proc").symlink_to("/proc/self/cwd")
    os.mkfifo(top / "pipe")
    return top


@pytest.fixture
def root(tree: Path) -> Iterator[Root]:
    with Root.open(tree) as opened:
        yield opened


THROUGH = ["out/canary", "out/sub/x", "up/outside/canary", "inner/f", "proc/x", "d/../out", "../x"]
SYNTAX = ["/etc/passwd", "..", "d/..", "./d", "d//f", "d/", "a\0b"]


@pytest.mark.parametrize("path", THROUGH + SYNTAX)
def test_no_operation_goes_through_a_link_or_out(root: Root, tree: Path, path: str) -> None:
    operations: list[Callable[[], object]] = [
        lambda: root.open_read(path),
        lambda: root.create(path, 0o644),
        lambda: root.mkdir(path),
        lambda: root.symlink("x", path),
        lambda: root.link(path, "new"),
        lambda: root.link("d/f", path),
        lambda: root.rename(path, "new"),
        lambda: root.rename("d/f", path),
        lambda: root.unlink(path),
        lambda: root.rmdir(path),
        lambda: root.readlink(path),
        lambda: root.lstat(path),
        lambda: root.listdir(path),
        lambda: root.chmod(path, 0o777),
        lambda: root.chown(path, 1, 1),
        lambda: root.utime(path, 1),
    ]
    for operation in operations:
        with pytest.raises(IntegrityError) as caught:
            operation()
        assert caught.value.hint
    assert (tree.parent / "outside/canary").read_bytes() == b"alive"
    assert sorted(os.listdir(tree.parent / "outside")) == ["canary", "sub"]


@pytest.mark.parametrize("path", ["out", "file", "inner", "up"])
def test_last_part_is_never_followed(root: Root, tree: Path, path: str) -> None:
    for operation in (
        lambda: root.open_read(path),
        lambda: root.listdir(path),
        lambda: root.chmod(path, 0o777),
    ):
        with pytest.raises(IntegrityError):
            operation()
    with pytest.raises(FileExistsError):
        root.create(path, 0o644)
    before = os.stat(tree / path).st_mtime
    root.utime(path, 11)
    assert os.stat(tree / path).st_mtime == before
    assert root.lstat(path).st_mtime == 11
    root.unlink(path)
    assert not os.path.lexists(tree / path)


def test_a_fifo_is_refused_and_does_not_block(root: Root) -> None:
    with pytest.raises(IntegrityError, match="regular"):
        root.open_read("pipe")
    with pytest.raises(IntegrityError, match="regular"):
        root.open_read("d")


def test_operations_do_what_they_say(root: Root, tree: Path) -> None:
    old = os.umask(0o077)
    try:
        root.mkdir("n", 0o775)
        os.close(root.create("n/f", 0o666))
    finally:
        os.umask(old)
    assert stat.S_IMODE((tree / "n").stat().st_mode) == 0o775
    assert stat.S_IMODE((tree / "n/f").stat().st_mode) == 0o666
    root.symlink("f\udcff", "n/l")
    assert root.readlink("n/l") == "f\udcff"
    root.link("n/f", "n/g")
    root.link("n/l", "n/m")
    assert root.lstat("n/m").st_ino == root.lstat("n/l").st_ino
    root.chmod("n/f", 0)
    root.chmod("n/f", 0o600)
    root.utime("n", 5)
    assert (tree / "n").stat().st_mtime == 5
    root.rename("n/g", "d/e/g")
    assert root.listdir("n") == ["f", "l", "m"]
    for name in ("f", "l", "m"):
        root.unlink(f"n/{name}")
    root.rmdir("n")
    assert root.listdir("d") == ["e", "f"]
    fd = root.open_read("d/f")
    with open(fd, "rb") as stream:
        assert stream.read() == b"inside"
    with pytest.raises(FileNotFoundError):
        root.lstat("n/f")


def test_the_root_itself(root: Root, tree: Path) -> None:
    root.chmod("", 0o700)
    root.utime("", 3)
    assert root.lstat("").st_mtime == 3
    assert "d" in root.listdir("")
    root.chown("", os.getuid(), os.getgid())
    assert stat.S_IMODE(tree.stat().st_mode) == 0o700


def test_a_parent_made_anew_is_found(root: Root) -> None:
    root.mkdir("p")
    os.close(root.create("p/a", 0o644))
    root.unlink("p/a")
    root.rmdir("p")
    root.mkdir("p")
    os.close(root.create("p/b", 0o644))
    assert root.listdir("p") == ["b"]


def test_descriptors_are_closed(tree: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Root.open(tree) as root:
        list(root.walk())
        root.lstat("d/e")
        with pytest.raises(IntegrityError):
            root.listdir("out/sub")
        with pytest.raises(IntegrityError):
            root.open_read("pipe")
    root.close()
    assert len(os.listdir("/proc/self/fd")) == before


@given(st.sets(st.text("ab-.0", min_size=1, max_size=3), min_size=1, max_size=5))
@settings(max_examples=examples(15), deadline=None)
def test_walk_is_in_bytewise_order_of_whole_paths(
    tmp_path_factory: pytest.TempPathFactory, names: set[str]
) -> None:
    names = names - {".", ".."}
    top = tmp_path_factory.mktemp("walk")
    expected = []
    for name in names:
        for child in names:
            (top / name / child).mkdir(parents=True, exist_ok=True)
            expected += [name, f"{name}/{child}"]
    with Root.open(top) as root:
        found = [path for path, _ in root.walk()]
    assert found == sorted(set(expected), key=os.fsencode)


def test_walk_does_not_follow(root: Root) -> None:
    assert [path for path, _ in root.walk()] == [
        "d", "d/e", "d/f", "file", "inner", "out", "pipe", "proc", "up",
    ]  # fmt: skip


def test_open_of_what_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Root.open(tmp_path / "none")
