"""A sample of `python -m bench.errnos`: one injected error a run, seeded by the commit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.integration.program import CHECKOUT
from tests.integration.seeds import Seed

COUNT = 6


def test_an_error_of_a_system_call_is_no_wrong_result(seed: Seed, here: Path) -> None:
    lock = here / "buildit.lock"
    lock.write_text(seed.lock)
    argv = ["git", "-C", str(CHECKOUT), "rev-parse", "HEAD"]
    commit = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()
    env = {
        **os.environ,
        "SEED": commit or "0",
        "BUILDIT_TEST_STORE": str(seed.new_store(here)),
        "BUILDIT_TEST_LOCK": str(lock),
    }
    done = subprocess.run(
        [sys.executable, "-m", "bench.errnos", str(COUNT)],
        cwd=CHECKOUT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COUNT} errors" in done.stdout
