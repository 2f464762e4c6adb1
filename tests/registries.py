"""Debian's docker-registry for tests: on loopback, with TLS and a password where they want it."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from tests.servers import Certificates, certificates, free_port

USER, PASSWORD = "ada", "a secret"


@dataclass(frozen=True, slots=True)
class Served:
    """A registry that runs: `host` has its port, `storage` is where its blobs lie."""

    host: str
    storage: Path
    certificates: Certificates | None


@contextmanager
def registry(root: Path, *, secure: bool = True) -> Iterator[Served]:
    """docker-registry; with `secure` it speaks TLS and wants USER and PASSWORD."""
    program = shutil.which("docker-registry")
    if program is None or (secure and shutil.which("htpasswd") is None):
        pytest.skip("docker-registry or htpasswd (apache2-utils) is not installed")
    root.mkdir(parents=True)
    port, storage = free_port(), root / "storage"
    lines = [
        "version: 0.1",
        "log: {level: error}",
        f"storage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}",
    ]
    made = None
    if secure:
        made = certificates(root / "tls")
        words = ["htpasswd", "-Bbn", USER, PASSWORD]
        (root / "passwords").write_bytes(
            subprocess.run(words, capture_output=True, check=True).stdout
        )
        lines.append(f"auth: {{htpasswd: {{realm: tests, path: {root}/passwords}}}}")
        tls = f", tls: {{certificate: {made.certificate}, key: {made.key}}}"
    else:
        tls = ""
    lines.append(f"http: {{addr: '127.0.0.1:{port}', secret: x{tls}}}")
    (root / "config.yml").write_text("\n".join(lines) + "\n")
    with (root / "log").open("wb") as log:
        process = subprocess.Popen([program, "serve", root / "config.yml"], stdout=log, stderr=log)
        try:
            _wait(port, process, root / "log")
            yield Served(f"127.0.0.1:{port}", storage, made)
        finally:
            process.terminate()
            process.wait(20)


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 60
    while True:
        assert process.poll() is None, log.read_text()
        try:
            urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5).close()
        except HTTPError:
            return  # it answers: 401, or that it wants TLS
        except (URLError, OSError):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        else:
            return


def environ(home: Path) -> dict[str, str]:
    """The environment of somebody whose logins are in `home` alone."""
    kept = {name: value for name, value in os.environ.items() if "AUTH_FILE" not in name}
    return {
        **kept,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home),
        "DOCKER_CONFIG": f"{home}/docker",
    }
