"""App Container meta discovery and simple discovery (appc spec 0.8.11 discovery.md; FORMATS 1.4),
and `--discover=HOST/PATH[,push=True]…`, which adds what is found to the configuration.

What is found are places, never trust: what is taken from them is judged as from any other place,
and a page never chooses where we publish: push=True goes to the repositories of the configuration,
or to a place that the option itself names. `discover` alone asks servers, within a page budget.

The `<meta>` tags of a page are read in one pass: the library's parser takes hours for a hostile
page of a megabyte. No byte is looked at twice: what is never closed ends the page, as in browsers
(HTML, 13.2.5 Tokenization). Whatever else a page is has no meaning.
"""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from urllib.parse import urlsplit

from buildit.errors import UsageError
from buildit.events import Notice, Reporter
from buildit.model.config import Address, Directory, Https, Repository, parse_address
from buildit.remote.http.urls import is_loopback, parse_target
from buildit.remote.transport import LocationError, Transport, local_path, read_small, ssh_address

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


ENDPOINT = "ac-discovery"
PUBKEYS = "ac-discovery-pubkeys"
BINHOST = "buildit-binhost"
"""Our own tag: `content="PREFIX URL"`, the URL of a binhost for names that begin with PREFIX."""

EXTENSIONS = ("aci", "aci.asc")
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
    """What is looked for: a host-qualified name, and labels (`version`, `os`, `arch`, …).

    `port` is not part of the name: App Container identifiers cannot carry one.
    """

    name: str
    port: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.name.partition("/")[0]

    @property
    def authority(self) -> str:
        return self.host if self.port is None else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """Where an image may be, and where its signature."""

    aci: str
    asc: str


@dataclass(frozen=True, slots=True)
class Discovered:
    """Places in the order in which to try them; `refused` says why pages were of no use."""

    images: tuple[ImagePlace, ...] = ()
    pubkeys: tuple[str, ...] = ()
    binhosts: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


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
        raise UsageError(
            f"{text!r} has more than {_DEEPEST} parts", hint="begin further up: HOST/PATH"
        )
    return Sought(name, port)


def parse_page(page: bytes) -> tuple[Tag, ...]:
    """The discovery tags of a page, in its order; whatever else it is has no meaning."""
    return tuple(islice(_tags(page.decode("utf-8", "replace")), TAGS))


def _tags(text: str) -> Iterator[Tag]:
    for said in metas(text):
        kind = said.get("name", "")
        prefix, _, target = said.get("content", "").strip().partition(" ")
        if kind in (ENDPOINT, PUBKEYS, BINHOST) and prefix and target.strip():
            yield Tag(kind, prefix, target.strip())


def pages_of(wanted: Sought) -> Iterator[str]:
    """The pages to ask for, from the whole name up to the bare host."""
    parts = wanted.name.split("/")[1:]
    for count in range(len(parts), -1, -1):
        path = "/".join(["", *parts[:count]])
        yield f"https://{wanted.authority}{path}?ac-discovery=1"


def template_url(template: str, wanted: Sought, ext: str) -> str | None:
    """A template with its variables replaced; None where one is unknown, as the spec wants."""
    values = {**wanted.labels, "name": wanted.name, "ext": ext}
    if any(name not in values for name in _VARIABLE.findall(template)):
        return None
    url = _VARIABLE.sub(lambda found: values[found[1]], template)
    return None if "{" in url or "}" in url else url


def targets_of(tags: tuple[Tag, ...], kind: str, wanted: Sought) -> tuple[str, ...]:
    """Targets of the tags of a kind whose prefix the name begins with."""
    found = (t.target for t in tags if t.kind == kind and wanted.name.startswith(t.prefix))
    return tuple(dict.fromkeys(found))


def images(tags: tuple[Tag, ...], wanted: Sought) -> tuple[ImagePlace, ...]:
    """Where the matching templates say that the image is."""
    found = []
    for template in targets_of(tags, ENDPOINT, wanted):
        aci, asc = (template_url(template, wanted, ext) for ext in EXTENSIONS)
        if aci is not None and asc is not None:
            found.append(ImagePlace(aci, asc))
    return tuple(found)


def simple(wanted: Sought) -> ImagePlace | None:
    """Where simple discovery (spec 0.6 and 0.7) says that the image is; None without labels."""
    path = wanted.name.partition("/")[2]
    parts = [path, *(wanted.labels.get(name, "") for name in ("version", "os", "arch"))]
    stem = f"https://{wanted.authority}/{'-'.join(parts)}"
    return ImagePlace(f"{stem}.aci", f"{stem}.aci.asc") if all(parts) else None


def binhosts(tags: tuple[Tag, ...], wanted: Sought) -> tuple[str, ...]:
    """The URLs that our own tag names, without a slash at the end."""
    found = (template_url(target, wanted, "") for target in targets_of(tags, BINHOST, wanted))
    return tuple(dict.fromkeys(url.rstrip("/") for url in found if url is not None))


def refusal(url: str, wanted: Sought) -> str | None:
    """Why a page may not send us to `url`; None where it may.

    A page chooses among web servers only: never a file or a program of this machine, nothing
    without TLS, and no server of this machine unless the page is one (THREATS F3).
    """
    try:
        target = parse_target(url)
    except LocationError as error:
        return f"{error.place}: {error.reason}"
    if target.scheme != "https":
        return f"{url}: discovery leads to https only"
    if is_loopback(target.host) and not is_loopback(wanted.host):
        return f"{url}: leads to this machine"
    return None


def discover(wanted: Sought, transport: Transport) -> Discovered:
    """Ask the pages of a name, each at most once, until every kind of tag was found or none can be.

    Images and public keys are walked independently, as the spec says; so are binhosts. A page that
    is not served, or has no tag of a kind, is passed over for that kind.
    """
    found: dict[str, tuple[Tag, ...]] = {}
    refused: list[str] = []
    for url in pages_of(wanted):
        try:
            tags = parse_page(read_small(transport, url, PAGE_LIMIT))
        except LocationError as error:
            refused.append(f"{url}: {error.reason}")
            if error.unreachable:
                break  # the same host would be asked again, and no path makes it answer
            continue
        kinds = [kind for kind in (ENDPOINT, PUBKEYS, BINHOST) if kind not in found]
        present = {kind: tuple(t for t in tags if t.kind == kind) for kind in kinds}
        useful = {tag.kind for tag in tags if wanted.name.startswith(tag.prefix)}
        found |= {kind: some for kind, some in present.items() if kind in useful}
        if not any(present.values()):
            refused.append(f"{url}: it has no discovery tag")
        elif present.get(BINHOST) and BINHOST not in found:
            prefixes = sorted({tag.prefix for tag in present[BINHOST]})[:3]
            refused.append(f"{url}: its binhosts are for {', '.join(prefixes)}, and what is below")
        if len(found) == len((ENDPOINT, PUBKEYS, BINHOST)):
            break
    return _checked(found, wanted, refused)


def _checked(
    found: Mapping[str, tuple[Tag, ...]], wanted: Sought, refused: list[str]
) -> Discovered:
    def allowed(urls: tuple[str, ...]) -> tuple[str, ...]:
        reasons = {url: refusal(url, wanted) for url in urls}
        refused.extend(reason for reason in reasons.values() if reason is not None)
        return tuple(url for url, reason in reasons.items() if reason is None)

    def rooted(urls: tuple[str, ...]) -> tuple[str, ...]:
        # What lies there is found by its path: a query or a fragment could not be added to.
        odd = [url for url in urls if "?" in url or "#" in url]
        refused.extend(f"{url}: no root of a binhost has a query or a fragment" for url in odd)
        return tuple(url for url in urls if url not in odd)

    candidates = (simple(wanted), *images(found.get(ENDPOINT, ()), wanted))
    good = [one for one in candidates if one and len(allowed((one.aci, one.asc))) == 2]
    pubkeys = allowed(targets_of(found.get(PUBKEYS, ()), PUBKEYS, wanted))
    roots = allowed(rooted(binhosts(found.get(BINHOST, ()), wanted)))
    return Discovered(tuple(good), pubkeys, roots, tuple(refused))


EXAMPLE = "--discover=example.com/containers,push=True"
_WORDS = ("push",)
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_DIRECT = ("/", "file:", "ssh:", "https:")
_OVER_SSH = ("no place over SSH", "write ssh://user@host/path")
_WEB = ("no web address", "write https://host/path")
_SSH = re.compile(
    r"ssh://(?:[a-z_][a-z0-9_.-]*@)?[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?/\S*"
)


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
    push = _push(text, words)
    if location.startswith(_DIRECT):
        return DiscoverOption(text, None, _address(location), push)
    return DiscoverOption(text, parse_place(location), None, push)


def _push(text: str, words: Sequence[str]) -> bool:
    said: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _WORDS:
            near = difflib.get_close_matches(key, _WORDS, 1)
            guess = f"did you mean {near[0]}=True? " if near else ""
            raise UsageError(
                f"--discover={text}: {word!r} says nothing here", hint=f"{guess}write {EXAMPLE}"
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
    if location.startswith(("/", "file:")):
        return Directory(_directory(location))
    secure = location.startswith("ssh:")
    said, hint = _OVER_SSH if secure else _WEB
    if not (_SSH.fullmatch(location) if secure else _plain(location)):
        raise UsageError(f"{location!r} is {said}", hint=hint)
    try:
        (ssh_address if secure else parse_target)(location)
    except LocationError as error:
        raise UsageError(f"{error.place!r} is {said}: {error.reason}", hint=hint) from error
    return parse_address(location) if secure else Https(location.rstrip("/"))


def _plain(location: str) -> bool:
    return "?" not in location and "#" not in location


def _directory(location: str) -> str:
    hint, path = "write file:///srv/binhost", location
    if location.startswith("file:"):
        # RFC 8089, 2: a file: URL has neither; `#` and `?` of a name are percent-encoded
        if not _plain(location):
            raise UsageError(f"{location!r} is no directory", hint="write %3F for ?, and %23 for #")
        try:
            path = str(local_path(location))
        except (LocationError, ValueError) as error:
            raise UsageError(f"{location!r} is no directory", hint=hint) from error
    if "\0" in path or path.startswith("//"):
        raise UsageError(f"{location!r} is no directory", hint=hint)
    return path


Discover = Callable[[Sought], Discovered]
"""Ask the pages of a name."""


def with_discovered(
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

    def ask(wanted: Sought) -> Discovered:
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
    configured: Sequence[Repository],
    places: Sequence[DiscoverOption],
    ask: Discover,
    report: Reporter,
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


def _repositories(place: DiscoverOption, ask: Discover, report: Reporter) -> Iterator[Repository]:
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


def check_push(repositories: Sequence[Repository], places: Sequence[DiscoverOption]) -> bool:
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
