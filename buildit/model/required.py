"""Required-use: rules between the flags of one package, and the smallest repairs of a violation.

Nothing is ever flipped silently: a violation is an error that shows the rule, the values with
their origins, and ready-to-paste lines, each of which was tried against every rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice, product

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model.condition import (
    AllOf,
    AnyOf,
    AtMostOne,
    IfThen,
    Is,
    Not,
    OneOf,
    Rule,
    condition_text,
    holds,
    mentioned,
    parse_condition,
)
from buildit.model.use import DEFAULT, FLAG_NAME, Flag, FlagValue, Setting, flag_text, flag_values

_DEEPEST = 32
_Group = type[AllOf] | type[AnyOf] | type[OneOf] | type[AtMostOne]
_GROUPS: Mapping[str, _Group] = {
    "all-of": AllOf,
    "any-of": AnyOf,
    "one-of": OneOf,
    "at-most-one": AtMostOne,
}
_SIGNS: Mapping[str, _Group] = {"||": AnyOf, "^^": OneOf, "??": AtMostOne, "(": AllOf}
_WORD = re.compile(rf"(!?)({FLAG_NAME})(?:=([A-Za-z0-9][A-Za-z0-9+_.-]*))?(\??)")
_TRIES = 1 << 16  # all combinations of 16 switches
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Requirement:
    """One rule as written, and where (`file:line:column`)."""

    rule: Rule
    origin: str


@dataclass(frozen=True, slots=True)
class Repair:
    """A set of changes that satisfies every rule: (flag, value) in the order of declaration."""

    changes: tuple[tuple[str, FlagValue], ...]

    def __str__(self) -> str:
        """A line to paste into `pkg.yaml`: `use: {with: [gnutls], without: [openssl]}`."""
        on = [f"{f}={v}" if isinstance(v, str) else f for f, v in self.changes if v]
        off = [flag for flag, value in self.changes if value is False]
        parts = [f"with: [{', '.join(on)}]"] * bool(on)
        parts += [f"without: [{', '.join(off)}]"] * bool(off)
        return f"use: {{{', '.join(parts)}}}"


def parse_required(value: object, *, place: str) -> Rule:
    """A rule from its data.

    A text is Portage's notation; a list is all-of; a map is `{all-of|any-of|one-of|at-most-one:
    [...]}` or `{if: condition, then: [...]}`.

    Raises:
        RecipeError: anything else.
    """
    return _from_data(value, place, 0)


def _from_data(value: object, place: str, depth: int) -> Rule:
    if depth > _DEEPEST:
        raise RecipeError(f"a rule nested deeper than {_DEEPEST}", place=place, hint="split it")
    match value:
        case str():
            return parse_portage(value, place=place)
        case [_, *_] as children:
            return _joined(tuple(_from_data(child, place, depth + 1) for child in children))
        case {"if": str() | list() as condition, "then": then, **others} if not others:
            return IfThen(
                parse_condition(condition, place=place), _from_data(then, place, depth + 1)
            )
        case dict() if len(value) == 1:
            name, children = next(iter(value.items()))
            if name in _GROUPS:
                return _GROUPS[name](_members(name, children, place, depth))
    raise RecipeError(
        "malformed required-use rule",
        place=place,
        hint=f"a rule is a flag, {{{'|'.join(_GROUPS)}: [...]}} or {{if: flag, then: [...]}}",
    )


def _members(name: str, children: object, place: str, depth: int) -> tuple[Rule, ...]:
    if isinstance(children, list | tuple) and children:
        return tuple(_from_data(child, place, depth + 1) for child in children)
    raise RecipeError(
        f"{name} needs a list of rules", place=place, hint=f"write {name}: [ssl, gnutls]"
    )


def _joined(rules: tuple[Rule, ...]) -> Rule:
    return rules[0] if len(rules) == 1 else AllOf(rules)


def parse_portage(text: str, *, place: str) -> Rule:
    """Parse REQUIRED_USE in PMS notation: `ssl? ( || ( a b ) ) ^^ ( c d ) !e` (PMS 7.3.4, 8.2).

    Raises:
        RecipeError: the message quotes the text with the column of what is wrong.
    """
    words = [(match.start(), match[0]) for match in re.finditer(r"\S+", text)]
    rules, at = _group(text, words, 0, place, 0)
    if at < len(words):
        raise _malformed(text, words, at, "a ')' without '('", place)
    if not rules:
        raise _malformed(text, words, at, "a rule expected", place)
    return _joined(rules)


def _malformed(
    text: str, words: Sequence[tuple[int, str]], at: int, reason: str, place: str
) -> RecipeError:
    column = words[at][0] if at < len(words) else len(text)
    return RecipeError(
        f"malformed required-use {text!r}: {reason} at column {column + 1}",
        place=place,
        hint="a rule looks like ssl? ( ^^ ( openssl gnutls ) ), blanks around every parenthesis",
    )


def _group(
    text: str, words: Sequence[tuple[int, str]], at: int, place: str, depth: int
) -> tuple[tuple[Rule, ...], int]:
    """The rules from words[at] on to the `)` or the end, and the place of that."""
    if depth > _DEEPEST:
        raise _malformed(text, words, at, f"nested deeper than {_DEEPEST}", place)
    rules: list[Rule] = []
    while at < len(words) and words[at][1] != ")":
        word = words[at][1]
        flag = _WORD.fullmatch(word)
        if flag and not flag[4]:
            rules.append(_literal(flag))
            at += 1
            continue
        if not flag and word not in _SIGNS:
            raise _malformed(text, words, at, f"unexpected {word!r}", place)
        inside, at = _bracket(text, words, at + (word != "("), place, depth)
        if flag:
            rules.append(IfThen(_literal(flag), _joined(inside)))
        else:
            rules.append(_SIGNS[word](inside))
    return tuple(rules), at


def _bracket(
    text: str, words: Sequence[tuple[int, str]], at: int, place: str, depth: int
) -> tuple[tuple[Rule, ...], int]:
    if at >= len(words) or words[at][1] != "(":
        raise _malformed(text, words, at, "'(' expected", place)
    inside, end = _group(text, words, at + 1, place, depth + 1)
    if end >= len(words):
        raise _malformed(text, words, end, "')' expected", place)
    if not inside:
        raise _malformed(text, words, at, "an empty group", place)
    return inside, end + 1


def _literal(word: re.Match[str]) -> Rule:
    test = Is(word[2], word[3] or True)
    return Not(test) if word[1] else test


def rule_text(rule: Rule) -> str:
    """The rule in PMS notation; a condition of more than one flag stands in parentheses."""
    match rule:
        case Is() | Not(Is()):
            return condition_text(rule)
        case Not(inner):
            return f"!( {rule_text(inner)} )"
        case AllOf(rules):
            return f"( {' '.join(map(rule_text, rules))} )"
        case AnyOf(rules):
            return f"|| ( {' '.join(map(rule_text, rules))} )"
        case OneOf(rules):
            return f"^^ ( {' '.join(map(rule_text, rules))} )"
        case AtMostOne(rules):
            return f"?? ( {' '.join(map(rule_text, rules))} )"
        case IfThen(condition, then):
            simple = isinstance(condition, Is | Not)
            when = condition_text(condition) if simple else f"({condition_text(condition)})"
            inside = rule_text(then)
            return f"{when}? {inside if isinstance(then, AllOf) else f'( {inside} )'}"


def rule_words(rule: Rule) -> str:
    """The rule for people: `with ssl: exactly one of openssl, gnutls`."""
    match rule:
        case IfThen(condition, then):
            return f"with {condition_text(condition)}: {rule_words(then)}"
        case AllOf(rules):
            return " and ".join(_phrase(child) for child in rules)
        case AnyOf(rules):
            return f"at least one of {', '.join(map(_phrase, rules))}"
        case OneOf(rules):
            return f"exactly one of {', '.join(map(_phrase, rules))}"
        case AtMostOne(rules):
            return f"at most one of {', '.join(map(_phrase, rules))}"
        case Is() | Not():
            return rule_text(rule)


def _phrase(rule: Rule) -> str:
    return rule_words(rule) if isinstance(rule, Is | Not) else f"({rule_words(rule)})"


def check_required(
    package: str,
    requirements: Sequence[Requirement],
    declared: Mapping[str, Flag],
    settings: Mapping[str, Setting],
) -> None:
    """Refuse flags that break a rule of the package.

    Raises:
        UnsatisfiableError: `message` and `place` name the first broken rule; `details` hold the
            rules in words, the values with their origins and the smallest repairs.
    """
    flags = flag_values(settings)
    broken = [wanted for wanted in requirements if not holds(wanted.rule, flags)]
    if not broken:
        return
    details = [f"rule: {rule_words(wanted.rule)} ({wanted.origin})" for wanted in broken]
    names = dict.fromkeys(test.flag for wanted in broken for test in mentioned(wanted.rule))
    details += [
        f"{flag_text(name, settings[name].value)} ({settings[name].origin})" for name in names
    ]
    repairs = smallest_repairs([wanted.rule for wanted in requirements], declared, settings)
    if repairs:
        details.append("smallest changes that satisfy every rule:")
        details += [f"  {repair}" for repair in repairs]
        hint = f"in pkg.yaml: {repairs[0]}" + (" (or another one above)" * (len(repairs) > 1))
    else:
        hint = "no small change of these flags satisfies every rule: look at the rules themselves"
    raise UnsatisfiableError(
        f"{package}: its flags break the rule {rule_text(broken[0].rule)!r}",
        place=broken[0].origin,
        hint=hint,
        details=tuple(details),
    )


def smallest_repairs(
    rules: Sequence[Rule], declared: Mapping[str, Flag], settings: Mapping[str, Setting]
) -> tuple[Repair, ...]:
    """The sets of fewest changes after which every rule holds, best first, at most six.

    Breadth first by the number of changes; those that leave the user's own settings alone come
    first, then the order of declaration. Exhaustive for 16 switches; with more, the search ends
    after 65536 tries and what it has not found by then counts as none.
    """
    flags = dict(flag_values(settings))
    related = {test.flag for rule in _entangled(rules, flags) for test in mentioned(rule)}
    names = [name for name in declared if name in related]
    tries = 0
    for distance in range(1, len(names) + 1):
        found: list[Repair] = []
        for changes in _changes(names, declared, flags, distance):
            tries += 1
            if tries > _TRIES:
                return ()
            if all(holds(rule, flags | dict(changes)) for rule in rules):
                found.append(Repair(changes))
        if found:
            found.sort(key=lambda repair: _own_settings(repair, settings))
            return tuple(islice(found, _SHOWN))
    return ()


def _own_settings(repair: Repair, settings: Mapping[str, Setting]) -> int:
    return sum(settings[flag].layer != DEFAULT for flag, _ in repair.changes)


def _changes(
    names: Sequence[str],
    declared: Mapping[str, Flag],
    flags: Mapping[str, FlagValue],
    distance: int,
) -> Iterator[tuple[tuple[str, FlagValue], ...]]:
    """Every way to change exactly `distance` of the flags."""
    for chosen in combinations(names, distance):
        yield from product(
            *(
                [(name, value) for value in _other_values(declared[name], flags[name])]
                for name in chosen
            )
        )


def _other_values(flag: Flag, value: FlagValue) -> Sequence[FlagValue]:
    return [c for c in flag.choices if c != value] if flag.choices else [not value]


def _entangled(rules: Sequence[Rule], flags: Mapping[str, FlagValue]) -> Sequence[Rule]:
    """The broken rules and those that share flags with them, directly or through others."""
    sets = [{test.flag for test in mentioned(rule)} for rule in rules]
    near = {i for i, rule in enumerate(rules) if not holds(rule, flags)}
    reached = set().union(*(sets[i] for i in near)) if near else set()
    while more := {i for i, names in enumerate(sets) if i not in near and names & reached}:
        near |= more
        reached = reached.union(*(sets[i] for i in more))
    return [rules[i] for i in sorted(near)]
