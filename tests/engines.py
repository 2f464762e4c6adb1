"""podman and docker for tests: a storage of its own each, containers without a network, all gone
afterwards."""

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
from typing import IO

import pytest

# FORMATS 2.5: crun refuses a hybrid cgroup tree, podman's own limits are above the hard ones.
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024", "--network", "none")


@dataclass(frozen=True, slots=True)
class Engine:
    """`podman` or `docker` with the options of one storage; `root` is a directory for what tests
    mount."""

    argv: tuple[str, ...]
    root: Path

    def load(self, source: str, name: str) -> str:
        """Bring an image in, such as `oci:DIR:TAG`; what `start` takes it by."""
        archive = self.root / "image.tar"
        copy = ["skopeo", "copy", "--quiet", "--insecure-policy", source]
        subprocess.run([*copy, f"docker-archive:{archive}:{name}"], check=True)
        argv = [*self.argv, "load", "--quiet", "--input", str(archive)]
        subprocess.run(argv, check=True, capture_output=True)
        archive.unlink()
        return name

    def storage(self) -> str:
        """The storage driver."""
        key = "{{.Driver}}" if self.argv[0] == "docker" else "{{.Store.GraphDriverName}}"
        argv = [*self.argv, "info", "--format", key]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

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

    engine: Engine
    name: str

    def inspect(self) -> dict[str, object]:
        argv = [*self.engine.argv, "inspect", self.name]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True)
        found: dict[str, object] = json.loads(shown.stdout)[0]["State"]
        return found

    @property
    def pid(self) -> int:
        """Its first process; 0 where it has ended."""
        return int(str(self.inspect()["Pid"]))

    def logs(self) -> str:
        argv = [*self.engine.argv, "logs", self.name]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def stop(self) -> int:
        """Ask it to end as its image says; its exit status."""
        argv = [*self.engine.argv, "stop", "-t", "10", self.name]
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

    def answers(self, *words: str, seconds: float = 90) -> Container:
        """This, once curl with `words` gets an answer."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            state = self.inspect()["Status"]
            assert state in ("created", "initialized", "running"), self.logs()
            if self.pid and self.curl("-o", "/dev/null", *words).returncode == 0:
                return self
            time.sleep(0.2)
        raise AssertionError(f"it does not answer: {self.logs()}")


def _need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool, path=_PATH) is None:
            pytest.skip(f"{tool} is not installed")


@contextmanager
def podman() -> Iterator[Engine]:
    """podman as root with runc; skips the test where that cannot be.

    podman takes at most 50 characters for its --runroot, so the storage lies in /tmp.
    """
    if os.geteuid() != 0:
        pytest.skip("podman is run as root here")
    _need("podman", "runc", "curl", "nsenter")
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as name:
        root = Path(name)
        own = ("--root", str(root / "root"), "--runroot", str(root / "run"))
        # its locks too, which all podmans of the machine have in common by default: a new storage
        # frees the locks of the others
        (root / "containers.conf").write_text('[engine]\nlock_type = "file"\n')
        start = ("env", f"CONTAINERS_CONF={root}/containers.conf", "podman")
        argv = (*start, *own, "--tmpdir", str(root / "tmp"), "--runtime", "runc")
        try:
            yield Engine(argv, root)
        finally:
            subprocess.run([*argv, "rm", "-f", "-a", "-t", "1"], capture_output=True, check=False)
            subprocess.run([*argv, "rmi", "--all", "--force"], capture_output=True, check=False)
            if (root / "root/overlay").is_mount():
                subprocess.run(["umount", str(root / "root/overlay")], check=True)


@contextmanager
def docker(storage: str = "overlay2") -> Iterator[Engine]:
    """docker with a daemon of its own, as root; skips the test where that cannot be.

    The daemon has no bridge and touches no rule of the machine's firewall. Its socket lies in
    /tmp, as a path of one has at most 107 characters (unix(7)).
    """
    if os.geteuid() != 0:
        pytest.skip("docker is run as root here")
    _need("docker", "dockerd", "runc", "skopeo")
    with tempfile.TemporaryDirectory(prefix="docker-", dir="/tmp") as name:
        root = Path(name)
        argv = ("docker", "--host", f"unix://{root}/socket")
        with (root / "log").open("wb") as log, _daemon(root, storage, log) as process:
            engine = Engine(argv, root)
            end = time.monotonic() + 120
            while subprocess.run([*argv, "info"], capture_output=True, check=False).returncode:
                said = (root / "log").read_text()
                assert process.poll() is None, f"dockerd ended at once: {said}"
                assert time.monotonic() < end, f"dockerd does not answer: {said}"
                time.sleep(0.1)
            try:
                yield engine
            finally:
                listed = [*argv, "ps", "--all", "--quiet"]
                done = subprocess.run(listed, capture_output=True, text=True, check=False)
                for container in done.stdout.split():
                    remove = [*argv, "rm", "--force", container]
                    subprocess.run(remove, capture_output=True, check=False)


@contextmanager
def _daemon(root: Path, storage: str, log: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """dockerd, which starts a containerd of its own and ends with it."""
    places = ("--data-root", f"{root}/data", "--exec-root", f"{root}/exec", "-p", f"{root}/pid")
    # instead of the machine's; nothing is written to /etc/docker
    config = root / "daemon.json"
    config.write_text(json.dumps({"deprecated-key-path": f"{root}/key.json"}))
    net = ("--iptables=false", "--ip6tables=false", "--bridge=none")
    own = ("--host", f"unix://{root}/socket", "--storage-driver", storage, "--log-level", "error")
    daemon = subprocess.Popen(
        ["dockerd", "--config-file", str(config), *places, *net, *own],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": _PATH},
    )
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(30)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        if (root / "data").is_mount():  # it binds its data root to itself, and leaves that
            subprocess.run(["umount", str(root / "data")], check=True)
