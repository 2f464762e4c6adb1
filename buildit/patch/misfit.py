"""Why a hunk does not fit, in words that help: it is there already, line endings, white space."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from buildit.patch.hunks import Edit, place

_SHOWN = 60

_WIDE = (b"\xc2\xa0", b"\xe3\x80\x80", b"\xe2\x80\x8b", b"\xef\xbb\xbf")
"""UTF-8 of blanks that mailers and web pages put in: no-break, ideographic, of no width, BOM."""

_TABS = "fetch the patch anew as raw text: what was copied or mailed lost its tabs or blanks"
_ENDINGS = "convert the patch to the line endings of the source (dos2unix, unix2dos)"
_THERE = "upstream has a part of the patch: remove that from it"
REBASE = "rebase the patch on this version; nothing is applied with fuzz"


def reason(lines: Sequence[bytes], edit: Edit) -> tuple[str, str]:
    """What is wrong with an edit that fits nowhere, and the hint that goes with it."""
    if edit.new and place(lines, [edit.reversed()]).fits:
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
    return bool(old.old) and place(tuple(map(form, lines)), [old]).fits


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
