"""Conditions over flags: `when: ssl && !gnutls`, and the groups that required-use is made of.

One closed set of rules with one meaning: `holds`. The groups count their direct children as PMS
8.2 does: a conditional child whose condition is false does not count at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from buildit.errors import RecipeError
from buildit.model.use import FLAG_NAME, FlagValue, unknown_flag_hint

_DEEPEST = 32
_LONGEST = 4096
_TOKEN = re.compile(
    rf"\s*(?:(&&|\|\||!|\(|\))|({FLAG_NAME})(?:\s*=\s*([A-Za-z0-9][A-Za-z0-9+_.-]*))?)"
)


@dataclass(frozen=True, slots=True)
class Is:
    """A boolean flag is on, or a choice has this value."""

    flag: str
    value: FlagValue = True


@dataclass(frozen=True, slots=True)
class Not:
    rule: Rule


@dataclass(frozen=True, slots=True)
class AllOf:
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class AnyOf:
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class OneOf:
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class AtMostOne:
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class IfThen:
    """Where `condition` holds, `rule` must."""

    condition: Rule
    rule: Rule


Rule = Is | Not | AllOf | AnyOf | OneOf | AtMostOne | IfThen

ALWAYS = AllOf(())


def holds(rule: Rule, flags: Mapping[str, FlagValue]) -> bool:
    """Whether the flags satisfy the rule.

    Raises:
        KeyError: the rule names a flag that `flags` does not have; see `check_flags`.
    """
    match rule:
        case Is(flag, value):
            return flags[flag] == value
        case Not(inner):
            return not holds(inner, flags)
        case AllOf(rules):
            return all(holds(child, flags) for child in rules)
        case AnyOf(rules):
            return any(_verdicts(rules, flags))
        case OneOf(rules):
            return sum(_verdicts(rules, flags)) == 1
        case AtMostOne(rules):
            return sum(_verdicts(rules, flags)) <= 1
        case IfThen(condition, then):
            return not holds(condition, flags) or holds(then, flags)


def _verdicts(rules: Iterable[Rule], flags: Mapping[str, FlagValue]) -> Iterator[bool]:
    for rule in rules:
        if isinstance(rule, IfThen) and not holds(rule.condition, flags):
            continue
        yield holds(rule, flags)


def mentioned(rule: Rule) -> Iterator[Is]:
    """Every test of a flag in the rule, in written order."""
    match rule:
        case Is():
            yield rule
        case Not(inner):
            yield from mentioned(inner)
        case AllOf(rules) | AnyOf(rules) | OneOf(rules) | AtMostOne(rules):
            for child in rules:
                yield from mentioned(child)
        case IfThen(condition, then):
            yield from mentioned(condition)
            yield from mentioned(then)


def check_flags(
    rule: Rule, declared: Mapping[str, Sequence[str]], *, place: str | None = None
) -> None:
    """Refuse a rule over flags or choices that do not exist.

    `declared` maps a flag to its choices (none: a switch).

    Raises:
        RecipeError: with the nearest declared name.
    """
    for test in mentioned(rule):
        if test.flag not in declared:
            raise RecipeError(
                f"a condition on {test.flag!r}, which is not declared",
                place=place,
                hint=unknown_flag_hint(test.flag, declared),
            )
        choices = declared[test.flag]
        if choices and test.value not in choices:
            wrong = f"no choice {test.value!r}" if isinstance(test.value, str) else "no on and off"
            raise RecipeError(
                f"a condition on {test.flag!r}, which has {wrong}",
                place=place,
                hint=f"write {test.flag}=CHOICE, one of: {', '.join(choices)}",
            )
        if not choices and isinstance(test.value, str):
            raise RecipeError(
                f"a condition on {test.flag}={test.value}, but {test.flag!r} is a switch",
                place=place,
                hint=f"write {test.flag} or !{test.flag}",
            )


def parse_condition(value: str | Sequence[str], *, place: str | None = None) -> Rule:
    """Parse `when:`: `ssl`, `!ssl`, `tls=openssl`, with `&&`, `||` and parentheses; a list is all.

    `&&` binds closer than `||`, `!` closest.

    Raises:
        RecipeError: the message quotes the text with the column of what is wrong.
    """
    if isinstance(value, str):
        return _Parser(value, place).whole()
    if not value:
        raise RecipeError("an empty list of conditions", place=place, hint="leave `when:` out")
    parts = tuple(_Parser(text, place).whole() for text in value)
    return parts[0] if len(parts) == 1 else AllOf(parts)


def condition_text(rule: Rule) -> str:
    """A condition as `parse_condition` reads it.

    Raises:
        ValueError: the rule holds a group that conditions do not have.
    """
    match rule:
        case Is(flag, value):
            return f"{flag}={value}" if isinstance(value, str) else flag
        case Not(inner):
            return f"!{_bracketed(inner)}"
        case AllOf(rules) if rules:
            return " && ".join(_bracketed(child) for child in rules)
        case AnyOf(rules) if rules:
            return " || ".join(_bracketed(child) for child in rules)
        case _:
            raise ValueError(f"not a condition: {rule!r}")


def _bracketed(rule: Rule) -> str:
    text = condition_text(rule)
    return f"({text})" if isinstance(rule, AllOf | AnyOf) else text


class _Parser:
    """Recursive descent over one text; `_at` is the token that is looked at."""

    def __init__(self, text: str, place: str | None) -> None:
        self._text = text
        self._place = place
        self._tokens = tuple(self._scan())
        self._at = 0
        self._depth = 0

    def whole(self) -> Rule:
        rule = self._any()
        if self._at < len(self._tokens):
            raise self._fail("'&&', '||' or the end expected")
        return rule

    def _scan(self) -> Iterator[tuple[int, str | Is]]:
        at, end = 0, len(self._text.rstrip())
        if end > _LONGEST:
            raise RecipeError(
                f"a condition longer than {_LONGEST} characters",
                place=self._place,
                hint="split it into a list",
            )
        while at < end:
            match = _TOKEN.match(self._text, at)
            if match is None:
                blanks = len(self._text[at:]) - len(self._text[at:].lstrip())
                raise self._fail("a flag expected", at + blanks)
            if match[1]:
                yield match.start(1), match[1]
            else:
                yield match.start(2), Is(match[2], match[3] or True)
            at = match.end()

    def _fail(self, reason: str, column: int | None = None) -> RecipeError:
        if column is None:
            done = self._at >= len(self._tokens)
            column = len(self._text) if done else self._tokens[self._at][0]
        return RecipeError(
            f"malformed condition {self._text!r}: {reason} at column {column + 1}",
            place=self._place,
            hint="a condition looks like ssl, !ssl, tls=openssl or ssl && !gnutls",
        )

    def _take(self, sign: str) -> bool:
        found = self._at < len(self._tokens) and self._tokens[self._at][1] == sign
        self._at += found
        return found

    def _any(self) -> Rule:
        parts = [self._all()]
        while self._take("||"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Rule:
        parts = [self._one()]
        while self._take("&&"):
            parts.append(self._one())
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _one(self) -> Rule:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise self._fail(f"nested deeper than {_DEEPEST}")
        rule = self._operand()
        self._depth -= 1
        return rule

    def _operand(self) -> Rule:
        if self._take("!"):
            return Not(self._one())
        if self._take("("):
            rule = self._any()
            if not self._take(")"):
                raise self._fail("')' expected")
            return rule
        if self._at < len(self._tokens):
            token = self._tokens[self._at][1]
            if isinstance(token, Is):
                self._at += 1
                return token
        raise self._fail("a flag expected")
