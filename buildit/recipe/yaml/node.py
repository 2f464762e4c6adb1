"""A user's file: its text (a regular file, at most 1 MiB, UTF-8, no control characters), and its
YAML document as located nodes: every scalar is text, every node knows where it was written.

Whatever else lies at the path (a directory, a FIFO, a device, nothing) is one `RecipeError`;
opening never waits for a writer.
"""

from __future__ import annotations

import os
import re
import stat
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from buildit.errors import RecipeError
from buildit.files import NotRegularError, open_regular


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """`file:line:column`; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


class _Located:
    """What stands at a place in a user's file."""

    __slots__ = ()
    place: Place

    def error(self, message: str, hint: str | None = None, *details: str) -> RecipeError:
        """What is wrong there, to be raised."""
        return RecipeError(message, place=str(self.place), hint=hint, details=details)


@dataclass(frozen=True, slots=True)
class Scalar(_Located):
    """`body` is where the text's first character stands, if each line of it is one of the file.

    `rendered` text came out of a template; it is never taken for one again.
    """

    text: str
    place: Place
    body: Place | None = field(default=None, compare=False, repr=False)
    rendered: bool = field(default=False, compare=False, repr=False)

    def place_of(self, offset: int) -> Place:
        """Where the character at `offset` of the text was written; `place` if nobody knows."""
        if self.body is None:
            return self.place
        start = self.text.rfind("\n", 0, offset) + 1
        line = self.body.line + self.text.count("\n", 0, offset)
        return Place(self.body.file, line, self.body.column + offset - start)


@dataclass(frozen=True, slots=True)
class Sequence(_Located):
    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Mapping(_Located):
    """`items` in written order; keys are unique."""

    items: tuple[tuple[Scalar, Node], ...]
    place: Place

    def pair(self, key: str) -> tuple[Scalar, Node] | None:
        return next((pair for pair in self.items if pair[0].text == key), None)

    def get(self, key: str) -> Node | None:
        return next((value for name, value in self.items if name.text == key), None)

    def key(self, key: str) -> Scalar | None:
        return next((name for name, _ in self.items if name.text == key), None)

    def without(self, *keys: str) -> Mapping:
        return Mapping(tuple(pair for pair in self.items if pair[0].text not in keys), self.place)

    def having(self, key: str, value: Node) -> Mapping:
        """With another value at a key that it has."""
        pairs = ((name, value if name.text == key else own) for name, own in self.items)
        return Mapping(tuple(pairs), self.place)

    def texts(self, key: str) -> tuple[Scalar, ...]:
        """The list of texts at a key; none where the key is absent.

        Raises:
            RecipeError: it is something else.
        """
        found = self.get(key) or Sequence((), self.place)
        if not isinstance(found, Sequence) or not all(isinstance(i, Scalar) for i in found.items):
            raise self.error("expected a list of texts")
        return tuple(item for item in found.items if isinstance(item, Scalar))


Node = Scalar | Sequence | Mapping


def follow(root: Node, path: Iterable[int | str]) -> tuple[Node, Scalar | None, int | str]:
    """How far a path of keys and positions leads into a node: the node there, its key, and the last
    part of the path where that leads nowhere."""
    node, key = root, None
    rest: int | str = ""
    for part in path:
        rest = ""
        match node:
            case Mapping() if (found := node.pair(str(part))) is not None:
                key, node = found
            case Sequence(items) if isinstance(part, int) and part < len(items):
                node = items[part]
            case _:
                rest = part
    return node, key, rest


def leaves(node: Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Scalar]]:
    """Every scalar below `node` with its path of keys and list positions, in written order."""
    match node:
        case Scalar():
            yield path, node
        case Sequence(items):
            for number, item in enumerate(items):
                yield from leaves(item, (*path, str(number)))
        case Mapping(items):
            for key, value in items:
                yield from leaves(value, (*path, key.text))


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
    start = Place(file, 1, 1)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8")
        place = str(Scalar(before, start, start).place_of(len(before)))
        hint = f"convert the file: iconv -f ISO-8859-1 -t UTF-8 {file}"
        message = f"byte 0x{content[error.start]:02x} is not UTF-8"
        raise RecipeError(message, place=place, hint=hint) from error
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    if char := refused_character(text):
        place = str(Scalar(text, start, start).place_of(text.index(char)))
        hint = "remove it; where a value needs it, write it in a file of its own"
        message = f"{character_name(char)} is not allowed in this file"
        raise RecipeError(message, place=place, hint=hint)
    return text


def refused_character(text: str) -> str | None:
    """The first character of `text` that no file may hold, escaped or not; else None."""
    match = _REFUSED.search(text)
    return match.group() if match else None


def character_name(char: str) -> str:
    """How messages call a character that cannot be shown: `control character U+0000`."""
    kind = "control character" if unicodedata.category(char) == "Cc" else "character"
    return f"{kind} U+{ord(char):04X}"
