"""One file of each kind, imported and built as it comes out, but for the .dsc, whose chroot takes
minutes; `BUILDIT_TEST_WHOLE=1` tries fifty, and builds all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.imported import KINDS, import_files, imported_file
from tests.scale import WHOLE

pytestmark = pytest.mark.network

SAMPLE = {
    "dockerfile": "heredocs",
    "flockport": "scripts",
    "manifest": "accounts",
    "ebuild": "figlet",
    "dsc": "sl_",
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_imported_and_built(
    kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    kept = os.environ.get("BUILDIT_TEST_STORE")
    store = Path(kept) if kept else tmp_path_factory.getbasetemp() / "imports-store"
    files = import_files(kind)
    assert len(files) == 10
    chosen = [path for path in files if WHOLE or SAMPLE[kind] in str(path)]
    assert chosen
    rows = []
    for number, path in enumerate(chosen):
        work = tmp_path / str(number)
        work.mkdir()
        rows.append(imported_file(path, kind, store, work, built=WHOLE or kind != "dsc"))
    built = [row for row in rows if not row.built]
    assert len(built) * 10 >= len(rows) * 6, rows
