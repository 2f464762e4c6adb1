from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import buildit

pytestmark = pytest.mark.unit

ROOMS = "artifacts upkeep names"
SLOW = {"buildit.archive", "ctypes", "asyncio", "ssl", "http.client", "tempfile", "lzma"}


def test_looking_up_needs_the_standard_library_only() -> None:
    """The run with nothing to do imports this room: no site packages, nothing that is slow."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(buildit.__path__[0]).parent)!r})\n"
        f"for room in {ROOMS!r}.split(): __import__('buildit.store.' + room)\n"
        "print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-B", "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "buildit.store.artifacts" in loaded
    assert not loaded & SLOW
