"""USE flags: what a package declares, what the layers set, and the value that wins with its origin.

Booleans and one-of choices; only declared flags exist. Layers come in the order of DESIGN 2.2
(recipe default, base chain, config, container, `use.with/without`, command line), the last wins.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from buildit.errors import RecipeError

FlagValue = bool | str
"""A boolean flag is True or False; a choice is one of its flag's `choices`."""

FLAG_NAME = r"[A-Za-z0-9][A-Za-z0-9+_@-]*"
"""Pattern of a flag's name (PMS 3.1.4)."""

DEFAULT = "default"
"""`Setting.layer` of a value that nobody set."""

_FLAG = re.compile(FLAG_NAME)
_CHOICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+_.-]*")
_ASSIGNMENT = re.compile(
    rf"(?P<sign>[+-]?)(?P<flag>{FLAG_NAME})(?:=(?P<choice>{_CHOICE.pattern}))?"
)


@dataclass(frozen=True, slots=True)
class Flag:
    """A declared flag: a switch where `choices` is empty, else one of them."""

    name: str
    default: FlagValue = False
    choices: tuple[str, ...] = ()
    description: str = ""
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One wish for one flag, and where it was written (`file:line` or `command line`)."""

    flag: str
    value: FlagValue
    origin: str


@dataclass(frozen=True, slots=True)
class FlagLayer:
    """Assignments of one source, without order among them.

    A layer with `every_package` (config, container `use:`) touches only packages that declare the
    flag; any other names flags of one package, and an unknown one is an error.
    """

    name: str
    assignments: tuple[Assignment, ...]
    every_package: bool = False


@dataclass(frozen=True, slots=True)
class Setting:
    """The value that won: who wrote it, and the name of that layer (`DEFAULT`: the declaration)."""

    value: FlagValue
    origin: str
    layer: str


def flag_text(flag: str, value: FlagValue) -> str:
    """`ssl is on`, `ssl is off`, `tls is openssl`."""
    return f"{flag} is {value if isinstance(value, str) else 'on' if value else 'off'}"


def assignment_text(flag: str, value: FlagValue) -> str:
    """`+ssl`, `-ssl`, `tls=openssl`, as `parse_assignment` reads them."""
    return f"{flag}={value}" if isinstance(value, str) else f"{'+' if value else '-'}{flag}"


def parse_assignment(text: str, origin: str) -> Assignment:
    """Parse `+flag`, `-flag`, `flag` (as `+flag`) or `flag=choice`.

    Raises:
        RecipeError: the text is none of these.
    """
    match = _ASSIGNMENT.fullmatch(text)
    if match is None or (match["choice"] and match["sign"]):
        raise RecipeError(
            f"malformed flag {text!r}", place=origin, hint="write +flag, -flag or flag=choice"
        )
    if match["choice"] in ("on", "off", "yes", "no", "true", "false"):
        sign = "+" if match["choice"] in ("on", "yes", "true") else "-"
        raise RecipeError(
            f"malformed flag {text!r}: a flag is switched by its sign",
            place=origin,
            hint=f"write {sign}{match['flag']}",
        )
    return Assignment(match["flag"], match["choice"] or match["sign"] != "-", origin)


def declare(flags: Iterable[Flag]) -> Mapping[str, Flag]:
    """The declarations by name, in their written order.

    Raises:
        RecipeError: a bad name or choice, a default that is not possible, a name used twice.
    """
    declared: dict[str, Flag] = {}
    for flag in flags:
        place = flag.origin or None
        if _FLAG.fullmatch(flag.name) is None:
            raise RecipeError(
                f"{flag.name!r} cannot be the name of a flag",
                place=place,
                hint="use letters, digits and + _ @ -, beginning with a letter or digit",
            )
        if flag.name in declared:
            first = declared[flag.name].origin
            raise RecipeError(
                f"flag {flag.name!r} is declared twice",
                place=place,
                hint=f"the first is at {first}" if first else "keep one of them",
            )
        _check_choices(flag, place)
        declared[flag.name] = flag
    return declared


def _check_choices(flag: Flag, place: str | None) -> None:
    bad = next((c for c in flag.choices if _CHOICE.fullmatch(c) is None), None)
    if bad is not None:
        raise RecipeError(
            f"{bad!r} cannot be a choice of flag {flag.name!r}",
            place=place,
            hint="use letters, digits and + _ . -, beginning with a letter or digit",
        )
    if len(set(flag.choices)) != len(flag.choices):
        raise RecipeError(
            f"flag {flag.name!r} lists a choice twice", place=place, hint="keep one of them"
        )
    if reason := _unfit(flag, flag.default):
        raise RecipeError(
            f"the default of flag {flag.name!r}: {reason[0]}", place=place, hint=reason[1]
        )


def _unfit(flag: Flag, value: FlagValue) -> tuple[str, str] | None:
    """Why the flag cannot have the value, and what it can have."""
    name = flag.name
    if flag.choices:
        if isinstance(value, str) and value in flag.choices:
            return None
        listed = ", ".join(flag.choices)
        if not isinstance(value, str):
            return f"{name!r} is a choice, not a switch", f"write {name}=CHOICE, one of: {listed}"
        nearest = difflib.get_close_matches(value, flag.choices, 1)
        guess = f"did you mean {name}={nearest[0]}? " if nearest else ""
        return f"{value!r} is no choice of {name!r}", f"{guess}choices: {listed}"
    if isinstance(value, str):
        return f"{name!r} is a switch, it takes no choice", f"write +{name} or -{name}"
    return None


def resolve_flags(
    package: str, declared: Mapping[str, Flag], layers: Iterable[FlagLayer]
) -> Mapping[str, Setting]:
    """The effective value of every declared flag, in the order of declaration.

    Raises:
        RecipeError: a layer contradicts itself, names a flag of this package that it does not
            declare, or gives a flag a value that it cannot have.
    """
    settings = {
        name: Setting(flag.default, flag.origin or f"default of {package}", DEFAULT)
        for name, flag in declared.items()
    }
    for layer in layers:
        _check_consistent(layer)
        for assignment in layer.assignments:
            flag = declared.get(assignment.flag)
            if flag is None:
                if layer.every_package:
                    continue
                raise _unknown(package, declared, assignment)
            if reason := _unfit(flag, assignment.value):
                raise RecipeError(
                    f"{package}: {reason[0]}", place=assignment.origin, hint=reason[1]
                )
            settings[flag.name] = Setting(assignment.value, assignment.origin, layer.name)
    return settings


def flag_values(settings: Mapping[str, Setting]) -> Mapping[str, FlagValue]:
    """The bare values, as conditions and atoms take them."""
    return {name: setting.value for name, setting in settings.items()}


def _check_consistent(layer: FlagLayer) -> None:
    seen: dict[str, Assignment] = {}
    for assignment in layer.assignments:
        first = seen.setdefault(assignment.flag, assignment)
        if first.value != assignment.value:
            raise RecipeError(
                f"{layer.name} contradicts itself: {assignment_text(first.flag, first.value)} at "
                f"{first.origin}, {assignment_text(assignment.flag, assignment.value)} at "
                f"{assignment.origin}",
                place=assignment.origin,
                hint=f"keep one of the two for {assignment.flag!r}",
            )


def unknown_flag_hint(flag: str, declared: Iterable[str]) -> str:
    """The nearest declared names and the whole list, as the hint of an error."""
    names = sorted(declared)
    nearest = difflib.get_close_matches(flag, names, 1)
    guess = f"did you mean {nearest[0]!r}? " if nearest else ""
    return f"{guess}declared: {', '.join(names) or 'none'}"


def _unknown(package: str, declared: Mapping[str, Flag], assignment: Assignment) -> RecipeError:
    return RecipeError(
        f"{package} declares no flag {assignment.flag!r}",
        place=assignment.origin,
        hint=unknown_flag_hint(assignment.flag, declared),
    )
