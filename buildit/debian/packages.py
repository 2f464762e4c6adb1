"""A Packages index: read as a stream, kept as a small SQLite file named by the index's digest; and
from names to the closed set of exact .debs.

bookworm/main has 63 000 paragraphs in 47 MB; only the fields that choosing and fetching need are
kept, and a look-up reads a few pages. The file is derived: delete it and it is made again.

Debian's version order (deb-version(7)), and relations between packages (Debian Policy 7.1):
`a (>= 1) | b:any, c`.

Depends and Pre-Depends are followed, Recommends are not, Essential implies nothing. The highest
version of all suites wins; of alternatives the first that can be had, one that is chosen already
before all. There is no backtracking: a set that does not fit is an error with both chains.
"""

from __future__ import annotations

import hashlib
import os
import re
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

from buildit.archive.streams import Readable
from buildit.digest import Digest, is_hex64
from buildit.errors import IntegrityError, StoreError, UnsatisfiableError
from buildit.files import replacing
from buildit.model.plan import DebRef

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
            reason = f"the cached package index is damaged: {error}"
            raise StoreError(reason, hint="delete it, then run again") from error
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


_PRIORITIES = {"required": 0, "important": 1, "standard": 2, "optional": 3, "extra": 4}


@dataclass(frozen=True, slots=True)
class Indices:
    """What can be chosen from: all suites as one, earlier ones first where versions are equal, and
    each suite's date (ISO 8601, UTC)."""

    indices: tuple[PackageIndex, ...]
    dates: Mapping[str, str]

    def named(self, name: str) -> tuple[Candidate, ...]:
        return tuple(found for index in self.indices for found in index.named(name))

    def providing(self, name: str) -> tuple[Candidate, ...]:
        return tuple(found for index in self.indices for found in index.providing(name))


def select(wanted: Iterable[str], index: Indices) -> tuple[DebRef, ...]:
    """The closed set of packages named `name` or `name=version`, sorted by name.

    Raises:
        UnsatisfiableError: a package is missing, cannot be had in the version needed, or conflicts
            with another; the chains say who wants it.
        IntegrityError: the index has a relation that cannot be read.
    """
    selection = _Selection(index)
    for name, version in sorted(_request(text) for text in wanted):
        selection.request(name, version)
    selection.close()
    selection.check_conflicts()
    return tuple(
        DebRef(one.name, one.version, one.arch, one.suite, one.path, one.size, one.digest)
        for _, one in sorted(selection.chosen.items())
    )


def _request(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not name or (equals and not version):
        raise UnsatisfiableError(f"not a Debian package: {text!r}", hint="write name or name=1.0")
    return name, version


class _Selection:
    """The set so far: what is chosen, who wanted it first, and whose relations are still open."""

    def __init__(self, index: Indices) -> None:
        self.chosen: dict[str, Candidate] = {}
        self._index = index
        self._wanted_by: dict[str, tuple[str, str]] = {}
        self._pinned: dict[str, str] = {}
        self._open: deque[Candidate] = deque()

    def request(self, name: str, version: str) -> None:
        relation = Relation(name, "", "=" if version else "", version)
        if version:
            self._pinned[name] = version
        found = self._had(relation)
        if found is None:
            raise self._missing(relation, "")
        self._choose(found, "", str(relation))

    def close(self) -> None:
        while self._open:
            package = self._open.popleft()
            for group in _relations(package, package.pre_depends, package.depends):
                if not any(self._is_satisfied(relation) for relation in group):
                    self._satisfy(group, package)

    def check_conflicts(self) -> None:
        for name in sorted(self.chosen):
            package = self.chosen[name]
            for group in _relations(package, package.conflicts, package.breaks):
                for other in self._hit(group[0], package):
                    what = f"{name} {package.version} conflicts with {other.name} {other.version}"
                    hint = "leave one of them out, or pin another version with name=version"
                    raise self._unfit(what, hint, name, other.name)

    def _hit(self, relation: Relation, package: Candidate) -> Iterator[Candidate]:
        for other in self.chosen.values():
            real = other.name == relation.name and relation.admits(other.version)
            # Policy 7.6.1: nobody conflicts with what it provides itself
            if other.name != package.name and (real or _provides(other, relation)):
                yield other

    def _is_satisfied(self, relation: Relation) -> bool:
        real = self.chosen.get(relation.name)
        if real is not None and relation.admits(real.version):
            return True
        return any(
            self.chosen.get(found.name) == found and _provides(found, relation)
            for found in self._index.providing(relation.name)
        )

    def _satisfy(self, group: tuple[Relation, ...], package: Candidate) -> None:
        text = " | ".join(map(str, group))
        for relation in group:
            found = self._had(relation)
            if found is not None and found.name not in self.chosen:
                self._choose(found, package.name, text)
                return
        for relation in group:
            if relation.name in self.chosen:
                chosen = self.chosen[relation.name]
                what = f"{package.name} needs {text}, but {chosen.name} {chosen.version} is chosen"
                hint = "pin versions that fit together with name=version, or update the indices"
                raise self._unfit(what, hint, package.name, chosen.name)
        raise self._missing(group[0], package.name, text)

    def _had(self, relation: Relation) -> Candidate | None:
        best = self._best(self._index.named(relation.name), relation)
        return best or self._best_provider(relation)

    def _best(self, found: Sequence[Candidate], relation: Relation) -> Candidate | None:
        """The highest version; of equal ones the first."""
        fitting = [one for one in found if relation.admits(one.version) and self._free(one)]
        return max(fitting, key=lambda one: debian_key(one.version), default=None)

    def _best_provider(self, relation: Relation) -> Candidate | None:
        """What apt would take: the highest priority, then the first name; in its highest version.

        A name that the archive has only in older versions of its provider is not offered.
        """
        providers = {
            one.name: one
            for one in sorted(
                self._index.providing(relation.name), key=lambda one: debian_key(one.version)
            )
            if self._free(one) and _provides(one, relation)
        }
        newest = [
            one
            for one in providers.values()
            if (best := self._best(self._index.named(one.name), Relation(one.name))) is not None
            and best.version == one.version
        ]
        return min(
            newest, key=lambda one: (_PRIORITIES.get(one.priority, 5), one.name), default=None
        )

    def _free(self, package: Candidate) -> bool:
        return self._pinned.get(package.name, package.version) == package.version

    def _choose(self, package: Candidate, wanted_by: str, text: str) -> None:
        if package.name in self.chosen:
            return
        self.chosen[package.name] = package
        self._wanted_by[package.name] = (wanted_by, text)
        self._open.append(package)

    def _unfit(self, what: str, hint: str, *names: str) -> UnsatisfiableError:
        details = tuple(line for name in names for line in self._chain(name))
        return UnsatisfiableError(what, hint=hint, details=details)

    def _chain(self, name: str) -> tuple[str, ...]:
        """Who wants it, from what was asked for down to it."""
        lines: list[str] = []
        while name:
            parent, text = self._wanted_by[name]
            lines.append(f"{parent} needs {text}" if parent else f"{text} is asked for")
            name = parent
        return tuple(reversed(lines))

    def _missing(self, relation: Relation, wanted_by: str, text: str = "") -> UnsatisfiableError:
        named = self._index.named(relation.name)
        text = text or str(relation)
        if named:
            have = ", ".join(sorted({one.version for one in named}, key=debian_key))
            message = f"no suite has {text}; there is {have}"
        else:
            message = f"no suite has a package {text}"
        near = get_close_matches(relation.name, self._nearby(relation.name), 1)
        hint = f"did you mean {near[0]}?" if near else "check the name and the suites"
        chain = (*self._chain(wanted_by), f"{wanted_by} needs {text}") if wanted_by else ()
        place = f"debian:{relation.name}"
        return UnsatisfiableError(message, place=place, hint=hint, details=chain)

    def _nearby(self, name: str) -> tuple[str, ...]:
        """Names that a slip of the finger turns into `name`, as far as the index has them."""
        drops = (name[:at] + name[at + 1 :] for at in range(len(name)))
        swaps = (
            name[:at] + name[at + 1] + name[at] + name[at + 2 :] for at in range(len(name) - 1)
        )
        guesses = {*drops, *swaps, f"lib{name}", f"{name}-dev", name.replace("_", "-")}
        return tuple(guess for guess in sorted(guesses) if guess and self._index.named(guess))


def _relations(package: Candidate, *fields: str) -> Iterator[tuple[Relation, ...]]:
    try:
        for field in fields:
            yield from parse_relations(field)
    except ValueError as error:
        raise IntegrityError(str(error), place=f"debian:{package.name}") from error


def _provides(package: Candidate, relation: Relation) -> bool:
    provided = _relations(package, package.provides)
    return any(relation.admits_provided(group[0]) for group in provided)
