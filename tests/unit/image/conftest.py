from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.image.samples import BlobDirectory


@pytest.fixture
def blobs(tmp_path: Path) -> BlobDirectory:
    root = tmp_path / "blobs"
    root.mkdir()
    return BlobDirectory(root)
