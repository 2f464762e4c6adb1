"""A sample of `python -m tests.patch_histories`, another one for each commit."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.patch_histories import run

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).resolve().parents[3]
HISTORIES = 200
FORMS = 5
"""Ways to export each; the whole run takes all."""


@pytest.mark.scale
def test_random_histories_leave_the_tree_of_git(tmp_path: Path) -> None:
    said = subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    seed = int(said.stdout.strip()[:8] or "7", 16)
    figures = run(HISTORIES, seed, tmp_path, FORMS)
    assert figures.wrong == [], f"seed {seed}"
    # 17 of 54 000 exports are refused that could be had (docs/packages.md): logs from the newest
    # commit in which links come and go, and joined diffs of a directory that became a link
    assert len(figures.refused) <= 4, f"seed {seed}: {figures.refused}"
    assert figures.twice > 0.3 * figures.histories
    assert min(figures.equal.values()) > 0.15 * HISTORIES
