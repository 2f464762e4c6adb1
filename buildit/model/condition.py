"""Rules over flags: conditions (`when: ssl && !gnutls`), and what a package requires of its own
flags (required-use), with the smallest repairs where they break it.

One closed set of rules with one meaning: `holds`. The groups count their direct children as PMS
8.2 does: a conditional child whose condition is false does not count at all.

Nothing is ever flipped silently: a violation is an error that shows the rule, the values with
their origins, and ready-to-paste lines, each of which was tried against every rule.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product

from buildit.errors import RecipeError, UnsatisfiableError
from buildit.model import use
from buildit.model.use import CHOICE, DEFAULT, FLAG_NAME, Flag, FlagValue, Setting

_DEEPEST = 32
_LONGEST = 4096
_TOKEN = re.compile(rf"\s*(&&|\|\||!|\(|\)|{FLAG_NAME}(?:\s*=\s*{CHOICE})?|\S)")
_TEST = re.compile(rf"(!?)({FLAG_NAME})(?:\s*=\s*({CHOICE}))?(\??)")
_TRIES = 1 << 16  # all combinations of 16 switches
_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Is:
    """A boolean flag is on, or a choice has this value."""

    flag: str
    value: FlagValue = True


@dataclass(frozen=True, slots=True)
class Not:
    rule: Rule


@dataclass(frozen=True)
class RuleGroup:
    """Rules of which some number must hold."""

    rules: tuple[Rule, ...]


class AllOf(RuleGroup):
    """Each of them."""


class AnyOf(RuleGroup):
    """One or more."""


class OneOf(RuleGroup):
    """One, and no other."""


class AtMostOne(RuleGroup):
    """One or none."""


@dataclass(frozen=True, slots=True)
class IfThen:
    """Where `condition` holds, `rule` must."""

    condition: Rule
    rule: Rule


Rule = Is | Not | AllOf | AnyOf | OneOf | AtMostOne | IfThen

_Group = type[AllOf] | type[AnyOf] | type[OneOf] | type[AtMostOne]
_GROUPS: Mapping[_Group, tuple[str, str, str]] = {
    AllOf: ("all-of", "", ""),
    AnyOf: ("any-of", "|| ", "at least one of "),
    OneOf: ("one-of", "^^ ", "exactly one of "),
    AtMostOne: ("at-most-one", "?? ", "at most one of "),
}
"""The groups in data, in Portage's notation, and in words."""
_NAMED = {name: group for group, (name, _, _) in _GROUPS.items()}
_SIGNED = {sign.strip() or "(": group for group, (_, sign, _) in _GROUPS.items()}


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
        case IfThen(condition, then):
            return not holds(condition, flags) or holds(then, flags)
        case AllOf(rules):
            return all(_verdicts(rules, flags))
        case AnyOf(rules):
            return any(_verdicts(rules, flags))
        case OneOf(rules):
            return sum(_verdicts(rules, flags)) == 1
        case AtMostOne(rules):
            return sum(_verdicts(rules, flags)) <= 1


def _verdicts(rules: Sequence[Rule], flags: Mapping[str, FlagValue]) -> Iterator[bool]:
    for rule in rules:
        if not isinstance(rule, IfThen) or holds(rule.condition, flags):
            yield holds(rule, flags)


def mentioned(rule: Rule) -> Iterator[Is]:
    """Every test of a flag in the rule, in written order."""
    match rule:
        case Is():
            yield rule
        case Not(inner):
            yield from mentioned(inner)
        case IfThen(condition, then):
            yield from mentioned(condition)
            yield from mentioned(then)
        case _:
            for child in rule.rules:
                yield from mentioned(child)


def check_flags(
    rule: Rule, declared: Mapping[str, Sequence[str]], *, place: str | None = None
) -> None:
    """Refuse a rule over flags or choices that do not exist.

    `declared` maps a flag to its choices (none: a switch).

    Raises:
        RecipeError: with the nearest declared name.
    """
    for test in mentioned(rule):
        flag, value, choices = test.flag, test.value, declared.get(test.flag)
        if choices is None:
            told = f"{flag!r}, which is not declared"
            hint = use.unknown_flag_hint(flag, declared)
        elif choices and value not in choices:
            wrong = f"no choice {value!r}" if isinstance(value, str) else "no on and off"
            told = f"{flag!r}, which has {wrong}"
            hint = f"write {flag}=CHOICE, one of: {', '.join(choices)}"
        elif not choices and isinstance(value, str):
            told = f"{flag}={value}, but {flag!r} is a switch"
            hint = f"write {flag} or !{flag}"
        else:
            continue
        raise RecipeError(f"a condition on {told}", place=place, hint=hint)


class _Words:
    """The words of a rule, each with its column, and the one that is looked at."""

    def __init__(
        self, kind: str, text: str, place: str | None, words: Sequence[tuple[int, str]], hint: str
    ) -> None:
        self._kind, self._text, self._place, self._hint = kind, text, place, hint
        self._words = (*words, (len(text), ""))
        self.at = 0

    @property
    def now(self) -> str:
        """The word that is looked at, empty at the end."""
        return self._words[self.at][1]

    def take(self, sign: str) -> bool:
        found = self.now == sign
        self.at += found
        return found

    def fail(self, reason: str, at: int | None = None) -> RecipeError:
        column = self._words[self.at if at is None else at][0]
        told = f"malformed {self._kind} {self._text!r}: {reason} at column {column + 1}"
        return RecipeError(told, place=self._place, hint=self._hint)


def parse_condition(value: str | Sequence[str], *, place: str | None = None) -> Rule:
    """Parse `when:`: `ssl`, `!ssl`, `tls=openssl`, with `&&`, `||` and parentheses; a list is all.

    `&&` binds closer than `||`, `!` closest.

    Raises:
        RecipeError: the message quotes the text with the column of what is wrong.
    """
    if not isinstance(value, str):
        if not value:
            raise RecipeError("an empty list of conditions", place=place, hint="leave `when:` out")
        return _joined(AllOf, [parse_condition(text, place=place) for text in value])
    if len(value.rstrip()) > _LONGEST:
        told = f"a condition longer than {_LONGEST} characters"
        raise RecipeError(told, place=place, hint="split it into a list")
    found = [(match.start(1), match[1]) for match in _TOKEN.finditer(value)]
    hint = "a condition looks like ssl, !ssl, tls=openssl or ssl && !gnutls"
    words = _Words("condition", value, place, found, hint)
    for at, (_, word) in enumerate(found):
        if word not in ("&&", "||", "!", "(", ")") and not _TEST.fullmatch(word):
            raise words.fail("a flag expected", at)
    rule = _any(words, 1)
    if words.now:
        raise words.fail("'&&', '||' or the end expected")
    return rule


def _joined(group: _Group, rules: Sequence[Rule]) -> Rule:
    return rules[0] if len(rules) == 1 else group(tuple(rules))


def _any(words: _Words, depth: int) -> Rule:
    parts = [_all(words, depth)]
    while words.take("||"):
        parts.append(_all(words, depth))
    return _joined(AnyOf, parts)


def _all(words: _Words, depth: int) -> Rule:
    parts = [_one(words, depth)]
    while words.take("&&"):
        parts.append(_one(words, depth))
    return _joined(AllOf, parts)


def _one(words: _Words, depth: int) -> Rule:
    if depth > _DEEPEST:
        raise words.fail(f"nested deeper than {_DEEPEST}")
    if words.take("!"):
        return Not(_one(words, depth + 1))
    if words.take("("):
        rule = _any(words, depth + 1)
        if not words.take(")"):
            raise words.fail("')' expected")
        return rule
    test = _TEST.fullmatch(words.now)
    if test is None:
        raise words.fail("a flag expected")
    words.at += 1
    return _literal(test)


def _literal(word: re.Match[str]) -> Rule:
    test = Is(word[2], word[3] or True)
    return Not(test) if word[1] else test


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
            return " && ".join(map(_bracketed, rules))
        case AnyOf(rules) if rules:
            return " || ".join(map(_bracketed, rules))
        case _:
            raise ValueError(f"not a condition: {rule!r}")


def _bracketed(rule: Rule) -> str:
    text = condition_text(rule)
    return f"({text})" if isinstance(rule, AllOf | AnyOf) else text


@dataclass(frozen=True, slots=True)
class Requirement:
    """One rule as written, and where (`file:line:column`)."""

    rule: Rule
    origin: str


def parse_required(value: object, *, place: str, depth: int = 0) -> Rule:
    """A rule from its data.

    A text is Portage's notation; a list is all-of; a map is `{all-of|any-of|one-of|at-most-one:
    [...]}` or `{if: condition, then: [...]}`.

    Raises:
        RecipeError: anything else.
    """
    if depth > _DEEPEST:
        raise RecipeError(f"a rule nested deeper than {_DEEPEST}", place=place, hint="split it")
    match value:
        case str():
            return parse_portage(value, place=place)
        case [_, *_]:
            return _joined(AllOf, _rules(value, place, depth))
        case {"if": str() | list() as condition, "then": then, **others} if not others:
            rule = parse_required(then, place=place, depth=depth + 1)
            return IfThen(parse_condition(condition, place=place), rule)
        case dict() if len(value) == 1 and (name := next(iter(value))) in _NAMED:
            if not isinstance(value[name], list | tuple) or not value[name]:
                hint = f"write {name}: [ssl, gnutls]"
                raise RecipeError(f"{name} needs a list of rules", place=place, hint=hint)
            return _NAMED[name](_rules(value[name], place, depth))
    hint = f"a rule is a flag, {{{'|'.join(_NAMED)}: [...]}} or {{if: flag, then: [...]}}"
    raise RecipeError("malformed required-use rule", place=place, hint=hint)


def _rules(values: Sequence[object], place: str, depth: int) -> tuple[Rule, ...]:
    return tuple(parse_required(value, place=place, depth=depth + 1) for value in values)


def parse_portage(text: str, *, place: str) -> Rule:
    """Parse REQUIRED_USE in PMS notation: `ssl? ( || ( a b ) ) ^^ ( c d ) !e` (PMS 7.3.4, 8.2).

    Raises:
        RecipeError: the message quotes the text with the column of what is wrong.
    """
    found = [(match.start(), match[0]) for match in re.finditer(r"\S+", text)]
    hint = "a rule looks like ssl? ( ^^ ( openssl gnutls ) ), blanks around every parenthesis"
    words = _Words("required-use", text, place, found, hint)
    rules = _portage_rules(words, 0)
    if words.now:
        raise words.fail("a ')' without '('")
    if not rules:
        raise words.fail("a rule expected")
    return _joined(AllOf, rules)


def _portage_rules(words: _Words, depth: int) -> tuple[Rule, ...]:
    """The rules up to the next `)` or the end."""
    if depth > _DEEPEST:
        raise words.fail(f"nested deeper than {_DEEPEST}")
    rules: list[Rule] = []
    while (word := words.now) not in ("", ")"):
        flag = _TEST.fullmatch(word)
        if flag and not flag[4]:
            rules.append(_literal(flag))
            words.at += 1
            continue
        if not flag and word not in _SIGNED:
            raise words.fail(f"unexpected {word!r}")
        words.at += word != "("
        begin = words.at
        if not words.take("("):
            raise words.fail("'(' expected")
        inside = _portage_rules(words, depth + 1)
        if not words.take(")"):
            raise words.fail("')' expected")
        if not inside:
            raise words.fail("an empty group", begin)
        if flag:
            rules.append(IfThen(_literal(flag), _joined(AllOf, inside)))
        else:
            rules.append(_SIGNED[word](inside))
    return tuple(rules)


def rule_text(rule: Rule) -> str:
    """The rule in PMS notation; a condition of more than one flag stands in parentheses."""
    match rule:
        case Is() | Not(Is()):
            return condition_text(rule)
        case Not(inner):
            return f"!( {rule_text(inner)} )"
        case IfThen(condition, then):
            when, inside = condition_text(condition), rule_text(then)
            when = when if isinstance(condition, Is | Not) else f"({when})"
            return f"{when}? {inside if isinstance(then, AllOf) else f'( {inside} )'}"
        case _:
            return f"{_GROUPS[type(rule)][1]}( {' '.join(map(rule_text, rule.rules))} )"


def rule_words(rule: Rule) -> str:
    """The rule for people: `with ssl: exactly one of openssl, gnutls`."""
    match rule:
        case Is() | Not():
            return rule_text(rule)
        case IfThen(condition, then):
            return f"with {condition_text(condition)}: {rule_words(then)}"
        case _:
            words = ((one, rule_words(one)) for one in rule.rules)
            told = (text if isinstance(one, Is | Not) else f"({text})" for one, text in words)
            between = " and " if isinstance(rule, AllOf) else ", "
            return _GROUPS[type(rule)][2] + between.join(told)


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
    flags = use.flag_values(settings)
    broken = [wanted for wanted in requirements if not holds(wanted.rule, flags)]
    if not broken:
        return
    details = [f"rule: {rule_words(wanted.rule)} ({wanted.origin})" for wanted in broken]
    names = dict.fromkeys(test.flag for wanted in broken for test in mentioned(wanted.rule))
    details += [
        f"{use.flag_text(name, settings[name].value)} ({settings[name].origin})" for name in names
    ]
    repairs = smallest_repairs([wanted.rule for wanted in requirements], declared, settings)
    if repairs:
        details.append("smallest changes that satisfy every rule:")
        details += [f"  {repair}" for repair in repairs]
        hint = f"in pkg.yaml: {repairs[0]}" + (" (or another one above)" * (len(repairs) > 1))
    else:
        hint = "no small change of these flags satisfies every rule: look at the rules themselves"
    told = f"{package}: its flags break the rule {rule_text(broken[0].rule)!r}"
    raise UnsatisfiableError(told, place=broken[0].origin, hint=hint, details=tuple(details))


def smallest_repairs(
    rules: Sequence[Rule], declared: Mapping[str, Flag], settings: Mapping[str, Setting]
) -> tuple[Repair, ...]:
    """The sets of fewest changes after which every rule holds, best first, at most six.

    Breadth first by the number of changes; those that leave the user's own settings alone come
    first, then the order of declaration. Exhaustive for 16 switches; with more, the search ends
    after 65536 tries and what it has not found by then counts as none.
    """
    flags = dict(use.flag_values(settings))
    related = _entangled(rules, flags)
    others: dict[str, list[tuple[str, FlagValue]]] = {
        name: [(name, value) for value in flag.choices or (True, False) if value != flags[name]]
        for name, flag in declared.items()
        if name in related
    }
    tries = 0
    for distance in range(1, len(others) + 1):
        found: list[Repair] = []
        for names in combinations(others, distance):
            for changes in product(*(others[name] for name in names)):
                tries += 1
                if tries > _TRIES:
                    return ()
                if all(holds(rule, flags | dict(changes)) for rule in rules):
                    found.append(Repair(changes))
        if found:
            own = {name for name in others if settings[name].layer != DEFAULT}
            found.sort(key=lambda repair: sum(flag in own for flag, _ in repair.changes))
            return tuple(found[:_SHOWN])
    return ()


def _entangled(rules: Sequence[Rule], flags: Mapping[str, FlagValue]) -> set[str]:
    """The flags of the broken rules and of those that share flags with them, directly or through
    others."""
    sets = [{test.flag for test in mentioned(rule)} for rule in rules]
    broken = [names for rule, names in zip(rules, sets, strict=True) if not holds(rule, flags)]
    reached = set[str]().union(*broken)
    while more := set[str]().union(*(names for names in sets if names & reached)) - reached:
        reached |= more
    return reached
