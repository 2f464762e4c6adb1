"""One patch file into the pieces that apply in turn, each on the result of the one before.

In a commit all sections speak of the tree before it: `copy from f` beside a change of `f` means
the old `f`, and two files may swap their names. Only what no single commit of git's can say is
cut: there, several diffs were joined without a line between them. `git log -p` and `hg log -p`
print the newest commit first; such files are turned round.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from buildit.patch.binary import is_absent
from buildit.patch.form import Action, FilePatch

_COMMIT = re.compile(
    rb"From [0-9a-f]{40,64}\b"  # format-patch, or a forge's .patch
    rb"|From \S+ .*\d{4}$"  # any other mbox
    rb"|commit (?:[-<>=^+] ?)?[0-9a-f]{7,64}(?: .*)?$"  # log -p, show; `(HEAD -> main)`
    rb"|[0-9a-f]{7,64}(?: .*)?$"  # log -p --oneline, --format=%H
    rb"|# HG changeset patch$"
    rb"|changeset: +\d+:[0-9a-f]{12,64}$"  # hg log -p
    rb"|(?:From|Date|Subject): "  # a mail without its first line
    rb"|-- ?$"  # the signature that ends one
)


_LOGGED = re.compile(rb"(?:commit|changeset:) ")
_DATE = re.compile(rb"(?:Date|AuthorDate|CommitDate|date): +(?:[A-Z][a-z]{2} )?(.+)$")
_DATES = ("%b %d %H:%M:%S %Y %z", "%Y-%m-%d %H:%M:%S %z", "%Y-%m-%dT%H:%M:%S%z")


@dataclass(slots=True)
class _Commit:
    """The sections of one commit, and what the lines above them say of it."""

    mail: bool = False
    logged: bool = False
    date: datetime | None = None
    files: list[FilePatch] = field(default_factory=list)


class Commits:
    """The commits of a file while it is read from top to bottom."""

    def __init__(self) -> None:
        self._found = [_Commit()]

    def add(self, file: FilePatch) -> None:
        """Take a section of the commit that was begun last."""
        self._found[-1].files.append(file)

    def begins(self, line: bytes) -> bool:
        """Whether a line outside of all sections says that a commit follows, or that one ends."""
        last = self._found[-1]
        if last.logged and not last.files and (date := _DATE.match(line)):
            last.date = _moment(date[1]) or last.date
        if _COMMIT.match(line) is None:
            return False
        if last.files or line.startswith(b"From ") or not (last.mail or last.logged):
            logged = _LOGGED.match(line) is not None
            self._found.append(_Commit(mail=line.startswith(b"From "), logged=logged))
        elif last.logged and _LOGGED.match(line):
            self._found[-1] = _Commit(logged=True)  # the one before had no section: a merge
        return True

    def oldest_first(self) -> list[list[FilePatch]]:
        """The sections of each commit, in the order in which the commits were made."""
        found = [commit for commit in self._found if commit.files]
        if all(commit.logged for commit in found) and _newest_first(found):
            found.reverse()
        return [commit.files for commit in found]


def _moment(text: bytes) -> datetime | None:
    for form in _DATES:
        try:
            return datetime.strptime(text.decode("ascii", "replace"), form)  # noqa: DTZ007 - has %z
        except ValueError:
            continue
    return None


def _newest_first(commits: Sequence[_Commit]) -> bool:
    """Whether a log runs backwards: by the contents that index lines name, else by all dates.

    What a file was before a commit is what it was after the commit before it.
    """
    forth = back = 0
    last: dict[str, tuple[str, str]] = {}
    for commit in commits:
        for file in commit.files:
            old, new = file.objects
            earlier = last.get(file.old)
            later = last.get(file.new)
            on = earlier is not None and _is_same(earlier[1], old)
            off = later is not None and _is_same(new, later[0])
            forth, back = forth + (on and not off), back + (off and not on)
        last |= {path: file.objects for file in commit.files for path in (file.old, file.new)}
    if forth or back:
        return back > forth
    dates = [commit.date for commit in commits if commit.date is not None]
    falls = all(one >= other for one, other in pairwise(dates))
    return len(dates) == len(commits) > 1 and falls and dates[0] > dates[-1]


def _is_same(one: str, other: str) -> bool:
    shorter, longer = sorted((one, other), key=len)
    return len(shorter) >= 7 and not is_absent(shorter) and longer.startswith(shorter)


def split(commits: Sequence[Sequence[FilePatch]]) -> list[list[FilePatch]]:
    """Cut commits where a section writes a path, or renames one, that an earlier section wrote.

    Three cases need no cut, for the tree decides (`apply`): a path that was removed and is made
    anew (git writes a file that becomes a link so), and the rename or copy of what an earlier
    section made (git's `-B` writes a swap of two names so).
    """
    pieces: list[list[FilePatch]] = []
    for commit in commits:
        piece: list[FilePatch] = []
        fates = _Fates()
        for file in commit:
            if fates.clash(file):
                pieces.append(piece)
                piece, fates = [], _Fates()
            piece.append(file)
            fates.note(file)
        if piece:
            pieces.append(piece)
    return pieces


class _Fates:
    """What the sections of one piece did to which paths so far."""

    def __init__(self) -> None:
        self._made: set[str] = set()
        self._changed: set[str] = set()
        self._deleted: set[str] = set()
        self._moved: set[str] = set()

    def clash(self, file: FilePatch) -> bool:
        written = file.new in self._made or file.new in self._changed
        match file.action:
            case Action.CREATE | Action.COPY:
                return written
            case Action.RENAME:
                gone = file.old in self._deleted or file.old in self._moved
                return written or gone or file.old in self._changed
            case Action.CHANGE | Action.DELETE:
                return written or file.new in self._deleted
        raise AssertionError(file.action)

    def note(self, file: FilePatch) -> None:
        match file.action:
            case Action.CHANGE:
                self._changed.add(file.new)
            case Action.DELETE:
                self._deleted.add(file.old)
            case Action.RENAME:
                self._moved.add(file.old)
                self._made.add(file.new)
            case Action.CREATE | Action.COPY:
                self._made.add(file.new)
