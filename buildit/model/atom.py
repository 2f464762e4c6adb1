"""Versions of packages, ordered by the Gentoo package manager specification (PMS, chapter 3), and
atoms: what a dependency, a `base:` or the command line asks for, after PMS 8.3.

A version of a recipe is what upstream calls it (`1.1.1w`, `10.42`), within the grammar of PMS 3.2;
the free text that a container calls its own version (`1.22.1-p1`) never comes here.

`category/name-1.2` without an operator means exactly that version, as `=category/name-1.2` does.
Unlike there, a range is one atom: `>=category/name-1.2 <2`.
Slots and blockers are refused by name: the tree has none.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum
from itertools import pairwise

from buildit.errors import RecipeError
from buildit.model.use import CHOICE, FLAG_NAME, FlagValue, flag_text

VERSION = r"[0-9]+(?:\.[0-9]+)*[a-z]?(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*(?:-r[0-9]+)?"
"""A version as PMS 3.2 has it."""

_LONGEST = 200  # far above any real version; keeps int() and error texts small
_SUFFIX_RANK = {"alpha": 0, "beta": 1, "pre": 2, "rc": 3, "p": 5}
_NO_MORE_SUFFIXES = (4, 0)
_PATTERN = re.compile(
    r"(?P<numbers>[0-9]+(?:\.[0-9]+)*)"
    r"(?P<letter>[a-z]?)"
    r"(?P<suffixes>(?:_(?:alpha|beta|pre|rc|p)[0-9]*)*)"
    r"(?:-r(?P<revision>[0-9]+))?"
)
_FORM = "a version looks like 1.22.1, 1.1.1w, 2.0_rc1 or 1.4-r2"

Component = tuple[int, str, int]
SortKey = tuple[int, tuple[Component, ...], str, tuple[tuple[int, int], ...], int]


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """A version; compares, hashes and equals by `sort_key`, so `1.0` equals `1.0-r0`.

    `text` is what was parsed; `str()` gives it back unchanged.
    """

    sort_key: SortKey = field(repr=False)
    text: str = field(compare=False)

    @classmethod
    def parse(cls, text: str, *, place: str | None = None) -> Version:
        """Parse a version of PMS 3.2.

        Raises:
            RecipeError: the text is not one; the message has the column of the first wrong letter.
        """
        match = _PATTERN.match(text)
        if match is None or match.end() != len(text) or len(text) > _LONGEST:
            raise _refused(text, match.end() if match else 0, place)
        return cls(_sort_key(match), text)

    @property
    def revision(self) -> int:
        """N of `-rN`; 0 where there is none (PMS 3.2)."""
        return self.sort_key[4]

    def same_upstream(self, other: Version) -> bool:
        """Whether both are equal but for the revision: the `~` operator (PMS 8.3.1)."""
        return self.sort_key[:4] == other.sort_key[:4]

    def has_prefix(self, wanted: Version) -> bool:
        """Whether it equals the other one in as many components as that has: `=…*` (PMS 8.3.1)."""
        first, rest, letter, suffixes, _ = wanted.sort_key
        own_first, own_rest, own_letter, own_suffixes, _ = self.sort_key
        if "-r" in wanted.text:  # a written -r0 is a component too
            return wanted.sort_key == self.sort_key
        if first != own_first or rest != own_rest[: len(rest)]:
            return False
        given = suffixes[:-1]
        if not letter and not given:
            return True
        if rest != own_rest or letter != own_letter:
            return False
        compared = own_suffixes[: len(given)]
        if given and len(compared) == len(given) and not wanted.text[-1].isdigit():
            # `_rc*` names every _rc: a suffix without a number is only a part of a component.
            return given[:-1] == compared[:-1] and given[-1][0] == compared[-1][0]
        return given == compared

    def __str__(self) -> str:
        return self.text


def _refused(text: str, end: int, place: str | None) -> RecipeError:
    if len(text) > _LONGEST:
        told = f"version {text[:40] + '…'!r} is longer than {_LONGEST} characters"
        return RecipeError(told, place=place, hint=_FORM)
    rest = text[end:]
    near = suggested(text)
    if re.fullmatch(r"-p[0-9]+", rest):
        level = f"{text[:end]}_{rest[1:]}"
        hint = f"a patch level is written {level}; only containers have free versions"
    elif near is not None:
        hint = f"write {near}; the sources keep upstream's own text"
    else:
        hint = _FORM
    found = f"{rest[0]!r} at column {end + 1}" if rest else "its end"
    return RecipeError(f"malformed version {text!r}: unexpected {found}", place=place, hint=hint)


def _sort_key(match: re.Match[str]) -> SortKey:
    first, *rest = match["numbers"].split(".")
    # A further number with a leading zero compares as text without trailing zeros, below every one
    # without (PMS 3.3, algorithm 3.3): so one tuple order covers the rule's mixed case too.
    further = tuple((0, n.rstrip("0"), 0) if n[0] == "0" else (1, "", int(n)) for n in rest)
    suffixes = [
        (_SUFFIX_RANK[name], int(number or "0"))
        for name, number in re.findall(r"_([a-z]+)([0-9]*)", match["suffixes"])
    ]
    ended, revision = (*suffixes, _NO_MORE_SUFFIXES), int(match["revision"] or "0")
    return int(first), further, match["letter"], ended, revision


def is_version(text: str) -> bool:
    return len(text) <= _LONGEST and _PATTERN.fullmatch(text) is not None


_LONGEST_FOREIGN = 100
_HEAD = re.compile(
    r"(?:v|r|ver|version|rel|release)?[-_.]?"
    r"(?P<numbers>[0-9]+(?:(?:_[0-9]{1,3})+|(?:-[0-9]{1,3})+|(?:[.][0-9]+)*)(?![0-9]))"
)
_COUNTED = re.compile(r"r(?P<count>[0-9]+)(?:[.+-]g?[0-9a-f]{5,40})?")  # commits and a git hash
_EPOCH = re.compile(r"[0-9]+:")
_PART = re.compile(
    r"[-._~+]?(?P<word>snapshot|preview|patch|build|git|alpha|beta|final|release|repack|dfsg|post|dev|pre"
    r"|rc|ga|ds|cr|a|b|c|m|p)?[-._]?(?P<number>[0-9]*(?:[.][0-9]+(?![0-9a-z]))*)(?:[.+-]g?[0-9a-f]{7,40}$)?"
)
_SUFFIXES = {
    "alpha": "alpha", "a": "alpha", "beta": "beta", "b": "beta",
    "pre": "pre", "preview": "pre", "dev": "pre", "snapshot": "pre", "m": "pre",
    "rc": "rc", "c": "rc", "cr": "rc", "p": "p", "patch": "p", "post": "p",
    "build": "p", "git": "p", None: "p",
}  # fmt: skip
_DROPPED = frozenset(("final", "release", "ga", "dfsg", "ds", "repack"))


def suggested(text: str) -> str | None:
    """The version of PMS 3.2 that says the same, None where none is near.

    Semver (`1.0.0-rc.1`), PEP 440 (`1.2.3a1`), Debian (`1.0~rc1`, `2.9+dfsg`), dates
    (`4.4-20221106`), git tags (`v1.2.3`) and counts (`r1234.abcdef0`), OpenJDK
    (`11.0.20.1+1`), boost (`1_2_3`).
    """
    lower = text.lower()
    if len(text) > _LONGEST_FOREIGN or is_version(text):
        return None
    counted = _COUNTED.fullmatch(lower)
    found = f"0_p{int(counted['count'])}" if counted else _rewritten(_EPOCH.sub("", lower, count=1))
    return found if found is not None and is_version(found) else None


def _rewritten(text: str) -> str | None:
    head = _HEAD.match(text)
    if head is None:
        return None
    made, rest = re.sub("[_-]", ".", head["numbers"]), text[head.end() :]
    if re.match(r"[a-z](?![a-z0-9])", rest):
        made, rest = made + rest[0], rest[1:]
    while rest:
        part = _PART.match(rest)
        if part is None or not part[0] or not (part["word"] or part["number"]):
            return None
        word, number = part["word"], part["number"].replace(".", "")
        if word not in _DROPPED:
            made += f"_{_SUFFIXES[word]}{number}"
        rest = rest[part.end() :]
    return made


def suggested_name(name: str) -> str | None:
    """The `category/name-version` of a text that was taken for a name as a whole."""
    for dash in re.finditer("-", name):
        version = suggested(name[dash.end() :])
        if version is not None and name[: dash.start()].rpartition("/")[2]:
            return f"{name[: dash.start()]}-{version}"
    return None


_CATEGORY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_.-]*")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9+_-]*")
_OPERATOR = re.compile(r">=|<=|>|<|=|~|")
_BOUND = re.compile(r"(>=|<=|>|<)(.*)")
_USE_DEP = re.compile(
    rf"(?P<mark>[-!]?)(?P<flag>{FLAG_NAME})(?P<default>\(\+\)|\(-\)|)"
    rf"(?P<kind>\?|=|)(?P<choice>(?<==){CHOICE}|)"
)
_HINT = "an atom looks like dev-libs/openssl, >=dev-libs/openssl-3.0 or dev-libs/openssl[ssl,-x]"


class Operator(StrEnum):
    ANY = ""
    EXACT = " "
    EQUAL = "="
    PREFIX = "=*"
    UPSTREAM = "~"
    LESS = "<"
    AT_MOST = "<="
    AT_LEAST = ">="
    GREATER = ">"


_RANGE: Mapping[Operator, Callable[[Version, Version], bool]] = {
    Operator.LESS: operator.lt,
    Operator.AT_MOST: operator.le,
    Operator.AT_LEAST: operator.ge,
    Operator.GREATER: operator.gt,
}
_HOLDS = {
    **_RANGE,
    Operator.EXACT: operator.eq,
    Operator.EQUAL: operator.eq,
    Operator.UPSTREAM: Version.same_upstream,
    Operator.PREFIX: Version.has_prefix,
}
"""Whether a version is what an operator asks for with another one."""


class UseKind(Enum):
    """How one flag of the dependency is asked for (PMS 8.3.4): what stands before and after it."""

    ON = ("", "")
    OFF = ("-", "")
    ON_IF = ("", "?")
    OFF_UNLESS = ("!", "?")
    SAME = ("", "=")
    OPPOSITE = ("!", "=")
    CHOICE = ("", "=CHOICE")


_KINDS = {kind.value: kind for kind in UseKind}
_DEFAULTS = {"": None, "(+)": True, "(-)": False}


@dataclass(frozen=True, slots=True)
class UseDep:
    """One demand on a flag; `default` stands for a flag that the dependency does not declare."""

    flag: str
    kind: UseKind
    default: bool | None = None
    choice: str = ""

    def __str__(self) -> str:
        before, after = self.kind.value
        default = "" if self.default is None else "(+)" if self.default else "(-)"
        return f"{before}{self.flag}{default}{after[:1]}{self.choice}"

    def wanted(self, parent: Mapping[str, FlagValue]) -> FlagValue | None:
        """The value demanded when the dependent has the flags `parent`; None is "any".

        Raises:
            KeyError: the demand speaks of a flag that the dependent does not declare.
        """
        match self.kind:
            case UseKind.ON:
                return True
            case UseKind.OFF:
                return False
            case UseKind.CHOICE:
                return self.choice
            case UseKind.ON_IF:
                return True if parent[self.flag] else None
            case UseKind.OFF_UNLESS:
                return None if parent[self.flag] else False
            case UseKind.SAME:
                return parent[self.flag]
            case UseKind.OPPOSITE:
                return not parent[self.flag]


@dataclass(frozen=True, slots=True)
class Atom:
    """`name` is `category/name`; `version` is None exactly where `operator` is ANY. `bounds` are
    what the version must satisfy too, such as `<2`.

    `declared` are flags that a settled atom does not ask for now, but speaks of: the dependency
    must have them all the same (PMS 8.3.4), or the atom would fail on another day.
    """

    name: str
    operator: Operator = Operator.ANY
    version: Version | None = None
    use: tuple[UseDep, ...] = ()
    declared: tuple[UseDep, ...] = ()
    bounds: tuple[tuple[Operator, Version], ...] = ()

    @classmethod
    def parse(cls, text: str, *, place: str | None = None) -> Atom:
        """Parse an atom.

        Raises:
            RecipeError: the message quotes the text with the column of what is wrong.
        """
        whole, (text, bounds) = text, _bounds(text, place)
        if reason := _foreign(text):
            raise RecipeError(f"malformed atom {text!r}: {reason}", place=place, hint=_HINT)
        match = _OPERATOR.match(text)
        sign = match[0] if match else ""
        bracket = text.find("[")
        end = len(text) if bracket < 0 else bracket
        body = text[len(sign) : end]
        wildcard = body.endswith("*")
        name, version_at = _split(text, len(sign), end - wildcard, place)
        version = _version(text, version_at, end - wildcard, place) if version_at else None
        wanted = _operator(text, sign, wildcard, version, place)
        if bounds and wanted not in _RANGE:
            reason = "two bounds go with '>=', '>', '<=' and '<' only,"
            raise _fail(whole, 0, reason, place, f"write >={name}-1.2 <2")
        return cls(name, wanted, version, _use_deps(text, end, place), bounds=bounds)

    def __str__(self) -> str:
        use = f"[{','.join(map(str, self.use))}]" if self.use else ""
        if self.version is None:
            return f"{self.name}{use}"
        sign = self.operator.value.strip().removesuffix("*")
        star = "*" if self.operator is Operator.PREFIX else ""
        more = "".join(f" {bound.value}{version}" for bound, version in self.bounds)
        return f"{sign}{self.name}-{self.version}{star}{more}{use}"

    def matches_version(self, name: str, version: Version) -> bool:
        """Whether a package is what the atom names, whatever its flags."""
        return (
            name == self.name
            and (self.version is None or _HOLDS[self.operator](version, self.version))
            and all(_HOLDS[bound](version, wanted) for bound, wanted in self.bounds)
        )

    def settled(self, parent: Mapping[str, FlagValue], *, place: str | None = None) -> Atom:
        """The atom as the dependent with the flags `parent` means it: no `?` and no `=` left.

        Raises:
            RecipeError: a conditional demand names a flag that the dependent does not declare.
        """
        use, declared = [], []
        for dep in self.use:
            try:
                wanted = dep.wanted(parent)
            except KeyError:
                told = f"[{dep}] of {self} speaks of this package's own flag {dep.flag!r}, "
                hint = f"declared: {', '.join(sorted(parent)) or 'none'}"
                told += "which it does not declare"
                raise RecipeError(told, place=place, hint=hint) from None
            if wanted is None:
                declared.append(dep)
            elif isinstance(wanted, str):
                use.append(replace(dep, kind=UseKind.CHOICE, choice=wanted))
            else:
                use.append(replace(dep, kind=UseKind.ON if wanted else UseKind.OFF, choice=""))
        return replace(self, use=tuple(use), declared=tuple(declared))

    def refusal(self, flags: Mapping[str, FlagValue]) -> str | None:
        """Why a package with these flags (all that it declares) is not what a settled atom asks.

        None where it is. The text is a clause such as `ssl is off, [ssl] is asked`.
        """
        for dep in self.declared:
            if dep.flag not in flags and dep.default is None:
                return f"it declares no flag {dep.flag!r}, [{dep}] is asked"
        for dep in self.use:
            wanted = dep.wanted({})
            actual = flags.get(dep.flag, dep.default)
            if actual is None:
                return f"it declares no flag {dep.flag!r}, [{dep}] is asked"
            if actual != wanted:
                return f"{flag_text(dep.flag, actual)}, [{dep}] is asked"
        return None


def _bounds(text: str, place: str | None) -> tuple[str, tuple[tuple[Operator, Version], ...]]:
    """The text without the bounds that follow its version after a blank, and these."""
    bracket = text.find("[")
    end = len(text) if bracket < 0 else bracket
    first, *words = text[:end].split(" ")
    matches = [_BOUND.fullmatch(word) for word in words]
    bounds = [(Operator(m[1]), Version.parse(m[2], place=place)) for m in matches if m]
    return (text, ()) if len(bounds) < len(words) else (first + text[end:], tuple(bounds))


def parse_name(text: str, *, place: str | None = None) -> tuple[str, Version | None]:
    """`category/name-1.2` to its name and version, without operators and flags.

    Raises:
        RecipeError: the text is not a plain name with or without a version.
    """
    atom = Atom.parse(text, place=place)
    if atom.use or atom.operator not in (Operator.ANY, Operator.EXACT):
        told = f"{text!r} must be category/name or category/name-version"
        hint = "operators and [flags] are for dependencies"
        raise RecipeError(told, place=place, hint=hint)
    return atom.name, atom.version


def _foreign(text: str) -> str | None:
    """What other notation a text is in, where it is one that people mix up with atoms."""
    head = text.split("[", 1)[0]
    if text.startswith("!"):
        return "blockers are not supported"
    if head.startswith(("debian:", "gentoo:")):
        return f"{head.split(':')[0]}: names another collection, this is no atom of the tree"
    if ":" in head:
        return f"slots are not supported (column {head.index(':') + 1})"
    at = next((i for i, c in enumerate(text) if c.isspace() or not c.isprintable()), None)
    return None if at is None else f"a blank or control character at column {at + 1}"


def _fail(text: str, at: int, reason: str, place: str | None, hint: str = _HINT) -> RecipeError:
    told = f"malformed atom {text!r}: {reason} at column {at + 1}"
    return RecipeError(told, place=place, hint=hint)


def _split(text: str, start: int, end: int, place: str | None) -> tuple[str, int]:
    """The `category/name` of text[start:end], and where its version starts (0: none).

    The version starts after the last `-` that a digit follows. A tail that can only be part of a
    name (`font-adobe-100dpi`) is one, as PMS 3.1.2 has it.
    """
    slash = text.find("/", start, end)
    category = _CATEGORY.match(text, start, end)
    if slash < 0 or category is None or category.end() != slash:
        at = start if slash < 0 or category is None else category.end()
        reason = "no category before a '/'" if slash < 0 else "a wrong letter in the category"
        raise _fail(text, at, reason, place)
    dashes = [at for at in range(slash + 2, end - 1) if text[at] == "-" and text[at + 1].isdigit()]
    if dashes and (is_version(text[dashes[-1] + 1 : end]) or "." in text[dashes[-1] : end]):
        cut, version_at = dashes[-1], dashes[-1] + 1
    else:
        cut, version_at = end, 0
    name = _NAME.match(text, slash + 1, cut)
    if name is None or name.end() != cut:
        near = suggested_name(text[start:end])
        hint = f"write {near}: a version here looks so" if near else _HINT
        at = name.end() if name else slash + 1
        raise _fail(text, at, "a wrong letter in the name", place, hint)
    tail = re.search(r"-([0-9][^-]*(?:-r[0-9]+)?)$", name[0])
    if version_at and tail and is_version(tail[1]):
        raise _fail(text, name.start() + tail.start() + 1, "two versions, the first", place)
    return text[start:cut], version_at


def _version(text: str, start: int, end: int, place: str | None) -> Version:
    try:
        return Version.parse(text[start:end])
    except RecipeError as error:
        near = suggested(text[start:end])
        told = f"malformed atom {text!r}: the version from column {start + 1} on: {error.message}"
        hint = f"write {text[:start]}{near}: a version here looks so" if near else error.hint
        raise RecipeError(told, place=place, hint=hint) from None


def _operator(
    text: str, sign: str, wildcard: bool, version: Version | None, place: str | None
) -> Operator:
    if version is None:
        if sign or wildcard:
            hint = f"{sign or '='}category/name-1.2{'*' if wildcard else ''}"
            raise _fail(text, 0, f"{sign or '*'!r} without a version", place, f"write {hint}")
        return Operator.ANY
    if wildcard:
        if sign != "=":
            raise _fail(text, text.index("*"), "'*' goes with '=' only,", place)
        return Operator.PREFIX
    if sign == "~" and version.revision:
        raise _fail(text, text.rindex("-r"), "'~' ignores revisions, yet one is given", place)
    return Operator(sign) if sign else Operator.EXACT


def _use_deps(text: str, start: int, place: str | None) -> tuple[UseDep, ...]:
    if start == len(text):
        return ()
    if not text.endswith("]"):
        raise _fail(text, len(text), "']' expected", place)
    deps = []
    at = start + 1
    for part in text[at:-1].split(","):
        match = _USE_DEP.match(part)
        if match is None or match.end() != len(part):
            raise _fail(text, at + (match.end() if match else 0), "a wrong flag demand", place)
        marks = (match["mark"], match["kind"] + ("CHOICE" if match["choice"] else ""))
        if marks not in _KINDS:
            raise _fail(text, at, f"a wrong flag demand {match[0]!r}", place)
        default = _DEFAULTS[match["default"]]
        deps.append(UseDep(match["flag"], _KINDS[marks], default, match["choice"]))
        at += len(part) + 1
    for first, second in pairwise(sorted(deps, key=lambda dep: dep.flag)):
        if first.flag == second.flag:
            raise _fail(text, start, f"two demands on {first.flag!r}", place)
    return tuple(deps)
