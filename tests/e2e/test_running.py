"""The demo's image runs: HTTPS is served, plain HTTP is refused, the workers are not root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.demo import TAG, Demo
from tests.engines import Container, podman

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def running(demo: Demo) -> Iterator[Container]:
    with podman() as program:
        tls = program.root / "tls"
        tls.mkdir()
        subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
        pair = ("-keyout", str(tls / "key.pem"), "-out", str(tls / "cert.pem"))
        argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        subprocess.run([*argv, *subject, *pair], check=True, capture_output=True)
        image = f"oci:{demo.oci}:{TAG}"
        web = program.start("web", image, "-v", f"{tls}:/etc/nginx/tls:ro")
        yield web.answers("-k", "https://localhost/")


def test_https_is_served(running: Container) -> None:
    done = running.curl("-k", "-i", "https://localhost/")
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert head.startswith("HTTP/2 200")
    assert "server: nginx\n" in head.lower() + "\n"
    assert "strict-transport-security" in head.lower()
    shipped = Path("containers/nginx-prod/files/html/index.html")
    assert body == (Path(__file__).parents[2] / shipped).read_text()


@pytest.mark.parametrize("url", ["http://localhost/", "http://[::1]/", "http://localhost/x.html"])
def test_plain_http_is_refused(running: Container, url: str) -> None:
    assert running.status(url) == "403"


def test_plain_http_on_the_tls_port_is_refused(running: Container) -> None:
    assert running.status("http://localhost:443/") == "400"


def test_ipv6_is_served(running: Container) -> None:
    assert running.status("-k", "https://[::1]/") == "200"


def test_dot_files_and_absent_files_are_not_found(running: Container) -> None:
    """Regular expressions work: pcre is in."""
    assert running.status("-k", "https://localhost/.git/config") == "404"
    assert running.status("-k", "https://localhost/absent") == "404"


def test_old_tls_is_refused(running: Container) -> None:
    assert running.curl("-k", "--tls-max", "1.1", "https://localhost/").returncode != 0


def test_workers_are_not_root(running: Container) -> None:
    pid = running.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert children
    for child in children:
        status = Path(f"/proc/{child}/status").read_text()
        assert "\nUid:\t101\t101\t101\t101\n" in status


def test_stop_signal_ends_it_cleanly(running: Container) -> None:
    """Last: SIGQUIT, as the image says, and exit status 0."""
    assert running.stop() == 0
