"""Names inside patches: quoting, timestamps, stripping, and what may not be named at all."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from posixpath import dirname

from buildit.errors import RecipeError
from buildit.patch.form import SYMLINK, Action, FilePatch

NULL_NAME = b"/dev/null"

_LONGEST = 4096
_QUOTED = re.compile(rb'"((?:[^"\\]|\\(?:[abtnvfr"\\]|[0-3][0-7]{2}))*)"')
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|.)")
_CONTROL = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13}
_ISO_STAMP = rb"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)?(?: ?([+-]\d{4}))?"
_LONG_STAMP = re.compile(rb"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4} [+-]\d{4}")
_BLANK_STAMP = re.compile(
    rb"[ ]+(?:" + _ISO_STAMP + rb"|(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} .*\d{4})$"
)


def header_name(text: bytes, place: str) -> tuple[bytes, bytes]:
    """The name in a `---`, `+++` or `rename` line, unquoted, and the timestamp after it.

    Raises:
        RecipeError: the quoting is broken or the name is empty.
    """
    _check_length(text, place)
    if text.startswith(b'"'):
        name, rest = _unquoted(text, place)
        return name, rest.strip()
    name, _, stamp = text.partition(b"\t")
    if not stamp and (match := _BLANK_STAMP.search(name)):
        name, stamp = name[: match.start()], match[0]
    if not name:
        raise RecipeError("an empty file name", place=place, hint="name the file that changes")
    return name, stamp.strip()


def _check_length(text: bytes, place: str) -> None:
    # a name of 4096 bytes, quoted, twice; what is longer would only cost time
    if len(text) > 8 * _LONGEST:
        raise RecipeError(
            "a path that is too long", place=place, hint="file names end at 4096 bytes"
        )


def is_absence(stamp: bytes) -> bool:
    """Whether what follows a name says that there is no such file.

    diff -N marks it by the timestamp 1970-01-01 00:00 UTC, Subversion by `(nonexistent)`.
    """
    if stamp == b"(nonexistent)":
        return True
    match = re.fullmatch(_ISO_STAMP, stamp)
    if match is not None:
        day, clock, zone = match.groups()
        written = f"{day.decode()} {clock.decode()} {(zone or b'+0000').decode()}"
        form = "%Y-%m-%d %H:%M:%S %z"
    elif _LONG_STAMP.fullmatch(stamp):
        written, form = " ".join(stamp.decode().split()[1:]), "%b %d %H:%M:%S %Y %z"
    else:
        return False
    try:
        moment = datetime.strptime(written, form)  # noqa: DTZ007 - both forms end with %z
    except ValueError:
        return False
    return moment == datetime(1970, 1, 1, tzinfo=UTC)


def _unquoted(text: bytes, place: str) -> tuple[bytes, bytes]:
    """A C-quoted name at the start of `text`, and what follows it (git's quote.c)."""
    match = _QUOTED.match(text)
    if match is None:
        raise RecipeError(
            f"malformed quoted name {text[:60]!r}",
            place=place,
            hint='inside quotes, write \\\\, \\" and bytes as three octal digits',
        )
    return _ESCAPE.sub(_unescaped, match[1]), text[match.end() :]


def _unescaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    if len(escaped) == 3:
        return bytes([int(escaped, 8)])
    return bytes([_CONTROL[escaped]]) if escaped in _CONTROL else escaped


def git_names(text: bytes, strip: int, place: str) -> tuple[bytes, bytes]:
    """The two names after `diff --git`, which git separates by a blank that names may hold too.

    Raises:
        RecipeError: they cannot be told apart.
    """
    _check_length(text, place)
    if text.startswith(b'"'):
        first, rest = _unquoted(text, place)
        second = rest[1:]
        if second.startswith(b'"'):
            second = _unquoted(second, place)[0]
        return first, second
    if text.endswith(b'"') and b' "' in text:
        first, _, rest = text.partition(b' "')
        return first, _unquoted(b'"' + rest, place)[0]
    if text.count(b" ") == 1:
        first, _, second = text.partition(b" ")
        return first, second
    same = _equal_halves(text, strip)
    if len(same) == 1:
        return same[0]
    raise RecipeError(
        f"malformed `diff --git {text[:60].decode(errors='replace')}`",
        place=place,
        hint="two names of one file are expected, quoted where they hold blanks",
    )


def _equal_halves(text: bytes, strip: int) -> list[tuple[bytes, bytes]]:
    """The ways to cut `text` at a blank so that both sides are one path once stripped.

    The stripped path begins at one place whatever the cut, so that each cut costs a comparison.
    """
    begin = 0
    for _ in range(strip):
        begin = text.find(b"/", begin) + 1
        if not begin:
            return []
    halves = []
    for blank in re.finditer(b" ", text):
        cut = blank.start()
        second = len(text) - (cut - begin)
        prefix = text[cut + 1 : second]
        fits = second > cut and prefix.count(b"/") == strip and prefix[-1:] in (b"", b"/")
        if cut > begin and fits and text.endswith(text[begin:cut]):
            halves.append((text[:cut], text[cut + 1 :]))
    return halves


def _tail(name: bytes, strip: int) -> bytes | None:
    parts = re.split(rb"/+", name)
    return b"/".join(parts[strip:]) if len(parts) > strip else None


def stripped(name: bytes, strip: int, place: str) -> str:
    """The path below the patched tree that a name means at this strip level, as `patch -pN` does.

    Raises:
        RecipeError: nothing is left, or the path is absolute, leaves the tree, lies in `.git`, or
            holds a control character.
    """
    shown = repr(name[:200].decode(errors="backslashreplace"))
    tail = _tail(name, strip)
    if tail is None or tail in (b"", b"."):
        raise RecipeError(
            f"{shown} has fewer than {strip + 1} parts to strip {strip} from",
            place=place,
            hint=f"say `strip: {max(name.count(b'/'), 0)}` for this patch",
        )
    parts = [part for part in tail.split(b"/") if part != b"."]
    reason = ""
    if tail.startswith(b"/"):
        reason = "an absolute path"
    elif b".." in parts:
        reason = "a path with `..`"
    elif any(part.lower() == b".git" for part in parts):
        reason = "a path in `.git`"
    elif any(byte < 32 or byte == 127 for byte in tail):
        reason = "a path with a control character"
    elif not all(parts) or not parts:
        reason = "a path of a directory"
    elif len(tail) > _LONGEST or any(len(part) > 255 for part in parts):
        reason = "a path that is too long"
    if reason:
        raise RecipeError(
            f"{reason} in a patch: {shown} at strip {strip}",
            place=place,
            hint="a patch may only touch files below the unpacked source",
        )
    return b"/".join(parts).decode("utf-8", "surrogateescape")


def check_links(files: tuple[FilePatch, ...], name: str) -> None:
    """Refuse symlinks that leave the tree, and files of a piece written through a link of it.

    Raises:
        RecipeError: with the line where the section begins.
    """
    links = set()
    for file in files:
        if file.new_mode == SYMLINK and file.action is not Action.DELETE:
            _check_target(file, name)
            links.add(file.new)
    for file in files:
        parent = dirname(file.new) if file.action is not Action.DELETE else ""
        while parent:
            if parent in links:
                raise RecipeError(
                    f"{file.new!r} leads through {parent!r}, a symlink of the same patch",
                    place=f"{name}:{file.line}",
                    hint="name the file by its real path",
                )
            parent = dirname(parent)


def _check_target(file: FilePatch, name: str) -> None:
    body = b"".join(hunk.body for hunk in file.hunks)
    added = re.findall(rb"^\+(.+)\n\\ ", body, re.MULTILINE)
    lines = sum(hunk.new_count for hunk in file.hunks)
    target = added[0] if len(added) == lines == 1 else b""
    parts = re.split(rb"/+", target.rstrip(b"/"))
    ups = next((i for i, part in enumerate(parts) if part != b".."), len(parts))
    # `..` after a name is refused: through another link it would lead elsewhere than it reads
    inside = ups <= file.new.count("/") and b".." not in parts[ups:]
    if not target or b"\0" in target or target.startswith(b"/") or not inside:
        raise RecipeError(
            f"the symlink {file.new!r} to {target.decode(errors='backslashreplace')!r}, "
            "which may leave the tree",
            place=f"{name}:{file.line}",
            hint="a patch may only link to relative paths below the unpacked source",
        )
