"""Sandboxes under test: a driver process per run, as whoever runs the tests or as somebody else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[3]
PROBES = Path(__file__).parent
DRIVE = PROBES / "drive.py"
NOBODY = 65534
PROGRAMS = (
    "bash",
    "cat",
    "dash",
    "dd",
    "env",
    "id",
    "ls",
    "mkdir",
    "perl",
    "sleep",
    "true",
    "uname",
)


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


def python_of_others() -> str | None:
    """A python3 >= 3.11 that another user may run and that can read this checkout."""
    python = "/usr/bin/python3"
    code = "import sys, buildit.errors; sys.exit(sys.version_info < (3, 11))"
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python]
    done = subprocess.run(
        [*argv, "-c", code],
        check=False,
        env={"PYTHONPATH": str(CHECKOUT)},
        cwd="/",
        capture_output=True,
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
    """Sandboxes of one user, started through `argv`, as the processes `started`; `store` holds
    `trees` and `work`."""

    store: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    lowers: list[str] = field(default_factory=lambda: ["tiny"])
    started: set[int] = field(default_factory=set)
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
        env = {"PATH": "/usr/bin", "LC_ALL": "C"}
        spec = {"jail": {**jail, "env": env}, "command": list(command), "limits": {}}
        spec |= {"trees": str(self.store / "trees"), "work": str(self.work)}
        path = self.store / "spec.json"
        path.write_text(json.dumps({**spec, "log": str(self.log), **more}))
        path.chmod(0o644)
        return path

    def start(self, *command: str, **more: Any) -> subprocess.Popen[bytes]:
        spec = self.spec(command, **more)
        (self.store / "answer.json").unlink(missing_ok=True)
        argv = [*self.argv, str(DRIVE), str(spec), str(self.store / "answer.json")]
        process = subprocess.Popen(
            argv,
            env=dict(self.env),
            cwd=self.store,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # no terminal, whoever runs the tests
        )
        self.started.add(process.pid)
        return process

    def answer(self) -> Answer:
        said = json.loads((self.store / "answer.json").read_text())
        log = self.log.read_bytes() if self.log.exists() else b""
        outcome, error = said.get("outcome", {}), said.get("error", {})
        return Answer(outcome, error, log, said["peak"], said["descriptors"])

    def run(self, *command: str, **more: Any) -> Answer:
        with self.start(*command, **more) as process:
            assert process.wait(300) == 0
        return self.answer()

    def shell(self, script: str, **more: Any) -> Answer:
        return self.run("sh", "-c", script, **more)


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


def wait_until_dead(token: str, seconds: float = 60.0) -> list[int]:
    end = time.monotonic() + seconds
    while (left := living(token)) and time.monotonic() < end:
        time.sleep(0.01)
    return left
