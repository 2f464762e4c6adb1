"""A tiny root from the machine's own programs, and sandboxes started by root and by a user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
DRIVE = CHECKOUT / "tests/sandbox/probes/drive.py"
NOBODY = 65534
PROGRAMS = ("cat", "dash", "dd", "env", "id", "ls", "mkdir", "perl", "sleep", "true", "uname")


def copy_program(program: str, root: Path) -> None:
    """Copy a program with the libraries that ldd(1) names, under merged /usr."""
    found = shutil.which(program)
    assert found is not None, f"these tests copy the machine's own {program}"
    listed = subprocess.run(["ldd", found], capture_output=True, text=True, check=True).stdout
    for file in (found, *(word for word in listed.split() if word.startswith("/"))):
        directory = os.path.realpath(os.path.dirname(file))
        target = root / directory.removeprefix("/") / os.path.basename(file)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        target.chmod(0o755)


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


def python_of_others() -> str | None:
    """A python3 >= 3.11 that another user may run and that can read this checkout."""
    python = "/usr/bin/python3"
    code = "import sys, buildit.errors; sys.exit(sys.version_info < (3, 11))"
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python]
    done = subprocess.run(
        [*argv, "-c", code], env={"PYTHONPATH": str(CHECKOUT)}, cwd="/", capture_output=True
    )
    return python if done.returncode == 0 else None


@dataclass(frozen=True)
class Answer:
    """What a driver said: the outcome or the error, and what it cost it."""

    outcome: dict[str, Any]
    error: dict[str, Any]
    log: bytes
    peak: int
    descriptors: int


@dataclass
class Sandbox:
    """Sandboxes of one user: `store` holds `trees` and `work`, below a directory closed to all."""

    store: Path
    argv: tuple[str, ...]
    uid: int | None
    env: Mapping[str, str]
    lowers: list[str] = field(default_factory=lambda: ["tiny"])
    binds: list[dict[str, Any]] = field(
        default_factory=lambda: [{"source": "build", "dest": "/build", "writable": True}]
    )

    @property
    def work(self) -> Path:
        return self.store / "work"

    @property
    def log(self) -> Path:
        return self.store / "log"

    def spec(self, command: Sequence[str], **more: Any) -> Path:
        jail = {"lowers": self.lowers, "binds": self.binds, "cwd": "/build"}
        env = {"PATH": "/usr/bin", "LC_ALL": "C.UTF-8"}
        spec = {"jail": {**jail, "env": env}, "command": list(command), "limits": {}}
        spec |= {"trees": str(self.store / "trees"), "work": str(self.work)}
        path = self.store / "spec.json"
        path.write_text(json.dumps({**spec, "log": str(self.log), **more}))
        return path

    def start(self, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        spec = self.spec(command, **more)
        (self.store / "answer.json").unlink(missing_ok=True)
        argv = [*self.argv, str(DRIVE), str(spec), str(self.store / "answer.json")]
        return subprocess.Popen(argv, env=dict(self.env), cwd=self.store, stdin=subprocess.DEVNULL)

    def answer(self) -> Answer:
        said = json.loads((self.store / "answer.json").read_text())
        log = self.log.read_bytes() if self.log.exists() else b""
        outcome, error = said.get("outcome", {}), said.get("error", {})
        return Answer(outcome, error, log, said["peak"], said["descriptors"])

    def run(self, *command: str, **more: Any) -> Answer:
        with self.start(*command, **more) as process:
            assert process.wait(60) == 0
        return self.answer()

    def shell(self, script: str, **more: Any) -> Answer:
        return self.run("sh", "-c", script, **more)


@pytest.fixture(params=["self", "user"])
def sandbox(request: pytest.FixtureRequest, tmp_path: Path, tiny_root: Path) -> Sandbox:
    """As whoever runs the tests, and, where that is root, as an ordinary user too."""
    store = tmp_path / "store"
    (store / "work/build").mkdir(parents=True)
    shutil.copytree(tiny_root, store / "trees", symlinks=True, copy_function=os.link)
    env = {"PYTHONPATH": str(CHECKOUT), "SECRET": "CANARY-in-the-environment"}
    if request.param == "self":
        return Sandbox(store, (sys.executable,), os.geteuid() or None, env)
    if os.geteuid() != 0:
        pytest.skip("only root can start a sandbox as somebody else")
    python = python_of_others()
    if python is None:
        pytest.skip("no python3 >= 3.11 that other users can run and that reads this checkout")
    for directory in (store, store / "work", store / "work/build"):
        os.chown(directory, NOBODY, NOBODY)
    for directory in tmp_path.parents[:2]:
        directory.chmod(0o711)
    tmp_path.chmod(0o711)
    drop = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python)
    return Sandbox(store, drop, NOBODY, env)


def living(token: str) -> list[int]:
    """Processes of the whole machine whose command line holds the token, this one apart."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if token.encode() in words:
            found.append(int(entry.name))
    return found


def wait_until_dead(token: str, seconds: float = 10.0) -> list[int]:
    end = time.monotonic() + seconds
    while (left := living(token)) and time.monotonic() < end:
        time.sleep(0.01)
    return left
