"""Expressions of templates: parsed by Jinja2, evaluated here over plain values only.

Nothing is compiled and nothing but keys of maps and positions of lists can be reached, so a
template has no way to code (THREATS B1). Each step costs, and each character read (THREATS B2).
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from buildit.errors import RecipeError
from buildit.model.words import hint_of
from buildit.recipe.template.render import COMMENT, Piece, Value, Variables
from buildit.recipe.yaml.node import Scalar

MAX_LEVELS = 48
MAX_STEPS = 200_000
"""Steps that one template may take; 64 characters looked at are a step too."""

MAX_TEMPLATE = 64 << 10
MAX_OUTPUT = 1 << 20
"""Characters of a template, and of what it may become."""

_COMPARED: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "lteq": operator.le,
    "gt": operator.gt,
    "gteq": operator.ge,
    "in": lambda left, right: operator.contains(right, left),
    "notin": lambda left, right: not operator.contains(right, left),
}
_SUMS: Mapping[str, tuple[str, Callable[[Any, Any], Any]]] = {
    "Add": ("+", operator.add),
    "Sub": ("-", operator.sub),
    "Mul": ("*", operator.mul),
    "FloorDiv": ("//", operator.floordiv),
    "Mod": ("%", operator.mod),
}
_LARGEST = 10**18
"""What a sum may come to, on either side of 0."""

_WORDS = {
    "Div": "/ (// divides whole numbers)",
    "Pow": "**",
    **dict.fromkeys(("Assign", "AssignBlock"), "{% set %}"),
    "Call": "calls",
    **dict.fromkeys(("Macro", "CallBlock"), "macros"),
    **dict.fromkeys(("Extends", "Import", "FromImport", "Include"), "other templates"),
    "FilterBlock": "{% filter %}",
    "Block": "blocks",
    "Slice": "slices",
    "With": "{% with %}",
}


MAX_TEXT = 1 << 20
"""Characters that one expression may make."""


class FilterError(ValueError):
    """A filter does not fit the value; the message is one phrase, without a place."""


def called(value: object) -> str:
    """How messages call a value."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return "a mapping" if isinstance(value, Mapping) else "a list"


def weight(value: object) -> int:
    """How much work a value is to walk over, in characters."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return 64 + sum(weight(key) + weight(one) for key, one in value.items())
    if isinstance(value, Sequence):
        return 64 + sum(map(weight, value))
    return 16


def text_of(value: Value) -> str:
    """A scalar as templates print it.

    Raises:
        FilterError: it is a list, a mapping or nothing.
    """
    if isinstance(value, str | bool | int | float):
        return str(value)
    raise FilterError(f"expected text, found {called(value)}")


def within(length: int) -> None:
    """Refuse a text of `length` characters, best before it is made.

    Raises:
        FilterError: it is too large.
    """
    if length > MAX_TEXT:
        raise FilterError(f"the text is larger than {MAX_TEXT >> 20} MiB")


def _lower(value: Value) -> Value:
    """The text in lower case."""
    return text_of(value).lower()


def _upper(value: Value) -> Value:
    """The text in upper case."""
    upper = text_of(value).upper()
    within(len(upper))
    return upper


def _trim(value: Value, chars: Value = None) -> Value:
    """The text without blanks, or the `chars` given, at both ends."""
    return text_of(value).strip(None if chars is None else text_of(chars))


def _replace(value: Value, old: Value, new: Value) -> Value:
    """The text with every `old` replaced by `new`."""
    text, before, after = text_of(value), text_of(old), text_of(new)
    found = text.count(before)
    within(len(text) + found * (len(after) - len(before)))
    return text.replace(before, after)


def _join(value: Value, d: Value = "") -> Value:
    """The items of a list as one text, with `d` between them."""
    parts, between = [text_of(one) for one in _many(value)], text_of(d)
    within(sum(map(len, parts)) + len(between) * len(parts))
    return between.join(parts)


def _length(value: Value) -> Value:
    """How many characters, items or keys there are."""
    if isinstance(value, str | Sequence | Mapping):
        return len(value)
    raise FilterError(f"expected text, a list or a mapping, found {called(value)}")


def _first(value: Value) -> Value:
    """The first item of a list, or key of a map."""
    return _many(value, "the first of nothing")[0]


def _last(value: Value) -> Value:
    """The last one."""
    return _many(value, "the last of nothing")[-1]


def _items(value: Value) -> Value:
    """The keys and values of a map, in pairs for `{% for key, value in … %}`."""
    if not isinstance(value, Mapping):
        raise FilterError(f"expected a mapping, found {called(value)}")
    return [[key, one] for key, one in value.items()]


def _tojson(value: Value) -> Value:
    """The value as JSON."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, allow_nan=False, default=dict)
    within(len(text))
    return text


def _int(value: Value) -> Value:
    """The whole number that a text says."""
    text = text_of(value).strip()
    if isinstance(value, bool) or re.fullmatch(r"[+-]?[0-9]{1,18}", text) is None:
        raise FilterError(f"expected a whole number, found {text[:40]!r}")
    return int(text)


def _many(value: Value, if_none: str = "") -> Sequence[Value]:
    if isinstance(value, Mapping):
        value = list(value)
    if not isinstance(value, Sequence):
        raise FilterError(f"expected a list, found {called(value)}")
    if if_none and not value:
        raise FilterError(if_none)
    return value


_NAMED = (_first, _int, _items, _join, _last, _length, _lower, _replace, _tojson, _trim, _upper)
FILTERS: Mapping[str, Callable[..., Value]] = {
    "count": _length,
    **{one.__name__.removeprefix("_"): one for one in _NAMED},
}
"""What stands behind `|`, but for `DEFAULT`; each has the name of its function."""

DEFAULT_NAMES = ("default", "d")
"""Two names of the one filter that takes a name which is not defined."""

TESTS = ("defined", "undefined")
"""What may stand behind `is`."""


@dataclass(frozen=True, slots=True)
class Undefined:
    """What an expression gives that has no value; only `default` and `is defined` take it."""

    node: nodes.Node
    message: str = ""
    """Empty for an `if` without an `else` whose condition is false: an empty text where used."""
    hint: str | None = None


def place_on(scalar: Scalar, line: int | None, word: str = "") -> str:
    """Where `word` stands on a line (from 1) of a template, else where its first brace does."""
    lines = scalar.text.split("\n")
    line = min(max(line or 1, 1), len(lines))  # Jinja2 gives some nodes no line
    start = sum(len(one) + 1 for one in lines[: line - 1])
    text = lines[line - 1]
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text) if word else None
    found = found or re.search(r"\{[{%]", text)
    return str(scalar.place_of(start + (found.start() if found else 0)))


@dataclass(slots=True)
class _Run:
    """One run over the template in `scalar`: what it made so far; `steps` only grows."""

    scalar: Scalar
    steps: int = 0
    made: list[Piece] = field(default_factory=list)
    length: int = 0

    def error(self, node: nodes.Node, message: str, hint: str | None = None) -> RecipeError:
        word = getattr(node, "name", None) or getattr(node, "attr", None)
        word = word if isinstance(word, str) else ""
        return RecipeError(message, place=place_on(self.scalar, node.lineno, word), hint=hint)

    def unusable(self, node: nodes.Node) -> RecipeError:
        what = _WORDS.get(type(node).__name__, "this kind of expression")
        hint = "compute the value in `vars`, or write it out"
        return self.error(node, f"templates may not use {what}", hint)

    def charge(self, node: nodes.Node, depth: int, *read: object) -> None:
        """Count one step and what it reads.

        Raises:
            RecipeError: the template takes too many steps or is nested too deeply.
        """
        self.steps += 1 + sum(map(weight, read)) // 64
        if self.steps > MAX_STEPS:
            raise self.error(node, "the template takes too long", "loop over less")
        if depth > MAX_LEVELS:
            raise self.error(node, f"the template is nested deeper than {MAX_LEVELS} levels")

    def value(self, node: nodes.Node, names: Variables, depth: int) -> Value:
        """The value of an expression that must have one.

        Raises:
            RecipeError: it has none, cannot be evaluated, or is more than templates may use.
        """
        value = self.any_value(node, names, depth)
        if isinstance(value, Undefined):
            if value.message:
                wrong = self.error(value.node, value.message, value.hint)
                if isinstance(value.node, nodes.Name):
                    wrong.undefined = value.node.name
                raise wrong
            return ""
        return value

    def check(self, template: nodes.Template) -> None:
        """Refuse filters and tests that there are none of, in branches that do not run too.

        Raises:
            RecipeError: with the nearest name.
        """
        waiting: list[nodes.Node] = [template]
        while waiting:  # deeper than Python's recursion would go
            node = waiting.pop()
            waiting.extend(node.iter_child_nodes())
            if isinstance(node, nodes.Filter) and node.name not in (*FILTERS, *DEFAULT_NAMES):
                hint = hint_of(node.name, (*FILTERS, "default"))
                raise self.error(node, f"there is no filter {node.name!r}", hint)
            if isinstance(node, nodes.Test) and node.name not in TESTS:
                hint = "write `is defined` or `is not defined`"
                raise self.error(node, f"there is no test {node.name!r}", hint)

    def any_value(self, node: nodes.Node, names: Variables, depth: int) -> Value | Undefined:
        self.charge(node, depth)
        match node:
            case nodes.Const(value=str(text)):
                return text.replace("\0", "")  # the marks of comments
            case nodes.Const(value=None | bool() | int() | float()):
                plain: Value = node.value
                return plain
            case nodes.Name():
                if node.name in names:
                    return names[node.name]
                return Undefined(node, f"{node.name!r} is not defined", hint_of(node.name, names))
            case nodes.Getattr():
                return self._member(node, self.value(node.node, names, depth + 1), node.attr)
            case nodes.Getitem():
                key = self.value(node.arg, names, depth + 1)
                return self._member(node, self.value(node.node, names, depth + 1), key)
            case nodes.Filter():
                return self._filtered(node, names, depth + 1)
            case nodes.Test():
                return self._tested(node, names, depth + 1)
            case nodes.CondExpr():
                part = node.expr1 if self.value(node.test, names, depth + 1) else node.expr2
                return Undefined(node) if part is None else self.any_value(part, names, depth + 1)
            case _:
                return self._combined(node, names, depth + 1)

    def _combined(self, node: nodes.Node, names: Variables, depth: int) -> Value:
        match node:
            case nodes.Concat():
                return self._concatenated(node, [self.value(n, names, depth) for n in node.nodes])
            case nodes.And():
                return self.value(node.left, names, depth) and self.value(node.right, names, depth)
            case nodes.Or():
                return self.value(node.left, names, depth) or self.value(node.right, names, depth)
            case nodes.Not():
                return not self.value(node.node, names, depth)
            case nodes.Compare():
                return self._compared(node, names, depth)
            case nodes.BinExpr() if type(node).__name__ in _SUMS:
                return self._sum(node, names, depth)
            case nodes.Neg():
                return -self._number(node, self.value(node.node, names, depth), "-")
            case nodes.List() | nodes.Tuple():
                return [self.value(item, names, depth) for item in node.items]
            case _:
                raise self.unusable(node)

    def _sum(self, node: nodes.BinExpr, names: Variables, depth: int) -> Value:
        left = self.value(node.left, names, depth)
        right = self.value(node.right, names, depth)
        sign, apply = _SUMS[type(node).__name__]
        if sign == "+" and isinstance(left, str) and isinstance(right, str):
            return self._concatenated(node, [left, right])
        one, other = (self._number(node, value, sign) for value in (left, right))
        if other == 0 and sign in ("//", "%"):
            raise self.error(node, f"{one} {sign} 0 has no value")
        return self._number(node, apply(one, other), sign)

    def _number(self, node: nodes.Node, value: Value, sign: str) -> int | float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = "values from YAML are text: `name | int` is its number; `~` joins texts"
            raise self.error(node, f"{sign} needs numbers, found {called(value)}", hint)
        if not -_LARGEST <= value <= _LARGEST:
            raise self.error(node, f"the result of {sign} is too large")
        return value

    def _concatenated(self, node: nodes.Node, parts: list[Value]) -> Value:
        self.charge(node, 0, parts)
        try:
            texts = [text_of(part) for part in parts]
            within(sum(map(len, texts)))
            return "".join(texts)
        except FilterError as error:
            raise self.error(node, str(error)) from error

    def _member(self, node: nodes.Node, owner: Value, key: Value) -> Value | Undefined:
        if isinstance(owner, Mapping) and isinstance(key, str):
            if key in owner:
                return owner[key]
            return Undefined(node, f"there is no key {key!r}", hint_of(key, owner))
        if isinstance(owner, Sequence) and not isinstance(owner, str) and type(key) is int:
            if key < len(owner):
                return owner[key]
            return Undefined(node, f"there is no position {key} in a list of {len(owner)}")
        raise self.error(node, f"{called(owner)} has no {key!r}", "only maps and lists have parts")

    def _compared(self, node: nodes.Compare, names: Variables, depth: int) -> bool:
        left = self.value(node.expr, names, depth)
        for operand in node.ops:
            right = self.value(operand.expr, names, depth)
            self.charge(node, depth, left, right)
            try:
                if not _COMPARED[operand.op](left, right):
                    return False
            except TypeError as error:
                message = f"{called(left)} cannot be compared with {called(right)}"
                hint = "values from YAML are text: compare with '…'"
                raise self.error(node, message, hint) from error
            left = right
        return True

    def _tested(self, node: nodes.Test, names: Variables, depth: int) -> bool:
        if node.args or node.kwargs:
            raise self.error(node, f"the test {node.name!r} takes nothing")
        missing = isinstance(self.any_value(node.node, names, depth), Undefined)
        return missing == (node.name == "undefined")

    def _filtered(self, node: nodes.Filter, names: Variables, depth: int) -> Value | Undefined:
        if node.node is None or node.dyn_args is not None or node.dyn_kwargs is not None:
            raise self.unusable(node)
        args = [self.value(arg, names, depth) for arg in node.args]
        named = {str(one.key): self.value(one.value, names, depth) for one in node.kwargs}
        name = "default" if node.name in DEFAULT_NAMES else node.name
        if name == "default":
            value, apply = self.any_value(node.node, names, depth), _default
        else:
            value, apply = self.value(node.node, names, depth), FILTERS[name]  # `check` saw it
        self.charge(node, depth, value, args)
        try:
            return apply(value, *args, **named)
        except FilterError as error:
            raise self.error(node, f"{name}: {error}") from error
        except (TypeError, ValueError) as error:
            raise self.error(node, f"{name}: these arguments do not fit") from error

    def body(self, body: Sequence[nodes.Node], names: Variables, depth: int) -> None:
        for node in body:
            self.charge(node, depth)
            match node:
                case nodes.Output():
                    self.output(node, names, depth)
                case nodes.If():
                    self.branch(node, names, depth + 1)
                case nodes.For() if not node.recursive:
                    self.loop(node, names, depth + 1)
                case _:
                    raise self.unusable(node)

    def output(self, node: nodes.Output, names: Variables, depth: int) -> None:
        for part in node.nodes:
            if isinstance(part, nodes.TemplateData):
                piece = Piece(part.data.replace("\0", ""), part.lineno, is_value=False)
            else:
                piece = Piece(self.printed(part, names, depth), part.lineno, is_value=True)
            self.made.append(piece)
            self.length += len(piece.text)
            if self.length > MAX_OUTPUT:
                raise self.error(part, f"the text is larger than {MAX_OUTPUT >> 20} MiB")

    def printed(self, node: nodes.Node, names: Variables, depth: int) -> str:
        value = self.value(node, names, depth)
        try:
            return text_of(value)
        except FilterError as error:
            hint = "use `| join(' ')` or `| tojson`"
            raise self.error(node, str(error), hint) from error

    def branch(self, node: nodes.If, names: Variables, depth: int) -> None:
        for one in (node, *node.elif_):
            if self.value(one.test, names, depth):
                return self.body(one.body, names, depth)
        return self.body(node.else_, names, depth)

    def loop(self, node: nodes.For, names: Variables, depth: int) -> None:
        rounds = self.rounds(node, names, depth)
        if not rounds:
            self.body(node.else_, names, depth)
        for index, bound in enumerate(rounds):
            self.charge(node, depth)
            self.steps += len(names) // 16  # the copy below
            at = {"index": index + 1, "index0": index, "length": len(rounds)}
            at |= {"first": index == 0, "last": index + 1 == len(rounds)}
            self.body(node.body, {**names, **bound, "loop": at}, depth)

    def rounds(self, node: nodes.For, names: Variables, depth: int) -> list[Variables]:
        over = self.value(node.iter, names, depth)
        if isinstance(over, str) or not isinstance(over, Sequence | Mapping):
            raise self.error(node.iter, f"expected a list to loop over, found {called(over)}")
        bound, test = [self.bound(node.target, item) for item in over], node.test
        return [one for one in bound if test is None or self.value(test, {**names, **one}, depth)]

    def bound(self, target: nodes.Node, item: Value) -> Variables:
        self.charge(target, 0)
        if isinstance(target, nodes.Name):
            return {target.name: item}
        parts = target.items if isinstance(target, nodes.Tuple) else []
        names = [one.name for one in parts if isinstance(one, nodes.Name)]
        if len(names) != len(parts) or not names:
            raise self.unusable(target)
        if isinstance(item, str) or not isinstance(item, Sequence) or len(item) != len(names):
            message = f"expected {len(names)} values for {', '.join(names)}, found {called(item)}"
            raise self.error(target, message)
        return dict(zip(names, item, strict=True))


def _default(value: Value | Undefined, default_value: Value = "", boolean: Value = False) -> Value:
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


def pieces(scalar: Scalar, variables: Variables) -> tuple[Piece, ...]:
    """The rendered text of `scalar`, in parts.

    Raises:
        RecipeError: as `render.render_tree`.
    """
    run, parsed = _Run(scalar), _parsed(scalar)
    run.check(parsed)
    run.body(parsed.body, variables, 1)
    return tuple(run.made)


def names_in(scalar: Scalar) -> frozenset[str]:
    """The variables that a template asks for, without those that its loops bind.

    Raises:
        RecipeError: it is malformed.
    """
    parsed = _parsed(scalar)
    names = list(parsed.find_all(nodes.Name))
    bound = {one.name for one in names if one.ctx == "store"}
    return frozenset(one.name for one in names if one.ctx == "load") - bound - {"loop"}


@cache
def _grammar() -> Environment:
    return Environment(  # noqa: S701 - it only parses, and nothing here is HTML
        keep_trailing_newline=True,
        # `${#x}` is shell, not a comment: `_parsed` marks those that are one with NUL, which the
        # text that we read does not hold.
        comment_start_string="\0{#",
        comment_end_string="#}\0",
        cache_size=0,
    )


def _parsed(scalar: Scalar) -> nodes.Template:
    if len(scalar.text) > MAX_TEMPLATE:
        message = f"the template is larger than {MAX_TEMPLATE >> 10} KiB"
        raise scalar.error(message, "move its fixed text into a file of its own")
    try:
        return _grammar().parse(COMMENT.sub("\0\\g<0>\0", scalar.text))
    except TemplateSyntaxError as error:
        message = f"the template cannot be read: {' '.join(str(error.message).split())}"
        hint = "write {{ '{{' }} where braces are meant as text"
        raise RecipeError(message, place=place_on(scalar, error.lineno), hint=hint) from error
    except (RecursionError, ValueError, OverflowError) as error:
        # Python's own limits: nesting, and the digits of a number (sys.set_int_max_str_digits).
        raise scalar.error("the template is too complex") from error
