"""A real store, in memory where there is such a file system: it syncs often."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.store.cas import Store
from buildit.store.remove import remove_tree

_MEMORY = Path("/dev/shm")


@pytest.fixture
def store() -> Iterator[Store]:
    place = _MEMORY if _MEMORY.is_dir() else None
    path = Path(tempfile.mkdtemp(prefix="buildit-test-", dir=place))
    with Store.open(path / "store") as opened:
        yield opened
    remove_tree(path)
