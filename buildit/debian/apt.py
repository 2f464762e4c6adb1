"""The machine's own apt sources (sources.list(5)): which archives, suites and components there are.

Only where to look is taken from apt's files, never whom to trust: `Signed-By` and `trusted` do not
count. What we cannot use (deb-src, flat archives, cdrom) is skipped and named, what is broken is an
error. Debian's control syntax (deb822(5)), in which newer sources and release files are written, is
read here: paragraphs of `Name: value` fields; strict.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import RecipeError
from buildit.remote.transport import hide_credentials

ETC_APT = Path("/etc/apt")
SCHEMES = ("https", "http", "file")

_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)")
_NAME = re.compile(r"[A-Za-z0-9_.-]+\.(list|sources)")  # apt reads no other names
_ONE_LINE = re.compile(
    r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)\s*(?:#.*)?"
)
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_CHECKS = re.compile(
    r"^\s*Acquire::(Check-Valid-Until|Check-Date)\s+\"?(false|no|0|off)\"?\s*;",
    re.MULTILINE | re.IGNORECASE,
)
_NO = ("no", "false", "0", "off", "without", "disable")


def paragraphs(text: str, place: str) -> Iterator[tuple[int, dict[str, str]]]:
    """All paragraphs: the line on which each begins, and its fields by lower-case name, as names
    are compared without case; further lines of a value are joined by newlines. Lines that begin
    with `#` are comments, as in sources files.

    Raises:
        RecipeError: a line that is no field, or a field given twice.
    """
    fields: dict[str, str] = {}
    lines: dict[str, int] = {}
    last = ""
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield min(lines.values()), fields
            fields, lines, last = {}, {}, ""
        elif line[0] in " \t" and last:
            fields[last] += f"\n{line.strip()}"
        else:
            found, at = _FIELD.fullmatch(line), f"{place}:{number}:1"
            if found is None:
                raise RecipeError(f"not a field: {line[:60]!r}", place=at, hint="write Name: value")
            last = found[1].lower()
            if last in lines:
                what = f"field {found[1]!r} stands there twice, first on line {lines[last]}"
                raise RecipeError(what, place=at)
            fields[last], lines[last] = found[2].strip(), number


@dataclass(frozen=True, slots=True)
class AptSource:
    """One suite of one archive: indices lie below `uri`/dists/`suite`, packages below `uri`/pool.

    `uri` is without a slash at its end. The checks are off where the administrator switched them
    off for this source or all of apt.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    check_valid_until: bool = True
    check_date: bool = True


@dataclass(frozen=True, slots=True)
class MachineSources:
    """What the machine uses, and for each entry that we cannot use its place and why."""

    usable: tuple[AptSource, ...]
    skipped: tuple[str, ...]


_Entry = tuple[str, Mapping[str, str]]
"""Where an entry of either syntax stands, and its fields as deb822 has them."""


class _UnusableError(Exception):
    """An entry that apt can use and we cannot."""


def read_sources(etc_apt: Path = ETC_APT) -> MachineSources:
    """The sources in `sources.list` and `sources.list.d`, in apt's order, each once.

    Raises:
        RecipeError: a file has an entry that apt would refuse, or cannot be read.
    """
    off = _switched_off(etc_apt)
    usable: dict[AptSource, None] = {}
    skipped: list[str] = []
    for path in _files(etc_apt):
        text = _read(path)
        entries = _deb822(text, path) if path.suffix == ".sources" else _one_line(text, path)
        for place, fields in entries:
            try:
                usable |= dict.fromkeys(_sources(fields, off, place))
            except _UnusableError as reason:
                skipped.append(f"{place}: {reason}")
    return MachineSources(tuple(usable), tuple(skipped))


def _files(etc_apt: Path) -> tuple[Path, ...]:
    folder = etc_apt / "sources.list.d"
    further = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    main = etc_apt / "sources.list"
    return (
        *((main,) if main.is_file() else ()),
        *(path for path in further if _NAME.fullmatch(path.name) and path.is_file()),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", place=str(path)) from error
    except UnicodeDecodeError as error:
        raise RecipeError("is not UTF-8 text", place=str(path)) from error


def _switched_off(etc_apt: Path) -> frozenset[str]:
    """Which of apt's checks of times the administrator switched off for all sources."""
    folder = etc_apt / "apt.conf.d"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found: set[str] = set()
    for path in (*paths, etc_apt / "apt.conf"):
        if path.is_file() and not path.name.startswith("."):
            text = path.read_bytes().decode("utf-8", "replace")
            found |= {match[1].lower() for match in _CHECKS.finditer(text)}
    return frozenset(found)


def _one_line(text: str, path: Path) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        place = f"{path}:{number}:1"
        found = _ONE_LINE.fullmatch(line)
        if found is None:
            hint = "write: deb [options] URI suite component…"
            raise RecipeError("not an apt source", place=place, hint=hint)
        names = ("types", "uris", "suites", "components")
        kind, options, *values = found.groups()
        yield place, _options(options, place) | dict(zip(names, (kind, *values), strict=True))


def _options(text: str | None, place: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in (text or "").split():
        name, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"option {word!r} has no value", place=place)
        options[name.lower()] = value
    return options


def _deb822(text: str, path: Path) -> Iterator[_Entry]:
    for line, fields in paragraphs(text, str(path)):
        place = f"{path}:{line}:1"
        if fields.get("enabled", "").lower() in _NO:
            continue
        if missing := [name for name in ("types", "uris", "suites") if name not in fields]:
            raise RecipeError(f"apt source without {missing[0]!r}", place=place)
        yield place, fields


def _sources(fields: Mapping[str, str], off: frozenset[str], place: str) -> Iterator[AptSource]:
    if "deb" not in fields["types"].split():
        raise _UnusableError("source packages only")
    components = tuple(fields.get("components", "").split())
    valid, date = (
        name not in off and " ".join(fields.get(name, "yes").split()).lower() not in _NO
        for name in ("check-valid-until", "check-date")
    )
    uris = [resolved for uri in fields["uris"].split() for resolved in _resolved(uri)]
    for uri in uris:
        for suite in fields["suites"].split():
            if suite.endswith("/"):
                raise _UnusableError(f"flat archive {uri} {suite}")
            if not _SUITE.fullmatch(suite) or ".." in suite or not components:
                raise RecipeError(f"suite {suite!r} without components", place=place)
            yield AptSource(uri, suite, components, valid and date, date)


def _resolved(uri: str) -> tuple[str, ...]:
    """The URI, or those of a `mirror+file:` list (apt-transport-mirror(1)), as cloud images use."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "mirror+file":
        try:
            lines = Path(re.sub("^/+", "/", rest)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise _UnusableError(f"mirror list {uri} cannot be read: {error}") from error
        listed = (line.split()[0] for line in lines if line.strip() and line[0] != "#")
        return tuple(one for line in listed for one in _resolved(line))
    if scheme.lower() not in SCHEMES:
        raise _UnusableError(f"{hide_credentials(uri)} is neither https:, http: nor file:")
    return (uri.rstrip("/"),)
