"""A tiny root from the machine's own programs, and sandboxes started by root and by a user."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sandbox.probes.harness import (
    CHECKOUT,
    NOBODY,
    PROGRAMS,
    Sandbox,
    copy_program,
    python_of_others,
)


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of trees with one tree in it, `tiny`: a shell, perl and a few tools."""
    trees = tmp_path_factory.mktemp("tiny") / "trees"
    root = trees / "tiny"
    root.mkdir(parents=True)
    for link in ("bin", "sbin", "lib", "lib64"):
        (root / "usr" / link).mkdir(parents=True)
        (root / link).symlink_to(f"usr/{link}")
    for program in PROGRAMS:
        copy_program(program, root)
    (root / "usr/bin/sh").symlink_to("dash")
    return trees


@pytest.fixture(params=["self", "user"])
def sandbox(request: pytest.FixtureRequest, tiny_root: Path) -> Iterator[Sandbox]:
    """As whoever runs the tests, and, where that is root, as an ordinary user too.

    Root's store lies below a directory that nobody else may enter, as ~/.cache does.
    """
    with tempfile.TemporaryDirectory(prefix="buildit-sandbox-") as name:
        store = Path(name, "store")
        (store / "work/build").mkdir(parents=True)
        shutil.copytree(tiny_root, store / "trees", symlinks=True, copy_function=os.link)
        env = {"PYTHONPATH": str(CHECKOUT), "SECRET": "CANARY-in-the-environment"}
        if request.param == "self":
            yield Sandbox(store, (sys.executable,), env)
            return
        if os.geteuid() != 0:
            pytest.skip("only root can start a sandbox as somebody else")
        python = python_of_others()
        if python is None:
            pytest.skip("no python3 >= 3.11 that other users can run and that reads this checkout")
        Path(name).chmod(0o711)
        for directory in (store, store / "work", store / "work/build"):
            os.chown(directory, NOBODY, NOBODY)
        drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python)
        yield Sandbox(store, drop, env)
