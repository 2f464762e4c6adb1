"""Words of an ebuild's phases as words of a POSIX shell that runs in a build: what is known stands
there as text, what only the build knows as its variable (`$DESTDIR`, `$SRC`, `$FILES`)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from buildit.recipe.ways.ebuild.syntax import (
    Literal,
    OddPart,
    ShCommand,
    ShStatement,
    Substitution,
    Variable,
    Word,
    WordPart,
)
from buildit.recipe.ways.ebuild.values import (
    FILES_DIR,
    WORK_DIR,
    ShellScope,
    UnreadError,
    fields_of,
    word_text,
)

_DIRECTORIES: Mapping[str, str] = {
    "D": "$DESTDIR",
    "ED": "$DESTDIR",
    "S": "$SRC",
    "FILESDIR": "$FILES",
    "T": "$TMPDIR",
    "HOME": "$HOME",
    "BUILD_DIR": "$SRC/.buildit",
    "CHOST": "$TRIPLET",
    "CBUILD": "$TRIPLET",
    "CTARGET": "$TRIPLET",
    **{name: f"${name}" for name in ("CFLAGS", "CXXFLAGS", "LDFLAGS")},
    "CPPFLAGS": "${CPPFLAGS:-}",
    **dict.fromkeys(
        ("EPREFIX", "EROOT", "ROOT", "SYSROOT", "ESYSROOT", "BROOT", "EXTRA_ECONF"), ""
    ),
}
"""PMS 11.1, and what the build has in its place; nothing for prefixes of an offset."""
_TOOLS = {
    "CC": "cc",
    "CXX": "c++",
    "CPP": "cpp",
    "LD": "ld",
    "AR": "ar",
    "AS": "as",
    "NM": "nm",
    "RANLIB": "ranlib",
    "STRIP": "strip",
    "OBJCOPY": "objcopy",
    "OBJDUMP": "objdump",
    "READELF": "readelf",
    "PKG_CONFIG": "pkg-config",
    "BUILD_CC": "cc",
    "BUILD_CXX": "c++",
    "BUILD_CPP": "cpp",
    "BUILD_AR": "ar",
    "BUILD_PKG_CONFIG": "pkg-config",
}
"""toolchain-funcs: the tools of the chroot by the names of their variables."""
_PLACES = {
    "systemd_get_systemunitdir": "/usr/lib/systemd/system",
    "systemd_get_userunitdir": "/usr/lib/systemd/user",
    "systemd_get_utildir": "/usr/lib/systemd",
    "get_udevdir": "/usr/lib/udev",
    "get_bashcompdir": "/usr/share/bash-completion/completions",
    "get_fishcompdir": "/usr/share/fish/vendor_completions.d",
    "get_zshcompdir": "/usr/share/zsh/site-functions",
}
ASKING = ("usex", "use_enable", "use_with", "usev", "meson_use", "meson_feature")
"""Functions that say something by a flag; a script of ours has them too (`scripts.FUNCTIONS`)."""
_SAFE = re.compile(r"[A-Za-z0-9_./=:@%+,^-]+")
_POSIX = re.compile(r"(?:%%?|##?)[^/{}$`\"']*|:?[-+][A-Za-z0-9_./-]*|")
_SOURCE = "\x1aS"
_QUOTE, _VALUE, _BARE = "quote", "value", "bare"


@dataclass(frozen=True, slots=True)
class ShWord:
    """Pieces of a word: text that means itself, expansions inside of quotes, and bare text, whose
    patterns and blanks count."""

    pieces: tuple[tuple[str, str], ...]

    @property
    def const(self) -> str | None:
        """Its text where it has nothing to expand."""
        if all(kind == _QUOTE for kind, _ in self.pieces):
            return "".join(text for _, text in self.pieces)
        return None

    def __str__(self) -> str:
        return self.below("")

    def below(self, directory: str) -> str:
        """The word behind a text that is expanded in quotes, such as `$DESTDIR/usr/bin`."""
        listed = [(_VALUE, directory), *self.pieces]
        pieces = [(kind, text) for kind, text in listed if text]
        made: list[str] = []
        at = 0
        while at < len(pieces):
            if pieces[at][0] == _BARE:
                made.append(pieces[at][1])
                at += 1
                continue
            end = at
            while end < len(pieces) and pieces[end][0] != _BARE:
                end += 1
            made.append(_quoted(pieces[at:end]))
            at = end
        return "".join(made) or "''"


def _quoted(pieces: list[tuple[str, str]]) -> str:
    if all(kind == _QUOTE for kind, _ in pieces):
        text = "".join(text for _, text in pieces)
        return text if _SAFE.fullmatch(text) else shlex.quote(text)
    escaped = (t if kind == _VALUE else re.sub(r'([\\"$`])', r"\\\1", t) for kind, t in pieces)
    return f'"{"".join(escaped)}"'


def literal_word(text: str) -> ShWord:
    return ShWord(((_QUOTE, text),))


def expanded_word(text: str) -> ShWord:
    """A word of text that the shell expands, such as `$DESTDIR/etc`."""
    return ShWord(((_VALUE, text),))


@dataclass(slots=True)
class Wording:
    """What is known of a phase: `scope` at import, `own` variables of its script, `lists`
    its arrays, `flags` that are
    the package's. `source` is the value of `S`, `subdirectory` where that lies below the directory
    that an archive is unpacked to, `work` the directory of further sources ("" where there are
    none). `helpers` collects the functions that its words need."""

    scope: ShellScope
    flags: frozenset[str]
    source: str = ""
    subdirectory: str = ""
    work: str = ""
    own: set[str] = field(default_factory=set)
    lists: dict[str, tuple[ShWord, ...]] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)

    def words(self, word: Word) -> list[ShWord]:
        """The words that a word stands for: several for arrays, braces and unquoted lists.

        Raises:
            UnreadError: something is not known.
        """
        significant = [p for p in word.parts if not (isinstance(p, Literal) and not p.text)]
        if "{" in word.text and word.plain is not None:
            return [self._field(one, word) for one in fields_of(word, self.scope)]
        match significant:
            case [Variable(name=name, before="", index="@" | "*", rest="")] if name in self.lists:
                return [*self.lists[name]]
            case [Variable(name=name, before="")] if self._is_several(significant[0], name):
                return [self._placed([(_QUOTE, one)]) for one in fields_of(word, self.scope)]
            case _:
                return [self._placed([p for part in word.parts for p in self._pieces(part)])]

    def _placed(self, pieces: list[tuple[str, str]]) -> ShWord:
        """With the directories in it that variables outside of functions have as marks.

        Raises:
            UnreadError: one is the work directory itself.
        """
        made: list[tuple[str, str]] = []
        places = {_SOURCE: self._source(), FILES_DIR: "$FILES", WORK_DIR: self.work}
        for kind, text in pieces:
            known = text.replace(self.source, _SOURCE) if self.source else text
            for one in re.split(f"({_SOURCE}|{FILES_DIR}|{WORK_DIR})", known):
                if one == WORK_DIR and not self.work:
                    raise UnreadError("$WORKDIR")
                if one in places:
                    made.append((_VALUE, places[one]))
                elif one or not made:
                    made.append((kind, one))
        return ShWord(tuple(made))

    def _source(self) -> str:
        return f"$SRC/{self.subdirectory}" if self.subdirectory else "$SRC"

    def one(self, word: Word) -> ShWord:
        """Raises UnreadError where the word stands for none or several."""
        found = self.words(word)
        if len(found) != 1:
            raise UnreadError(word.text)
        return found[0]

    def _is_several(self, part: WordPart, name: str) -> bool:
        if not isinstance(part, Variable) or name in _DIRECTORIES or name in self.own:
            return False
        value = self.scope.names.get(name)
        if isinstance(value, tuple):
            return part.index == "@" or not part.quoted
        return isinstance(value, str) and not part.quoted and len(value.split()) != 1

    def _field(self, text: str, word: Word) -> ShWord:
        bare = any(isinstance(p, Literal) and not p.quoted for p in word.parts)
        return ShWord(tuple(_bare(text) if bare else [(_QUOTE, text)]))

    def _pieces(self, part: WordPart) -> list[tuple[str, str]]:
        match part:
            case Literal(text, quoted):
                return [(_QUOTE, text)] if quoted else _bare(text)
            case Variable():
                return [self._variable(part)]
            case Substitution(body, quoted):
                return [self._called(body, quoted=quoted)]
            case OddPart(text):
                raise UnreadError(text)

    def _variable(self, part: Variable) -> tuple[str, str]:
        name, rest = part.name, part.rest
        if name in self.own and not part.before and not part.index:
            if not _POSIX.fullmatch(rest):
                raise UnreadError(f"${{{name}{rest}}}")
            text = f"${{{name}{rest}}}" if rest else f"${name}"
            return (_VALUE if part.quoted else _BARE, text)
        if name in _DIRECTORIES and rest in ("", "%/") and not part.before:
            place = self._source() if name == "S" else _DIRECTORIES[name]
            if name.endswith("FLAGS") and not part.quoted:
                return (_BARE, place)
            return (_VALUE, place)
        if name in _TOOLS and name not in self.scope.names and not rest:
            return (_QUOTE, _TOOLS[name])
        if name in ("WORKDIR", "DISTDIR") and not rest and self.work:
            return (_VALUE, self.work)
        if name == "MAKEOPTS" and not rest:
            return (_VALUE, "-j$JOBS")
        word = Word((part,), 0, f"${name}")
        return (_QUOTE, word_text(word, self.scope))

    def _called(self, body: tuple[ShStatement, ...], *, quoted: bool) -> tuple[str, str]:
        match body:
            case (ShCommand(words=(command, *words), assigns=(), redirects=()),):
                name = command.plain or ""
            case _:
                raise UnreadError(f"$({'; '.join(one.text for one in body)})")
        arguments = [one for word in words for one in self.words(word)]
        if name == "get_libdir":
            return (_VALUE, "lib/$TRIPLET")
        if name in ("nproc", "makeopts_jobs", "get_nproc"):
            return (_VALUE, "$JOBS")
        if name in _PLACES:
            return (_QUOTE, _PLACES[name])
        if (tool := name.removeprefix("tc-get")) != name and tool in _TOOLS:
            return (_QUOTE, _TOOLS[tool])
        if name in ASKING and arguments:
            flag = (arguments[0].const or "").removeprefix("!")
            if flag not in self.flags:
                raise UnreadError(body[0].text)
            self.helpers.add(name)
            kind = _VALUE if quoted else _BARE  # what is not quoted may be no word at all
            return (kind, f"$({name} {' '.join(map(str, arguments))})")
        return (_QUOTE, word_text(Word((Substitution(body, True),), 0, body[0].text), self.scope))


def _bare(text: str) -> list[tuple[str, str]]:
    """Unquoted text: patterns stay bare, the rest means itself."""
    found: list[tuple[str, str]] = []
    for piece in re.split(r"([*?~]|\[[^\]]*\])", text):
        if piece:
            is_pattern = piece in ("*", "?", "~") or (piece[0] == "[" and piece[-1] == "]")
            found.append((_BARE if is_pattern else _QUOTE, piece))
    return found
