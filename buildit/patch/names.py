"""The lines of a patch and the names in them: quoting, timestamps, stripping, and what may not be
named at all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from buildit.errors import RecipeError
from buildit.patch.form import SYMLINK, Action, FilePatch

NULL_NAME = b"/dev/null"

_LONGEST = 4096
_TOO_LONG = "a path that is too long"
_QUOTED = re.compile(rb'"((?:[^"\\]|\\(?:[abtnvfr"\\]|[0-3][0-7]{2}))*)"')
_ESCAPE = re.compile(rb"\\([0-3][0-7]{2}|.)")
_CONTROL = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13}
_ISO_STAMP = rb"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d)(?:\.\d+)?(?: ?([+-]\d{4}))?"
_LONG_STAMP = re.compile(rb"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d \d{4} [+-]\d{4}")
_DAY_STAMP = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) [A-Z][a-z]{2} .*\d{4}"
_BLANK_STAMP = re.compile(rb"[ ]+(?:%b|%b)$" % (_ISO_STAMP, _DAY_STAMP))


@dataclass(frozen=True, slots=True)
class PatchText:
    """The lines of the patch without their newlines, and how to speak of them.

    `name` is what errors call the patch, `strip` is as in `patch -pN`. All methods raise
    `RecipeError` with the line where a name is broken, or may not be named.
    """

    name: str
    lines: tuple[bytes, ...]
    strip: int

    def at(self, index: int) -> bytes:
        """The line without a carriage return; empty past the end."""
        return self.lines[index].removesuffix(b"\r") if index < len(self.lines) else b""

    def fail(self, index: int, message: str, hint: str) -> RecipeError:
        return RecipeError(message, place=f"{self.name}:{index + 1}", hint=hint)

    def header_name(self, index: int, text: bytes) -> tuple[bytes, bytes]:
        """The name in a `---`, `+++` or `rename` line, unquoted, and the timestamp after it."""
        self._check_length(index, text)
        if text.startswith(b'"'):
            name, rest = self._unquoted(index, text)
            return name, rest.strip()
        name, _, stamp = text.partition(b"\t")
        if not stamp and (match := _BLANK_STAMP.search(name)):
            name, stamp = name[: match.start()], match[0]
        if not name:
            raise self.fail(index, "an empty file name", "name the file that changes")
        return name, stamp.strip()

    def _check_length(self, index: int, text: bytes) -> None:
        # a name of 4096 bytes, quoted, twice; what is longer would only cost time
        if len(text) > 8 * _LONGEST:
            raise self.fail(index, _TOO_LONG, "file names end at 4096 bytes")

    def _unquoted(self, index: int, text: bytes) -> tuple[bytes, bytes]:
        """A C-quoted name at the start of `text`, and what follows it (git's quote.c)."""
        match = _QUOTED.match(text)
        if match is None:
            hint = 'inside quotes, write \\\\, \\" and bytes as three octal digits'
            raise self.fail(index, f"malformed quoted name {text[:60]!r}", hint)
        return _ESCAPE.sub(_unescaped, match[1]), text[match.end() :]

    def git_names(self, index: int, text: bytes) -> tuple[bytes, bytes]:
        """The two names after `diff --git`, which git separates by a blank that names may hold
        too."""
        self._check_length(index, text)
        if text.startswith(b'"'):
            first, rest = self._unquoted(index, text)
            second = rest[1:]
            return first, self._unquoted(index, second)[0] if second[:1] == b'"' else second
        if text.endswith(b'"') and b' "' in text:
            first, _, rest = text.partition(b' "')
            return first, self._unquoted(index, b'"' + rest)[0]
        if text.count(b" ") == 1:
            first, _, second = text.partition(b" ")
            return first, second
        same = _equal_halves(text, self.strip)
        if len(same) == 1:
            return same[0]
        shown = text[:60].decode(errors="replace")
        hint = "two names of one file are expected, quoted where they hold blanks"
        raise self.fail(index, f"malformed `diff --git {shown}`", hint)

    def path(self, index: int, name: bytes, strip: int | None = None) -> str:
        """The path below the patched tree that a name means at this strip level, as `patch -pN`
        does: one is left, that is not absolute, does not leave the tree, does not lie in `.git`
        and holds no control character."""
        strip = self.strip if strip is None else strip
        shown = repr(name[:200].decode(errors="backslashreplace"))
        whole = re.split(rb"/+", name)
        tail = b"/".join(whole[strip:])
        if len(whole) <= strip or tail in (b"", b"."):
            message = f"{shown} has fewer than {strip + 1} parts to strip {strip} from"
            raise self.fail(index, message, f"say `strip: {name.count(b'/')}` for this patch")
        parts = [part for part in tail.split(b"/") if part != b"."]
        for refused, reason in (
            (tail.startswith(b"/"), "an absolute path"),
            (b".." in parts, "a path with `..`"),
            (any(part.lower() == b".git" for part in parts), "a path in `.git`"),
            (any(byte < 32 or byte == 127 for byte in tail), "a path with a control character"),
            (not all(parts) or not parts, "a path of a directory"),
            (len(tail) > _LONGEST or len(max(parts, key=len, default=b"")) > 255, _TOO_LONG),
        ):
            if refused:
                message = f"{reason} in a patch: {shown} at strip {strip}"
                hint = "a patch may only touch files below the unpacked source"
                raise self.fail(index, message, hint)
        return b"/".join(parts).decode("utf-8", "surrogateescape")

    def check_links(self, files: Sequence[FilePatch]) -> None:
        """Refuse symlinks that leave the tree, and files of a piece behind a link of it."""
        links = set()
        for file in files:
            if file.new_mode == SYMLINK and file.action is not Action.DELETE:
                self._check_target(file)
                links.add(file.new)
        for file in files:
            above = file.new if file.action is not Action.DELETE else ""
            while above := above.rpartition("/")[0]:
                if above in links:
                    message = f"{file.new!r} leads through {above!r}, a symlink of the same patch"
                    raise self.fail(file.line - 1, message, "name the file by its real path")

    def _check_target(self, file: FilePatch) -> None:
        body = b"".join(hunk.body for hunk in file.hunks)
        added = re.findall(rb"^\+(.+)\n\\ ", body, re.MULTILINE)
        lines = sum(hunk.new_count for hunk in file.hunks)
        target = added[0] if len(added) == lines == 1 else b""
        parts = re.split(rb"/+", target.rstrip(b"/"))
        ups = next((i for i, part in enumerate(parts) if part != b".."), len(parts))
        # `..` after a name is refused: through another link it would lead elsewhere than it reads
        inside = ups <= file.new.count("/") and b".." not in parts[ups:]
        if not target or b"\0" in target or target.startswith(b"/") or not inside:
            shown = target.decode(errors="backslashreplace")
            message = f"the symlink {file.new!r} to {shown!r}, which may leave the tree"
            hint = "a patch may only link to relative paths below the unpacked source"
            raise self.fail(file.line - 1, message, hint)


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


def _unescaped(match: re.Match[bytes]) -> bytes:
    escaped = match[1]
    if len(escaped) == 3:
        return bytes([int(escaped, 8)])
    return bytes([_CONTROL[escaped]]) if escaped in _CONTROL else escaped


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
