"""Atoms: what a dependency, a `base:` or the command line asks for, after PMS 8.3.

`category/name-1.2` without an operator means exactly that version, as `=category/name-1.2` does.
Unlike there, a range is one atom: `>=category/name-1.2 <2`.
Slots and blockers are refused by name: the tree has none.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from itertools import pairwise

from buildit.errors import RecipeError
from buildit.model.use import CHOICE, FLAG_NAME, FlagValue, flag_text
from buildit.model.version import Version, is_version, suggested, suggested_name

_CATEGORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_.-]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_-]*")
_OPERATOR = re.compile(r">=|<=|>|<|=|~|")
_BOUND = re.compile(r"(>=|<=|>|<)(.*)")
_USE_DEP = re.compile(
    rf"(?P<mark>[-!]?)(?P<flag>{FLAG_NAME})(?P<default>\(\+\)|\(-\)|)"
    rf"(?P<kind>\?|=|)(?P<choice>(?<==){CHOICE}|)"
)
_HINT = "an atom looks like dev-libs/openssl, >=dev-libs/openssl-3.0 or dev-libs/openssl[ssl,-x]"


class Operator(StrEnum):
    ANY = ""
    EXACT = " "
    EQUAL = "="
    PREFIX = "=*"
    UPSTREAM = "~"
    LESS = "<"
    AT_MOST = "<="
    AT_LEAST = ">="
    GREATER = ">"


_RANGE: Mapping[Operator, Callable[[Version, Version], bool]] = {
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.AT_LEAST: operator.ge,
    Operator.GREATER: operator.gt,
}
_HOLDS = {
    **_RANGE,
    Operator.EXACT: operator.eq,
    Operator.EQUAL: operator.eq,
    Operator.UPSTREAM: Version.same_upstream,
    Operator.PREFIX: Version.has_prefix,
}
"""Whether a version is what an operator asks for with another one."""


class UseKind(Enum):
    """How one flag of the dependency is asked for (PMS 8.3.4): what stands before and after it."""

    ON = ("", "")
    OFF = ("-", "")
    ON_IF = ("", "?")
    OFF_UNLESS = ("!", "?")
    SAME = ("", "=")
    OPPOSITE = ("!", "=")
    CHOICE = ("", "=CHOICE")


_KINDS = {kind.value: kind for kind in UseKind}
_DEFAULTS = {"": None, "(+)": True, "(-)": False}


@dataclass(frozen=True, slots=True)
class UseDep:
    """One demand on a flag; `default` stands for a flag that the dependency does not declare."""

    flag: str
    kind: UseKind
    default: bool | None = None
    choice: str = ""

    def __str__(self) -> str:
        before, after = self.kind.value
        default = "" if self.default is None else "(+)" if self.default else "(-)"
        return f"{before}{self.flag}{default}{after[:1]}{self.choice}"

    def wanted(self, parent: Mapping[str, FlagValue]) -> FlagValue | None:
        """The value demanded when the dependent has the flags `parent`; None is "any".

        Raises:
            KeyError: the demand speaks of a flag that the dependent does not declare.
        """
        match self.kind:
            case UseKind.ON:
                return True
            case UseKind.OFF:
                return False
            case UseKind.CHOICE:
                return self.choice
            case UseKind.ON_IF:
                return True if parent[self.flag] else None
            case UseKind.OFF_UNLESS:
                return None if parent[self.flag] else False
            case UseKind.SAME:
                return parent[self.flag]
            case UseKind.OPPOSITE:
                return not parent[self.flag]


@dataclass(frozen=True, slots=True)
class Atom:
    """`name` is `category/name`; `version` is None exactly where `operator` is ANY. `bounds` are
    what the version must satisfy too, such as `<2`.

    `declared` are flags that a settled atom does not ask for now, but speaks of: the dependency
    must have them all the same (PMS 8.3.4), or the atom would fail on another day.
    """

    name: str
    operator: Operator = Operator.ANY
    version: Version | None = None
    use: tuple[UseDep, ...] = ()
    declared: tuple[UseDep, ...] = ()
    bounds: tuple[tuple[Operator, Version], ...] = ()

    @classmethod
    def parse(cls, text: str, *, place: str | None = None) -> Atom:
        """Parse an atom.

        Raises:
            RecipeError: the message quotes the text with the column of what is wrong.
        """
        whole, (text, bounds) = text, _bounds(text, place)
        if reason := _foreign(text):
            raise RecipeError(f"malformed atom {text!r}: {reason}", place=place, hint=_HINT)
        match = _OPERATOR.match(text)
        sign = match[0] if match else ""
        bracket = text.find("[")
        end = len(text) if bracket < 0 else bracket
        body = text[len(sign) : end]
        wildcard = body.endswith("*")
        name, version_at = _split(text, len(sign), end - wildcard, place)
        version = None
        if version_at:
            version = _version(text, version_at, end - wildcard, place)
        wanted = _operator(text, sign, wildcard, version, place)
        if bounds and wanted not in _RANGE:
            reason = "two bounds go with '>=', '>', '<=' and '<' only,"
            raise _fail(whole, 0, reason, place, f"write >={name}-1.2 <2")
        return cls(name, wanted, version, _use_deps(text, end, place), bounds=bounds)

    def __str__(self) -> str:
        use = f"[{','.join(map(str, self.use))}]" if self.use else ""
        if self.version is None:
            return f"{self.name}{use}"
        sign = self.operator.value.strip().removesuffix("*")
        star = "*" if self.operator is Operator.PREFIX else ""
        more = "".join(f" {bound.value}{version}" for bound, version in self.bounds)
        return f"{sign}{self.name}-{self.version}{star}{more}{use}"

    def matches_version(self, name: str, version: Version) -> bool:
        """Whether a package is what the atom names, whatever its flags."""
        return (
            name == self.name
            and (self.version is None or _HOLDS[self.operator](version, self.version))
            and all(_HOLDS[bound](version, wanted) for bound, wanted in self.bounds)
        )

    def settled(self, parent: Mapping[str, FlagValue], *, place: str | None = None) -> Atom:
        """The atom as the dependent with the flags `parent` means it: no `?` and no `=` left.

        Raises:
            RecipeError: a conditional demand names a flag that the dependent does not declare.
        """
        use = []
        declared = []
        for dep in self.use:
            try:
                wanted = dep.wanted(parent)
            except KeyError:
                raise RecipeError(
                    f"[{dep}] of {self} speaks of this package's own flag {dep.flag!r}, "
                    "which it does not declare",
                    place=place,
                    hint=f"declared: {', '.join(sorted(parent)) or 'none'}",
                ) from None
            if wanted is None:
                declared.append(dep)
            elif isinstance(wanted, str):
                use.append(replace(dep, kind=UseKind.CHOICE, choice=wanted))
            else:
                use.append(replace(dep, kind=UseKind.ON if wanted else UseKind.OFF, choice=""))
        return replace(self, use=tuple(use), declared=tuple(declared))

    def refusal(self, flags: Mapping[str, FlagValue]) -> str | None:
        """Why a package with these flags (all that it declares) is not what a settled atom asks.

        None where it is. The text is a clause such as `ssl is off, [ssl] is asked`.
        """
        for dep in self.declared:
            if dep.flag not in flags and dep.default is None:
                return f"it declares no flag {dep.flag!r}, [{dep}] is asked"
        for dep in self.use:
            wanted = dep.wanted({})
            actual = flags.get(dep.flag, dep.default)
            if actual is None:
                return f"it declares no flag {dep.flag!r}, [{dep}] is asked"
            if actual != wanted:
                return f"{flag_text(dep.flag, actual)}, [{dep}] is asked"
        return None


def _bounds(text: str, place: str | None) -> tuple[str, tuple[tuple[Operator, Version], ...]]:
    """The text without the bounds that follow its version after a blank, and these."""
    bracket = text.find("[")
    end = len(text) if bracket < 0 else bracket
    first, *words = text[:end].split(" ")
    matches = [_BOUND.fullmatch(word) for word in words]
    bounds = [(Operator(m[1]), Version.parse(m[2], place=place)) for m in matches if m]
    return (text, ()) if len(bounds) < len(words) else (first + text[end:], tuple(bounds))


def parse_name(text: str, *, place: str | None = None) -> tuple[str, Version | None]:
    """`category/name-1.2` to its name and version, without operators and flags.

    Raises:
        RecipeError: the text is not a plain name with or without a version.
    """
    atom = Atom.parse(text, place=place)
    if atom.use or atom.operator not in (Operator.ANY, Operator.EXACT):
        hint = "operators and [flags] are for dependencies"
        raise RecipeError(
            f"{text!r} must be category/name or category/name-version", place=place, hint=hint
        )
    return atom.name, atom.version


def _foreign(text: str) -> str | None:
    """What other notation a text is in, where it is one that people mix up with atoms."""
    head = text.split("[", 1)[0]
    if text.startswith("!"):
        return "blockers are not supported"
    if head.startswith(("debian:", "gentoo:")):
        return f"{head.split(':')[0]}: names another collection, this is no atom of the tree"
    if ":" in head:
        return f"slots are not supported (column {head.index(':') + 1})"
    at = next((i for i, c in enumerate(text) if c.isspace() or not c.isprintable()), None)
    return None if at is None else f"a blank or control character at column {at + 1}"


def _fail(text: str, at: int, reason: str, place: str | None, hint: str = _HINT) -> RecipeError:
    return RecipeError(
        f"malformed atom {text!r}: {reason} at column {at + 1}", place=place, hint=hint
    )


def _split(text: str, start: int, end: int, place: str | None) -> tuple[str, int]:
    """The `category/name` of text[start:end], and where its version starts (0: none).

    The version starts after the last `-` that a digit follows. A tail that can only be part of a
    name (`font-adobe-100dpi`) is one, as PMS 3.1.2 has it.
    """
    slash = text.find("/", start, end)
    category = _CATEGORY.match(text, start, end)
    if slash < 0 or category is None or category.end() != slash:
        at = start if slash < 0 or category is None else category.end()
        reason = "no category before a '/'" if slash < 0 else "a wrong letter in the category"
        raise _fail(text, at, reason, place)
    dashes = [at for at in range(slash + 2, end - 1) if text[at] == "-" and text[at + 1].isdigit()]
    if dashes and (is_version(text[dashes[-1] + 1 : end]) or "." in text[dashes[-1] : end]):
        cut, version_at = dashes[-1], dashes[-1] + 1
    else:
        cut, version_at = end, 0
    name = _NAME.match(text, slash + 1, cut)
    if name is None or name.end() != cut:
        near = suggested_name(text[start:end])
        hint = f"write {near}: a version here looks so" if near else _HINT
        raise _fail(
            text, name.end() if name else slash + 1, "a wrong letter in the name", place, hint
        )
    tail = re.search(r"-([0-9][^-]*(?:-r[0-9]+)?)$", name[0])
    if version_at and tail and is_version(tail[1]):
        raise _fail(text, name.start() + tail.start() + 1, "two versions, the first", place)
    return text[start:cut], version_at


def _version(text: str, start: int, end: int, place: str | None) -> Version:
    try:
        return Version.parse(text[start:end])
    except RecipeError as error:
        near = suggested(text[start:end])
        raise RecipeError(
            f"malformed atom {text!r}: the version from column {start + 1} on: {error.message}",
            place=place,
            hint=f"write {text[:start]}{near}: a version here looks so" if near else error.hint,
        ) from None


def _operator(
    text: str, sign: str, wildcard: bool, version: Version | None, place: str | None
) -> Operator:
    if version is None:
        if sign or wildcard:
            hint = f"{sign or '='}category/name-1.2{'*' if wildcard else ''}"
            raise _fail(text, 0, f"{sign or '*'!r} without a version", place, f"write {hint}")
        return Operator.ANY
    if wildcard:
        if sign != "=":
            raise _fail(text, text.index("*"), "'*' goes with '=' only,", place)
        return Operator.PREFIX
    if sign == "~" and version.revision:
        raise _fail(text, text.rindex("-r"), "'~' ignores revisions, yet one is given", place)
    return Operator(sign) if sign else Operator.EXACT


def _use_deps(text: str, start: int, place: str | None) -> tuple[UseDep, ...]:
    if start == len(text):
        return ()
    if not text.endswith("]"):
        raise _fail(text, len(text), "']' expected", place)
    deps = []
    at = start + 1
    for part in text[at:-1].split(","):
        match = _USE_DEP.match(part)
        if match is None or match.end() != len(part):
            raise _fail(text, at + (match.end() if match else 0), "a wrong flag demand", place)
        marks = (match["mark"], match["kind"] + ("CHOICE" if match["choice"] else ""))
        if marks not in _KINDS:
            raise _fail(text, at, f"a wrong flag demand {match[0]!r}", place)
        default = _DEFAULTS[match["default"]]
        deps.append(UseDep(match["flag"], _KINDS[marks], default, match["choice"]))
        at += len(part) + 1
    for first, second in pairwise(sorted(deps, key=lambda dep: dep.flag)):
        if first.flag == second.flag:
            raise _fail(text, start, f"two demands on {first.flag!r}", place)
    return tuple(deps)
