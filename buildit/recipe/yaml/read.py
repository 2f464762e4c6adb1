"""YAML text to located nodes; every scalar stays text, and one document is all there may be.

Refused: tags, merge keys, duplicate and non-text keys, further documents, directives, cycles,
and whatever is too deep or, with aliases expanded, too large (THREATS A1-A3).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from buildit.errors import RecipeError
from buildit.recipe.yaml.node import (
    Mapping,
    Node,
    Place,
    Scalar,
    Sequence,
    character_name,
    read_text,
    refused_character,
    shown_place,
)

MAX_DEPTH = 64
MAX_NODES = 100_000
"""Nodes of a document after the expansion of its aliases."""

_NULLS = frozenset({"", "~", "null", "Null", "NULL"})


def load_yaml(path: Path) -> Node:
    """The document in the file at `path`.

    Raises:
        RecipeError: the file cannot be read, or is not a YAML document within the rules above.
    """
    shown = shown_place(path)
    return parse_yaml(read_text(path, shown), shown)


def parse_yaml(text: str, file: str, *, merges: bool = False) -> Node:
    """The document in `text`, which `recipe.yaml.node` decoded.

    A plain `null`, `~` or nothing is an empty text without a `body`; the schema decides whether it
    may be. With `merges` a map has what its `<<` names, where it does not say it itself.

    Raises:
        RecipeError: `text` is not a YAML document within the rules above.
    """
    # libyaml's loader where PyYAML was built with it: ten times faster, the same events.
    loader = yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader
    try:
        return document(text, file, loader, merges=merges)
    except yaml.YAMLError as error:
        raise _syntax(error, text, file) from error
    except (ValueError, OverflowError, RecursionError) as error:
        # PyYAML leaks these for a few malformed escapes (`"\UFFFFFFFF"`).
        raise RecipeError(f"this is not YAML: {error}", place=file) from error


def document(
    text: str, file: str, loader: type[yaml.SafeLoader | yaml.CSafeLoader], *, merges: bool = False
) -> Node:
    """As `parse_yaml`, read by one of PyYAML's loaders, whose own errors pass."""
    events = iter(yaml.parse(text, Loader=loader))
    reading = _Reading(file, text.split("\n"), events, merges)
    next(events)  # the start of the stream
    start = next(events)
    if not isinstance(start, yaml.DocumentStartEvent):
        raise _empty(file)
    if start.version is not None or start.tags:
        raise reading.error("a line that begins with % is not accepted here", start)
    root = reading.node(next(events), 1).node
    next(events)  # the end of the document
    after = next(events)
    if not isinstance(after, yaml.StreamEndEvent):
        message = "a second document begins here; a file holds one"
        raise reading.error(message, after, "remove the line `---`")
    if isinstance(root, Scalar) and not root.text:
        raise _empty(file)
    reading.refuse_tabs()
    return root


_NO_TABS = "use spaces, not tabs; a value that needs one goes in quotes"
_COMMENT = re.compile(r"(?:^|(?<=[ \t]))#")
_Span = tuple[tuple[int, int], tuple[int, int]]


def _empty(file: str) -> RecipeError:
    hint = "write something into it, or remove it"
    return RecipeError("the file is empty", place=file, hint=hint)


@dataclass(frozen=True, slots=True)
class _Sized:
    """A node with the count of its nodes and its height, aliases expanded."""

    node: Node
    size: int
    height: int


@dataclass(slots=True)
class _Reading:
    """One pass over the events of a document."""

    file: str
    lines: list[str]
    events: Iterator[yaml.Event]
    merges: bool = False
    total: int = 0
    flow: int = 0
    spans: list[_Span] = field(default_factory=list)
    """Of quoted and block texts: where each begins and ends, from 0."""
    anchors: dict[str, _Sized | None] = field(default_factory=dict)  # None: still open

    def place(self, event: yaml.Event) -> Place:
        line, column = _start(event)
        if line >= len(self.lines):  # libyaml puts the end of a text without a last LF there
            line, column = len(self.lines) - 1, len(self.lines[-1])
        return Place(self.file, line + 1, column + 1)

    def error(self, message: str, event: yaml.Event, hint: str | None = None) -> RecipeError:
        return RecipeError(message, place=str(self.place(event)), hint=hint)

    def refuse_tabs(self) -> None:
        """Refuse a tab outside of quoted texts, block texts and comments.

        libyaml takes such tabs in some places, PyYAML's own reader in none.
        """
        for row, line in enumerate(self.lines):
            if "\t" not in line:
                continue
            outside = line
            for begin, end in self.spans:
                if begin[0] <= row <= end[0]:
                    first = begin[1] if begin[0] == row else 0
                    after = end[1] if end[0] == row else len(line)
                    outside = outside[:first] + "x" * (after - first) + outside[after:]
            outside = _COMMENT.split(outside, maxsplit=1)[0]
            if "\t" in outside:
                raise _tab(self.file, row, outside.index("\t"))

    def node(self, event: yaml.Event, depth: int) -> _Sized:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event, depth)
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            raise self.error("a value is missing", event)
        self._admit(event)
        self._charge(1, depth, event)
        if isinstance(event, yaml.ScalarEvent):
            found = _Sized(self._scalar(event), 1, 1)
        else:
            self.flow += bool(event.flow_style)
            inside = self._sequence if isinstance(event, yaml.SequenceStartEvent) else self._mapping
            found = inside(event, depth)
            self.flow -= bool(event.flow_style)
        if event.anchor is not None:
            self.anchors[event.anchor] = found
        return found

    def _admit(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        line, column = _start(event)
        if column and self.lines[line][column - 1 : column] == "\t":
            raise self.error("a tab stands before this value", event, _NO_TABS)
        if event.tag is not None:
            hint = "quote the value if it begins with '!'"
            raise self.error(f"the tag {event.tag!r} is not accepted here", event, hint)
        if event.anchor is not None:
            if event.anchor in self.anchors:
                raise self.error(f"the anchor &{event.anchor} is defined twice", event)
            self.anchors[event.anchor] = None

    def _charge(self, nodes: int, depth: int, event: yaml.Event) -> None:
        self.total += nodes
        if depth > MAX_DEPTH:
            message = f"the document is nested deeper than {MAX_DEPTH} levels"
            raise self.error(message, event, "flatten it")
        if self.total > MAX_NODES:
            message = f"the document has more than {MAX_NODES} values, aliases expanded"
            hint = "write out what the aliases stand for, or split the file"
            raise self.error(message, event, hint)

    def _alias(self, event: yaml.AliasEvent, depth: int) -> _Sized:
        name = event.anchor or ""
        if name not in self.anchors:
            hint = "quote the value if it begins with '*'"
            raise self.error(f"the alias *{name} has no anchor &{name} before it", event, hint)
        found = self.anchors[name]
        if found is None:
            raise self.error(f"the alias *{name} stands inside of what it names", event)
        self._charge(found.size, depth + found.height - 1, event)
        return found

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        if char := refused_character(event.value):
            raise self.error(f"{character_name(char)} is not allowed in a value", event)
        place = self.place(event)
        self._same_everywhere(event)
        if not event.style and event.value in _NULLS:
            return Scalar("", place)
        # Only templates and JSON are ever looked into.
        inside = event.style == "|" or "{" in event.value or not event.value
        return Scalar(event.value, place, self._body(event) if inside else None)

    def _same_everywhere(self, event: yaml.ScalarEvent) -> None:
        """Refuse what only one of PyYAML's two readers takes, and note where tabs may be."""
        line, column = _start(event)
        end = (event.end_mark.line, event.end_mark.column) if event.end_mark else (line, column)
        if event.style in ("'", '"'):
            quote = self.lines[line].find(event.style, column)  # after an anchor
            self.spans.append(((line, max(column, quote)), end))
        elif event.style:
            self.spans.append(((line + 1, 0), end))
            header = self.lines[line][column:].split("#", 1)[0]
            is_indented = any(map(str.isdigit, header))  # by a number of blanks that it says
            if event.value.lstrip("\n").startswith("\t") and not is_indented:
                raise self.error("this text begins with a tab", event, _NO_TABS)
        elif self.flow and "?" in event.value[1:]:
            hint = f'put quotes around it: "{event.value}"'
            raise self.error("a value in brackets holds a '?'", event, hint)

    def _body(self, event: yaml.ScalarEvent) -> Place | None:
        """Where the text begins, if each of its lines is a line of the file."""
        line, column = _start(event)
        if event.style == "|":
            text = event.value.lstrip("\n")
            row = line + 1 + len(event.value) - len(text)
            indent = len(self.lines[row]) - len(text.split("\n", 1)[0]) if text else 0
            return Place(self.file, line + 2, indent + 1)
        if event.end_mark is None or event.end_mark.line != line:
            return None
        return Place(self.file, line + 1, column + 1 + bool(event.style))

    def _sequence(self, start: yaml.Event, depth: int) -> _Sized:
        items: list[_Sized] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.node(event, depth + 1))
        node = Sequence(tuple(item.node for item in items), self.place(start))
        return _around(node, items, 1)

    def _mapping(self, start: yaml.Event, depth: int) -> _Sized:
        inside: list[_Sized] = []
        items: dict[str, tuple[Scalar, Node]] = {}
        merged: dict[str, tuple[Scalar, Node]] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            if self.merges and isinstance(event, yaml.ScalarEvent) and _merges(event):
                inside.append(self.node(found := next(self.events), depth + 1))
                for one in self._merged(inside[-1].node, found):
                    merged |= {key.text: (key, value) for key, value in one.items} | merged
                continue
            key = self._key(event, depth + 1)
            if before := items.get(key.text):
                hint = f"the first one is at {before[0].place}; remove one of them"
                raise self.error(f"the key {key.text!r} is written twice", event, hint)
            inside.append(self.node(next(self.events), depth + 1))
            items[key.text] = (key, inside[-1].node)
        items = {**merged, **items}
        return _around(Mapping(tuple(items.values()), self.place(start)), inside, 1 + len(items))

    def _merged(self, node: Node, event: yaml.Event) -> tuple[Mapping, ...]:
        """The maps that a `<<` names; what an earlier one says counts (yaml.org/type/merge)."""
        listed = node.items if isinstance(node, Sequence) else (node,)
        maps = tuple(one for one in listed if isinstance(one, Mapping))
        if len(maps) != len(listed):
            raise self.error("<< names a map, or a list of maps", event, "write <<: *NAME")
        return maps

    def _key(self, event: yaml.Event, depth: int) -> Scalar:
        if not isinstance(event, yaml.ScalarEvent):
            line, column = _start(event)
            template = self.lines[line][column - 1 : column + 1] == "{{"
            hint = "put quotes around a value that begins with {{" if template else None
            raise self.error("a key must be plain text", event, hint)
        if _merges(event):
            raise self.error("merge keys (<<) are not accepted here", event, "write the keys out")
        key = self.node(event, depth).node
        if not isinstance(key, Scalar) or not key.text:
            raise self.error("a key may not be empty", event)
        return key


def _merges(key: yaml.ScalarEvent) -> bool:
    return bool(key.value == "<<" and not key.style)


def _tab(file: str, row: int, column: int) -> RecipeError:
    place = str(Place(file, row + 1, column + 1))
    return RecipeError("a tab stands here", place=place, hint=_NO_TABS)


def _start(event: yaml.Event) -> tuple[int, int]:
    """Line and column where `event` begins, from 0."""
    mark = event.start_mark
    return (0, 0) if mark is None else (mark.line, mark.column)


def _around(node: Node, inside: list[_Sized], own: int) -> _Sized:
    height = 1 + max((one.height for one in inside), default=0)
    return _Sized(node, own + sum(one.size for one in inside), height)


def _syntax(error: yaml.YAMLError, text: str, file: str) -> RecipeError:
    """What PyYAML says, with the place, and a hint for what people get wrong most."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        reason = " ".join(str(error).split())
        return RecipeError(f"this is not YAML: {reason}", place=file)
    lines = text.split("\n")
    row, column = error.problem_mark.line, error.problem_mark.column
    if row >= len(lines):
        row, column = len(lines) - 1, len(lines[-1])
    blank = row
    while blank and not lines[blank].strip() and "\t" not in lines[blank]:
        blank -= 1
    if "\t" in lines[blank] and not lines[blank].strip():
        return _tab(file, blank, lines[blank].index("\t"))
    while row and not lines[row].strip():  # the end of the file: show what is before it
        row -= 1
        column = len(lines[row])
    message = f"this is not YAML: {error.problem}"
    if error.context and error.context_mark is not None:
        message += f" ({error.context} from line {error.context_mark.line + 1})"
    hint = _advice(lines, row, column, error.problem or "")
    return RecipeError(message, place=str(Place(file, row + 1, column + 1)), hint=hint)


def _advice(lines: list[str], row: int, column: int, problem: str) -> str:
    line = lines[row]
    if "\t" in line[: column + 1]:
        return _NO_TABS
    if "mapping values" in problem:
        above = next((one for one in reversed(lines[:row]) if one.strip()), "")
        deeper = len(line) - len(line.lstrip(" ")) > len(above) - len(above.lstrip(" "))
        if deeper and ":" in above:
            return "indent this line as the one above, if both belong together"
        return "put quotes around a value that holds ': '"
    if "cannot start" in problem:
        return f"put quotes around a value that begins with {line[column : column + 1]!r}"
    if "'?'" in problem:
        return "put quotes around a value in brackets that holds a '?'"
    return "check the indentation, quotes and brackets here and just above"
