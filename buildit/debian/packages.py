"""A Packages index: read as a stream, kept as a small SQLite file named by the index's digest.

bookworm/main has 63 000 paragraphs in 47 MB; only the fields that choosing and fetching need are
kept, and a look-up reads a few pages. The file is derived: delete it and it is made again.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from buildit.debian.relations import debian_key, parse_relations
from buildit.digest import Digest, is_hex64
from buildit.errors import IntegrityError, StoreError
from buildit.files import replacing

INDEX_FORMAT = "1"
"""In the file's name: a later buildit makes its own."""
_MAX_PARAGRAPH = 4 << 20  # bytes
_CHUNK = 1 << 18
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~%:/@-]*\.deb")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One binary package of one suite. Relations as in the index; `path` below the archive."""

    name: str
    version: str
    arch: str
    priority: str
    pre_depends: str
    depends: str
    provides: str
    conflicts: str
    breaks: str
    path: str
    size: int
    digest: Digest
    suite: str


_NAMES = "name version arch priority pre_depends depends provides conflicts breaks path size sha256"
_COLUMNS = tuple(_NAMES.split())
_RENAMED = {"name": "package", "arch": "architecture", "path": "filename"}
_WANTED = tuple(_RENAMED.get(name, name.replace("_", "-")) for name in _COLUMNS)
_FIELDS = re.compile(
    rf"^({'|'.join(_WANTED)}):[ \t]*(.*(?:\n[ \t].*)*)", re.MULTILINE | re.IGNORECASE
)
_TYPES = (f"{name} {'INTEGER' if name == 'size' else 'TEXT'}" for name in _COLUMNS)
_SCHEMA = f"""
    CREATE TABLE package (id INTEGER PRIMARY KEY, {", ".join(_TYPES)});
    CREATE TABLE provided (name TEXT, package INTEGER);
"""
_INDICES = """
    CREATE INDEX package_name ON package (name);
    CREATE INDEX provided_name ON provided (name);
"""
_INSERT = f"INSERT INTO package VALUES (NULL{', ?' * len(_COLUMNS)})"  # noqa: S608 - our names
_SELECT = f"SELECT {', '.join(_COLUMNS)}, :suite FROM package WHERE "  # noqa: S608 - our names
_NAMED = _SELECT + "name = :name ORDER BY id"
_PROVIDING = _SELECT + "id IN (SELECT package FROM provided WHERE name = :name) ORDER BY id"  # noqa: S608


class Stream(Protocol):
    """Plain bytes to read."""

    def read(self, size: int, /) -> bytes: ...


class PackageIndex:
    """An opened index of one suite and component; for use in the thread that opened it."""

    def __init__(self, path: Path, suite: str) -> None:
        self._suite = suite
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def named(self, name: str) -> tuple[Candidate, ...]:
        """All versions of a package, in the index's order."""
        return self._candidates(_NAMED, name)

    def providing(self, name: str) -> tuple[Candidate, ...]:
        """All packages that provide a virtual name, in the index's order."""
        return self._candidates(_PROVIDING, name)

    def close(self) -> None:
        self._database.close()

    def _candidates(self, query: str, name: str) -> tuple[Candidate, ...]:
        try:
            rows = self._database.execute(query, {"name": name, "suite": self._suite}).fetchall()
        except sqlite3.DatabaseError as error:
            raise StoreError(
                f"the cached package index is damaged: {error}", hint="delete it, then run again"
            ) from error
        return tuple(Candidate(*row) for row in rows)


def read_packages(stream: Stream, place: str) -> Iterator[tuple[str, ...]]:
    """The wanted fields of each paragraph, in the order of `package, version, …`; absent are empty.

    Raises:
        IntegrityError: a paragraph lacks what every package has, or a value is malformed.
    """
    rest = b""
    while chunk := stream.read(_CHUNK):
        whole, mark, rest = (rest + chunk).rpartition(b"\n\n")
        if len(rest) > _MAX_PARAGRAPH:
            raise IntegrityError("a paragraph is too long", place=place)
        if mark:
            yield from (_row(one, place) for one in whole.split(b"\n\n") if one.strip())
    if rest.strip():
        yield _row(rest, place)


def _row(paragraph: bytes, place: str) -> tuple[str, ...]:
    try:
        found = {name.lower(): value for name, value in _FIELDS.findall(paragraph.decode())}
    except (UnicodeDecodeError, TypeError) as error:
        raise IntegrityError("is not UTF-8 text", place=place) from error
    return tuple(" ".join(found.get(name, "").split()) for name in _WANTED)


def build_index(stream: Stream, path: Path, place: str) -> None:
    """Write the index file of the plain Packages file in `stream`; whole or not at all.

    Raises:
        IntegrityError: the file is malformed.
        StoreError: the disk is full or fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".index-{os.getpid()}-{os.urandom(4).hex()}")
        with (
            replacing(path, mode=0o600, temporary=fresh),
            closing(sqlite3.connect(fresh)) as database,
        ):
            _fill(database, stream, place)
    except OSError as error:
        raise StoreError(f"cannot write: {error.strerror}", place=str(path)) from error
    except sqlite3.Error as error:
        raise StoreError(f"cannot write: {error}", place=str(path)) from error


def _fill(database: sqlite3.Connection, stream: Stream, place: str) -> None:
    # it is thrown away when anything goes wrong: no journal
    database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}")
    for row in read_packages(stream, place):
        _check(row, place)
        cursor = database.execute(_INSERT, row)
        if row[6]:
            names = {one.name for group in parse_relations(row[6]) for one in group}
            rows = ((name, cursor.lastrowid) for name in sorted(names))
            database.executemany("INSERT INTO provided VALUES (?, ?)", rows)
    database.executescript(_INDICES)
    database.commit()


def _check(row: tuple[str, ...], place: str) -> None:
    name, version, arch = row[:3]
    path, size, digest = row[9:]
    try:
        debian_key(version)
        good = _NAME.fullmatch(name) and arch and size.isdecimal() and is_hex64(digest)
        if not good or not _POOL.fullmatch(path) or ".." in path:
            raise ValueError(f"package {name[:60]!r} {version[:60]!r} is malformed")
        parse_relations(row[6])
    except ValueError as error:
        raise IntegrityError(str(error), place=place) from error
