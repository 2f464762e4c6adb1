"""What formats allow, pure: rules of JSON documents, of which those of the formats are made; names
of output files, references, App Container identifiers, accounts and signals; and the neutral `App`
of a container in the words of each format.

A rule takes a place in the document and the value there, and gives each problem as `place: what`.
One check of the app serves all formats; what only App Container forbids (the names of variables) is
a rule of its manifest.
"""

from __future__ import annotations

import datetime
import json
import re
import time as clock
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from buildit.archive.contents import EntryAt, way
from buildit.errors import RecipeError
from buildit.model.image import SPELLINGS, App, Architecture, Image, Port, Volume
from buildit.model.tree import Kind
from buildit.recipe.leaf import LARGEST_ID, id_of

Problems = Iterator[str]
JsonRule = Callable[[str, object], Problems]

_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?"
    r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
)
_URL = re.compile(r"https?://[^\s/?#]\S*")
_LONE_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


def at(where: str, key: str | int) -> str:
    if isinstance(key, int):
        return f"{where}[{key}]"
    return f"{where}.{key}" if where else key


def object_of(required: Mapping[str, JsonRule], optional: Mapping[str, JsonRule] = {}) -> JsonRule:
    """An object with these keys and no other."""
    rules = {**required, **optional}

    def check(where: str, value: object) -> Problems:
        if not isinstance(value, dict):
            yield f"{where or 'the document'}: must be an object"
            return
        for key, member in value.items():
            if key in rules:
                yield from rules[key](at(where, key), member)
                continue
            yield f"{at(where, key)}: is not a key of the specification{near(key, rules)}"
        yield from (f"{at(where, key)}: is required" for key in required if key not in value)

    return check


def near(key: str, known: Mapping[str, JsonRule]) -> str:
    import difflib  # only for a wrong document

    found = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {found[0]!r}?" if found else ""


def doubles(names: Iterable[object]) -> list[str]:
    """What is there more than once, sorted."""
    return sorted(name for name, count in Counter(map(str, names)).items() if count > 1)


def list_of(rule: JsonRule, unique: str | None = None) -> JsonRule:
    def check(where: str, value: object) -> Problems:
        if not isinstance(value, list):
            yield f"{where}: must be a list"
            return
        for number, member in enumerate(value):
            yield from rule(at(where, number), member)
        if unique is None:
            return
        names = [member.get(unique) for member in value if isinstance(member, dict)]
        yield from (f"{where}: {unique} {name!r} occurs twice" for name in doubles(names))

    return check


def all_of(*rules: JsonRule) -> JsonRule:
    """Each of the rules, in order."""

    def check(where: str, value: object) -> Problems:
        for rule in rules:
            yield from rule(where, value)

    return check


def must_be(kind: type, what: str) -> JsonRule:
    """A value of a type, an empty text not among them."""

    def check(where: str, value: object) -> Problems:
        if not isinstance(value, kind):
            yield f"{where}: must be {what}"

    return check


text = must_be(str, "a string")
boolean = must_be(bool, "true or false")


def filled_text(where: str, value: object) -> Problems:
    if not isinstance(value, str) or not value:
        yield f"{where}: must be a non-empty string"


def text_that(passes: Callable[[str], object], what: str) -> JsonRule:
    """A text that passes a test; one that does not "is not" `what`."""

    def check(where: str, value: object) -> Problems:
        if not isinstance(value, str) or not passes(value):
            yield f"{where}: {value!r} is not {what}"

    return check


def pattern_rule(pattern: re.Pattern[str], what: str) -> JsonRule:
    return text_that(pattern.fullmatch, f"{what} ({pattern.pattern})")


def text_without(problems: Callable[[str], Problems]) -> JsonRule:
    """A text of which a function tells the problems; an empty one is as good as none."""

    def check(where: str, value: object) -> Problems:
        yield from text(where, value)
        if isinstance(value, str) and value:
            yield from (f"{where}: {problem}" for problem in problems(value))

    return check


def whole(lowest: int, highest: int) -> JsonRule:
    def check(where: str, value: object) -> Problems:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not lowest <= value <= highest:  # type: ignore[operator]
            yield f"{where}: must be a whole number from {lowest} to {highest}"

    return check


def nothing_or(rule: JsonRule) -> JsonRule:
    """The rule, or null, which is as good as leaving the key out."""

    def check(where: str, value: object) -> Problems:
        if value is not None:
            yield from rule(where, value)

    return check


def map_of(key: JsonRule, value: JsonRule) -> JsonRule:
    """An object with any keys."""

    def check(where: str, found: object) -> Problems:
        if not isinstance(found, dict):
            yield f"{where}: must be an object"
            return
        for name, member in found.items():
            yield from key(where, name)
            yield from value(at(where, str(name)), member)

    return check


def _is_time(value: str) -> bool:
    match = _RFC3339.fullmatch(value)
    with suppress(ValueError):
        return match is not None and bool(datetime.date.fromisoformat(match[1]))
    return False


time = text_that(_is_time, "a time as RFC 3339 writes it (2026-01-31T23:59:59Z)")
"""A time as RFC 3339 5.6 writes it, on a day that exists. Stricter than the RFC: no leap second,
which the clients' own readers (Go's time.Parse) refuse."""


def _is_url(value: str) -> bool:
    if _URL.fullmatch(value) is None or _LONE_PERCENT.search(value) is not None:
        return False
    try:
        parts = urlsplit(value)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


url = text_that(_is_url, "an http or https URL")
"""An http or https URL that takes itself apart: host, port, brackets, percent signs."""


def rfc3339(epoch: int) -> str:
    """Seconds since 1970 as documents write a time."""
    return clock.strftime("%Y-%m-%dT%H:%M:%SZ", clock.gmtime(epoch))


def read_document(
    image: Image, what: str, judge: Callable[[object], tuple[str, ...]], hint: str
) -> dict[str, Any]:
    """The document that the user wrote for an image; a key that occurs twice is an error, not a
    silent loss.

    Raises:
        RecipeError: it is not JSON, and at which line and column within it; or `judge` has
            problems, which are told with `hint`.
    """
    try:
        document = json.loads(image.content, object_pairs_hook=_unique, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno} of the rendered content"
        raise _refused(image, f"{what} is not JSON: {error.msg} at {where}") from error
    except (ValueError, RecursionError) as error:
        raise _refused(image, f"{what} is not usable JSON: {error}") from error
    problems = judge(document)
    if problems or not isinstance(document, dict):
        raise _refused(image, f"{what} is not valid: {problems[0]}", hint, problems[1:])
    return document


def _refused(
    image: Image, message: str, hint: str = "", details: tuple[str, ...] = ()
) -> RecipeError:
    hint = f"correct `content` of this image step{hint}"
    return RecipeError(message, place=image.place or None, hint=hint, details=details)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        double = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {double!r} occurs twice in one object")
    return members


def no_constant(name: str) -> object:
    """NaN and the infinities, which Python would take."""
    raise ValueError(f"{name} is no JSON number")


# -- names, accounts and signals

AC_IDENTIFIER = re.compile(r"[a-z0-9]+([-._~/][a-z0-9]+)*")
"""appc spec types.md, "AC Identifier Type"."""

AC_NAME = re.compile(r"[a-z0-9]+([-][a-z0-9]+)*")
"""appc spec types.md, "AC Name Type"."""

FILE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:@-]*")
_SEPARATOR = re.compile(r"[._]|__|-+")
NAME_MAX = 255
_TAG_MAX = 128


def machine(image: Image) -> Architecture:
    """The image's machine.

    Raises:
        RecipeError: nothing is called so.
    """
    if image.arch not in SPELLINGS:
        told = f"unknown architecture {image.arch!r}; known: {', '.join(sorted(SPELLINGS))}"
        hint = "set `arch` in the container's `vars`"
        raise RecipeError(told, place=image.place or None, hint=hint)
    return SPELLINGS[image.arch]


def file_reference(text: str) -> str:
    """The text as a path component of a repository's name (distribution reference grammar):
    `Base-1.0+b1` gives `base-1.0_b1`. It begins and ends with a letter or digit.

    podman and buildah read the path of an OCI layout as a reference, and take no other characters.
    """

    def fitting(run: re.Match[str]) -> str:
        return run[0] if _SEPARATOR.fullmatch(run[0]) else "_"

    return re.sub("[^a-z0-9]+", fitting, text.lower()).strip("._-")


def reference(image: Image) -> str:
    """A name for clients that load the image: `localhost/NAME:TAG`, as podman calls what comes
    from no registry; a name that begins with a host keeps it."""
    parts = [file_reference(part) for part in image.name.split("/")]
    name = "/".join(part for part in parts if part)
    host = len(parts) > 1 and "." in parts[0]
    return f"{name if host else f'localhost/{name}'}:{tag(image.version)}"


def tag(version: str) -> str:
    """The version as both a tag of registries and an OCI `ref.name` (annotations.md) allow it.

    Letters and digits stay, as does a lone `-`, `.`, `_` or a `--` between them; any other run of
    characters becomes `_`.
    """
    inner = re.sub("^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", version)
    joined = re.sub("(?!(?:[-._]|--)[A-Za-z0-9])[^A-Za-z0-9]+", "_", inner)
    return joined[:_TAG_MAX].rstrip("-._") or "latest"


def ac_identifier(foreign: str) -> str:
    """The nearest App Container identifier (appc spec types.md), for suggestions; may be empty."""

    def fitting(run: re.Match[str]) -> str:
        if run[0] in ("-", ".", "_", "~", "/"):
            return run[0]
        return "/" if "/" in run[0] else "-"

    return re.sub("[^a-z0-9]+", fitting, foreign.lower()).strip("-._~/")


def ac_name(foreign: str) -> str:
    """The nearest App Container name (appc spec types.md): `/var/lib/x` gives `var-lib-x`."""
    return re.sub(r"[^a-z0-9]+", "-", foreign.lower()).strip("-")


_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")


def account_problems(name: str) -> Iterator[str]:
    """What is wrong with the name or number of a user or group."""
    if _ACCOUNT.fullmatch(name) is None:
        yield f"{name!r} is neither a name nor a number"
    elif name.isdecimal() and id_of(name) is None:
        yield f"the id {name} is not from 0 to {LARGEST_ID}"


_NAMES = """
    HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD
    CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS RTMIN RTMAX
"""
SIGNALS = frozenset(
    {f"SIG{name}" for name in _NAMES.split()}
    | {f"SIGRTMIN+{number}" for number in range(1, 16)}
    | {f"SIGRTMAX-{number}" for number in range(1, 15)}
)
"""The signals of Linux (signal(7)), as docker, podman and crun take them, beside numbers from 1 to
64; those beyond 34 differ between programs' threads only."""
_MOST = 64


def no_content(image: Image, what: str) -> None:
    """Raises RecipeError where the user wrote a manifest for a format that has none."""
    if image.content:
        message = f"{what} has no manifest that `content` could be"
        raise RecipeError(message, place=image.place or None, hint="leave `content` out")


def signal_problems(text: str) -> Iterator[str]:
    """What is wrong with a signal that is written as `SIGQUIT` or `3`."""
    if text in SIGNALS:
        return
    if text.isascii() and text.isdecimal() and not text.startswith("0"):
        if len(text) > 2 or int(text) > _MOST:
            yield f"{text} is not from 1 to {_MOST}"
        return
    upper = text.upper()
    meant = next((name for name in (upper, f"SIG{upper}") if name in SIGNALS), None)
    advice = f"write {meant}" if meant else "such as SIGTERM, SIGQUIT or SIGRTMIN+3"
    yield f"{text!r} is no signal of Linux; {advice}"


# -- the app

PROTOCOLS = ("tcp", "udp", "sctp")


def check_app(app: App, place: str) -> None:
    """Refuse an app that some format could not say.

    Raises:
        RecipeError: with every problem in the details, the first in the message.
    """
    problems = tuple(_problems(app))
    if problems:
        hint = "correct `app` in container.yaml"
        what = f"app: {problems[0]}"
        raise RecipeError(what, place=place or None, hint=hint, details=problems[1:])


def _problems(app: App) -> Iterator[str]:
    if app.argv and not app.argv[0].startswith("/"):
        yield "exec must begin with an absolute path"
    if any("\0" in word for word in app.argv):
        yield "exec holds a NUL character"
    if app.health and app.health.exec and not app.health.exec[0].startswith("/"):
        yield "the healthcheck's exec must begin with an absolute path"
    for what, account in (("user", app.user), ("group", app.group)):
        if account is not None:
            yield from (f"{what}: {problem}" for problem in account_problems(account))
    if not app.working_directory.startswith("/"):
        yield f"working directory {app.working_directory!r} is not absolute"
    for name, value in app.environment:
        if not name or "=" in name or "\0" in name:
            yield f"environment: {name!r} is not a name of a variable"
        if "\0" in value:
            yield f"environment: the value of {name} holds a NUL character"
    yield from _doubles("environment", [name for name, _ in app.environment])
    yield from _port_problems(app.ports)
    yield from _volume_problems(app.volumes)
    if app.stop_signal is not None:
        yield from (f"stop signal {problem}" for problem in signal_problems(app.stop_signal))


def _port_problems(ports: tuple[Port, ...]) -> Iterator[str]:
    for port in ports:
        if not 1 <= port.number <= 65535:
            yield f"port {port.number} is not from 1 to 65535"
        if port.protocol not in PROTOCOLS:
            yield f"port {port.number}: protocol {port.protocol!r} is none of {PROTOCOLS}"
        if AC_NAME.fullmatch(port_name(port)) is None:
            yield f"port name {port.name!r} may hold a-z, 0-9 and single dashes between"
    yield from _doubles("ports", [port_name(port) for port in ports])
    yield from _doubles("ports", [f"{port.number}/{port.protocol}" for port in ports])


def _volume_problems(volumes: tuple[Volume, ...]) -> Iterator[str]:
    for volume in volumes:
        parts = volume.path.split("/")
        if not volume.path.startswith("/") or {".", ".."} & set(parts) or "\0" in volume.path:
            yield f"volume {volume.path!r} is not a plain absolute path"
        elif not any(parts):
            yield "a volume cannot be /: it would hide the whole image"
        if AC_NAME.fullmatch(volume_name(volume)) is None:
            yield f"volume name {volume.name!r} may hold a-z, 0-9 and single dashes between"
    yield from _doubles("volumes", [volume_name(volume) for volume in volumes])
    yield from _doubles("volumes", [_plain(volume.path) for volume in volumes])


def _plain(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part)


def _doubles(what: str, names: list[str]) -> Iterator[str]:
    for name in doubles(names):
        yield f"{what}: {name} occurs twice"


def port_name(port: Port) -> str:
    return port.name if port.name is not None else f"{port.number}-{port.protocol}"


def volume_name(volume: Volume) -> str:
    """As docker2aci names them, so that pod manifests written for its images fit."""
    if volume.name is not None:
        return volume.name
    return f"volume-{ac_name(volume.path)}".removesuffix("-")


def check_tree(
    program: str | None, directories: Iterable[tuple[str, str]], find: EntryAt, place: str
) -> None:
    """Refuse an image that does not hold what its manifest or config takes for granted.

    `program` is absolute, None where there is none; `directories` are what each is to people and
    its absolute path: they may be absent, since executors make them, but must not be files.
    `find` gives the entry at a path of the merged tree, for a hard link the file that it names.

    Raises:
        RecipeError: with what is wrong.
    """
    if program is not None and (problem := program_problem(program, find)):
        problem = f"the image runs {program}, but {problem}"
        hint = "correct `exec`, or add the package that brings the program"
        raise RecipeError(problem, place=place or None, hint=hint)
    for what, path in directories:
        if problem := directory_problem(path, find):
            problem = f"the {what} {path} cannot be used: {problem}"
            raise RecipeError(problem, place=place or None, hint="name a directory")


def directory_problem(path: str, find: EntryAt) -> str:
    """Why an executor cannot make or enter a directory there; empty where it can."""
    found = way(path, find)
    if found.through:
        return f"/{found.through} is a file"
    if found.end is None:
        return f"/{found.links[-1]} is a loop of links"
    entry = find(found.end) if found.end else None
    return "" if entry is None or entry.kind is Kind.DIRECTORY else f"/{found.end} is a file"


def program_problem(program: str, find: EntryAt) -> str:
    """Why the kernel would not run it with the tree as root; empty where it would."""
    found = way(program, find)
    if found.missing:
        return f"/{found.missing} does not exist in it"
    if found.end is None:
        return f"/{found.links[-1]} is a loop of links"
    entry = find(found.end)
    if entry is None or entry.kind is not Kind.FILE:
        return "that is not a file"
    return "" if entry.mode & 0o111 else "that file is not executable"
