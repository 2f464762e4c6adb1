"""Applying a patch to a tree: pieces in turn, each to what the one before it left.

Pure but for reading files: the result is a mapping of paths to what they hold afterwards, and
nothing of it is there unless all of it is. A refusal names every section that does not fit.

Hunks fit without fuzz, at their place or the nearest one. Places are chosen as GNU patch does at
fuzz 0 (its manual, "Hunks"): the offset of one hunk is the guess of the next, the nearest place
wins, the later one of two as near, and hunks come in turn. A hunk whose context is shorter at the
start or end of the file holds there alone; as git has it, context that is shorter, but there, does
not pin a hunk to the end (`git diff -W` writes such). Why a hunk does not fit is said in words that
help: it is there already, line endings, white space.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildit.patch import form
from buildit.patch.form import Action, Binary, FilePatch, Hunk, Malformed, Patch

REBASE = "rebase the patch on this version; nothing is applied with fuzz"
REAL_PATH = "name a regular file: the one that the link leads to, by its real path"
OTHER_FILE = "the patch was made for another version of the file: rebase it on this one"


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """A file or link: its bytes (a link's text) and permissions."""

    content: bytes = field(repr=False)
    mode: int = 0o644
    link: bool = False


class Unusable(Exception):  # noqa: N818 - what a path is, in the words of its siblings
    """A path that no patch can change: a directory, a device, or one behind a link; or that this
    one does not fit. `hint` is the next step, `missing` says that the file is not there."""

    def __init__(self, *reasons: str, hint: str, missing: bool = False) -> None:
        super().__init__(*reasons)
        self.reasons = reasons
        self.hint = hint
        self.missing = missing


class DirectoryThere(Unusable):
    """A directory, which may be empty once a patch has taken its files away."""


Read = Callable[[str], "PatchedFile | None"]
"""The file or link at a path of what is patched, None where there is none. It raises `Unusable`
where something else is there, or the path leads through a link."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a section, by its number from 1, does not apply, or (0) why all together do not.

    `missing` says that its file is not there.
    """

    section: int
    path: str
    reason: str
    hint: str
    missing: bool = False

    def __str__(self) -> str:
        section = f" (section {self.section})" if self.section else ""
        colon = ":" if self.reason.startswith(("hunk ", "the ")) else ""
        return f"{self.path}{colon} {self.reason}{section}"


class Misfit(Exception):  # noqa: N818 - what happened
    """The patch does not apply; `already` says that the tree has all of it."""

    def __init__(self, problems: tuple[Problem, ...], *, already: bool = False) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems
        self.already = already


@dataclass(frozen=True, slots=True)
class Applied:
    """What the paths hold that the patch touched, None where nothing, and what was done."""

    files: Mapping[str, PatchedFile | None]
    log: tuple[str, ...]


def apply(patch: Patch, read: Read) -> Applied:
    """Apply a patch to what `read` reads, which stays as it is.

    Raises:
        Misfit: a section does not apply, or the tree has all that the patch does already.
    """
    try:
        return _applied(patch, read)
    except Misfit as misfit:
        if not _is_applied(patch, read):
            raise
        raise Misfit(misfit.problems, already=True) from misfit


def _applied(patch: Patch, read: Read) -> Applied:
    draft = _Draft(read, _keeps_crs(patch, read))
    number = 1
    for piece in patch.pieces:
        _Piece(draft, number, piece).apply()
        number += len(piece)
    return Applied(draft.files, tuple(draft.log))


def _is_applied(patch: Patch, read: Read) -> bool:
    """Whether the tree is what the patch would have made: then all of it can be taken back."""
    pieces = tuple(tuple(map(_reversed, reversed(piece))) for piece in reversed(patch.pieces))
    try:
        _applied(Patch(pieces), read)
    except Misfit:
        return False
    return True


_BACK = {Action.CREATE: Action.DELETE, Action.DELETE: Action.CREATE, Action.COPY: Action.DELETE}


def _reversed(file: FilePatch) -> FilePatch:
    hunks = tuple(
        Hunk(each.new_start, each.new_count, each.old_start, each.old_count, _swapped(each.body))
        for each in file.hunks
    )
    binary = file.binary
    if binary is not None:
        # its content before is not known here; the name of what is there tells
        binary = Binary(binary.new_object, binary.old_object, delta=False, data=b"")
    return replace(
        file,
        action=_BACK.get(file.action, file.action),
        old=file.new,
        new=file.new if file.action is Action.COPY else file.old,
        old_mode=file.new_mode,
        new_mode=file.old_mode,
        hunks=() if file.action is Action.COPY else hunks,
        binary=binary,
    )


def _swapped(body: bytes) -> bytes:
    signs = {b"-": b"+", b"+": b"-"}
    lines = body.split(b"\n")
    return b"\n".join(signs.get(line[:1], line[:1]) + line[1:] for line in lines)


def _keeps_crs(patch: Patch, read: Read) -> bool:
    """Whether the CRs of a patch that is CR LF throughout are the content's: its files have them.

    Otherwise they came by mail or an editor, and GNU patch and git am leave them out too.
    """
    for file in patch.files:
        if file.crlf and file.action is not Action.CREATE:
            try:
                found = read(file.old)
            except Unusable:
                continue
            if found is not None and b"\r\n" in found.content:
                return True
    return False


class _Draft:
    """A tree with what was changed so far."""

    def __init__(self, read: Read, keeps_crs: bool) -> None:
        self._read = read
        self.keeps_crs = keeps_crs
        self.files: dict[str, PatchedFile | None] = {}
        self.log: list[str] = []

    def read(self, path: str) -> PatchedFile | None:
        if path in self.files:
            return self.files[path]
        if self.files.keys() & set(_above(path)):
            return None  # below a file or link that was there, or that is there now
        return self._read(path)


class _Piece:
    """One piece while it is applied: all sections read the tree before it."""

    def __init__(self, draft: _Draft, number: int, files: tuple[FilePatch, ...]) -> None:
        self._draft = draft
        self._number = number
        self._files = files
        self._made: dict[str, PatchedFile] = {}
        self._gone: set[str] = set()
        self._targets: list[tuple[int, FilePatch]] = []
        self._problems: list[Problem] = []

    def apply(self) -> None:
        for number, file in enumerate(self._files, self._number):
            self._guarded(number, file, file.old, self._section)
        for number, file in self._targets:
            self._guarded(number, file, file.new, self._check_target)
        if self._problems:
            raise Misfit(tuple(self._problems))
        for path in sorted(self._gone):
            self._draft.files[path] = None
        self._draft.files.update(self._made)

    def _guarded(
        self, number: int, file: FilePatch, path: str, call: Callable[[int, FilePatch], None]
    ) -> None:
        try:
            call(number, file)
        except Unusable as error:
            self._problems += [
                Problem(number, path, reason, error.hint, error.missing) for reason in error.reasons
            ]

    def _section(self, number: int, file: FilePatch) -> None:
        names = file.new if file.old == file.new else f"{file.old} to {file.new}"
        self._draft.log.append(f"{file.action.value} {names}")
        before = self._before(file)
        if file.action is Action.CREATE:
            self._targets.append((number, file))
        elif before is None and (file.git or [hunk.old_start for hunk in file.hunks] != [0]):
            raise Unusable("does not exist", hint=REBASE, missing=True)
        after = self._content(file, before)
        if file.action is Action.DELETE:
            if after.content:
                reason = "would be deleted, but has more than the patch takes away"
                raise Unusable(reason, hint=OTHER_FILE)
            self._gone.add(file.old)
            return
        if file.action is Action.RENAME:
            self._gone.add(file.old)
        if file.action in (Action.RENAME, Action.COPY):
            self._targets.append((number, file))
        self._made[file.new] = after

    def _before(self, file: FilePatch) -> PatchedFile | None:
        """What a section starts from: the tree before the piece.

        A rename or copy of what was not there then means what an earlier section made.
        """
        if file.action is Action.CREATE:
            return None
        found = self._draft.read(file.old)
        if found is None and file.action in (Action.RENAME, Action.COPY):
            found = self._made.get(file.old)
            if found is not None and file.action is Action.RENAME:
                del self._made[file.old]
                self._targets = [target for target in self._targets if target[1].new != file.old]
        return found

    def _check_target(self, _: int, file: FilePatch) -> None:
        """What comes to be must not be there, unless the piece takes it away too."""
        if self._gone & {file.new, *_above(file.new)}:
            return  # a link that goes may become a directory
        try:
            there = self._draft.read(file.new)
        except DirectoryThere:
            return  # whether it is empty by then, the whole patch tells
        if there is None or (file.action is Action.CREATE and there == replace(there, content=b"")):
            return
        made = self._made[file.new]
        same = there.content == made.content and there.link == made.link
        words = "is there already" if same else "exists already, with other content"
        raise Unusable(words, hint="upstream has a file of this name: rebase the patch on it")

    def _content(self, file: FilePatch, before: PatchedFile | None) -> PatchedFile:
        start = before or PatchedFile(b"")
        mode, link = start.mode, start.link
        if file.action is Action.CREATE:
            link = file.new_mode == form.SYMLINK
            mode = 0o755 if file.new_mode == form.EXECUTABLE else 0o644
        elif before is not None and (file.hunks or file.binary or file.action is Action.DELETE):
            _check_kind(file, before)
        if file.new_mode is not None and file.action is not Action.CREATE and not link:
            mode = mode | 0o111 if file.new_mode == form.EXECUTABLE else mode & ~0o111
        if file.binary is not None:
            return PatchedFile(_patched_binary(file, file.binary, before), mode, link)
        return PatchedFile(self._patched(file, start), mode, link)

    def _patched(self, file: FilePatch, start: PatchedFile) -> bytes:
        if not file.hunks:
            return start.content
        lines = lines_of(start.content)
        edits = [edit_of(hunk) for hunk in file.hunks]
        if file.action is Action.CREATE and file.crlf and not self._draft.keeps_crs:
            edits = self._without_crs(file)
        if file.hunks[0].old_start == 0 and start.content == b"".join(edits[0].new):
            raise Unusable("is there already", hint="upstream has it: remove it from the patch")
        placed = place_edits(lines, edits)
        if not placed.fits and file.crlf and b"\r\n" not in start.content:
            edits = self._without_crs(file)
            placed = place_edits(lines, edits)
        if not placed.fits:
            raise _refused(lines, edits, placed.places)
        for number, (edit, at) in enumerate(zip(edits, placed.places, strict=True), 1):
            if at is not None and at != edit.start:
                moved = f"offset {at - edit.start} lines"
                self._draft.log.append(f"  hunk #{number} at line {at} ({moved})")
        return b"".join(placed.lines)

    def _without_crs(self, file: FilePatch) -> list[Edit]:
        self._draft.log.append("  (its CR LF are the patch's: left out)")
        return [edit_of(hunk, crs=False) for hunk in file.hunks]


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _check_kind(file: FilePatch, before: PatchedFile) -> None:
    meant = file.old_mode if file.action is Action.DELETE else file.new_mode
    if before.link and meant != form.SYMLINK and (file.hunks or file.binary):
        target = before.content.decode(errors="replace")
        raise Unusable(f"is a symlink to {target!r}", hint=REAL_PATH)
    if not before.link and meant == form.SYMLINK:
        raise Unusable("is no symlink, which the patch changes", hint=OTHER_FILE)


def _patched_binary(file: FilePatch, binary: Binary, before: PatchedFile | None) -> bytes:
    content = before.content if before is not None else b""
    known = form.is_absent(binary.old_object) if before is None else _is(binary.old_object, content)
    if not known:
        if _is(binary.new_object, content) and file.action is Action.CHANGE:
            raise Unusable("has the new content already", hint="upstream has it: remove it")
        reason = f"is not the binary file {binary.old_object[:12]} that the patch changes"
        raise Unusable(reason, hint=OTHER_FILE)
    if not binary.delta:
        return binary.data
    try:
        made = form.delta_result(binary.data, content)
    except Malformed as error:
        raise Unusable(f"the binary delta does not fit: {error}", hint=OTHER_FILE) from error
    if not form.is_object(binary.new_object, made):
        reason = f"the binary delta does not make the file {binary.new_object[:12]}"
        raise Unusable(reason, hint="regenerate the patch")
    return made


def _is(named: str, content: bytes) -> bool:
    return not form.is_absent(named) and form.is_object(named, content)


def _refused(lines: tuple[bytes, ...], edits: list[Edit], places: Sequence[int | None]) -> Unusable:
    reasons, hints = [], []
    for number, (edit, at) in enumerate(zip(edits, places, strict=True), 1):
        if at is None:
            why, hint = why_misfit(lines, edit)
            reasons.append(f"hunk #{number} does not fit at line {edit.start}: {why}")
            hints.append(hint)
    return Unusable(*reasons, hint=next((hint for hint in hints if hint != REBASE), REBASE))


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
        there = self._lines[at - 1 : at - 1 + len(edit.old)]
        return self._work < _MOST_WORK and at > 0 and there == edit.old


_SHOWN = 60

_WIDE = (b"\xc2\xa0", b"\xe3\x80\x80", b"\xe2\x80\x8b", b"\xef\xbb\xbf")
"""UTF-8 of blanks that mailers and web pages put in: no-break, ideographic, of no width, BOM."""

_TABS = "fetch the patch anew as raw text: what was copied or mailed lost its tabs or blanks"
_ENDINGS = "convert the patch to the line endings of the source (dos2unix, unix2dos)"
_THERE = "upstream has a part of the patch: remove that from it"


def why_misfit(lines: Sequence[bytes], edit: Edit) -> tuple[str, str]:
    """What is wrong with an edit that fits nowhere, and the hint that goes with it."""
    if edit.new and place_edits(lines, [replace(edit, old=edit.new, new=edit.old)]).fits:
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


def _alike(lines: Sequence[bytes], edit: Edit, shape: Callable[[bytes], bytes]) -> bool:
    old = replace(edit, old=tuple(map(shape, edit.old)), new=())
    return bool(old.old) and place_edits(tuple(map(shape, lines)), [old]).fits


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
