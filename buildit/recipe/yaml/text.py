"""The text of a user's file: a regular file, at most 1 MiB, UTF-8, no control characters.

Whatever else lies at the path (a directory, a FIFO, a device, nothing) is one `RecipeError`;
opening never waits for a writer.
"""

from __future__ import annotations

import re
import stat
import unicodedata
from pathlib import Path

from buildit.errors import RecipeError
from buildit.files import NotRegularError, open_regular
from buildit.recipe.yaml.node import Place

LARGEST_FILE = 1 << 20
"""The largest file that a user's YAML may be (THREATS A2)."""

# YAML 1.2.2, 5.1: what a stream may hold, without the line breaks other than LF (so that a line
# here is a line in every editor), C1 controls and a byte order mark in the middle.
_REFUSED = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


def read_text(path: Path, file: str | None = None, most: int = LARGEST_FILE) -> str:
    """The text of the file at `path`, at most `most` bytes; `file` is its name in messages.

    Raises:
        RecipeError: it is missing, not a regular file, unreadable, too large, or not text.
    """
    shown = str(path) if file is None else file
    return decoded_text(read_bytes(path, shown, most), shown, most)


def read_bytes(path: Path, file: str, most: int = LARGEST_FILE) -> bytes:
    """The bytes of the regular file at `path`, at most `most`.

    Raises:
        RecipeError: it is missing, not a regular file, unreadable or too large.
    """
    try:
        with open_regular(path, follow=True) as stream:
            content = stream.read(most + 1)
    except NotRegularError as error:
        raise RecipeError(f"expected a file, found {_kind(error.mode)}", place=file) from error
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from error
    return within_limit(content, file, most)


def within_limit(content: bytes, file: str, most: int = LARGEST_FILE) -> bytes:
    if len(content) > most:
        raise RecipeError(
            f"the file is larger than {most >> 20} MiB",
            place=file,
            hint="move long content into files of its own and name them here",
        )
    return content


def decoded_text(content: bytes, file: str, most: int = LARGEST_FILE) -> str:
    """`content` as text with `\\n` line ends, without a byte order mark.

    Raises:
        RecipeError: it is too large, not UTF-8, or holds control characters.
    """
    try:
        text = within_limit(content, file, most).decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise RecipeError(
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            place=str(place_at(before, len(before), file)),
            hint=f"convert the file: iconv -f ISO-8859-1 -t UTF-8 {file}",
        ) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if match := _REFUSED.search(text):
        raise RecipeError(
            f"{character_name(match.group())} is not allowed in this file",
            place=str(place_at(text, match.start(), file)),
            hint="remove it; where a value needs it, write it in a file of its own",
        )
    return text


def place_at(text: str, offset: int, file: str) -> Place:
    """Where the character at `offset` of a file's whole text stands."""
    start = text.rfind("\n", 0, offset) + 1
    return Place(file, text.count("\n", 0, offset) + 1, offset - start + 1)


def refused_character(text: str) -> str | None:
    """The first character of `text` that no file may hold, escaped or not; else None."""
    match = _REFUSED.search(text)
    return match.group() if match else None


def character_name(char: str) -> str:
    """How messages call a character that cannot be shown: `control character U+0000`."""
    kind = "control character" if unicodedata.category(char) == "Cc" else "character"
    return f"{kind} U+{ord(char):04X}"


def _unreadable(file: str, error: OSError | ValueError) -> RecipeError:
    if isinstance(error, FileNotFoundError):
        return RecipeError("there is no such file", place=file)
    if isinstance(error, PermissionError):
        return RecipeError("the file may not be read", place=file, hint=f"run: chmod u+r {file}")
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return RecipeError(f"the file cannot be read: {reason}", place=file)


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a named pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
