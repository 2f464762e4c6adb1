"""Places in memory, where there is such a file system: stores sync often, and tests are many.

Real disks: tests/sandbox.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.store.cas import Store
from buildit.store.disk import remove_tree

_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def places() -> Iterator[Iterator[Path]]:
    """New directories, one after the other."""
    memory = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
    top = Path(tempfile.mkdtemp(prefix="buildit-unit-", dir=memory))
    yield (top / str(number) for number in itertools.count())
    remove_tree(top)


@pytest.fixture
def tmp_path(places: Iterator[Path]) -> Path:
    path = next(places)
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def store(places: Iterator[Path]) -> Iterator[Store]:
    path = next(places)
    path.mkdir(mode=0o700)
    with Store.open(path / "store") as opened:
        yield opened
