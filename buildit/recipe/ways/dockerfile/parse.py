"""The text of a Dockerfile (Containerfile) as instructions, and those as stages. Pure.

The rules are those of Docker's reference and, where that says nothing, of BuildKit's parser: a line
goes on behind an escape at its end, comments and empty lines within it are left out, `<<NAME` of
RUN, COPY and ADD takes the lines up to NAME, `# escape=` counts before all others.

    parse_dockerfile(text, file) -> Dockerfile    instructions, arguments before FROM, stages
    parse_trigger(text, place) -> Instruction     one that a base keeps (ONBUILD)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

from buildit.errors import RecipeError
from buildit.model.words import guess, hint_of
from buildit.recipe.ways.dockerfile.words import ExpansionError, expand, split_quoted
from buildit.recipe.yaml.node import Place

MOST_INSTRUCTIONS = 5_000
"""As many steps as a container may have."""

_HEALTH_FLAGS = ("interval", "timeout", "start-period", "start-interval", "retries")
FLAGS = {
    "ADD": (*("chown", "chmod", "link", "exclude", "checksum", "keep-git-dir", "unpack"),),
    "ARG": (),
    "CMD": (),
    "COPY": ("from", "chown", "chmod", "link", "exclude", "parents"),
    "ENTRYPOINT": (),
    "ENV": (),
    "EXPOSE": (),
    "FROM": ("platform",),
    "HEALTHCHECK": _HEALTH_FLAGS,
    "LABEL": (),
    "MAINTAINER": (),
    "ONBUILD": (),
    "RUN": ("mount", "network", "security", "device"),
    "SHELL": (),
    "STOPSIGNAL": (),
    "USER": (),
    "VOLUME": (),
    "WORKDIR": (),
}
"""The instructions that there are, each with the flags that it may have."""

_SWITCHES = ("link", "parents", "keep-git-dir", "unpack")
_SEVERAL = ("mount", "exclude", "device")
_WITH_HEREDOCS = ("ADD", "COPY", "RUN")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """Lines behind an instruction; `expands`: its name is not quoted, so variables count in it."""

    name: str
    content: str
    expands: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: its word in capitals, its flags, and the rest of its line as one text.

    `whole` is all of it, as it is written but for lines that go on; `lines` are its first and last.
    """

    word: str
    flags: tuple[tuple[str, str], ...]
    rest: str
    place: Place
    heredocs: tuple[Heredoc, ...] = ()
    whole: str = ""
    lines: tuple[int, int] = (0, 0)

    def error(self, message: str, hint: str | None = None) -> RecipeError:
        """What is wrong there, to be raised."""
        return RecipeError(message, place=str(self.place), hint=hint)

    def flag(self, name: str) -> str | None:
        """The value of a flag that it has once."""
        return next((value for key, value in self.flags if key == name), None)

    def values_of(self, name: str) -> tuple[str, ...]:
        """The values of a flag that it may have several times."""
        return tuple(value for key, value in self.flags if key == name)

    @property
    def listed(self) -> tuple[str, ...] | None:
        """What it has as a list in JSON; None where it is another text.

        Raises:
            RecipeError: the list has something else than texts.
        """
        return json_form(self, self.rest)


@dataclass(frozen=True, slots=True)
class Stage:
    """A FROM and what follows. `base` and `platform` are as written; `name` is in small letters,
    empty where it has none."""

    number: int
    name: str
    base: str
    platform: str
    begin: Instruction
    instructions: tuple[Instruction, ...] = ()

    @property
    def shown(self) -> str:
        """What it is asked for by: its name, else its number."""
        return self.name or str(self.number)


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`arguments` are the ARG instructions before the first FROM."""

    file: str
    escape: str
    instructions: tuple[Instruction, ...]
    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]


def parse_dockerfile(text: str, file: str) -> Dockerfile:
    """The instructions and stages of a text with `\\n` line ends.

    Raises:
        RecipeError: it is none: an unknown instruction or flag, a text that is not closed, no FROM.
    """
    lines = _Lines(text.removeprefix("\ufeff").split("\n"), file)
    escape = lines.directives()
    found: list[Instruction] = []
    while (one := lines.instruction(escape)) is not None:
        found.append(one)
        if len(found) > MOST_INSTRUCTIONS:
            raise one.error(f"the file has more than {MOST_INSTRUCTIONS} instructions")
    if not found:
        hint = "begin with the image that all lies upon: FROM debian:12, or FROM scratch"
        raise RecipeError("there is no instruction in the file", place=f"{file}:1:1", hint=hint)
    arguments, stages = _stages(found)
    return Dockerfile(file, escape, tuple(found), arguments, stages)


def parse_trigger(text: str, place: Place, escape: str = "\\") -> Instruction:
    """One instruction that a base keeps (ONBUILD); `place` is the FROM of that base.

    Raises:
        RecipeError: it is none.
    """
    shown = Place(f"{place.file}:{place.line}: ONBUILD of the base", 1, 1)
    lines = _Lines(text.split("\n"), shown.file)
    try:
        one = lines.instruction(escape)
    except RecipeError as error:
        raise RecipeError(error.message, place=str(place), hint=error.hint) from error
    if one is None or one.word in _NO_TRIGGERS:
        raise RecipeError(f"the base has a trigger that is none: {text!r}", place=str(place))
    return replace(one, place=place)


_NO_TRIGGERS = ("ONBUILD", "FROM", "MAINTAINER")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = ("syntax", "escape", "check")
_BLANK = " \t\v\f\r"


@dataclass(slots=True)
class _Lines:
    """The lines of a file, and how far they were read."""

    lines: list[str]
    file: str
    at: int = 0

    def place(self, line: int) -> Place:
        text = self.lines[line]
        return Place(self.file, line + 1, len(text) - len(text.lstrip()) + 1)

    def error(self, line: int, message: str, hint: str | None = None) -> RecipeError:
        return RecipeError(message, place=str(self.place(line)), hint=hint)

    def directives(self) -> str:
        """Read those at the beginning; the escape that they say."""
        said: dict[str, str] = {}
        while self.at < len(self.lines):
            match = _DIRECTIVE.fullmatch(self.lines[self.at])
            name = match.group(1).lower() if match else ""
            if match is None or name not in _DIRECTIVES:
                break
            if name in said:
                raise self.error(self.at, f"`# {name}=` is there twice", "take one out")
            said[name] = match.group(2)
            if name == "escape" and said[name] not in ("\\", "`"):
                hint = "write `# escape=\\`, or with a backtick"
                raise self.error(self.at, f"{said[name]!r} cannot be the escape", hint)
            self.at += 1
        return said.get("escape", "\\")

    def instruction(self, escape: str) -> Instruction | None:
        """The next one; None at the end."""
        text, start = "", self.at
        while not text.strip():
            while self.at < len(self.lines) and _is_nothing(self.lines[self.at]):
                self.at += 1
            if self.at == len(self.lines):
                return None
            start = self.at
            text = self._logical(escape)
        one = _instruction(text, self.place(start))
        words = _heredoc_words(one, escape)
        heredocs = tuple(self._heredoc(start, word) for word in words)
        whole = "\n".join((one.whole, *(f"{each.content}{each.name}" for each in heredocs)))
        return replace(one, heredocs=heredocs, whole=whole, lines=(start + 1, self.at))

    def _logical(self, escape: str) -> str:
        """A line with those that it goes on in."""
        pieces: list[str] = []
        goes_on = True
        while goes_on and self.at < len(self.lines):
            text = self.lines[self.at]
            self.at += 1
            if pieces and _is_nothing(text):
                continue
            bare = text.rstrip(" \t\r")
            before = bare[-2:-1]
            goes_on = bare.endswith(escape) and before != escape
            pieces.append(bare[:-1] if goes_on else text)
        return "".join(pieces)

    def _heredoc(self, start: int, word: tuple[str, bool, bool]) -> Heredoc:
        """The lines up to a name: what it is called, and whether it expands and drops tabs."""
        name, expands, is_bare = word
        lines: list[str] = []
        while self.at < len(self.lines):
            line = self.lines[self.at]
            self.at += 1
            line = line.lstrip("\t") if is_bare else line
            if line == name:
                return Heredoc(name, "".join(f"{one}\n" for one in lines), expands)
            lines.append(line)
        hint = f"end it by a line that is {name} and nothing else"
        raise self.error(start, f"what <<{name} begins has no end", hint)


def _is_nothing(line: str) -> bool:
    """Whether it is empty or a comment."""
    bare = line.strip()
    return not bare or bare.startswith("#")


def _instruction(text: str, place: Place) -> Instruction:
    """One instruction of its whole line."""
    bare = text.strip()
    word, *more = re.split(f"[{_BLANK}]+", bare, maxsplit=1)
    name = word.upper()
    if name not in FLAGS:
        shown = f"{word[:40]}…" if len(word) > 40 else word
        hint = guess(name, FLAGS) or "the instructions are: " + ", ".join(FLAGS)
        raise RecipeError(f"unknown instruction {shown!r}", place=str(place), hint=hint.strip())
    written, rest = _split_flags(more[0] if more else "")
    one = Instruction(name, (), rest.strip(), place, whole=bare)
    return replace(one, flags=tuple(_flags(one, written)))


_FLAG = re.compile(r"(--(?:[^\s'\"\\]|'[^']*'|\"(?:[^\"\\]|\\.)*\"|\\.)*)(?:\s+|\Z)", re.DOTALL)
_QUOTED = re.compile(r"'([^']*)'|\"((?:[^\"\\]|\\.)*)\"|\\(.)", re.DOTALL)


def _split_flags(text: str) -> tuple[list[str], str]:
    """The words at the beginning that start with `--`, without quotes, and the rest."""
    found, at = [], 0
    while match := _FLAG.match(text, at):
        at = match.end()
        if match.group(1) == "--":
            break
        found.append(_QUOTED.sub(_bare, match.group(1)))
    return found, text[at:]


def _bare(match: re.Match[str]) -> str:
    """What is in quotes, or escaped."""
    single, double, escaped = match.groups()
    return re.sub(r"\\(.)", r"\1", double, flags=re.DOTALL) if double else single or escaped or ""


def _flags(one: Instruction, written: list[str]) -> list[tuple[str, str]]:
    """Flags as names and values.

    Raises:
        RecipeError: one is not known, has no value, or is there twice.
    """
    found: list[tuple[str, str]] = []
    for word in written:
        name, is_set, value = word[2:].partition("=")
        if name not in FLAGS[one.word]:
            known = [f"--{known}" for known in FLAGS[one.word]]
            hint = hint_of(f"--{name}", known) if known else f"{one.word} takes no flags"
            raise one.error(f"{one.word} has no flag '--{name[:40]}'", hint)
        if name in _SWITCHES:
            value = value.lower() if is_set else "true"
            if value not in ("true", "false"):
                raise one.error(f"--{name} is true or false, not {value!r}")
        elif not value:
            raise one.error(f"--{name} has no value", f"write --{name}=…")
        if name not in _SEVERAL and any(name == other for other, _ in found):
            raise one.error(f"--{name} is there twice", "take one out")
        found.append((name, value))
    return found


def json_form(one: Instruction, text: str) -> tuple[str, ...] | None:
    """A text that is a list in JSON; None where it is none.

    Raises:
        RecipeError: it is a list of something else than texts.
    """
    if not text.startswith("["):
        return None
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise one.error(f"the list of {one.word} may hold texts alone", 'write ["a", "b"]')
    return tuple(found)


_HEREDOC = re.compile(r"(\d*)<<(-?)([^<]*)")


def _heredoc_words(one: Instruction, escape: str) -> list[tuple[str, bool, bool]]:
    """The names of what follows an instruction, each with whether it expands and drops tabs."""
    if one.word == "ONBUILD" and one.rest:
        one = _instruction(one.rest, one.place)
    if one.word not in _WITH_HEREDOCS or "<<" not in one.rest or one.listed is not None:
        return []
    found = (heredoc_word(word) for word in split_quoted(one.rest, escape))
    return [word for word in found if word is not None]


def heredoc_word(word: str) -> tuple[str, bool, bool] | None:
    """What `<<NAME` is called, whether it expands, and whether it drops tabs; None for others."""
    match = _HEREDOC.fullmatch(word)
    if match is None or not match.group(3):
        return None
    try:
        bare = expand(match.group(3).replace("$", "\\$"), {}).words
    except ExpansionError:
        return None
    if len(bare) != 1:
        return None
    return bare[0], bare[0] == match.group(3), bool(match.group(2))


_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")


def _stages(instructions: list[Instruction]) -> tuple[tuple[Instruction, ...], tuple[Stage, ...]]:
    """The arguments before all stages, and the stages."""
    arguments: list[Instruction] = []
    stages: list[Stage] = []
    inside: list[list[Instruction]] = []
    for one in instructions:
        if one.word == "FROM":
            stages.append(_stage(one, len(stages), stages))
            inside.append([])
        elif stages:
            inside[-1].append(one)
        elif one.word == "ARG":
            arguments.append(one)
        else:
            hint = "begin with the image that all lies upon: FROM debian:12, or FROM scratch"
            raise one.error(f"{one.word} stands before the first FROM", hint)
    if not stages:
        hint = "add the image that all lies upon: FROM debian:12, or FROM scratch"
        raise instructions[-1].error("the file has no FROM", hint)
    done = (replace(one, instructions=tuple(own)) for one, own in zip(stages, inside, strict=True))
    return tuple(arguments), tuple(done)


def _stage(one: Instruction, number: int, before: list[Stage]) -> Stage:
    words = one.rest.split()
    if len(words) not in (1, 3) or (len(words) == 3 and words[1].lower() != "as"):
        raise one.error(
            "FROM takes an image, and a name", "write FROM IMAGE, or FROM IMAGE AS NAME"
        )
    name = words[2].lower() if len(words) == 3 else ""
    if name and not _STAGE_NAME.fullmatch(name):
        hint = "begin with a letter; then letters, digits and . _ -"
        raise one.error(f"{words[2][:40]!r} cannot be the name of a stage", hint)
    same = next((other for other in before if name and other.name == name), None)
    if same is not None:
        line = same.begin.place.line
        raise one.error(f"two stages are called {name!r}", f"the other one is at line {line}")
    return Stage(number, name, words[0], one.flag("platform") or "", one)
