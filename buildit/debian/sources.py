"""Source packages of Debian's archive, as its Sources indices have them: which one a base means,
what its build makes and knows, and whether its files can be had at all.

An index can promise more than a mirror has: a caller asks for all files of a source before anything
is resolved for it (`check_files`), and nobody takes another version than the one asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from buildit.debian.index import Fields, OpenIndex, Table
from buildit.debian.packages import DEB_NAME
from buildit.debian.relations import (
    Restriction,
    concerns,
    debian_key,
    fits_profiles,
    profiles_named,
)
from buildit.digest import Digest, is_hex64
from buildit.errors import FetchError, IntegrityError, UnsatisfiableError

BUILD_DEPENDS = ("build-depends", "build-depends-arch", "build-depends-indep")
BUILD_CONFLICTS = ("build-conflicts", "build-conflicts-arch", "build-conflicts-indep")
_FIELDS = (
    *("package", "version", "format", "directory", "checksums-sha256", "binary", "package-list"),
    *("architecture", *BUILD_DEPENDS, *BUILD_CONFLICTS, "extra-source-only"),
)
SOURCE_FORMATS = ("1.0", "3.0 (native)", "3.0 (quilt)")
"""Of source packages (dpkg-source(1)), as far as Debian's archive has them."""
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~%:-]*")
_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~%/-]*")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file of a source package: `path` below the archive's root (`pool/…`), `size` in bytes."""

    path: str
    size: int
    digest: Digest

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class MadePackage:
    """A binary package that a source's build makes, a row of its Package-List (dsc(5)): `kind` is
    `deb` or `udeb`; for which architectures and build profiles, nothing meaning all."""

    name: str
    kind: str = "deb"
    architectures: tuple[str, ...] = ()
    profiles: Restriction = ()


@dataclass(frozen=True, slots=True)
class SourceCandidate:
    """One source package of one suite; `format` as dpkg-source names it (`3.0 (quilt)`), `files`
    with the .dsc first, the others by name. `build_depends` and `build_conflicts` are whole
    relation fields, those of Build-…-Arch and Build-…-Indep among them.
    """

    name: str
    version: str
    suite: str
    format: str
    files: tuple[SourceFile, ...]
    packages: tuple[MadePackage, ...]
    build_depends: str
    build_conflicts: str
    extra_only: bool

    @property
    def place(self) -> str:
        """As a base is written."""
        return f"debian:{self.name}={self.version}"

    def made(self, architecture: str, profiles: Collection[str]) -> tuple[str, ...]:
        """The .debs that a build for one architecture and these profiles makes, sorted by name."""
        return tuple(
            sorted(
                one.name
                for one in self.packages
                if one.kind == "deb"
                and (one.architectures == ("all",) or concerns(one.architectures, architecture))
                and fits_profiles(one.profiles, profiles)
            )
        )


def declared_profiles(source: SourceCandidate) -> tuple[str, ...]:
    """The build profiles that a source's relations and packages know, sorted.

    Raises:
        IntegrityError: the index has a relation that cannot be read.
    """
    try:
        found = profiles_named(source.build_depends) | profiles_named(source.build_conflicts)
    except ValueError as error:
        raise IntegrityError(str(error), place=source.place) from error
    terms = (term for one in source.packages for terms in one.profiles for term in terms)
    return tuple(sorted(found.union(term.lstrip("!") for term in terms)))


def _files(text: str, directory: str) -> tuple[SourceFile, ...]:
    """Of lines `digest size name`; ValueError says which is malformed."""
    files = []
    for line in text.splitlines():
        words = line.split()
        good = len(words) == 3 and is_hex64(words[0]) and words[1].isdecimal()
        if not good or not _FILE.fullmatch(words[2]):
            raise ValueError(f"not a file of a source package: {line[:80]!r}")
        files.append(SourceFile(f"{directory}/{words[2]}", int(words[1]), Digest(words[0])))
    return tuple(files)


def _row(line: str) -> MadePackage:
    """`name type section priority [key=value…]`, spaces of values being commas, and an OR of
    profiles a plus sign (dsc(5))."""
    name, kind, _, _, *further = line.split()
    found = dict(word.partition("=")[::2] for word in further)
    architectures = tuple(found["arch"].split(",")) if "arch" in found else ()
    formula = found.get("profile", "")
    terms = tuple(tuple(one.split(",")) for one in formula.split("+")) if formula else ()
    return MadePackage(name, kind, architectures, terms)


def _binaries(row: Fields) -> set[str]:
    """The names of a source's binary packages; ValueError says what of it is malformed."""
    name, version, directory = row["package"], row["version"], row["directory"]
    debian_key(version)
    files = _files(row["checksums-sha256"], directory)
    scripts = [file for file in files if file.path.endswith(".dsc")]
    good = DEB_NAME.fullmatch(name) and _POOL.fullmatch(directory) and ".." not in directory
    if not good or len(scripts) != 1 or any(len(line.split()) < 4 for line in _rows_of(row)):
        raise ValueError(f"source package {name[:60]!r} {version[:60]!r} is malformed")
    return {one.strip() for one in row["binary"].split(",") if one.strip()}


def _rows_of(row: Fields) -> list[str]:
    return row["package-list"].splitlines()


def _made(*values: str) -> SourceCandidate:
    row, suite = dict(zip(_FIELDS, values[:-1], strict=True)), values[-1]
    files = _files(row["checksums-sha256"], row["directory"])
    packages = tuple(map(_row, _rows_of(row)))
    if not packages:  # a source of before 2014
        packages = tuple(MadePackage(name) for name in sorted(_binaries(row)))
    return SourceCandidate(
        name=row["package"],
        version=row["version"],
        suite=suite,
        format=row["format"],
        files=tuple(sorted(files, key=lambda file: (not file.name.endswith(".dsc"), file.name))),
        packages=packages,
        build_depends=_field(row, BUILD_DEPENDS),
        build_conflicts=_field(row, BUILD_CONFLICTS),
        extra_only=row["extra-source-only"] == "yes",
    )


def _field(row: Mapping[str, str], names: Iterable[str]) -> str:
    """Several relation fields as one; a comma at the end of one says nothing."""
    return ", ".join(row[name] for name in names if row[name])


SOURCES = Table(_FIELDS, "\n", _binaries, _made)


@dataclass(frozen=True, slots=True)
class Sources:
    """The source packages of all suites as one, earlier ones first where versions are equal, and
    each suite's date (ISO 8601, UTC)."""

    indices: tuple[OpenIndex[SourceCandidate], ...]
    dates: Mapping[str, str]

    def choose(self, name: str, version: str = "") -> SourceCandidate:
        """The source package of a name in one version, or the highest by Debian's order. Sources
        that are kept for others' sake alone (`Extra-Source-Only`) cannot be chosen.

        Raises:
            UnsatisfiableError: no suite has it; the nearest names, or the versions, are said. Or
                its format is none that we have unpacked.
        """
        found = self.offered(name)
        if not found:
            raise self._unknown(name)
        for one in found:
            if version in ("", one.version):
                return _unpackable(one)
        have = dict.fromkeys(f"{one.version} ({one.suite})" for one in found)
        message = f"no suite has the source package in this version; there is {', '.join(have)}"
        hint = f"write base: {found[0].place}, or leave the version out for the highest; that of "
        hint += "another release of Debian comes with its toolchain (`toolchain:`)"
        raise UnsatisfiableError(message, place=f"debian:{name}={version}", hint=hint)

    def check_files(self, source: SourceCandidate, exists: Callable[[SourceFile], bool]) -> None:
        """Ask `exists` for each file of a source; the caller knows the places.

        Raises:
            FetchError: one is at no place; a version all of whose files can be had is said.
        """
        missing = missing_files(source, exists)
        if not missing:
            return
        others = (one for one in self.offered(source.name) if one.version != source.version)
        had = next((one for one in others if not missing_files(one, exists)), None)
        name, lacking = f"{source.name} {source.version}", missing[0].name
        message = f"the archive lists {name} but no place has {lacking}"
        elsewhere = "name another mirror, or a snapshot of the archive, in the apt sources"
        hint = f"write base: {had.place}" if had else f"no other version can be had; {elsewhere}"
        details = tuple(f"missing: {file.path}" for file in missing)
        raise FetchError(message, place=source.place, hint=hint, details=details)

    def offered(self, name: str) -> list[SourceCandidate]:
        """The highest version first; of equal ones that of the first suite."""
        found = (one for index in self.indices for one in index.named(name) if not one.extra_only)
        return sorted(found, key=lambda one: debian_key(one.version), reverse=True)

    def _unknown(self, name: str) -> UnsatisfiableError:
        place = f"debian:{name}"
        made_by = (one for index in self.indices for one in index.also(name) if not one.extra_only)
        of = max(made_by, key=lambda one: debian_key(one.version), default=None)
        if of is not None:
            what = f"is a binary package, which the source package {of.name} makes"
            hint = f"write base: debian:{of.name}"
            return UnsatisfiableError(what, place=place, hint=hint)
        names = sorted({known for index in self.indices for known in index.names()})
        near = get_close_matches(name, names, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else "check the name and the suites"
        return UnsatisfiableError("no suite has such a source package", place=place, hint=hint)


def _unpackable(source: SourceCandidate) -> SourceCandidate:
    if source.format in SOURCE_FORMATS:
        return source
    message = f"its source format {source.format!r} is none of those that can be built"
    hint = f"these can be: {', '.join(SOURCE_FORMATS)}; name a version in one of them"
    raise UnsatisfiableError(message, place=source.place, hint=hint)


def missing_files(
    source: SourceCandidate, exists: Callable[[SourceFile], bool]
) -> tuple[SourceFile, ...]:
    """The files of a source that are at no place."""
    return tuple(file for file in source.files if not exists(file))
