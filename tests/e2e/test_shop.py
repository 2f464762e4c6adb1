"""The example of a stack, as its README says: nginx before an app with PostgreSQL, brought up,
asked, and killed in part."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.demo import Demo
from tests.engines import podman
from tests.integration.program import CHECKOUT, Done, Program

pytestmark = pytest.mark.e2e

_CERTIFICATE = """\
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 -subj /CN=localhost
-addext subjectAltName=DNS:localhost -keyout key.pem -out cert.pem
"""


@dataclass(frozen=True, slots=True)
class Shop:
    """A copy of the example beside that of nginx, which asks at a port of its own."""

    box: Path
    program: Program
    engine: tuple[str, ...]
    port: int

    def run(self, verb: str, *words: str) -> Done:
        return self.program.run(verb, *words, str(self.box), cwd=self.box.parent, timeout=900)

    def curl(self, *words: str, scheme: str = "https") -> str:
        """What curl prints; empty where it gets no answer."""
        trust = ("--cacert", str(self.box / "tls/cert.pem"))
        url = f"{scheme}://localhost:{self.port}/"
        argv = ["curl", "-sS", "-m", "10", "-4", *trust, *words, url]
        return subprocess.run(argv, capture_output=True, text=True, check=False).stdout

    def names(self) -> list[str]:
        """The things that the shop has; none while it has no answer."""
        with suppress(json.JSONDecodeError, TypeError):
            return [one["name"] for one in json.loads(self.curl())]
        return []

    def until(self, wanted: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while not wanted():
            logs = self.run("logs")
            assert time.monotonic() < end, f"{logs.out}\n{logs.err}"
            time.sleep(0.3)

    def first_process(self, member: str) -> int:
        """The number on this machine of a container's first process; 0 where it runs not."""
        rows = json.loads(self.run("ps", "--json").good().out)
        (name,) = (row["identifier"] for row in rows if row["member"] == member)
        argv = [*self.engine, "inspect", "--format", "{{.State.Pid}}", name]
        return int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)

    def servers(self) -> list[int]:
        """The processes of PostgreSQL in the stack, its first one first."""
        mine = os.readlink(f"/proc/{self.first_process('db')}/ns/pid")
        found = []
        for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda one: int(one.name)):
            with suppress(OSError):
                is_server = os.path.basename(os.readlink(path / "exe")) == "postgres"
                if is_server and os.readlink(path / "ns/pid") == mine:
                    found.append(int(path.name))
        return found


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def shop(demo: Demo, here: Path) -> Iterator[Shop]:
    shutil.copytree(CHECKOUT / "containers/shop", here / "shop")
    shutil.copytree(demo.box, here / "nginx-prod", symlinks=True)
    subprocess.run(_CERTIFICATE.split(), cwd=here / "shop/tls", check=True, capture_output=True)
    port, stack = free_port(), here / "shop/stack.yaml"
    stack.write_text(stack.read_text().replace("127.0.0.1:8443:443", f"127.0.0.1:{port}:443"))
    with podman() as engine:
        own = here / "bin/podman"
        own.parent.mkdir()
        words = " ".join(f"'{word}'" for word in engine.argv)
        own.write_text(f'#!/bin/sh\nPATH={demo.program.env["PATH"]} exec {words} "$@"\n')
        own.chmod(0o755)
        program = demo.program.with_env(PATH=f"{own.parent}:{demo.program.env['PATH']}")
        made = Shop(here / "shop", program, engine.argv, port)
        try:
            yield made
        finally:
            made.run("down", "--volumes")


def test_the_shop_survives_its_database_and_itself(shop: Shop) -> None:
    shop.run("up", "--detach").good()
    first = "a first thing"
    shop.until(lambda: shop.names() == [first])
    assert json.loads(shop.curl("-d", "a second"))["id"] == 2
    assert shop.curl("-o", "/dev/null", "-w", "%{http_code}", "-d", "") == "400"

    # the server dies: the init of its container starts it again
    before = shop.servers()[0]
    os.kill(before, signal.SIGKILL)
    shop.until(lambda: bool(one := shop.servers()) and one[0] != before)
    shop.until(lambda: shop.names() == [first, "a second"])

    # the whole container dies, as where the power goes: it comes back, and so does the app
    before = shop.first_process("db")
    os.kill(before, signal.SIGKILL)
    shop.until(lambda: shop.first_process("db") not in (0, before))
    shop.until(lambda: shop.names() == [first, "a second"])
    assert json.loads(shop.curl("-d", "a third"))["id"] > 2

    # data outlives the containers, and goes with the volumes
    shop.run("down").good()
    assert shop.curl() == ""
    shop.run("up", "--detach").good()
    shop.until(lambda: shop.names() == [first, "a second", "a third"])
    shop.run("down", "--volumes").good()
    shop.run("up", "--detach").good()
    shop.until(lambda: shop.names() == [first])


def test_nothing_starts_without_a_certificate(shop: Shop) -> None:
    (shop.box / "tls/key.pem").unlink()
    done = shop.run("up", "--detach")
    assert done.code == 2, done.err
    assert "tls/key.pem" in done.err
    assert "Traceback" not in done.err
    argv = [*shop.engine, "ps", "--all", "--quiet"]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == ""
