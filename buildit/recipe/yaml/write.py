"""Data as the text of a YAML file that `recipe.yaml.read` takes back: maps, lists and texts, with
comments, in the style of files that people write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from buildit.model.words import yaml_word
from buildit.recipe.yaml.node import refused_character

WIDEST_LINE = 100
"""Columns of a list or map that is written in one line, at most."""


@dataclass(frozen=True, slots=True)
class Remarked:
    """A value with comments above it; without a value only the comments stand there."""

    comments: tuple[str, ...]
    value: YamlData | None = None


YamlData = str | Sequence["YamlData"] | Mapping[str, "YamlData"] | Remarked


def yaml_text(data: YamlData) -> str:
    """The document of `data`, which ends with a newline."""
    return "".join(f"{line}\n" for line in _lines(data, 0))


def comment_lines(texts: Sequence[str], pad: str = "") -> Iterator[str]:
    """Comments, one line each; what a file may not hold is shown as `?`."""
    for text in texts:
        for line in text.split("\n"):
            shown = "".join("?" if refused_character(c) else c for c in line.rstrip())
            yield f"{pad}# {shown}".rstrip()


def _lines(data: YamlData, depth: int) -> Iterator[str]:
    pad = "  " * depth
    match data:
        case Remarked(comments, value):
            yield from comment_lines(comments, pad)
            if value is not None:
                yield from _lines(value, depth)
        case str():
            yield from _entry(pad, data, depth)
        case Mapping():
            for key, value in data.items():
                if isinstance(value, Remarked):
                    yield from comment_lines(value.comments, pad)
                    value = value.value
                if value is not None:
                    yield from _entry(f"{pad}{yaml_word(key)}: ", value, depth)
        case _:
            for item in data:
                yield from _item(item, depth)


def _item(item: YamlData, depth: int) -> Iterator[str]:
    pad = "  " * depth
    if isinstance(item, Remarked):
        yield from comment_lines(item.comments, pad)
        if item.value is not None:
            yield from _item(item.value, depth)
        return
    inline = None if isinstance(item, Mapping) and len(item) == 1 else _inline(item)
    if inline is not None and len(pad) + len(inline) + 2 <= WIDEST_LINE:
        yield f"{pad}- {inline}"
        return
    if isinstance(item, str):
        yield from _entry(f"{pad}- ", item, depth)
        return
    first = True
    for line in _lines(item, depth + 1):
        is_comment = line.lstrip().startswith("#")
        yield f"{pad}- {line[len(pad) + 2 :]}" if first and not is_comment else line
        first = first and is_comment


def _entry(head: str, value: YamlData, depth: int) -> Iterator[str]:
    """A key with its value: beside it where that is one line, else below it."""
    inline = _inline(value)
    if inline is not None and (len(head) + len(inline) <= WIDEST_LINE or isinstance(value, str)):
        yield f"{head}{inline}".rstrip()
    elif isinstance(value, str):
        yield from _block(head, value, depth)
    else:
        yield head.rstrip()
        yield from _lines(value, depth + 1)


def _block(head: str, text: str, depth: int) -> Iterator[str]:
    body = text.rstrip("\n")
    ends = len(text) - len(body)
    keep = "-" if ends == 0 else "" if ends == 1 else "+"
    first = next((line for line in body.split("\n") if line), "")
    indicator = "2" if first.startswith(" ") or body.startswith("\n") else ""
    yield f"{head}|{indicator}{keep}"
    pad = "  " * (depth + 1)
    for line in (*body.split("\n"), *[""] * max(0, ends - 1)):
        yield f"{pad}{line}" if line else ""


def _inline(value: YamlData) -> str | None:
    """A value in one line; None where it cannot be, or should not."""
    match value:
        case str():
            if "\n" in value and refused_character(value) is None and value.strip("\n"):
                return None
            return _word(value) if value else '""'
        case Remarked():
            return None
        case Mapping():
            pairs = [(yaml_word(key), _inline(one)) for key, one in value.items()]
            if any(one is None for _, one in pairs):
                return None
            return "{" + ", ".join(f"{key}: {one}" for key, one in pairs) + "}"
        case _:
            items = [_inline(one) for one in value]
            if any(one is None for one in items):
                return None
            return "[" + ", ".join(one for one in items if one is not None) + "]"


_SENTENCE = re.compile(r"[A-Za-z][A-Za-z0-9 _./()+;=-]*[A-Za-z0-9.)]")


def _word(text: str) -> str:
    """A text as one scalar; a plain sentence stays bare."""
    return text if _SENTENCE.fullmatch(text) and " " in text else yaml_word(text)
