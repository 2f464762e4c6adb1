"""Databases in real images: the first start, the next ones, and what ends in between."""

from __future__ import annotations

import itertools
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.databases import KINDS, REFUSED, Databases, Kind, Server
from tests.engines import Engine, podman
from tests.integration.seeds import Seed, place
from tests.scale import WHOLE

pytestmark = pytest.mark.sandbox

BOX = """\
- vars: {{name: {name}, version: 1}}
- database:
    engine: {name}
    name: shop
    user: web
    password: db-password
    network: yes
    init: [./schema.sql]
- image: {{type: oci}}
"""
MOMENTS = (0.15, 0.4, 0.8, 1.2, 1.6, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0) if WHOLE else (0.8, 2.0)
"""Seconds after its start at which a container is killed that makes its database."""

_numbers = itertools.count()


def built(seed: Seed, root: Path, text: str, **files: str) -> Path:
    """The layout of a container."""
    box = root / f"box-{next(_numbers)}"
    box.mkdir()
    (box / "container.yaml").write_text(text)
    for name, content in files.items():
        (box / name.replace("_sql", ".sql")).write_text(content)
    done = seed.program.run(str(box), "--output", str(box / "out"), timeout=900).good()
    (layout,) = done.images()
    return layout


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with podman() as found:
        yield found


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    with place("databases") as found:
        yield found


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def databases(request: pytest.FixtureRequest, seed: Seed, engine: Engine, root: Path) -> Databases:
    kind: Kind = request.param
    layout = built(seed, root, BOX.format(name=kind.name), schema_sql=kind.table)
    return Databases(engine, kind, f"oci:{layout}:1")


def volume() -> str:
    return f"volume-{next(_numbers)}"


def password() -> str:
    """One that no language likes, and no file has by chance."""
    return f'it\'s \\ "C{secrets.token_hex(8)}" $(x) `y` %s; -- é'


def test_data_stays_and_the_password_of_today_counts(databases: Databases) -> None:
    data, first, second = volume(), password(), password()
    databases.secret(first.encode() + b"\n")  # as editors write it
    server = databases.start(data).ready()
    assert server.names(first) == ["first"]
    assert server.ask("SELECT 1", first.replace("it", "at"))[0] != 0
    assert server.ask("SELECT 1", "")[0] != 0
    assert server.ask("INSERT INTO item (name) VALUES ('second')", first)[0] == 0

    began = time.monotonic()
    assert server.container.stop() == 0
    assert time.monotonic() - began < 8  # podman kills after ten
    log = server.container.logs()
    assert "ast shutdown request" in log or "Shutdown complete" in log, log
    server.remove()

    databases.secret(second.encode())
    server = databases.start(data).ready()
    log = server.container.logs()
    assert "making a new" not in log
    assert "reading" not in log
    assert server.ask("SELECT 1", first)[0] != 0
    assert server.names(second) == ["first", "second"]

    server.kill()
    server.remove()
    server = databases.start(data).ready()
    assert server.names(second) == ["first", "second"]

    # its process alone: the init starts it again
    before = next(server.processes())
    os.kill(before, signal.SIGKILL)
    end = time.monotonic() + 60
    while next(server.processes(), before) == before or not server.is_ready():
        assert time.monotonic() < end, server.container.logs()
        time.sleep(0.1)
    assert server.names(second) == ["first", "second"]
    server.remove()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_first_start_that_is_killed_begins_again(databases: Databases, moment: float) -> None:
    data = volume()
    databases.secret(b"a password")
    server = databases.start(data)
    time.sleep(moment)
    was_whole = (databases.place(data) / databases.kind.place).exists()
    server.kill()
    server.remove()
    server = databases.start(data).ready()
    assert server.names("a password") == ["first"]  # read once, and whole
    assert ("making a new" in server.container.logs()) or was_whole
    left = {one.name for one in (databases.place(data) / databases.kind.place).parent.iterdir()}
    assert not [name for name in left if name.endswith(".new")]
    server.remove()


def test_a_script_that_is_killed_leaves_no_server_in_the_way(databases: Databases) -> None:
    data = volume()
    databases.secret(b"a password")
    server = databases.start(data)
    end = time.monotonic() + 60
    while (  # one that works at it, not one that is asked for its version before
        "making a new" not in server.container.logs() or next(server.processes(), None) is None
    ):
        assert time.monotonic() < end, server.container.logs()
        time.sleep(0.02)
    assert server.kill_inside(f"/usr/lib/buildit/{databases.kind.name}")
    server.ready()
    assert server.names("a password") == ["first"]
    assert server.container.logs().count("making a new") >= 2
    server.remove()


def refused(server: Server, *words: str) -> str:
    """What a container says that ends at once, with a status that is no success."""
    assert server.ended() == REFUSED
    said = server.container.logs()
    for word in words:
        assert word in said
    assert said.count(words[0]) == 1  # it is not tried again and again
    assert "not ready in time" not in said
    server.remove()
    return said


def test_what_cannot_start_says_why(databases: Databases) -> None:
    kind = databases.kind
    file = "/run/secrets/db-password"
    refused(databases.start(volume(), secret=""), "the secret 'db-password' is missing", file)
    for value, told in ((b"\n", "is empty"), (b"one\ntwo\n", "has several lines")):
        databases.secret(value)
        refused(databases.start(volume()), f"the secret 'db-password' {told}", file)
    databases.secret(b"a password")
    other = {"postgresql": ("13/main", "PG_VERSION"), "mariadb": ("10.5", "ibdata1")}[kind.name]
    data = volume()
    there = databases.place(data) / other[0]
    there.mkdir(parents=True)
    (there / other[1]).write_text("13\n")
    found = other[0].partition("/")[0]
    refused(databases.start(data), f" {found}, and this image has ", "dump it with the image")
    assert sorted(one.name for one in databases.place(data).iterdir()) == [found]  # untouched
    data = volume()
    (databases.place(data) / other[1]).write_text("13\n")
    refused(databases.start(data), "another image", "give this image a new volume")


def test_nobody_sees_the_password(databases: Databases, seed: Seed, root: Path) -> None:
    value = f"CANARY-{secrets.token_hex(12)}"
    databases.secret(value.encode())
    data = volume()
    server = databases.start(data)
    seen = []
    end = time.monotonic() + 120
    while not server.is_ready():  # while the database is made, too
        seen += [*server.told()]
        assert time.monotonic() < end, server.container.logs()
    assert server.names(value) == ["first"]
    seen += [*server.told()]
    assert len(seen) > 20
    assert [name for name, text in seen if value.encode() in text] == []
    hidden = subprocess.run(["grep", "-rlaF", value, root, seed.program.store], check=False)
    assert hidden.returncode == 1
    # in the volume it is a verifier
    argv = ["grep", "-rlaF", value, str(databases.place(data))]
    assert subprocess.run(argv, check=False, capture_output=True, text=True).stdout == ""
    server.remove()


SAME = """\
- vars: {{name: both-{name}, version: 1}}
- package: {{debian: grep}}
- app:
    exec: [/bin/sh, -c, '{client} && echo the app has it && exec sleep 1000']
    user: {user}
- users: {{shop: {{uid: 1234, gid: 1234}}}}
- groups: {{shop: {{gid: 1234}}}}
- database: {{engine: {name}, name: shop, init: [./schema.sql]}}
- image: {{type: oci}}
"""
CLIENTS = {
    "postgresql": 'psql -X -A -t -c "SELECT name FROM item" | grep first',
    "mariadb": 'mariadb "$DATABASE_NAME" -e "SELECT name FROM item" | grep first',
}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_app_of_the_same_container_waits_and_needs_no_password(
    kind: Kind, seed: Seed, engine: Engine, root: Path
) -> None:
    text = SAME.format(name=kind.name, client=CLIENTS[kind.name], user="shop")
    layout = built(seed, root, text, schema_sql=kind.table)
    both = Databases(engine, kind, f"oci:{layout}:1")
    server = both.start(volume(), secret="").ready()
    end = time.monotonic() + 30
    while "the app has it" not in server.container.logs():
        assert time.monotonic() < end, server.container.logs()
        time.sleep(0.1)
    # over no network, and nobody else
    status, said = server.ask("SELECT 1", "")
    assert status != 0, said
    drop = ("s6-applyuidgid", "-u", "7", "-g", "7", "-G", "")
    assert server.exec(*drop, *kind.admin, "SELECT 1")[0] != 0
    # the app's end is the container's
    assert server.kill_inside("1000") == 1
    assert server.ended() == 128 + signal.SIGKILL
    server.remove()
