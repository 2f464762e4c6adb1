"""Where the hunks of one file fit: without fuzz, at their place or the nearest one.

Places are chosen as GNU patch does at fuzz 0 (its manual, "Hunks"): the offset of one hunk is the
guess of the next, the nearest place wins, the later one of two as near, and hunks come in turn.
A hunk whose context is shorter at the start or end of the file holds there alone; as git has it,
context that is shorter, but there, does not pin a hunk to the end (`git diff -W` writes such).

Why a hunk does not fit, in words that help: it is there already, line endings, white space.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from buildit.patch.form import Hunk

_MOST_WORK = 100_000_000
"""Lines that are compared for one file at most, whatever hunks and file are made of."""


@dataclass(frozen=True, slots=True)
class Edit:
    """A hunk as lines with their newlines: `old` at line `start` (from 1) become `new`.

    `before` and `after` count the lines of context around what changes.
    """

    start: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]
    before: int
    after: int

    def reversed(self) -> Edit:
        return Edit(self.start, self.new, self.old, self.before, self.after)


@dataclass(frozen=True, slots=True)
class Placed:
    """The file's new lines, and what happened to each hunk: its line, or None where it fits not."""

    lines: tuple[bytes, ...]
    places: tuple[int | None, ...]

    @property
    def fits(self) -> bool:
        return None not in self.places


def edit_of(hunk: Hunk, *, crs: bool = True) -> Edit:
    """The hunk as an edit; without `crs` a CR at the end of each line is left out."""
    old: list[bytes] = []
    new: list[bytes] = []
    signs = bytearray()
    for line in hunk.body.split(b"\n")[:-1]:
        sign = line[:1]
        if sign == b"\\":
            for side in {b"-": (old,), b"+": (new,)}.get(bytes(signs[-1:]), (old, new)):
                side[-1] = side[-1][:-1]
            continue
        content = (line[1:] if crs else line[1:].removesuffix(b"\r")) + b"\n"
        signs += sign
        if sign != b"+":
            old.append(content)
        if sign != b"-":
            new.append(content)
    before = len(signs) - len(signs.lstrip(b" "))
    after = len(signs) - len(signs.rstrip(b" "))
    # a hunk without old lines names the line that it goes behind
    start = hunk.old_start + (not hunk.old_count)
    return Edit(start, tuple(old), tuple(new), before, after)


def lines_of(content: bytes) -> tuple[bytes, ...]:
    """The lines with their newlines; the last one may lack it."""
    parts = content.split(b"\n")
    lines = [part + b"\n" for part in parts[:-1]]
    return (*lines, parts[-1]) if parts[-1] else tuple(lines)


def place_edits(lines: Sequence[bytes], edits: Iterable[Edit]) -> Placed:
    """Apply edits in turn; those that do not fit are left out and have no place."""
    search = _Search(tuple(lines))
    made: list[bytes] = []
    places: list[int | None] = []
    done = offset = 0
    for edit in edits:
        at = search.find(edit, edit.start + offset, done)
        places.append(at)
        if at is None:
            continue
        offset = at - edit.start
        made += lines[done : at - 1]
        made += edit.new
        done = at - 1 + len(edit.old)
    made += lines[done:]
    return Placed(tuple(made), tuple(places))


class _Search:
    """Finds places in the lines of one file; the index is made when a hunk is not at its place."""

    def __init__(self, lines: tuple[bytes, ...]) -> None:
        self._lines = lines
        self._index: dict[bytes, list[int]] = {}
        self._work = 0

    def find(self, edit: Edit, guess: int, done: int) -> int | None:
        """The line where an edit fits after the first `done` lines, nearest to `guess`."""
        last = len(self._lines) - len(edit.old) + 1
        if not edit.old:
            return guess if done < guess <= last else None
        if edit.before < edit.after and edit.start <= 1:
            return 1 if done == 0 and self._fits(edit, 1) else None
        at_end = last if last > done and self._fits(edit, last) else None
        if edit.after < edit.before and edit.after == 0:
            return at_end
        if done < guess <= last and self._fits(edit, guess):
            return guess
        if edit.after < edit.before and at_end is not None:
            return at_end
        return self._nearest(edit, guess, done, last)

    def _nearest(self, edit: Edit, guess: int, done: int, last: int) -> int | None:
        if not self._index:
            for number, line in enumerate(self._lines):
                self._index.setdefault(line, []).append(number)
        rarest = min(range(len(edit.old)), key=lambda at: len(self._index.get(edit.old[at], ())))
        spots = self._index.get(edit.old[rarest], [])
        shift = 1 - rarest  # from a spot of the rarest line to the line of the edit
        low, high = bisect_left(spots, done + 1 - shift), bisect_right(spots, last - shift)
        after = min(max(bisect_left(spots, guess - shift), low), high)
        before = after - 1
        while before >= low or after < high:
            later = spots[after] + shift if after < high else None
            earlier = spots[before] + shift if before >= low else None
            if later is not None and (earlier is None or later - guess <= guess - earlier):
                at, after = later, after + 1
            else:
                at, before = earlier or 0, before - 1
            if self._fits(edit, at):
                return at
            if self._work >= _MOST_WORK:
                break
        return None

    def _fits(self, edit: Edit, at: int) -> bool:
        self._work += len(edit.old)
        return (
            self._work < _MOST_WORK
            and at > 0
            and self._lines[at - 1 : at - 1 + len(edit.old)] == edit.old
        )


_SHOWN = 60

_WIDE = (b"\xc2\xa0", b"\xe3\x80\x80", b"\xe2\x80\x8b", b"\xef\xbb\xbf")
"""UTF-8 of blanks that mailers and web pages put in: no-break, ideographic, of no width, BOM."""

_TABS = "fetch the patch anew as raw text: what was copied or mailed lost its tabs or blanks"
_ENDINGS = "convert the patch to the line endings of the source (dos2unix, unix2dos)"
_THERE = "upstream has a part of the patch: remove that from it"
REBASE = "rebase the patch on this version; nothing is applied with fuzz"


def why_misfit(lines: Sequence[bytes], edit: Edit) -> tuple[str, str]:
    """What is wrong with an edit that fits nowhere, and the hint that goes with it."""
    if edit.new and place_edits(lines, [edit.reversed()]).fits:
        return "is there already", _THERE
    if _alike(lines, edit, lambda line: line.rstrip(b"\r\n")):
        crs = sum(line.endswith(b"\r\n") for line in lines) * 2 > len(lines)
        which = "the file has CR LF" if crs else "the file has LF"
        if any(line.endswith(b"\r\n") for line in edit.old) == crs:
            return "differs in the newline at the end of the file", REBASE
        return f"differs in line endings only ({which}, the patch not)", _ENDINGS
    if _alike(lines, edit, _squeezed):
        return "differs in white space only (tabs, blanks)", _TABS
    return _difference(lines, edit), REBASE


def _alike(lines: Sequence[bytes], edit: Edit, form: Callable[[bytes], bytes]) -> bool:
    old = Edit(edit.start, tuple(map(form, edit.old)), (), edit.before, edit.after)
    return bool(old.old) and place_edits(tuple(map(form, lines)), [old]).fits


def _squeezed(line: bytes) -> bytes:
    for wide in _WIDE:
        line = line.replace(wide, b"")
    return b"".join(line.split())


def _difference(lines: Sequence[bytes], edit: Edit) -> str:
    """The first line at the hunk's own place that is another one."""
    for number, expected in enumerate(edit.old, edit.start):
        if number > len(lines):
            return f"the file ends before line {number}"
        if lines[number - 1] != expected:
            return f"line {number} is {_shown(lines[number - 1])}, not {_shown(expected)}"
    return "other lines stand around it"


def _shown(line: bytes) -> str:
    text = line.rstrip(b"\n").decode("utf-8", "backslashreplace")
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return f"`{text[:_SHOWN]}{'…' if len(text) > _SHOWN else ''}`"
