"""A Flockport recipe as steps: `FROM ENV COPY RUN PORT VOLUME DBASE` (FORMATS 4.1).

No reference of the format exists: the keywords are published, how they are written is as in a
Dockerfile. A line that ends in a backslash goes on, `#` begins a comment line, and a RUN may hold
here-documents. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from buildit.errors import RecipeError
from buildit.model.words import guess
from buildit.recipe.ways.aptlines import command_step
from buildit.recipe.ways.dockerfile.words import ExpandedText, ExpansionError, expand
from buildit.recipe.ways.find import Foreign, Translated
from buildit.recipe.ways.imagenames import from_steps, is_suite
from buildit.recipe.ways.nodes import list_node, map_node, step_node
from buildit.recipe.yaml.node import Node, Place, Sequence

FLOCKPORT_KEYWORDS = ("FROM", "ENV", "COPY", "RUN", "PORT", "VOLUME", "DBASE")
"""What a line may begin with, in capitals or not."""

_NOT_HERE: Mapping[str, str] = {
    "CMD": "what starts is the init of the base; install a service with RUN",
    "ENTRYPOINT": "what starts is the init of the base; install a service with RUN",
    "EXPOSE": "write PORT [HOST:]CONTAINER[/PROTOCOL]",
    "ADD": "write COPY for files of the directory, and fetch others in a RUN",
    "WORKDIR": "write `cd DIRECTORY && …` in the RUN",
    "USER": "write `su USER -c …` in the RUN",
    "ARG": "write ENV NAME=VALUE",
}
"""Words of a Dockerfile, and what is written in the place of each."""

_ENGINES: Mapping[str, str] = {
    "mysql": "mariadb",
    "mariadb": "mariadb",
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "pgsql": "postgresql",
}
"""Databases by what a recipe calls them; Debian's MySQL is MariaDB."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""That of a base which says none (podman's and docker's)."""

_DATABASE_HOST = "database"
"""Where a database of its own is found."""

_HERE = re.compile(r"(?<!<)<<(-?)(['\"]?)([A-Za-z_][A-Za-z0-9_]*)\2")
_PORT = re.compile(r"(?:([0-9]{1,5}):)?([0-9]{1,5})(?:/([A-Za-z]+))?")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class FlockportLine:
    """One instruction: its keyword in capitals and its text, with the line (from 1) of the
    keyword."""

    keyword: str
    text: str
    place: Place

    def error(self, message: str, hint: str | None = None) -> RecipeError:
        return RecipeError(message, place=str(self.place), hint=hint)


@dataclass(slots=True)
class _Recipe:
    """What was read so far; `ports` are those of the container, `hosts` of the machine, each with
    the line that says it. `pending`: a variable of the base was asked for before it is known."""

    foreign: Foreign
    steps: list[Node] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    ports: dict[str, FlockportLine] = field(default_factory=dict)
    hosts: dict[str, FlockportLine] = field(default_factory=dict)
    volumes: dict[str, FlockportLine] = field(default_factory=dict)
    databases: dict[str, FlockportLine] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    pending: bool = False
    over_suite: bool = False

    def add(self, line: FlockportLine, key: str, value: Node) -> None:
        self.steps.append(step_node(line.place, key, value))

    def say(self, line: FlockportLine, key: str, values: Mapping[str, str | Node]) -> None:
        self.add(line, key, map_node(line.place, values))

    def expanded(self, line: FlockportLine, text: str) -> ExpandedText:
        """A text with the variables of ENV above and of the base.

        Raises:
            RecipeError: it is malformed, or asks for what is not set.
        """
        base = self.foreign.base
        inherited = dict(base.app.environment) if base is not None else {}
        try:
            found = expand(text, {"PATH": _PATH, **inherited, **self.environment})
        except ExpansionError as error:
            raise line.error(str(error), error.hint or None) from error
        self.pending = self.pending or (base is None and "$" in text)
        if found.missing and base is not None:
            name = min(found.missing)
            hint = f"{guess(name, self.environment)}say it before: ENV {name}=…"
            raise line.error(f"{name!r} is not set by an ENV above", hint)
        return found

    def words(self, line: FlockportLine) -> tuple[str, ...]:
        """The words of a line. Raises RecipeError as `expanded`, or where there is none."""
        words = self.expanded(line, line.text).words
        if not words:
            raise line.error(f"{line.keyword} says nothing", _FORMS[line.keyword])
        return words


def read_flockport(foreign: Foreign) -> Translated:
    """The steps of a Flockport recipe.

    Raises:
        RecipeError: a line is wrong.
        UsageError: the command line asks for what a recipe has not.
    """
    foreign.refuse_stage("a Flockport recipe")
    lines = tuple(flockport_lines(foreign.text, foreign.file))
    if not lines:
        place = str(Place(foreign.file, 1, 1))
        raise RecipeError("the recipe is empty", place=place, hint="begin with: FROM debian:12")
    if lines[0].keyword != "FROM":
        hint = "begin with the system that it is built on: FROM debian:12"
        raise lines[0].error(f"the recipe begins with {lines[0].keyword}, not with FROM", hint)
    recipe = _Recipe(foreign)
    for line in lines:
        if not line.text:
            raise line.error(f"{line.keyword} says nothing", _FORMS[line.keyword])
        _READ[line.keyword](recipe, line)
    foreign.refuse_unused(recipe.environment, "ENV")
    for key, found in (("ports", recipe.ports), ("volumes", recipe.volumes)):
        if found:
            line = next(iter(found.values()))
            recipe.add(line, key, list_node(line.place, found))
    steps = Sequence(tuple(recipe.steps), lines[0].place)
    return Translated(steps, recipe.pending, tuple(recipe.remarks))


# -- lines


def flockport_lines(text: str, file: str) -> Iterator[FlockportLine]:
    """The instructions of a recipe.

    Raises:
        RecipeError: a line begins with no keyword, or a here-document does not end.
    """
    rows = text.split("\n")
    at = 0
    while at < len(rows):
        row = rows[at]
        first = at
        at += 1
        if not row.strip() or row.lstrip().startswith("#"):
            continue
        keyword, _, rest = row.strip().partition(" ")
        keyword, tab, after = keyword.partition("\t")
        rest = f"{after} {rest}".strip() if tab else rest.strip()
        place = Place(file, first + 1, len(row) - len(row.lstrip()) + 1)
        _check_keyword(keyword, place)
        parts = [rest]
        while parts[-1].endswith("\\") and at < len(rows):
            if not rows[at].lstrip().startswith("#"):  # a comment between lines that go on
                parts.append(rows[at].rstrip())
            at += 1
        line = FlockportLine(keyword.upper(), "\n".join(parts), place)
        if line.keyword == "RUN":
            text_of, at = _with_documents(line, rows, at)
        else:
            text_of = re.sub(r"\\\n\s*", " ", line.text).removesuffix("\\").strip()
        yield FlockportLine(line.keyword, text_of, place)


def _check_keyword(keyword: str, place: Place) -> None:
    upper = keyword.upper()
    if upper in FLOCKPORT_KEYWORDS:
        return
    hint = _NOT_HERE.get(upper)
    if hint is None:
        known = ", ".join(FLOCKPORT_KEYWORDS)
        hint = f"{guess(upper, FLOCKPORT_KEYWORDS)}a line begins with {known}, or #"
    raise RecipeError(f"unknown keyword {keyword[:40]!r}", place=str(place), hint=hint)


def _with_documents(line: FlockportLine, rows: list[str], at: int) -> tuple[str, int]:
    """The script of a RUN, with the here-documents that it begins, and the row behind them.

    Raises:
        RecipeError: one does not end.
    """
    head = line.text
    found = list(_HERE.finditer(head))
    bodies: list[str] = []
    for one in found:
        begin = at
        while at < len(rows) and (rows[at].lstrip("\t") if one[1] else rows[at]) != one[3]:
            at += 1
        if at == len(rows):
            message = f"the here-document {one[3]} does not end"
            raise line.error(message, f"write {one[3]} alone on the line behind it")
        bodies.append("".join(f"{row}\n" for row in rows[begin : at + 1]))
        at += 1
    if len(found) == 1 and found[0][0] == head.strip():  # `RUN <<EOF`: the document is the script
        return bodies[0].rpartition("\n")[0].rpartition("\n")[0], at
    return f"{head}\n{''.join(bodies)}".rstrip("\n") if bodies else head, at


# -- keywords


def _from(recipe: _Recipe, line: FlockportLine) -> None:
    if recipe.steps:
        message = "a second FROM: a recipe is one system"
        raise line.error(message, "write it as a Dockerfile where it has several stages")
    words = recipe.words(line)
    if len(words) != 1:
        raise line.error("FROM takes one name", _FORMS["FROM"])
    images = dict(recipe.foreign.wanted.images)
    recipe.steps += from_steps(line.place, words[0], images, line.error)
    recipe.over_suite = is_suite(words[0], images)


def _env(recipe: _Recipe, line: FlockportLine) -> None:
    first = line.text.split(None, 1)
    if "=" not in first[0]:
        if len(first) < 2:
            raise line.error(f"ENV gives {first[0]!r} no value", _FORMS["ENV"])
        pairs = [(first[0], recipe.expanded(line, first[1]).text)]
    else:
        pairs = []
        for word in recipe.words(line):
            name, sign, value = word.partition("=")
            if not sign:
                message = f"ENV gives {word!r} no value"
                raise line.error(message, 'put a value with blanks into quotes: ENV K="a b"')
            pairs.append((name, value))
    for name, _ in pairs:
        if not _NAME.fullmatch(name):
            raise line.error(f"{name!r} cannot be the name of a variable", _FORMS["ENV"])
    given = recipe.foreign.given()
    values = {name: given.get(name, value) for name, value in pairs}
    recipe.environment |= values
    recipe.say(line, "env", dict(values))


def _copy(recipe: _Recipe, line: FlockportLine) -> None:
    *sources, dest = recipe.words(line)
    if not sources:
        raise line.error("COPY takes what is copied, and where to", _FORMS["COPY"])
    if option := next((one for one in sources if one.startswith("--")), None):
        raise line.error(f"COPY takes no {option}", "write it as a Dockerfile where that matters")
    if not dest.startswith("/"):
        dest = f"/{dest.removeprefix('./')}"
    if len(sources) > 1 and not dest.endswith("/"):
        message = f"several files are copied to {dest!r}"
        raise line.error(message, f"it is a directory then: write {dest}/")
    recipe.say(line, "sync", {"src": list_node(line.place, sources), "dest": dest})


def _run(recipe: _Recipe, line: FlockportLine) -> None:
    suite = recipe.over_suite
    recipe.steps.append(command_step(line.place, line.text, recipe.environment, over_suite=suite))


def _port(recipe: _Recipe, line: FlockportLine) -> None:
    for word in recipe.words(line):
        match = _PORT.fullmatch(word)
        host, port, protocol = match.groups() if match else ("", "", "")
        protocol = (protocol or "tcp").lower()
        numbers = [one for one in (host, port) if one is not None]
        if match is None or not all(one.isdigit() and 0 < int(one) < 65536 for one in numbers):
            raise line.error(f"{word!r} is no port", _FORMS["PORT"])
        if protocol not in ("tcp", "udp", "sctp"):
            hint = f"{guess(protocol, ('tcp', 'udp', 'sctp'))}protocols: tcp, udp, sctp"
            raise line.error(f"there is no protocol {protocol!r}", hint)
        inside = f"{int(port)}/{protocol}"
        _once(recipe.ports, inside, line, f"the port {inside}")
        if host:
            outside = f"{int(host)}/{protocol}"
            _once(recipe.hosts, outside, line, f"the port {outside} of the machine")
            told = f"{line.place.file}:{line.place.line}: an image cannot say which port of the "
            told += f"machine leads to {inside}: start it so, as with `podman run -p {word}`"
            recipe.remarks.append(told)


def _volume(recipe: _Recipe, line: FlockportLine) -> None:
    for word in recipe.words(line):
        if not word.startswith("/"):
            message = f"expected an absolute path, found {word!r}"
            raise line.error(message, _FORMS["VOLUME"])
        _once(recipe.volumes, word.rstrip("/") or "/", line, f"the volume {word}")


def _dbase(recipe: _Recipe, line: FlockportLine) -> None:
    words = recipe.words(line)
    engine = _ENGINES.get(words[0].lower())
    if engine is None:
        hint = f"{guess(words[0], _ENGINES)}{_FORMS['DBASE']}"
        raise line.error(f"there is no database {words[0]!r}", hint)
    own = words[-1].lower() == "own" and len(words) > 1
    names = words[1:-1] if own else words[1:]
    if len(names) > 1:
        raise line.error("DBASE takes an engine and a name", _FORMS["DBASE"])
    if recipe.databases:
        first = next(iter(recipe.databases.values())).place
        raise line.error("a second database", f"one container has one; the first is at {first}")
    recipe.databases[engine] = line
    value = {"engine": engine, **({"name": names[0]} if names else {})}
    if own:
        value |= {"password": "db-password", "host": _DATABASE_HOST}
        told = (
            f"{line.place.file}:{line.place.line}: the database is a container of its own, which "
        )
        told += f"is found as {_DATABASE_HOST!r}: write one, and link both in a stack.yaml "
        recipe.remarks.append(f"{told}(docs/databases.md)")
    recipe.say(line, "database", value)


def _once(found: dict[str, FlockportLine], name: str, line: FlockportLine, what: str) -> None:
    if name in found:
        message = f"{what} is there twice"
        raise line.error(message, f"leave one out; the first is at {found[name].place}")
    found[name] = line


_READ: Mapping[str, Callable[[_Recipe, FlockportLine], None]] = {
    "FROM": _from,
    "ENV": _env,
    "COPY": _copy,
    "RUN": _run,
    "PORT": _port,
    "VOLUME": _volume,
    "DBASE": _dbase,
}

_FORMS: Mapping[str, str] = {
    "FROM": "write FROM NAME[:TAG], such as FROM debian:12",
    "ENV": "write ENV NAME=VALUE …, or ENV NAME VALUE",
    "COPY": "write COPY SOURCE… DESTINATION",
    "RUN": "write RUN COMMAND; a line that ends in \\ goes on",
    "PORT": "write PORT [HOST:]CONTAINER[/PROTOCOL]",
    "VOLUME": "write VOLUME /PATH",
    "DBASE": "write DBASE mysql|postgresql [NAME] [own]",
}
"""How each is written."""
