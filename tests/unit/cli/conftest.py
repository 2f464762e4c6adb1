"""Command lines run in this process: what they print, and their exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from buildit.cli.main import run_argv


@dataclass(frozen=True)
class Said:
    """What a command line said on each stream, and how it ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Said]


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Command:
    """Run a command line in an empty directory with a store and a home of its own."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BUILDIT_STORE", str(tmp_path / "store"))
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "BUILDIT_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def said(*argv: str) -> Said:
        capsys.readouterr()
        code = run_argv(list(argv))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return said
