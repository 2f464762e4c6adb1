"""What the dynamic loader reads of an ELF file, and which libraries it finds within one tree. Pure.

Files are known by magic, never by name or mode. Only program headers count, as for the loader; a
file that says it is ELF and is cut off or contradicts itself raises `MalformedElf`, nothing else.
Layouts: System V ABI (gABI) chapters 4 and 5; UAPI "ELF dlopen metadata".

Rules of ld.so(8) and of glibc's elf/dl-load.c: a library that is loaded already, by its name or
soname, is not looked for again; DT_RUNPATH of a file holds for what this file itself needs, and
turns DT_RPATH off for it; DT_RPATH holds for what is loaded on the file's behalf, too, however
deep; then the directories of the system. Loading is breadth first.
"""

from __future__ import annotations

import json
import posixpath
import struct
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

from buildit.model.platform import Platform

ELF_MAGIC = b"\x7fELF"

_LOAD, _DYNAMIC, _INTERP, _NOTE = 1, 2, 3, 4
_DT_NEEDED, _DT_STRTAB, _DT_STRSZ, _DT_SONAME = 1, 5, 10, 14
_DT_RPATH, _DT_RUNPATH = 15, 29
_NOBITS = 8
_FDO_DLOPEN = 0x407C0C0A
_MOST = 16 << 20  # bytes of a string table or a note; glibc's largest is 30 KiB
_MOST_HEADERS = 4096
_LONGEST_TEXT = 16_384  # a DT_RUNPATH may be long


class MalformedElf(ValueError):  # noqa: N818 - a verdict on data, translated by every caller
    """The magic is there, the rest is not an ELF file; the text says why."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Class and machine: two files run together only where both are equal.

    `bits` is 32 or 64, `number` is e_machine (gABI 4, "ELF Header").
    """

    bits: int
    little: bool
    number: int

    def __str__(self) -> str:
        name = _MACHINE_NAMES.get(self.number, f"machine {self.number}")
        return f"{self.bits}-bit {name}"


_NUMBERS = {"amd64": 62, "arm64": 183}
_MACHINE_NAMES = {3: "x86", 40: "ARM", 62: "x86-64", 183: "AArch64", 243: "RISC-V", 247: "BPF"}


def machine_of(platform: Platform) -> Machine:
    """What programs for a platform are built for."""
    return Machine(64, little=True, number=_NUMBERS[platform.arch])


@dataclass(frozen=True, slots=True)
class Elf:
    """`runpath` holds the directories of DT_RUNPATH, or of DT_RPATH where there is none.

    `type` is e_type: 1 relocatable, 2 a program at a fixed address, 3 a library or any program.
    `inherited` says that it is DT_RPATH, which holds for what the file loads, too (ld.so(8)).
    `dlopen` are the libraries that its notes require at run time: any of the sonames of each will
    do.
    """

    machine: Machine
    type: int = 0
    soname: str = ""
    needed: tuple[str, ...] = ()
    runpath: tuple[str, ...] = ()
    inherited: bool = False
    interp: str = ""
    dlopen: tuple[tuple[str, ...], ...] = ()

    def directories(self, path: str) -> tuple[str, ...]:
        """The directories of DT_RUNPATH or DT_RPATH in a tree, `$ORIGIN` replaced, no leading
        slash, for this file at a path of it.

        Those that the loader would not take (relative, of an unknown token) are left out.
        """
        expanded = (expanded_path(path, directory) for directory in self.runpath)
        return tuple(dict.fromkeys(directory.lstrip("/") for directory in expanded if directory))


class _Segment(NamedTuple):
    kind: int
    offset: int
    address: int
    size: int


@dataclass(frozen=True, slots=True)
class _File:
    """A file and how its numbers are written."""

    stream: BinaryIO
    end: str
    wide: bool

    def read(self, offset: int, size: int) -> bytes:
        if size > _MOST:
            raise MalformedElf(f"a table of {size} bytes")
        try:
            self.stream.seek(offset)
        except (OSError, OverflowError, ValueError):
            raise MalformedElf(f"an offset of {offset}") from None
        found = self.stream.read(size)
        if len(found) != size:
            raise MalformedElf(f"cut off at byte {offset + len(found)}")
        return found

    def header(self) -> tuple[int, ...]:
        """Type, machine, …, and of both tables the place, the size of an entry and their number."""
        return self.unpack("HHINNNIHHHHHH", self.read(16, 48 if self.wide else 36))

    def unpack(self, layout: str, raw: bytes, at: int = 0) -> tuple[int, ...]:
        """Numbers by `struct` letters; `N` is one of the class's own width."""
        layout = self.end + layout.replace("N", "Q" if self.wide else "I")
        try:
            return struct.unpack_from(layout, raw, at)
        except struct.error:
            raise MalformedElf("a table that ends within an entry") from None


def read_elf(stream: BinaryIO) -> Elf | None:
    """Read a seekable stream; None where it is not ELF.

    Raises:
        MalformedElf: it begins as ELF and is not one.
    """
    stream.seek(0)
    ident = stream.read(16)
    if ident[:4] != ELF_MAGIC:
        return None
    if len(ident) < 16 or ident[4] not in (1, 2) or ident[5] not in (1, 2):
        raise MalformedElf("an unknown class or byte order")
    file = _File(stream, "<" if ident[5] == 1 else ">", ident[4] == 2)
    kind, number, *_ = file.header()
    machine = Machine(64 if file.wide else 32, file.end == "<", number)
    segments = _segments(file)
    interp = next((s for s in segments if s.kind == _INTERP and s.size), None)
    return replace(
        _dynamic(file, segments, Elf(machine, kind)),
        interp=_text(file.read(interp.offset, interp.size), 0) if interp else "",
        dlopen=tuple(_dlopen_notes(file, segments)),
    )


def described_size(stream: BinaryIO) -> int | None:
    """Where the last thing ends that an ELF file's headers name; None without section headers.

    Raises:
        MalformedElf: the headers lead out of the file.
    """
    stream.seek(0)
    ident = stream.read(16)
    file = _File(stream, "<" if ident[5] == 1 else ">", ident[4] == 2)
    fields = file.header()
    table, size, count = fields[5], fields[10], fields[11]
    if not table or not count or size < (64 if file.wide else 40):
        return None
    end = table + size * count
    raw = file.read(table, size * count)
    for at in range(0, size * count, size):
        _, kind, _, _, offset, length, *_ = file.unpack("IINNNNIINN", raw, at)
        if kind not in (0, _NOBITS):
            end = max(end, offset + length)
    return max(end, *(segment.offset + segment.size for segment in _segments(file)))


def _segments(file: _File) -> tuple[_Segment, ...]:
    fields = file.header()
    table, size, count = fields[4], fields[8], fields[9]
    if count == 0:
        return ()
    # flags stand second in the wide form, and behind the rest in the narrow one
    layout, order = ("IINNNN", (0, 2, 3, 5)) if file.wide else ("IIIIII", (0, 1, 2, 4))
    if size < struct.calcsize("<" + layout.replace("N", "Q")) or count > _MOST_HEADERS:
        raise MalformedElf("a program header table of a wrong size")
    raw = file.read(table, size * count)
    found = (file.unpack(layout, raw, at) for at in range(0, size * count, size))
    return tuple(_Segment(*(fields[place] for place in order)) for fields in found)


def _dynamic(file: _File, segments: tuple[_Segment, ...], elf: Elf) -> Elf:
    """The file with what its dynamic section says."""
    segment = next((s for s in segments if s.kind == _DYNAMIC), None)
    if segment is None or segment.size == 0:  # a static program, or debug data stripped off
        return elf
    raw = file.read(segment.offset, segment.size)
    step = 16 if file.wide else 8
    needed: list[int] = []
    single: dict[int, int] = {}
    for at in range(0, len(raw) - step + 1, step):
        tag, value = file.unpack("NN", raw, at)
        if tag == 0:
            break
        if tag == _DT_NEEDED:
            needed.append(value)
        else:
            single[tag] = value
    if _DT_STRTAB not in single:
        return elf
    strings = file.read(_offset(segments, single[_DT_STRTAB]), single.get(_DT_STRSZ, 0))
    paths = single.get(_DT_RUNPATH, single.get(_DT_RPATH))
    return replace(
        elf,
        soname=_text(strings, single[_DT_SONAME]) if _DT_SONAME in single else "",
        needed=tuple(_text(strings, at) for at in needed),
        runpath=tuple(filter(None, _text(strings, paths).split(":"))) if paths is not None else (),
        inherited=paths is not None and _DT_RUNPATH not in single,
    )


def _offset(segments: tuple[_Segment, ...], address: int) -> int:
    for segment in segments:
        if segment.kind == _LOAD and segment.address <= address < segment.address + segment.size:
            return segment.offset + address - segment.address
    raise MalformedElf(f"an address that no segment holds: {address:#x}")


def _text(table: bytes, at: int) -> str:
    end = table.find(b"\0", at, at + _LONGEST_TEXT)
    if end < 0:
        raise MalformedElf("a string that has no end")
    return table[at:end].decode("utf-8", "surrogateescape")


def _dlopen_notes(file: _File, segments: tuple[_Segment, ...]) -> Iterator[tuple[str, ...]]:
    for segment in segments:
        if segment.kind != _NOTE or segment.size == 0:
            continue
        raw, at = file.read(segment.offset, segment.size), 0
        while at + 12 <= len(raw):
            name_size, size, kind = file.unpack("III", raw, at)
            start = at + 12 + (name_size + 3 & ~3)
            if kind == _FDO_DLOPEN and raw[at + 12 : at + 16] == b"FDO\0":
                yield from _dlopen_features(raw[start : start + size])
            at = start + (size + 3 & ~3)


def _dlopen_features(raw: bytes) -> Iterator[tuple[str, ...]]:
    try:
        features = json.loads(raw.rstrip(b"\0"))
    except (ValueError, RecursionError):
        raise MalformedElf("a dlopen note that is not JSON") from None
    for feature in features if isinstance(features, list) else [features]:
        match feature:
            case {"soname": [str(), *_] as sonames, **rest}:
                if rest.get("priority") == "required":
                    yield tuple(name for name in sonames if isinstance(name, str))
            case _:
                raise MalformedElf("a dlopen note without sonames")


@dataclass(frozen=True, slots=True, order=True)
class Unmet:
    """The file `path` needs `soname`, which was looked for in `directories` and in the system's."""

    path: str
    soname: str
    directories: tuple[str, ...]


def unmet(
    elves: Mapping[str, Elf], find: Callable[[str], str | None], system: Sequence[str]
) -> tuple[Unmet, ...]:
    """What the ELF files of a tree need by name and do not find in it, sorted.

    `find` gives the path of the file that a path means, None where there is none. Every program is
    followed as it would be started. Libraries that no program needs are followed by themselves;
    they are plugins then, which get DT_RPATH of the tree's programs.
    """
    programs = [path for path in sorted(elves) if elves[path].interp]
    seen: set[str] = set()
    found: set[Unmet] = set()
    for path in programs:
        found.update(_loaded(path, (), elves, find, system, seen))
    plugged = tuple(dict.fromkeys(d for path in programs for d in _rpath(path, elves[path])))
    names = {name for elf in elves.values() for name in elf.needed}
    rest = [path for path in sorted(elves) if path not in seen]
    # first those that nothing needs; a circle of libraries has none
    rest.sort(key=lambda p: elves[p].soname in names or posixpath.basename(p) in names)
    for path in rest:
        if path not in seen:
            found.update(_loaded(path, plugged, elves, find, system, seen))
    return tuple(sorted(found))


def _loaded(
    start: str,
    inherited: tuple[str, ...],
    elves: Mapping[str, Elf],
    find: Callable[[str], str | None],
    system: Sequence[str],
    seen: set[str],
) -> Iterator[Unmet]:
    """Follow one file and all that it loads; `seen` gets their paths."""
    names = {elves[start].soname, posixpath.basename(start)}
    waiting = deque([(start, inherited)])
    at_hand = {start}
    while waiting:
        path, above = waiting.popleft()
        seen.add(path)
        elf = elves[path]
        own = elf.directories(path)
        beyond = tuple(dict.fromkeys((*_rpath(path, elf), *above)))
        directories = own if elf.runpath and not elf.inherited else beyond
        for name in elf.needed:
            if "/" in name or name in names:
                continue
            places = (find(f"{place}/{name}") for place in (*directories, *system))
            place = next((place for place in places if place is not None), None)
            if place is None:
                yield Unmet(path, name, directories)
                continue
            names.add(name)
            if place in elves and place not in at_hand:
                at_hand.add(place)
                names.add(elves[place].soname)
                waiting.append((place, beyond))


def _rpath(path: str, elf: Elf) -> tuple[str, ...]:
    return elf.directories(path) if elf.inherited else ()


def expanded_path(path: str, text: str) -> str:
    """An absolute, normalised path from one in DT_RUNPATH or DT_NEEDED; "" where there is none."""
    origin = "/" + posixpath.dirname(path)
    for token in ("$ORIGIN", "${ORIGIN}"):
        text = text.replace(token, origin)
    if not text.startswith("/") or "$" in text:
        return ""
    return posixpath.normpath("/" + text.lstrip("/"))
