"""What is kept of a step that had secrets."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from buildit.make.keeping_secrets import remove_secrets
from buildit.model.secret import Secret, Secrets

pytestmark = pytest.mark.unit


def test_what_lies_too_deep_to_be_read_is_not_taken_as_searched(tmp_path: Path) -> None:
    held = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # a path of 5000 bytes
        os.mkdir("d" * 250, dir_fd=held)
        deeper = os.open("d" * 250, os.O_RDONLY, dir_fd=held)
        os.close(held)
        held = deeper
    descriptor = os.open("kept", os.O_CREAT | os.O_WRONLY, dir_fd=held)
    os.write(descriptor, b"a canary")
    os.close(descriptor)
    os.close(held)
    with pytest.raises(OSError, match="too long"):
        remove_secrets(str(tmp_path), Secrets((Secret("c", b"a canary"),)))
