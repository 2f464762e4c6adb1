"""What an output needs from outside itself, and what it gives to others.

Needs are found, not declared: libraries, loaders, `#!` interpreters, and symlinks that leave the
output. They are strings (`soname:libz.so.1`, `interp:/lib64/ld-linux-x86-64.so.2`,
`path:/bin/sh`), each with the files that have it, so that a missing provider can be named.
A link is given where it exists; what it leads to is a further need, of the output that has the
link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import BinaryIO

from buildit.archive.links import way
from buildit.archive.merged import TOPS
from buildit.make.capture.elf import MAGIC, Elf, Machine, MalformedElf, read_elf
from buildit.make.capture.loading import expanded_path, private_directories, unmet
from buildit.make.capture.shebang import LONGEST, interpreters
from buildit.model.tree import Entry, Kind

Open = Callable[[Entry], BinaryIO]
"""The content of a FILE entry: a seekable stream, closed by the caller."""

MACHINES: Mapping[str, Machine] = {
    "amd64": Machine(64, little=True, number=62),
    "arm64": Machine(64, little=True, number=183),
}
"""By architecture, as `model.platform.Platform.arch` spells it."""

_KERNEL = ("dev/", "proc/", "run/", "sys/")
MERGED = {top: f"usr/{top}" for top in TOPS}
"""The links of merged /usr, which a package may take for granted."""


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


def is_kernels(path: str) -> bool:
    """Whether a path without leading slash is in /dev, /proc, /run or /sys: made at run time."""
    return f"{path}/".startswith(_KERNEL)


class Listing:
    """The paths of one or more outputs, looked up as a running system would: through symlinks."""

    __slots__ = ("_entries",)

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.path: entry for entry in entries}

    def at(self, path: str) -> Entry | None:
        """The entry of this very name, without a leading slash."""
        return self._entries.get(path)

    def find(self, path: str) -> Entry | None:
        """The file or directory that a path means, None where it leads out of the listing."""
        resolved = self.resolved(path)
        return None if resolved is None else self._entries.get(resolved)

    def resolved(self, path: str) -> str | None:
        """The path behind all symlinks that the listing holds; `/bin` and the like are in /usr.

        A path that leads out is followed as far as the listing goes; the root is "", a loop None.
        """
        return way(path, self._entries.get, MERGED).end

    def gives(self, need: str, target: Target, directories: Iterable[str] = ()) -> bool:
        """Whether a need is met here; `directories` are further ones to look for a library in.

        By a link too, wherever it leads.
        """
        places = need_paths(need, target, directories)
        return any(way(place, self._entries.get, MERGED).named for place in places)


def need_paths(need: str, target: Target, directories: Iterable[str] = ()) -> tuple[str, ...]:
    """Where a need may be met, in the order in which a loader looks."""
    kind, _, name = need.partition(":")
    if kind != "soname":
        return (name,)
    return tuple(f"{place}/{name}" for place in (*directories, *target.library_directories))


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
        self._elves: dict[str, Elf] = {}

    def result(self) -> Needs:
        self._libraries()
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
        if resolved and not is_kernels(resolved):
            self._want(f"path:/{resolved}", entry.path)

    def file(self, entry: Entry, stream: BinaryIO) -> None:
        head = stream.read(LONGEST)
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

    def _libraries(self) -> None:
        """The libraries that the loader would look for in vain, and the versions wanted of them."""
        for lacking in unmet(self._elves, self._found, self._target.library_directories):
            self._want(f"soname:{lacking.soname}", lacking.path, lacking.directories)
        for elf in self._elves.values():
            for library, versions in elf.versions.items():
                if f"soname:{library}" in self._wanted:
                    self._versions.setdefault(library, set()).update(versions)

    def _found(self, path: str) -> str | None:
        if not self._listing.gives(f"path:/{path}", self._target):
            return None
        return self._listing.resolved(path)

    def _elf(self, entry: Entry, elf: Elf) -> None:
        self._elves[entry.path] = elf
        directories = private_directories(entry.path, elf)
        for name in elf.needed:
            if "/" in name:
                self._want(f"path:{expanded_path(entry.path, name) or name}", entry.path)
        if elf.interp:
            self._want(f"interp:{elf.interp}", entry.path)
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
