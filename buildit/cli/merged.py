"""A merged recipe as YAML-like text, with the place of every leaf beside it. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from buildit.cli.results import printable
from buildit.recipe.yaml.node import Mapping, Node, Place, Scalar, Sequence

WIDEST = 64
"""The column, at most, where the places begin."""

_PLAIN = re.compile(
    r"(?!---|\.\.\.|-$|- )[A-Za-z0-9_./$-](?:[A-Za-z0-9 _./$@+=,;()!<>~^*%-]|:(?! |$))*"
)


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of the text; `place` is where its leaf was written, None where it has none."""

    text: str
    place: Place | None = None


def recipe_lines(node: Node) -> tuple[str, ...]:
    """The text of a document: each leaf with `# file:line` behind it, aligned."""
    found = list(_block(node, 0))
    width = min(WIDEST, max((len(line.text) for line in found if line.place), default=0))
    return tuple(
        printable(
            f"{line.text:<{width}}  # {line.place.file}:{line.place.line}"
            if line.place
            else line.text
        )
        for line in found
    )


def _block(node: Node, depth: int) -> Iterator[_Line]:
    pad = "  " * depth
    match node:
        case Mapping(()) | Sequence(()):
            yield from _entry(pad, node, depth)
        case Mapping(items):
            for key, value in items:
                yield from _entry(f"{pad}{_scalar(key.text)}:", value, depth)
        case Sequence(items):
            for item in items:
                yield from _item(item, depth)
        case Scalar():
            yield from _entry(pad, node, depth)


def _entry(head: str, value: Node, depth: int) -> Iterator[_Line]:
    """A key with its value: beside it where that is one line, else below it."""
    gap = " " if head.strip() else ""
    match value:
        case Scalar(text) if "\n" in text.rstrip("\n"):
            yield _Line(f"{head}{gap}|", value.place)
            inner = "  " * (depth + 1)
            yield from (_Line(f"{inner}{line}") for line in text.rstrip("\n").split("\n"))
        case Scalar(text):
            yield _Line(f"{head}{gap}{_scalar(text.rstrip(chr(10)))}", value.place)
        case Mapping(()):
            yield _Line(f"{head}{gap}{{}}", value.place)
        case Sequence(()):
            yield _Line(f"{head}{gap}[]", value.place)
        case _:
            yield _Line(head)
            yield from _block(value, depth + 1)


def _item(item: Node, depth: int) -> Iterator[_Line]:
    pad = "  " * depth
    if isinstance(item, Scalar) or not item.items:
        yield from _entry(f"{pad}-", item, depth)
        return
    for number, line in enumerate(_block(item, depth + 1)):
        yield _Line(f"{pad}- {line.text[len(pad) + 2 :]}", line.place) if number == 0 else line


def _scalar(text: str) -> str:
    """The text as YAML would take it: quoted where it could be something else."""
    if _PLAIN.fullmatch(text) and text == text.strip() and " #" not in text:
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
