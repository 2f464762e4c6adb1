"""Power loss: what was reported as committed is there when the disk comes back (THREATS H2)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sandbox import store_power_loss
from tests.sandbox.test_store_crash import ENVIRONMENT

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a loop device"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="mkfs.ext4 is not installed"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices here"),
]

LOSSES = 15


def test_nothing_reported_is_lost(tmp_path: Path) -> None:
    command = ["unshare", "--mount", "--propagation", "private", sys.executable]
    command += [str(store_power_loss.__file__), str(tmp_path), str(LOSSES)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept, word = done.stdout.split()
    assert word == "kept"
    assert int(kept) >= LOSSES
