"""USE flags: what a package declares, what the layers set, and the value that wins with its origin.

Booleans and one-of choices; only declared flags exist. Layers come in the order of DESIGN 2.2
(recipe default, base chain, config, container, `use.with/without`, command line), the last wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from buildit.errors import RecipeError
from buildit.model.words import guess

FlagValue = bool | str
"""A boolean flag is True or False; a choice is one of its flag's `choices`."""

FLAG_NAME = r"[A-Za-z0-9][A-Za-z0-9+_@-]*"
"""Pattern of a flag's name (PMS 3.1.4)."""

CHOICE = r"[A-Za-z0-9][A-Za-z0-9+_.-]*"
"""Pattern of a choice of a flag."""

DEFAULT = "default"
"""`Setting.layer` of a value that nobody set."""

_ASSIGNMENT = re.compile(rf"(?P<sign>[+-]?)(?P<flag>{FLAG_NAME})(?:=(?P<choice>{CHOICE}))?")


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
        hint = "write +flag, -flag or flag=choice"
        raise RecipeError(f"malformed flag {text!r}", place=origin, hint=hint)
    if match["choice"] in ("on", "off", "yes", "no", "true", "false"):
        sign = "+" if match["choice"] in ("on", "yes", "true") else "-"
        told = f"malformed flag {text!r}: a flag is switched by its sign"
        raise RecipeError(told, place=origin, hint=f"write {sign}{match['flag']}")
    return Assignment(match["flag"], match["choice"] or match["sign"] != "-", origin)


def declare(flags: Iterable[Flag]) -> Mapping[str, Flag]:
    """The declarations by name, in their written order.

    Raises:
        RecipeError: a bad name or choice, a default that is not possible, a name used twice.
    """
    declared: dict[str, Flag] = {}
    for flag in flags:
        if reason := _refusal(flag, declared.get(flag.name)):
            raise RecipeError(reason[0], place=flag.origin or None, hint=reason[1])
        declared[flag.name] = flag
    return declared


def _refusal(flag: Flag, first: Flag | None) -> tuple[str, str] | None:
    """Why a flag cannot be declared (`first` has its name already), and what to do."""
    name, form = flag.name, "use letters, digits and + _ {} -, beginning with a letter or digit"
    if re.fullmatch(FLAG_NAME, name) is None:
        return f"{name!r} cannot be the name of a flag", form.format("@")
    if first is not None:
        hint = f"the first is at {first.origin}" if first.origin else "keep one of them"
        return f"flag {name!r} is declared twice", hint
    bad = next((c for c in flag.choices if re.fullmatch(CHOICE, c) is None), None)
    if bad is not None:
        return f"{bad!r} cannot be a choice of flag {name!r}", form.format(".")
    if len(set(flag.choices)) != len(flag.choices):
        return f"flag {name!r} lists a choice twice", "keep one of them"
    reason = _unfit(flag, flag.default)
    return reason and (f"the default of flag {name!r}: {reason[0]}", reason[1])


def _unfit(flag: Flag, value: FlagValue) -> tuple[str, str] | None:
    """Why the flag cannot have the value, and what it can have."""
    name = flag.name
    if flag.choices:
        if isinstance(value, str) and value in flag.choices:
            return None
        listed = ", ".join(flag.choices)
        if not isinstance(value, str):
            return f"{name!r} is a choice, not a switch", f"write {name}=CHOICE, one of: {listed}"
        meant = guess(value, flag.choices, f"{name}={{}}")
        return f"{value!r} is no choice of {name!r}", f"{meant}choices: {listed}"
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
        for wish in layer.assignments:
            flag = declared.get(wish.flag)
            if flag is not None:
                if reason := _unfit(flag, wish.value):
                    raise RecipeError(f"{package}: {reason[0]}", place=wish.origin, hint=reason[1])
                settings[flag.name] = Setting(wish.value, wish.origin, layer.name)
            elif not layer.every_package:
                told = f"{package} declares no flag {wish.flag!r}"
                hint = unknown_flag_hint(wish.flag, declared)
                raise RecipeError(told, place=wish.origin, hint=hint)
    return settings


def flag_values(settings: Mapping[str, Setting]) -> Mapping[str, FlagValue]:
    """The bare values, as conditions and atoms take them."""
    return {name: setting.value for name, setting in settings.items()}


def _check_consistent(layer: FlagLayer) -> None:
    seen: dict[str, Assignment] = {}
    for assignment in layer.assignments:
        first = seen.setdefault(assignment.flag, assignment)
        if first.value != assignment.value:
            both = (first, assignment)
            told = ", ".join(f"{assignment_text(a.flag, a.value)} at {a.origin}" for a in both)
            hint = f"keep one of the two for {assignment.flag!r}"
            told = f"{layer.name} contradicts itself: {told}"
            raise RecipeError(told, place=assignment.origin, hint=hint)


def unknown_flag_hint(flag: str, declared: Iterable[str]) -> str:
    """The nearest declared names and the whole list, as the hint of an error."""
    names = sorted(declared)
    return f"{guess(flag, names, '{!r}')}declared: {', '.join(names) or 'none'}"
