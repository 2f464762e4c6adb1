"""podman for tests: a storage of its own, containers without a network, all gone afterwards."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

# FORMATS 2.5: crun refuses a hybrid cgroup tree, podman's own limits are above the hard ones.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none")


@dataclass(frozen=True, slots=True)
class Podman:
    """`podman` with the options of one storage; `root` is a directory for what tests mount."""

    argv: tuple[str, ...]
    root: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The container of an image, in the foreground: `run("oci:DIR:TAG", "sh", "-c", …)`."""
        argv = [*self.argv, "run", "--rm", *LIMITS, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)

    def start(self, name: str, image: str, *options: str) -> Container:
        """The container of an image in the background, once it has a process."""
        run = [*self.argv, "run", "-d", "--name", name, *LIMITS, *options, image]
        started = subprocess.run(run, capture_output=True, text=True, check=False)
        assert started.returncode == 0, started.stderr
        return Container(self, name)


@dataclass(frozen=True, slots=True)
class Container:
    """A container that was started, and how to ask it."""

    podman: Podman
    name: str

    def inspect(self) -> dict[str, object]:
        argv = [*self.podman.argv, "inspect", self.name]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True)
        found: dict[str, object] = json.loads(shown.stdout)[0]["State"]
        return found

    @property
    def pid(self) -> int:
        """Its first process; 0 where it has ended."""
        return int(str(self.inspect()["Pid"]))

    def logs(self) -> str:
        argv = [*self.podman.argv, "logs", self.name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Ask it to end as its image says; its exit status."""
        argv = [*self.podman.argv, "stop", "-t", "10", self.name]
        subprocess.run(argv, check=True, capture_output=True)
        return int(str(self.inspect()["ExitCode"]))

    def curl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """curl(1) in the container's network, which has a loopback and nothing else."""
        argv = ["nsenter", "-t", str(self.pid), "-n", "curl", "-sS", "-m", "10", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def status(self, *words: str) -> str:
        done = self.curl("-o", "/dev/null", "-w", "%{http_code}", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def answers(self, *words: str, seconds: float = 30) -> Container:
        """This, once curl with `words` gets an answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.inspect()["Status"]
            assert state in ("created", "initialized", "running"), self.logs()
            if self.pid and self.curl("-o", "/dev/null", *words).returncode == 0:
                return self
            time.sleep(0.2)
        raise AssertionError(f"it does not answer: {self.logs()}")


@contextmanager
def podman() -> Iterator[Podman]:
    """podman as root with runc; skips the test where that cannot be.

    podman takes at most 50 characters for its --runroot, so the storage lies in /tmp.
    """
    if os.geteuid() != 0:
        pytest.skip("podman is run as root here")
    for tool in ("podman", "runc", "curl", "nsenter"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{tool} is not installed")
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as name:
        root = Path(name)
        own = ("--root", str(root / "root"), "--runroot", str(root / "run"))
        argv = ("podman", *own, "--tmpdir", str(root / "tmp"), "--runtime", "runc")
        try:
            yield Podman(argv, root)
        finally:
            subprocess.run([*argv, "rm", "-f", "-a", "-t", "1"], capture_output=True, check=False)
            subprocess.run([*argv, "rmi", "--all", "--force"], capture_output=True, check=False)
            if (root / "root/overlay").is_mount():
                subprocess.run(["umount", str(root / "root/overlay")], check=True)
