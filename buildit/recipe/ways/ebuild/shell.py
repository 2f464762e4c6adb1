"""The shell of ebuilds as data: statements and words with their lines. Nothing is run or expanded.

The subset that ebuilds are written in (PMS 6, bash 4.2 and 5.0): assignments and arrays, functions,
lists, pipes, `if for while case`, `[[ ]]`, here-documents, all ways of quoting, `$x ${x…} $(…)`. A
statement in other syntax is an `Opaque` of its line; a quote, list or function that never ends is
an error, since nothing behind it can be trusted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

from buildit.recipe.ways.ebuild.syntax import (
    Assign,
    Case,
    Chain,
    For,
    Function,
    If,
    Literal,
    Negated,
    OddPart,
    Opaque,
    Redirect,
    ShCommand,
    ShGroup,
    ShStatement,
    Test,
    While,
    Word,
)
from buildit.recipe.ways.ebuild.words import BREAKS, OddError, WordReader

_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\[[^\]\n]*\])?(\+?)=")
_FUNCTION = re.compile(
    r"(?:function[ \t]+([A-Za-z0-9_.:+-]+)[ \t]*(?:\(\))?|([A-Za-z0-9_.:+-]+)[ \t]*\([ \t]*\))\s*\{"
)
_REDIRECT = re.compile(r"(?:[0-9]*|&)(?:>>|>\||>&|<&|<<<|<<-|<<|&>|>|<)")
_COMPOUND = re.compile(r"(?:if|for|while|until|case|select|coproc|function|time)\b|[({](?!\()")
_ENDS = frozenset(("then", "else", "elif", "fi", "do", "done", "esac", "}"))


class _OddCompoundError(Exception):
    """The same, where the statement has others inside and its end is not known: at a position."""


def parse_shell(text: str, file: str, first: int = 1) -> tuple[ShStatement, ...]:
    """The statements of `text`, whose first line is line `first` of `file`.

    Raises:
        RecipeError: something that begins never ends, or they are nested too deep.
    """
    reader = _Reader(text, file, first)
    try:
        return tuple(reader.statements(lambda: reader.at >= len(text)))
    except _OddCompoundError as error:
        hint = "write it as `if`, `for NAME in …`, `while` or `case`; an import reads no other"
        raise reader.fail(error.args[0], "this statement is not read", hint) from None


def parse_word(text: str, file: str, line: int) -> Word:
    """A word with everything in it as it stands, blanks included: the inside of `${x/…}`.

    Raises:
        RecipeError: as `parse_shell`.
    """
    reader = _Reader(text, file, line)
    try:
        return reader.word("")
    except OddError:
        return Word((OddPart(text),), line, text)


class _Span(TypedDict):
    line: int
    text: str


@dataclass(slots=True)
class _Reader(WordReader):
    def within(self, text: str) -> tuple[ShStatement, ...]:
        inner = _Reader(text, self.file, self.line(), depth=self.depth)
        inner.deeper()
        return tuple(inner.statements(lambda: inner.at >= len(text)))

    def separators(self) -> None:
        while True:
            self.blanks()
            if self.at < len(self.text) and self.text[self.at] == "\n":
                self.newline()
            elif self.at < len(self.text) and self.text[self.at] == ";":
                if self.text.startswith(";;", self.at):
                    return
                self.at += 1
            else:
                return

    def peek(self) -> str:
        """The reserved word, or any plain word, that stands here."""
        match = re.compile(r"[^\s;&|<>()]+").match(self.text, self.at)
        return match[0] if match else self.text[self.at : self.at + 1]

    # -- statements

    def statements(self, ends: Callable[[], bool]) -> list[ShStatement]:
        found: list[ShStatement] = []
        while True:
            self.separators()
            if ends():
                return found
            if self.at >= len(self.text):
                raise EOFError
            before, begun = self.at, self.depth
            try:
                found.append(self.chain())
            except OddError:
                self.depth = begun
                if _COMPOUND.match(self.text, before):
                    raise _OddCompoundError(before) from None
                found.append(self.opaque(before))
            if self.at == before:
                found.append(self.opaque(before))

    def opaque(self, start: int) -> Opaque:
        """The line from `start` on, and those that follow a backslash, without a look inside."""
        end = self.at = start
        while True:
            end = self.text.find("\n", end)
            end = len(self.text) if end < 0 else end
            if not self.text.endswith("\\", start, end) or end >= len(self.text):
                break
            end += 1
        self.at = end
        return Opaque(line=self.line(start), text=self.text[start:end].strip())

    def until(self, start: int, what: str, *words: str) -> tuple[ShStatement, ...]:
        """Statements up to one of the reserved words, which is left to stand.

        Raises:
            RecipeError: it never comes.
        """
        self.deeper()
        try:
            found = self.statements(lambda: self.peek() in words)
        except EOFError:
            raise self.unclosed(start, what) from None
        self.depth -= 1
        return tuple(found)

    def take(self, word: str) -> None:
        self.separators()
        if self.peek() != word:
            raise OddError
        self.at += len(word)

    def chain(self) -> ShStatement:
        start, first = self.at, self.pipe()
        rest: list[tuple[str, ShStatement]] = []
        while True:
            self.blanks()
            if self.text.startswith(("&&", "||"), self.at):
                sign = self.text[self.at : self.at + 2]
                self.at += 2
                self.lines()
                rest.append((sign, self.pipe()))
            else:
                break
        if self.text.startswith("&", self.at):
            raise OddError
        return Chain(first, tuple(rest), **self.span(start)) if rest else first

    def lines(self) -> None:
        """Step over blanks and line ends, after `&&` and `|`."""
        self.blanks()
        while self.at < len(self.text) and self.text[self.at] == "\n":
            self.newline()
            self.blanks()

    def pipe(self) -> ShStatement:
        start = self.at
        if re.compile(r"!\s").match(self.text, self.at):
            self.at += 1
            self.blanks()
            self.deeper()
            inner = self.pipe()
            self.depth -= 1
            return Negated(inner, **self.span(start))
        first, rest = self.command(), list[tuple[str, ShStatement]]()
        while True:
            self.blanks()
            if self.text.startswith("|", self.at) and not self.text.startswith("||", self.at):
                self.at += 1
                self.lines()
                rest.append(("|", self.command()))
            else:
                return Chain(first, tuple(rest), **self.span(start)) if rest else first

    def span(self, start: int) -> _Span:
        return {"line": self.line(start), "text": self.text[start : self.at].strip()}

    def command(self) -> ShStatement:
        self.blanks()
        start, word = self.at, self.peek()
        if match := _FUNCTION.match(self.text, self.at):
            return self.function(start, match)
        made = self.compound(start, word)
        if made is None:
            return self.simple(start)
        redirected = False
        while match := _REDIRECT.match(self.text, self.at + len(self.blank(self.at))):
            self.redirect(match)
            redirected = True
        return Opaque(**self.span(start)) if redirected else made

    def blank(self, at: int) -> str:
        found = re.compile(r"[ \t]*").match(self.text, at)
        return found[0] if found else ""

    def function(self, start: int, match: re.Match[str]) -> ShStatement:
        """A function; one that is not read whole is an `Opaque` to the next line with } first."""
        self.at, begun = match.end(), self.depth
        try:
            body = self.until(start, "function", "}")
        except _OddCompoundError:
            end = self.text.find("\n}", match.end())
            if end < 0:
                raise self.unclosed(start, "function") from None
            self.at, self.depth = end + 2, begun
            return Opaque(**self.span(start))
        self.at += 1
        return Function(match[1] or match[2], body, **self.span(start))

    def compound(self, start: int, word: str) -> ShStatement | None:
        """What begins with a reserved word, or in brackets; None where a command is meant."""
        match word:
            case "if":
                return self.if_statement(start)
            case "for":
                return self.for_statement(start)
            case "while" | "until":
                return self.while_statement(start, word)
            case "case":
                return self.case_statement(start)
            case "[[":
                return self.test(start)
            case "{":
                self.at += 1
                body = self.until(start, "group", "}")
                self.at += 1
                return ShGroup(body, False, **self.span(start))
            case "select" | "coproc" | "time" | "function":
                raise OddError
            case _ if word in _ENDS:
                raise OddError
            case _:
                pass
        if self.text.startswith("((", self.at):
            raise OddError
        if self.text.startswith("(", self.at):
            self.at += 1
            body = self.until(start, "group", ")")
            self.at += 1
            return ShGroup(body, True, **self.span(start))
        return None

    def if_statement(self, start: int) -> If:
        branches: list[tuple[tuple[ShStatement, ...], tuple[ShStatement, ...]]] = []
        otherwise: tuple[ShStatement, ...] = ()
        self.at += len("if")
        while True:
            condition = self.until(start, "if", "then")
            self.take("then")
            body = self.until(start, "if", "elif", "else", "fi")
            branches.append((condition, body))
            word = self.peek()
            self.at += len(word)
            if word == "else":
                otherwise = self.until(start, "if", "fi")
                self.at += len("fi")
            if word != "elif":
                return If(tuple(branches), otherwise, **self.span(start))

    def for_statement(self, start: int) -> For:
        head = re.compile(r"for[ \t]+([A-Za-z_][A-Za-z0-9_]*)[ \t]+in(?=[ \t;\n\\])")
        match = head.match(self.text, self.at)
        if match is None:
            raise OddError
        self.at = match.end()
        words: list[Word] = []
        while True:
            self.blanks()
            if self.at >= len(self.text) or self.text[self.at] in "\n;":
                break
            words.append(self.word(BREAKS))
        self.take("do")
        body = self.until(start, "loop", "done")
        self.at += len("done")
        return For(match[1], tuple(words), body, **self.span(start))

    def while_statement(self, start: int, word: str) -> While:
        self.at += len(word)
        test = self.until(start, "loop", "do")
        self.take("do")
        body = self.until(start, "loop", "done")
        self.at += len("done")
        return While(word == "until", test, body, **self.span(start))

    def case_statement(self, start: int) -> Case:
        self.at += len("case")
        self.blanks()
        word = self.word(BREAKS)
        self.take("in")
        arms: list[tuple[tuple[Word, ...], tuple[ShStatement, ...]]] = []
        while True:
            self.separators()
            if self.at >= len(self.text):
                raise self.unclosed(start, "case")
            if self.peek() == "esac":
                self.at += len("esac")
                return Case(word, tuple(arms), **self.span(start))
            arms.append(self.case_arm(start))

    def case_arm(self, start: int) -> tuple[tuple[Word, ...], tuple[ShStatement, ...]]:
        if self.text.startswith("(", self.at):
            self.at += 1
        patterns: list[Word] = []
        while True:
            self.blanks()
            patterns.append(self.word(BREAKS))
            self.blanks()
            sign = self.text[self.at : self.at + 1]
            if sign not in ("|", ")"):
                raise OddError
            self.at += 1
            if sign == ")":
                break
        self.deeper()
        ends = lambda: self.text.startswith(";;", self.at) or self.peek() == "esac"  # noqa: E731
        try:
            body = tuple(self.statements(ends))
        except EOFError:
            raise self.unclosed(start, "case") from None
        self.depth -= 1
        if self.text.startswith(";;", self.at):
            self.at += 2
            if self.text.startswith("&", self.at):
                raise OddError
        return tuple(patterns), body

    def test(self, start: int) -> Test:
        self.at += len("[[")
        words: list[Word] = []
        while True:
            self.blanks()
            while self.text.startswith("\n", self.at):
                self.newline()
                self.blanks()
            if self.at >= len(self.text):
                raise self.unclosed(start, "[[")
            if self.peek() == "]]":
                self.at += 2
                return Test(tuple(words), **self.span(start))
            words.append(self.word(" \t\n"))

    def simple(self, start: int) -> ShCommand:
        assigns: list[Assign] = []
        words: list[Word] = []
        redirects: list[Redirect] = []
        while True:
            self.blanks()
            if self.at >= len(self.text) or self.text[self.at] in "\n;":
                break
            declares = words and words[0].plain in ("local", "export", "declare", "readonly")
            if (not words or declares) and (match := _ASSIGNMENT.match(self.text, self.at)):
                assigns.append(self.assignment(match))
            elif match := _REDIRECT.match(self.text, self.at):
                redirects.append(self.redirect(match))
            elif self.text[self.at] in "&|)":
                break
            elif self.text[self.at] == "(":
                raise OddError
            else:
                words.append(self.word(BREAKS))
        return ShCommand(tuple(assigns), tuple(words), tuple(redirects), **self.span(start))

    def redirect(self, match: re.Match[str]) -> Redirect:
        self.at = match.end()
        if self.text.startswith("(", self.at):
            raise OddError
        self.blanks()
        target = self.word(BREAKS)
        body = ""
        if match[0].endswith(("<<", "<<-")):
            delimiter = "".join(p.text for p in target.parts if isinstance(p, Literal))
            body = self.document(delimiter, indented=match[0].endswith("-"))
        return Redirect(match[0], target, body)

    def assignment(self, match: re.Match[str]) -> Assign:
        line, start = self.line(), self.at
        self.at = match.end()
        index = (match[2] or "")[1:-1]
        name, appends = match[1], bool(match[3])
        if not self.text.startswith("(", self.at):
            blank = self.at >= len(self.text) or self.text[self.at] in BREAKS
            value = Word((), line, "") if blank else self.word(BREAKS)
            return Assign(name, index, appends, value, None, line)
        self.at += 1
        items: list[Word] = []
        while True:
            self.lines()
            if self.at >= len(self.text):
                raise self.unclosed(start, f"list {name}=(")
            if self.text[self.at] == ")":
                self.at += 1
                return Assign(name, index, appends, None, tuple(items), line)
            if self.text[self.at] in BREAKS:
                raise OddError
            items.append(self.word(BREAKS))
