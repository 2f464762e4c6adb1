"""A YAML document as located nodes: every scalar is text, every node knows where it was written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from buildit.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Place:
    """`file:line:column`; line and column count from 1."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Scalar:
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
class Sequence:
    items: tuple[Node, ...]
    place: Place


@dataclass(frozen=True, slots=True)
class Mapping:
    """`items` in written order; keys are unique."""

    items: tuple[tuple[Scalar, Node], ...]
    place: Place

    def get(self, key: str) -> Node | None:
        return next((value for name, value in self.items if name.text == key), None)

    def key(self, key: str) -> Scalar | None:
        return next((name for name, _ in self.items if name.text == key), None)

    def without(self, *keys: str) -> Mapping:
        return Mapping(tuple(pair for pair in self.items if pair[0].text not in keys), self.place)


Node = Scalar | Sequence | Mapping


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


def scalar_items(node: Node | None, place: str) -> tuple[Scalar, ...]:
    """The texts of a list of texts; none where the key is absent.

    Raises:
        RecipeError: it is something else.
    """
    if node is None:
        return ()
    if not isinstance(node, Sequence) or not all(isinstance(i, Scalar) for i in node.items):
        raise RecipeError("expected a list of texts", place=place)
    return tuple(item for item in node.items if isinstance(item, Scalar))
