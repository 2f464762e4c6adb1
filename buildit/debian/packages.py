"""A Packages index: read as a stream, kept as a small SQLite file named by the index's digest.

bookworm/main has 63 000 paragraphs in 47 MB; only the fields that choosing and fetching need are
kept, and a look-up reads a few pages. The file is derived: delete it and it is made again.

Debian's version order (deb-version(7)), and relations between packages (Debian Policy 7.1):
`a (>= 1) | b:any, c`.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from buildit.archive.streams import Readable
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


def read_packages(
    stream: Readable, place: str, stated: Digest | None = None
) -> Iterator[tuple[str, ...]]:
    """The wanted fields of each paragraph, in the order of `package, version, …`; absent are empty.

    Raises:
        IntegrityError: a paragraph lacks what every package has, a value is malformed, or, at the
            end, the bytes are not those that the release stated.
    """
    rest, sha = b"", hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        sha.update(chunk)
        whole, mark, rest = (rest + chunk).rpartition(b"\n\n")
        if len(rest) > _MAX_PARAGRAPH:
            raise IntegrityError("a paragraph is too long", place=place)
        if mark:
            yield from (_row(one, place) for one in whole.split(b"\n\n") if one.strip())
    if stated is not None and (got := sha.hexdigest()) != stated:
        raise IntegrityError(f"unpacks to sha256:{got}, not to sha256:{stated}", place=place)
    if rest.strip():
        yield _row(rest, place)


def _row(paragraph: bytes, place: str) -> tuple[str, ...]:
    try:
        found = {name.lower(): value for name, value in _FIELDS.findall(paragraph.decode())}
    except (UnicodeDecodeError, TypeError) as error:
        raise IntegrityError("is not UTF-8 text", place=place) from error
    return tuple(" ".join(found.get(name, "").split()) for name in _WANTED)


def build_index(stream: Readable, path: Path, place: str, stated: Digest | None = None) -> None:
    """Write the index file of the plain Packages file in `stream`; whole or not at all.

    Raises:
        IntegrityError: the file is malformed, or not the one that the release stated.
        StoreError: the disk is full or fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".index-{os.getpid()}-{os.urandom(4).hex()}")
        with (
            replacing(path, mode=0o600, temporary=fresh),
            closing(sqlite3.connect(fresh)) as database,
        ):
            _fill(database, read_packages(stream, place, stated), place)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot write: {reason}", place=str(path)) from error


def _fill(database: sqlite3.Connection, rows: Iterator[tuple[str, ...]], place: str) -> None:
    # it is thrown away when anything goes wrong: no journal
    database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {_SCHEMA}")
    for row in rows:
        _check(row, place)
        cursor = database.execute(_INSERT, row)
        if row[6]:
            names = {one.name for group in parse_relations(row[6]) for one in group}
            provided = ((name, cursor.lastrowid) for name in sorted(names))
            database.executemany("INSERT INTO provided VALUES (?, ?)", provided)
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


_VERSION = re.compile(
    r"(?:([0-9]{1,10}):)?([A-Za-z0-9][A-Za-z0-9.+~:-]*?)(?<!-)(?:-([A-Za-z0-9.+~]+))?"
)
_PARTS = re.compile(r"([^0-9]*)([0-9]*)")
_LONGEST = 512  # characters of a version; the archive's longest has 60

_Part = tuple[tuple[int, ...], int]
VersionKey = tuple[int, tuple[_Part, ...], tuple[_Part, ...]]
"""Compares as the versions do, and is equal where they are equal (`1.0` and `1.00`)."""


@lru_cache(maxsize=4096)
def debian_key(version: str) -> VersionKey:
    """The version's sort key.

    Raises:
        ValueError: it is no Debian version.
    """
    found = _VERSION.fullmatch(version) if len(version) <= _LONGEST else None
    # a colon is for those that have an epoch
    if found is None or (found[1] is None and ":" in version):
        raise ValueError(f"not a Debian version: {version[:80]!r}")
    epoch, upstream, revision = found.groups()
    return int(epoch or 0), _parts(upstream), _parts(revision or "0")


def _parts(text: str) -> tuple[_Part, ...]:
    """Non-digits and numbers in turn. The empty text at the end, where a `~` would sort lower."""
    parts = [
        ((*map(_weight, letters), 0), int(digits or 0))
        for letters, digits in _PARTS.findall(text)
        if letters or digits
    ]
    return (*parts, ((0,), 0))


def _weight(char: str) -> int:
    """`~` before the end (0), then letters, then all else."""
    if char == "~":
        return -1
    return ord(char) if char.isalpha() else ord(char) + 256


_RELATION = re.compile(
    r"\s*([a-z0-9][a-z0-9+.-]*)(?::([a-z0-9-]+))?\s*(?:\(\s*(<<|<=|=|>=|>>|<|>)\s*([^\s()]+)\s*\))?\s*"
)
_TESTS: Mapping[str, Callable[[VersionKey, VersionKey], bool]] = {
    "<<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "<": lambda a, b: a <= b,  # Policy 7.1: the old forms mean <= and >=
    "=": lambda a, b: a == b,
    ">=": lambda a, b: a >= b,
    ">": lambda a, b: a >= b,
    ">>": lambda a, b: a > b,
}


@dataclass(frozen=True, slots=True)
class Relation:
    """One package, `qualifier` (`any`, an architecture or empty), and a version range if any."""

    name: str
    qualifier: str = ""
    operator: str = ""
    version: str = ""

    def __str__(self) -> str:
        name = f"{self.name}:{self.qualifier}" if self.qualifier else self.name
        return f"{name} ({self.operator} {self.version})" if self.operator else name

    def admits(self, version: str) -> bool:
        """Whether a real package of this version will do."""
        if not self.operator:
            return True
        return _TESTS[self.operator](debian_key(version), debian_key(self.version))

    def admits_provided(self, provided: Relation) -> bool:
        """Whether `Provides: provided` will do (Policy 7.5: versioned only by versioned)."""
        if provided.name != self.name:
            return False
        return not self.operator or (provided.operator == "=" and self.admits(provided.version))


@lru_cache(maxsize=2048)
def parse_relations(text: str) -> tuple[tuple[Relation, ...], ...]:
    """All must be satisfied, each by one of its alternatives.

    Raises:
        ValueError: the text is no relation field of a binary package.
    """
    groups = (group for group in text.split(",") if group.strip())
    return tuple(tuple(_relation(one) for one in group.split("|")) for group in groups)


def _relation(text: str) -> Relation:
    found = _RELATION.fullmatch(text)
    if found is None:
        raise ValueError(f"not a package relation: {text.strip()[:80]!r}")
    name, qualifier, operator, version = found.groups()
    if version is not None:
        debian_key(version)
    return Relation(name, qualifier or "", operator or "", version or "")
