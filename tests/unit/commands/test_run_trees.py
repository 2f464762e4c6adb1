"""Trees of containers and work directories: nobody removes what another run is in."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from buildit.codec import encode
from buildit.commands.run_image import TREES_KEPT
from buildit.image.launch import Accounts, Facts
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.spaces import IdMap

pytestmark = pytest.mark.unit

IDS = IdMap(((0, os.getuid(), 1),), ((0, os.getgid(), 1),))
FACTS = Facts("oci", "sha256:1", "{}", Accounts(), ())


def filled(root: Path, count: int) -> list[str]:
    """Names of trees, the one that was used last first."""
    names = [f"{number:032x}" for number in range(count)]
    for age, name in enumerate(names):
        (root / f"{name}.tree").mkdir()
        (root / f"{name}.facts").write_bytes(encode(FACTS))
        (root / f"{name}.lock").touch()
        os.utime(root / f"{name}.lock", (1000 - age, 1000 - age))
    return names


def free(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def test_what_is_swept_is_locked_until_it_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *kept, old, older = filled(tmp_path, TREES_KEPT + 2)
    (tmp_path / "tmp-killed").mkdir()
    seen = {}

    def remove(_: OwnedTrees, names: Sequence[str]) -> None:
        for name in names:
            path = tmp_path / name
            lock = path.with_suffix(".lock") if path.suffix == ".tree" else path
            seen[name] = lock.exists() and not free(lock)
            if name != f"{older}.tree":
                shutil.rmtree(path)

    monkeypatch.setattr(OwnedTrees, "_remove", remove)
    OwnedTrees(tmp_path, IDS).sweep(TREES_KEPT)
    assert seen == {"tmp-killed": True, f"{old}.tree": True, f"{older}.tree": True}
    # what could not be removed keeps its lock, by which a later run finds it, and counts no more
    left = {f"{older}.lock", f"{older}.tree"}
    left |= {f"{name}.{kind}" for name in kept for kind in ("tree", "facts", "lock")}
    assert {one.name for one in tmp_path.iterdir()} == left


def test_what_is_in_use_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    *_, last = filled(tmp_path, TREES_KEPT + 1)
    before = {one.name for one in tmp_path.iterdir()}
    with (tmp_path / f"{last}.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        OwnedTrees(tmp_path, IDS).sweep(TREES_KEPT)
    assert {one.name for one in tmp_path.iterdir()} == before


def test_what_nobody_used_for_long_goes_though_there_is_room(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    recent = tmp_path / f"{0:032x}.lock"
    os.utime(recent)
    OwnedTrees(tmp_path, IDS).sweep(TREES_KEPT, 60.0)
    assert {one.stem for one in tmp_path.iterdir()} == {recent.stem}


def test_a_tree_is_filled_once_and_again_where_nobody_knows_what_is_beside_it(
    tmp_path: Path,
) -> None:
    trees, made = OwnedTrees(tmp_path, IDS), []

    def fill(work: Path) -> bytes:
        (work / "tree").mkdir()
        made.append(work)
        return b"facts"

    for is_known in (bool, bool, lambda kept: kept != b"facts" or len(made) > 1):
        with trees.tree("name", fill, is_known) as (tree, kept):
            assert (tree.name, kept, tree.is_dir()) == ("name.tree", b"facts", True)
    assert len(made) == 2


@pytest.mark.parametrize("module", [os, fcntl])
def test_a_directory_that_is_swept_before_it_is_locked_is_made_again(
    module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "open" if module is os else "flock"
    real = getattr(module, name)
    swept: list[Path] = []

    def late(*words: Any, **more: Any) -> Any:
        if not swept:
            swept.extend(tmp_path.glob("tmp-*"))
            swept[0].rmdir()
        return real(*words, **more)

    monkeypatch.setattr(module, name, late)
    with OwnedTrees(tmp_path, IDS).scratch() as work:
        assert [work] == list(tmp_path.iterdir()) != swept
        assert not free(work)
        work.rmdir()  # so that nobody else's rights are needed to remove it
