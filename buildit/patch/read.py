"""Reading patches strictly: unified diffs and git's, from mail, quilt, a forge or plain diff.

What GNU patch would guess or ask about is an error here: other diff formats, hunks that do not
add up, names that leave the tree. Linear in the size of the patch; nothing is applied here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildit.errors import RecipeError
from buildit.patch.form import Action, Binary, FilePatch, Hunk, Patch, settled
from buildit.patch.names import (
    NULL_NAME,
    check_links,
    git_names,
    header_name,
    is_epoch,
    stripped,
)

MAX_BYTES = 64 << 20
MAX_LINES = 1 << 20
_MAX_BINARY = 256 << 20  # inflated bytes of one binary delta

_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?:[ \r\t].*)?")
_MODE = re.compile(rb"(old mode|new mode|new file mode|deleted file mode) (\d{6})")
_INDEX = re.compile(rb"index ([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: (\d{6}))?")
_MOVED = re.compile(rb"(rename|copy) (from|to|old|new) (.+)")
_IGNORED = re.compile(rb"(?:similarity|dissimilarity) index \d{1,3}%")
_DELTA = re.compile(rb"(?:literal|delta) (\d{1,12})")
_BASE85 = re.compile(rb"[A-Za-z](?:[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{5})+")
_LONGEST_LINE = 10_000  # of those that other diff formats are known by
_MODES = {b"100644": 0o100644, b"100755": 0o100755, b"120000": 0o120000}
_FOREIGN = (
    (re.compile(rb"diff --(?:cc|combined) |@@@+ -"), "a combined diff (of a merge)"),
    (re.compile(rb"\d+(?:,\d+)?[acd]$"), "an ed script"),
    (re.compile(rb"\d+(?:,\d+)?[acd]\d+(?:,\d+)?$"), "a normal diff without context"),
    (re.compile(rb"\*{15}$|\*\*\* \d+(?:,\d+)? \*{4}$"), "a context diff"),
    (re.compile(rb"(?:Binary f|F)iles .* and .* differ$"), "a binary change without its content"),
    (re.compile(rb"GIT binary patch$"), "a binary change without file names"),
)
_REGENERATE = "regenerate the patch"
_COUNTS = "regenerate the patch, or correct the counts in its @@ line"


@dataclass(frozen=True, slots=True)
class _Text:
    """The lines of the patch without their newlines, and how to speak of them."""

    name: str
    lines: tuple[bytes, ...]
    strip: int

    def at(self, index: int) -> bytes:
        """The line without a carriage return; empty past the end."""
        return self.lines[index].removesuffix(b"\r") if index < len(self.lines) else b""

    def fail(self, index: int, message: str, hint: str) -> RecipeError:
        return RecipeError(message, place=f"{self.name}:{index + 1}", hint=hint)

    def place(self, index: int) -> str:
        return f"{self.name}:{index + 1}"


def parse_patch(data: bytes, name: str, *, strip: int = 1) -> Patch:
    """Parse a patch; `name` is what errors call it, `strip` as in `patch -pN`.

    Raises:
        RecipeError: the bytes are no patch, not a unified one, do not add up, name a path outside
            the tree, or exceed 64 MiB or 2^20 lines. `place` is `name:line`.
    """
    if len(data) > MAX_BYTES or data.count(b"\n") > MAX_LINES:
        raise RecipeError(
            f"a patch of more than {MAX_BYTES >> 20} MiB or {MAX_LINES} lines",
            place=name,
            hint="make it a source archive of its own, or split it",
        )
    text = _Text(name, tuple(data.removesuffix(b"\n").split(b"\n")), strip)
    files: list[FilePatch] = []
    at = 0
    while at < len(text.lines):
        if text.at(at).startswith(b"diff --git "):
            file, at = _git_section(text, at)
            files += [file] if file else []
        elif text.at(at).startswith(b"--- ") and text.at(at + 1).startswith(b"+++ "):
            file, at = _plain_section(text, at)
            files.append(file)
        else:
            _refuse_foreign(text, at)
            at += 1
    if not files:
        raise _no_patch(text)
    check_links(tuple(files), name)
    return settled(tuple(files))


def _no_patch(text: _Text) -> RecipeError:
    head = b"\n".join(text.lines[:5]).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return text.fail(0, "this is a web page, not a patch", "use the URL of the raw .patch file")
    return text.fail(0, "no change in this file", "a patch is what `diff -ruN old new` prints")


def _refuse_foreign(text: _Text, at: int) -> None:
    line = text.at(at)
    hint = "write it with `git diff --binary` or `diff -ruN old new`"
    if line.startswith(b"@@ -") and _HUNK.fullmatch(line):
        raise text.fail(at, "a hunk without `---` and `+++` lines before it", hint)
    for pattern, what in _FOREIGN:
        if pattern.match(line[:_LONGEST_LINE]):
            raise text.fail(at, f"this is {what}, not a unified diff", hint)


def _plain_section(text: _Text, at: int) -> tuple[FilePatch, int]:
    """A section that begins with `---`, as diff, quilt or Subversion write it."""
    old, old_stamp = header_name(text.at(at)[4:], text.place(at))
    new, new_stamp = header_name(text.at(at + 1)[4:], text.place(at + 1))
    hunks, end = _hunks(text, at + 2)
    only = hunks[0] if len(hunks) == 1 else None
    creates = old == NULL_NAME or (only and is_epoch(old_stamp) and _is_empty(only, b"-"))
    deletes = new == NULL_NAME or (only and is_epoch(new_stamp) and _is_empty(only, b"+"))
    if creates and deletes:
        raise text.fail(at, "both names are /dev/null", "name the file that changes")
    if creates or deletes:
        named, line = (new, at + 1) if creates else (old, at)
        path = stripped(named, text.strip, text.place(line))
        action = Action.CREATE if creates else Action.DELETE
        _check_whole(text, at, action, hunks)
        return FilePatch(action, path, path, hunks=hunks, line=at + 1), end
    path = _meant(
        text,
        at,
        stripped(old, text.strip, text.place(at)),
        stripped(new, text.strip, text.place(at + 1)),
    )
    return FilePatch(Action.CHANGE, path, path, hunks=hunks, line=at + 1), end


def _is_empty(hunk: Hunk, side: bytes) -> bool:
    return (hunk.old_count if side == b"-" else hunk.new_count) == 0


def _meant(text: _Text, at: int, old: str, new: str) -> str:
    """The file that two names mean: `x.c.orig` and `x.c` mean `x.c`; others are not guessed."""
    short, long = sorted((old, new), key=len)
    if not long.startswith(short) or "/" in long[len(short) :]:
        raise text.fail(
            at,
            f"`---` and `+++` name different files: {old!r} and {new!r}",
            "name the file alike in both lines, or use git's `rename from` and `rename to`",
        )
    return short


def _check_whole(text: _Text, at: int, action: Action, hunks: tuple[Hunk, ...]) -> None:
    """A new file has no lines before, a deleted one none after."""
    side = b"-" if action is Action.CREATE else b"+"
    if len(hunks) > 1 or (hunks and not _is_empty(hunks[0], side)):
        before = "new" if action is Action.CREATE else "deleted"
        raise text.fail(
            at,
            f"a {before} file with lines on the other side",
            "name the file instead of /dev/null",
        )


@dataclass(slots=True)
class _Header:
    """The extended header of a git section while it is read."""

    action: Action = Action.CHANGE
    old_mode: int | None = None
    new_mode: int | None = None
    source: bytes | None = None
    target: bytes | None = None
    objects: tuple[str, str] = ("", "")


def _git_section(text: _Text, start: int) -> tuple[FilePatch | None, int]:
    """A section that begins with `diff --git`; None where it changes nothing."""
    header, at = _Header(), start + 1
    while at < len(text.lines) and _extended(text, at, header):
        at += 1
    hunks: tuple[Hunk, ...] = ()
    binary = None
    names: tuple[bytes, bytes] | None = None
    if text.at(at) == b"GIT binary patch":
        binary, at = _binary(text, at, header)
    elif text.at(at).startswith(b"--- ") and text.at(at + 1).startswith(b"+++ "):
        names = (
            header_name(text.at(at)[4:], text.place(at))[0],
            header_name(text.at(at + 1)[4:], text.place(at + 1))[0],
        )
        hunks, at = _hunks(text, at + 2)
    old, new = _git_paths(text, start, header, names)
    unchanged = header.action is Action.CHANGE and header.old_mode == header.new_mode
    if unchanged and not hunks and binary is None:
        return None, at
    if header.action in (Action.CREATE, Action.DELETE):
        _check_whole(text, start, header.action, hunks)
    _check_modes(text, start, header)
    file = FilePatch(
        action=header.action,
        old=old,
        new=new,
        old_mode=header.old_mode,
        new_mode=header.new_mode,
        hunks=hunks,
        binary=binary,
        git=True,
        line=start + 1,
    )
    return file, at


def _extended(text: _Text, at: int, header: _Header) -> bool:
    """Read one line of the extended header into `header`; False where it has ended."""
    line = text.at(at)
    if mode := _MODE.fullmatch(line):
        value = _mode(text, at, mode[2])
        if mode[1] in (b"old mode", b"deleted file mode"):
            header.old_mode = value
        else:
            header.new_mode = value
        if mode[1] == b"new file mode":
            header.action = Action.CREATE
        elif mode[1] == b"deleted file mode":
            header.action = Action.DELETE
        return True
    if moved := _MOVED.fullmatch(line):
        header.action = Action.RENAME if moved[1] == b"rename" else Action.COPY
        name = header_name(moved[3], text.place(at))[0]
        if moved[2] in (b"from", b"old"):
            header.source = name
        else:
            header.target = name
        return True
    if index := _INDEX.fullmatch(line):
        header.objects = (index[1].decode(), index[2].decode())
        if index[3]:
            header.old_mode = header.new_mode = _mode(text, at, index[3])
        return True
    return _IGNORED.fullmatch(line) is not None


def _mode(text: _Text, at: int, digits: bytes) -> int:
    if digits not in _MODES:
        what = "a submodule" if digits == b"160000" else f"mode {digits.decode()}"
        raise text.fail(
            at, f"{what} in a patch", "only files (100644, 100755) and symlinks (120000) can change"
        )
    return _MODES[digits]


def _check_modes(text: _Text, at: int, header: _Header) -> None:
    old, new = header.old_mode, header.new_mode
    if header.action in (Action.CREATE, Action.DELETE):
        return
    if (old is None) != (new is None):
        raise text.fail(at, "`old mode` and `new mode` go together", _REGENERATE)
    if old != new and 0o120000 in (old, new):
        raise text.fail(
            at, "a file that becomes a symlink in one section", "delete it and create it anew"
        )


def _git_paths(
    text: _Text, start: int, header: _Header, names: tuple[bytes, bytes] | None
) -> tuple[str, str]:
    """The paths of a git section, from the lines that say them best."""
    place = text.place(start)
    moved = header.action in (Action.RENAME, Action.COPY)
    if moved:
        if header.source is None or header.target is None:
            raise text.fail(start, f"a {header.action} without both names", _REGENERATE)
        # these two lines carry no a/ and b/ (git-diff, "generate_patch_text_with_p", 4)
        level = max(text.strip - 1, 0)
        old, new = (stripped(n, level, place) for n in (header.source, header.target))
    else:
        first, second = git_names(text.at(start)[11:], text.strip, place)
        old, new = stripped(first, text.strip, place), stripped(second, text.strip, place)
        if old != new:
            raise text.fail(
                start,
                f"`diff --git` names different files: {old!r} and {new!r}",
                "a rename needs `rename from` and `rename to`",
            )
    if names is not None:
        _check_names(text, start, header.action is Action.CREATE, names[0], old)
        _check_names(text, start, header.action is Action.DELETE, names[1], new)
    return old, new


def _check_names(text: _Text, start: int, absent: bool, named: bytes, expected: str) -> None:
    """A `---` or `+++` line of a git section must say what its header does."""
    if absent and named == NULL_NAME:
        return
    if absent or named == NULL_NAME:
        message = f"the header of {expected!r} disagrees with /dev/null below it"
    elif stripped(named, text.strip, text.place(start)) != expected:
        message = f"the lines below the header of {expected!r} name another file"
    else:
        return
    raise text.fail(start, message, _REGENERATE)


def _hunks(text: _Text, at: int) -> tuple[tuple[Hunk, ...], int]:
    hunks: list[Hunk] = []
    least = 0
    while match := _HUNK.fullmatch(text.at(at)):
        ranges = [int(digits) if digits is not None else 1 for digits in match.groups()]
        hunk, end = _hunk(text, at, *ranges)
        if hunk.old_start < least:
            raise text.fail(at, "hunks overlap or are out of order", _REGENERATE)
        least = hunk.old_start + hunk.old_count
        hunks.append(hunk)
        at = end
    if not hunks:
        raise text.fail(at, "a hunk (`@@ -1,2 +1,3 @@`) expected", "the patch seems cut off here")
    line = text.at(at)
    if line[:1] in (b"+", b"-", b" ") and line.rstrip() != b"--" and not line.startswith(b"--- "):
        raise text.fail(at, "the hunk above has more lines than its header says", _COUNTS)
    return tuple(hunks), at


def _hunk(
    text: _Text, start: int, old_start: int, old_count: int, new_start: int, new_count: int
) -> tuple[Hunk, int]:
    if (old_count and not old_start) or (new_count and not new_start):
        raise text.fail(start, "line 0 in a hunk that has lines", "lines are numbered from 1")
    lines, at = text.lines, start + 1
    old_left, new_left = old_count, new_count
    body: list[bytes] = []
    while old_left or new_left:
        if at >= len(lines):
            raise _cut_off(text, at - 1, "the end of the file", old_left, new_left)
        line = lines[at]
        sign = line[:1]
        if sign in (b"", b"\r"):  # editors strip the blank of an empty line of context
            sign, line = b" ", b" " + line
        if sign == b"\\":
            line = _no_newline(text, at, body, old_left, new_left)
        elif sign not in (b" ", b"-", b"+"):
            raise _cut_off(text, at, f"{line[:40]!r}", old_left, new_left)
        old_left -= sign in (b" ", b"-")
        new_left -= sign in (b" ", b"+")
        if old_left < 0 or new_left < 0:
            raise text.fail(at, "the hunk has more lines than its header says", _COUNTS)
        body.append(line)
        at += 1
    if at < len(lines) and lines[at].startswith(b"\\ "):
        body.append(_no_newline(text, at, body, 0, 0))
        at += 1
    return Hunk(old_start, old_count, new_start, new_count, b"\n".join([*body, b""])), at


def _cut_off(text: _Text, at: int, found: str, old_left: int, new_left: int) -> RecipeError:
    missing = f"{old_left} old and {new_left} new lines"
    return text.fail(at, f"{found} inside a hunk that lacks {missing}", _COUNTS)


def _no_newline(text: _Text, at: int, body: list[bytes], old_left: int, new_left: int) -> bytes:
    """The marker in git's and diff's English words, whatever the locale that wrote it."""
    sign = body[-1][:1] if body else b""
    left = {b"-": old_left, b"+": new_left, b" ": old_left + new_left}.get(sign, 1)
    if left or not text.at(at).startswith(b"\\ "):
        raise text.fail(at, "`\\ No newline` before the last line", _REGENERATE)
    return b"\\ No newline at end of file"


def _binary(text: _Text, start: int, header: _Header) -> tuple[Binary, int]:
    """git's base85 deltas, forward and perhaps reverse, verbatim."""
    old, new = header.objects
    if len(old) not in (40, 64) or len(old) != len(new):
        raise text.fail(
            start,
            "a binary delta without full object names",
            "write it with `git diff --binary` or `git format-patch`",
        )
    at, deltas = start + 1, 0
    while delta := _DELTA.fullmatch(text.at(at)):
        if int(delta[1]) > _MAX_BINARY:
            raise text.fail(at, "a binary delta of more than 256 MiB", "make it a source file")
        at, deltas = at + 1, deltas + 1
        first = at
        while _BASE85.fullmatch(text.at(at)):
            at += 1
        if at == first or text.at(at):
            raise text.fail(at, "malformed base85 in a binary delta", _REGENERATE)
        at += 1
    if not 1 <= deltas <= 2:
        raise text.fail(at, "`literal N` or `delta N` expected", _REGENERATE)
    kept = [text.at(index) for index in range(start + 1, min(at, len(text.lines)))]
    while kept and not kept[-1]:
        kept.pop()
    return Binary(old, new, b"\n".join([*kept, b"", b""])), at
