"""`buildit.lock`: what a container was built from, one record a line, sorted, a section a platform.

    # buildit.lock: written by buildit; commit it beside container.yaml
    buildit-lock 1
    [linux/amd64]
    deb toolchain/debian-12 libc6 2.36-9 amd64 bookworm pool/main/g/….deb 2758000 <sha256>
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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from urllib.parse import quote, unquote

from buildit.digest import BuildKey, Digest, is_hex64
from buildit.errors import RecipeError
from buildit.model.amount import some
from buildit.model.task import DebRef

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
    locks of older versions have none.
    """

    debs: Mapping[str, tuple[DebRef, ...]] = field(default_factory=dict)
    requests: Mapping[str, Digest] = field(default_factory=dict)
    indices: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[LockedPackage, ...] = ()
    sources: tuple[LockedSource, ...] = ()
    patches: tuple[LockedPatch, ...] = ()
    outputs: Mapping[tuple[str, str], Digest] = field(default_factory=dict)
    synced: Mapping[tuple[str, Digest], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Lock:
    sections: Mapping[str, Section] = field(default_factory=dict)

    def section(self, platform: str) -> Section:
        return self.sections.get(platform, Section())

    def with_section(self, platform: str, section: Section) -> Lock:
        return Lock({**self.sections, platform: section})


def format_lock(lock: Lock) -> str:
    """The lock's text; `parse_lock` gives an equal lock back."""
    lines = [_COMMENT, HEADER]
    for platform in sorted(lock.sections):
        lines.append(f"[{platform}]")
        lines.extend(sorted(_records(lock.sections[platform])))
    return "\n".join(lines) + "\n"


def _records(section: Section) -> list[str]:
    lines = [
        _line("deb", asker, d.name, d.version, d.arch, d.suite, d.path, str(d.size), d.digest)
        for asker, debs in section.debs.items()
        for d in debs
    ]
    lines += [_line("request", asker, digest) for asker, digest in section.requests.items()]
    lines += [_line("index", suite, date) for suite, date in section.indices.items()]
    lines += [
        _line("package", p.name, p.version, p.recipe, p.key, *p.flags) for p in section.packages
    ]
    lines += [_line("source", s.package, s.digest, s.name) for s in section.sources]
    lines += [_line("patch", p.package, p.canonical, p.raw or "-", p.name) for p in section.patches]
    lines += [_line("output", *name, diff_id) for name, diff_id in section.outputs.items()]
    lines += [
        _line("synced", name, digest, _date(moment))
        for (name, digest), moment in section.synced.items()
    ]
    return lines


def _line(*words: str) -> str:
    return " ".join(
        quote(word.replace("%", "%25"), safe=_SAFE, errors="surrogateescape") for word in words
    )


def parse_lock(text: str, file: str) -> Lock:
    """Read a lock.

    Raises:
        RecipeError: the text is not a lock of this format; the place names the line.
    """
    sections: dict[str, _Builder] = {}
    current: _Builder | None = None
    header = False
    for number, line in enumerate(text.splitlines(), 1):
        place = f"{file}:{number}:1"
        if not line or line.startswith("#"):
            continue
        if not header:
            if line != HEADER:
                raise RecipeError(
                    f"not a lock of this buildit: expected {HEADER!r}, found {line[:60]!r}",
                    place=place,
                    hint="use the buildit that wrote it, or delete it and lock anew",
                )
            header = True
        elif line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], _Builder())
        elif current is None:
            raise RecipeError("a record before the first [platform]", place=place, hint=_HINT)
        else:
            current.add(
                [unquote(word, errors="surrogateescape") for word in line.split(" ")], place
            )
    return Lock({platform: builder.section() for platform, builder in sections.items()})


_SUBJECT = {"deb": 2, "index": 1, "output": 2, "package": 1, "request": 1, "synced": 2}
"""How many words say what a record is about: a merge of two locks may leave two of them."""

_HINT = "undo the edit (git checkout buildit.lock), or delete the file and run `buildit lock`"


class _Builder:
    """Collects the records of one section."""

    def __init__(self) -> None:
        self.places: dict[tuple[str, ...], str] = {}
        self.debs: dict[str, list[DebRef]] = {}
        self.synced: dict[tuple[str, Digest], int] = {}
        self.made = Section()

    def add(self, words: list[str], place: str) -> None:
        subject = (words[0], *words[1 : 1 + _SUBJECT.get(words[0], 0)])
        first = self.places.setdefault(subject, place)
        if first != place and len(subject) > 1:
            raise RecipeError(
                f"a second record of {' '.join(subject)}",
                place=place,
                hint=f"the first is at {first}; keep one of the two, or lock anew",
            )
        try:
            self._add(words[0], words[1:])
        except (ValueError, IndexError) as error:
            raise RecipeError(
                f"not a lock record: {' '.join(words)[:80]!r}", place=place, hint=_HINT
            ) from error

    def _add(self, kind: str, words: list[str]) -> None:
        made = self.made
        match kind, words:
            case "deb", [asker, name, version, arch, suite, path, size, digest]:
                deb = DebRef(name, version, arch, suite, path, _size(size), _digest(digest))
                self.debs.setdefault(asker, []).append(deb)
            case "index", [suite, date]:
                self.made = replace(made, indices={**made.indices, suite: date})
            case "request", [asker, digest]:
                self.made = replace(made, requests={**made.requests, asker: _digest(digest)})
            case "package", [name, version, recipe, key, *flags]:
                package = LockedPackage(
                    name, version, _digest(recipe), BuildKey(_digest(key)), tuple(flags)
                )
                self.made = replace(made, packages=(*made.packages, package))
            case "source", [package_name, digest, name]:
                source = LockedSource(package_name, _digest(digest), name)
                self.made = replace(made, sources=(*made.sources, source))
            case "patch", [package_name, digest, raw, name]:
                patch = LockedPatch(
                    package_name, _digest(digest), None if raw == "-" else _digest(raw), name
                )
                self.made = replace(made, patches=(*made.patches, patch))
            case "output", [package_name, output, digest]:
                key_ = (package_name, output)
                self.made = replace(made, outputs={**made.outputs, key_: _digest(digest)})
            case "synced", [name, digest, date]:
                self.synced[name, _digest(digest)] = _moment(date)
            case _:
                raise ValueError(kind)

    def section(self) -> Section:
        debs = {asker: tuple(debs) for asker, debs in self.debs.items()}
        return replace(self.made, debs=debs, synced=self.synced)


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


def changes(old: Section, new: Section) -> tuple[str, ...]:
    """What moves between two sections, in words; outputs do not count, they follow."""
    lines: list[str] = []
    for asker in sorted({*old.debs, *new.debs}):
        before = {deb.name: deb for deb in old.debs.get(asker, ())}
        after = {deb.name: deb for deb in new.debs.get(asker, ())}
        lines += _moved(
            f"{asker}: ",
            {name: f"{deb.version} ({deb.digest[:12]})" for name, deb in before.items()},
            {name: f"{deb.version} ({deb.digest[:12]})" for name, deb in after.items()},
        )
    lines += _moved_packages(old, new)
    lines += _moved(
        "source of ",
        {f"{source.package} {source.name}": source.digest[:12] for source in old.sources},
        {f"{source.package} {source.name}": source.digest[:12] for source in new.sources},
    )
    lines += _moved(
        "patch of ",
        {f"{patch.package} {patch.name}": patch.canonical[:12] for patch in old.patches},
        {f"{patch.package} {patch.name}": patch.canonical[:12] for patch in new.patches},
    )
    lines += _moved_files(old, new)
    return tuple(lines)


def _moved_files(old: Section, new: Section) -> list[str]:
    """A line for each way that synced files move, however many they are."""
    before, after = ({name for name, _ in section.synced} for section in (old, new))
    changed = {name for name, _ in new.synced.keys() - old.synced.keys()} & before
    lines = []
    for names, what in (
        (changed, "changed, dated now"),
        (after - before, "new, dated now"),
        (before - after, "no longer there"),
    ):
        if names:
            lines.append(f"synced {some(sorted(names))}: {what}")
    gone = {name for name, _ in old.synced.keys() - new.synced.keys()} & after - changed
    return [*lines, *(f"synced {name}: another content is gone" for name in sorted(gone))]


def _moved_packages(old: Section, new: Section) -> list[str]:
    before = {package.name: package for package in old.packages}
    after = {package.name: package for package in new.packages}
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
