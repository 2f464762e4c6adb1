"""The demo's image runs: HTTPS is served, plain HTTP is refused, the workers are not root."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.demo import TAG, Demo

pytestmark = pytest.mark.e2e

# FORMATS 2.5: crun refuses a hybrid cgroup tree, podman's own limits are above the hard ones.
LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")


@dataclass(frozen=True, slots=True)
class Running:
    """The container: a process of it, and how to ask podman."""

    pid: int
    podman: tuple[str, ...]
    name: str

    def curl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """curl(1) in the container's network, which has a loopback and nothing else."""
        argv = ["nsenter", "-t", str(self.pid), "-n", "curl", "-sS", "-m", "10", *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    def status(self, *words: str) -> str:
        done = self.curl("-o", "/dev/null", "-w", "%{http_code}", *words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def running(demo: Demo) -> Iterator[Running]:
    if os.geteuid() != 0:
        pytest.skip("podman is run as root here")
    for tool in ("podman", "runc", "curl", "openssl", "nsenter"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{tool} is not installed")
    # podman takes at most 50 characters for its --runroot
    with tempfile.TemporaryDirectory(prefix="podman-", dir="/tmp") as name:
        root = Path(name)
        tls = root / "tls"
        tls.mkdir()
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        pair = ("-keyout", str(tls / "key.pem"), "-out", str(tls / "cert.pem"))
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        subprocess.run([*argv, *subject, *pair], check=True, capture_output=True)
        own = ("--root", str(root / "root"), "--runroot", str(root / "run"))
        podman = ("podman", *own, "--tmpdir", str(root / "tmp"), "--runtime", "runc")
        image = f"oci:{demo.oci}:{TAG}"
        mount = ("-v", f"{tls}:/etc/nginx/tls:ro")
        run = [*podman, "run", "-d", "--name", "web", "--network", "none", *LIMITS, *mount, image]
        try:
            started = subprocess.run(run, capture_output=True, text=True, check=False)
            assert started.returncode == 0, started.stderr
            yield Running(_pid(podman), podman, "web")
        finally:
            subprocess.run([*podman, "rm", "-f", "-t", "1", "web"], capture_output=True, check=True)
            subprocess.run([*podman, "rmi", "--all", "--force"], capture_output=True, check=False)
            if (root / "root/overlay").is_mount():
                subprocess.run(["umount", str(root / "root/overlay")], check=True)


def _pid(podman: tuple[str, ...]) -> int:
    """The container's first process, once it answers."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        shown = subprocess.run(
            [*podman, "inspect", "web"], capture_output=True, text=True, check=True
        )
        state = json.loads(shown.stdout)[0]["State"]
        assert state["Status"] in ("created", "initialized", "running"), _logs(podman)
        pid = int(state["Pid"])
        argv = ["nsenter", "-t", str(pid), "-n", "curl", "-sko", "/dev/null", "https://localhost/"]
        if pid and subprocess.run(argv, check=False).returncode == 0:
            return pid
        time.sleep(0.2)
    raise AssertionError(f"nginx does not answer: {_logs(podman)}")


def _logs(podman: tuple[str, ...]) -> str:
    done = subprocess.run([*podman, "logs", "web"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_https_is_served(running: Running) -> None:
    done = running.curl("-k", "-i", "https://localhost/")
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/2 200")
    assert "server: nginx\n" in head.lower() + "\n"
    assert "strict-transport-security" in head.lower()
    shipped = Path("containers/nginx-prod/files/html/index.html")
    assert body == (Path(__file__).parents[2] / shipped).read_text()


@pytest.mark.parametrize("url", ["http://localhost/", "http://[::1]/", "http://localhost/x.html"])
def test_plain_http_is_refused(running: Running, url: str) -> None:
    assert running.status(url) == "403"


def test_plain_http_on_the_tls_port_is_refused(running: Running) -> None:
    assert running.status("http://localhost:443/") == "400"


def test_ipv6_is_served(running: Running) -> None:
    assert running.status("-k", "https://[::1]/") == "200"


def test_dot_files_and_absent_files_are_not_found(running: Running) -> None:
    """Regular expressions work: pcre is in."""
    assert running.status("-k", "https://localhost/.git/config") == "404"
    assert running.status("-k", "https://localhost/absent") == "404"


def test_old_tls_is_refused(running: Running) -> None:
    assert running.curl("-k", "--tls-max", "1.1", "https://localhost/").returncode != 0


def test_workers_are_not_root(running: Running) -> None:
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    assert children
    for child in children:
        status = Path(f"/proc/{child}/status").read_text()
        assert "\nUid:\t101\t101\t101\t101\n" in status


def test_stop_signal_ends_it_cleanly(running: Running) -> None:
    """Last: SIGQUIT, as the image says, and exit status 0."""
    argv = [*running.podman, "stop", "-t", "10", running.name]
    subprocess.run(argv, check=True, capture_output=True)
    shown = subprocess.run(
        [*running.podman, "inspect", running.name], capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout)[0]["State"]["ExitCode"] == 0
