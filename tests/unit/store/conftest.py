"""These tests sync often; in memory that costs nothing. Real disks: tests/sandbox."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.store.remove import remove_tree

_MEMORY = Path("/dev/shm")


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    if not os.access(_MEMORY, os.W_OK | os.X_OK):
        yield tmp_path
        return
    path = Path(tempfile.mkdtemp(prefix="buildit-test-", dir=_MEMORY))
    yield path
    remove_tree(path)
