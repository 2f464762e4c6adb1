"""A stack of three that is built: from nothing running to its first answer, and podman-compose with
the same images."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bench.rivals import installed
from bench.room import Room
from bench.tables import Table, Verdict, ratio, rows
from bench.timing import Run, Side, interleaved, process

PORT = 18765
LIMIT = 1.0
_NEEDED = ("podman", "runc", "curl", "busybox")
_STACK = f"""name: bench
containers:
  web:
    path: ./one
    links: [app]
    ports: ["127.0.0.1:{PORT}:8080"]
    ready: {{tcp: 8080}}
  app: {{path: ./one, links: [db], ready: {{tcp: 8080}}}}
  db: {{path: ./one, ready: {{tcp: 8080}}}}
"""
_ONE = """- vars: {name: bench-one, version: "1"}
- sync: {src: ./busybox, dest: /bin/busybox, chmod: 0755}
- sync: {src: ./index.html, dest: /www/index.html}
- entrypoint: [/bin/busybox, httpd, -f, -p, "8080", -h, /www]
- image: {type: oci}
"""
_COMPOSE = f"""services:
  web: {{image: "IMAGE", depends_on: [app], ports: ["127.0.0.1:{PORT}:8080"]}}
  app: {{image: "IMAGE", depends_on: [db]}}
  db: {{image: "IMAGE"}}
"""
_ASK = f"until curl -sf -o /dev/null http://127.0.0.1:{PORT}/; do sleep 0.02; done"


def measure(room: Room, rounds: int) -> Table:
    """Both with a storage of podman's that is the bench's own."""
    title = "a stack of three, from nothing running to its first answer"
    if len(installed(*_NEEDED)) < len(_NEEDED):
        return Table("up", f"{title}: {', '.join(_NEEDED)} are needed", (), ())
    place = room.root / "up"
    shutil.rmtree(place, ignore_errors=True)
    (place / "one").mkdir(parents=True)
    (place / "stack.yaml").write_text(_STACK)
    (place / "one/container.yaml").write_text(_ONE)
    (place / "one/index.html").write_text("hello\n")
    shutil.copy(shutil.which("busybox") or "", place / "one/busybox")
    own = {"BUILDIT_STORE": str(room.store), **_podman(room.root / "up-podman")}
    environment = {**os.environ, **room.environment(), **own}

    def run(*argv: str) -> str:
        done = subprocess.run(
            argv, env=environment, cwd=place, check=True, capture_output=True, text=True
        )
        return done.stdout

    def answered(name: str, *argv: str) -> Run:
        words = ["sh", "-c", f'"$@" && {_ASK}', "sh", *argv]
        return lambda: process(words, cwd=place, log=room.log(f"{name}.log"), env=environment)

    def nothing() -> None:
        run("podman", "rm", "-fa", "-t", "0")
        run(*room.program, "down", str(place))

    ours = answered("up", *room.program, "up", str(place), "--wait")
    ours()
    image = run("podman", "images", "--quiet").split()[0]
    (place / "compose.yaml").write_text(_COMPOSE.replace("IMAGE", image))
    sides = [Side("buildit up", ours, nothing)]
    verdicts: tuple[Verdict, ...] = ()
    if installed("podman-compose"):
        theirs = answered("up-compose", "podman-compose", "up", "-d")
        sides.append(Side("podman-compose up", theirs, nothing))
    found = interleaved(sides, rounds)
    nothing()
    if len(sides) > 1:
        verdicts = ratio(found, "buildit up", "podman-compose up", LIMIT)
    return Table("up", title, rows(found), verdicts)


def _podman(root: Path) -> dict[str, str]:
    """The environment of a podman with a storage of its own, as this machine needs it."""
    root.mkdir(exist_ok=True)
    limits = '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    engine = f'[engine]\nruntime = "runc"\nlock_type = "file"\ntmp_dir = "{root}/tmp"\n'
    (root / "containers.conf").write_text(limits + engine)
    places = f'graphroot = "{root}/root"\nrunroot = "{root}/run"\n'
    (root / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\n{places}')
    names = {"CONTAINERS_CONF": "containers.conf", "CONTAINERS_STORAGE_CONF": "storage.conf"}
    return {name: str(root / file) for name, file in names.items()}
