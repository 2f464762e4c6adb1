"""What an output needs from outside itself, what it gives to others, and who meets its needs. Pure.

Needs are found, not declared: libraries, loaders, `#!` interpreters, and symlinks that leave the
output. They are strings (`soname:libz.so.1`, `interp:/lib64/ld-linux-x86-64.so.2`,
`path:/bin/sh`), each with the files that have it, so that a missing provider can be named.
A link is given where it exists; what it leads to is a further need, of the output that has the
link.

A provider is one that the build really saw, looked for in order: the build's own outputs, its
dependencies nearest first (of all of them the runtime outputs before the headers, which no image
wants), the toolchain; never "some package in the world" (PEERS §4.7). Links are followed from
package to package: each that lies on the way is a need of its own, whose provider is that of the
link.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from typing import BinaryIO

from buildit.archive.contents import TOPS, way
from buildit.make.capture.elf import (
    ELF_MAGIC,
    Elf,
    MalformedElf,
    expanded_path,
    machine_of,
    read_elf,
    unmet,
)
from buildit.model.artifact import RUNTIME
from buildit.model.platform import Platform
from buildit.model.tree import Entry, Kind

Open = Callable[[Entry], BinaryIO]
"""The content of a FILE entry: a seekable stream, closed by the caller."""

AR_MAGIC = b"!<arch>\n"
"""How a static library begins (ar(5))."""

_KERNEL = ("dev/", "proc/", "run/", "sys/")
_MERGED = {top: f"usr/{top}" for top in TOPS}  # links that a package may take for granted


@dataclass(frozen=True, slots=True)
class Look:
    """What the content of one file says: its first bytes, and the file as ELF; None: malformed."""

    head: bytes
    elf: Elf | None = None


def looks(entries: Iterable[Entry], open_: Open) -> dict[str, Look]:
    """One look into each file, by path; only of ELF files, scripts and static libraries."""
    found: dict[str, Look] = {}
    for entry in entries:
        if entry.kind is not Kind.FILE or not entry.size:
            continue
        with open_(entry) as stream:
            head = stream.read(LINE_BYTES)
            if head.startswith((ELF_MAGIC, AR_MAGIC)) or is_meant(head):
                found[entry.path] = Look(head)
                with suppress(MalformedElf):
                    found[entry.path] = Look(head, read_elf(stream))
    return found


def library_directories(platform: Platform) -> tuple[str, ...]:
    """Where the loader looks without being told, in its order; merged /usr."""
    return (f"usr/lib/{platform.triplet}", "usr/lib64", "usr/lib")


@dataclass(frozen=True, slots=True)
class Needs:
    """`wanted` maps each need to the files that have it, all sorted bytewise.

    `directories` maps a need to private directories (DT_RUNPATH) in which it may lie too. ELF files
    that do not run on the target need nothing.
    """

    wanted: Mapping[str, tuple[str, ...]]
    directories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def is_kernels(path: str) -> bool:
    """Whether a path without leading slash is in /dev, /proc, /run or /sys: made at run time."""
    return f"{path}/".startswith(_KERNEL)


class Listing:
    """The paths of one or more outputs, looked up as a running system would: through symlinks."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.path: entry for entry in entries}

    def resolved(self, path: str) -> str | None:
        """The path behind all symlinks that the listing holds; `/bin` and the like are in /usr.

        A path that leads out is followed as far as the listing goes; the root is "", a loop None.
        """
        return way(path, self._entries.get, _MERGED).end

    def gives(self, need: str, platform: Platform, directories: Iterable[str] = ()) -> bool:
        """Whether a need is met here; `directories` are further ones to look for a library in.

        By a link too, wherever it leads.
        """
        places = need_paths(need, platform, directories)
        return any(way(place, self._entries.get, _MERGED).named for place in places)


def need_paths(need: str, platform: Platform, directories: Iterable[str] = ()) -> tuple[str, ...]:
    """Where a need may be met, in the order in which a loader looks."""
    kind, _, name = need.partition(":")
    if kind != "soname":
        return (name,)
    return tuple(f"{place}/{name}" for place in (*directories, *library_directories(platform)))


def needs_of(entries: Iterable[Entry], looked: Mapping[str, Look], platform: Platform) -> Needs:
    """What the files of one output need that the output itself does not give.

    `looked` are what `looks` says of its files, and maybe of others.
    """
    entries = tuple(entries)
    scan = _Scan(Listing(entries), platform)
    for entry in entries:
        if entry.kind is Kind.SYMLINK:
            resolved = scan.listing.resolved(entry.path)
            if resolved and not is_kernels(resolved):
                scan.want(f"path:/{resolved}", entry.path)
        elif entry.kind is Kind.FILE and entry.path in looked:
            scan.file(entry, looked[entry.path])
    for lacking in unmet(scan.elves, scan.found, library_directories(platform)):
        scan.want(f"soname:{lacking.soname}", lacking.path, lacking.directories)
    return Needs(_sorted(scan.wanted), _sorted(scan.directories))


_Sets = dict[str, set[str]]


def _sorted(found: _Sets) -> dict[str, tuple[str, ...]]:
    return {key: tuple(sorted(found[key])) for key in sorted(found)}


@dataclass(frozen=True, slots=True)
class _Scan:
    """What was found so far, as in `Needs`, and the ELF files of the target by their paths."""

    listing: Listing
    platform: Platform
    wanted: _Sets = field(default_factory=dict)
    directories: _Sets = field(default_factory=dict)
    elves: dict[str, Elf] = field(default_factory=dict)

    def want(self, need: str, path: str, directories: tuple[str, ...] = ()) -> None:
        if self.listing.gives(need, self.platform, directories):
            return
        self.wanted.setdefault(need, set()).add(path)
        if directories:
            self.directories.setdefault(need, set()).update(directories)

    def file(self, entry: Entry, look: Look) -> None:
        if look.elf is not None and look.elf.machine == machine_of(self.platform):
            self._elf(entry.path, look.elf)
        elif look.head.startswith(b"#!") and entry.mode & 0o111:
            for program in interpreters(look.head):
                self.want(f"path:{program}", entry.path)

    def found(self, path: str) -> str | None:
        given = self.listing.gives(f"path:/{path}", self.platform)
        return self.listing.resolved(path) if given else None

    def _elf(self, path: str, elf: Elf) -> None:
        self.elves[path] = elf
        directories = elf.directories(path)
        for name in elf.needed:
            if "/" in name:
                self.want(f"path:{expanded_path(path, name) or name}", path)
        if elf.interp:
            self.want(f"interp:{elf.interp}", path)
        for sonames in elf.dlopen:
            needs = [f"soname:{name}" for name in sonames]
            if not any(self.listing.gives(need, self.platform, directories) for need in needs):
                self.want(needs[0], path, directories)


@dataclass(frozen=True, slots=True)
class Visible:
    """What a build sees of one output: `name` is `<key>:<output>`, or `:<output>` of its own."""

    name: str
    entries: Iterable[Entry]


@dataclass(frozen=True, slots=True)
class Sight:
    """Several outputs as one tree, and what lies `below` it; of two with one path the first counts.

    Outputs whose names begin with `hidden` do not.
    """

    found: Mapping[str, Sequence[tuple[Entry, str]]]
    below: Sight | None = None
    hidden: str = ""

    @classmethod
    def of(cls, visible: Iterable[Visible], below: Sight | None = None) -> Sight:
        """The outputs in the order in which they count."""
        found: dict[str, list[tuple[Entry, str]]] = {}
        for one in visible:
            for entry in one.entries:
                found.setdefault(entry.path, []).append((entry, one.name))
        return cls(found, below)

    def at(self, path: str) -> tuple[Entry, str] | None:
        """The entry of a path without leading slash, and the output that has it."""
        for entry, name in self.found.get(path, ()):
            if not self.hidden or not name.startswith(self.hidden):
                return entry, name
        return None if self.below is None else self.below.at(path)


def dependencies_sight(visible: Iterable[Visible], toolchain: Sight) -> Sight:
    """What a build sees besides its own outputs; `visible` are its dependencies, nearest first."""
    ordered = sorted(visible, key=lambda one: not one.name.endswith(f":{RUNTIME}"))
    return Sight.of(ordered, toolchain)


def providers(
    needs: Needs,
    output: str,
    outputs: Mapping[str, Iterable[Entry]],
    beyond: Sight,
    platform: Platform,
) -> dict[str, str]:
    """For each need that is met, the output that does: `<key>:<output>`, or `:<output>` of the
    build's own. A link that is passed on the way and is another's is in the answer too, as
    `path:/…`.

    `outputs` are those of the build, of which `output` has the needs.
    """
    names = (output, *(name for name in outputs if name != output))
    sight = Sight.of((Visible(f":{name}", outputs.get(name, ())) for name in names), beyond)
    own = f":{output}"
    found: dict[str, str] = {}
    for need in needs.wanted:
        places = need_paths(need, platform, needs.directories.get(need, ()))
        steps = next((steps for one in places if (steps := _steps(one, sight))), ())
        if not steps:
            continue
        end, owner = next((step for step in reversed(steps) if step[1] != own), steps[-1])
        passed = {f"path:/{path}": other for path, other in steps if other not in (own, owner)}
        for met, other in (*passed.items(), (f"path:/{end}" if need in passed else need, owner)):
            found.setdefault(met, other)
    return found


def _steps(path: str, sight: Sight) -> tuple[tuple[str, str], ...]:
    """The links that a path passes and what it ends at, each with its owner; none where the end
    is not in sight. What the kernel makes at run time needs no owner."""

    def entry_at(one: str) -> Entry | None:
        found = sight.at(one)
        return None if found is None else found[0]

    walked = way(path, entry_at, _MERGED)
    if walked.end is None:
        return ()
    places = walked.links
    if walked.end and not is_kernels(walked.end):
        places = (*places, walked.end)
    owned = [(place, found[1]) for place in places if (found := sight.at(place)) is not None]
    return tuple(owned) if len(owned) == len(places) else ()


def described(need: str) -> str:
    """A need in words: `the library libz.so.1`, `/bin/sh`."""
    kind, _, name = need.partition(":")
    words = {"soname": "the library ", "interp": "the loader ", "path": ""}
    return f"{words.get(kind, '')}{name}"


# -- the first line of a script, as the kernel reads it, and env(1) after it
#
# Linux, fs/binfmt_script.c: of the first 256 bytes, blanks are dropped at both ends; the first
# word is the interpreter, all the rest is one argument. GNU env takes it apart with `-S` only.

LINE_BYTES = 256  # BINPRM_BUF_SIZE
"""How many bytes of a file can be its `#!` line."""

_PROGRAMS = "/usr/bin"  # where a program that env looks for is taken to lie

_MARK = b"\xef\xbb\xbf"
"""The byte order mark that editors write before UTF-8; no kernel looks behind it."""

_BLANKS = " \t"
_SPLITS = re.compile(r"-[iv0]*S|--split-string(?:=|$)")
_WITH_VALUE = ("-u", "--unset", "-C", "--chdir", "-a", "--argv0")
_WORD = re.compile(r"""(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')+""", re.DOTALL)
_UNQUOTED = re.compile(r"""\\(.)|["']""", re.DOTALL)


def is_meant(head: bytes) -> bool:
    """Whether a file that begins so was written to be a script, be it one that starts or not."""
    return head.removeprefix(_MARK).startswith(b"#!")


def interpreters(head: bytes) -> tuple[str, ...]:
    """The programs that the kernel, and env after it, start for a script that begins so.

    `#!/usr/bin/env -S python3 -E` gives `/usr/bin/env` and `/usr/bin/python3`; where `fault` has
    something to say, only what is certain.
    """
    interpreter, argument = _line(head)
    if not interpreter.startswith("/"):
        return ()
    interpreter = interpreter.rstrip("\r")
    if posixpath.basename(interpreter) != "env":
        return (interpreter,)
    program, _ = _started(argument.rstrip("\r"))
    if not program or ("/" in program and not program.startswith("/")):
        return (interpreter,)
    return (interpreter, program if "/" in program else f"{_PROGRAMS}/{program}")


def fault(head: bytes) -> tuple[str, str]:
    """Why a script that begins so cannot be started, and the next step; ("", "") where it can."""
    if head.startswith(_MARK):
        hint = "write it as UTF-8 without one: sed -i '1s/^\\xef\\xbb\\xbf//' in the install step"
        return "a byte order mark stands before its `#!`, which the kernel does not read then", hint
    interpreter, argument = _line(head)
    first = head[:LINE_BYTES].split(b"\n", 1)[0]
    if first.endswith(b"\r"):
        asked = argument or interpreter
        hint = "write it with LF line ends: sed -i 's/\\r$//' in the install step"
        return f"its `#!` line ends with a carriage return, so {asked!r} is asked for", hint
    if not interpreter.startswith("/"):
        hint = "name it by its absolute path below /usr/bin, or /bin/sh"
        return f"the interpreter {interpreter!r} will not be found", hint
    if len(head) >= LINE_BYTES and b"\n" not in head[:LINE_BYTES]:
        reason = f"its `#!` line is longer than the {LINE_BYTES - 1} bytes that the kernel reads"
        return reason, "start it by a short script that calls the interpreter"
    if posixpath.basename(interpreter) != "env":
        return "", ""
    program, reason = _started(argument)
    if reason:
        return reason, "write `#!/usr/bin/env -S PROGRAM ARGUMENT`, or the interpreter's own path"
    if "/" in program and not program.startswith("/"):
        hint = "name it by its absolute path below /usr/bin"
        return f"the interpreter {program!r} will not be found", hint
    return "", ""


def _line(head: bytes) -> tuple[str, str]:
    """The interpreter and its one argument; both keep a carriage return."""
    text = head[2:LINE_BYTES].split(b"\n", 1)[0].split(b"\0", 1)[0]
    line = text.decode("utf-8", "surrogateescape").strip(_BLANKS)
    found = re.split(r"[ \t]+", line, maxsplit=1)
    return found[0], found[1] if len(found) > 1 else ""


def _started(argument: str) -> tuple[str, str]:
    """The program that env starts with this one argument, and else what keeps it from doing so."""
    split = _SPLITS.match(argument)
    if split:
        return _first_program(_words(argument[split.end() :]))
    if not argument:
        return "", "env is given no program to start"
    if any(blank in argument for blank in _BLANKS):
        return "", f"env is given {argument!r} as one word, which no program is called"
    return _first_program((argument,))


def _words(text: str) -> tuple[str, ...]:
    """As `env -S` splits it: blanks, quotes and backslashes as in a shell, `#` begins a comment."""
    words = takewhile(lambda word: not word.startswith("#"), _WORD.findall(text))
    return tuple(_UNQUOTED.sub(lambda match: match[1] or "", word) for word in words)


def _first_program(words: Sequence[str]) -> tuple[str, str]:
    """The first word that is no option of env, no value of one and no assignment."""
    options, left = True, iter(words)
    for word in left:
        if options and word == "--":
            options = False
        elif options and word.startswith("-"):
            # `-u NAME`, `--unset NAME`, and clusters such as `-iu NAME`
            if word in _WITH_VALUE or re.fullmatch(r"-[iv0]*[uCa]", word):
                next(left, None)
        elif "=" in word:
            options = False
        else:
            return word, ""
    return "", "env is given no program to start"
