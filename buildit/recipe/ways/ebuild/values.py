"""What words of an ebuild come to: the expansions of bash that ebuilds use, over variables that are
known. Nothing is run; what would have to be is an `UnreadError`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.atom import Version
from buildit.recipe.ways.ebuild.shell import parse_word
from buildit.recipe.ways.ebuild.syntax import (
    Literal,
    OddPart,
    ShCommand,
    ShStatement,
    Substitution,
    Test,
    Variable,
    Word,
    WordPart,
)

LONGEST_VALUE = 1 << 16
"""Characters of a value: an ebuild whose variables grow beyond it does so on purpose."""
_LONGEST_MATCHED, _MOST_STARS = 4096, 6
_MOST_FIELDS, MOST_TESTED = 10_000, 200
"""Fields of one word; words of one `[[ ]]`."""

WORK_DIR, FILES_DIR = "\x1aW", "\x1aF"
"""What `WORKDIR` and `FILESDIR` are outside of functions: no text of a file can be the same."""

ShellValue = str | tuple[str, ...]


class UnreadError(Exception):
    """What only bash, an eclass or the build itself knows; the message says what."""


@dataclass(slots=True)
class ShellScope:
    """Variables by name, arrays as tuples. `file` is what errors name."""

    file: str
    names: dict[str, ShellValue] = field(default_factory=dict)

    def text(self, name: str) -> str:
        """A variable as one text; "" where it is not set."""
        value = self.names.get(name, "")
        return value if isinstance(value, str) else " ".join(value)

    def listed(self, name: str) -> tuple[str, ...]:
        """An array, or the words of a text."""
        value = self.names.get(name, ())
        return tuple(value.split()) if isinstance(value, str) else value


def word_text(word: Word, scope: ShellScope, missing: list[str] | None = None) -> str:
    """The text of a word, as `name=word` takes it: nothing is split.

    Unknown parts are added to `missing` and stand for nothing; without it they are an error.

    Raises:
        UnreadError: something is not known.
        RecipeError: the value is longer than `LONGEST_VALUE`.
    """
    made = []
    for part in word.parts:
        try:
            value = _part(part, scope, word.line)
        except UnreadError as error:
            if missing is None:
                raise
            missing.append(str(error))
            continue
        made.append(value if isinstance(value, str) else " ".join(value))
    return _bounded("".join(made), scope, word.line)


def fields_of(word: Word, scope: ShellScope) -> tuple[str, ...]:
    """The fields that a word becomes in a list or command: arrays one by one, unquoted variables
    split at blanks, braces as bash has them; patterns stay as they are.

    Raises:
        UnreadError, RecipeError: as `word_text`.
    """
    spec_rows: list[list[tuple[str, bool]]] = [[]]  # fields as pieces: text, whether it is quoted
    seen = any(isinstance(one, Literal) and one.quoted for one in word.parts)
    for part in word.parts:
        value = _part(part, scope, word.line)
        quoted = bool(getattr(part, "quoted", False))
        if isinstance(value, tuple):
            pieces = list(value)
            seen = seen and (not quoted or bool(pieces) or len(word.parts) > _EMPTY_QUOTES)
        elif quoted or isinstance(part, Literal):
            pieces = [value]
        else:
            pieces = value.split() or [""]
        if not pieces:
            seen = seen and not quoted
            continue
        spec_rows[-1].append((pieces[0], quoted))
        spec_rows += [[(one, quoted)] for one in pieces[1:]]
    found = [one for row in spec_rows for one in _braced(row)]
    if sum(map(len, found)) > LONGEST_VALUE or len(found) > _MOST_FIELDS:
        raise _too_long(scope, word.line)
    return tuple(one for one in found if one or seen)


_EMPTY_QUOTES = 4
"""Parts of `"${x[@]}"`: its variable, and three texts of nothing."""


def _bounded(text: str, scope: ShellScope, line: int) -> str:
    if len(text) > LONGEST_VALUE:
        raise _too_long(scope, line)
    return text


def _too_long(scope: ShellScope, line: int) -> RecipeError:
    message = f"a value becomes longer than {LONGEST_VALUE >> 10} KiB here"
    hint = "no ebuild needs that: look at what its variables are made of"
    return RecipeError(message, place=f"{scope.file}:{line}", hint=hint)


def _part(part: WordPart, scope: ShellScope, line: int) -> ShellValue:
    match part:
        case Literal(text):
            return text
        case Variable():
            return _variable(part, scope, line)
        case Substitution(body):
            return _called(body, scope)
        case OddPart(text):
            raise UnreadError(text)


def _variable(part: Variable, scope: ShellScope, line: int) -> ShellValue:
    name, given = part.name, scope.names.get(part.name)
    if part.before == "#" and isinstance(given, tuple) and part.index in ("@", "*"):
        return str(len(given))
    if part.before or (part.index not in ("", "@", "*") and not part.index.isdigit()):
        raise UnreadError(f"${{{part.before}{name}}}")
    if given is None and not part.rest.startswith((":-", "-", ":+", "+")):
        raise UnreadError(f"${name}")
    if isinstance(given, tuple):
        if part.index in ("@", "*"):
            items = [_applied(one, part.rest, scope, line) for one in given]
            return tuple(items) if part.index == "@" else " ".join(items)
        at = int(part.index or "0")
        given = given[at] if at < len(given) else ""
    return _applied(given, part.rest, scope, line)


def _applied(value: str | None, rest: str, scope: ShellScope, line: int) -> str:
    """A value after what stands behind its name in the braces (bash(1), Parameter Expansion)."""

    def inner(text: str) -> str:
        return word_text(parse_word(text, scope.file, line), scope) if text else ""

    def pattern(text: str) -> str:
        return _pattern_of(parse_word(text, scope.file, line), scope) if text else ""

    default = re.match(r"(:?)([-+])", rest)
    if default:
        there = value is not None and (bool(value) or not default[1])
        if default[2] == "+":
            return inner(rest[default.end() :]) if there else ""
        return (value or "") if there else inner(rest[default.end() :])
    if value is None:
        raise UnreadError("a variable that is not set")
    if not rest:
        return value
    if rest in ("^", "^^", ",", ",,"):
        changed = value.upper() if rest[0] == "^" else value.lower()
        return changed if len(rest) == 2 else changed[:1] + value[1:]
    if rest[0] == "/":
        return _bounded(_replaced(value, rest[1:], pattern, inner), scope, line)
    if rest[0] in "#%":
        long = rest[:2] in ("##", "%%")
        return _cut(value, pattern(rest[2 if long else 1 :]), at_end=rest[0] == "%", long=long)
    if slice_ := re.fullmatch(r":[ ]*\(?(-?[0-9]+)\)?(?::[ ]*(-?[0-9]+))?", rest):
        start, length = int(slice_[1]), slice_[2]
        start = max(0, len(value) + start) if start < 0 else start
        if length is None:
            return value[start:]
        count = int(length)
        return value[start:][:count] if count >= 0 else value[start : len(value) + count]
    raise UnreadError(f"${{…{rest}}}")


def _replaced(
    value: str, rest: str, pattern: Callable[[str], str], inner: Callable[[str], str]
) -> str:
    """`${value/pattern/text}`; a further slash replaces all, # or % at an end alone."""
    how, rest = (rest[0], rest[1:]) if rest[:1] in ("/", "#", "%") else ("", rest)
    cut = next((at for at in _unescaped(rest) if rest[at] == "/"), len(rest))
    form, text = pattern(rest[:cut]), inner(rest[cut + 1 :])
    if not form:
        return text + value if how == "#" else value + text if how == "%" else value
    _check_size(value, form)
    if how == "#":
        return re.sub(rf"\A(?:{form})", lambda _: text, value, count=1)
    if how == "%":
        return re.sub(rf"(?:{form})\Z", lambda _: text, value, count=1)
    return re.sub(form, lambda _: text, value, count=0 if how == "/" else 1)


def _unescaped(text: str) -> Iterator[int]:
    at = 0
    while at < len(text):
        if text[at] == "\\":
            at += 1
        else:
            yield at
        at += 1


def _cut(value: str, pattern: str, *, at_end: bool, long: bool) -> str:
    _check_size(value, pattern)
    form = re.compile(pattern, re.DOTALL)
    cuts = range(len(value) + 1)
    for at in cuts if at_end == long else reversed(cuts):
        if form.fullmatch(value[at:] if at_end else value[:at]):
            return value[:at] if at_end else value[at:]
    return value


def _check_size(value: str, pattern: str) -> None:
    if len(value) > _LONGEST_MATCHED or pattern.count("*") > _MOST_STARS:
        raise UnreadError("a pattern over a long value")


def glob_pattern(text: str) -> str:
    """A pattern of the shell as a regular expression."""
    made, at = [], 0
    while at < len(text):
        char = text[at]
        end = text.find("]", at + 2) if char == "[" else -1
        if char == "\\":
            made.append(re.escape(text[at + 1 : at + 2]))
            at += 2
            continue
        if end > 0:
            inside = text[at + 1 : end].replace("\\", "").replace("[:digit:", "0-9")
            made.append(f"[{'^' + inside[1:] if inside[0] in '!^' else inside}]")
            at = end + 1
            continue
        made.append({"*": ".*", "?": "."}.get(char, re.escape(char)))
        at += 1
    return "".join(made)


def _braced(row: Iterable[tuple[str, bool]]) -> list[str]:
    """A field with its unquoted `{a,b}` spelled out, one pair after the other (bash(1))."""
    marked = "".join(
        text if not quoted else re.sub("[{},]", "\0\\g<0>", text) for text, quoted in row
    )
    found = [marked]
    for _ in range(8):
        spread = [made for one in found for made in _one_brace(one)]
        if spread == found or len(spread) > 64:
            break
        found = spread
    return [one.replace("\0", "") for one in found]


def _one_brace(text: str) -> list[str]:
    match = re.search(r"(?<!\0)\{((?:[^{},]|\0[{},])*(?<!\0),(?:[^{}]|\0[{}])*)(?<!\0)\}", text)
    if match is None:
        return [text]
    items = re.split(r"(?<!\0),", match[1])
    return [text[: match.start()] + item + text[match.end() :] for item in items]


# -- functions of the package manager that are pure


def _called(body: tuple[ShStatement, ...], scope: ShellScope) -> str:
    """`$(ver_cut …)` and `$(ver_rs …)` (PMS 12.3.14); nothing else is called."""
    match body:
        case (ShCommand(words=(command, *rest), assigns=(), redirects=()),) if (
            command.plain in _PURE
        ):
            arguments = [one for word in rest for one in fields_of(word, scope)]
            try:
                return _PURE[command.plain](arguments, scope.text("PV"))
            except (ValueError, IndexError):
                raise UnreadError(body[0].text) from None
        case _:
            raise UnreadError(f"$({'; '.join(one.text for one in body)})")


_COMPONENT = re.compile(r"([^A-Za-z0-9]*)([0-9]+|[A-Za-z]+)")


def _split_version(text: str) -> list[str]:
    """Separators and components in turn, a separator first and last."""
    found: list[str] = []
    end = 0
    for match in _COMPONENT.finditer(text):
        found += match.groups()
        end = match.end()
    return [*found, text[end:]]


def _range(text: str, last: int) -> tuple[int, int]:
    first, dash, end = text.partition("-")
    return int(first), min(last, int(end) if end else last if dash else int(first))


def _ver_cut(words: list[str], version: str) -> str:
    parts = _split_version(words[1] if len(words) > 1 else version)
    first, last = _range(words[0], (len(parts) - 1) // 2)
    begin = 0 if first == 0 else 2 * first - 1
    return "".join(parts[begin : 2 * last])


def _ver_rs(words: list[str], version: str) -> str:
    if len(words) % 2:
        *words, version = words
    parts = _split_version(version)
    for wanted, text in zip(words[::2], words[1::2], strict=True):
        first, last = _range(wanted, len(parts) // 2)
        for number in range(first, last + 1):
            is_inside = 0 < number < len(parts) // 2
            if is_inside or parts[2 * number]:
                parts[2 * number] = text
    return "".join(parts)


_PURE: dict[str | None, Callable[[list[str], str], str]] = {"ver_cut": _ver_cut, "ver_rs": _ver_rs}


# -- tests that have one answer


def holds_test(test: Test, scope: ShellScope) -> bool:
    """What `[[ … ]]` comes to.

    Raises:
        UnreadError: that depends on what is not known.
    """
    return _joined(list(test.words), scope, test.text)


def _joined(words: list[Word], scope: ShellScope, text: str) -> bool:
    if len(words) > MOST_TESTED:
        raise UnreadError("a long [[ ]]")
    for sign in ("||", "&&"):
        at = next((i for i, one in enumerate(words) if one.text == sign), None)
        if at is not None:
            left, right = words[:at], words[at + 1 :]
            if sign == "||":
                return _joined(left, scope, text) or _joined(right, scope, text)
            return _joined(left, scope, text) and _joined(right, scope, text)
    if words and words[0].text == "!":
        return not _joined(words[1:], scope, text)
    if len(words) == 2 and words[0].text in ("-n", "-z"):
        return bool(_or_empty(words[1], scope)) == (words[0].text == "-n")
    if len(words) == 1:
        return bool(_or_empty(words[0], scope))
    if len(words) == 3 and words[1].text in ("==", "=", "!="):
        value, pattern = word_text(words[0], scope), _pattern_of(words[2], scope)
        _check_size(value, pattern)
        return bool(re.fullmatch(pattern, value, re.DOTALL)) == (words[1].text != "!=")
    raise UnreadError(text)


def _pattern_of(word: Word, scope: ShellScope) -> str:
    """The right side of `==` as a regular expression: what is quoted means itself."""
    made = []
    for part in word.parts:
        if isinstance(part, Literal) and not part.quoted:
            made.append(glob_pattern(part.text))
        else:
            made.append(re.escape(word_text(Word((part,), word.line, word.text), scope)))
    return "".join(made)


def _or_empty(word: Word, scope: ShellScope) -> str:
    """The text of a word; a variable that nothing sets is empty where it is asked whether it is."""
    match [part for part in word.parts if not (isinstance(part, Literal) and not part.text)]:
        case [Variable(name=name, index="", rest="", before="")] if name.isupper():
            return scope.text(name)
        case _:
            return word_text(word, scope)


def holds_ver_test(words: list[str], version: str) -> bool:
    """`ver_test [v1] op v2` (PMS 12.3.14).

    Raises:
        UnreadError: it is none.
    """
    first, sign, second = words if len(words) == 3 else (version, *words)
    try:
        left, right = Version.parse(first), Version.parse(second)
    except (RecipeError, ValueError) as error:
        raise UnreadError(" ".join(("ver_test", *words))) from error
    results = {"-eq": left == right, "-ne": left != right, "-lt": left < right}
    results |= {"-le": left <= right, "-gt": left > right, "-ge": left >= right}
    if sign not in results:
        raise UnreadError(" ".join(("ver_test", *words)))
    return results[sign]
