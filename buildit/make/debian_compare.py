"""Our build of a Debian source against the archive's .debs: bit for bit, and why they differ.

That the build of an unpatched source gives Debian's own bytes proves the root in which it was made.
Where it does not, the reason is found by looking at what differs (DEBIAN §3); no record of Debian's
build (.buildinfo) is asked for. Pure: of two sets of streams.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import BinaryIO

from buildit.archive.admit import Budget
from buildit.archive.deb import read_control, read_deb
from buildit.digest import CHUNK, Digest, digest_stream
from buildit.model.tree import Entry


class Reason(StrEnum):
    """Why two .debs of one version differ."""

    NONE = "identical"
    ABSENT = "not in the archive"
    NOT_BUILT = "not built here"
    BIN_NMU = "binNMU: the archive has a rebuild"
    BUILD_PATH = "build path"
    OLDER_BUILDER = "older builder"
    NEWER_DEPENDENCY = "newer dependency"
    DEBUG_DATA = "debug data alone"
    NETWORK = "their builder had the network"
    UNEXPLAINED = "not explained"


@dataclass(frozen=True, slots=True)
class ComparedDeb:
    """One binary package: why it differs, by what that is told, and the paths that differ, those of
    the control archive beginning with `DEBIAN/`."""

    name: str
    reason: Reason
    told: str = ""
    paths: tuple[str, ...] = ()


def compare_debs(
    ours: Mapping[str, BinaryIO], theirs: Mapping[str, BinaryIO]
) -> tuple[ComparedDeb, ...]:
    """Compare .debs by the names of their packages; each stream is seekable.

    Raises:
        IntegrityError: one is damaged.
    """
    found = []
    for name in sorted({*ours, *theirs}):
        if name not in theirs:
            found.append(ComparedDeb(name, Reason.ABSENT))
        elif name not in ours:
            found.append(ComparedDeb(name, Reason.NOT_BUILT))
        else:
            found.append(_compared(name, ours[name], theirs[name]))
    return tuple(found)


def _compared(name: str, ours: BinaryIO, theirs: BinaryIO) -> ComparedDeb:
    if _whole(ours) == _whole(theirs):
        return ComparedDeb(name, Reason.NONE)
    mine, other = _Deb.read(ours, name), _Deb.read(theirs, name)
    paths = tuple(sorted(_differing(mine, other)))
    for rule in _RULES:
        if found := rule(mine, other, paths):
            return ComparedDeb(name, *found, paths)
    return ComparedDeb(name, Reason.UNEXPLAINED, "", paths)


def _whole(stream: BinaryIO) -> Digest:
    stream.seek(0)
    digest = digest_stream(stream)
    stream.seek(0)
    return digest


@dataclass(frozen=True, slots=True)
class _Deb:
    """A .deb whose files can be read: control members, entries, and digests of files by path."""

    stream: BinaryIO
    control: Mapping[str, bytes]
    entries: Mapping[str, Entry]
    digests: Mapping[str, bytes]

    @classmethod
    def read(cls, stream: BinaryIO, name: str) -> _Deb:
        control = read_control(stream, name)
        entries: dict[str, Entry] = {}
        digests: dict[str, bytes] = {}
        stream.seek(0)
        for entry, content in read_deb(stream, Budget(), name):
            entries[entry.path] = entry
            if content is not None:
                sha = hashlib.sha256()
                while part := content.read(CHUNK):
                    sha.update(part)
                digests[entry.path] = sha.digest()
        return cls(stream, control, entries, digests)

    def fields(self) -> dict[str, str]:
        text = self.control["control"].decode("utf-8", "replace")
        return {name: said.strip() for name, said in _FIELD.findall(text)}

    def files(self, paths: tuple[str, ...]) -> dict[str, bytes]:
        """The bytes of those of the paths that are files of no more than `_MOST`."""
        wanted = {path for path in paths if path in self.digests}
        found = {}
        self.stream.seek(0)
        for entry, content in read_deb(self.stream, Budget(), "package"):
            if entry.path in wanted and content is not None and entry.size <= _MOST:
                parts = iter(lambda: content.read(CHUNK) or b"", b"")  # noqa: B023 - read at once
                found[entry.path] = b"".join(parts)
        return found


_FIELD = re.compile(r"^([A-Za-z-]+):((?:.*\n?)(?:[ \t].*\n?)*)", re.MULTILINE)
_MOST = 32 << 20


def _differing(mine: _Deb, other: _Deb) -> Iterator[str]:
    for name in {*mine.control, *other.control}:
        if mine.control.get(name) != other.control.get(name):
            yield f"DEBIAN/{name}"
    for path in {*mine.entries, *other.entries}:
        same = mine.entries.get(path) == other.entries.get(path)
        if not same or mine.digests.get(path) != other.digests.get(path):
            yield path


# -- reasons, in the order in which they are looked for

_Found = tuple[Reason, str] | None

_VERSION = re.compile(r"\((?:>=|=|<<|>>|<=) ([^)]*)\)")
_PATHS = re.compile(rb"/(?:build|tmp|<<PKGBUILDDIR>>)(?:/[A-Za-z0-9._+~-]+){1,2}")
_OURS = b"/build/reproducible-path"
_DEBHELPER = re.compile(rb"# Automatically added by (dh_[a-z]+/[0-9][^\s]*)")
_CONTROL = "DEBIAN/control"
_SIZE = re.compile(rb"^Installed-Size: .*\n", re.MULTILINE)
_CHANGELOG = re.compile(r"usr/share/doc/[^/]+/changelog\.Debian\.gz")
_TRIMMED = b"\n# Older entries have been removed from this changelog.\n"
_AGE = re.compile(
    r"DEBIAN/(?:md5sums|triggers|conffiles|(?:pre|post)(?:inst|rm)|shlibs|symbols)"
    r"|usr/share/(?:doc/[^/]+/(?:changelog|NEWS|README)[^/]*|man/.*|lintian/.*|info/.*)"
)


def _bin_nmu(mine: _Deb, other: _Deb, _: tuple[str, ...]) -> _Found:
    own, their = (one.fields().get("Version", "") for one in (mine, other))
    if re.fullmatch(re.escape(own) + r"\+b\d+", their):
        return Reason.BIN_NMU, f"{their} is in its control and changelog"
    return None


def _build_path(mine: _Deb, other: _Deb, paths: tuple[str, ...]) -> _Found:
    own = mine.files(paths)
    for path, text in other.files(paths).items():
        for found in _PATHS.findall(text):
            if not found.startswith(_OURS) and found not in own.get(path, b""):
                return Reason.BUILD_PATH, f"{path} has {found.decode('ascii', 'replace')}"
    return None


def _newer_depends(mine: _Deb, other: _Deb, _: tuple[str, ...]) -> _Found:
    own, their = mine.fields(), other.fields()
    for name in ("Pre-Depends", "Depends", "Recommends", "Built-Using", "Static-Built-Using"):
        one, two = own.get(name, ""), their.get(name, "")
        if one != two and _VERSION.sub("", one) == _VERSION.sub("", two):
            pairs = zip(one.split(","), two.split(","), strict=False)
            first = next((f"{a.strip()}, not {b.strip()}" for a, b in pairs if a != b), "")
            return Reason.NEWER_DEPENDENCY, f"{name}: {first}"
    return None


def _network(mine: _Deb, other: _Deb, paths: tuple[str, ...]) -> _Found:
    pages = tuple(path for path in paths if path.endswith(".html"))
    own, their = mine.files(pages), other.files(pages)
    for path in pages:
        links = [one.get(path, b"").count(b"reference external") for one in (their, own)]
        if links[0] > links[1]:
            more = links[0] - links[1]
            return (
                Reason.NETWORK,
                f"{path} has {more} links that only an inventory from there gives",
            )
    return None


def _older_builder(mine: _Deb, other: _Deb, paths: tuple[str, ...]) -> _Found:
    if not paths:
        return Reason.OLDER_BUILDER, "all files are the same, only packed otherwise"
    for path in (one for one in paths if one.startswith("DEBIAN/")):
        name = path.removeprefix("DEBIAN/")
        own, their = (_DEBHELPER.findall(one.control.get(name, b"")) for one in (mine, other))
        if own != their and their:
            return Reason.OLDER_BUILDER, f"{path} is of {their[0].decode('ascii', 'replace')}"
    logs = tuple(path for path in paths if _CHANGELOG.fullmatch(path))
    trimmed, whole = mine.files(logs), other.files(logs)
    for path in logs:
        if _TRIMMED in _plain(trimmed.get(path)) and _TRIMMED not in _plain(whole.get(path)):
            return Reason.OLDER_BUILDER, f"{path} has all entries, as debhelper left them once"
    rest = [path for path in paths if path != _CONTROL or not _same_but_size(mine, other)]
    if rest and all(_AGE.fullmatch(path) for path in rest):
        return Reason.OLDER_BUILDER, f"{rest[0]} is as another debhelper makes it"
    return None


def _plain(packed: bytes | None) -> bytes:
    """What is in a file of gzip; nothing where it is none."""
    with suppress(OSError, EOFError, zlib.error):
        return gzip.open(io.BytesIO(packed or b"")).read(_MOST)
    return b""


def _same_but_size(mine: _Deb, other: _Deb) -> bool:
    """Whether the control files are the same but for the size, which follows from other files."""
    texts = (_SIZE.sub(b"", one.control["control"]) for one in (mine, other))
    return len({*texts}) == 1


def _debug_data(mine: _Deb, other: _Deb, paths: tuple[str, ...]) -> _Found:
    """Where code and data of all programs are the same, and only what identifies their debug data
    differs, it is the debug data that does: it has paths, the compiler's switches, and the headers
    of what they were built with."""
    own, their = mine.files(paths), other.files(paths)
    rest = [path for path in paths if not _AGE.fullmatch(path)]
    if rest and all(path in own and path in their for path in rest):
        pairs = [(_sections(own[path]), _sections(their[path])) for path in rest]
        if all(one and one == two for one, two in pairs):
            return Reason.DEBUG_DATA, f"{rest[0]} differs in what names its debug data"
    return None


_TEXT = re.compile(rb"[\x20-\x7e]{6,200}")
_NUMBERED = re.compile(rb"\d+(?:\.\d+)+[\w.+~-]*")
_VARIES = re.compile(rb"\d+|\b[A-Z][a-z]{2}\b")  # numbers, months


def _versions(mine: _Deb, other: _Deb, paths: tuple[str, ...]) -> _Found:
    """Where programs say what they were built with: `Built with OpenSSL 3.0.17 1 Jul 2025`."""
    theirs = other.files(paths)
    for path, content in mine.files(paths).items():
        own, their = (_numbered(one) for one in (content, theirs.get(path, b"")))
        for said in own.keys() & their.keys():
            if _release(own[said]) > _release(their[said]):
                pair = (text.decode().strip() for text in (own[said], their[said]))
                return Reason.NEWER_DEPENDENCY, f"{path} has {', not '.join(map(repr, pair))}"
    return None


def _numbered(content: bytes) -> dict[bytes, bytes]:
    """The texts with a version, by what is in them but numbers."""
    texts = (text for text in _TEXT.findall(content) if _NUMBERED.search(text))
    return {_VARIES.sub(b"#", text): text for text in texts}


def _release(text: bytes) -> list[list[int]]:
    return [[int(one) for one in re.findall(rb"\d+", found)] for found in _NUMBERED.findall(text)]


_IDENTITY = (b".note.gnu.build-id", b".gnu_debuglink", b".gnu_debugaltlink")
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_NOBITS = 8  # SHT_NOBITS (gABI 4): it has no bytes in the file


def _sections(elf: bytes) -> dict[bytes, bytes]:
    """The sections of an ELF file of 64 bits by their names, but for what identifies its debug
    data; none where it is none."""
    found: dict[bytes, bytes] = {}
    with suppress(struct.error, IndexError, ValueError):
        head = _HEADER.unpack_from(elf)
        if not head[0].startswith(b"\x7fELF\x02\x01"):
            return {}
        offset, count, names = head[6], head[12], head[13]
        rows = [
            _SECTION.unpack_from(elf, offset + number * _SECTION.size) for number in range(count)
        ]
        table = elf[rows[names][4] : rows[names][4] + rows[names][5]]
        for at, kind, _, _, start, size, *_ in rows:
            name = table[at : table.index(b"\0", at)]
            if name not in _IDENTITY:
                found[name] = b"" if kind == _NOBITS else elf[start : start + size]
    return found


_RULES = (_bin_nmu, _build_path, _newer_depends, _network, _older_builder, _debug_data, _versions)
