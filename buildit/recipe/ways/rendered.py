"""A file that is a template as a whole: rendered before it is read as YAML, with places of the
template. Pure.

The text of a recipe that buildit knows is never rendered so (`recipe.template.render`): here a
value can change the structure, and what comes out is checked like anybody's file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from buildit.errors import RecipeError
from buildit.model.words import guess
from buildit.recipe.template.render import Piece, Variables, rendered_pieces, variables_in
from buildit.recipe.yaml import node as nodes
from buildit.recipe.yaml.node import Node, Place, Scalar
from buildit.recipe.yaml.read import parse_yaml


@dataclass(frozen=True, slots=True)
class RenderedText:
    """What a template became: its text, and for each of its lines that of the template, from 1."""

    text: str
    template: str
    file: str
    lines: tuple[int, ...]

    def line(self, number: int) -> str:
        """A line of the result, from 1; empty where it has none."""
        lines = self.text.split("\n")
        return lines[number - 1] if 0 < number <= len(lines) else ""

    def place_of(self, at: Place) -> Place:
        """Where in the template a place of the result comes from; the column where it is known."""
        if at.file != self.file:
            return at
        number = self.lines[min(max(at.line, 1), len(self.lines)) - 1]
        written = self.template.split("\n")[number - 1]
        column = (
            at.column if written == self.line(at.line) else len(written) - len(written.lstrip()) + 1
        )
        return Place(self.file, number, column)

    def told(self, number: int) -> tuple[str, ...]:
        """What a line of the result is, where the template does not say the same."""
        text = self.line(number).strip()
        if not text or self.line(number) == self.template.split("\n")[self.lines[number - 1] - 1]:
            return ()
        return (f"after rendering, the line is: {text[:200]}",)


def names_wanted(text: str, file: str) -> frozenset[str]:
    """The variables that a file asks for, in branches that do not run too.

    Raises:
        RecipeError: the template is malformed.
    """
    start = Place(file, 1, 1)
    return variables_in(Scalar(text, start, start))


def rendered_text(text: str, file: str, variables: Variables) -> RenderedText:
    """A file rendered as a whole.

    Raises:
        RecipeError: the template is malformed, asks for what is not given, uses what templates may
            not, or grows too large.
    """
    start = Place(file, 1, 1)
    try:
        found = rendered_pieces(Scalar(text, start, start), variables)
    except RecipeError as error:
        if error.undefined:
            name = error.undefined
            given = f"give it: --set {name}=…, or say what holds without it: "
            given += f"{{{{ {name} | default('…') }}}}"
            error.hint = f"{guess(name, variables)}{given}"
        raise
    whole = "".join(piece.text for piece in found)
    return RenderedText(whole, text, file, tuple(_origins(found)))


def _origins(found: Sequence[Piece]) -> Iterator[int]:
    """The line of the template that each line of the result begins on."""
    here, is_fresh = 1, True
    for piece in found:
        line = piece.line
        for number, part in enumerate(piece.text.split("\n")):
            if number:
                yield here
                line += not piece.is_value
                here, is_fresh = line, True
            if part and is_fresh:
                here, is_fresh = line, False
    yield here


def rendered_document(rendered: RenderedText) -> Node:
    """The YAML document in a rendered text, whose places are the template's; no text of it is
    rendered again.

    Raises:
        RecipeError: it is none; the place is that of the template.
    """
    try:
        return _placed(parse_yaml(rendered.text, rendered.file), rendered)
    except RecipeError as error:
        at = _parsed_place(error.place or "", rendered.file)
        if at is not None:
            error.place = str(rendered.place_of(at))
            error.details = (*error.details, *rendered.told(at.line))
        raise


def _parsed_place(text: str, file: str) -> Place | None:
    parts = text.removeprefix(f"{file}:").split(":")
    is_place = text.startswith(f"{file}:") and len(parts) == 2 and all(map(str.isdigit, parts))
    return Place(file, int(parts[0]), int(parts[1])) if is_place else None


def _placed(node: Node, rendered: RenderedText) -> Node:
    place = rendered.place_of(node.place)
    match node:
        case Scalar(text):
            return Scalar(text, place, rendered=True)
        case nodes.Sequence(items):
            return nodes.Sequence(tuple(_placed(one, rendered) for one in items), place)
        case nodes.Mapping(pairs):
            keys = (
                Scalar(key.text, rendered.place_of(key.place), rendered=True) for key, _ in pairs
            )
            values = (_placed(value, rendered) for _, value in pairs)
            return nodes.Mapping(tuple(zip(keys, values, strict=True)), place)
