"""Variables in the texts of a compose file (compose-spec, "Interpolation"), its durations and
sizes. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping as Map
from dataclasses import dataclass, field

from buildit.errors import RecipeError

_VARIABLE = re.compile(r"\$(?:(?P<escaped>\$)|(?P<name>[A-Za-z_][A-Za-z0-9_]*)|(?P<braced>\{))")
_INSIDE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:?[-?+])?", re.DOTALL)
_HINT = "write ${NAME}, ${NAME:-default} or ${NAME:?message}; $$ is a dollar"


@dataclass(frozen=True, slots=True)
class ComposeVariables:
    """What variables are filled in with; `unset` grows with the names that had no value, and where
    they were asked for."""

    values: Map[str, str]
    unset: dict[str, str] = field(default_factory=dict)

    def expand(self, text: str, place: str) -> str:
        """The text with its variables filled in.

        Raises:
            RecipeError: it is malformed, or a variable that must be set is not.
        """
        out, at = [], 0
        while (match := _VARIABLE.search(text, at)) is not None:
            out.append(text[at : match.start()])
            at = match.end()
            if match["escaped"]:
                out.append("$")
            elif match["name"]:
                out.append(self._value(match["name"], place))
            else:
                end = _closing(text, at)
                if end < 0:
                    raise RecipeError(f"not a variable: {text!r}", place=place, hint=_HINT)
                out.append(self._braced(text[at:end], place))
                at = end + 1
        rest = text[at:]
        if "$" in rest:
            raise RecipeError(f"a lone $ in {text!r}", place=place, hint=_HINT)
        return "".join((*out, rest))

    def _value(self, name: str, place: str) -> str:
        if name not in self.values:
            self.unset.setdefault(name, place)
        return self.values.get(name, "")

    def _braced(self, inside: str, place: str) -> str:
        match = _INSIDE.match(inside)
        if match is None or (match[2] is None and match.end() != len(inside)):
            raise RecipeError(f"not a variable: ${{{inside}}}", place=place, hint=_HINT)
        name, how, word = match[1], match[2] or "", inside[match.end() :]
        value = self.values.get(name)
        is_there = bool(value) if how.startswith(":") else value is not None
        match how[-1:]:
            case "-":
                return value or "" if is_there else self.expand(word, place)
            case "+":
                return self.expand(word, place) if is_there else ""
            case "?":
                if not is_there:
                    told = self.expand(word, place) or "it has no value"
                    hint = f"export {name}, or write it into .env beside the file"
                    raise RecipeError(f"the variable {name}: {told}", place=place, hint=hint)
                return value or ""
            case _:
                return self._value(name, place)


def _closing(text: str, at: int) -> int:
    """Where the brace closes that was opened before `at`; -1 where it does not."""
    depth = 1
    while at < len(text):
        if text.startswith("${", at):
            depth, at = depth + 1, at + 1
        elif text[at] == "}":
            depth -= 1
            if not depth:
                return at
        at += 1
    return -1


_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(h|ms|us|ns|m|s)")


def whole_seconds(text: str) -> int | None:
    """Seconds of a duration such as `1m30s` or `500ms`, rounded up; None where it is none."""
    if text.isdecimal():
        return int(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return math.ceil(sum(float(number) * _UNITS[unit] for number, unit in parts))


_SIZES = {"b": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([bkmgt]?)i?b?", re.IGNORECASE)


def whole_bytes(text: str) -> int | None:
    """Bytes of a size such as `512m` or `1gb`, powers of 1024; None where it is none."""
    match = _SIZE.fullmatch(text)
    if match is None:
        return None
    return int(float(match[1]) * (1 << _SIZES[match[2].lower() or "b"]))
