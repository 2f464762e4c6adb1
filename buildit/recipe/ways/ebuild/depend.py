"""What an ebuild's specifications mean (PMS 8.2): DEPEND and its kin, SRC_URI, LICENSE, as trees of
groups and flags, and as rows with their conditions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from buildit.errors import RecipeError
from buildit.model.atom import VERSION
from buildit.model.use import FLAG_NAME

_DEEPEST = 32
_LONGEST_ATOM = 300
_FLAG = re.compile(rf"(!?)({FLAG_NAME})\?")
_ATOM = re.compile(
    r"(?P<blocks>!!?)?(?P<sign>>=|<=|<|>|=|~)?"
    r"(?P<name>[A-Za-z0-9_][A-Za-z0-9+_.-]*/[A-Za-z0-9_][A-Za-z0-9+_-]*?)"
    rf"(?:-(?P<version>{VERSION})(?P<star>\*)?)?"
    r"(?::(?P<slot>[^\[\]:]*))?(?:::[A-Za-z0-9_-]+)?(?:\[(?P<use>[^\[\]]*)\])?"
)

FlagSet = tuple[tuple[str, bool], ...]
"""Flags that must be on or off, all of them."""


@dataclass(frozen=True, slots=True)
class Item:
    """A word, and for SRC_URI the name behind `->`."""

    text: str
    renamed: str = ""


@dataclass(frozen=True, slots=True)
class AllIn:
    items: tuple[Spec, ...]


@dataclass(frozen=True, slots=True)
class AnyIn:
    """`|| ( … )`; of its kin `^^` and `??` the same is taken."""

    items: tuple[Spec, ...]


@dataclass(frozen=True, slots=True)
class When:
    """`flag? ( … )`, or `!flag? ( … )` where it is `off`."""

    flag: str
    off: bool
    items: tuple[Spec, ...]


Spec = Item | AllIn | AnyIn | When


def parse_spec(text: str, place: str) -> tuple[Spec, ...]:
    """The groups and words of a specification.

    Raises:
        RecipeError: brackets do not match, a flag or an arrow stands alone, or it is too deep.
    """
    words = text.split()
    found, at = _items(words, 0, 0, place)
    if at < len(words):
        raise RecipeError("a ) without its ( in this specification", place=place)
    return found


def _items(words: list[str], at: int, depth: int, place: str) -> tuple[tuple[Spec, ...], int]:
    if depth > _DEEPEST:
        message = f"a specification nested deeper than {_DEEPEST}"
        raise RecipeError(message, place=place, hint="no ebuild needs that")
    found: list[Spec] = []
    while at < len(words) and words[at] != ")":
        word, flag = words[at], _FLAG.fullmatch(words[at])
        opens = words[at + 1 : at + 2] == ["("]
        if word == "(" or ((flag or word in ("||", "^^", "??")) and opens):
            inner, at = _items(words, at + (1 if word == "(" else 2), depth + 1, place)
            if at >= len(words):
                raise RecipeError(f"the ( after {word!r} is never closed", place=place)
            if word == "(":
                found.append(AllIn(inner))
            else:
                found.append(When(flag[2], bool(flag[1]), inner) if flag else AnyIn(inner))
            at += 1
        elif flag or word in ("||", "^^", "??", "->"):
            message = f"{word!r} stands alone in this specification"
            raise RecipeError(message, place=place, hint="write a group behind it: ( … )")
        elif words[at + 1 : at + 2] == ["->"]:
            if at + 2 >= len(words):
                raise RecipeError(f"{word!r} -> has no name", place=place)
            found.append(Item(word, words[at + 2]))
            at += 3
        else:
            found.append(Item(word))
            at += 1
    return tuple(found), at


def spec_rows(specs: tuple[Spec, ...], given: FlagSet = ()) -> Iterator[tuple[FlagSet, Spec]]:
    """Words and `||` groups with the flags that they stand under; plain groups are dissolved."""
    for one in specs:
        match one:
            case When(flag, off, items):
                yield from spec_rows(items, (*given, (flag, not off)))
            case AllIn(items):
                yield from spec_rows(items, given)
            case _:
                yield given, one


@dataclass(frozen=True, slots=True)
class GentooAtom:
    """`>=category/name-1.2:slot=[flag(+),-other]`; `use` is what stands in the brackets."""

    text: str
    blocks: bool
    operator: str
    name: str
    version: str
    slot: str
    use: tuple[str, ...]


def parse_gentoo_atom(text: str, place: str) -> GentooAtom:
    """A dependency of Gentoo's (PMS 8.3).

    Raises:
        RecipeError: it is none.
    """
    match = _ATOM.fullmatch(text) if len(text) <= _LONGEST_ATOM else None
    if match is None or bool(match["sign"]) != bool(match["version"]):
        hint = "a dependency looks like >=category/name-1.2:slot[flag]"
        raise RecipeError(f"{text[:80]!r} is no dependency", place=place, hint=hint)
    sign = f"={match['star']}" if match["star"] else match["sign"] or ""
    use = tuple(one.strip() for one in (match["use"] or "").split(",") if one.strip())
    version, slot = match["version"] or "", match["slot"] or ""
    return GentooAtom(text, bool(match["blocks"]), sign, match["name"], version, slot, use)
