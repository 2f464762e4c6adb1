"""What an ebuild says outside of its functions: variables, inherited eclasses, the functions."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.atom import VERSION
from buildit.recipe.ways.ebuild.shell import parse_shell
from buildit.recipe.ways.ebuild.syntax import (
    Assign,
    Case,
    Chain,
    For,
    Function,
    If,
    Negated,
    Opaque,
    ShCommand,
    ShStatement,
    Test,
)
from buildit.recipe.ways.ebuild.values import (
    FILES_DIR,
    WORK_DIR,
    ShellScope,
    UnreadError,
    fields_of,
    glob_pattern,
    holds_test,
    holds_ver_test,
    word_text,
)

EAPIS = ("7", "8")
_MOST_TURNS = 1000
"""Turns of all loops outside of functions."""
_SPECS = (
    *("IUSE", "SRC_URI", "DEPEND", "RDEPEND", "BDEPEND", "IDEPEND", "PDEPEND"),
    *("REQUIRED_USE", "LICENSE", "RESTRICT"),
)
"""Where a part that is not known stands for nothing, which is said."""
_DEMANDS = ("MULTILIB_USEDEP", "PYTHON_USEDEP", "PYTHON_SINGLE_USEDEP", "PYTHON_REQUIRED_USE")
"""What eclasses demand of the flags of others, and of those that they make up: nothing here."""
_ECLASS_DEPENDS = {"PYTHON_DEPS": "dev-lang/python", "LUA_DEPS": "dev-lang/lua"}
_FILE = re.compile(rf"(?P<name>[A-Za-z0-9_][A-Za-z0-9+_-]*?)-(?P<version>{VERSION})\.ebuild")


@dataclass(frozen=True, slots=True)
class Unread:
    """Something that was not taken over: what was written from a line on, and why."""

    line: int
    text: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """`lines` are those at which variables were set last; `eclasses` in the order of `inherit`."""

    name: str
    version: str
    scope: ShellScope
    lines: dict[str, int]
    eclasses: tuple[str, ...]
    functions: dict[str, Function | Opaque]
    unread: tuple[Unread, ...]


def name_and_version(file_name: str, place: str) -> tuple[str, str]:
    """`PN` and `PVR` by the name of an ebuild (PMS 3.1, 3.2).

    Raises:
        RecipeError: it is not `NAME-VERSION.ebuild`.
    """
    match = _FILE.fullmatch(file_name)
    if match is None:
        message = f"{file_name!r} is no name of an ebuild"
        hint = "its name says the version: NAME-1.2.3.ebuild, NAME-1.2.3-r1.ebuild"
        raise RecipeError(message, place=place, hint=hint)
    return match["name"], match["version"]


def read_header(text: str, file: str, name: str, version: str, category: str) -> Header:
    """What the text of `NAME-VERSION.ebuild` says; `file` is what messages call it.

    Raises:
        RecipeError: it is no ebuild of `EAPIS`, or something in it never ends.
    """
    upstream, _, revision = version.partition("-r")
    names = {"PN": name, "PV": upstream, "P": f"{name}-{upstream}", "PVR": version}
    names |= {"PR": f"r{revision or 0}", "PF": f"{name}-{version}", "CATEGORY": category}
    names |= {"WORKDIR": WORK_DIR, "FILESDIR": FILES_DIR, "EPREFIX": "", "EROOT": ""}
    names |= dict.fromkeys(_DEMANDS, "") | _ECLASS_DEPENDS
    reading = _Reading(ShellScope(file, dict(names)))
    statements = parse_shell(text, file)
    reading.all(statements)
    eapi = reading.scope.text("EAPI")
    if eapi not in EAPIS:
        place = f"{file}:{reading.lines.get('EAPI', 1)}"
        told = f"it is of EAPI {eapi}" if eapi else "no EAPI is said"
        hint = f"an import reads EAPI {' and '.join(EAPIS)}; it begins with EAPI={EAPIS[-1]}"
        raise RecipeError(f"this ebuild is not read: {told}", place=place, hint=hint)
    functions, unread = reading.functions, tuple(reading.unread)
    eclasses = tuple(dict.fromkeys(reading.eclasses))
    return Header(name, version, reading.scope, reading.lines, eclasses, functions, unread)


@dataclass(slots=True)
class _Reading:
    scope: ShellScope
    lines: dict[str, int] = field(default_factory=dict)
    eclasses: list[str] = field(default_factory=list)
    functions: dict[str, Function | Opaque] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    turns: int = 0

    def all(self, statements: tuple[ShStatement, ...]) -> None:
        for one in statements:
            try:
                self.one(one)
            except UnreadError as error:
                self.unread.append(Unread(one.line, one.text, str(error)))

    def one(self, statement: ShStatement) -> None:
        match statement:
            case Function(name=name):
                self.functions[name] = statement
            case Opaque() if match := re.match(r"([A-Za-z0-9_]+)[ \t]*\(\)", statement.text):
                self.functions[match[1]] = statement
            case ShCommand(words=words, assigns=assigns, redirects=()):
                self.simple(statement, words[0].plain if words else None)
                if words and not assigns and words[0].plain not in ("inherit", "unset", "export"):
                    raise UnreadError(words[0].text)
            case If(branches=branches, otherwise=otherwise):
                for condition, body in branches:
                    if self.holds_all(condition):
                        self.all(body)
                        return
                self.all(otherwise)
            case Chain(first=first, rest=rest) if all(sign != "|" for sign, _ in rest):
                self.chain(first, rest)
            case For(name=name, words=words, body=body):
                for value in [one for word in words for one in fields_of(word, self.scope)]:
                    self.turns += 1
                    if self.turns > _MOST_TURNS:
                        place = f"{self.scope.file}:{statement.line}"
                        message = f"loops outside of functions turn more than {_MOST_TURNS} times"
                        raise RecipeError(message, place=place, hint="no ebuild needs that")
                    self.scope.names[name] = value
                    self.all(body)
            case Case(word=word, arms=arms):
                value = word_text(word, self.scope)
                for patterns, body in arms:
                    if any(self.fits(value, one.text.strip("\"'")) for one in patterns):
                        self.all(body)
                        return
            case _:
                raise UnreadError("")

    def fits(self, value: str, pattern: str) -> bool:
        if "$" in pattern or len(value) > len(pattern) + 1000:
            raise UnreadError(pattern)
        return re.fullmatch(glob_pattern(pattern), value, re.DOTALL) is not None

    def simple(self, statement: ShCommand, command: str | None) -> None:
        if command == "inherit":
            rest = statement.words[1:]
            self.eclasses += [one for word in rest for one in fields_of(word, self.scope)]
        elif command == "unset":
            for word in statement.words[1:]:
                self.scope.names.pop(word.plain or "", None)
        elif command in (None, "export", "declare", "readonly"):
            for assign in statement.assigns:
                self.assign(assign)

    def assign(self, assign: Assign) -> None:
        name, before = assign.name, self.scope.names.get(assign.name)
        self.lines[name] = assign.line
        missing: list[str] | None = [] if name in _SPECS else None
        try:
            if assign.index:
                raise UnreadError(f"{name}[{assign.index}]")
            if assign.items is not None:
                items = tuple(f for word in assign.items for f in fields_of(word, self.scope))
                listed = self.scope.listed(name) if assign.appends else ()
                self.scope.names[name] = (*listed, *items)
                return
            value = word_text(assign.value, self.scope, missing) if assign.value else ""
        except UnreadError:
            self.scope.names.pop(name, None)
            raise
        if assign.appends and isinstance(before, tuple):
            self.scope.names[name] = (f"{before[0] if before else ''}{value}", *before[1:])
        else:
            self.scope.names[name] = f"{before or ''}{value}" if assign.appends else value
        for one in missing or ():
            self.unread.append(Unread(assign.line, one, f"in {name}; it stands for nothing"))

    def chain(self, first: ShStatement, rest: tuple[tuple[str, ShStatement], ...]) -> None:
        """`test && …`, `test || …`: each is done where what stands before lets it be."""
        result = self.holds(first)
        for sign, statement in rest:
            if result == (sign == "&&"):
                match statement:
                    case Test() | Negated():
                        result = self.holds(statement)
                    case _:
                        self.one(statement)
                        result = True

    def holds_all(self, statements: tuple[ShStatement, ...]) -> bool:
        if len(statements) != 1:
            raise UnreadError("")
        return self.holds(statements[0])

    def holds(self, statement: ShStatement) -> bool:
        match statement:
            case Test():
                return holds_test(statement, self.scope)
            case Negated(inner=inner):
                return not self.holds(inner)
            case Chain(first=first, rest=rest) if all(sign != "|" for sign, _ in rest):
                result = self.holds(first)
                for sign, one in rest:
                    if result == (sign == "&&"):
                        result = self.holds(one)
                return result
            case ShCommand(words=(command, *words), assigns=(), redirects=()):
                arguments = [one for word in words for one in fields_of(word, self.scope)]
                if command.plain == "ver_test":
                    return holds_ver_test(arguments, self.scope.text("PV"))
                if command.plain == "has" and arguments:
                    return arguments[0] in arguments[1:]
                raise UnreadError(statement.text)
            case _:
                raise UnreadError(statement.text)
