"""Which installed files lose their symbols, and the command for it, with strip of the toolchain.

The rules of debhelper's dh_strip: programs lose all symbols, libraries what no loader needs, static
libraries debug information and times. Debug information is dropped. Left alone: files of another
machine (BPF too), relocatable objects, and programs with something behind their ELF part, which
strip would cut off.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import BinaryIO

from buildit.make.capture.elf import ELF_MAGIC, Machine, MalformedElf, described_size, read_elf
from buildit.make.capture.needs import AR_MAGIC
from buildit.make.capture.normalise import Bounds, InstalledTree, bounded
from buildit.plan.steps import BUILD_DIRECTORY, DESTINATION_DIRECTORY, script

LISTS = "strip"
"""The directory below /input with one list of paths for each `How`, each path ended by a NUL."""

_LIBRARY = re.compile(r".*\.so(?:\.[^/]*)?")
_STATIC = re.compile(r"(?:.*/)?lib[^/]*\.a")
_PROGRAM, _SHARED = 2, 3  # ET_EXEC, ET_DYN (gABI 4)
_SCRATCH = f"{BUILD_DIRECTORY}/home/.buildit-strip"


class How(StrEnum):
    """What a file is, and so what it loses."""

    PROGRAM = "program"
    LIBRARY = "library"
    ARCHIVE = "archive"


_NOTES = "--remove-section=.comment --remove-section=.note"
_OPTIONS = {
    How.PROGRAM: f"--strip-all {_NOTES}",
    How.LIBRARY: f"--strip-unneeded {_NOTES}",
    How.ARCHIVE: f"--strip-debug --enable-deterministic-archives {_NOTES}",
}

# Written into the file itself: its further names, owner and attributes stay.
_SCRIPT = """
if ! command -v strip >/dev/null; then
  echo "buildit: there is no strip in the toolchain, and programs to be stripped"
  exit 127
fi
cd "$DESTDIR"
"""
_EACH = """
xargs -0 -r sh -c '
for file do
  if strip OPTIONS -o SCRATCH "$file"; then cat SCRATCH > "$file" || exit 255; fi
done' sh < /input/LISTS/HOW
rm -f SCRATCH
"""


@dataclass(frozen=True, slots=True)
class Stripping:
    """The paths to strip, one of each inode, and modes to set again afterwards."""

    files: dict[How, list[str]] = field(default_factory=dict)
    modes: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.files.values())


def to_strip(tree: InstalledTree, machine: Machine, bounds: Bounds) -> Stripping:
    """Look for what is to be stripped; what its owner may not read or write is opened up.

    Only files with an x bit, and those named as libraries, are looked into, as dh_strip does.

    Raises:
        BuildError: more than `bounds` was installed.
        OSError: the tree cannot be read.
    """
    found = Stripping()
    seen: set[tuple[int, int]] = set()
    for path, status in bounded(tree.walk(), bounds):
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISDIR(status.st_mode):
            _open_up(tree, path, mode, 0o500, found)
        inode = (status.st_dev, status.st_ino)
        named = _STATIC.fullmatch(path) or _LIBRARY.fullmatch(path)
        if not stat.S_ISREG(status.st_mode) or not (mode & 0o111 or named) or inode in seen:
            continue
        seen.add(inode)
        opened = _open_up(tree, path, mode, 0o400, found)
        with tree.open_file(path) as stream:
            how = _how(path, stream, machine)
        if how is None:
            if opened:
                tree.chmod(path, found.modes.pop(path))
            continue
        found.files.setdefault(how, []).append(path)
        found.modes[path] = mode  # writing takes set-id bits away
        tree.chmod(path, mode & 0o777 | 0o600)
    return found


def restore_modes(tree: InstalledTree, stripping: Stripping) -> None:
    """Give files and directories their own modes again."""
    for path, mode in sorted(stripping.modes.items(), reverse=True):
        tree.chmod(path, mode)


def strip_argv(stripping: Stripping) -> tuple[str, ...]:
    """The command that strips what the lists in `LISTS` name."""
    parts = [
        _EACH.replace("OPTIONS", options)
        .replace("SCRATCH", _SCRATCH)
        .replace("LISTS", LISTS)
        .replace("HOW", how.value)
        for how, options in _OPTIONS.items()
        if stripping.files.get(how)
    ]
    return script("".join((_SCRIPT.replace("$DESTDIR", DESTINATION_DIRECTORY), *parts)))


def lists(stripping: Stripping) -> dict[str, bytes]:
    """The content of each list by its name."""
    return {
        how.value: b"".join(b"./" + os.fsencode(path) + b"\0" for path in paths)
        for how, paths in stripping.files.items()
    }


def _open_up(tree: InstalledTree, path: str, mode: int, wanted: int, found: Stripping) -> bool:
    if mode & wanted == wanted:
        return False
    found.modes[path] = mode
    tree.chmod(path, mode | wanted)
    return True


def _how(path: str, stream: BinaryIO, machine: Machine) -> How | None:
    head = stream.read(8)
    if head == AR_MAGIC and _STATIC.fullmatch(path):
        return How.ARCHIVE
    if not head.startswith(ELF_MAGIC) or path.startswith("usr/lib/debug/"):
        return None
    with suppress(MalformedElf):
        elf = read_elf(stream)
        if elf is None or elf.machine != machine or elf.type not in (_PROGRAM, _SHARED):
            return None
        end = described_size(stream)
        if end is None or _trailing(stream, end):
            return None
        if elf.type == _PROGRAM or (elf.interp and not _LIBRARY.fullmatch(path)):
            return How.PROGRAM
        return How.LIBRARY
    return None


def _trailing(stream: BinaryIO, end: int) -> bool:
    """Whether there is something behind the ELF part; a few zeros are nothing."""
    stream.seek(end)
    rest = stream.read((4 << 10) + 1)
    return len(rest) > 4 << 10 or any(rest)
