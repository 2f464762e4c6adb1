"""Statements and words of an ebuild's shell, as `shell` reads them. Nothing is expanded."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Literal:
    """Text that means itself; only where it is not `quoted` its `*?[]{}~` are patterns."""

    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Variable:
    """`$name`, `${name}`, `${name[index]}`, with `rest` as all that follows in the braces; `before`
    is the `#` or `!` in front."""

    name: str
    index: str
    rest: str
    quoted: bool
    before: str = ""


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$( … )` or backticks."""

    body: tuple[ShStatement, ...]
    quoted: bool


@dataclass(frozen=True, slots=True)
class OddPart:
    """A part in syntax that is not read: `$(( … ))`, `<( … )`, `$$`."""

    text: str


WordPart = Literal | Variable | Substitution | OddPart


@dataclass(frozen=True, slots=True)
class Word:
    parts: tuple[WordPart, ...]
    line: int
    text: str

    @property
    def plain(self) -> str | None:
        """The text of a word that has nothing to expand; else None."""
        if all(isinstance(one, Literal) for one in self.parts):
            return "".join(one.text for one in self.parts if isinstance(one, Literal))
        return None


@dataclass(frozen=True, slots=True)
class Assign:
    """`name=value`, `name+=value`, `name=( items )`; one of `value` and `items` is there."""

    name: str
    index: str
    appends: bool
    value: Word | None
    items: tuple[Word, ...] | None
    line: int


@dataclass(frozen=True, slots=True)
class Redirect:
    """`body` is the text of a here-document, whose `target` is what it ends at."""

    operator: str
    target: Word
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spanned:
    """`text` is what was written, from `line` on."""

    line: int
    text: str


@dataclass(frozen=True, slots=True)
class ShCommand(_Spanned):
    """A command with its words, after assignments; `local` and `export` have theirs there, too."""

    assigns: tuple[Assign, ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class Test(_Spanned):
    """`[[ … ]]`: its words, operators among them."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Chain(_Spanned):
    """`first && second || third`; also what a `!` stands before, and pipes (`|`)."""

    first: ShStatement
    rest: tuple[tuple[str, ShStatement], ...]


@dataclass(frozen=True, slots=True)
class Negated(_Spanned):
    inner: ShStatement


@dataclass(frozen=True, slots=True)
class If(_Spanned):
    branches: tuple[tuple[tuple[ShStatement, ...], tuple[ShStatement, ...]], ...]
    otherwise: tuple[ShStatement, ...]


@dataclass(frozen=True, slots=True)
class For(_Spanned):
    name: str
    words: tuple[Word, ...]
    body: tuple[ShStatement, ...]


@dataclass(frozen=True, slots=True)
class While(_Spanned):
    until: bool
    test: tuple[ShStatement, ...]
    body: tuple[ShStatement, ...]


@dataclass(frozen=True, slots=True)
class Case(_Spanned):
    word: Word
    arms: tuple[tuple[tuple[Word, ...], tuple[ShStatement, ...]], ...]


@dataclass(frozen=True, slots=True)
class ShGroup(_Spanned):
    """`{ … }`, or `( … )` where it is a shell of its own."""

    body: tuple[ShStatement, ...]
    subshell: bool


@dataclass(frozen=True, slots=True)
class Function(_Spanned):
    name: str
    body: tuple[ShStatement, ...]


@dataclass(frozen=True, slots=True)
class Opaque(_Spanned):
    """A line that is not understood."""


ShStatement = (
    ShCommand | Test | Chain | Negated | If | For | While | Case | ShGroup | Function | Opaque
)
