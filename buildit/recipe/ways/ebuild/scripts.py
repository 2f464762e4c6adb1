"""The phases of an ebuild as scripts for `sh -eu`: statement by statement, and what is not
understood as a comment in its place. Nothing of it is run here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from buildit.recipe.ways.ebuild.header import Unread
from buildit.recipe.ways.ebuild.install import INSTALLERS, MEANINGLESS, Targets
from buildit.recipe.ways.ebuild.shwords import ShWord, Wording, literal_word
from buildit.recipe.ways.ebuild.syntax import (
    Assign,
    Case,
    Chain,
    For,
    Function,
    If,
    Literal,
    Negated,
    Redirect,
    ShCommand,
    ShGroup,
    ShStatement,
    Test,
    Word,
)
from buildit.recipe.ways.ebuild.values import (
    MOST_TESTED,
    UnreadError,
    fields_of,
    holds_test,
    holds_ver_test,
)

FUNCTIONS: Mapping[str, str] = {
    "use": 'use() { case " $USE " in *" $1 "*) ;; *) return 1 ;; esac; }',
    "asks": 'asks() { case $1 in "!"*) ! use "${1#!}" ;; *) use "$1" ;; esac; }',
    "usex": 'usex() { if asks "$1"; then echo "${2-yes}${4-}"; else echo "${3-no}${5-}"; fi; }',
    "usev": 'usev() { if asks "$1"; then echo "${2-${1#!}}"; fi; }',
    "use_enable": 'use_enable() { usex "$1" "--enable-${2-${1#!}}${3+=$3}" '
    '"--disable-${2-${1#!}}" ""; }',
    "use_with": 'use_with() { usex "$1" "--with-${2-${1#!}}${3+=$3}" "--without-${2-${1#!}}" ""; }',
    "meson_use": 'meson_use() { usex "$1" "-D${2-${1#!}}=true" "-D${2-${1#!}}=false"; }',
    "meson_feature": 'meson_feature() { usex "$1" "-D${2-${1#!}}=enabled" '
    '"-D${2-${1#!}}=disabled"; }',
}
"""Functions of PMS 12.3.10 for scripts that ask for flags when they run."""
_NEEDS = {"use": (), "asks": ("use",), "usex": ("asks",), "usev": ("asks",)}

_QUIET = """
    einfo elog ewarn eqawarn eerror ebegin eend einfon debug-print debug-print-function
    eapply_user docompress dostrip elibtoolize tc-export tc-ld-disable-gold strip-flags
    strip-unsupported-flags filter-lto python_setup
    xdg_src_prepare gnome2_src_prepare optfeature : true
"""
_SILENT = frozenset(_QUIET.split())
"""What speaks to the user, or asks for what is so in our builds anyway."""
_PROGRAMS = """
    sed rm mv cp mkdir ln touch chmod install cat echo printf find grep egrep gzip gunzip bzip2 xz
    tar sort uniq tr cut head tail basename dirname test [ make false awk perl rmdir ar ranlib patch
    cmp diff tee wc xargs strip readlink iconv m4 autoreconf autoconf automake aclocal libtoolize
    autoheader bison flex msgfmt python3 sh ninja cmake meson
"""
_COMMANDS = frozenset(_PROGRAMS.split())
"""Programs that a script may call as the ebuild does, offline and in the build's own chroot."""
FLAG_LISTS = {
    "append-cflags": ("CFLAGS",),
    "append-cxxflags": ("CXXFLAGS",),
    "append-flags": ("CFLAGS", "CXXFLAGS"),
    "append-ldflags": ("LDFLAGS",),
    "append-cppflags": ("CPPFLAGS",),
    "append-lfs-flags": ("CPPFLAGS",),
}
"""flag-o-matic: which variables its functions add to."""
LARGE_FILES = ("-D_FILE_OFFSET_BITS=64", "-D_LARGEFILE_SOURCE", "-D_LARGEFILE64_SOURCE")
_MOST_INLINED = 100
"""Calls of functions of an ebuild's own in one phase: each is written out where it stands."""
_OPERATORS = {"==": "=", "=": "=", "!=": "!="}
_NUMBERS = ("-eq", "-ne", "-lt", "-le", "-gt", "-ge")
_FILE_TESTS = ("-e", "-f", "-d", "-x", "-r", "-s", "-L", "-h", "-w", "-n", "-z")


@dataclass(slots=True)
class Script:
    """One phase on its way. `defaults` are the texts of phases by the names that call them,
    `helpers` of ours that it calls; `files` are those of FILESDIR that it needs."""

    wording: Wording
    targets: Targets
    defaults: Mapping[str, Callable[[Script], list[str]]] = field(default_factory=dict)
    functions: Mapping[str, ShStatement] = field(default_factory=dict)
    unread: list[Unread] = field(default_factory=list)
    pushed: list[str] = field(default_factory=list)
    calls: tuple[str, ...] = ()
    may_append: bool = True
    inlined: int = 0
    appends: set[str] = field(default_factory=set)

    def text(self, lines: Iterable[str]) -> str:
        """The script of these lines, with the functions that it calls at its head."""
        needed: list[str] = []

        def need(name: str) -> None:
            for one in _NEEDS.get(name, ("usex",)):
                need(one)
            if name not in needed:
                needed.append(name)

        for name in sorted(self.wording.helpers):
            need(name)
        return "".join(f"{line}\n" for line in (*(FUNCTIONS[name] for name in needed), *lines))

    def lines(self, statements: Iterable[ShStatement], indent: str = "") -> list[str]:
        found: list[str] = []
        listed = [*statements]
        for number, one in enumerate(listed):
            own, helpers = set(self.wording.own), set(self.wording.helpers)
            try:
                found += [f"{indent}{line}" for line in self.statement(one)]
            except UnreadError as error:
                self.wording.own, self.wording.helpers = own, helpers
                found += self.comment(one, str(error), indent)
                if _moves(one):  # what follows would be done elsewhere
                    rest = listed[number + 1 :]
                    why = "after a change of directory that is not understood"
                    found += [line for each in rest for line in self.comment(each, why, indent)]
                    break
        return found

    def comment(self, one: ShStatement, why: str, indent: str = "") -> list[str]:
        """A statement that is not understood, in its place; it is told of, too."""
        text = written(one)
        self.unread.append(Unread(one.line, text, why if why != text else ""))
        first, *rest = text.split("\n")
        place = f"{self.wording.scope.file}:{one.line}"
        return [f"{indent}# {place}: {first}", *(f"{indent}#   {line.strip()}" for line in rest)]

    def block(self, statements: Iterable[ShStatement]) -> list[str]:
        """The body of a group: never empty, as a shell has it."""
        made = self.lines(statements, "  ")
        return made if any(not line.lstrip().startswith("#") for line in made) else [*made, "  :"]

    # -- statements

    def statement(self, one: ShStatement) -> list[str]:
        match one:
            case ShCommand():
                return self.simple(one)
            case Chain(first=first, rest=rest):
                return self.chain(first, rest)
            case If(branches=branches, otherwise=otherwise):
                return self.conditional(branches, otherwise)
            case For(name=name, words=words, body=body):
                self.wording.own.add(name)
                listed = " ".join(str(w) for word in words for w in self.wording.words(word))
                return [f"for {name} in {listed}; do", *self.block(body), "done"]
            case Case(word=word, arms=arms):
                return self.case(word, arms)
            case ShGroup(body=body, subshell=subshell):
                if not subshell:
                    return self.lines(body)
                return ["(", *self.block(body), ")"]
            case Test() | Negated():
                raise UnreadError("a test alone")
            case _:
                raise UnreadError("")

    def case(
        self, word: Word, arms: tuple[tuple[tuple[Word, ...], tuple[ShStatement, ...]], ...]
    ) -> list[str]:
        made = [f"case {self.wording.one(word)} in"]
        for patterns, body in arms:
            shown = "|".join(str(self.wording.one(one)) for one in patterns)
            made += [f"  {shown})", *(f"  {line}" for line in self.block(body)), "    ;;"]
        return [*made, "esac"]

    def conditional(
        self,
        branches: tuple[tuple[tuple[ShStatement, ...], tuple[ShStatement, ...]], ...],
        otherwise: tuple[ShStatement, ...],
    ) -> list[str]:
        made: list[str] = []
        for condition, body in branches:
            tested = self.tested(condition)
            if tested is True:
                if not made:
                    return self.lines(body)
                return [*made, "else", *self.block(body), "fi"]
            if tested is not False:
                made += [f"{'elif' if made else 'if'} {tested}; then", *self.block(body)]
        if not made:
            return self.lines(otherwise)
        return [*made, *(["else", *self.block(otherwise)] if otherwise else []), "fi"]

    def tested(self, statements: tuple[ShStatement, ...]) -> str | bool:
        """A condition in our shell, or what it comes to where that is known.

        Raises:
            UnreadError: it is not understood.
        """
        if len(statements) != 1:
            raise UnreadError("several commands as a condition")
        return self.test(statements[0])

    def test(self, one: ShStatement) -> str | bool:
        match one:
            case Test():
                try:
                    return holds_test(one, self.wording.scope)
                except UnreadError:
                    return self.bracket(list(one.words))
            case Negated(inner=inner):
                result = self.test(inner)
                return not result if isinstance(result, bool) else f"! {result}"
            case Chain(first=first, rest=rest) if all(sign in ("&&", "||") for sign, _ in rest):
                made = self.test(first)
                for sign, further in rest:
                    made = _joined(made, sign, self.test(further))
                return made
            case ShCommand(words=(command, *words), assigns=(), redirects=redirects):
                return self.asked(one, command.plain or "", words, redirects)
            case _:
                raise UnreadError(one.text)

    def asked(
        self, one: ShCommand, command: str, words: list[Word], redirects: tuple[Redirect, ...]
    ) -> str | bool:
        if command in ("use", "ver_test") and not redirects:
            given = [f for word in words for f in fields_of(word, self.wording.scope)]
            if command == "ver_test":
                return holds_ver_test(given, self.wording.scope.text("PV"))
            return self.flag(given[0] if len(given) == 1 else "")
        if command in ("tc-is-cross-compiler", "is-flag", "prefix"):
            return False
        if command in _COMMANDS or command == "emake":
            made = self.simple(one)
            if len(made) == 1:
                return made[0]
        raise UnreadError(one.text)

    def flag(self, name: str) -> str | bool:
        """`use flag`, or `use !flag`."""
        off, plain = name.startswith("!"), name.removeprefix("!")
        if (known := constant_flag(plain)) is not None:
            return known != off
        if plain not in self.wording.flags:
            raise UnreadError(f"the flag {plain!r} is none of IUSE")
        self.wording.helpers.add("use")
        return f"! use {plain}" if off else f"use {plain}"

    def bracket(self, words: list[Word]) -> str:
        """`[[ … ]]` as `[ … ]`, where both mean the same."""
        if len(words) > MOST_TESTED:
            raise UnreadError("a long [[ ]]")
        for sign in ("||", "&&"):
            at = next((i for i, word in enumerate(words) if word.text == sign), None)
            if at is not None:
                return f"{self.bracket(words[:at])} {sign} {self.bracket(words[at + 1 :])}"
        if words and words[0].text == "!":
            return f"! {self.bracket(words[1:])}"
        texts = [word.text for word in words]
        if len(words) == 2 and texts[0] in _FILE_TESTS:
            return f"[ {texts[0]} {self.quoted(words[1])} ]"
        if len(words) == 3 and texts[1] in (*_OPERATORS, *_NUMBERS):
            is_pattern = any(
                isinstance(part, Literal) and not part.quoted and re.search(r"[*?\[]", part.text)
                for part in words[2].parts
            )
            if not is_pattern:
                sign = _OPERATORS.get(texts[1], texts[1])
                return f"[ {self.quoted(words[0])} {sign} {self.quoted(words[2])} ]"
        raise UnreadError("[[ ]]")

    def quoted(self, word: Word) -> str:
        """A word that must not be split: `[[ ]]` splits none."""
        made = self.wording.one(word)
        kinds = tuple(("value" if k == "bare" else k, text) for k, text in made.pieces)
        return str(ShWord(kinds))

    def chain(self, first: ShStatement, rest: tuple[tuple[str, ShStatement], ...]) -> list[str]:
        while rest and rest[-1][0] == "||" and _command(rest[-1][1]) in ("die", "true", ":"):
            quiet = _command(rest[-1][1]) != "die"
            rest = rest[:-1]
            if quiet and not rest:
                made = self.statement(first)
                if len(made) == 1:
                    return [f"{made[0]} || true"]
                raise UnreadError("")
        if not rest:
            if isinstance(first, Test | Negated) or _command(first) in ("use", "ver_test"):
                tested = self.test(first)
                if isinstance(tested, bool):
                    return [] if tested else ["exit 1"]
                return [f"if ! {{ {tested}; }}; then", "  exit 1", "fi"]
            return self.statement(first)
        if all(sign == "|" for sign, _ in rest):
            parts = [self.statement(one) for one in (first, *(other for _, other in rest))]
            if all(len(one) == 1 for one in parts):
                return [" | ".join(one[0] for one in parts)]
            raise UnreadError("")
        signs, last = {sign for sign, _ in rest}, rest[-1][1]
        head = Chain(first, rest[:-1], line=first.line, text=first.text) if rest[1:] else first
        if signs == {"&&"}:
            return self.conditional((((head,), (last,)),), ())
        if signs == {"||"} and len(rest) == 1:
            tested = self.test(first)
            if isinstance(tested, bool):
                return [] if tested else self.lines((last,))
            body = self.block((last,))
            return [f"if ! {{ {tested}; }}; then", *body, "fi"]
        raise UnreadError("&& and || in one list")

    # -- commands

    def simple(self, one: ShCommand) -> list[str]:
        if not one.words or one.words[0].plain in ("local", "export", "declare"):
            if one.redirects or len(one.words) > 1:
                return self.declared(one)
            return [line for assign in one.assigns for line in self.assign(assign, one)]
        command, words = one.words[0].plain or "", list(one.words[1:])
        if command in ("nonfatal", "command") and words:
            inner = ShCommand(
                one.assigns, tuple(words), one.redirects, line=one.line, text=one.text
            )
            return self.simple(inner)
        if command in _SILENT:
            return []
        if command in MEANINGLESS:
            return [f"# {self.wording.scope.file}:{one.line}: left out, {MEANINGLESS[command]}"]
        if command in self.defaults and not words and not one.redirects:
            return self.defaults[command](self)
        if command in self.functions and not words and command not in self.calls:
            return self.called(command)
        made = [word for each in words for word in self.wording.words(each)]
        if one.redirects:
            return self.redirected(one, command, made)
        return self.command(one, command, made)

    def declared(self, one: ShCommand) -> list[str]:
        """`local a b`: names without a value."""
        names = [word.plain or "" for word in one.words[1:]]
        if one.redirects or one.words[0].plain != "local" or not all(map(str.isidentifier, names)):
            raise UnreadError("")
        self.wording.own |= {*names}
        empty = [f"{name}=" for name in names]
        return [*empty, *(line for assign in one.assigns for line in self.assign(assign, one))]

    def assign(self, assign: Assign, one: ShCommand) -> list[str]:
        """A variable of a script; a list that is known stays known, and is none of the script."""
        if assign.items is not None or assign.index:
            if assign.index:
                raise UnreadError(f"{assign.name}[{assign.index}]")
            made = [one for word in assign.items or () for one in self.wording.words(word)]
            before = self.wording.lists.get(assign.name) if assign.appends else ()
            if before is None:
                known = self.wording.scope.listed(assign.name)
                before = tuple(literal_word(one) for one in known)
            self.wording.lists[assign.name] = (*before, *made)
            return []
        value = self.wording.one(assign.value) if assign.value and assign.value.parts else ""
        exported = "export " if one.words and one.words[0].plain == "export" else ""
        if assign.appends and assign.name not in self.wording.own:
            raise UnreadError(f"{assign.name}+=")
        self.wording.own.add(assign.name)
        shown = f'"${assign.name}"{value}' if assign.appends else f"{value}"
        return [f"{exported}{assign.name}={shown}"]

    def called(self, name: str) -> list[str]:
        """The body of a function of the ebuild's own, in the place of its call."""
        function = self.functions[name]
        if not isinstance(function, Function):
            raise UnreadError(f"{name} is not understood")
        self.inlined += 1
        if self.inlined > _MOST_INLINED:
            raise UnreadError(f"{name} is called too often")
        before, self.calls = self.calls, (*self.calls, name)
        made = self.lines(function.body)
        self.calls = before
        return made

    def redirected(self, one: ShCommand, command: str, words: list[ShWord]) -> list[str]:
        quiet = all(each.target.plain == "/dev/null" for each in one.redirects)
        if command in ("pushd", "popd", "cd") and quiet:
            return self.moved(command, [*map(str, words)])
        if command not in ("cat", "echo", "printf", "sed", "grep", "awk", "tr", "sort", "find"):
            raise UnreadError(f"{command} with a redirection")
        made, bodies = [command, *map(str, words)], list[str]()
        for each in one.redirects:
            if each.operator in ("<<", "<<-"):
                if re.search(r"[$`\\]", each.body) or bodies:
                    raise UnreadError("a here-document with expansions")
                made.append("<<'END'")
                bodies += [*each.body.rstrip("\n").split("\n"), "END"]
            elif each.operator in (">", ">>", "<", "2>", "&>", ">|"):
                made.append(f"{each.operator.replace('&>', '>')} {self.wording.one(each.target)}")
            else:
                raise UnreadError(each.operator)
        return [" ".join(made), *bodies]

    def command(self, one: ShCommand, command: str, words: list[ShWord]) -> list[str]:
        shown = [
            f"{assign.name}={self.wording.one(assign.value) if assign.value.parts else ''}"
            for assign in one.assigns
            if assign.value is not None
        ]
        if command in INSTALLERS:
            if one.assigns:
                raise UnreadError("")
            return [*INSTALLERS[command](words, self.targets)]
        listed = [*map(str, words)]
        match command:
            case "die" | "assert":
                return ["exit 1"]
            case "emake":
                return [" ".join((*shown, 'make -j"$JOBS"', *listed))]
            case "eautoreconf":
                return [" ".join((*shown, "autoreconf -fi"))]
            case "eautoconf" | "eautomake" | "eautoheader" | "eaclocal":
                return [" ".join((*shown, command[1:], *listed))]
            case "cmake_build" | "cmake_src_compile":
                return [" ".join(('make -C .buildit -j"$JOBS"', *listed))]
            case "eninja" | "meson_src_compile":
                return [" ".join(("ninja -C .buildit", *listed))]
            case "cd" | "pushd" | "popd":
                return self.moved(command, listed)
            case _ if command in FLAG_LISTS:
                return self.appended(command, words)
            case "filter-flags" | "filter-ldflags" | "replace-flags":
                if self.appends & {*listed}:
                    raise UnreadError("it takes flags away that were appended before")
                return []
            case "rm" if any(_is_outside(word) for word in words):
                raise UnreadError("it would remove what is not the package's")
            case _ if command in _COMMANDS or re.fullmatch(r"\./[A-Za-z0-9_./+-]+", command):
                return [" ".join((*shown, command, *listed))]
            case _:
                raise UnreadError(command)

    def appended(self, command: str, words: list[ShWord]) -> list[str]:
        """Further flags for compilers, from here to the end of the phase."""
        if not self.may_append:
            raise UnreadError("compiler flags under a condition")
        listed = LARGE_FILES if command == "append-lfs-flags" else tuple(map(str, words))
        self.appends |= {*listed}
        shown = " ".join(one.const or str(one) for one in words) or " ".join(listed)
        if '"' in shown:
            raise UnreadError(command)
        names = FLAG_LISTS[command]
        return [f'export {name}="${{{name}:-}} {shown}"' for name in names]

    def moved(self, command: str, words: list[str]) -> list[str]:
        if command == "popd":
            if not self.pushed:
                raise UnreadError(command)
            return [f"cd {self.pushed.pop()}"]
        if len(words) != 1:
            raise UnreadError(command)
        if command == "pushd":
            if self.pushed:
                raise UnreadError("pushd in pushd")
            self.pushed.append('"$SRC"')
        return [f"cd {words[0]}"]


_CONSTANT_FLAGS = {
    **dict.fromkeys(("kernel_linux", "elibc_glibc", "userland_GNU"), True),
    **dict.fromkeys(("prefix", "prefix-guest", "prefix-stack", "verify-sig"), False),
}
_OTHER_SYSTEMS = ("kernel_", "elibc_", "userland_")


def constant_flag(name: str) -> bool | None:
    """A flag of profiles and eclasses that is the same in every build of ours; else None."""
    return _CONSTANT_FLAGS.get(name, False if name.startswith(_OTHER_SYSTEMS) else None)


def _joined(left: str | bool, sign: str, right: str | bool) -> str | bool:
    if isinstance(left, bool):
        return right if left == (sign == "&&") else left
    if isinstance(right, bool):
        return left if right == (sign == "&&") else right
    return f"{left} {sign} {right}"


def _command(statement: ShStatement) -> str:
    match statement:
        case ShCommand(words=(first, *_)):
            return first.plain or ""
        case _:
            return ""


def _moves(one: ShStatement) -> bool:
    first = one.first if isinstance(one, Chain) else one
    return _command(first) in ("cd", "pushd", "popd")


def _is_outside(word: ShWord) -> bool:
    """Whether a path is one of the machine, or leads up."""
    text = word.const
    return text is not None and (text.startswith("/") or ".." in text.split("/"))


def written(statement: ShStatement) -> str:
    """What was written, with the here-documents of a command."""
    bodies = [each.body for each in statement.redirects] if isinstance(statement, ShCommand) else []
    return "\n".join([statement.text, *(body.rstrip("\n") for body in bodies if body)])


_USUAL_DOCS = "README* ChangeLog AUTHORS NEWS TODO CHANGES THANKS BUGS FAQ CREDITS CHANGELOG"


def einstalldocs(script: Script) -> list[str]:
    """`einstalldocs` (PMS 12.3.9): DOCS where it is set, else the usual names."""
    scope = script.wording.scope
    place = f'"$DESTDIR/usr/share/doc/{script.targets.doc}"'
    if "DOCS" in script.wording.lists or "DOCS" in scope.names:
        own = script.wording.lists.get("DOCS")
        listed = [*map(str, own or ())]
        if own is None:
            listed = [_patterned(text) for text in scope.listed("DOCS")]
        return [f"install -D -m 0644 -t {place} {' '.join(listed)}"] if listed else []
    line = f'  if [ -s "$file" ]; then install -D -m 0644 -t {place} "$file"; fi'
    return [f"for file in {_USUAL_DOCS}; do", line, "done"]


def _patterned(text: str) -> str:
    """A word of DOCS: its patterns stay patterns."""
    pieces = re.split(r"([*?])", text)
    return "".join(p if p in ("*", "?") else str(literal_word(p)) for p in pieces if p)
