"""Variables in the texts of a Dockerfile: `$x`, `${x}`, `${x:-word}` and the like, quotes, escapes.

The rules are those of Docker's reference ("Environment replacement") and, where that says
nothing, of BuildKit's `shell.Lex`: quotes go, an escape takes the next character as it is, single
quotes keep everything, a variable that is not set is nothing. Pure, and in linear time: what may be
long is never tried out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

LONGEST_WORD = 1 << 17
"""Characters of what one text may become: as many as an argument of a program may have bytes
(MAX_ARG_STRLEN of linux/binfmts.h)."""

DEEPEST = 64
"""How many `${x:-${y:-…}}` may stand in one another."""

LONGEST_PATTERN = 1_000
"""Characters of what `${x#pattern}` takes away."""


class ExpansionError(ValueError):
    """A text that cannot be expanded; the message is one line, `hint` the next step."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


def split_quoted(text: str, escape: str = "\\") -> list[str]:
    """The words of a text, which blanks outside of quotes divide; their quotes stay."""
    words: list[str] = []
    now: list[str] = []
    quote, escaped = "", False
    for char in text:
        if escaped or (char == escape and quote != "'"):
            escaped = not escaped
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char.isspace():
            if now:
                words.append("".join(now))
            now = []
            continue
        now.append(char)
    return [*words, "".join(now)] if now else words


@dataclass(frozen=True, slots=True)
class ExpandedText:
    """`words` are those that blanks outside of quotes divide; `missing` the variables that are not
    set and whose value was asked for."""

    text: str
    words: tuple[str, ...]
    missing: frozenset[str]


def expand(
    text: str,
    values: Mapping[str, str],
    escape: str = "\\",
    strict: bool = True,
    quotes: bool = True,
) -> ExpandedText:
    """A text with the values of its variables, without its quotes.

    `strict` refuses `${x?word}` of what is not set, as Docker does; else such a variable is told as
    missing, whatever its form, for it may come to be set. Without `quotes` they mean
    nothing, as in a heredoc.

    Raises:
        ExpansionError: it is malformed, too deep, or becomes too long.
    """
    if not _SPECIAL.search(text) and escape not in text:
        return ExpandedText(text, tuple(text.split()), frozenset())
    reading = _Reading(text, values, escape, strict, quotes)
    whole, words = reading.until("", raw=False)
    return ExpandedText(whole, words, frozenset(reading.missing))


_SPECIAL = re.compile(r"[$'\"]")
_NAME = re.compile(r"[^\W\d]\w*|\d+|[@*#?$!-]")
_MODIFIERS = ":+-?#%/"


@dataclass(slots=True)
class _Word:
    """The words that a text is divided into, while it is read."""

    done: list[str] = field(default_factory=list)
    now: list[str] = field(default_factory=list)

    def add(self, text: str, divides: bool) -> None:
        """`divides`: blanks of it end a word."""
        if not divides or not text:
            self.now.append(text)
            return
        first, *rest = _BLANKS.split(text)
        self.now.append(first)
        for one in rest:
            self.end()
            self.now.append(one)

    def end(self) -> None:
        if word := "".join(self.now):
            self.done.append(word)
        self.now = []


_BLANKS = re.compile(r"\s+")


@dataclass(slots=True)
class _Reading:
    """One text, and how far it was read."""

    text: str
    values: Mapping[str, str]
    escape: str
    strict: bool
    quotes: bool
    at: int = 0
    depth: int = 0
    size: int = 0
    missing: set[str] = field(default_factory=set)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def next(self) -> str:
        self.at += 1
        return self.text[self.at - 1 : self.at]

    def grown(self, text: str) -> str:
        """A piece of the result, counted."""
        self.size += len(text)
        if self.size > LONGEST_WORD:
            message = f"the text becomes longer than {LONGEST_WORD} characters"
            raise ExpansionError(message, "write it into a file and copy that")
        return text

    def until(self, stop: str, raw: bool) -> tuple[str, tuple[str, ...]]:
        """The text up to the character `stop` outside of quotes, and its words; `raw` keeps
        escapes."""
        whole: list[str] = []
        word = _Word()
        while char := self.peek():
            if char == stop:
                self.at += 1
                word.end()
                return "".join(whole), tuple(word.done)
            divides = False
            if char == "'" and self.quotes:
                piece = self._single()
            elif char == '"' and self.quotes:
                piece = self._double(raw)
            elif char == "$":
                piece, divides = self._dollar(), True
            elif char == self.escape:
                self.at += 1
                piece = (char if raw else "") + self.next()
            else:
                piece, divides = self._plain(stop), True
            whole.append(piece if char == "$" else self.grown(piece))
            word.add(piece, divides)
        if stop:
            raise ExpansionError(f"a {stop!r} is missing", "close what `${` begins")
        word.end()
        return "".join(whole), tuple(word.done)

    def _plain(self, stop: str) -> str:
        """What has no meaning, from here on; at least one character."""
        start = self.at
        special = {"'", '"', "$", self.escape, stop}
        self.at += 1
        while self.at < len(self.text) and self.text[self.at] not in special:
            self.at += 1
        return self.text[start : self.at]

    def _single(self) -> str:
        end = self.text.find("'", self.at + 1)
        if end < 0:
            raise ExpansionError("a single quote is not closed", _QUOTE.format("'"))
        piece, self.at = self.text[self.at + 1 : end], end + 1
        return piece

    def _double(self, raw: bool) -> str:
        self.at += 1
        pieces: list[str] = []
        while char := self.peek():
            if char == '"':
                self.at += 1
                return "".join(pieces)
            if char == "$":
                pieces.append(self._dollar())
                continue
            self.at += 1
            if char == self.escape:
                if raw:
                    pieces.append(char)
                if not self.peek():
                    break
                if self.peek() in ('"', "$", self.escape):
                    char = self.next()
            pieces.append(char)
        raise ExpansionError("a double quote is not closed", _QUOTE.format('"'))

    def _dollar(self) -> str:
        """What a `$` begins."""
        self.at += 1
        if self.peek() != "{":
            name = self._name()
            return self.grown(self._value(name) or "" if name else "$")
        self.at += 1
        if self.depth >= DEEPEST:
            message = f"more than {DEEPEST} `${{` stand in one another"
            raise ExpansionError(message, "take it apart into several ARG instructions")
        self.depth += 1
        piece = self.grown(self._braces())
        self.depth -= 1
        return piece

    def _name(self) -> str:
        match = _NAME.match(self.text, self.at)
        name = match.group() if match else ""
        self.at += len(name)
        return name

    def _value(self, name: str) -> str | None:
        value = self.values.get(name)
        if value is None:
            self.missing.add(name)
        return value

    def _braces(self) -> str:
        """The value of `${…}`, whose brace was read."""
        name = self._name()
        sign = self.next()
        if not name or (sign and sign not in _MODIFIERS and sign != "}"):
            shown = f"${{{name}{sign}" if name or sign else "${"
            raise ExpansionError(
                f"bad substitution {shown!r}", "a form that there is: ${name:-word}"
            )
        if not sign:
            raise ExpansionError(f"a '}}' is missing behind ${{{name}", "close what `${` begins")
        if sign == "}":
            return self._value(name) or ""
        if sign == "/":
            return self._replaced(name)
        counts_empty = sign == ":"
        if counts_empty:
            sign = self.next()
        if not sign or sign not in "+-?#%" or (counts_empty and sign in "#%"):
            colon = ":" if counts_empty else ""
            message = f"there is no ${{{name}{colon}{sign}…}}"
            raise ExpansionError(message, "a form that there is: ${name:-word}")
        word, _ = self.until("}", raw=sign in "#%")
        value = self.values.get(name)
        if value is None and not self.strict:
            self.missing.add(name)
        has = value is not None and not (counts_empty and not value)
        match sign:
            case "-":
                return value or "" if has else word
            case "+":
                return word if has else ""
            case "?":
                if not has and self.strict:
                    what = "empty" if value is not None else "not set"
                    raise ExpansionError(f"{name}: {word or f'it may not be {what}'}")
                return value or ""
            case _:
                return _trimmed(self._value(name) or "", word, sign)

    def _replaced(self, name: str) -> str:
        """`${name/pattern/word}`, and with two slashes for all of them."""
        every = self.peek() == "/"
        self.at += every
        pattern, _ = self.until("/", raw=True)
        word, _ = self.until("}", raw=False)
        return _with_word(self._value(name) or "", _Pattern.of(pattern), word, every)


_QUOTE = "close it, or write \\{} for the character itself"


@dataclass(frozen=True, slots=True)
class _Pattern:
    """A pattern with `*` and `?`: the texts between its stars, each as a regular expression."""

    parts: tuple[re.Pattern[str], ...]

    @classmethod
    def of(cls, pattern: str, backwards: bool = False) -> _Pattern:
        if len(pattern) > LONGEST_PATTERN:
            raise ExpansionError(f"a pattern is longer than {LONGEST_PATTERN} characters")
        parts: list[list[str]] = [[]]
        for sign, is_plain in _signs(pattern):
            if sign == "*" and not is_plain:
                parts.append([])
            else:
                parts[-1].append("." if sign == "?" and not is_plain else re.escape(sign))
        if backwards:
            parts = [part[::-1] for part in reversed(parts)]
        return cls(tuple(re.compile("".join(part), re.DOTALL) for part in parts))

    def end(self, text: str, start: int, greedy: bool) -> int | None:
        """Where it ends in `text`, if it begins at `start`: the first place or the last."""
        found = self.parts[0].match(text, start)
        for part in self.parts[1:]:
            if found is None:
                return None
            last = part is self.parts[-1] and greedy
            found = _last(part, text, found.end()) if last else part.search(text, found.end())
        return found.end() if found else None


def _signs(pattern: str) -> Iterator[tuple[str, bool]]:
    """Its characters, and whether each means itself."""
    chars = iter(pattern)
    for char in chars:
        if char == "\\":
            yield next(chars, char), True
        else:
            yield char, False


def _last(part: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    """The last place at or behind `start`."""
    starts = range(len(text), start - 1, -1)
    return next((found for at in starts if (found := part.match(text, at))), None)


def _trimmed(value: str, pattern: str, sign: str) -> str:
    """Without the shortest beginning (`#`) or end (`%`) that fits; a doubled sign: the longest."""
    greedy = pattern.startswith(sign)
    pattern = pattern[greedy:]
    backwards = sign == "%"
    text = value[::-1] if backwards else value
    end = _Pattern.of(pattern, backwards).end(text, 0, greedy)
    rest = text[end or 0 :]
    return rest[::-1] if backwards else rest


def _with_word(value: str, pattern: _Pattern, word: str, every: bool) -> str:
    done, at = [], 0
    while at <= len(value):
        first = pattern.parts[0].search(value, at)
        end = pattern.end(value, first.start(), greedy=True) if first else None
        if first is None or end is None or end == first.start():
            break
        done += [value[at : first.start()], word]
        at = end
        if not every:
            break
    return "".join((*done, value[at:]))
