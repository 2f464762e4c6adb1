"""What a shell script would do, read as far as its words are known; nothing is ever started.

A maintainer script is walked as the shell would walk it on a first installation: conditions on its
arguments and on what a package has are decided, loops over words are unrolled, variables filled in.
What only a running system could say is not known: where a condition is not, both of its ways are
walked. Each simple command goes to the caller's `Runner`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from buildit.make.scripts.shell import Compound, NotShell, Simple, Syntax, parsed, piece_end

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
"""Stands in a word for what is not known."""
_MOST_STEPS = 20_000
"""Of one script: a command is one, as are 256 characters of words. Debian's longest take 400."""
_DEEPEST = 40
_LONGEST = 1 << 16  # characters of a variable
_LONGEST_FITTED = 4096  # characters of a word that a pattern is held against, and of the pattern
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)=", re.DOTALL)
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|[0-9@*#?!$-])(.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """A simple command with its words known as far as they are; `writes` are (`>` or `>>`, path)
    of its redirections."""

    words: tuple[str, ...]
    line: int
    writes: tuple[tuple[str, str], ...] = ()

    @property
    def known(self) -> bool:
        return not any(UNKNOWN in word for word in self.words)


Told = tuple[bool | None, str]
"""Whether a command succeeds, where that is known, and what it prints."""
Runner = Callable[[ShellCommand], Told]


class _Exit(Exception):  # noqa: N818 - `exit`, `return`, `break` and `continue` of a script
    def __init__(self, kind: str, status: bool | None = True) -> None:
        self.kind, self.status = kind, status


@dataclass(slots=True)
class Walk:
    """One script on its way; `run` is asked for each simple command that the shell has not."""

    run: Runner
    arguments: tuple[str, ...]
    variables: dict[str, str]
    _functions: dict[str, Syntax] = field(default_factory=dict)
    _steps: int = 0
    _depth: int = 0
    _doubts: int = 0

    def script(self, text: str) -> None:
        """Walk a whole script.

        Raises:
            NotShell: it cannot be read.
        """
        with suppress(_Exit):
            self._walk(parsed(text))

    def _spend(self, steps: int) -> None:
        self._steps += steps
        if self._steps > _MOST_STEPS or self._depth > _DEEPEST:
            raise NotShell("it takes more steps than a maintainer script should")

    def _walk(self, node: Syntax) -> bool | None:
        self._spend(1)
        self._depth += 1
        try:
            return self._simple(node) if isinstance(node, Simple) else self._compound(node)
        finally:
            self._depth -= 1

    def _compound(self, node: Compound) -> bool | None:
        match node.kind:
            case "list":
                status: bool | None = True
                for part in node.parts:
                    status = self._walk(part)
                return status
            case "not":
                status = self._walk(node.parts[0])
                return None if status is None else not status
            case "and" | "or":
                status = self._walk(node.parts[0])
                if status is not None and status is (node.kind == "or"):
                    return status
                second = (
                    self._perhaps(node.parts[1]) if status is None else self._walk(node.parts[1])
                )
                return None if status is None else second
            case "pipe":
                for part in node.parts:
                    self._perhaps(part)
                return None
            case "if":
                return self._if(node.parts)
            case "loop":
                self._perhaps(node.parts[0])
                self._perhaps(node.parts[1])
                return None
            case "for":
                return self._for(node)
            case "case":
                return self._case(node)
            case _:
                self._functions[node.words[0]] = node.parts[0]
                return True

    def _perhaps(self, node: Syntax) -> bool | None:
        """Walk what may not be walked at all: it can end nothing."""
        self._doubts += 1
        try:
            return self._walk(node)
        except _Exit:
            return None
        finally:
            self._doubts -= 1

    def _if(self, parts: Sequence[Syntax]) -> bool | None:
        doubt = False
        for number in range(0, len(parts) - 1, 2):
            status = self._walk(parts[number])
            if status is not False:
                body = parts[number + 1]
                result = self._perhaps(body) if doubt or status is None else self._walk(body)
                if status:
                    return result
                doubt = True
        if len(parts) % 2:
            return self._perhaps(parts[-1]) if doubt else self._walk(parts[-1])
        return None if doubt else True

    def _for(self, node: Compound) -> bool | None:
        name, *words = node.words
        for value in [one for word in words for one in self.expand(word)]:
            self.variables[name] = value
            try:
                self._perhaps(node.parts[0]) if UNKNOWN in value else self._walk(node.parts[0])
            except _Exit as end:
                if end.kind == "break":
                    break
                if end.kind != "continue":
                    raise
        return True

    def _case(self, node: Compound) -> bool | None:
        word = " ".join(self.expand(node.words[0]))
        for patterns, body in zip(node.patterns, node.parts, strict=True):
            if UNKNOWN in word:
                self._perhaps(body)
                continue
            for pattern in patterns:
                if _fits(word, " ".join(self.expand(pattern))):
                    return self._walk(body)
        return None if UNKNOWN in word else True

    def _simple(self, node: Simple) -> bool | None:
        words = list(node.words)
        while words and (match := _ASSIGNMENT.match(words[0])):
            value = " ".join(self.expand(words.pop(0)[match.end() :], split=False))
            if all(map(_ASSIGNMENT.match, words)):
                self.variables[match[1]] = value if len(value) <= _LONGEST else UNKNOWN
        expanded = tuple(one for word in words for one in self.expand(word))
        writes = tuple(
            (operator, " ".join(self.expand(word)))
            for operator, word in node.redirections
            if operator in (">", ">>", ">|", "&>")
        )
        writes = tuple(one for one in writes if one[1] != "/dev/null")
        if not expanded and not writes:
            return True
        return self._called(ShellCommand(expanded, node.line, writes))

    def _called(self, command: ShellCommand) -> bool | None:
        name, *arguments = command.words or ("",)
        status = {"true": True, ":": True, "false": False}.get(name)
        if status is not None and not command.writes:
            return status
        if name in ("exit", "return", "break", "continue"):
            status = None if self._doubts else (arguments or ["0"])[0] == "0"
            raise _Exit(name, status)
        if name == "shift":
            self.arguments = self.arguments[1:]
            return True
        if name in ("export", "local", "readonly"):
            for one in arguments:
                key, equals, value = one.partition("=")
                if equals:
                    self.variables[key] = value
            return True
        if name == "read":
            self.variables.update(dict.fromkeys(arguments, UNKNOWN))
            return None
        if name == "set":
            if arguments[:1] == ["--"]:
                self.arguments = tuple(arguments[1:])
            return True
        if name == "eval":
            return None
        if name in self._functions:
            before, self.arguments = self.arguments, tuple(arguments)
            try:
                return self._walk(self._functions[name])
            except _Exit as end:
                if end.kind != "return":
                    raise
                return end.status
            finally:
                self.arguments = before
        return self.run(command)[0]

    # -- words

    def expand(self, word: str, *, split: bool = True) -> list[str]:
        """What one word of the script comes to: as a rule one word, several or none where an
        expansion is not quoted."""
        fields: list[str] = []
        text, any_of_it, at = "", False, 0
        while at < len(word):
            end = piece_end(word, at, 0)
            piece = word[at:end]
            at = end
            if piece == "\\\n":
                continue
            if piece[0] == '"':
                many = self.arguments if piece == '"$@"' else None
                if many is not None:
                    fields += many
                    continue
                text, any_of_it = text + self._quoted(piece[1:-1]), True
            elif piece[0] == "'":
                text, any_of_it = text + piece[1:-1], True
            elif piece[0] == "\\":
                text, any_of_it = text + piece[1:], True
            elif piece[0] in "$`":
                value, at = self._value(word, at - len(piece))
                if split and re.search(r"\s", value):
                    first, *rest = re.split(r"\s+", value)
                    for one in (first, *rest)[:-1]:
                        fields += [text + one] if text + one else []
                        text = ""
                    text, any_of_it = rest[-1] if rest else first, bool(rest[-1:])
                else:
                    text, any_of_it = text + value, any_of_it or bool(value)
            else:
                text, any_of_it = text + piece, True
        if any_of_it or not split:
            fields.append(text)
        self._spend((sum(map(len, fields)) + 8 * len(fields)) // 256)
        return fields

    def _quoted(self, text: str) -> str:
        out, at = "", 0
        while at < len(text):
            if text[at] == "\\" and text[at + 1 : at + 2] in ("$", "`", '"', "\\", "\n"):
                out += text[at + 1].strip("\n")
                at += 2
            elif text[at] in "$`":
                value, at = self._value(text, at)
                out += value
            else:
                out, at = out + text[at], at + 1
        return out

    def _value(self, text: str, at: int) -> tuple[str, int]:
        """The value of the expansion at `at`, and where it ends."""
        if text[at] == "`" or text.startswith("$(", at):
            end = piece_end(text, at, 0)
            inner = text[at + 1 : end - 1] if text[at] == "`" else text[at + 2 : end - 1]
            return (UNKNOWN if inner.startswith("(") else self._output(inner)), end
        if text.startswith("${", at):
            end = piece_end(text, at, 0)
            return self._braced(text[at + 2 : end - 1]), end
        match = _NAME.match(text, at + 1)
        if match is not None:
            return self._variable(match[0]), match.end()
        if text[at + 1 : at + 2] and text[at + 1] in "0123456789@*#?!$-":
            return self._variable(text[at + 1]), at + 2
        return "$", at + 1

    def _variable(self, name: str) -> str:
        if name.isdigit() and name != "0":
            if int(name) <= len(self.arguments):
                return self.arguments[int(name) - 1]
            return UNKNOWN if UNKNOWN in self.arguments else ""
        if name in "@*":
            return " ".join(self.arguments)
        if name == "#":
            return str(len(self.arguments))
        if name in "?!$-0":
            return UNKNOWN
        return self.variables.get(name, "")

    def _braced(self, inner: str) -> str:
        match = _BRACED.fullmatch(inner)
        if match is None:
            return UNKNOWN
        value, rest = self._variable(match[1]), match[2]
        if not rest:
            return value
        operator = rest[:2] if rest[:2] in (":-", ":=", ":+", ":?", "##", "%%") else rest[0]
        other = " ".join(self.expand(rest[len(operator) :], split=False))
        if operator in (":-", "-", ":=", "="):
            return value or other
        if operator in (":+", "+"):
            return other if value else ""
        if UNKNOWN in value:
            return UNKNOWN
        if operator in ("%", "%%", "#", "##"):
            return _trimmed(value, operator, other)
        return value if operator in (":?", "?") else UNKNOWN

    def _output(self, inner: str) -> str:
        """What a command substitution prints, where that is known."""
        try:
            tree = parsed(inner)
        except NotShell:
            return UNKNOWN
        if len(tree.parts) != 1 or not isinstance(tree.parts[0], Simple):
            return UNKNOWN
        words = tuple(one for word in tree.parts[0].words for one in self.expand(word))
        return self.run(ShellCommand(words, tree.parts[0].line))[1] if words else UNKNOWN


def _fits(text: str, pattern: str) -> bool:
    if max(len(text), len(pattern)) > _LONGEST_FITTED:
        raise NotShell("a pattern is held against more than a name")
    return fnmatchcase(text, pattern)


def _trimmed(value: str, operator: str, pattern: str) -> str:
    """Without a prefix (`#`) or suffix (`%`) that a pattern fits, the shortest or the longest."""
    sizes = range(len(value) + 1)
    for size in sizes if len(operator) == 1 else reversed(sizes):
        part = value[:size] if operator[0] == "#" else value[len(value) - size :]
        if _fits(part, pattern):
            return value[size:] if operator[0] == "#" else value[: len(value) - size]
    return value
