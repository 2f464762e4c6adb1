"""`--discover=HOST/PATH[,push=True]…`: reading the option, and what it adds to the repositories.

Discovery adds places to take from, never trust, and a page never chooses where we publish:
push=True goes to the repositories of the configuration, or to a place that the option itself names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from buildit.errors import UsageError
from buildit.events import Notice, Reporter
from buildit.model.address import Address, Directory, Https, parse_address
from buildit.model.config import Repository
from buildit.remote.discovery import Discovered, Wanted, discover, parse_place
from buildit.remote.http.urls import parse_target
from buildit.remote.transport import LocationError, Transport, local_path, ssh_address

EXAMPLE = "--discover=example.com/containers,push=True"
_WORDS = ("push",)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DIRECT = ("file:", "ssh:", "https:")
_Said = tuple[str, str]
_OVER_SSH = ("no place over SSH", "write ssh://user@host/path")
_WEB = ("no web address", "write https://host/path")
_SSH = re.compile(
    r"ssh://(?:[a-z_][a-z0-9_.-]*@)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/\S*"
)


@dataclass(frozen=True, slots=True)
class Place:
    """One `--discover`: either a name to discover from, or the address of a binhost itself."""

    text: str
    wanted: Wanted | None
    address: Address | None
    push: bool


def parse_discover(text: str) -> Place:
    """`LOCATION[,key=value]…`: the comma grammar of App Container's app strings.

    A LOCATION is HOST[:PORT]/PATH, or the address of a binhost: file:///DIR, ssh://user@host/path,
    https://host/path.

    Raises:
        UsageError: it is something else.
    """
    location, *words = text.split(",")
    push = _push(text, words)
    if location.startswith(_DIRECT) or location.startswith("/"):
        return Place(text, None, _address(location), push)
    return Place(text, parse_place(location), None, push)


def _push(text: str, words: Sequence[str]) -> bool:
    said: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _WORDS:
            near = difflib.get_close_matches(key, _WORDS, 1)
            guess = f"did you mean {near[0]}=True? " if near else ""
            raise UsageError(
                f"--discover={text}: {word!r} says nothing here",
                hint=f"{guess}write {EXAMPLE}",
            )
        if key in said:
            raise UsageError(f"--discover={text}: {key} stands there twice", hint="say it once")
        said[key] = value
    value = said.get("push", "False")
    if value.lower() not in _TRUTH:
        raise UsageError(
            f"--discover={text}: push is {value!r}", hint="write push=True or push=False"
        )
    return _TRUTH[value.lower()]


def _address(location: str) -> Address:
    """The address of a binhost.

    Raises:
        UsageError: it is none.
    """
    if location.startswith("ssh:"):
        return parse_address(_checked(location, _SSH.fullmatch(location), ssh_address, _OVER_SSH))
    if location.startswith("https:"):
        fits = not any(mark in location for mark in "?#")
        return Https(_checked(location, fits, parse_target, _WEB).rstrip("/"))
    return Directory(_directory(location))


def _checked(location: str, fits: object, parse: Callable[[str], object], said: _Said) -> str:
    """The location, if it fits and can be parsed too."""
    try:
        if fits:
            parse(location)
            return location
    except LocationError as error:
        raise UsageError(f"{error.place!r} is {said[0]}: {error.reason}", hint=said[1]) from error
    raise UsageError(f"{location!r} is {said[0]}", hint=said[1])


def _directory(location: str) -> str:
    hint = "write file:///srv/binhost"
    if location.startswith("file:"):
        # RFC 8089, 2: a file: URL has neither; `#` and `?` of a name are percent-encoded
        if any(mark in location for mark in "?#"):
            raise UsageError(f"{location!r} is no directory", hint="write %3F for ?, and %23 for #")
        try:
            found = local_path(location)
        except (LocationError, ValueError) as error:
            raise UsageError(f"{location!r} is no directory", hint=hint) from error
        path = str(found)
    else:
        path = location
    if "\0" in path or path.startswith("//"):
        raise UsageError(f"{location!r} is no directory", hint=hint)
    return path


Discover = Callable[[Wanted], Discovered]
"""Ask the pages of a name."""


def located(
    configured: Sequence[Repository],
    texts: Sequence[str],
    transport: Transport | None,
    report: Reporter,
) -> tuple[Repository, ...]:
    """The repositories with the places that the options name; `transport` is None when offline.

    Raises:
        UsageError: an option is wrong, or publishes where nothing can be published to.
    """
    places = tuple(map(parse_discover, texts))

    def ask(wanted: Wanted) -> Discovered:
        if transport is None:
            return Discovered(refused=("no other machine is asked (--offline)",))
        return discover(wanted, transport)

    found = with_places(configured, places, ask, report)
    check_push(found, places)
    return found


def publishes(texts: Sequence[str]) -> bool:
    """Whether one of the options says push=True."""
    return any(parse_discover(text).push for text in texts)


def with_places(
    configured: Sequence[Repository], places: Sequence[Place], ask: Discover, report: Reporter
) -> tuple[Repository, ...]:
    """The places of the options before those of the configuration, in the order given.

    What is found nowhere is told of and passed over: the build goes on with the other places.
    """
    found: list[Repository] = []
    for place in places:
        for one in _repositories(place, ask, report):
            known = (*found, *configured)
            if one.download not in (other.download for other in known):
                found.append(replace(one, name=_free(one.name, known)))
    return (*found, *configured)


def _repositories(place: Place, ask: Discover, report: Reporter) -> Iterator[Repository]:
    if place.wanted is None:
        takes = place.push and not isinstance(place.address, Https)
        name = _name(str(place.address))
        yield Repository(name, place.address, place.address if takes else None)
        return
    result = ask(place.wanted)
    for url in result.binhosts:
        report(Notice(f"discovered a binhost for {place.wanted.name}: {url}"))
        yield Repository(_name(url), Https(url), None)
    if not result.binhosts:
        where = place.text.partition(",")[0]
        report(Notice(f"no binhost is discovered at {where}", warning=True))
        for reason in result.refused:
            report(Notice(f"  {reason}"))


def check_push(repositories: Sequence[Repository], places: Sequence[Place]) -> bool:
    """Whether the options ask to publish.

    Raises:
        UsageError: they do, and there is nowhere to publish to.
    """
    asked = [place for place in places if place.push]
    if asked and not any(_shares(one) for one in repositories):
        raise UsageError(
            f"--discover={asked[0].text} publishes, and no place to publish to is configured",
            hint="in .buildit-config.yaml: repository: {name: mine, upload-type: ssh, upload-path: "
            "user@host/path, download-type: https, download-path: host/path}",
            details=("a discovered page says where to take from, never where to publish",),
        )
    return bool(asked)


def _shares(one: Repository) -> bool:
    """Whether publishing there lets others find it: the directory that one's own store keeps beside
    itself, as the shipped settings have it, does not."""
    return one.upload is not None and not (one.unsigned and one.upload == one.download)


def _name(address: str) -> str:
    """What messages call a place that the configuration does not name."""
    host = urlsplit(address).hostname if "://" in address else ""
    return host or address.rstrip("/").rpartition("/")[2] or "place"


def _free(name: str, known: Sequence[Repository]) -> str:
    taken = {one.name for one in known}
    names = (name, *(f"{name}-{number}" for number in range(2, len(taken) + 3)))
    return next(one for one in names if one not in taken)
