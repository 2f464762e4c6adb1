"""Every mistake of a user is one message with place, cause and next step; its text is golden.

A case is a directory with `container/`, `pkgs/` laid over those of `_shared`, and `expected.txt`.
`pytest tests/golden --update-golden` writes the latter anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.errors import BuilditError, UsageError
from tests.planning import Checkout

pytestmark = pytest.mark.unit

ERRORS = Path(__file__).parent / "errors"
CASES = sorted(path.name for path in ERRORS.iterdir() if not path.name.startswith("_"))


@pytest.fixture
def checkout(tmp_path: Path) -> Iterator[Checkout]:
    """Messages show paths relative to the working directory."""
    before = Path.cwd()
    os.chdir(tmp_path)
    yield Checkout(tmp_path)
    os.chdir(before)


def told(error: BuilditError) -> str:
    lines = [f"{type(error).__name__} (exit {error.exit_code})", str(error)]
    lines += [f"  {line}" for line in error.details]
    lines.append(f"hint: {error.hint}")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_the_error_is_the_expected_one(case: str, checkout: Checkout, update_golden: bool) -> None:
    checkout.lock()
    for part in (ERRORS / "_shared", ERRORS / case):
        shutil.copytree(part, checkout.root, symlinks=True, dirs_exist_ok=True)
    with pytest.raises(BuilditError) as caught:
        checkout.plan()
    text = told(caught.value).replace(str(checkout.root), "ROOT")
    expected = ERRORS / case / "expected.txt"
    if update_golden:
        expected.write_text(text)
    assert text == expected.read_text()
    assert caught.value.place or isinstance(caught.value, UsageError)
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_there_are_cases_for_every_room() -> None:
    assert len(CASES) >= 25
    rooms = {case.partition("-")[0] for case in CASES}
    assert {
        "container",
        "package",
        "base",
        "recipe",
        "flag",
        "dependency",
        "patch",
        "lock",
    } <= rooms


def test_what_the_cases_share_is_right(checkout: Checkout) -> None:
    checkout.lock()
    shutil.copytree(ERRORS / "_shared", checkout.root, dirs_exist_ok=True)
    checkout.write(
        "container/container.yaml",
        """\
        - vars: {name: web, version: 1.0}
        - package: {atom: www-servers/nginx}
        """,
    )
    names = [node.name for node in checkout.plan().plan.tasks]
    assert names == ["sys-libs/zlib", "dev-libs/openssl", "www-servers/nginx"]
