"""Reading patches strictly: unified diffs and git's, from mail, quilt, a forge or plain diff.

What GNU patch would guess or ask about is an error here: other diff formats, hunks that do not
add up, names that leave the tree. Text before a commit's first section is text, whatever it looks
like; sections that change nothing are skipped. Linear in the size of the patch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from buildit.errors import RecipeError
from buildit.patch import form
from buildit.patch.form import Action, Binary, FilePatch, Hunk, Malformed, Patch
from buildit.patch.names import NULL_NAME, PatchText, is_absence

MOST_PATCH_BYTES = 64 << 20
MAX_LINES = 1 << 20
_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@(?:[ \r\t].*)?")
_MARK = b"\xef\xbb\xbf"  # of byte order, which editors write before UTF-8
_MODE = re.compile(rb"(old mode|new mode|new file mode|deleted file mode) (\d{5,6})\s*")
_INDEX = re.compile(rb"index ([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: (\d{6}))?\s*")
_MOVED = re.compile(rb"(rename|copy) (from|to|old|new) (.+)")
_IGNORED = re.compile(rb"(?:similarity|dissimilarity) index \d{1,3}%\s*")
_EXTENDED = re.compile(rb"(?:(?:old|new|new file|deleted file) mode|(?:rename|copy) (?:from|to))\b")
_OTHERS = (
    ((b"\xff\xfe", b"\xfe\xff"), "UTF-16", "write it with `git diff --output=FILE`, not with `>`"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PK"), "compressed", "unpack it"),
)
_DELTA = re.compile(rb"(literal|delta) (\d{1,12})")
_BASE85 = re.compile(rb"[A-Za-z](?:[0-9A-Za-z!#$%&()*+;<=>?@^_`{|}~-]{5})+")
_DIFFER = re.compile(rb"Binary files .* and .* differ$")
_MAIL_PART = re.compile(rb"---?(?:---|[=_A-Za-z0-9]{10})[-=_A-Za-z0-9.: ]*$")
_LONGEST_LINE = 10_000  # of those that other diff formats are known by
_STARS = re.compile(rb"\*{15}$")
_CONTEXT = "a context diff"
_NO_CONTENT = "a binary change without its content"
_EVERYWHERE = (
    (re.compile(rb"diff --(?:cc|combined) "), "a combined diff (of a merge)"),
    (_DIFFER, _NO_CONTENT),
    (re.compile(rb"Cannot display: file marked as a binary type\.$"), _NO_CONTENT),
    (re.compile(rb"Binary file .* has changed$"), _NO_CONTENT),
    (re.compile(rb"GIT binary patch$"), "a binary change without file names"),
    (re.compile(rb"=== renamed (?:file|symlink|directory) '"), "a rename of Bazaar's"),
    (re.compile(rb"=== (?:added|modified) symlink '"), "a symlink of Bazaar's"),
)
"""What changes a tree in other words than ours, in the text before a section too."""
_BETWEEN = (
    (re.compile(rb"@@@+ -"), "a combined diff (of a merge)"),
    (re.compile(rb"\d+(?:,\d+)?[acd]$"), "an ed script"),
    (re.compile(rb"\d+(?:,\d+)?[acd]\d+(?:,\d+)?$"), "a normal diff without context"),
    (re.compile(rb"\*\*\* \d+(?:,\d+)? \*{4}$"), _CONTEXT),
    (re.compile(rb"Files .* and .* differ$"), _NO_CONTENT),
    (re.compile(rb"Symbolic links .* and .* differ$"), "a change of a symlink without its text"),
    (re.compile(rb"File .* is a .* while file .* is a "), "a change of what kind a file is"),
    (re.compile(rb"Added: svn:special$"), "a symlink of Subversion's"),
)
"""The same between and after the sections of a commit, where prose does not stand."""
_WRITE = "write it with `git diff --binary` or `diff -ruN old new`"
_REGENERATE = "regenerate the patch"
_COUNTS = "regenerate the patch, or correct the counts in its @@ line"


def parse_patch(data: bytes, name: str, *, strip: int = 1) -> Patch:
    """Parse a patch; `name` is what errors call it, `strip` as in `patch -pN`.

    Raises:
        RecipeError: the bytes are no patch, not a unified one, do not add up, name a path outside
            the tree, or exceed 64 MiB or 2^20 lines. `place` is `name:line`.
    """
    if len(data) > MOST_PATCH_BYTES or data.count(b"\n") > MAX_LINES:
        message = f"a patch of more than {MOST_PATCH_BYTES >> 20} MiB or {MAX_LINES} lines"
        hint = "make it a source archive of its own, or split it"
        raise RecipeError(message, place=name, hint=hint)
    return _parsed(data, name, strip)


def parse_canonical(data: bytes, name: str) -> Patch:
    """Read back what `form.canonical_bytes` wrote, which may be larger than a patch may be.

    Raises:
        RecipeError: the bytes are no canonical form.
    """
    return _parsed(data, name, 1)


def _parsed(data: bytes, name: str, strip: int) -> Patch:
    text = PatchText(name, tuple(data.removeprefix(_MARK).removesuffix(b"\n").split(b"\n")), strip)
    commits = form.Commits()
    at, reader = 0, _Prose()
    while at < len(text.lines):
        line = text.at(at)
        if line.startswith(b"diff --git "):
            file, at = _git_section(text, at)
            reader = _Prose(after=True)
        elif line.startswith(b"--- ") and text.at(at + 1).startswith(b"+++ "):
            file, at = _plain_section(text, at)
            reader = _Prose(after=True)
        else:
            if commits.begins(line):
                reader = _Prose()
            reader.pass_over(text, at)
            file, at = None, at + 1
        if file is not None:
            commits.add(file)
    pieces = form.split_pieces(commits.oldest_first())
    if not pieces:
        raise _no_patch(text)
    _check_content(text, pieces)
    for piece in pieces:
        text.check_links(piece)
    return form.settled(pieces)


def _check_content(text: PatchText, pieces: list[list[FilePatch]]) -> None:
    left = form.MAX_CONTENT
    for file in (file for piece in pieces for file in piece):
        left -= len(file.binary.data) if file.binary is not None else 0
        if left < 0:
            message = f"more than {form.MAX_CONTENT >> 20} MiB of binary changes in one patch"
            raise text.fail(file.line - 1, message, "make them source files")


def _no_patch(text: PatchText) -> RecipeError:
    for begins, what, hint in _OTHERS:
        if text.lines[0].startswith(begins):
            return text.fail(0, f"this file is {what}, not the text of a patch", hint)
    head = b"\n".join(text.lines[:5]).lstrip().lower()
    if head.startswith((b"<!doctype", b"<html")):
        return text.fail(0, "this is a web page, not a patch", "use the URL of the raw .patch file")
    reader = _Prose(after=True)
    for at in range(len(text.lines)):
        try:
            reader.pass_over(text, at)
        except RecipeError as error:
            return error
    return text.fail(0, "no change in this file", "a patch is what `diff -ruN old new` prints")


@dataclass(slots=True)
class _Prose:
    """The text that is passed over on the way to the next section.

    `after` says that this commit had a section before it: then changes in another format, or
    without a name, would be lost in silence. Before it, they may well be quoted in a message.
    """

    after: bool = False
    named: bool = False

    def pass_over(self, text: PatchText, at: int) -> None:
        """Refuse a line that begins a change which we cannot read."""
        line = text.at(at)[:_LONGEST_LINE]
        if line.startswith((b"Index: ", b"diff ")):
            self.named = True
        if (self.after or self.named) and line.startswith(b"@@ -") and _HUNK.fullmatch(line):
            raise text.fail(at, "a hunk without `---` and `+++` lines before it", _WRITE)
        stars = _STARS.match(line) and _BETWEEN[3][0].match(text.at(at + 1)[:_LONGEST_LINE])
        what = _CONTEXT if stars else ""
        for pattern, kind in (*_EVERYWHERE, *(_BETWEEN if self.after else ())):
            what = what or (kind if pattern.match(line) else "")
        if what:
            raise text.fail(at, f"this is {what}, not a unified diff", _WRITE)


def _is_bare(text: PatchText, at: int) -> bool:
    """Whether the header that ends before this line has no hunks: then it changes nothing.

    Subversion writes it above changes of properties, other tools where nothing is left to say.
    """
    line = text.at(at)
    begun = line.startswith((b"@@", b"+", b"-", b"\\")) or (line[:1] == b" " and line.strip())
    return not begun or line.startswith(b"--- ") or line.rstrip() == b"--"


def _plain_section(text: PatchText, at: int) -> tuple[FilePatch | None, int]:
    """A section that begins with `---`, as diff, quilt or Subversion write it; None if empty."""
    if _is_bare(text, at + 2):
        return None, at + 2
    old, old_stamp = text.header_name(at, text.at(at)[4:])
    new, new_stamp = text.header_name(at + 1, text.at(at + 1)[4:])
    hunks, end = _hunks(text, at + 2)
    crlf = _is_crlf(text, at, end)
    only = hunks[0] if len(hunks) == 1 else None
    creates = old == NULL_NAME or (only and is_absence(old_stamp) and _is_empty(only, b"-"))
    deletes = new == NULL_NAME or (only and is_absence(new_stamp) and _is_empty(only, b"+"))
    if creates and deletes:
        raise text.fail(at, "both names are /dev/null", "name the file that changes")
    if creates or deletes:
        named, line = (new, at + 1) if creates else (old, at)
        path = text.path(line, named)
        action = Action.CREATE if creates else Action.DELETE
        _check_whole(text, at, action, hunks)
        return FilePatch(action, path, path, hunks=hunks, crlf=crlf, line=at + 1), end
    path = _meant(text, at, text.path(at, old), text.path(at + 1, new))
    return FilePatch(Action.CHANGE, path, path, hunks=hunks, crlf=crlf, line=at + 1), end


def _is_crlf(text: PatchText, start: int, end: int) -> bool:
    """Whether a section, from `---` on, has CR LF throughout."""
    if not text.lines[start].endswith(b"\r"):
        return False
    lines = text.lines[start:end]
    return all(line.endswith(b"\r") or line.startswith(b"\\ ") for line in lines)


def _is_empty(hunk: Hunk, side: bytes) -> bool:
    return (hunk.old_count if side == b"-" else hunk.new_count) == 0


def _meant(text: PatchText, at: int, old: str, new: str) -> str:
    """The file that two names mean: `x.c.orig` and `x.c` mean `x.c`; others are not guessed."""
    short, long = sorted((old, new), key=len)
    if not long.startswith(short) or "/" in long[len(short) :]:
        message = f"`---` and `+++` name different files: {old!r} and {new!r}"
        hint = "name the file alike in both lines, or use git's `rename from` and `rename to`"
        raise text.fail(at, message, hint)
    return short


def _check_whole(text: PatchText, at: int, action: Action, hunks: tuple[Hunk, ...]) -> None:
    """A new file has no lines before, a deleted one none after."""
    side = b"-" if action is Action.CREATE else b"+"
    if len(hunks) > 1 or (hunks and not _is_empty(hunks[0], side)):
        message = f"a {_WORDS[action]} file with lines on the other side"
        raise text.fail(at, message, "name the file instead of /dev/null")


def _git_section(text: PatchText, start: int) -> tuple[FilePatch | None, int]:
    """A section that begins with `diff --git`; None where it changes nothing."""
    file, at = FilePatch(Action.CHANGE, "", "", git=True, line=start + 1), start + 1
    while at < len(text.lines) and (more := _extended(text, at, file)) is not None:
        file, at = more, at + 1
    names: tuple[bytes, bytes] | None = None
    if text.at(at) == b"GIT binary patch":
        binary, at = _binary(text, at, *file.objects)
        file = replace(file, binary=binary)
    elif _DIFFER.match(text.at(at)[:_LONGEST_LINE]):
        old, new = file.objects
        if file.action is not Action.DELETE or len(old) < 7 or not new or not form.is_absent(new):
            raise text.fail(at, f"this is {_NO_CONTENT}, not a unified diff", _WRITE)
        # git shows no content of a file that goes, and its object name says which file is meant
        file, at = replace(file, binary=Binary(old, new, delta=False, data=b"")), at + 1
    elif text.at(at).startswith(b"--- ") and text.at(at + 1).startswith(b"+++ "):
        old_name, new_name = (text.header_name(line, text.at(line)[4:])[0] for line in (at, at + 1))
        names = (old_name, new_name)
        at += 2
        if not _is_bare(text, at):
            hunks, end = _hunks(text, at)
            file, at = replace(file, hunks=hunks, crlf=_is_crlf(text, at - 2, end)), end
    old, new = _git_paths(text, start, file, names)
    unchanged = file.action is Action.CHANGE and file.old_mode == file.new_mode
    if unchanged and not file.hunks and file.binary is None:
        return None, at
    _check_git(text, start, file)
    return replace(file, old=old, new=new), at


def _check_git(text: PatchText, start: int, file: FilePatch) -> None:
    """A file that comes or goes without a hunk is empty, and its object name says so; modes come
    in pairs."""
    old, new = file.old_mode, file.new_mode
    if file.action in (Action.CREATE, Action.DELETE):
        _check_whole(text, start, file.action, file.hunks)
        named = file.objects[0 if file.action is Action.DELETE else 1]
        without = named and not file.hunks and file.binary is None
        if without and not form.is_object(named, b"") and not form.is_absent(named):
            hint = "write it with `git diff --binary`, without --irreversible-delete"
            raise text.fail(start, f"a {_WORDS[file.action]} file without its lines", hint)
    elif (old is None) != (new is None):
        raise text.fail(start, "`old mode` and `new mode` go together", _REGENERATE)
    elif old != new and form.SYMLINK in (old, new):
        message = "a file that becomes a symlink in one section"
        raise text.fail(start, message, "delete it and create it anew")


_WORDS = {Action.CREATE: "new", Action.DELETE: "deleted"}


def _extended(text: PatchText, at: int, file: FilePatch) -> FilePatch | None:
    """The section with what one more line of git's header says; None where that has ended."""
    line = text.at(at)
    if mode := _MODE.fullmatch(line):
        value, new = _mode(text, at, mode[2]), mode[1].startswith(b"new ")
        file = replace(file, new_mode=value) if new else replace(file, old_mode=value)
        action = {b"new file mode": Action.CREATE, b"deleted file mode": Action.DELETE}
        return replace(file, action=action.get(mode[1], file.action))
    if moved := _MOVED.fullmatch(line):
        file = replace(file, action=Action.RENAME if moved[1] == b"rename" else Action.COPY)
        # these two lines carry no a/ and b/ (git-diff, "generate_patch_text_with_p", 4)
        name = text.header_name(at, moved[3])[0]
        path = text.path(file.line - 1, name, max(text.strip - 1, 0))
        old = moved[2] in (b"from", b"old")
        return replace(file, old=path) if old else replace(file, new=path)
    if index := _INDEX.fullmatch(line):
        file = replace(file, objects=(index[1].decode(), index[2].decode()))
        if not index[3]:
            return file
        both = _mode(text, at, index[3])
        return replace(file, old_mode=both, new_mode=both)
    if _EXTENDED.match(line):
        shown = line[:60].decode(errors="backslashreplace")
        raise text.fail(at, f"malformed line in git's header: {shown!r}", _REGENERATE)
    return file if _IGNORED.fullmatch(line) else None


def _mode(text: PatchText, at: int, digits: bytes) -> int:
    """git's mode: of permissions it knows only whether the owner may execute (git-apply).

    Subversion writes `10644`, old versions of git wrote `100664`.
    """
    mode = int(digits, 8) if digits.strip(b"01234567") == b"" else 0
    if len(digits) == 5:
        mode = 0o100000 | mode & 0o7777
    if mode == form.SYMLINK:
        return form.SYMLINK
    if mode & ~0o777 != 0o100000:
        what = "a submodule" if digits == b"160000" else f"mode {digits.decode()}"
        hint = "only files (100644, 100755) and symlinks (120000) can change"
        raise text.fail(at, f"{what} in a patch", hint)
    return form.EXECUTABLE if mode & 0o100 else form.PLAIN_MODE


def _git_paths(
    text: PatchText, start: int, file: FilePatch, names: tuple[bytes, bytes] | None
) -> tuple[str, str]:
    """The paths of a git section, from the lines that say them best."""
    old, new = file.old, file.new
    if file.action not in (Action.RENAME, Action.COPY):
        old, new = (text.path(start, name) for name in text.git_names(start, text.at(start)[11:]))
        if old != new:
            message = f"`diff --git` names different files: {old!r} and {new!r}"
            raise text.fail(start, message, "a rename needs `rename from` and `rename to`")
    elif not old or not new:
        raise text.fail(start, f"a {file.action} without both names", _REGENERATE)
    if names is not None:
        _check_names(text, start, file.action is Action.CREATE, names[0], old)
        _check_names(text, start, file.action is Action.DELETE, names[1], new)
    return old, new


def _check_names(text: PatchText, start: int, absent: bool, named: bytes, expected: str) -> None:
    """A `---` or `+++` line of a git section must say what its header does."""
    if named == NULL_NAME:
        if absent:
            return
        message = f"`diff --git` names {expected!r}, the line below it /dev/null"
    elif absent:
        said = f"`diff --git` says that {expected!r} is absent"
        message = f"{said}, the line below names {text.path(start, named)!r}"
    elif (found := text.path(start, named)) != expected:
        message = f"`diff --git` names {expected!r}, the lines below it {found!r}"
    else:
        return
    raise text.fail(start, message, _REGENERATE)


def _hunks(text: PatchText, at: int) -> tuple[tuple[Hunk, ...], int]:
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
    while text.at(at).startswith(b" "):
        at += 1  # context too many, which editors leave; GNU patch and git skip it as well
    _check_end(text, at)
    return tuple(hunks), at


def _check_end(text: PatchText, at: int) -> None:
    """No further line of a hunk may follow the last one: only what ends a mail looks like it."""
    line = text.at(at)
    if line[:1] not in (b"+", b"-") or line.startswith(b"--- "):
        return
    if line.rstrip() not in (b"--", b"---") and not _MAIL_PART.match(line[:_LONGEST_LINE]):
        raise text.fail(at, "the hunk above has more lines than its header says", _COUNTS)


def _hunk(
    text: PatchText, start: int, old_start: int, old_count: int, new_start: int, new_count: int
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


def _cut_off(text: PatchText, at: int, found: str, old_left: int, new_left: int) -> RecipeError:
    missing = f"{old_left} old and {new_left} new lines"
    return text.fail(at, f"{found} inside a hunk that lacks {missing}", _COUNTS)


def _no_newline(text: PatchText, at: int, body: list[bytes], old_left: int, new_left: int) -> bytes:
    """The marker in git's and diff's English words, whatever the locale that wrote it."""
    sign = body[-1][:1] if body else b""
    left = {b"-": old_left, b"+": new_left, b" ": old_left + new_left}.get(sign, 1)
    if left or not text.at(at).startswith(b"\\ "):
        raise text.fail(at, "`\\ No newline` before the last line", _REGENERATE)
    return b"\\ No newline at end of file"


def _binary(text: PatchText, start: int, old: str, new: str) -> tuple[Binary, int]:
    """git's change of a binary: forward, which we take, and perhaps back, which is checked only."""
    if len(old) < 7 or len(old) != len(new):
        hint = "write it with `git diff --binary` or `git format-patch`"
        raise text.fail(start, "a binary change without object names", hint)
    at, found = start + 1, []
    while delta := _DELTA.fullmatch(text.at(at)):
        is_delta, size = delta[1] == b"delta", int(delta[2])
        if size > form.MAX_CONTENT:
            message = f"a binary change of more than {form.MAX_CONTENT >> 20} MiB"
            raise text.fail(at, message, "make it a source file")
        first, at = at + 1, at + 1
        while _BASE85.fullmatch(text.at(at)):
            at += 1
        if at == first or text.at(at):
            raise text.fail(at, "malformed base85 in a binary change", _REGENERATE)
        try:
            data = form.inflated_rows([text.at(row) for row in range(first, at)], size)
            if is_delta:
                form.delta_result(data, None)
        except Malformed as error:
            message = f"a damaged binary change: {error}"
            raise text.fail(first - 1, message, _REGENERATE) from error
        found.append(Binary(old, new, is_delta, data))
        at += 1
    if not 1 <= len(found) <= 2:
        raise text.fail(at, "`literal N` or `delta N` expected", _REGENERATE)
    forward = found[0]
    # an object name is that of the content, an absent file's of none
    named = form.is_object(new, forward.data) or (form.is_absent(new) and not forward.data)
    if not forward.delta and not named:
        message = "the content of a binary change is not what its index line names"
        raise text.fail(start, message, _REGENERATE)
    return forward, at
