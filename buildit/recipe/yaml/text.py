"""The text of a user's file: a regular file, at most 1 MiB, UTF-8, no control characters.

Whatever else lies at the path (a directory, a FIFO, a device, nothing) is one `RecipeError`;
opening never waits for a writer.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from pathlib import Path

from buildit.errors import RecipeError
from buildit.files import NotRegularError, open_regular
from buildit.recipe.yaml.node import Place, Scalar

LARGEST_FILE = 1 << 20
"""The largest file that a user's YAML may be (THREATS A2)."""

# YAML 1.2.2, 5.1: what a stream may hold, without the line breaks other than LF (so that a line
# here is a line in every editor), C1 controls and a byte order mark in the middle.
_REFUSED = re.compile(
    "[^\t\n\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]"
)


_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def shown_place(path: Path) -> str:
    """The path as messages show it: relative to the working directory where it lies below."""
    text = os.path.relpath(path)
    return str(path) if text.startswith("..") else text


def read_text(path: Path, file: str = "", most: int = LARGEST_FILE) -> str:
    """The text of the file at `path`, at most `most` bytes; `file` is its name in messages.

    Raises:
        RecipeError: it is missing, not a regular file, unreadable, too large, or not text.
    """
    file = file or str(path)
    try:
        with open_regular(path, follow=True) as stream:
            content = stream.read(most + 1)
    except NotRegularError as error:
        kind = _KINDS.get(stat.S_IFMT(error.mode), "something else")
        raise RecipeError(f"expected a file, found {kind}", place=file) from error
    except FileNotFoundError as error:
        raise RecipeError("there is no such file", place=file) from error
    except PermissionError as error:
        hint = f"run: chmod u+r {file}"
        raise RecipeError("the file may not be read", place=file, hint=hint) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecipeError(f"the file cannot be read: {reason}", place=file) from error
    return decoded_text(content, file, most)


def decoded_text(content: bytes, file: str, most: int = LARGEST_FILE) -> str:
    """`content` as text with `\\n` line ends, without a byte order mark.

    Raises:
        RecipeError: it is too large, not UTF-8, or holds control characters.
    """
    if len(content) > most:
        hint = "move long content into files of its own and name them here"
        raise RecipeError(f"the file is larger than {most >> 20} MiB", place=file, hint=hint)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        raise RecipeError(
            f"byte 0x{content[error.start]:02x} is not UTF-8",
            place=str(_place_at(before, len(before), file)),
            hint=f"convert the file: iconv -f ISO-8859-1 -t UTF-8 {file}",
        ) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if char := refused_character(text):
        raise RecipeError(
            f"{character_name(char)} is not allowed in this file",
            place=str(_place_at(text, text.index(char), file)),
            hint="remove it; where a value needs it, write it in a file of its own",
        )
    return text


def _place_at(text: str, offset: int, file: str) -> Place:
    """Where the character at `offset` of a file's whole text stands."""
    return Scalar(text, Place(file, 1, 1), Place(file, 1, 1)).place_of(offset)


def refused_character(text: str) -> str | None:
    """The first character of `text` that no file may hold, escaped or not; else None."""
    match = _REFUSED.search(text)
    return match.group() if match else None


def character_name(char: str) -> str:
    """How messages call a character that cannot be shown: `control character U+0000`."""
    kind = "control character" if unicodedata.category(char) == "Cc" else "character"
    return f"{kind} U+{ord(char):04X}"
