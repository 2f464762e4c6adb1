from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.unpack import unpack_source
from buildit.errors import BuildError, BuilditError, IntegrityError, StoreError
from tests.unit.archive.hostile_tars import LIMITS, Hostile, corpus

pytestmark = pytest.mark.unit

BUDGET = Budget(**LIMITS, ratio=50, ratio_free=1 << 19, memory=64 << 20)
CASES = corpus(b"/canary")
TRUNCATED = "truncated at"


def snapshot(top: Path) -> list[tuple[str, int, int, int, bytes]]:
    found = []
    for path in sorted([top, *top.rglob("*")]):
        status = path.lstat()
        data = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found.append((str(path), status.st_mode, status.st_nlink, status.st_mtime_ns, data))
    return found


def test_corpus_is_large_and_has_one_case_per_name() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 150


@pytest.mark.parametrize("index", range(len(CASES)), ids=[case.name for case in CASES])
def test_hostile_archive_is_contained(index: int, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    canary = outside / "canary"
    canary.write_bytes(b"alive")
    before = snapshot(outside)
    case = corpus(os.fsencode(canary))[index]
    archive = tmp_path / "source.tar"
    archive.write_bytes(case.data)
    tree = tmp_path / "tree"
    tree.mkdir()

    check_outcome(case, archive, tree)

    assert snapshot(outside) == before
    assert sorted(os.listdir(tmp_path)) == ["outside", "source.tar", "tree"]
    check_tree(tree)


def check_outcome(case: Hostile, archive: Path, tree: Path) -> None:
    with Root.open(tree) as root:
        if not case.says and not case.name.startswith(TRUNCATED):
            unpack_source(archive, root, strip=0, budget=BUDGET, owner=None)
            return
        with pytest.raises(BuilditError) as caught:
            unpack_source(archive, root, strip=0, budget=BUDGET, owner=None)
    error = caught.value
    assert type(error) in (IntegrityError, BuildError, StoreError)
    assert case.says.lower() in error.message.lower()
    assert error.place == "source.tar"
    assert error.hint
    assert "\n" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 400


def check_tree(tree: Path) -> None:
    for above, directories, files in os.walk(tree):
        for name in [*directories, *files]:
            status = os.lstat(os.path.join(above, name))
            kind = stat.S_IFMT(status.st_mode)
            assert kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
            if kind != stat.S_IFLNK:
                assert stat.S_IMODE(status.st_mode) in (0o644, 0o755, 0o700)
