"""What an output needs from outside itself, and what it gives to others.

Needs are found, not declared: libraries, loaders, `#!` interpreters, and symlinks that leave the
output. They are strings (`soname:libz.so.1`, `interp:/lib64/ld-linux-x86-64.so.2`,
`path:/bin/sh`), each with the files that have it, so that a missing provider can be named.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from buildit.build.elf import MAGIC, Elf, Machine, MalformedElf, read_elf
from buildit.model.tree import Entry, Kind

Open = Callable[[Entry], BinaryIO]
"""The content of a FILE entry: a seekable stream, closed by whoever asked."""

MACHINES: Mapping[str, Machine] = {
    "amd64": Machine(64, little=True, number=62),
    "arm64": Machine(64, little=True, number=183),
}
"""By architecture, as `model.platform.Platform.arch` spells it."""

_DEEPEST_LINK = 40  # as the kernel's MAXSYMLINKS
_LONGEST_SHEBANG = 256  # BINPRM_BUF_SIZE
_KERNEL = ("dev/", "proc/", "run/", "sys/")
_PROGRAM_DIRECTORIES = ("usr/bin", "usr/sbin", "usr/local/bin")
_MERGED = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


@dataclass(frozen=True, slots=True)
class Target:
    """The platform of an output; `triplet` names its library directory."""

    machine: Machine
    triplet: str

    @property
    def library_directories(self) -> tuple[str, ...]:
        """Where the loader looks without being told, in its order; merged /usr."""
        return (f"usr/lib/{self.triplet}", "usr/lib64", "usr/lib")


@dataclass(frozen=True, slots=True)
class Needs:
    """`wanted` maps each need to the files that have it, all sorted bytewise.

    `directories` maps a need to private directories (DT_RUNPATH) in which it may lie too.
    `foreign` are ELF files that do not run on the target, with the reason; they need nothing.
    `versions` maps a library to the symbol versions wanted of it. `dlopen` are the sonames of
    recommended and suggested notes, which are no needs.
    """

    wanted: Mapping[str, tuple[str, ...]]
    directories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dlopen: tuple[str, ...] = ()

    @property
    def needs(self) -> tuple[str, ...]:
        """What `model.artifact.Output.needs` holds."""
        return tuple(self.wanted)


class Listing:
    """The paths of one or more outputs, looked up as a running system would: through symlinks."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.path: entry for entry in entries}

    def find(self, path: str) -> Entry | None:
        """The file or directory that a path means, None where it leads out of the listing."""
        resolved = self.resolved(path)
        return None if resolved is None else self._entries.get(resolved)

    def resolved(self, path: str) -> str | None:
        """The path behind all symlinks that the listing holds; `/bin` and the like are in /usr.

        A path that leads out is followed as far as the listing goes; the root is "", a loop None.
        """
        rest = _parts(path)[::-1]
        at: list[str] = []
        links = 0
        while rest:
            part = rest.pop()
            if part == "..":
                at = at[:-1]
                continue
            if not at and part in _MERGED:
                at = _MERGED[part].split("/")
                continue
            at.append(part)
            entry = self._entries.get("/".join(at))
            if entry is not None and entry.kind is Kind.SYMLINK:
                links += 1
                if links > _DEEPEST_LINK:
                    return None
                at = [] if entry.target.startswith("/") else at[:-1]
                rest += _parts(entry.target)[::-1]
        return "/".join(at)

    def gives(self, need: str, target: Target, directories: Iterable[str] = ()) -> bool:
        """Whether a need is met here; `directories` are further ones to look for a library in."""
        kind, _, name = need.partition(":")
        if kind != "soname":
            return self.find(name) is not None
        places = (*directories, *target.library_directories)
        return any(self.find(f"{place}/{name}") is not None for place in places)


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part not in ("", ".")]


def provides_of(entries: Iterable[Entry], target: Target) -> tuple[str, ...]:
    """What an output gives: every path, and a soname for each library where the loader looks.

    Sorted; `path:/usr/bin/x` and `soname:libx.so.1`.
    """
    found = set()
    for entry in entries:
        directory, _, name = entry.path.rpartition("/")
        if entry.kind is not Kind.DIRECTORY:
            found.add(f"path:/{entry.path}")
            if directory in target.library_directories and ".so" in name:
                found.add(f"soname:{name}")
    return tuple(sorted(found))


def needs_of(entries: Iterable[Entry], open_: Open, target: Target) -> Needs:
    """What the files of one output need that the output itself does not give."""
    entries = tuple(entries)
    scan = _Scan(Listing(entries), target)
    for entry in entries:
        if entry.kind is Kind.SYMLINK:
            scan.symlink(entry)
        elif entry.kind is Kind.FILE and entry.size > 2:
            with open_(entry) as stream:
                scan.file(entry, stream)
    return scan.result()


class _Scan:
    """What was found so far."""

    def __init__(self, listing: Listing, target: Target) -> None:
        self._listing = listing
        self._target = target
        self._wanted: dict[str, set[str]] = {}
        self._directories: dict[str, set[str]] = {}
        self._foreign: dict[str, str] = {}
        self._versions: dict[str, set[str]] = {}
        self._dlopen: set[str] = set()

    def result(self) -> Needs:
        return Needs(
            _sorted(self._wanted),
            _sorted(self._directories),
            dict(sorted(self._foreign.items())),
            _sorted(self._versions),
            tuple(sorted(self._dlopen)),
        )

    def _want(self, need: str, path: str, directories: Iterable[str] = ()) -> None:
        directories = tuple(directories)
        if self._listing.gives(need, self._target, directories):
            return
        self._wanted.setdefault(need, set()).add(path)
        if directories:
            self._directories.setdefault(need, set()).update(directories)

    def symlink(self, entry: Entry) -> None:
        resolved = self._listing.resolved(entry.path)
        if resolved and not resolved.startswith(_KERNEL):
            self._want(f"path:/{resolved}", entry.path)

    def file(self, entry: Entry, stream: BinaryIO) -> None:
        head = stream.read(_LONGEST_SHEBANG)
        if head.startswith(MAGIC):
            try:
                elf = read_elf(stream)
            except MalformedElf as error:
                self._foreign[entry.path] = f"malformed: {error}"
                return
            if elf is not None and elf.machine != self._target.machine:
                self._foreign[entry.path] = str(elf.machine)
            elif elf is not None:
                self._elf(entry, elf)
        elif head.startswith(b"#!") and entry.mode & 0o111:
            for program in interpreters(head):
                self._want(f"path:{program}", entry.path)

    def _elf(self, entry: Entry, elf: Elf) -> None:
        directories = private_directories(entry.path, elf)
        for name in elf.needed:
            if "/" in name:
                self._want(f"path:{_expanded(entry.path, name) or name}", entry.path)
            else:
                self._want(f"soname:{name}", entry.path, directories)
        if elf.interp:
            self._want(f"interp:{elf.interp}", entry.path)
        for library, versions in elf.versions.items():
            if f"soname:{library}" in self._wanted:
                self._versions.setdefault(library, set()).update(versions)
        for note in elf.dlopen:
            known = [
                name
                for name in note.sonames
                if self._listing.gives(f"soname:{name}", self._target, directories)
            ]
            if not known and note.priority == "required":
                self._want(f"soname:{note.sonames[0]}", entry.path, directories)
            elif not known:
                self._dlopen.update(note.sonames)


def _sorted(found: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    return {key: tuple(sorted(found[key])) for key in sorted(found)}


def private_directories(path: str, elf: Elf) -> tuple[str, ...]:
    """The directories of DT_RUNPATH in a tree, `$ORIGIN` replaced, without a leading slash.

    Those that the loader would not take (relative, of an unknown token) are left out.
    """
    expanded = (_expanded(path, directory) for directory in elf.runpath)
    return tuple(dict.fromkeys(directory.lstrip("/") for directory in expanded if directory))


def _expanded(path: str, text: str) -> str:
    """An absolute, normalised path from one in DT_RUNPATH or DT_NEEDED; "" where there is none."""
    origin = "/" + posixpath.dirname(path)
    for token in ("$ORIGIN", "${ORIGIN}"):
        text = text.replace(token, origin)
    if not text.startswith("/") or "$" in text:
        return ""
    return posixpath.normpath("/" + text.lstrip("/"))


def interpreters(head: bytes) -> tuple[str, ...]:
    """The programs that the kernel, and env after it, start for a script that begins so.

    `#!/usr/bin/env -S python3 -E` gives `/usr/bin/env` and `/usr/bin/python3`; an interpreter that
    is not absolute gives nothing (`checks` names it).
    """
    line = head[2:].split(b"\n", 1)[0].decode("utf-8", "surrogateescape")
    words = line.split()
    if not words or not words[0].startswith("/"):
        return ()
    if posixpath.basename(words[0]) != "env":
        return (words[0],)
    program = next((word for word in words[1:] if not word.startswith("-") and "=" not in word), "")
    if not program:
        return (words[0],)
    return (
        words[0],
        program if program.startswith("/") else f"/{_PROGRAM_DIRECTORIES[0]}/{program}",
    )
