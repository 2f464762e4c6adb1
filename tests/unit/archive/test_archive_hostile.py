from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import pytest

from buildit.archive.admit import Budget
from buildit.archive.beneath import Root
from buildit.archive.compress import decompressed
from buildit.archive.tar.read import read_tar
from buildit.archive.unpack import unpack_source
from buildit.errors import BuildError, BuilditError, IntegrityError
from tests.unit.archive.hostile_tars import AS_SOURCE, LIMITS, SILENT, Hostile, Read, corpus

pytestmark = pytest.mark.unit

BUDGET = Budget(**LIMITS, ratio=50, ratio_free=1 << 19, memory=64 << 20, whiteouts=False)
CASES = corpus(b"/outside/canary")
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
    expected = AS_SOURCE.get(case.name, case.says or SILENT)
    with Root.open(tree) as root:
        if case.name.startswith(TRUNCATED):
            check_cut(archive, root)
            return
        if isinstance(expected, Read):
            told = unpacked(archive, root)
            assert any(expected.remark in line for line in told) if expected.remark else not told
            assert all(line.isprintable() and len(line) < 400 for line in told)
            return
        with pytest.raises(BuilditError) as caught:
            unpacked(archive, root)
    error = caught.value
    assert type(error) in (IntegrityError, BuildError)
    assert expected.lower() in error.message.lower()
    assert error.place == "source.tar"
    assert error.hint
    assert "\n" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 400


def check_cut(archive: Path, root: Root) -> None:
    """Where a member ends, tar cannot see that there were more; elsewhere it is an error."""
    try:
        (told,) = unpacked(archive, root)
    except IntegrityError as error:
        told = f"{error.place}: truncated or no end mark; {error.hint}"
    assert "end mark" in told or "zero block" in told
    assert "fetch" not in told


def unpacked(archive: Path, root: Root) -> tuple[str, ...]:
    found = unpack_source(
        archive, root, place="source.tar", strip=0, budget=BUDGET, owner=None, single=""
    )
    assert found.newest >= 315532800
    return found.remarks


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_what_is_no_source_is_read_strictly(case: Hostile) -> None:
    def read() -> None:
        stream = decompressed(io.BytesIO(case.data), BUDGET, "layer")
        for _, content in read_tar(stream, BUDGET, "layer"):
            assert content is None or content.read() is not None

    on_disk = "name too long" in case.says
    if (case.says and not on_disk) or case.name.startswith(TRUNCATED):
        with pytest.raises((IntegrityError, BuildError)) as caught:
            read()
        says = "checksum" if case.says == "zip" else case.says
        assert says.lower() in caught.value.message.lower()
        assert caught.value.place == "layer"
    else:
        read()


def check_tree(tree: Path) -> None:
    for above, directories, files in os.walk(tree):
        for name in [*directories, *files]:
            status = os.lstat(os.path.join(above, name))
            kind = stat.S_IFMT(status.st_mode)
            assert kind in (stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
            if kind != stat.S_IFLNK:
                assert stat.S_IMODE(status.st_mode) in (0o644, 0o755, 0o700)
