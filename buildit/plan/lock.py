"""`buildit.lock`: what a container was built from, one record a line, sorted, a section a platform.

    # buildit.lock: written by buildit; commit it beside container.yaml
    buildit-lock 1
    [linux/amd64]
    deb toolchain/debian-12 libc6 2.36-9 amd64 bookworm pool/main/g/….deb 2758000 <sha256>
    fact project web
    git libs/greet https://example.org/greet.git <tag or -> <yes or no> <commit> <sha256>
    image oci://registry.example.org/web/base:12 <digest of the platform's manifest>
    index bookworm 2026-05-16T09:30:11Z
    output www-servers/nginx runtime <diff_id>
    package www-servers/nginx 1.22.1 <recipe digest> <key> +ipv6 -selinux
    patch www-servers/nginx <canonical digest> <raw digest or -> patches/https-only.patch
    request toolchain/debian-12 <digest of what was asked for>
    source www-servers/nginx <sha256> nginx-1.22.1.tar.gz
    synced srv/www/index.html <sha256> 2026-05-16T09:30:11Z

Words are separated by one blank; bytes that would break that are percent-encoded.
"""

from __future__ import annotations

import calendar
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from buildit.digest import BuildKey, Digest, is_hex64
from buildit.errors import RecipeError
from buildit.model.plan import DebRef
from buildit.model.words import some

HEADER = "buildit-lock 1"
_COMMENT = "# buildit.lock: written by buildit; commit it beside container.yaml"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_SAFE = "/:@+~=,[]%!$&'()*;?#"


@dataclass(frozen=True, slots=True)
class LockedPackage:
    """`flags` are the effective ones, `+ssl`, `-selinux` or `tls=openssl`, sorted by name."""

    name: str
    version: str
    recipe: Digest
    key: BuildKey
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LockedSource:
    package: str
    digest: Digest
    name: str


@dataclass(frozen=True, slots=True)
class LockedCommit:
    """What a git source of a package was: `tag` is "" where the recipe names the commit; `digest`
    of the canonical tar, which depends on whether `submodules` are in it."""

    package: str
    url: str
    tag: str
    submodules: bool
    commit: str
    digest: Digest


@dataclass(frozen=True, slots=True)
class LockedPatch:
    """`canonical` is what is applied and hashed; `raw` of the bytes fetched, None for files."""

    package: str
    canonical: Digest
    raw: Digest | None
    name: str


@dataclass(frozen=True, slots=True)
class Section:
    """All that is pinned for one platform.

    `debs` maps what asked (`toolchain/debian-12`, or `debian:m4` for a further package) to its
    closed set, `requests` to the digest of the names and suites asked. `indices` maps a suite to
    the date of the index that they were chosen from.
    `outputs` maps (package, output) to the diff_id, once built. `synced` maps a file that a sync
    step brings, by where it goes and the digest of its content, to its time in seconds since 1970;
    locks of older versions have none. `images` maps the reference of an image in a registry, as
    `Reference` writes it, to the digest of this platform's manifest. `facts` are what a recipe that
    is a template asked for, by name: facts, and parameters of the command line.
    `files` maps a URL that a sync step takes to the digest of what was there.
    """

    debs: Mapping[str, tuple[DebRef, ...]] = field(default_factory=dict)
    requests: Mapping[str, Digest] = field(default_factory=dict)
    indices: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[LockedPackage, ...] = ()
    sources: tuple[LockedSource, ...] = ()
    patches: tuple[LockedPatch, ...] = ()
    outputs: Mapping[tuple[str, str], Digest] = field(default_factory=dict)
    synced: Mapping[tuple[str, Digest], int] = field(default_factory=dict)
    commits: tuple[LockedCommit, ...] = ()
    images: Mapping[str, Digest] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, Digest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lock:
    sections: Mapping[str, Section] = field(default_factory=dict)

    def section(self, platform: str) -> Section:
        return self.sections.get(platform, Section())

    def begun(self, platform: str) -> Section:
        """The section of a platform; where there is none yet, what another says that holds for
        every platform: versions, patches, commits, times of files."""
        _, _, stage = platform.partition(" ")
        alike = [name for name in self.sections if name.partition(" ")[2] == stage]
        if platform in self.sections or not alike:
            return self.section(platform)
        other = self.sections[min(alike)]
        return replace(other, debs={}, requests={}, indices={}, sources=(), outputs={}, images={})

    def synced(self, platform: str) -> Mapping[tuple[str, Digest], int]:
        """The times of files as any section has them, that of the platform before others."""
        others = (one.synced for one in self.sections.values())
        return {
            k: v for times in (*others, self.section(platform).synced) for k, v in times.items()
        }

    def with_section(self, platform: str, section: Section) -> Lock:
        return Lock({**self.sections, platform: section})


def format_lock(lock: Lock) -> str:
    """The lock's text; `parse_lock` gives an equal lock back."""
    lines = [_COMMENT, HEADER]
    for platform in sorted(lock.sections):
        lines.append(f"[{platform}]")
        lines.extend(sorted(map(_line, _rows(lock.sections[platform]))))
    return "\n".join(lines) + "\n"


def _rows(section: Section) -> Iterator[tuple[str, ...]]:
    """Each record as its words; `_RECORDS` reads them."""
    for asker, debs in section.debs.items():
        for d in debs:
            yield "deb", asker, d.name, d.version, d.arch, d.suite, d.path, str(d.size), d.digest
    yield from (("request", *pair) for pair in section.requests.items())
    yield from (("fact", *pair) for pair in section.facts.items())
    yield from (("file", *pair) for pair in section.files.items())
    yield from (("image", *pair) for pair in section.images.items())
    yield from (("index", *pair) for pair in section.indices.items())
    for one in section.packages:
        yield "package", one.name, one.version, one.recipe, one.key, *one.flags
    yield from (("source", one.package, one.digest, one.name) for one in section.sources)
    for git in section.commits:
        with_modules = "yes" if git.submodules else "no"
        yield "git", git.package, git.url, git.tag or "-", with_modules, git.commit, git.digest
    for patch in section.patches:
        yield "patch", patch.package, patch.canonical, patch.raw or "-", patch.name
    yield from (("output", *name, diff_id) for name, diff_id in section.outputs.items())
    yield from (("synced", *of, _date(moment)) for of, moment in section.synced.items())


def _line(words: tuple[str, ...]) -> str:
    plain = (word.replace("%", "%25") for word in words)
    return " ".join(quote(word, safe=_SAFE, errors="surrogateescape") for word in plain)


@lru_cache(maxsize=1024)
def _date(moment: int) -> str:
    return time.strftime(_TIME, time.gmtime(moment))


@lru_cache(maxsize=1024)
def _moment(date: str) -> int:
    moment = calendar.timegm(time.strptime(date, _TIME))
    if _date(moment) != date:
        raise ValueError(date)
    return moment


def _size(text: str) -> int:
    if re.fullmatch(r"0|[1-9][0-9]{0,17}", text) is None:
        raise ValueError(text)
    return int(text)


def _digest(text: str) -> Digest:
    if not is_hex64(text):
        raise ValueError(text)
    return Digest(text)


def _raw(text: str) -> Digest | None:
    return None if text == "-" else _digest(text)


def _tag(text: str) -> str:
    return "" if text == "-" else text


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError(text)
    return text == "yes"


def _commit(text: str) -> str:
    if re.fullmatch(r"[0-9a-f]{40}", text) is None:
        raise ValueError(text)
    return text


_RECORDS: Mapping[str, tuple[int, tuple[Callable[[str], object], ...]]] = {
    "deb": (2, (str, str, str, str, str, str, _size, _digest)),
    "fact": (1, (str, str)),
    "file": (1, (str, _digest)),
    "git": (0, (str, str, _tag, _yes, _commit, _digest)),
    "image": (1, (str, _digest)),
    "index": (1, (str, str)),
    "output": (2, (str, str, _digest)),
    "package": (1, (str, str, _digest, _digest)),  # and flags
    "patch": (0, (str, _digest, _raw, str)),
    "request": (1, (str, _digest)),
    "source": (0, (str, _digest, str)),
    "synced": (2, (str, _digest, _moment)),
}
"""How many words say what a record is about (a merge of two locks may leave two of them; 0 where
that may be), and how its words are read."""

_HINT = "undo the edit (git checkout buildit.lock), or delete the file and run `buildit lock`"


def parse_lock(text: str, file: str) -> Lock:
    """Read a lock.

    Raises:
        RecipeError: the text is not a lock of this format; the place names the line.
    """
    sections: dict[str, _Records] = {}
    current: _Records | None = None
    header = False
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{file}:{number}:1"
        if not line or line.startswith("#"):
            continue
        if not header:
            if line != HEADER:
                message = f"not a lock of this buildit: expected {HEADER!r}, found {line[:60]!r}"
                hint = "use the buildit that wrote it, or delete it and lock anew"
                raise RecipeError(message, place=place, hint=hint)
            header = True
        elif line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], _Records())
        elif current is None:
            raise RecipeError("a record before the first [platform]", place=place, hint=_HINT)
        else:
            words = [unquote(word, errors="surrogateescape") for word in line.split(" ")]
            current.add(words, place)
    return Lock({platform: records.section() for platform, records in sections.items()})


@dataclass(frozen=True, slots=True)
class _Records:
    """The records of one section as they are read: where each subject was, and rows by kind."""

    places: dict[tuple[str, ...], str] = field(default_factory=dict)
    rows: dict[str, list[tuple[Any, ...]]] = field(
        default_factory=lambda: {kind: [] for kind in _RECORDS}
    )

    def add(self, words: list[str], place: str) -> None:
        kind, *values = words
        about, readers = _RECORDS.get(kind, (0, ()))
        subject = (kind, *values[:about])
        first = self.places.setdefault(subject, place) if about else place
        if first != place:
            hint = f"the first is at {first}; keep one of the two, or lock anew"
            raise RecipeError(f"a second record of {' '.join(subject)}", place=place, hint=hint)
        flags = values[len(readers) :]
        try:
            if kind not in _RECORDS or (flags and kind != "package"):
                raise ValueError(kind)
            read = (reader(value) for reader, value in zip(readers, values, strict=not flags))
            self.rows[kind].append((*read, tuple(flags)) if kind == "package" else tuple(read))
        except ValueError as error:
            message = f"not a lock record: {' '.join(words)[:80]!r}"
            raise RecipeError(message, place=place, hint=_HINT) from error

    def section(self) -> Section:
        rows = self.rows
        debs: dict[str, tuple[DebRef, ...]] = {}
        for asker, *deb in rows["deb"]:
            debs[asker] = (*debs.get(asker, ()), DebRef(*deb))
        return Section(
            debs=debs,
            requests=dict(rows["request"]),
            indices=dict(rows["index"]),
            packages=tuple(LockedPackage(*row) for row in rows["package"]),
            sources=tuple(LockedSource(*row) for row in rows["source"]),
            commits=tuple(LockedCommit(*row) for row in rows["git"]),
            patches=tuple(LockedPatch(*row) for row in rows["patch"]),
            outputs={(package, output): diff_id for package, output, diff_id in rows["output"]},
            images=dict(rows["image"]),
            facts=dict(rows["fact"]),
            files=dict(rows["file"]),
            synced={(name, digest): moment for name, digest, moment in rows["synced"]},
        )


_LISTED = 3
"""How many .debs of one that asks for the first time are listed by name."""


def changes(old: Section, new: Section) -> tuple[str, ...]:
    """What moves between two sections, in words; outputs do not count, they follow."""
    lines: list[str] = []
    for asker in sorted({*old.debs, *new.debs}):
        debs = [section.debs.get(asker, ()) for section in (old, new)]
        if asker not in old.requests and len(debs[1]) > _LISTED:
            lines.append(f"{asker}: {len(debs[1])} Debian packages are new")
            continue
        named = ({d.name: f"{d.version} ({d.digest[:12]})" for d in each} for each in debs)
        lines += _moved(f"{asker}: ", *named)
    lines += _moved_packages(old, new)
    tagged = (
        {f"{c.package} {c.url} {c.tag}": c.commit for c in s.commits if c.tag} for s in (old, new)
    )
    lines += _moved("tag of ", *tagged)
    lines += _moved("fact ", *({**section.facts} for section in (old, new)))
    for prefix, digests in (
        ("image ", [old.images, new.images]),
        ("file ", [old.files, new.files]),
    ):
        lines += _moved(prefix, *({k: sha[:12] for k, sha in each.items()} for each in digests))
    sources = ([(one, one.digest) for one in each.sources] for each in (old, new))
    patches = ([(one, one.canonical) for one in each.patches] for each in (old, new))
    for prefix, rows in (("source of ", sources), ("patch of ", patches)):
        named = ({f"{one.package} {one.name}": sha[:12] for one, sha in each} for each in rows)
        lines += _moved(prefix, *named)
    return (*lines, *_moved_files(old, new))


def _moved_files(old: Section, new: Section) -> list[str]:
    """A line for each way that synced files move, however many they are."""
    before, after = ({name for name, _ in section.synced} for section in (old, new))
    changed = {name for name, _ in new.synced.keys() - old.synced.keys()} & before
    words = {"changed, dated now": changed, "new, dated now": after - before}
    words["no longer there"] = before - after
    lines = [f"synced {some(sorted(names))}: {what}" for what, names in words.items() if names]
    gone = {name for name, _ in old.synced.keys() - new.synced.keys()} & after - changed
    return [*lines, *(f"synced {name}: another content is gone" for name in sorted(gone))]


def _moved_packages(old: Section, new: Section) -> list[str]:
    before, after = ({one.name: one for one in section.packages} for section in (old, new))
    lines = []
    for name in sorted({*before, *after}):
        if name not in after:
            lines.append(f"{name} {before[name].version} is no longer used")
        elif name not in before:
            lines.append(f"{name} {after[name].version} is new")
        elif before[name] != after[name]:
            what = "; ".join(_differences(before[name], after[name]))
            lines.append(f"{name}: {what} (key {before[name].key[:12]} -> {after[name].key[:12]})")
    return lines


def _differences(before: LockedPackage, after: LockedPackage) -> list[str]:
    found = []
    if before.version != after.version:
        found.append(f"version {before.version} -> {after.version}")
    if before.flags != after.flags:
        gone = " ".join(sorted({*before.flags} - {*after.flags})) or "none"
        come = " ".join(sorted({*after.flags} - {*before.flags})) or "none"
        found.append(f"flags {gone} -> {come}")
    if before.recipe != after.recipe:
        found.append("its recipe changed")
    return found or ["what it is built from or with changed"]


def _moved(prefix: str, before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    lines = []
    for name in sorted({*before, *after}):
        if name not in after:
            lines.append(f"{prefix}{name} is no longer used (was {before[name]})")
        elif name not in before:
            lines.append(f"{prefix}{name} is new: {after[name]}")
        elif before[name] != after[name]:
            lines.append(f"{prefix}{name} moves from {before[name]} to {after[name]}")
    return lines
