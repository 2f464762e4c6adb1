"""A YAML document as located nodes: every scalar is text, every node knows where it was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from buildit.errors import RecipeError


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
        found = self.pair(key)
        return found[1] if found else None

    def key(self, key: str) -> Scalar | None:
        found = self.pair(key)
        return found[0] if found else None

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
