"""Applying a patch to a tree: pieces in turn, each to what the one before it left.

Pure but for reading files: the result is a mapping of paths to what they hold afterwards, and
nothing of it is there unless all of it is. A refusal names every section that does not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from buildit.patch.binary import Malformed, delta_result, is_absent, is_object
from buildit.patch.form import EXECUTABLE, SYMLINK, Action, Binary, FilePatch, Patch
from buildit.patch.hunks import REBASE, Edit, edit_of, lines_of, place_edits, why_misfit

REAL_PATH = "name a regular file: the one that the link leads to, by its real path"
OTHER_FILE = "the patch was made for another version of the file: rebase it on this one"


@dataclass(frozen=True, slots=True)
class PatchedFile:
    """A file or link: its bytes (a link's text) and permissions."""

    content: bytes = field(repr=False)
    mode: int = 0o644
    link: bool = False


class Unusable(Exception):  # noqa: N818 - what a path is, in the words of its siblings
    """A path that no patch can change: a directory, a device, or one behind a link; `hint` is the
    next step."""

    def __init__(self, reason: str, hint: str) -> None:
        super().__init__(reason)
        self.hint = hint


class DirectoryThere(Unusable):
    """A directory, which may be empty once a patch has taken its files away."""


class PatchedTree(Protocol):
    """What is patched."""

    def read(self, path: str) -> PatchedFile | None:
        """The file or link at a path, None where there is none.

        Raises:
            Unusable: something else is there, or the path leads through a link.
        """


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


def apply(patch: Patch, tree: PatchedTree) -> Applied:
    """Apply a patch; `tree` stays as it is.

    Raises:
        Misfit: a section does not apply, or the tree has all that the patch does already.
    """
    try:
        return _applied(patch, tree)
    except Misfit as misfit:
        if not _is_applied(patch, tree):
            raise
        raise Misfit(misfit.problems, already=True) from misfit


def _applied(patch: Patch, tree: PatchedTree) -> Applied:
    draft = _Draft(tree, _keeps_crs(patch, tree))
    number = 1
    for piece in patch.pieces:
        _Piece(draft, number, piece).apply()
        number += len(piece)
    return Applied(draft.files, tuple(draft.log))


def _is_applied(patch: Patch, tree: PatchedTree) -> bool:
    """Whether the tree is what the patch would have made: then all of it can be taken back."""
    pieces = tuple(tuple(map(_reversed, reversed(piece))) for piece in reversed(patch.pieces))
    try:
        _applied(Patch(pieces), tree)
    except Misfit:
        return False
    return True


_BACK = {Action.CREATE: Action.DELETE, Action.DELETE: Action.CREATE, Action.COPY: Action.DELETE}


def _reversed(file: FilePatch) -> FilePatch:
    hunks = tuple(
        replace(
            hunk,
            old_start=hunk.new_start,
            old_count=hunk.new_count,
            new_start=hunk.old_start,
            new_count=hunk.old_count,
            body=_swapped(hunk.body),
        )
        for hunk in file.hunks
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


def _keeps_crs(patch: Patch, tree: PatchedTree) -> bool:
    """Whether the CRs of a patch that is CR LF throughout are the content's: its files have them.

    Otherwise they came by mail or an editor, and GNU patch and git am leave them out too.
    """
    for file in patch.files:
        if file.crlf and file.action is not Action.CREATE:
            try:
                found = tree.read(file.old)
            except Unusable:
                continue
            if found is not None and b"\r\n" in found.content:
                return True
    return False


class _Draft:
    """A tree with what was changed so far."""

    def __init__(self, tree: PatchedTree, keeps_crs: bool) -> None:
        self._tree = tree
        self.keeps_crs = keeps_crs
        self.files: dict[str, PatchedFile | None] = {}
        self.log: list[str] = []

    def read(self, path: str) -> PatchedFile | None:
        if path in self.files:
            return self.files[path]
        if self.files.keys() & set(_above(path)):
            return None  # below a file or link that was there, or that is there now
        return self._tree.read(path)


class _Refused(Exception):  # noqa: N818 - what happened
    def __init__(self, reasons: Iterable[str], hint: str, *, missing: bool = False) -> None:
        super().__init__()
        self.reasons = tuple(reasons)
        self.hint = hint
        self.missing = missing


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
            self._problems.append(Problem(number, path, str(error), error.hint))
        except _Refused as error:
            self._problems += [
                Problem(number, path, text, error.hint, error.missing) for text in error.reasons
            ]

    def _section(self, number: int, file: FilePatch) -> None:
        self._draft.log.append(f"{file.action.value} {_names(file)}")
        before = self._before(file)
        if file.action is Action.CREATE:
            self._targets.append((number, file))
        elif before is None and (file.git or [hunk.old_start for hunk in file.hunks] != [0]):
            raise _Refused(["does not exist"], REBASE, missing=True)
        after = self._content(file, before)
        if file.action is Action.DELETE:
            if after.content:
                raise _Refused(
                    ["would be deleted, but has more than the patch takes away"], OTHER_FILE
                )
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
        raise _Refused([words], "upstream has a file of this name: rebase the patch on it")

    def _content(self, file: FilePatch, before: PatchedFile | None) -> PatchedFile:
        start = before or PatchedFile(b"")
        mode, link = start.mode, start.link
        if file.action is Action.CREATE:
            link = file.new_mode == SYMLINK
            mode = 0o755 if file.new_mode == EXECUTABLE else 0o644
        elif before is not None and (file.hunks or file.binary or file.action is Action.DELETE):
            _check_kind(file, before)
        if file.new_mode is not None and file.action is not Action.CREATE and not link:
            mode = mode | 0o111 if file.new_mode == EXECUTABLE else mode & ~0o111
        if file.binary is not None:
            return PatchedFile(_patched_binary(file, file.binary, before), mode, link)
        return PatchedFile(self._patched(file, start), mode, link)

    def _patched(self, file: FilePatch, start: PatchedFile) -> bytes:
        if not file.hunks:
            return start.content
        lines = lines_of(start.content)
        edits = [edit_of(hunk) for hunk in file.hunks]
        if file.action is Action.CREATE and file.crlf and not self._draft.keeps_crs:
            edits = [edit_of(hunk, crs=False) for hunk in file.hunks]
            self._draft.log.append("  (its CR LF are the patch's: left out)")
        if file.hunks[0].old_start == 0 and start.content == b"".join(edits[0].new):
            raise _Refused(["is there already"], "upstream has it: remove it from the patch")
        placed = place_edits(lines, edits)
        if not placed.fits and file.crlf and b"\r\n" not in start.content:
            edits = [edit_of(hunk, crs=False) for hunk in file.hunks]
            placed = place_edits(lines, edits)
            self._draft.log.append("  (its CR LF are the patch's: left out)")
        if not placed.fits:
            raise _hunks_refused(lines, edits, placed.places)
        for number, (edit, at) in enumerate(zip(edits, placed.places, strict=True), 1):
            if at is not None and at != edit.start:
                moved = f"offset {at - edit.start} lines"
                self._draft.log.append(f"  hunk #{number} at line {at} ({moved})")
        return b"".join(placed.lines)


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _names(file: FilePatch) -> str:
    return file.new if file.old == file.new else f"{file.old} to {file.new}"


def _check_kind(file: FilePatch, before: PatchedFile) -> None:
    meant = file.old_mode if file.action is Action.DELETE else file.new_mode
    if before.link and meant != SYMLINK and (file.hunks or file.binary):
        raise _Refused([f"is a symlink to {before.content.decode(errors='replace')!r}"], REAL_PATH)
    if not before.link and meant == SYMLINK:
        raise _Refused(["is no symlink, which the patch changes"], OTHER_FILE)


def _patched_binary(file: FilePatch, binary: Binary, before: PatchedFile | None) -> bytes:
    content = before.content if before is not None else b""
    known = is_absent(binary.old_object) if before is None else _is(binary.old_object, content)
    if not known:
        if _is(binary.new_object, content) and file.action is Action.CHANGE:
            raise _Refused(["has the new content already"], "upstream has it: remove it")
        raise _Refused(
            [f"is not the binary file {binary.old_object[:12]} that the patch changes"], OTHER_FILE
        )
    if not binary.delta:
        return binary.data
    try:
        made = delta_result(binary.data, content)
    except Malformed as error:
        raise _Refused([f"the binary delta does not fit: {error}"], OTHER_FILE) from error
    if not is_object(binary.new_object, made):
        raise _Refused(
            [f"the binary delta does not make the file {binary.new_object[:12]}"],
            "regenerate the patch",
        )
    return made


def _is(named: str, content: bytes) -> bool:
    return not is_absent(named) and is_object(named, content)


def _hunks_refused(
    lines: tuple[bytes, ...], edits: list[Edit], places: tuple[int | None, ...]
) -> _Refused:
    reasons, hints = [], []
    for number, (edit, at) in enumerate(zip(edits, places, strict=True), 1):
        if at is None:
            why, hint = why_misfit(lines, edit)
            reasons.append(f"hunk #{number} does not fit at line {edit.start}: {why}")
            hints.append(hint)
    hint = next((hint for hint in hints if hint != REBASE), REBASE)
    return _Refused(reasons, hint)
