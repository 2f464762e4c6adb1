"""One patch file into the pieces that apply in turn, each on the result of the one before.

In a commit all sections speak of the tree before it: `copy from f` beside a change of `f` means
the old `f`, and two files may swap their names. Only what no single commit of git's can say is
cut: there, several diffs were joined without a line between them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from buildit.patch.form import Action, FilePatch

_COMMIT = re.compile(
    rb"From [0-9a-f]{40,64}\b"  # format-patch, or a forge's .patch
    rb"|From \S+ .*\d{4}$"  # any other mbox
    rb"|commit (?:[-<>=^+] ?)?[0-9a-f]{7,64}(?: .*)?$"  # log -p, show; `(HEAD -> main)`
    rb"|[0-9a-f]{7,64}(?: .*)?$"  # log -p --oneline, --format=%H
    rb"|# HG changeset patch$"
    rb"|(?:From|Date|Subject): "  # a mail without its first line
    rb"|-- ?$"  # the signature that ends one
)


def begins_commit(line: bytes) -> bool:
    """Whether a line outside of all sections says that another commit follows, or that one ends."""
    return _COMMIT.match(line) is not None


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
