"""What is kept of the build of a directory, and when it is not."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from buildit.digest import BuildKey, digest_bytes
from buildit.errors import BuildError, BuilditError, Interrupted
from buildit.make.build_directory import BuildDirectory, PhaseFailed, kept_where_it_fails
from buildit.make.incremental import kept_sources
from buildit.model.config import Limits
from buildit.model.plan import Inputs, Task
from buildit.model.sources import SourceRef
from buildit.store.cas import Store
from buildit.store.locks import passing

pytestmark = pytest.mark.unit

SOURCE = SourceRef("src", digest_bytes(b""), (), path="/home/me/src")
RECORD = json.dumps({"steps": [], "sources": ["s"], "patches": []})
TASK = Task(
    BuildKey(digest_bytes(b"key")),
    "package",
    "misc/app",
    "1",
    RECORD,
    "linux/amd64",
    Inputs(sources=(SOURCE,)),
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store") as opened:
        yield opened


def build(store: Store, replaces: str = "", error: BuilditError | None = None) -> list[str]:
    """Build once; what was among the sources when the phases began. The phases leave `main.o`, put
    a link to `replaces` in the place of their directory, or end with an error."""
    work = store.scratch("work")
    for name in ("build/src", "logs"):
        (work / name).mkdir(parents=True)
    (work / "build/src/main.c").write_text("int main;\n")
    room = BuildDirectory(work, store.root, (), "misc/app-1", Limits(), threading.Event())
    found: list[str] = []
    with (
        suppress(BuilditError),
        kept_where_it_fails(TASK, room, store),
        kept_sources(TASK, room, store),
    ):
        found += sorted(path.name for path in (work / "build/src").iterdir())
        (work / "build/src/main.o").write_text("object")
        if replaces:
            (work / "build/src").rename(work / "build/moved")
            (work / "build/src").symlink_to(replaces)
        if error is not None:
            raise error
    return found


def test_what_a_build_left_is_there_for_the_next(store: Store) -> None:
    assert build(store) == ["main.c"]
    assert build(store) == ["main.c", "main.o"]
    assert build(store, error=PhaseFailed("status 1")) == ["main.c", "main.o"]
    assert build(store) == ["main.c", "main.o"]


def test_what_nobody_uses_for_a_month_goes(store: Store) -> None:
    around = store.cache("incremental")
    for name, days in (("old", 31), ("new", 29), ("used", 31)):
        (around / name / "src").mkdir(parents=True)
        then = time.time() - days * 24 * 3600
        os.utime(around / name, (then, then))
    with passing(around / "used.lock"):
        build(store)
    left = {path.name for path in around.iterdir() if path.is_dir()}
    assert {"new", "used"} < left
    assert "old" not in left
    assert [path.name for path in around.iterdir() if path.suffix] == []


@pytest.mark.parametrize("error", [Interrupted("x"), BuildError("it used more memory")])
def test_what_was_cut_short_is_not(store: Store, error: BuilditError) -> None:
    """make(1) would take half a file for whole, as it is newer than what it is made of."""
    build(store)
    assert build(store, error=error) == ["main.c", "main.o"]
    assert build(store) == ["main.c"]


def test_a_link_in_the_place_of_the_sources_leads_nowhere(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("x")
    for place in (str(tmp_path / "mine"), "/nonexistent"):
        build(store, replaces=place)
        assert build(store) == ["main.c"]
        assert build(store) == ["main.c", "main.o"]
    assert (tmp_path / "mine/file").read_text() == "x"
