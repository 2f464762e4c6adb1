"""Databases in containers for tests: what starts, asks and looks through them, engine by engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.engines import Container, Engine

REFUSED = 78
"""What a container ends with whose database cannot start as things are."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An engine of databases: the name of its step, where its data lies, and what of it a client
    inside of the container says; `%s` stands for the statement."""

    name: str
    volume: str
    place: str
    process: str
    table: str
    network: tuple[str, ...]
    admin: tuple[str, ...]
    password: str


POSTGRESQL = Kind(
    name="postgresql",
    volume="/var/lib/postgresql",
    place="15/main",
    process="/usr/lib/postgresql/15/bin/postgres",
    table="CREATE TABLE item (id serial PRIMARY KEY, name text NOT NULL);\n"
    "INSERT INTO item (name) VALUES ('first');\n",
    network=("psql", "-X", "-A", "-t", "-h", "127.0.0.1", "-U", "web", "-d", "shop", "-c"),
    admin=("psql", "-X", "-A", "-t", "-U", "postgres", "-d", "shop", "-c"),
    password="PGPASSWORD",
)
MARIADB = Kind(
    name="mariadb",
    volume="/var/lib/mysql",
    place="10.11",
    process="mariadbd",
    table="CREATE TABLE item (id int AUTO_INCREMENT PRIMARY KEY, name text NOT NULL);\n"
    "INSERT INTO item (name) VALUES ('first');\n",
    network=("mariadb", "-N", "-B", "-h", "127.0.0.1", "-u", "web", "shop", "-e"),
    admin=("mariadb", "-N", "-B", "shop", "-e"),
    password="MYSQL_PWD",
)
KINDS = (POSTGRESQL, MARIADB)


@dataclass(frozen=True, slots=True)
class Server:
    """A container with a database."""

    kind: Kind
    container: Container

    def exec(self, *words: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """The status of a program in the container, and what it said."""
        given = [f"--env={name}={value}" for name, value in (env or {}).items()]
        argv = [*self.container.engine.argv, "exec", *given, self.container.name, *words]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
        return done.returncode, (done.stdout + done.stderr).strip()

    def ask(self, statement: str, password: str) -> tuple[int, str]:
        """As the app asks over the network, by a password."""
        return self.exec(*self.kind.network, statement, env={self.kind.password: password})

    def names(self, password: str) -> list[str]:
        """The rows of the table, which the user reads by its password."""
        status, said = self.ask("SELECT name FROM item ORDER BY id", password)
        assert status == 0, said
        return said.split("\n")

    def is_ready(self) -> bool:
        return self.exec(f"/usr/lib/buildit/{self.kind.name}", "ready")[0] == 0

    def ready(self, seconds: float = 120) -> Server:
        """This, once it says that it is ready."""
        end = time.monotonic() + seconds
        while not self.is_ready():
            assert self.container.inspect()["Status"] == "running", self.container.logs()
            assert time.monotonic() < end, self.container.logs()
            time.sleep(0.1)
        return self

    def ended(self, seconds: float = 60) -> int:
        """Its exit status, once it has ended by itself."""
        end = time.monotonic() + seconds
        while self.container.inspect()["Status"] != "exited":
            assert time.monotonic() < end, self.container.logs()
            time.sleep(0.1)
        return int(str(self.container.inspect()["ExitCode"]))

    def inside(self) -> list[Path]:
        """The directories in /proc of its processes, the first one first."""
        mine = os.readlink(f"/proc/{self.container.pid}/ns/pid")
        found = []
        for path in sorted(Path("/proc").glob("[0-9]*"), key=lambda one: int(one.name)):
            with suppress(OSError):
                if os.readlink(path / "ns/pid") == mine:
                    found.append(path)
        return found

    def processes(self) -> Iterator[int]:
        """The numbers of the server's processes on this machine, its first one first."""
        for path in self.inside():
            with suppress(OSError):
                program = os.path.basename(os.readlink(path / "exe"))
                if program == os.path.basename(self.kind.process):
                    yield int(path.name)

    def kill_inside(self, word: str) -> int:
        """Kill what has the word among its arguments; how many that were."""
        found = 0
        for path in self.inside():
            with suppress(OSError):
                if word in (path / "cmdline").read_text().split("\0"):
                    os.kill(int(path.name), signal.SIGKILL)
                    found += 1
        return found

    def kill(self) -> None:
        """The whole container at once, as where the power goes."""
        argv = [*self.container.engine.argv, "kill", "-s", "KILL", self.container.name]
        subprocess.run(argv, check=True, capture_output=True)
        self.ended()

    def remove(self) -> None:
        argv = [*self.container.engine.argv, "rm", "-f", "-t", "0", self.container.name]
        subprocess.run(argv, check=True, capture_output=True)

    def told(self) -> Iterator[tuple[str, bytes]]:
        """All that others can see of it: what it logs, what podman says of it, and the arguments
        and environment of each of its processes."""
        yield "logs", self.container.logs().encode()
        for words in (("inspect",), ("logs", "--timestamps"), ("top",)):
            argv = [*self.container.engine.argv, *words, self.container.name]
            yield " ".join(words), subprocess.run(argv, capture_output=True, check=False).stdout
        for path in self.inside():
            with suppress(OSError):
                yield f"{path}/cmdline", (path / "cmdline").read_bytes()
                yield f"{path}/environ", (path / "environ").read_bytes()


@dataclass(slots=True)
class Databases:
    """Containers of one image and one volume each."""

    engine: Engine
    kind: Kind
    image: str
    number: int = 0

    def secret(self, value: bytes, name: str = "db-password") -> None:
        """Give a secret a value."""
        argv = [*self.engine.argv, "secret"]
        subprocess.run([*argv, "rm", name], capture_output=True, check=False)
        subprocess.run([*argv, "create", name, "-"], input=value, check=True, capture_output=True)

    def start(self, volume: str, *options: str, secret: str = "db-password") -> Server:
        """A new container over a volume, with the secret where one is named."""
        self.number += 1
        given = [f"--secret={secret}"] if secret else []
        mount = f"--volume={volume}:{self.kind.volume}"
        name = f"{self.kind.name}-{self.number}"
        return Server(self.kind, self.engine.start(name, self.image, mount, *given, *options))

    def place(self, volume: str) -> Path:
        """Where a volume lies on this machine."""
        argv = [*self.engine.argv, "volume", "inspect", volume]
        create = [*self.engine.argv, "volume", "create", volume]
        subprocess.run(create, check=False, capture_output=True)
        shown = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return Path(json.loads(shown)[0]["Mountpoint"])
