"""The steps that a `database` step stands for: packages, an account, files, a service, variables.

Packages are unpacked and nothing of them runs, so an image has no database before its container
starts: the first start makes it (`postgresql.sh` and `mariadb.sh` beside this module, with
`common.sh`). Pure but for reading these scripts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from buildit.model.accounts import group_id, user_id
from buildit.model.database import POSTGRESQL, SECRET_FILES, DatabaseEngine, where_it_is
from buildit.recipe.container import DebianPackageStep, LoadedStep, StepSpec
from buildit.recipe.database.spec import DatabaseSpec
from buildit.recipe.schema import parse
from buildit.recipe.ways.nodes import Plain, step_of
from buildit.recipe.yaml.node import follow

PART = "database"
"""What `LoadedStep.part_of` says of the steps made here."""

_ETC, _LIB = "/etc/buildit", "/usr/lib/buildit"
_SUITE = "debian-12"  # where the container names no toolchain and begins with no suite
_READY_SECONDS, _STOP_SECONDS = "300", "60"
_CANNOT_START = ("1", "78")
"""What a server ends with that finds its settings or files wrong, and what the scripts refuse with;
a server that is killed ends by a signal, and is started again."""

_PROGRAMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("libc-bin", ("usr/bin/[lt][dz]*",)),  # for C.UTF-8; ldd and tzselect want bash
    ("dash", ()),
    ("coreutils", ()),
)
_INIT = ("s6", "execline")
_ROOT = {"uid": "0", "gid": "0", "home": "/root", "shell": "/bin/sh", "comment": "root"}
"""As the base layout has it. Sockets tell servers who comes in by a number; that needs a name."""
_CLIENTS = ("psql", "pg_dump", "pg_dumpall", "pg_restore", "pg_isready")
_SERVERS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "postgresql": (
        ("tzdata", ("usr/share/zoneinfo/localtime",)),
        ("postgresql-client-{}", ()),
        (
            "postgresql-{}",
            ("usr/lib/postgresql/*/lib/llvmjit*", "usr/lib/postgresql/*/lib/bitcode/**"),
        ),
    ),
    "mariadb": (("sed", ()), ("mariadb-client-core", ()), ("mariadb-server-core", ())),
}
"""Packages of each engine with what stays out of the image: of PostgreSQL the compiler of its
queries, which it does without, and which is larger than all the rest."""


def with_databases(steps: Iterable[LoadedStep]) -> tuple[LoadedStep, ...]:
    """Steps with those that their `database` steps stand for behind each.

    Raises:
        RecipeError: there are two, or one cannot be had.
    """
    listed = tuple(steps)
    found: list[LoadedStep] = []
    first: LoadedStep | None = None
    for step in listed:
        found.append(step)
        if (spec := step.spec.database) is None:
            continue
        if first is not None:
            hint = f"the first is at {first.place}; put the other one into a container of its own"
            raise step.node.error("a container has one database", hint)
        first = step
        found += _parts(spec, step, listed)
    return tuple(found)


def _parts(
    spec: DatabaseSpec, step: LoadedStep, every: tuple[LoadedStep, ...]
) -> Iterator[LoadedStep]:
    """The steps of one `database` step, at its place."""
    for key, value in _plain_steps(spec, step, every):
        node = step_of(step.node.place, key, value)
        yield replace(step, spec=parse(node, StepSpec), node=node, part_of=PART)


def _plain_steps(
    spec: DatabaseSpec, step: LoadedStep, every: tuple[LoadedStep, ...]
) -> Iterator[tuple[str, Plain]]:
    database = spec.database
    engine = database.kind
    if spec.host is not None:
        yield "env", where_it_is(database, spec.host)
        return
    version = _version(spec, step, every)
    for name, without in _packages(engine, version, every):
        yield "package", {"debian": name, "closure": "files", "without": without}
    uid, gid = str(user_id(engine.user)), str(group_id(engine.user))
    account = {"uid": uid, "gid": gid, "home": engine.directory, "shell": "/bin/sh"}
    has_root = any("root" in (one.spec.users or {}) for one in every)
    yield "groups", {engine.user: {"gid": gid}, **({} if has_root else {"root": {"gid": "0"}})}
    yield "users", {engine.user: account, **({} if has_root else {"root": _ROOT})}
    owner = f"{uid}:{gid}"
    yield "directories", [{"path": engine.directory, "owner": owner, "mode": "0755"}]
    files = [f"{_ETC}/init/{number:02}-{_file_name(one)}" for number, one in enumerate(spec.init)]
    texts = [
        {"path": f"{_LIB}/{engine.name}", "content": _script(engine.name), "mode": "0755"},
        {"path": f"{_LIB}/database.sh", "content": _script("common")},
    ]
    texts += [{"path": path, "content": text} for path, text in _settings(spec, owner, files)]
    yield "texts", texts
    if engine is POSTGRESQL:  # whose own are Perl, which finds out what Debian has of several
        programs = f"/usr/lib/postgresql/{version}/bin"
        yield (
            "symlinks",
            [{"path": f"/usr/local/bin/{one}", "target": f"{programs}/{one}"} for one in _CLIENTS],
        )
    for source, path in zip(spec.init, files, strict=True):
        yield "sync", {"src": source, "dest": path, "chmod": "0644"}
    yield "volumes", [f"{engine.name}={engine.directory}"]
    program = [f"{_LIB}/{engine.name}", "start"]
    ready = [f"{_LIB}/{engine.name}", "ready"]
    service: dict[str, Plain] = {
        "exec": program,
        "ready": {"exec": ready, "timeout": _READY_SECONDS},
        "stop-timeout": _STOP_SECONDS,
        "stop-on": _CANNOT_START,
    }
    if engine is POSTGRESQL:
        service["stop-signal"] = "SIGINT"  # its fast shutdown; SIGTERM waits for all clients
    yield "init", {"services": {engine.name: service}}
    yield "env", where_it_is(database)
    if not any(_runs_something(one) for one in every):
        if spec.network:
            yield "ports", [f"{engine.name}={database.port}/tcp"]
        times = {"interval": "5s", "timeout": "10s", "retries": "12", "start": f"{_READY_SECONDS}s"}
        health: dict[str, Plain] = {"exec": ready, **times}
        yield "healthcheck", health


def _script(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sh").read_text("utf-8")


def _runs_something(step: LoadedStep) -> bool:
    """Whether a step says what a container runs, how it is asked, or where it listens."""
    spec = step.spec
    said = (spec.app, spec.init, spec.entrypoint, spec.healthcheck, spec.ports)
    return any(one is not None for one in said)


def _packages(
    engine: DatabaseEngine, version: str, every: tuple[LoadedStep, ...]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The packages that the container does not name itself, with what of each stays out."""
    has_suite = any(one.spec.from_ is not None and one.spec.from_.suite for one in every)
    packages = (one.spec.package for one in every)
    named = {one.debian.partition("=")[0] for one in packages if isinstance(one, DebianPackageStep)}
    programs = () if has_suite else _PROGRAMS
    for form, without in (*programs, *((one, ()) for one in _INIT), *_SERVERS[engine.name]):
        name = form.format(version)
        if name not in named:
            yield name, without


def _version(spec: DatabaseSpec, step: LoadedStep, every: tuple[LoadedStep, ...]) -> str:
    """The version that is meant: that of the suite, where nothing else is said."""
    suite = _SUITE
    for one in every:
        begun = one.spec.from_.suite if one.spec.from_ is not None else None
        suite = begun or (one.spec.toolchain or suite).rpartition("/")[2]
    versions = spec.database.kind.versions
    if spec.version is not None or spec.engine != POSTGRESQL.name:
        return spec.version or ""
    if suite not in versions:
        where = follow(step.node, ("database",))[0]
        title = spec.database.kind.title
        message = f"which version of {title} {suite} has is not known"
        raise where.error(message, f"write it: `version: N`; known are {', '.join(versions)}")
    return versions[suite]


def _file_name(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.rstrip("/").rpartition("/")[2])


def _settings(spec: DatabaseSpec, owner: str, files: list[str]) -> Iterator[tuple[str, str]]:
    """The files that the script and the server read, by path."""
    database = spec.database
    engine = database.kind
    listen = "*" if spec.network else "localhost" if spec.password else ""
    said = {
        "NAME": database.name,
        "USER": database.user,
        "PASSWORD_FILE": f"{SECRET_FILES}/{database.password}" if database.password else "",
        "PORT": str(database.port),
        "DIRECTORY": engine.directory,
        "SOCKET": engine.socket,
        "ACCOUNT": owner,
        "INIT": " ".join(files),
    }
    if engine is POSTGRESQL:
        yield f"{_ETC}/postgresql.conf", _postgresql(spec, listen)
        yield (
            f"{_ETC}/pg_hba.conf",
            _HBA + ("scram-sha-256\n" if spec.password else "peer map=app\n"),
        )
        yield (
            f"{_ETC}/pg_ident.conf",
            "".join(
                f"{name} {account} {user}\n"
                for name, accounts, user in (
                    ("admin", ("root", engine.user), engine.user),
                    ("app", (*spec.local_accounts, engine.user), database.user),
                )
                for account in dict.fromkeys(accounts)
            ),
        )
    else:
        hosts = ("localhost", "127.0.0.1", "::1", *(("%",) if spec.network else ()))
        users = [f"{database.user}@{host}" for host in hosts] if spec.password else []
        users += [f"{account}@localhost" for account in spec.local_accounts]
        said["USERS"] = " ".join(users)
        yield f"{_ETC}/mariadb.cnf", _mariadb(spec, listen)
    yield f"{_ETC}/database", "".join(f"{name}='{value}'\n" for name, value in said.items())


_HBA = """\
local all postgres peer map=admin
host all all all scram-sha-256
local all all """


def _postgresql(spec: DatabaseSpec, listen: str) -> str:
    values = {
        "listen_addresses": listen,
        "port": str(spec.database.port),
        "unix_socket_directories": spec.database.kind.socket,
        "hba_file": f"{_ETC}/pg_hba.conf",
        "ident_file": f"{_ETC}/pg_ident.conf",
        "timezone": "Etc/UTC",
        "log_timezone": "Etc/UTC",
        "lc_messages": "C.UTF-8",
        "lc_monetary": "C.UTF-8",
        "lc_numeric": "C.UTF-8",
        "lc_time": "C.UTF-8",
        "default_text_search_config": "pg_catalog.english",
        "max_wal_size": "1GB",
        **spec.settings,
    }
    # config.sgml, "Parameter Interaction via the Configuration File"
    quoted = {name: one.replace("\\", "\\\\").replace("'", "''") for name, one in values.items()}
    return "".join(f"{name} = '{value}'\n" for name, value in quoted.items())


def _mariadb(spec: DatabaseSpec, listen: str) -> str:
    values = {
        "bind-address": listen,
        "port": str(spec.database.port),
        "socket": spec.database.kind.socket,
        "pid-file": f"{spec.database.kind.socket.rpartition('/')[0]}/mariadbd.pid",
        "character-set-server": "utf8mb4",
        "skip-name-resolve": "1",
        **({} if listen else {"skip-networking": "1"}),
        **{name.replace("_", "-"): one for name, one in spec.settings.items()},
    }
    if not listen:
        del values["bind-address"]
    # my_load_defaults: quotes hold a value together, and \\ is a backslash
    quoted = {name: one.replace("\\", "\\\\").replace('"', '\\"') for name, one in values.items()}
    return "[mariadbd]\n" + "".join(f'{name} = "{value}"\n' for name, value in quoted.items())
