"""App Container meta discovery of binhosts (appc spec 0.8.11 discovery.md; FORMATS 1.4), and
`--discover=HOST/PATH[,push=True]…`, which adds what is found to the configuration.

What is found are places, never trust: what is taken from them is judged as from any other place,
and a page never chooses where we publish: push=True goes to the repositories of the configuration,
or to a place that the option itself names. `discover` alone asks servers, within a page budget.

The `<meta>` tags of a page are read in one pass: the library's parser takes hours for a hostile
page of a megabyte. No byte is looked at twice: what is never closed ends the page, as in browsers
(HTML, 13.2.5 Tokenization). Whatever else a page is has no meaning.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from itertools import islice
from urllib.parse import urlsplit

from buildit.errors import UsageError
from buildit.events import Notice, Reporter
from buildit.model.config import Address, Directory, Https, Repository, parse_address
from buildit.remote.transport import (
    LocationError,
    Transport,
    is_loopback,
    local_path,
    parse_target,
    read_small,
    ssh_address,
)

_LONGEST = 4096
"""Characters of an attribute that is looked at; a name or a URL has fewer."""

_ELEMENT = re.compile(r"[A-Za-z][^\s/>]*+")
_ATTRIBUTE = re.compile(
    r"""[\s/]*+(?P<name>[^\s/>][^\s/>=]*+)(?:\s*+=\s*+(?:"(?P<double>[^"]*+)"|'(?P<single>[^']*+)'|"""
    r"""(?P<bare>[^\s>"'][^\s>]*+)|(?P<open>["'])|))?+"""
)
_END = re.compile(r"[\s/]*+>")
_COMMENT_END = re.compile(r"--!?>")
_OPAQUE = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE)
    for name in ("script", "style", "textarea", "title", "noframes", "iframe", "xmp")
}
"""Elements whose content is text, by what ends them."""


def metas(text: str) -> Iterator[Mapping[str, str]]:
    """The attributes of each meta tag, in the order of the page; of one written twice the first
    counts (13.2.5.33). Tags in comments, in scripts and in other text are none."""
    at = 0
    while (at := text.find("<", at)) >= 0:
        if text.startswith("<!--", at):
            found = _COMMENT_END.search(text, at + 2)
            after = found.end() if found else -1
        elif text[at + 1 : at + 2] in ("!", "?"):
            after = text.find(">", at) + 1 or -1
        else:
            closing = text.startswith("</", at)
            name = _ELEMENT.match(text, at + 1 + closing)
            if name is None:
                at += 1
                continue
            said, after = _attributes(text, name.end())
            kind = "" if closing else name[0].lower()
            if after >= 0 and kind == "meta":
                yield said
            if after >= 0 and kind in _OPAQUE:
                end = _OPAQUE[kind].search(text, after)
                after = end.start() if end else -1
        if after < 0:
            return
        at = after


def _attributes(text: str, at: int) -> tuple[dict[str, str], int]:
    """The attributes of a tag from behind its name, and where it ends; -1 where it does not."""
    said: dict[str, str] = {}
    while (end := _END.match(text, at)) is None:
        found = _ATTRIBUTE.match(text, at)
        if found is None or found["open"]:
            return {}, -1
        value = found["double"] or found["single"] or found["bare"] or ""
        if len(value) <= _LONGEST:
            said.setdefault(found["name"].lower(), html.unescape(value))
        at = found.end()
    return said, end.end()


KINDS = ("ac-discovery", "ac-discovery-pubkeys", "buildit-binhost")
"""App Container's tags, which are not for us, and our own: `content="PREFIX URL"`, the URL of a
binhost for names that begin with PREFIX."""

PAGE_LIMIT = 1 << 20
"""Bytes of a page; ours have far fewer."""
_DEEPEST = 16
"""Parts of a name: each is one more page to ask for."""
TAGS = 256
"""Most of our tags of one page that count."""

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PLACE = re.compile(
    rf"(?P<host>{_LABEL}(?:\.{_LABEL})*)(?::(?P<port>[0-9]{{1,5}}))?(?P<path>(?:/[A-Za-z0-9._~-]+)*)/?"
)
_VARIABLE = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Tag:
    """One meta tag: its kind, the prefix of the names that it is for, and a template or URL."""

    kind: str
    prefix: str
    target: str


@dataclass(frozen=True, slots=True)
class Sought:
    """What is looked for: a host-qualified name. `port` is not part of the name: App Container
    identifiers cannot carry one."""

    name: str
    port: int | None = None

    @property
    def authority(self) -> str:
        host = self.name.partition("/")[0]
        return host if self.port is None else f"{host}:{self.port}"


def parse_place(text: str) -> Sought:
    """`HOST[:PORT][/PATH]` as a user writes it.

    Raises:
        UsageError: it is something else.
    """
    found = _PLACE.fullmatch(text)
    if found is None or any(part in (".", "..") for part in text.split("/")):
        hint = "write HOST/PATH, such as example.com/containers, without a scheme"
        raise UsageError(f"{text!r} is no place to discover from", hint=hint)
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"{text!r} has no possible port", hint="ports are 1 to 65535")
    name = found["host"].lower() + found["path"]
    if name.count("/") >= _DEEPEST:
        hint = "begin further up: HOST/PATH"
        raise UsageError(f"{text!r} has more than {_DEEPEST} parts", hint=hint)
    return Sought(name, port)


def parse_page(page: bytes) -> tuple[Tag, ...]:
    """The discovery tags of a page, in its order; whatever else it is has no meaning."""
    return tuple(islice(_tags(page.decode("utf-8", "replace")), TAGS))


def _tags(text: str) -> Iterator[Tag]:
    for said in metas(text):
        kind = said.get("name", "")
        prefix, _, target = said.get("content", "").strip().partition(" ")
        if kind in KINDS and prefix and target.strip():
            yield Tag(kind, prefix, target.strip())


def pages_of(wanted: Sought) -> Iterator[str]:
    """The pages to ask for, from the whole name up to the bare host."""
    parts = wanted.name.split("/")[1:]
    for count in range(len(parts), -1, -1):
        path = "/".join(["", *parts[:count]])
        yield f"https://{wanted.authority}{path}?ac-discovery=1"


def template_url(template: str, values: Mapping[str, str]) -> str | None:
    """A template with its variables replaced; None where one is unknown, as the spec wants."""
    if any(name not in values for name in _VARIABLE.findall(template)):
        return None
    url = _VARIABLE.sub(lambda found: values[found[1]], template)
    return None if "{" in url or "}" in url else url


def targets_of(tags: Sequence[Tag], kind: str, name: str) -> tuple[str, ...]:
    """Targets of the tags of a kind whose prefix the name begins with."""
    found = (tag.target for tag in tags if tag.kind == kind and name.startswith(tag.prefix))
    return tuple(dict.fromkeys(found))


def _refusal(url: str, wanted: Sought) -> str | None:
    """Why a page may not send us to `url`; None where it may.

    A page chooses among web servers only: never a file or a program of this machine, nothing
    without TLS, and no server of this machine unless the page is one (THREATS F3).
    """
    if "?" in url or "#" in url:  # what lies there is found by its path
        return f"{url}: no root of a binhost has a query or a fragment"
    try:
        target = parse_target(url)
    except LocationError as error:
        return f"{error.place}: {error.reason}"
    if target.scheme != "https":
        return f"{url}: discovery leads to https only"
    if is_loopback(target.host) and not is_loopback(wanted.name.partition("/")[0]):
        return f"{url}: leads to this machine"
    return None


def discover(wanted: Sought, transport: Transport) -> tuple[list[str], list[str]]:
    """The binhosts for a name in the order in which to try them, and why pages were of no use:
    its pages are asked, each at most once, until one names a binhost for it."""
    refused: list[str] = []
    for url in pages_of(wanted):
        try:
            tags = parse_page(read_small(transport, url, PAGE_LIMIT))
        except LocationError as error:
            refused.append(f"{url}: {error.reason}")
            if error.unreachable:
                break  # the same host would be asked again, and no path makes it answer
            continue
        if targets := targets_of(tags, KINDS[-1], wanted.name):
            named = (template_url(target, {"name": wanted.name}) for target in targets)
            roots = dict.fromkeys(root.rstrip("/") for root in named if root is not None)
            reasons = {root: _refusal(root, wanted) for root in roots}
            refused += [reason for reason in reasons.values() if reason is not None]
            return [root for root, reason in reasons.items() if reason is None], refused
        prefixes = sorted({tag.prefix for tag in tags if tag.kind == KINDS[-1]})[:3]
        if not tags:
            refused.append(f"{url}: it has no discovery tag")
        elif prefixes:
            refused.append(f"{url}: its binhosts are for {', '.join(prefixes)}, and what is below")
    return [], refused


_EXAMPLE = "--discover=example.com/containers,push=True"
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DIRECT = ("/", "file:", "ssh:", "https:", "oci:")
_OVER_SSH = ("no place over SSH", "write ssh://user@host/path")
_WEB = ("no web address", "write https://host/path")
_SSH = re.compile(
    r"ssh://(?:[a-z_][a-z0-9_.-]*@)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/\S*"
)
_PATH_ALONE = re.compile(r"[^?#]*")


@dataclass(frozen=True, slots=True)
class DiscoverOption:
    """One `--discover`: either a name to discover from, or the address of a binhost itself."""

    text: str
    wanted: Sought | None
    address: Address | None
    push: bool


def parse_discover(text: str) -> DiscoverOption:
    """`LOCATION[,key=value]…`: the comma grammar of App Container's app strings.

    A LOCATION is HOST[:PORT]/PATH, or the address of a binhost: file:///DIR, ssh://user@host/path,
    https://host/path.

    Raises:
        UsageError: it is something else.
    """
    location, *words = text.split(",")
    values = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key != "push":
            guess = "did you mean push=True? " if get_close_matches(key, ["push"]) else ""
            hint = f"{guess}write {_EXAMPLE}"
            raise UsageError(f"--discover={text}: {word!r} says nothing here", hint=hint)
        values.append(value)
    if len(values) > 1:
        raise UsageError(f"--discover={text}: push stands there twice", hint="say it once")
    said = values[0] if values else "False"
    push = _TRUTH.get(said.lower())
    if push is None:
        hint = "write push=True or push=False"
        raise UsageError(f"--discover={text}: push is {said!r}", hint=hint)
    if location.startswith(_DIRECT):
        return DiscoverOption(text, None, _address(location), push)
    return DiscoverOption(text, parse_place(location), None, push)


def _address(location: str) -> Address:
    """The address of a binhost.

    Raises:
        UsageError: it is none.
    """
    if location.startswith(("/", "file:")):
        return Directory(_directory(location))
    if location.startswith("oci:"):
        try:
            return parse_address(location)
        except UsageError:
            hint = "write oci://registry.example.org/name"
            raise UsageError(f"{location!r} is no repository of a registry", hint=hint) from None
    secure = location.startswith("ssh:")
    said, hint = _OVER_SSH if secure else _WEB
    if not (_SSH if secure else _PATH_ALONE).fullmatch(location):
        raise UsageError(f"{location!r} is {said}", hint=hint)
    try:
        (ssh_address if secure else parse_target)(location)
    except LocationError as error:
        raise UsageError(f"{error.place!r} is {said}: {error.reason}", hint=hint) from error
    return parse_address(location) if secure else Https(location.rstrip("/"))


def _directory(location: str) -> str:
    hint, path = "write file:///srv/binhost", location
    if location.startswith("file:"):
        # RFC 8089, 2: a file: URL has neither; `#` and `?` of a name are percent-encoded
        if not _PATH_ALONE.fullmatch(location):
            raise UsageError(f"{location!r} is no directory", hint="write %3F for ?, and %23 for #")
        try:
            path = str(local_path(location))
        except (LocationError, ValueError) as error:
            raise UsageError(f"{location!r} is no directory", hint=hint) from error
    if "\0" in path or path.startswith("//"):
        raise UsageError(f"{location!r} is no directory", hint=hint)
    return path


def publishes(texts: Sequence[str]) -> bool:
    """Whether one of the options says push=True."""
    return any(parse_discover(text).push for text in texts)


def with_discovered(
    configured: Sequence[Repository],
    texts: Sequence[str],
    transport: Transport | None,
    report: Reporter,
) -> tuple[Repository, ...]:
    """The places that the options name before the repositories, in the order given; `transport` is
    None when offline. What is found nowhere is told of and passed over.

    Raises:
        UsageError: an option is wrong, or publishes where nothing can be published to.
    """
    places = [parse_discover(text) for text in texts]
    found: list[Repository] = []
    for place in places:
        for one in _found(place, transport, report):
            known = (*found, *configured)
            if one.download not in (other.download for other in known):
                found.append(replace(one, name=_free(one.name, known)))
    known = (*found, *configured)
    asked = [place.text for place in places if place.push]
    if asked and not any(_shares(one) for one in known):
        reason = f"--discover={asked[0]} publishes, and no place to publish to is configured"
        hint = (
            "in .buildit-config.yaml: repository: {name: mine, upload-type: ssh, upload-path: "
            "user@host/path, download-type: https, download-path: host/path}"
        )
        details = ("a discovered page says where to take from, never where to publish",)
        raise UsageError(reason, hint=hint, details=details)
    return known


def _found(
    place: DiscoverOption, transport: Transport | None, report: Reporter
) -> Iterator[Repository]:
    if place.wanted is None:
        takes = place.push and not isinstance(place.address, Https)
        name = _name(str(place.address))
        yield Repository(name, place.address, place.address if takes else None)
        return
    offline = ["no other machine is asked (--offline)"]
    binhosts, refused = discover(place.wanted, transport) if transport else ([], offline)
    for url in binhosts:
        report(Notice(f"discovered a binhost for {place.wanted.name}: {url}"))
        yield Repository(_name(url), Https(url), None)
    if not binhosts:
        where = place.text.partition(",")[0]
        report(Notice(f"no binhost is discovered at {where}", warning=True))
        for reason in refused:
            report(Notice(f"  {reason}"))


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
