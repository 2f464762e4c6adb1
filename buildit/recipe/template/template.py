"""Templates: Jinja2's grammar for text, `{% if %}` and `{% for %}` over given lists and maps.

Jinja2 only parses; `load.expression` evaluates, and what a template gives comes in pieces that
know the line of the template that they began on.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from jinja2 import Environment, TemplateSyntaxError, nodes

from buildit.errors import RecipeError
from buildit.recipe.template.expression import Evaluation, Names, place_on
from buildit.recipe.template.filters import FilterError, kind_of, text_of
from buildit.recipe.template.render import COMMENT, Value, Variables
from buildit.recipe.yaml.node import Scalar

MAX_TEMPLATE = 64 << 10
MAX_OUTPUT = 1 << 20
"""Characters of a template, and of what it may become."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the rendered text, and the line of the template (from 1) that it begins on.

    `is_value` tells what an expression gave from what the template itself says.
    """

    text: str
    line: int
    is_value: bool


def pieces(scalar: Scalar, variables: Variables) -> tuple[Piece, ...]:
    """The rendered text of `scalar`, in parts.

    Raises:
        RecipeError: as `load.jinja.render_tree`.
    """
    run = _Run(Evaluation(scalar))
    parsed = _parsed(scalar)
    run.evaluation.check(parsed)
    run.body(parsed.body, variables, 1)
    return tuple(run.made)


@cache
def _grammar() -> Environment:
    return Environment(  # noqa: S701 - it only parses, and nothing here is HTML
        keep_trailing_newline=True,
        # `${#x}` is shell, not a comment: `_parsed` marks those that are one with NUL, which the
        # text that we read does not hold.
        comment_start_string="\0{#",
        comment_end_string="#\0}",
        cache_size=0,
    )


def _marked(comment: re.Match[str]) -> str:
    return f"\0{{#{comment[0][2:-2]}#\0}}"


def _parsed(scalar: Scalar) -> nodes.Template:
    if len(scalar.text) > MAX_TEMPLATE:
        raise RecipeError(
            f"the template is larger than {MAX_TEMPLATE >> 10} KiB",
            place=str(scalar.place),
            hint="move its fixed text into a file of its own",
        )
    try:
        return _grammar().parse(COMMENT.sub(_marked, scalar.text))
    except TemplateSyntaxError as error:
        message = " ".join(str(error.message).split())
        raise RecipeError(
            f"the template cannot be read: {message}",
            place=place_on(scalar, error.lineno),
            hint="write {{ '{{' }} where braces are meant as text",
        ) from error
    except (RecursionError, ValueError, OverflowError) as error:
        # Python's own limits: nesting, and the digits of a number (sys.set_int_max_str_digits).
        raise RecipeError("the template is too complex", place=str(scalar.place)) from error


@dataclass(slots=True)
class _Run:
    """One rendering: the statements of a template, and what they made so far."""

    evaluation: Evaluation
    made: list[Piece] = field(default_factory=list)
    length: int = 0

    def body(self, body: Sequence[nodes.Node], names: Names, depth: int) -> None:
        for node in body:
            self.evaluation.charge(node, depth)
            match node:
                case nodes.Output():
                    self.output(node, names, depth)
                case nodes.If():
                    self.branch(node, names, depth + 1)
                case nodes.For() if not node.recursive:
                    self.loop(node, names, depth + 1)
                case _:
                    raise self.evaluation.unusable(node)

    def output(self, node: nodes.Output, names: Names, depth: int) -> None:
        for part in node.nodes:
            if isinstance(part, nodes.TemplateData):
                piece = Piece(part.data.replace("\0", ""), part.lineno, is_value=False)
            else:
                piece = Piece(self.printed(part, names, depth), part.lineno, is_value=True)
            self.made.append(piece)
            self.length += len(piece.text)
            if self.length > MAX_OUTPUT:
                raise self.evaluation.error(part, f"the text is larger than {MAX_OUTPUT >> 20} MiB")

    def printed(self, node: nodes.Node, names: Names, depth: int) -> str:
        value = self.evaluation.value(node, names, depth)
        try:
            return text_of(value)
        except FilterError as error:
            hint = "use `| join(' ')` or `| tojson`"
            raise self.evaluation.error(node, str(error), hint) from error

    def branch(self, node: nodes.If, names: Names, depth: int) -> None:
        for one in (node, *node.elif_):
            if self.evaluation.value(one.test, names, depth):
                return self.body(one.body, names, depth)
        return self.body(node.else_, names, depth)

    def loop(self, node: nodes.For, names: Names, depth: int) -> None:
        rounds = self.rounds(node, names, depth)
        if not rounds:
            self.body(node.else_, names, depth)
        for index, bound in enumerate(rounds):
            self.evaluation.charge(node, depth)
            self.evaluation.steps += len(names) // 16  # the copy below
            inside = {**names, **bound, "loop": _position(index, len(rounds))}
            self.body(node.body, inside, depth)

    def rounds(self, node: nodes.For, names: Names, depth: int) -> list[Names]:
        over = self.evaluation.value(node.iter, names, depth)
        if isinstance(over, str) or not isinstance(over, Sequence | Mapping):
            message = f"expected a list to loop over, found {kind_of(over)}"
            raise self.evaluation.error(node.iter, message)
        bound = [self.bound(node.target, item) for item in over]
        if node.test is None:
            return bound
        test = node.test
        return [one for one in bound if self.evaluation.value(test, {**names, **one}, depth)]

    def bound(self, target: nodes.Node, item: Value) -> Names:
        self.evaluation.charge(target, 0)
        if isinstance(target, nodes.Name):
            return {target.name: item}
        parts = target.items if isinstance(target, nodes.Tuple) else []
        names = [one.name for one in parts if isinstance(one, nodes.Name)]
        if len(names) != len(parts) or not names:
            raise self.evaluation.unusable(target)
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != len(names):
            message = f"expected {len(names)} values for {', '.join(names)}, found {kind_of(item)}"
            raise self.evaluation.error(target, message)
        return dict(zip(names, item, strict=True))


def _position(index: int, length: int) -> Names:
    return {
        "index": index + 1,
        "index0": index,
        "first": index == 0,
        "last": index == length - 1,
        "length": length,
    }
