"""The command line under test, as a person starts it: a process of its own, with its own world."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
STRANGER = 65534
"""An ordinary user that every Debian has: nobody."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHIPPED = ("buildit", "pkgs", "schemas", ".buildit-config.yaml")
_NOT_NEEDED = ("*mypyc*", "mypy", "pip", "setuptools", "pytest*", "_pytest", "hypothesis", "ruff*")


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    def images(self) -> list[Path]:
        """What stdout carries: the path of each image."""
        return [Path(line) for line in self.out.splitlines()]

    def good(self) -> Done:
        """This, where it ended well."""
        assert self.code == 0, f"exit {self.code}\n{self.out}\n{self.err}"
        return self


@dataclass(frozen=True, slots=True)
class Program:
    """`python -m buildit` with one environment; `before` are programs that start it."""

    python: str
    env: Mapping[str, str]
    before: tuple[str, ...] = ()
    umask: int = 0o022

    def with_env(self, **more: str) -> Program:
        return replace(self, env={**self.env, **more})

    def with_store(self, store: Path) -> Program:
        return self.with_env(BUILDIT_STORE=str(store))

    def started_by(self, *words: str) -> Program:
        """Through further programs; the last one that was added starts first."""
        return replace(self, before=(*words, *self.before))

    def as_stranger(self, home: Path) -> Program:
        """As an ordinary user who has nothing but a home directory."""
        ids = (f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
        return self.started_by("setpriv", *ids).with_env(HOME=str(home))

    @property
    def store(self) -> Path:
        return Path(self.env["BUILDIT_STORE"])

    def start(self, *words: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.before, self.python, "-m", "buildit", *words],
            env=dict(self.env),
            cwd=cwd or "/",
            umask=self.umask,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, cwd: Path | None = None, timeout: float = 900) -> Done:
        with self.start(*words, cwd=cwd) as process:
            try:
                out, err = process.communicate(timeout=timeout)
            except BaseException:
                process.kill()
                raise
        return Done(process.returncode, out, err)


def install(directory: Path) -> Program:
    """Copy this checkout and what it imports to where every user can read it.

    The tests go on with what the checkout was when they began.
    """
    code, libraries = directory / "code", directory / "libraries"
    code.mkdir(parents=True)
    for name in _SHIPPED:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, code / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, code / name)
    shutil.copytree(
        sysconfig.get_path("purelib"), libraries, ignore=shutil.ignore_patterns(*_NOT_NEEDED)
    )
    # Once for the thousand starts to come, whatever their clock says of the sources' times.
    compiling = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
    subprocess.run([sys.executable, *compiling, code / "buildit"], check=True)
    subprocess.run(["chmod", "-R", "u=rwX,go=rX", directory], check=True)
    home = directory / "home"
    home.mkdir()
    env = {
        "PATH": PATH,
        "HOME": str(home),
        "PYTHONPATH": f"{code}:{libraries}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "error::ResourceWarning",
        "BUILDIT_STORE": str(directory / "store"),
    }
    return Program(_python_for_all(env), env)


def _python_for_all(env: Mapping[str, str]) -> str:
    """The interpreter of these tests where a stranger can run it, else Debian's of that version."""
    own = os.path.realpath(sys.executable)
    if os.geteuid() != 0:
        return own
    ids = (f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    wanted = f"import sys, pydantic, yaml; sys.exit(sys.version_info[:2] != {sys.version_info[:2]})"
    for python in (own, "/usr/bin/python3"):
        # through env: setpriv itself may still pass directories that are closed to others
        argv = ["setpriv", *ids, "env", python, "-c", wanted]
        done = subprocess.run(argv, env=dict(env), cwd="/", check=False, capture_output=True)
        if done.returncode == 0:
            return python
    return own


def _ancestors() -> set[int]:
    """This process and whoever started it: their environment may name a store of the tests."""
    pid, found = os.getpid(), set()
    while pid > 0:
        found.add(pid)
        # the second word after the last parenthesis (proc_pid_stat(5))
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def living(token: str) -> list[int]:
    """Processes of the whole machine that have the token in arguments, environment or directory."""
    found, ours = [], _ancestors()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ours:
            continue
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            place = os.readlink(entry / "cwd")
        except OSError:
            continue
        if token.encode() in words or token in place:
            found.append(int(entry.name))
    return found


def left_over(token: str, seconds: float = 60.0) -> list[str]:
    """Processes and mounts that name the token and do not go away by themselves."""
    end = time.monotonic() + seconds
    while (found := living(token)) and time.monotonic() < end:
        time.sleep(0.05)
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if token in line]
    return [*(f"process {pid}" for pid in found), *mounts]
