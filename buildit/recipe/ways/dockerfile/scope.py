"""Which variables a text of a Dockerfile sees: ARG and ENV, their order and their reach. Pure.

Docker's reference, "Understand how ARG and FROM interact", "Predefined ARGs", "Scope": an ARG
counts from its line on, within its stage; one before the first FROM counts in FROM lines, and in a
stage that names it again; ENV wins over ARG; a value of the command line over a default.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from buildit.errors import UsageError
from buildit.model.platform import Platform
from buildit.model.words import guess
from buildit.recipe.ways.dockerfile.parse import Dockerfile, Instruction
from buildit.recipe.ways.dockerfile.words import ExpandedText, ExpansionError, expand, split_quoted

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
PROXIES = (*_PROXIES, *(name.lower() for name in _PROXIES))
"""Arguments that every RUN sees where the command line gives them; no ARG is needed."""

_QUIET = ("SOURCE_DATE_EPOCH", "BUILDKIT_")
"""What tells a builder something and need not be declared."""

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""PATH of an image that says none (moby's `DefaultPathEnvUnix`)."""

MOST_ARGUMENTS = 200
LARGEST_SCOPE = 1 << 20
"""How many arguments one stage may have, and the characters of all of its values."""


def platform_arguments(target: Platform, here: Platform, stage: str = "") -> dict[str, str]:
    """The arguments of BuildKit that say what is built for, and where."""
    found = {"TARGETSTAGE": stage or "default"}
    for prefix, one in (("TARGET", target), ("BUILD", here)):
        found |= {f"{prefix}PLATFORM": str(one), f"{prefix}OS": one.os, f"{prefix}ARCH": one.arch}
        found[f"{prefix}VARIANT"] = ""
    return found


def pairs_of(one: Instruction, escape: str) -> list[tuple[str, str]]:
    """Names and values of ENV and LABEL, as they are written, quotes and all.

    Raises:
        RecipeError: it has none, or a word is no pair.
    """
    found = split_quoted(one.rest, escape)
    if not found:
        raise one.error(f"{one.word} says nothing", f"write {one.word} NAME=value")
    if "=" not in found[0]:  # the old form: a name, and the rest of the line
        name, *value = one.rest.split(None, 1)
        if not value:
            raise one.error(f"{one.word} {name} has no value", f"write {one.word} {name}=value")
        return [(name, value[0])]
    for word in found:
        if "=" not in word[1:]:
            hint = f'quote a value that has blanks: {one.word} NAME="a b"'
            raise one.error(f"{word[:40]!r} is no NAME=value", hint)
    return [(name, value) for name, _, value in (word.partition("=") for word in found)]


def arguments_of(one: Instruction, escape: str) -> list[tuple[str, str | None]]:
    """Names and defaults of ARG, as they are written; None where there is no default.

    Raises:
        RecipeError: it has none.
    """
    found = split_quoted(one.rest, escape)
    if not found or any(word.startswith("=") for word in found):
        raise one.error("ARG has no name", "write ARG NAME, or ARG NAME=default")
    pairs = (word.partition("=") for word in found)
    return [(name, value if is_set else None) for name, is_set, value in pairs]


@dataclass(slots=True)
class Scope:
    """The variables at one place of a file, which grow from line to line.

    `environment` is that of the image, `arguments` what ARG gave. `is_known`: all that is below is
    known, so that a variable which is not there is none. `remarks` tell of those. `lacks`: some
    variable that was asked for may come from below.
    """

    escape: str
    given: Mapping[str, str]
    environment: dict[str, str] = field(default_factory=dict)
    arguments: dict[str, str] = field(default_factory=dict)
    is_known: bool = True
    declared: set[str] = field(default_factory=set)
    remarks: list[str] = field(default_factory=list)
    lacks: bool = False

    def expanded(self, one: Instruction, text: str, quotes: bool = True) -> ExpandedText:
        """A text of an instruction with its values; `quotes` mean nothing in a heredoc.

        Raises:
            RecipeError: it cannot be expanded.
        """
        values = ChainMap(self.environment, self.arguments)
        try:
            escape = self.escape if quotes else "\\"
            found = expand(text, values, escape, self.is_known, quotes)
        except ExpansionError as error:
            raise one.error(str(error), error.hint or None) from error
        if not self.is_known:
            self.lacks = self.lacks or bool(found.missing)
        else:
            for name in sorted(found.missing - self.declared):
                told = guess(name, values)
                remark = f"{one.place}: no variable {name!r} is set here: it stands for nothing"
                self.remarks.append(f"{remark}; {told.strip()}" if told else remark)
        return found

    def text(self, one: Instruction, text: str) -> str:
        """As `expanded`, as one text."""
        return self.expanded(one, text).text

    def argue(self, one: Instruction, outer: Mapping[str, str]) -> None:
        """What an ARG says; `outer` are the values of those before all stages, and the platform's.

        Raises:
            RecipeError: it is malformed.
        """
        for written, default in arguments_of(one, self.escape):
            name = self.text(one, written)
            self.declared.add(name)
            if name in self.given:
                self.set_argument(one, name, self.given[name])
            elif default is not None:
                self.set_argument(one, name, self.text(one, default))
            elif name in outer:
                self.set_argument(one, name, outer[name])

    def set_argument(self, one: Instruction, name: str, value: str) -> None:
        """Give an argument a value; raises RecipeError where all become too much."""
        self.arguments[name] = value
        if len(self.arguments) > MOST_ARGUMENTS:
            raise one.error(f"a stage has more than {MOST_ARGUMENTS} arguments")
        self._check_size(one)

    def set_environment(self, one: Instruction) -> dict[str, str]:
        """What an ENV says: all of its values are of what held before it.

        Raises:
            RecipeError: it is malformed.
        """
        pairs = pairs_of(one, self.escape)
        made = {self.text(one, name): self.text(one, value) for name, value in pairs}
        if any(not name or "\0" in name for name in made):
            raise one.error("ENV has an empty name", "write ENV NAME=value")
        self.environment |= made
        self._check_size(one)
        return made

    def _check_size(self, one: Instruction) -> None:
        texts = (*self.environment.values(), *self.arguments.values())
        if sum(map(len, texts)) > LARGEST_SCOPE:
            raise one.error("the variables of this stage become larger than 1 MiB in all")

    def of_commands(self) -> dict[str, str]:
        """The arguments that a RUN has in its environment, beside that of the image."""
        proxies = {name: self.given[name] for name in PROXIES if name in self.given}
        everything = {**proxies, **self.arguments}
        return {k: v for k, v in everything.items() if k not in self.environment}


def outer_scope(found: Dockerfile, given: Mapping[str, str], platform: Mapping[str, str]) -> Scope:
    """The variables that FROM lines see: of the platform, and of the ARGs before all stages.

    Raises:
        RecipeError: one of those is malformed.
    """
    scope = Scope(found.escape, given)
    scope.arguments |= {name: given.get(name, value) for name, value in platform.items()}
    for one in found.arguments:
        scope.argue(one, {})
    return scope


def check_arguments(
    found: Dockerfile, given: Iterable[str], triggers: Iterable[Instruction] = ()
) -> None:
    """Refuse values of the command line that no ARG asks for; `triggers` are of the base.

    Raises:
        UsageError: with the nearest name.
    """
    known = set(_declared((*found.instructions, *triggers), found.escape))
    usual = {*known, *PROXIES, *_PLATFORM}
    for name in given:
        if name not in usual and not name.startswith(_QUIET):
            hint = guess(name, known)
            names = ", ".join(sorted(known))
            hint += f"it declares {names}" if known else "it has no ARG"
            message = f"no ARG declares {name!r}, which --build-arg gives"
            raise UsageError(message, place=f"{found.file}:1:1", hint=hint)


_PLATFORM = (
    *("TARGETSTAGE", "TARGETPLATFORM", "TARGETOS", "TARGETARCH", "TARGETVARIANT"),
    *("BUILDPLATFORM", "BUILDOS", "BUILDARCH", "BUILDVARIANT"),
)


def _declared(instructions: Iterable[Instruction], escape: str) -> Iterator[str]:
    for one in instructions:
        if one.word == "ARG":
            yield from (name for name, _ in arguments_of(one, escape))
        elif one.word == "ONBUILD" and one.rest[:4].upper() == "ARG ":
            words = split_quoted(one.rest[4:], escape)
            yield from (word.partition("=")[0] for word in words)
