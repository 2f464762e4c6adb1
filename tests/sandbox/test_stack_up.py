"""`buildit up` with Debian's podman: a storage of its own, images of one static program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.scale import WHOLE

pytestmark = pytest.mark.sandbox

# Serves HTTP at a port after so many milliseconds, ends with status 0 at SIGTERM; a GET of a file
# gives its content. "fail" writes a line and ends with 3.
PROGRAM = r"""
#include <arpa/inet.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
static void end(int n) { printf("ends\n"); fflush(stdout); _exit(0); }
int main(int argc, char **argv) {
    signal(SIGTERM, end);
    if (!strcmp(argv[1], "fail")) { printf("cannot go on\n"); return 3; }
    int port = atoi(argv[1]), on = 1;
    printf("starts\n"); fflush(stdout);
    usleep(1000 * atoi(argv[2]));
    int s = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port)};
    if (bind(s, (void *)&at, sizeof at) || listen(s, 9)) return 9;
    printf("listens\n"); fflush(stdout);
    for (;;) {
        char text[4096] = {0}, path[1024] = {0}, body[4096];
        int c = accept(s, 0, 0);
        if (c < 0) continue;
        if (read(c, text, sizeof text - 1) > 0 && sscanf(text, "GET %1000s", path) == 1) {
            int f = open(path, O_RDONLY), n = f < 0 ? 0 : read(f, body, sizeof body);
            if (n < 0) n = 0;
            dprintf(c, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n", n);
            write(c, body, n);
            if (f >= 0) close(f);
        }
        close(c);
    }
}
"""

STACK = """\
name: look
containers:
  web:
    path: ./one
    command: ["8080", "0"]
    links: [db]
    ports: ["127.0.0.1:{port}:8080"]
    ready: {{http: {{port: 8080}}}}
    secrets: [canary]
    test: {{http: {{path: /, status: 200}}}}
  db:
    path: ./one
    command: ["5432", "300"]
    volumes: ["rows:/rows"]
    ready: {{tcp: 5432}}
    restart: always
volumes: {{rows: {{}}}}
secrets: {{canary: {{file: ./canary}}}}
"""

CANARY = b"canary-Zq81-never-shown"


@dataclass(frozen=True)
class Place:
    """A directory with a stack, and the environment of a podman of its own."""

    directory: Path
    environ: dict[str, str]
    port: int

    def podman(self, *words: str) -> str:
        argv = ["podman", *words]
        done = subprocess.run(argv, env=self.environ, capture_output=True, text=True, check=True)
        return done.stdout

    def buildit(self, *words: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "buildit", *words]
        done = subprocess.run(
            argv,
            env=self.environ,
            cwd=self.directory.parent,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "buildit", "up", str(self.directory), *words]
        out, told = self.directory.parent / "out.txt", self.directory.parent / "told.txt"
        with out.open("wb") as stdout, told.open("wb") as stderr:
            return subprocess.Popen(
                argv,
                env=self.environ,
                cwd=self.directory.parent,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    def told(self) -> str:
        return (self.directory.parent / "told.txt").read_text()

    def until(self, text: str, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + 90
        while text not in self.told():
            assert process.poll() is None, self.told()
            assert time.monotonic() < end, self.told()
            time.sleep(0.02)

    def left(self) -> list[str]:
        """All that is there but volumes and images."""
        of = ("--filter", "label=org.buildit.stack")
        return [
            *self.podman("ps", "--all", "--quiet").split(),
            *self.podman("network", "ls", "--quiet", *of).split(),
            *self.podman("secret", "ls", "--quiet").split(),
        ]

    def get(self, path: str = "/") -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
            return bytes(answer.read())


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("podman is run as root here")
    for tool in ("podman", "runc", "gcc"):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"{tool} is not installed")
    made = tmp_path_factory.mktemp("program")
    (made / "one.c").write_text(PROGRAM)
    argv = ["gcc", "-static", "-O1", "-w", "-o", str(made / "one"), str(made / "one.c")]
    subprocess.run(argv, check=True)
    return made / "one"


@pytest.fixture
def place(program: Path, tmp_path: Path) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="up-", dir="/tmp") as name:
        root = Path(name)
        (root / "containers.conf").write_text(
            f'[engine]\nlock_type = "file"\ntmp_dir = "{root}/tmp"\n'
        )
        storage = f'driver = "overlay"\ngraphroot = "{root}/root"\nrunroot = "{root}/run"\n'
        (root / "storage.conf").write_text(f"[storage]\n{storage}")
        environ = {
            **os.environ,
            "CONTAINERS_CONF": str(root / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(root / "storage.conf"),
            "XDG_CACHE_HOME": str(root / "cache"),
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        made = Place(tmp_path / "look", environ, port)
        (made.directory / "one").mkdir(parents=True)
        shutil.copy(program, made.directory / "one/one")
        (made.directory / "one/container.yaml").write_text(
            '- vars: {name: one, version: "1"}\n'
            "- sync: {src: ./one, dest: /one, chmod: 0755}\n- entrypoint: [/one]\n"
            "- image: {type: oci}\n"
        )
        (made.directory / "canary").write_bytes(CANARY)
        (made.directory / "stack.yaml").write_text(STACK.format(port=port))
        try:
            yield made
        finally:
            for words in (("rm", "-fa", "-t", "0"), ("network", "prune", "-f"), ("rmi", "-fa")):
                subprocess.run(["podman", *words], env=environ, capture_output=True, check=False)
            if (root / "root/overlay").is_mount():
                subprocess.run(["umount", str(root / "root/overlay")], check=True)


def test_it_comes_up_in_order_and_all_goes_at_ctrl_c(place: Place) -> None:
    process = place.begin()
    place.until("ready: ", process)
    told = place.told()
    assert told.index("db: ready") < told.index("web: started")
    assert f"ready: http://127.0.0.1:{place.port}/ (" in told
    assert place.get("/run/secrets/canary") == CANARY
    rows = {one["name"]: one for one in json.loads(place.buildit("ps", "look", "--json").stdout)}
    assert {name: row["state"] for name, row in rows.items()} == {"db": "running", "web": "running"}
    assert place.buildit("exec", "look", "db", "/one", "fail", status=3).stdout == "cannot go on\n"

    pid = int(place.podman("inspect", "--format", "{{.State.Pid}}", rows["db"]["identifier"]))
    os.kill(pid, signal.SIGKILL)
    place.until("db: ended; podman has started it again", process)

    for path in Path("/proc").glob("[0-9]*"):
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                assert CANARY not in (path / name).read_bytes(), path
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert time.monotonic() - begun < 8
    told = place.told()
    assert told.index("web: removed") < told.index("db: removed")
    out = (place.directory.parent / "out.txt").read_bytes()
    assert b"db  | listens\n" in out
    assert b"web | ends\n" in out
    assert CANARY not in out + told.encode()
    assert place.left() == []
    assert len(place.podman("volume", "ls", "--quiet").split()) == 1
    place.buildit("down", "look", "--volumes")
    assert place.podman("volume", "ls", "--quiet").split() == []


def test_killed_at_any_moment_nothing_stays(place: Place) -> None:
    process = place.begin()
    place.until("ready: ", process)
    moments = ("db: started", "db: ready", "web: started", "ready: ")
    process.kill()
    process.wait()
    place.buildit("down", "look")
    assert place.left() == []
    for text in moments if WHOLE else moments[:1]:
        process = place.begin()
        place.until(text, process)
        process.kill()
        process.wait()
        place.buildit("down", "look")
        assert place.left() == [], text


def test_up_again_makes_anew_what_changed_alone(place: Place) -> None:
    place.buildit("up", "look", "--wait")
    first = {one["name"]: one for one in json.loads(place.buildit("ps", "look", "--json").stdout)}
    told = place.buildit("up", "look", "--wait").stderr
    assert "web: runs already" in told
    text = STACK.format(port=place.port).replace('"8080", "0"', '"8080", "1"')
    (place.directory / "stack.yaml").write_text(text)
    place.buildit("up", "look", "--wait")
    now = {one["name"]: one for one in json.loads(place.buildit("ps", "look", "--json").stdout)}
    assert now["db"]["identifier"] == first["db"]["identifier"]
    assert now["web"]["identifier"] != first["web"]["identifier"]
    assert now["web"]["addresses"] == first["web"]["addresses"]
    (place.directory / "canary").write_bytes(b"another-canary")
    place.buildit("up", "look", "--wait")
    assert place.get("/run/secrets/canary") == b"another-canary"
    lines = place.buildit("logs", "look", "db").stdout
    assert lines.splitlines()[:2] == ["db | starts", "db | listens"]
    (place.directory / "stack.yaml").unlink()  # what it is of stands in labels
    assert "2 containers" in place.buildit("down", "look").stdout
    assert place.left() == []


def test_what_never_becomes_ready_is_named(place: Place) -> None:
    text = STACK.format(port=place.port).replace("tcp: 5432", "tcp: 1, interval: 1, retries: 2")
    (place.directory / "stack.yaml").write_text(text)
    told = place.buildit("up", "look", status=1).stderr
    assert "db is not ready after 2 s: nothing listens on port 1" in told
    assert "\n  listens\n" in told
    assert place.left() == []
    (place.directory / "stack.yaml").write_text(text.replace('"5432", "300"', '"fail"'))
    told = place.buildit("up", "look", "--wait", status=1).stderr
    assert "cannot go on" in told
    assert place.left() == []


def test_a_taken_port_is_named_before_anything_is_made(place: Place) -> None:
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("127.0.0.1", place.port))
        one.listen()
        told = place.buildit("up", "look", status=2).stderr
    assert f"the port 127.0.0.1:{place.port} of web is taken by" in told
    assert f"(pid {os.getpid()})" in told
    assert place.left() == []


def test_tests_of_a_stack(place: Place) -> None:
    told = place.buildit("up", "look", "--test").stderr
    assert "test of web" in told
    assert place.left() == []
    path = place.directory / "stack.yaml"
    path.write_text(path.read_text().replace("status: 200", "contains: something"))
    told = place.buildit("up", "look", "--test", status=1).stderr
    assert "1 of 1 tests of the stack failed" in told
    assert place.left() == []


def test_two_stacks_of_one_name(place: Place) -> None:
    other = place.directory.parent / "far/look"
    shutil.copytree(place.directory, other)
    text = STACK.format(port=place.port).replace(f"127.0.0.1:{place.port}", "127.0.0.1:any")
    (other / "stack.yaml").write_text(text)
    place.buildit("up", "look", "--wait")
    place.buildit("up", "far/look", "--wait")
    place.buildit("down", "look", "--volumes")
    rows = json.loads(place.buildit("ps", "far/look", "--json").stdout)
    assert [row["state"] for row in rows] == ["running", "running"]
    place.buildit("down", "far/look", "--volumes")
    assert place.left() == []


def test_without_podman_one_message(place: Place, tmp_path: Path) -> None:
    without = replace(place, environ={**place.environ, "PATH": str(tmp_path)})
    told = without.buildit("up", "look", status=1).stderr
    assert "podman, which is not installed" in told
    assert "buildit doctor" in told
