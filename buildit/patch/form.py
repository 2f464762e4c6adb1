"""Patches as values, and their canonical form: the bytes that are hashed and the bytes applied.

The canonical form is a patch at strip 1 that GNU patch and git can read. It keeps what changes a
tree (pieces in turn, paths, hunks, modes, renames, binary content) and nothing else: no mail,
diffstat, function names, object names, timestamps, deflate levels or tool versions. `git diff`
headers stay only where a section of the piece cannot be said without them, so that git's and
quilt's spelling of a change are one.

One patch file into the pieces that apply in turn, each on the result of the one before.

In a commit all sections speak of the tree before it: `copy from f` beside a change of `f` means
the old `f`, and two files may swap their names. Only what no single commit of git's can say is
cut: there, several diffs were joined without a line between them. `git log -p` and `hg log -p`
print the newest commit first; such files are turned round.

git's binary changes: base85 and deflate undone, deltas checked and applied. The format is git's own
(gitformat-pack(5), "Deltified representation"; the text form is what `git diff --binary` writes).
Whatever level git's zlib had, the content is the same: we write it back as stored blocks of
deflate, which has one spelling only.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

CANONICAL_PATCH = "2"
"""Version of the canonical form; a part of every build key with patches."""

SYMLINK = 0o120000
PLAIN_MODE = 0o100644
EXECUTABLE = 0o100755

NEXT_PIECE = b"From %s\n" % (b"0" * 40)
"""Stands between two pieces of the canonical form: what follows applies to the result so far."""

_BARE_NAME = re.compile(rb"[A-Za-z0-9._+,=@%:~/-]+")
_ESCAPES = {7: b"a", 8: b"b", 9: b"t", 10: b"n", 11: b"v", 12: b"f", 13: b"r", 34: b'"', 92: b"\\"}
_SPELLED = {byte: b"%c" % byte if 32 <= byte < 127 else b"\\%03o" % byte for byte in range(256)}
_SPELLED |= {byte: b"\\" + letter for byte, letter in _ESCAPES.items()}


class Action(StrEnum):
    CHANGE = "change"
    CREATE = "create"
    DELETE = "delete"
    RENAME = "rename"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Hunk:
    """One hunk: lines are numbered from 1 (a count of 0 names the line before).

    `body` holds the lines with their sign, each ended by a newline; `\\ No newline at end of file`
    is a line of its own that counts for nothing.
    """

    old_start: int
    old_count: int
    new_start: int
    new_count: int
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """A binary change of git's: the object names before and after, and the bytes between.

    `data` is the whole new content or, where `delta` is true, a delta on the old content
    (`delta_result`). An absent file has zeros for a name.
    """

    old_object: str
    new_object: str
    delta: bool
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FilePatch:
    """What happens to one file.

    Paths are relative to the patched tree, decoded with `surrogateescape`; both are the same but
    for RENAME and COPY. Modes are git's (0o100644, 0o100755, 0o120000), None where the patch does
    not say or need not. `git` says that the section is written with a `diff --git` header, `crlf`
    that all of its lines, names included, ended with CR LF, which may be the patch's own or the
    content's. `objects` are the names on its index line, `line` is where it begins in the file that
    was read; they are no part of the value.
    """

    action: Action
    old: str
    new: str
    old_mode: int | None = None
    new_mode: int | None = None
    hunks: tuple[Hunk, ...] = ()
    binary: Binary | None = None
    git: bool = False
    crlf: bool = False
    objects: tuple[str, str] = field(default=("", ""), compare=False)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Patch:
    """Pieces that apply in turn; in one piece all sections speak of the tree before it."""

    pieces: tuple[tuple[FilePatch, ...], ...]

    @property
    def files(self) -> tuple[FilePatch, ...]:
        """The sections of all pieces."""
        return tuple(file for piece in self.pieces for file in piece)


def canonical_bytes(patch: Patch) -> bytes:
    """The canonical form; `read.parse_canonical` is its inverse."""
    pieces = (b"".join(part for file in piece for part in _section(file)) for piece in patch.pieces)
    return NEXT_PIECE.join(pieces)


def settled(pieces: Iterable[Sequence[FilePatch]]) -> Patch:
    """The patch with just the headers and modes that its meaning needs.

    Once one section of a piece needs git's header (a mode, a rename, a symlink, an empty file, a
    binary), all get one: a header without hunks would swallow a plain section after it.
    """
    told = ((piece, any(map(_needs_header, piece))) for piece in pieces)
    return Patch(tuple(tuple(_settled_file(file, git) for file in piece) for piece, git in told))


def _needs_header(file: FilePatch) -> bool:
    if not file.git:
        return False
    if file.action in (Action.RENAME, Action.COPY) or not file.hunks:
        return True
    if file.action is Action.CREATE:
        return file.new_mode not in (None, PLAIN_MODE)
    if file.action is Action.DELETE:
        return file.old_mode == SYMLINK
    return file.old_mode != file.new_mode or file.old_mode == SYMLINK


def _settled_file(file: FilePatch, git: bool) -> FilePatch:
    action, old_mode, new_mode = file.action, file.old_mode, file.new_mode
    if git and not file.git and [hunk.old_start for hunk in file.hunks] == [0]:
        action = Action.CREATE  # diff writes a file that was absent or empty so, git wants to know
    if not git or (old_mode == new_mode and old_mode != SYMLINK):
        old_mode = new_mode = None
    if git and action is Action.CREATE:
        new_mode = file.new_mode or PLAIN_MODE
    if git and action is Action.DELETE:
        old_mode = file.old_mode or PLAIN_MODE
    return replace(file, action=action, old_mode=old_mode, new_mode=new_mode, git=git)


def _section(file: FilePatch) -> Iterator[bytes]:
    old, new = _quoted(b"a/", file.old), _quoted(b"b/", file.new)
    if file.git:
        yield b"diff --git %s %s\n" % (old, new)
        yield from _extended_header(file)
    if file.binary is not None:
        word, data = b"delta" if file.binary.delta else b"literal", file.binary.data
        yield b"GIT binary patch\n%s %d\n" % (word, len(data))
        yield from rows(data)
        yield b"\n"
    end = b"\r\n" if file.crlf else b"\n"
    if file.hunks:
        yield b"--- %s%s" % (b"/dev/null" if file.action is Action.CREATE else old, end)
        yield b"+++ %s%s" % (b"/dev/null" if file.action is Action.DELETE else new, end)
    for hunk in file.hunks:
        counts = (hunk.old_start, hunk.old_count, hunk.new_start, hunk.new_count)
        yield b"@@ -%d,%d +%d,%d @@%s" % (*counts, end)
        yield hunk.body


def _extended_header(file: FilePatch) -> Iterator[bytes]:
    if file.action is Action.CREATE:
        yield b"new file mode %o\n" % (file.new_mode or PLAIN_MODE)
    elif file.action is Action.DELETE:
        yield b"deleted file mode %o\n" % (file.old_mode or PLAIN_MODE)
    elif file.old_mode is not None and file.new_mode is not None:
        yield b"old mode %o\nnew mode %o\n" % (file.old_mode, file.new_mode)
    if file.action in (Action.RENAME, Action.COPY):
        verb = file.action.value.encode()
        yield b"%s from %s\n" % (verb, _quoted(b"", file.old))
        yield b"%s to %s\n" % (verb, _quoted(b"", file.new))
    if file.binary is not None:
        # git refuses a binary delta without the full names of what it goes from and to
        yield f"index {file.binary.old_object}..{file.binary.new_object}\n".encode()


def _quoted(prefix: bytes, path: str) -> bytes:
    """A name as both tools read it: C-quoted where it holds anything out of the ordinary."""
    name = prefix + path.encode("utf-8", "surrogateescape")
    if _BARE_NAME.fullmatch(name):
        return name
    return b'"%b"' % b"".join(_SPELLED[byte] for byte in name)


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
        with suppress(ValueError):
            return datetime.strptime(text.decode("ascii", "replace"), form)  # noqa: DTZ007 - has %z
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


def split_pieces(commits: Sequence[Sequence[FilePatch]]) -> list[list[FilePatch]]:
    """Cut commits where a section writes a path, or renames one, that an earlier section wrote.

    Three cases need no cut, for the tree decides (`apply`): a path that was removed and is made
    anew (git writes a file that becomes a link so), and the rename or copy of what an earlier
    section made (git's `-B` writes a swap of two names so).
    """
    pieces: list[list[FilePatch]] = []
    for commit in commits:
        piece: list[FilePatch] = []
        done: defaultdict[str, set[str]] = defaultdict(set)
        for file in commit:
            gone = done[file.old] & _CLASHES.get(file.action, frozenset())
            if gone or done[file.new] & {"made", "changed"}:
                pieces.append(piece)
                piece, done = [], defaultdict(set)
            piece.append(file)
            to_old, to_new = _DONE[file.action]
            done[file.old].add(to_old)
            done[file.new].add(to_new)
        if piece:
            pieces.append(piece)
    return pieces


_DONE: Mapping[Action, tuple[str, str]] = {
    Action.CHANGE: ("", "changed"),
    Action.DELETE: ("deleted", ""),
    Action.RENAME: ("moved", "made"),
    Action.COPY: ("", "made"),
    Action.CREATE: ("", "made"),
}
"""What a section does to its old path and to its new one."""
_CLASHES: Mapping[Action, frozenset[str]] = {
    Action.RENAME: frozenset(("changed", "deleted", "moved")),
    Action.CHANGE: frozenset(("deleted",)),
    Action.DELETE: frozenset(("deleted",)),
}
"""After what a section cannot speak of an old path any more."""


MAX_CONTENT = 32 << 20
"""The most bytes that the binary changes of one patch may have once they are inflated."""
MAX_RESULT = 256 << 20
"""The most bytes that a delta may make, and that a file may have that a patch touches."""

_ROW = 52  # bytes of one line; its first letter says how many: A-Z are 1-26, a-z 27-52
_BLOCK = 65535  # RFC 1951, 3.2.4: the most bytes of a stored block


class Malformed(ValueError):  # noqa: N818 - what the bytes are
    """The bytes are no binary change of git's; the text says why."""


def inflated_rows(rows: list[bytes], size: int) -> bytes:
    """The `size` bytes that lines of base85 hold, deflated.

    Raises:
        Malformed: a letter, a length, the deflated stream or the size is wrong.
    """
    packed = b"".join(map(_row, rows))
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(packed, size + 1)
    except zlib.error as error:
        raise Malformed("its deflated bytes are damaged") from error
    if len(data) != size or not stream.eof or stream.unused_data:
        raise Malformed(f"it does not inflate to the {size} bytes that it claims")
    return data


def _row(row: bytes) -> bytes:
    count = row[0] - (64 if 65 <= row[0] <= 90 else 70)
    if not 1 <= count <= _ROW or len(row) != 1 + 5 * -(-count // 4):
        raise Malformed("a line of its base85 has another length than its first letter says")
    try:
        return base64.b85decode(row[1:])[:count]
    except ValueError as error:
        raise Malformed("its base85 is malformed") from error


def rows(data: bytes) -> Iterator[bytes]:
    """The lines, each with its newline, that `inflated` reads `data` from."""
    packed = _stored(data)
    for at in range(0, len(packed), _ROW):
        row = packed[at : at + _ROW]
        letter = len(row) + (64 if len(row) <= 26 else 70)
        # b85encode drops what its own padding added; git wants whole groups
        yield b"%c%s\n" % (letter, base64.b85encode(row, pad=True))


def _stored(data: bytes) -> bytes:
    """A zlib stream (RFC 1950) of stored blocks."""
    parts = [b"\x78\x01"]
    for at in range(0, len(data) or 1, _BLOCK):
        block = data[at : at + _BLOCK]
        last = at + _BLOCK >= len(data)
        size = len(block).to_bytes(2, "little")
        parts += [b"\x01" if last else b"\x00", size, bytes(byte ^ 0xFF for byte in size), block]
    parts.append(zlib.adler32(data).to_bytes(4, "big"))
    return b"".join(parts)


def delta_result(delta: bytes, source: bytes | None) -> bytes:
    """What a delta makes of `source`; nothing without one, but everything in the delta is checked.

    Raises:
        Malformed: it is cut off, copies from beyond its source, does not add up, is too large, or
            the source has another size than the delta says.
    """
    size, at = _number(delta, 0)
    target, at = _number(delta, at)
    if target > MAX_RESULT:
        raise Malformed(f"it makes more than {MAX_RESULT >> 20} MiB")
    if source is None and size > MAX_RESULT:
        raise Malformed(f"it is of more than {MAX_RESULT >> 20} MiB")
    if source is not None and len(source) != size:
        raise Malformed(f"it is of a file of {size} bytes, which has {len(source)} here")
    parts: list[bytes] = []
    made = 0
    while at < len(delta):
        code = delta[at]
        at += 1
        if code & 0x80:
            begin, length, at = _copied(delta, at, code)
            if begin + length > size:
                raise Malformed("it copies from beyond its source")
            part = source[begin : begin + length] if source is not None else b""
        else:
            length = code
            if not length or at + length > len(delta):
                raise Malformed("it is cut off")
            part = delta[at : at + length] if source is not None else b""
            at += length
        parts.append(part)
        made += length
        if made > target:
            raise Malformed("it makes more than it claims")
    if made != target:
        raise Malformed("it makes less than it claims")
    return b"".join(parts)


def _copied(delta: bytes, at: int, code: int) -> tuple[int, int, int]:
    """Begin and length of a copy: bits 0-3 say which bytes of the one follow, 4-6 of the other."""
    values = [0, 0]
    for bit in range(7):
        if code & (1 << bit):
            if at >= len(delta):
                raise Malformed("it is cut off")
            which, shift = (0, bit) if bit < 4 else (1, bit - 4)
            values[which] |= delta[at] << (8 * shift)
            at += 1
    return values[0], values[1] or 0x10000, at


def _number(delta: bytes, at: int) -> tuple[int, int]:
    """A size, seven bits a byte, lowest first."""
    value = shift = 0
    while at < len(delta) and shift < 63:
        byte = delta[at]
        value |= (byte & 0x7F) << shift
        at += 1
        shift += 7
        if not byte & 0x80:
            return value, at
    raise Malformed("it is cut off")


def is_object(named: str, content: bytes) -> bool:
    """Whether `content` is the blob that `named` names: a whole object name or its beginning.

    git names a blob by SHA-1 or, where the name has 64 digits, SHA-256 of `blob SIZE\\0` and the
    bytes (gitformat-loose(5)); an absent file has zeros for a name.
    """
    framed = b"blob %d\0" % len(content) + content
    if len(named) > 40:
        return hashlib.sha256(framed).hexdigest().startswith(named)
    sha1 = hashlib.sha1(framed, usedforsecurity=False).hexdigest()
    return sha1.startswith(named) or hashlib.sha256(framed).hexdigest().startswith(named)


def is_absent(named: str) -> bool:
    """Whether an object name stands for a file that is not there."""
    return not named.strip("0")
