"""Words of an ebuild's shell: quotes, expansions and blanks, with their places."""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.recipe.ways.ebuild.syntax import (
    Literal,
    OddPart,
    ShStatement,
    Substitution,
    Variable,
    Word,
    WordPart,
)

DEEPEST_SHELL = 40
"""How deep statements and substitutions may lie in each other."""
BREAKS = " \t\n;&|<>()"
"""The characters that end a word (bash(1), DEFINITIONS)."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class OddError(Exception):
    """Syntax that is not read, in the statement that begins here."""


@dataclass(slots=True)
class WordReader:
    """A text that is being read, at a position; what reads statements goes on from here."""

    text: str
    file: str
    first: int
    at: int = 0
    depth: int = 0
    after: int = 0  # where the here-documents of this line end, if it has some
    breaks: list[int] = field(default_factory=list)  # where each line ends

    def __post_init__(self) -> None:
        self.breaks = [match.start() for match in re.finditer("\n", self.text)]

    def line(self, at: int | None = None) -> int:
        return self.first + bisect_left(self.breaks, self.at if at is None else at)

    def fail(self, at: int, message: str, hint: str) -> RecipeError:
        return RecipeError(message, place=f"{self.file}:{self.line(at)}", hint=hint)

    def unclosed(self, at: int, what: str) -> RecipeError:
        hint = "was the file cut off? compare it with where it is from"
        return self.fail(at, f"the {what} that begins here never ends", hint)

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > DEEPEST_SHELL:
            raise self.fail(self.at, f"nested deeper than {DEEPEST_SHELL}", "no ebuild needs that")

    # -- blanks

    def blanks(self) -> None:
        while self.at < len(self.text):
            if self.text[self.at] in " \t":
                self.at += 1
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif self.text[self.at] == "#" and (self.at == 0 or self.text[self.at - 1] in BREAKS):
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    def newline(self) -> None:
        """Step over a line's end, and the here-documents that the line has begun."""
        self.at, self.after = self.after or self.at + 1, 0

    def document(self, delimiter: str, *, indented: bool) -> str:
        """The here-document that this line begins, which ends at a line with `delimiter`."""
        end = self.text.find("\n", self.at)
        begun = at = self.after or (len(self.text) if end < 0 else end + 1)
        while at < len(self.text):
            end = self.text.find("\n", at)
            end = len(self.text) if end < 0 else end
            line = self.text[at:end]
            if (line.lstrip("\t") if indented else line) == delimiter:
                self.after = min(end + 1, len(self.text))
                body = self.text[begun:at]
                return re.sub("(?m)^\t+", "", body) if indented else body
            at = end + 1
        raise self.unclosed(self.at - 1, f"text up to {delimiter!r}")

    def until(self, start: int, what: str, *words: str) -> tuple[ShStatement, ...]:
        """Statements up to one of the reserved words, which is left to stand.

        Raises:
            RecipeError: it never comes.
        """
        raise NotImplementedError

    def within(self, text: str) -> tuple[ShStatement, ...]:
        """The statements between backticks."""
        raise NotImplementedError

    def word(self, ends: str) -> Word:
        start, line = self.at, self.line()
        parts: list[WordPart] = []
        plain: list[str] = []

        def flush() -> None:
            if plain:
                parts.append(Literal("".join(plain), False))
                plain.clear()

        while self.at < len(self.text) and self.text[self.at] not in ends:
            char = self.text[self.at]
            if char == "\\":
                if not self.text.startswith("\\\n", self.at):
                    flush()
                    parts.append(Literal(self.text[self.at + 1 : self.at + 2], True))
                self.at += 2
            elif char in "'\"`$":
                flush()
                parts += self.quoted_part(char)
            else:
                plain.append(char)
                self.at += 1
        flush()
        if self.at == start:
            raise OddError
        self.at = min(self.at, len(self.text))
        return Word(tuple(parts), line, self.text[start : self.at])

    def quoted_part(self, char: str) -> list[WordPart]:
        start = self.at
        if char == "'" or self.text.startswith("$'", start):
            begin = start + (1 if char == "'" else 2)
            end = self.text.find("'", begin)
            while char == "$" and end > 0 and self.text[end - 1] == "\\":
                end = self.text.find("'", end + 1)
            if end < 0:
                raise self.unclosed(start, "quote")
            self.at = end + 1
            inner = self.text[begin:end]
            return [_ansi(inner) if char == "$" else Literal(inner, True)]
        if char == '"' or self.text.startswith('$"', start):
            self.at += 1 if char == '"' else 2
            return self.double(start)
        return [self.dollar(quoted=False)] if char == "$" else [self.backticks(quoted=False)]

    def double(self, start: int) -> list[WordPart]:
        parts: list[WordPart] = [Literal("", True)]
        plain: list[str] = []
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                return [*parts, Literal("".join(plain), True)]
            if char == "\\" and self.text[self.at + 1 : self.at + 2] in ("$", "`", '"', "\\", "\n"):
                plain.append(self.text[self.at + 1].replace("\n", ""))
                self.at += 2
            elif char in "$`":
                parts.append(Literal("".join(plain), True))
                plain.clear()
                parts.append(
                    self.dollar(quoted=True) if char == "$" else self.backticks(quoted=True)
                )
            else:
                plain.append(char)
                self.at += 1
        raise self.unclosed(start, "quote")

    def backticks(self, *, quoted: bool) -> WordPart:
        end = self.text.find("`", self.at + 1)
        if end < 0:
            raise self.unclosed(self.at, "quote `")
        body = self.within(self.text[self.at + 1 : end])
        self.at = end + 1
        return Substitution(body, quoted)

    def dollar(self, *, quoted: bool) -> WordPart:
        start = self.at
        if self.text.startswith("$((", start):
            return self._arithmetic(start)
        if self.text.startswith("$(", start):
            self.at += 2
            body = self.until(start, "$(", ")")
            self.at += 1
            return Substitution(body, quoted)
        if self.text.startswith("${", start):
            return self._braces(start, quoted=quoted)
        match = _NAME.match(self.text, start + 1)
        if match:
            self.at = match.end()
            return Variable(match[0], "", "", quoted)
        if re.compile(r"[0-9@*#?$!-]").match(self.text, start + 1):
            self.at += 2
            return OddPart(self.text[start : self.at])
        self.at += 1
        return Literal("$", True)

    def _arithmetic(self, start: int) -> OddPart:
        end = self.text.find("))", start)
        if end < 0:
            raise self.unclosed(start, "$((")
        self.at = end + 2
        return OddPart(self.text[start : self.at])

    def _braces(self, start: int, *, quoted: bool) -> WordPart:
        """`${…}`: to its own closing brace, past quotes and further braces."""
        self.at = start + 2
        self.deeper()
        while self.at < len(self.text) and self.text[self.at] != "}":
            char = self.text[self.at]
            if char == "\\":
                self.at += 2
            elif char in "'\"`" and not (quoted and char == "'"):
                self.quoted_part(char)
            elif self.text.startswith(("${", "$("), self.at):
                self.dollar(quoted=True)
            else:
                self.at += 1
        if self.at >= len(self.text):
            raise self.unclosed(start, "${")
        self.depth -= 1
        inner = self.text[start + 2 : self.at]
        self.at += 1
        match = re.fullmatch(
            r"([#!]?)([A-Za-z_][A-Za-z0-9_]*)(?:\[([^\]]*)\])?(.*)", inner, re.DOTALL
        )
        if match is None:
            return OddPart(self.text[start : self.at])
        return Variable(match[2], match[3] or "", match[4], quoted, match[1])


def _ansi(text: str) -> WordPart:
    """`$'…'`: the escapes that ebuilds use; an unknown one makes the part odd."""
    known = {"n": "\n", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
    if any(match not in known for match in re.findall(r"\\(.)", text, re.DOTALL)):
        return OddPart(f"$'{text}'")
    return Literal(re.sub(r"\\(.)", lambda m: known[m[1]], text, flags=re.DOTALL), True)
