"""An index of Debian's archive, of binary or of source packages: read as a stream of paragraphs,
and kept as a small SQLite file named by the index's digest.

bookworm/main has 63 000 paragraphs of binary packages in 47 MB, and 34 000 of source packages; only
the fields that choosing and fetching need are kept, and a look-up reads a few pages. The file is
derived: delete it and it is made again.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from buildit.archive.streams import Readable
from buildit.digest import Digest
from buildit.errors import IntegrityError, StoreError
from buildit.files import replacing

INDEX_FORMAT = "2"
"""In the file's name: a later buildit makes its own."""
_MAX_PARAGRAPH = 4 << 20  # bytes
_CHUNK = 1 << 18
Fields = Mapping[str, str]
"""The kept fields of a paragraph by lower-case name; absent ones are empty."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Table(Generic[_T]):
    """What is kept of each paragraph: `fields` in the columns' order, the lines of a value with
    `joint` between them (`size` is a number). `also` says under which names it is found besides its
    own; it raises ValueError where the paragraph is malformed. `made` is the paragraph as a value,
    of its fields and its suite.
    """

    fields: tuple[str, ...]
    joint: str
    also: Callable[[Fields], Collection[str]]
    made: Callable[..., _T]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name.replace("-", "_") for name in self.fields)


def read_paragraphs(
    stream: Readable, table: Table[Any], place: str, stated: Digest | None = None
) -> Iterator[dict[str, str]]:
    """The table's fields of each paragraph.

    Raises:
        IntegrityError: a paragraph is too long or no text, or, at the end, the bytes are not those
            that the release stated.
    """
    pattern = rf"^({'|'.join(table.fields)}):[ \t]*(.*(?:\n[ \t].*)*)"
    fields = re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    rest, sha = b"", hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        sha.update(chunk)
        whole, mark, rest = (rest + chunk).rpartition(b"\n\n")
        if len(rest) > _MAX_PARAGRAPH:
            raise IntegrityError("a paragraph is too long", place=place)
        if mark:
            paragraphs = (one for one in whole.split(b"\n\n") if one.strip())
            yield from (_read(one, fields, table, place) for one in paragraphs)
    if stated is not None and (got := sha.hexdigest()) != stated:
        raise IntegrityError(f"unpacks to sha256:{got}, not to sha256:{stated}", place=place)
    if rest.strip():
        yield _read(rest, fields, table, place)


def _read(
    paragraph: bytes, fields: re.Pattern[str], table: Table[Any], place: str
) -> dict[str, str]:
    try:
        found = {name.lower(): value for name, value in fields.findall(paragraph.decode())}
    except UnicodeDecodeError as error:
        raise IntegrityError("is not UTF-8 text", place=place) from error
    return {name: _joined(found.get(name, ""), table.joint) for name in table.fields}


def _joined(value: str, joint: str) -> str:
    if "\n" not in value:
        return value.rstrip()
    return joint.join(filter(None, map(str.strip, value.split("\n"))))


def build_index(
    stream: Readable, table: Table[Any], path: Path, place: str, stated: Digest | None = None
) -> None:
    """Write the index file of the plain index in `stream`; whole or not at all.

    Raises:
        IntegrityError: the index is malformed, or not the one that the release stated.
        StoreError: the disk is full or fails.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".index-{os.getpid()}-{os.urandom(4).hex()}")
        with (
            replacing(path, mode=0o600, temporary=fresh),
            closing(sqlite3.connect(fresh)) as database,
        ):
            _fill(database, table, read_paragraphs(stream, table, place, stated), place)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot write: {reason}", place=str(path)) from error


def _fill(
    database: sqlite3.Connection, table: Table[Any], rows: Iterator[Fields], place: str
) -> None:
    types = (f"{name} {'INTEGER' if name == 'size' else 'TEXT'}" for name in table.columns)
    # it is thrown away when anything goes wrong: no journal
    database.executescript(f"""
        PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;
        CREATE TABLE kept (id INTEGER PRIMARY KEY, {", ".join(types)});
        CREATE TABLE also (name TEXT, kept INTEGER);
    """)
    insert = f"INSERT INTO kept VALUES (NULL{', ?' * len(table.fields)})"  # noqa: S608 - our names
    for row in rows:
        try:
            also = table.also(row)
        except ValueError as error:
            raise IntegrityError(str(error), place=place) from error
        cursor = database.execute(insert, tuple(row.values()))
        if also:
            pairs = [(name, cursor.lastrowid) for name in sorted(also)]
            database.executemany("INSERT INTO also VALUES (?, ?)", pairs)
    database.executescript("""
        CREATE INDEX kept_name ON kept (package);
        CREATE INDEX also_name ON also (name);
    """)
    database.commit()


class OpenIndex(Generic[_T]):
    """An opened index file of one suite and component; for use in the thread that opened it."""

    def __init__(self, path: Path, suite: str, table: Table[_T]) -> None:
        self._suite, self._table = suite, table
        self._database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)

    def named(self, name: str) -> tuple[_T, ...]:
        """All that has the name, in the index's order."""
        return self._found("package = ?", name)

    def also(self, name: str) -> tuple[_T, ...]:
        """All that is found under a name besides its own, in the index's order."""
        return self._found("id IN (SELECT kept FROM also WHERE name = ?)", name)

    def having(self, column: str, value: str) -> tuple[_T, ...]:
        """All whose column (one of the table's, a name of ours) has the value."""
        return self._found(f"{column} = ?", value)

    def names(self) -> tuple[str, ...]:
        """The names of all, each once, sorted."""
        rows = self._rows("SELECT DISTINCT package FROM kept ORDER BY package")
        return tuple(name for (name,) in rows)

    def close(self) -> None:
        self._database.close()

    def _found(self, where: str, value: str) -> tuple[_T, ...]:
        columns = ", ".join(self._table.columns)
        query = f"SELECT {columns} FROM kept WHERE {where} ORDER BY id"  # noqa: S608 - our names
        rows = self._rows(query, value)
        return tuple(self._table.made(*row, self._suite) for row in rows)

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.DatabaseError as error:
            reason = f"the cached package index is damaged: {error}"
            raise StoreError(reason, hint="delete it, then run again") from error
