"""A file system that lists directories in another order each time (disorderfs)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def shuffled(directory: Path, mount: Path, *, everybody: bool = False) -> Iterator[Path]:
    """A view of a directory, for this user or for `everybody`; skips where there is no FUSE."""
    if shutil.which("disorderfs") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("disorderfs or /dev/fuse is missing")
    mount.mkdir()
    options = ("--shuffle-dirents=yes", f"--multi-user={'yes' if everybody else 'no'}")
    argv = ["disorderfs", *options, str(directory), str(mount)]
    subprocess.run(argv, check=True, capture_output=True)
    try:
        yield mount
    finally:
        subprocess.run(["fusermount", "-u", "-z", str(mount)], check=True)
