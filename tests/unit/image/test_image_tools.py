"""docs/format-tools.md is the rows of tests/format_tools.py, and every test that one names is
there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from buildit.image.formats.table import FORMATS
from tests.format_tools import VERSIONS, WAYS, rendered

pytestmark = pytest.mark.unit

CHECKOUT = Path(__file__).parents[3]


def test_the_page_is_of_the_rows() -> None:
    page = (CHECKOUT / "docs" / "format-tools.md").read_text()
    assert page == "".join(f"{line}\n" for line in rendered())


def test_each_format_has_a_cell_for_each_tool() -> None:
    assert set(WAYS) == set(FORMATS)
    assert all(set(ways) == set(VERSIONS) for ways in WAYS.values())
    assert all(way.how for ways in WAYS.values() for way in ways.values())


def test_each_test_that_is_named_is_there() -> None:
    named = {way.test for ways in WAYS.values() for way in ways.values() if way.test}
    files = sorted({test.partition("::")[0] for test in named})
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *files,
    ]
    # what this run was told (PYTEST_ADDOPTS), that one need not be
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False, env=env)
    assert named - {*done.stdout.splitlines()} == set(), done.stderr
