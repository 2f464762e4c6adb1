"""A replay whose images were deleted: OCI layouts come back from the store, all else runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from buildit.cli.containers import keep_run
from buildit.cli.quick import replay
from buildit.commands import stamp
from buildit.digest import digest_bytes

pytestmark = pytest.mark.unit

TOP = Path(__file__).parents[3]
ARGV = ["box"]
LAYER = b"layer" * 1000
IMAGE = "out/x.oci"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that was kept: a layout whose layer the store has."""
    here = tmp_path / "here"
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    (here / "box").mkdir(parents=True)
    monkeypatch.chdir(here)
    blobs = tmp_path / "store" / "blobs" / "sha256"
    blobs.mkdir(parents=True)
    (blobs / digest_bytes(LAYER)).write_bytes(LAYER)
    statement = tmp_path / "store" / "k"
    statement.mkdir()
    Path("box/container.yaml").write_text("steps")
    Path(IMAGE, "blobs/sha256").mkdir(parents=True)
    Path(IMAGE, "blobs/sha256", digest_bytes(LAYER)).write_bytes(LAYER)
    Path(IMAGE, "index.json").write_text("{}")
    before = time.time() - 60
    for path in (here, *here.rglob("*")):
        os.utime(path, (before, before))
    began = time.time_ns() + 100_000_000
    stamp.write("plan", stamp.record([Path("box/container.yaml")]), {})
    keep_run(ARGV, began, "plan", [], ["Building"], [IMAGE], [str(statement)], str(blobs))
    return blobs


def test_a_deleted_layout_comes_back_and_is_replayed_then(kept: Path) -> None:
    shutil.rmtree("out")
    assert replay(ARGV) == 0
    blob = Path(IMAGE, "blobs/sha256", digest_bytes(LAYER))
    assert blob.read_bytes() == LAYER
    assert blob.stat().st_ino != (kept / digest_bytes(LAYER)).stat().st_ino
    inode = Path(IMAGE).stat().st_ino
    assert replay(ARGV) == 0
    assert Path(IMAGE).stat().st_ino == inode


def lose_blob(blobs: Path) -> None:
    shutil.rmtree(IMAGE)
    (blobs / digest_bytes(LAYER)).unlink()


def edit_image(_: Path) -> None:
    Path(IMAGE, "index.json").write_text("mine")


def replace_image(_: Path) -> None:
    shutil.rmtree(IMAGE)
    Path(IMAGE).mkdir()


def edit_and_delete(_: Path) -> None:
    shutil.rmtree(IMAGE)
    Path("box/container.yaml").write_text("others")


def collect(blobs: Path) -> None:
    shutil.rmtree(IMAGE)
    (blobs.parent.parent / "k").rmdir()


def no_room(_: Path) -> None:
    shutil.rmtree("out")
    Path("out").write_text("a file")


@pytest.mark.parametrize(
    "change", [lose_blob, edit_image, replace_image, edit_and_delete, collect, no_room]
)
def test_anything_else_takes_a_real_run(change: Callable[[Path], None], kept: Path) -> None:
    change(kept)
    before = sorted(Path("out").rglob("*"))
    assert replay(ARGV) is None
    assert sorted(Path("out").rglob("*")) == before


def test_putting_back_imports_the_standard_library_only(kept: Path) -> None:
    shutil.rmtree("out")
    script = (
        "import sys; from buildit.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, sep='\\n')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *ARGV],
        env={**os.environ, "PYTHONPATH": str(TOP)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(IMAGE, "index.json").exists()
    foreign = {"click", "pydantic", "yaml", "jinja2", "requests", "rich", "cryptography"}
    assert not foreign & set(done.stdout.split())
