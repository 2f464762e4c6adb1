"""What an ebuild's `src_configure` gives to the configure step: a list of arguments, each with the
flags that it stands under, as `configure:` of a recipe has them.

Read as data: arrays that grow, `use x && …`, `if use x`, `$(use_enable x)` and its kin. The rest of
the function becomes script lines before or after the one call of econf, cmake or meson.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import product

from buildit.recipe.ways.ebuild.depend import FlagSet
from buildit.recipe.ways.ebuild.scripts import (
    FLAG_LISTS,
    LARGE_FILES,
    Script,
    constant_flag,
    written,
)
from buildit.recipe.ways.ebuild.shwords import ShWord, literal_word
from buildit.recipe.ways.ebuild.syntax import (
    Assign,
    Chain,
    If,
    Literal,
    Negated,
    ShCommand,
    ShGroup,
    ShStatement,
    Substitution,
    Test,
    Variable,
    Word,
    WordPart,
)
from buildit.recipe.ways.ebuild.values import UnreadError, fields_of, holds_test

CALLS = {"econf": "autotools", "cmake_src_configure": "cmake", "meson_src_configure": "meson"}
ARRAYS = {"cmake": "mycmakeargs", "meson": "emesonargs"}
"""The arrays that the eclasses read by themselves."""
_MOST_ROWS = 64


@dataclass(frozen=True, slots=True)
class Argument:
    """`text` stands where all of `given` holds; `script` is the word of a shell in its place, where
    only the build knows it."""

    given: FlagSet
    text: str
    script: str = ""


@dataclass(slots=True)
class Configured:
    """What a `src_configure` comes to: the style, its arguments, lines of a script before and after
    the call, what compilers get besides, and variables for them."""

    style: str = ""
    arguments: tuple[Argument, ...] = ()
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    flags: dict[str, list[str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


def read_configure(body: Iterable[ShStatement], script: Script, style: str) -> Configured:
    """The configuration that the statements of a function describe; what is not understood becomes
    a comment among the lines before or after the call.

    Raises:
        UnreadError: the configure step is called under a condition, or more than once.
    """
    reading = _Reading(script, Configured(style))
    reading.all(tuple(body), ())
    return reading.found


_Option = tuple[FlagSet, str | None, tuple[tuple[str, str], ...]]
"""Flags, a text or None, and the pieces of a word of a script."""


@dataclass(slots=True)
class _Reading:
    script: Script
    found: Configured
    arrays: dict[str, list[Argument]] = field(default_factory=dict)
    called: bool = False

    def all(self, statements: tuple[ShStatement, ...], given: FlagSet) -> None:
        for one in statements:
            self.one(one, given)

    def lines(self) -> list[str]:
        return self.found.after if self.called else self.found.before

    def other(self, one: ShStatement, given: FlagSet) -> None:
        """A statement that is none of the configuration's: a line of a script."""
        if any(name in written(one) for name in CALLS):
            raise UnreadError("the configure step is called in a way that is not understood")
        made = self.script.lines((one,))
        for flag, on in reversed(given):
            self.script.wording.helpers.add("use")
            made = [f"if {'' if on else '! '}use {flag}; then", *(f"  {m}" for m in made), "fi"]
        self.lines().extend(made)

    def one(self, one: ShStatement, given: FlagSet) -> None:
        match one:
            case ShCommand(words=(), assigns=assigns, redirects=()) if assigns:
                self.assigned(one, assigns, given)
            case ShCommand(words=(Word() as command, *words), assigns=assigns, redirects=()):
                name = command.plain or ""
                if name in ("local", "declare") and not words:
                    self.assigned(one, assigns, given)
                elif name in ("local", "declare"):
                    for word in words:
                        self.arrays.setdefault(word.plain or "", [])
                elif name in CALLS and all(one.name == "ECONF_SOURCE" for one in assigns):
                    self.call(name, words, given)
                elif name == "default" and not words:
                    self.call("econf", [], given)
                elif name in FLAG_LISTS:
                    self.flags(one, given)
                elif name in ("tc-export", "tc-export_build_env"):
                    self.export(words)
                else:
                    self.other(one, given)
            case Chain(first=first, rest=rest) if all(sign != "|" for sign, _ in rest):
                self.chain(one, first, rest, given)
            case If(branches=branches, otherwise=otherwise):
                self.conditional(one, branches, otherwise, given)
            case ShGroup(body=body, subshell=False):
                self.all(body, given)
            case _:
                self.other(one, given)

    def chain(
        self,
        one: Chain,
        first: ShStatement,
        rest: tuple[tuple[str, ShStatement], ...],
        given: FlagSet,
    ) -> None:
        while rest and rest[-1][0] == "||" and written(rest[-1][1]).startswith("die"):
            rest = rest[:-1]
        if not rest:
            self.one(first, given)
            return
        *tests, (_, last) = rest
        if any(sign != "&&" for sign, _ in rest):
            if len(rest) == 1 and (flags := self.flags_of(first)) is not None and len(flags) == 1:
                self.one(last, (*given, (flags[0][0], not flags[0][1])))
                return
            self.other(one, given)
            return
        conditions: list[tuple[str, bool]] = []
        for test in (first, *(each for _, each in tests)):
            known = self.flags_of(test)
            if known is None:
                self.other(one, given)
                return
            conditions += known
        self.under((*given, *conditions), (last,))

    def conditional(
        self,
        one: If,
        branches: tuple[tuple[tuple[ShStatement, ...], tuple[ShStatement, ...]], ...],
        otherwise: tuple[ShStatement, ...],
        given: FlagSet,
    ) -> None:
        parts: list[tuple[FlagSet, tuple[ShStatement, ...]]] = []
        rest: FlagSet = given
        for condition, body in branches:
            known = self.flags_of(condition[0]) if len(condition) == 1 else None
            if known is None or len(known) > 1:
                self.other(one, given)
                return
            parts.append(((*rest, *known), body))
            rest = (*rest, *((flag, not on) for flag, on in known)) if known else _NEVER
            if not known:
                break
        if rest != _NEVER:
            parts.append((rest, otherwise))
        for each, statements in parts:
            self.under(each, statements)

    def under(self, given: FlagSet, body: tuple[ShStatement, ...]) -> None:
        if _NEVER[0] not in given and not _contradicts(given):
            self.all(body, given)

    def flags_of(self, one: ShStatement) -> FlagSet | None:
        """The flags that a test asks for: none where it always holds, `_NEVER` where it never
        does; None where it asks for something else."""
        match one:
            case ShCommand(words=(Word() as command, Word() as word), assigns=(), redirects=()):
                if command.plain != "use" or word.plain is None:
                    return None
                return self.flag(word.plain)
            case Negated(inner=inner):
                known = self.flags_of(inner)
                if known == ():
                    return _NEVER
                if known is None or len(known) != 1:
                    return None
                return () if known == _NEVER else ((known[0][0], not known[0][1]),)
            case Test():
                try:
                    return () if holds_test(one, self.script.wording.scope) else _NEVER
                except UnreadError:
                    return None
            case _:
                return None

    def flag(self, text: str) -> FlagSet | None:
        off, name = text.startswith("!"), text.removeprefix("!")
        if (known := constant_flag(name)) is not None:
            return () if known != off else _NEVER
        return ((name, not off),) if name in self.script.wording.flags else None

    # -- lists

    def assigned(self, one: ShCommand, assigns: tuple[Assign, ...], given: FlagSet) -> None:
        for assign in assigns:
            try:
                self.assign(assign, given)
            except UnreadError as error:
                self.arrays.pop(assign.name, None)
                made = self.script.comment(one, str(error))
                self.lines().extend(made)

    def assign(self, assign: Assign, given: FlagSet) -> None:
        if assign.index:
            raise UnreadError(assign.index)
        if assign.items is None:
            words = [] if assign.value is None or not assign.value.parts else [assign.value]
        else:
            words = [*assign.items]
        made = [one for word in words for one in self.arguments(word, given)]
        if assign.appends:
            before = self.arrays.get(assign.name)
            if before is None:
                known = self.script.wording.scope.listed(assign.name)
                before = [Argument((), text) for text in known]
            made = [*before, *made]
        elif given and self.arrays.get(assign.name):
            raise UnreadError("a list that is set anew under a condition")
        self.arrays[assign.name] = made

    def arguments(self, word: Word, given: FlagSet) -> list[Argument]:
        """What a word of a list gives, by flags.

        Raises:
            UnreadError: something of it is not known.
        """
        significant = [p for p in word.parts if not (isinstance(p, Literal) and not p.text)]
        match significant:
            case [Variable(name=name, rest="", before="")] if name in self.arrays:
                return [replace(one, given=(*given, *one.given)) for one in self.arrays[name]]
            case _:
                pass
        plain = not any(isinstance(part, Substitution | Variable) for part in significant)
        if plain:
            return [Argument(given, text) for text in fields_of(word, self.script.wording.scope)]
        options = [self.options(part) for part in significant]
        count = 1
        for each in options:
            count *= len(each)
        if count > _MOST_ROWS:
            raise UnreadError("too many flags in one word")
        found = []
        for combined in product(*options):
            condition = tuple(dict.fromkeys(c for own, _, _ in combined for c in own))
            if _contradicts((*given, *condition)):
                continue
            pieces = ShWord(tuple(piece for _, _, shown in combined for piece in shown))
            own = str(pieces) if any(text is None for _, text, _ in combined) else ""
            text = "" if own else "".join(text or "" for _, text, _ in combined)
            if (
                not text
                and not own
                and not any(isinstance(part, Literal) and part.quoted for part in significant)
            ):
                continue
            found.append(Argument((*given, *condition), text, own))
        return found

    def options(self, part: WordPart) -> list[_Option]:
        """The texts that a part may be: by flags, as text (None where only the build knows it), and
        as a word of a script."""
        match part:
            case Substitution(body=(ShCommand(words=(Word() as command, *words), redirects=()),)):
                name = command.plain or ""
                if name in _ASKERS:
                    given = [
                        f for word in words for f in fields_of(word, self.script.wording.scope)
                    ]
                    return self.asked(name, given, part)
            case _:
                pass
        made = self.script.wording.one(Word((part,), 0, ""))
        if made.const is not None:
            return [((), made.const, made.pieces)]
        return [((), None, made.pieces)]

    def asked(self, name: str, words: list[str], part: Substitution) -> list[_Option]:
        flag = self.flag(words[0]) if words else None
        if flag is None:
            raise UnreadError(part.body[0].text)
        on, off = _ASKERS[name](words)
        if name == "usev" and len(words) > 2:
            raise UnreadError(part.body[0].text)
        if not flag or flag == _NEVER:
            text = on if not flag else off
            return [((), text, literal_word(text).pieces)]
        ((name, is_on),) = flag
        return [
            (((name, is_on),), on, literal_word(on).pieces),
            (((name, not is_on),), off, literal_word(off).pieces),
        ]

    # -- calls

    def call(self, name: str, words: list[Word], given: FlagSet) -> None:
        if given or self.called:
            raise UnreadError("the configure step is called under a condition, or twice")
        style = CALLS[name]
        self.found.style = style
        arguments = [one for word in words for one in self.arguments(word, ())]
        array = ARRAYS.get(style, "")
        if array in self.arrays:
            arguments = [*self.arrays[array], *arguments]
        elif array:
            known = self.script.wording.scope.listed(array)
            arguments = [*(Argument((), text) for text in known), *arguments]
        self.found.arguments = tuple(one for one in arguments if not _is_ours(one, style))
        self.called = True

    def flags(self, one: ShCommand, given: FlagSet) -> None:
        try:
            if given:
                raise UnreadError("compiler flags under a condition")
            add_flags(one, self.script, self.found)
        except UnreadError as error:
            self.lines().extend(self.script.comment(one, str(error)))

    def export(self, words: list[Word]) -> None:
        tools = {"CC": "cc", "CXX": "c++", "AR": "ar", "RANLIB": "ranlib", "NM": "nm", "LD": "ld"}
        tools |= {"PKG_CONFIG": "pkg-config", "OBJCOPY": "objcopy", "STRIP": "strip", "AS": "as"}
        for word in words:
            if (name := word.plain or "") in tools:
                self.found.environment[name] = tools[name]


def add_flags(one: ShCommand, script: Script, found: Configured) -> None:
    """Take over `append-flags` and its kin for all phases.

    Raises:
        UnreadError: a flag is not known.
    """
    name, scope = one.words[0].plain or "", script.wording.scope
    texts = [f for word in one.words[1:] for f in fields_of(word, scope)]
    for variable in FLAG_LISTS[name]:
        listed = found.flags.setdefault(variable, [])
        listed += LARGE_FILES if name == "append-lfs-flags" else texts


Asker = Callable[[list[str]], tuple[str, str]]
_NEVER: FlagSet = (("", False),)


def _contradicts(given: FlagSet) -> bool:
    return any((flag, not on) in given for flag, on in given)


def _part(words: list[str], at: int, default: str) -> str:
    return words[at] if len(words) > at else default


def _switch(on: str, off: str) -> Asker:
    def made(words: list[str]) -> tuple[str, str]:
        name = _part(words, 1, words[0].removeprefix("!"))
        value = f"={words[2]}" if len(words) > 2 else ""
        return f"{on}{name}{value}", f"{off}{name}"

    return made


def _usex(words: list[str]) -> tuple[str, str]:
    on = _part(words, 1, "yes") + _part(words, 3, "")
    return on, _part(words, 2, "no") + _part(words, 4, "")


def _usev(words: list[str]) -> tuple[str, str]:
    return _part(words, 1, words[0].removeprefix("!")), ""


def _valued(prefix: str, on: str, off: str) -> Asker:
    def made(words: list[str]) -> tuple[str, str]:
        name = _part(words, 1, words[0].removeprefix("!"))
        return f"{prefix}{name}={on}", f"{prefix}{name}={off}"

    return made


def _find_package(words: list[str]) -> tuple[str, str]:
    name = _part(words, 1, words[0].removeprefix("!"))
    return f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=OFF", f"-DCMAKE_DISABLE_FIND_PACKAGE_{name}=ON"


_ASKERS: Mapping[str, Asker] = {
    "use_enable": _switch("--enable-", "--disable-"),
    "use_with": _switch("--with-", "--without-"),
    "usex": _usex,
    "usev": _usev,
    "meson_use": _valued("-D", "true", "false"),
    "meson_native_use_bool": _valued("-D", "true", "false"),
    "meson_feature": _valued("-D", "enabled", "disabled"),
    "meson_native_use_feature": _valued("-D", "enabled", "disabled"),
    "cmake_use_find_package": _find_package,
}

_OURS = {
    "autotools": re.compile(
        r"--(?:prefix=/usr|sysconfdir=/etc|localstatedir=/var|disable-dependency-tracking|libdir=.*)"
    ),
    "cmake": re.compile(r"-DCMAKE_INSTALL_(?:PREFIX=/usr|LIBDIR=.*|SYSCONFDIR=/etc)(?:/)?"),
    "meson": re.compile(r"--(?:prefix=/usr|sysconfdir=/etc|localstatedir=/var|buildtype=plain)"),
}


def _is_ours(one: Argument, style: str) -> bool:
    """Whether the build style says the same by itself."""
    text = one.text or one.script.strip('"')
    return not one.given and bool(_OURS[style].fullmatch(text))
