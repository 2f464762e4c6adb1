"""The `database` step of container.yaml. Its model alone; `recipe.database.steps` says what it is
made of."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from buildit.model.database import ENGINES, POSTGRESQL, Database
from buildit.recipe import schema
from buildit.recipe.leaf import LeafError
from buildit.recipe.schema import Model

_TAKEN = {
    "postgresql": ("postgres", "template0", "template1", "public", "none"),
    "mariadb": ("root", "mysql", "mariadb.sys", "information_schema", "performance_schema", "sys"),
}


class DatabaseSpec(Model):
    """A database, made at the first start of the container."""

    engine: Literal["postgresql", "mariadb"]
    """Which."""
    name: schema.DatabaseName = "app"
    """What the database is called."""
    user: schema.DatabaseName | None = None
    """Who owns it; as it is called, without it."""
    password: schema.SecretId | None = None
    """The id of the secret with the password, which the container finds in /run/secrets/ID at each
    start. Without it only accounts of the container itself come in, by the socket."""
    network: schema.OnOff = False
    """Whether others reach it over the network, which needs a password; else it listens on the
    loopback alone."""
    port: schema.Count | None = None
    """Where it listens; 5432 or 3306 without it."""
    peers: tuple[schema.AccountName, ...] = ()
    """Accounts of the container that come in by the socket without a password, where there is none:
    beside root and the one of the user's name. In MariaDB each by its own name."""
    init: tuple[schema.Line, ...] = ()
    """Files of SQL, relative to this file, that are read once, when the database is made."""
    settings: dict[schema.Identifier, schema.Line] = Field(default_factory=dict)
    """Settings of the server: {shared_buffers: 256MB}."""
    version: schema.Line | None = None
    """Of PostgreSQL, such as 15: the one of the suite without it. MariaDB has that of its suite."""
    host: schema.Line | None = None
    """Where it is, if it is another container: then nothing of it is in this one but the variables
    by which it is found."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for what, name in (("name", self.name), ("user", self.user)):
            if name and (name.lower() in _TAKEN[self.engine] or name.lower().startswith("pg_")):
                raise LeafError(
                    f"the {what} {name!r} is one of {self.engine}'s own", "take another"
                )
        if self.network and self.password is None:
            hint = "write the id of a secret: password: db-password"
            raise LeafError("a database that others reach over the network needs a password", hint)
        if self.password and self.peers:
            raise LeafError("`peers` come in where there is no `password`", "leave one of them out")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise LeafError(f"expected a port from 1 to 65535, found {self.port}", "leave it out")
        if self.version is not None and self.engine != "postgresql":
            raise LeafError("MariaDB has the version of its suite", "leave `version` out")
        if self.host is not None:
            given = self.model_fields_set - {"engine", "name", "user", "password", "port", "host"}
            if given:
                message = f"`{min(given)}` is of a database that this container has, `host` of one"
                raise LeafError(f"{message} that is elsewhere", "leave one of them out")
        return self

    @property
    def database(self) -> Database:
        user, port = self.user or self.name, self.port or ENGINES[self.engine].port
        return Database(self.engine, self.name, user, self.password or "", port, self.network)

    @property
    def local_accounts(self) -> tuple[str, ...]:
        """Who comes in by the socket without a password; none where there is one."""
        if self.password is not None:
            return ()
        own = ("root",) if self.engine == POSTGRESQL.name else ()  # MariaDB's root is its own
        user = (self.user or self.name,)
        return tuple(dict.fromkeys((*own, *user, *self.peers)))
