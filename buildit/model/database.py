"""Databases that images and stacks have: the engines, and how an app finds one; no I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

SECRET_FILES = "/run/secrets"  # noqa: S105 - a directory
"""Where engines mount secrets, each under its id."""


@dataclass(frozen=True, slots=True)
class DatabaseEngine:
    """A kind of database: `title` is how people call it, `scheme` begins its URLs, `user` is the
    account that runs it. `directory` is its volume, `socket` the local one of a port, for which `%`
    stands. `versions` are those of Debian's suites."""

    name: str
    title: str
    scheme: str
    port: int
    user: str
    directory: str
    socket: str
    versions: Mapping[str, str]


POSTGRESQL = DatabaseEngine(
    "postgresql",
    "PostgreSQL",
    "postgresql",
    5432,
    "postgres",
    "/var/lib/postgresql",
    "/run/postgresql",
    {"debian-12": "15", "debian-13": "17"},
)
MARIADB = DatabaseEngine(
    "mariadb",
    "MariaDB",
    "mysql",
    3306,
    "mysql",
    "/var/lib/mysql",
    "/run/mysqld/mysqld.sock",
    {"debian-12": "10.11", "debian-13": "11.8"},
)
ENGINES = {one.name: one for one in (POSTGRESQL, MARIADB)}


@dataclass(frozen=True, slots=True)
class Database:
    """A database of the engine of this name. `password` is the id of a secret, empty where there is
    none: then only accounts of its own container come in, without one. With `network` others reach
    it, too."""

    engine: str
    name: str
    user: str
    password: str
    port: int
    network: bool = False

    @property
    def kind(self) -> DatabaseEngine:
        return ENGINES[self.engine]


def where_it_is(database: Database, host: str = "") -> dict[str, str]:
    """The variables by which an app finds a database on a host; without one, in its own container,
    by the socket. None of them has the password: DATABASE_PASSWORD_FILE is the file with it. Beside
    those that are the same for all engines are those that the engine's own clients read (libpq,
    34.15; MariaDB, "Environment Variables")."""
    engine = database.kind
    user, name = quote(database.user, safe=""), quote(database.name, safe="")
    if host:
        url = f"{engine.scheme}://{user}@{host}:{database.port}/{name}"
    elif engine is POSTGRESQL:
        url = f"{engine.scheme}://{user}@/{name}?host={engine.socket}&port={database.port}"
    else:
        url = f"{engine.scheme}://{user}@localhost/{name}?unix_socket={engine.socket}"
    found = {
        "DATABASE_URL": url,
        "DATABASE_HOST": host or "localhost",
        "DATABASE_PORT": str(database.port),
        "DATABASE_NAME": database.name,
        "DATABASE_USER": database.user,
    }
    if not host:
        found["DATABASE_SOCKET"] = engine.socket
    if database.password:
        found["DATABASE_PASSWORD_FILE"] = f"{SECRET_FILES}/{database.password}"
    if engine is POSTGRESQL:
        found |= {"PGHOST": host or engine.socket, "PGPORT": str(database.port)}
        return found | {"PGDATABASE": database.name, "PGUSER": database.user}
    return found | (
        {"MYSQL_HOST": host, "MYSQL_TCP_PORT": str(database.port)}
        if host
        else {"MYSQL_UNIX_PORT": engine.socket}
    )
