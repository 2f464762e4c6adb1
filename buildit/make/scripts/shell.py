"""A shell script as a tree: the grammar of POSIX sh (IEEE Std 1003.1, 2.10), without arithmetic and
with here-documents skipped. Nothing is ever started."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OPERATORS = re.compile(r"&&|\|\||;;|>>|<<-?|>&|<&|&>|>\||[;&|()<>]")
_RESERVED = ("then", "else", "elif", "fi", "do", "done", "esac", "}")
_REDIRECTIONS = ("<", ">", ">>", "<<", "<<-", ">&", "<&", "&>", ">|")
_DEEPEST = 40
"""Commands within commands, and expansions within expansions; Debian's scripts have six."""


class NotShell(ValueError):  # noqa: N818 - what it is not
    """A script that this reader cannot take apart; the text says where."""


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # word, op or end
    text: str
    line: int


def _tokens(script: str) -> list[_Token]:
    found: list[_Token] = []
    at, line = 0, 1
    waiting: list[tuple[str, bool]] = []
    while at < len(script):
        char = script[at]
        if char == "\n":
            found.append(_Token("op", "\n", line))
            at, line = at + 1, line + 1
            for mark, tabs in waiting:
                at, line = _after_here_document(script, at, line, mark, tabs)
            waiting = []
        elif char in " \t\r":
            at += 1
        elif script.startswith("\\\n", at):
            at, line = at + 2, line + 1
        elif char == "#":
            at = _until(script, "\n", at)
        elif match := _OPERATORS.match(script, at):
            found.append(_Token("op", match[0], line))
            at = match.end()
        else:
            end = _word_end(script, at, line)
            word = script[at:end]
            before = found[-1].text if found and found[-1].kind == "op" else ""
            if before in ("<<", "<<-"):
                waiting.append((re.sub(r"[\\'\"]", "", word), before == "<<-"))
            found.append(_Token("word", word, line))
            at, line = end, line + word.count("\n")
    found.append(_Token("end", "", line))
    return found


def _until(script: str, what: str, at: int) -> int:
    end = script.find(what, at)
    return len(script) if end < 0 else end


def _after_here_document(script: str, at: int, line: int, mark: str, tabs: bool) -> tuple[int, int]:
    while at < len(script):
        end = _until(script, "\n", at)
        text = script[at:end]
        at, line = end + 1, line + 1
        if (text.lstrip("\t") if tabs else text) == mark:
            break
    return at, line


def _word_end(script: str, at: int, line: int) -> int:
    """Where the word that begins at `at` ends."""
    while at < len(script):
        char = script[at]
        if char in " \t\n;&|()<>":
            return at
        at = piece_end(script, at, line)
    return at


def piece_end(script: str, at: int, line: int, above: int = 0) -> int:
    """Behind one character of a word, quoted text or expansion."""
    if above > _DEEPEST:
        raise NotShell(f"line {line}: expansions are too deep in others")
    char = script[at]
    if char == "\\":
        return at + 2
    if char == "'":
        return _closed(script, "'", at + 1, line)
    if char == '"':
        at += 1
        while at < len(script) and script[at] != '"':
            at = piece_end(script, at, line, above + 1) if script[at] in "\\$`" else at + 1
        return _closed(script, '"', at, line)
    if char == "`":
        at += 1
        while at < len(script) and script[at] != "`":
            at += 2 if script[at] == "\\" else 1
        return _closed(script, "`", at, line)
    if script.startswith(("$(", "${"), at):
        close = ")" if script[at + 1] == "(" else "}"
        depth, at = 1, at + 2
        while at < len(script):
            if script[at] in "\\'\"`" or script.startswith(("$(", "${"), at):
                at = piece_end(script, at, line, above + 1)
                continue
            depth += {"(": close == ")", close: -1}.get(script[at], 0)
            at += 1
            if not depth:
                return at
        raise NotShell(f"line {line}: an expansion is not closed")
    return at + 1


def _closed(script: str, mark: str, at: int, line: int) -> int:
    end = script.find(mark, at)
    if end < 0:
        raise NotShell(f"line {line}: a quotation is not closed")
    return end + 1


# -- the tree of a script


@dataclass(frozen=True, slots=True)
class Simple:
    words: tuple[str, ...]
    line: int
    redirections: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Compound:
    """`kind`: list, if, loop, for, case, function, pipe, not, and, or; what it is made of."""

    kind: str
    parts: tuple[Syntax, ...]
    words: tuple[str, ...] = ()
    patterns: tuple[tuple[str, ...], ...] = ()


Syntax = Simple | Compound


@dataclass(slots=True)
class _Parser:
    tokens: list[_Token]
    at: int = 0
    depth: int = 0

    def _peek(self) -> _Token:
        return self.tokens[min(self.at, len(self.tokens) - 1)]

    def _take(self, *texts: str) -> bool:
        token = self._peek()
        if token.kind != "end" and token.text in texts:
            self.at += 1
            return True
        return False

    def _need(self, *texts: str) -> None:
        if not self._take(*texts):
            token = self._peek()
            raise NotShell(f"line {token.line}: {token.text!r} in the place of {texts[0]!r}")

    def _blank(self) -> None:
        while self._take("\n", ";", "&"):
            pass

    def script(self) -> Compound:
        found = self._list()
        if self._peek().kind != "end":
            token = self._peek()
            raise NotShell(f"line {token.line}: {token.text!r} is not expected")
        return found

    def _list(self, *ends: str) -> Compound:
        parts: list[Syntax] = []
        self._blank()
        while self._peek().kind != "end" and self._peek().text not in (*ends, ")", "}", ";;"):
            parts.append(self._and_or())
            self._blank()
        return Compound("list", tuple(parts))

    def _and_or(self) -> Syntax:
        left = self._pipeline()
        while self._peek().text in ("&&", "||") and self._peek().kind == "op":
            kind = "and" if self._take("&&") else "or"
            self._take("||")
            while self._take("\n"):
                pass
            left = Compound(kind, (left, self._pipeline()))
        return left

    def _pipeline(self) -> Syntax:
        negated = self._take("!")
        parts = [self._command()]
        while self._peek().kind == "op" and self._take("|"):
            while self._take("\n"):
                pass
            parts.append(self._command())
        found = parts[0] if len(parts) == 1 else Compound("pipe", tuple(parts))
        return Compound("not", (found,)) if negated else found

    def _command(self) -> Syntax:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise NotShell(f"line {self._peek().line}: commands are too deep in others")
        found = self._one_command()
        self.depth -= 1
        return found

    def _one_command(self) -> Syntax:
        token = self._peek()
        compound = {"if": self._if, "case": self._case, "for": self._for}.get(token.text)
        if compound is not None:
            self.at += 1
            found: Syntax = compound()
        elif self._take("while", "until"):
            condition = self._list("do")
            found = Compound("loop", (condition, self._body()))
        elif self._take("{"):
            found = self._list("}")
            self._need("}")
        elif token.kind == "op" and self._take("("):
            found = self._list(")")
            self._need(")")
        else:
            return self._simple()
        self._redirections()
        return found

    def _redirections(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        while True:
            token, following = self._peek(), self.tokens[min(self.at + 1, len(self.tokens) - 1)]
            if token.kind == "word" and token.text.isdigit() and following.text in _REDIRECTIONS:
                self.at += 1
            elif not (token.kind == "op" and token.text in _REDIRECTIONS):
                return found
            operator = self._peek().text
            self.at += 1
            if self._peek().kind != "word":
                raise NotShell(f"line {token.line}: {operator!r} has no file")
            found.append((operator if token.kind == "op" else "2", self._peek().text))
            self.at += 1

    def _simple(self) -> Syntax:
        words: list[str] = []
        redirections = self._redirections()
        line = self._peek().line
        if self._peek().text in _RESERVED:
            raise NotShell(f"line {line}: {self._peek().text!r} is not expected")
        while self._peek().kind == "word":
            words.append(self._peek().text)
            self.at += 1
            if len(words) == 1 and self._peek().text == "(" and self._peek().kind == "op":
                self._need("(")
                self._need(")")
                while self._take("\n"):
                    pass
                return Compound("function", (self._command(),), tuple(words))
            redirections += self._redirections()
        if not words and not redirections:
            raise NotShell(f"line {line}: {self._peek().text!r} is not expected")
        return Simple(tuple(words), line, tuple(redirections))

    def _if(self) -> Compound:
        parts: list[Syntax] = [self._list("then")]
        self._need("then")
        parts.append(self._list("elif", "else", "fi"))
        while self._take("elif"):
            parts.append(self._list("then"))
            self._need("then")
            parts.append(self._list("elif", "else", "fi"))
        if self._take("else"):
            parts.append(self._list("fi"))
        self._need("fi")
        return Compound("if", tuple(parts))

    def _body(self) -> Compound:
        self._blank()
        self._need("do")
        found = self._list("done")
        self._need("done")
        return found

    def _for(self) -> Compound:
        words = [self._peek().text]
        self.at += 1
        while self._take("\n"):
            pass
        if self._take("in"):
            while self._peek().kind == "word":
                words.append(self._peek().text)
                self.at += 1
        else:
            words.append('"$@"')
        return Compound("for", (self._body(),), tuple(words))

    def _case(self) -> Compound:
        word = self._peek().text
        self.at += 1
        self._blank()
        self._need("in")
        self._blank()
        patterns, parts = [], []
        while not self._take("esac"):
            if self._peek().kind == "end":
                raise NotShell("a `case` is not closed")
            self._take("(")
            choices = [self._peek().text]
            self.at += 1
            while self._take("|"):
                choices.append(self._peek().text)
                self.at += 1
            self._need(")")
            parts.append(self._list("esac"))
            patterns.append(tuple(choices))
            self._take(";;")
            self._blank()
        return Compound("case", tuple(parts), (word,), tuple(patterns))


def parsed(script: str) -> Compound:
    """The tree of a script.

    Raises:
        NotShell: it cannot be taken apart.
    """
    return _Parser(_tokens(script)).script()
