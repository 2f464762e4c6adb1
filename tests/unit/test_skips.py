"""The tests' own rule: under CI=true a skip that is not listed fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

CONFTEST = Path(__file__).resolve().parents[1] / "conftest.py"


@pytest.mark.scale
@pytest.mark.parametrize(
    ("reason", "ci", "workers", "status"),
    [
        ("nginx is not installed", "true", "0", 1),
        ("nginx is not installed", "true", "2", 1),
        ("root may read everything", "true", "2", 0),
        ("nginx is not installed", "", "0", 0),
    ],
)
def test_an_unlisted_skip_fails_under_ci(
    reason: str, ci: str, workers: str, status: int, tmp_path: Path
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST.read_text())
    (tmp_path / "test_one.py").write_text(
        f"import pytest\n\ndef test_it() -> None:\n    pytest.skip({reason!r})\n"
    )
    argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-n", workers, "."]
    done = subprocess.run(
        argv,
        check=False,
        env={**os.environ, "CI": ci, "PYTHONPATH": str(CONFTEST.parents[1])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert ("an unlisted skip under CI=true: " + reason in done.stdout) == bool(status)
