"""App Container meta discovery and simple discovery (appc spec 0.8.11 discovery.md; FORMATS 1.4).

What is found are places, never trust: whoever takes something from them judges it as from any
other place. The core is pure; `discover` alone asks servers, and stays within a page budget.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from buildit.errors import UsageError
from buildit.remote.http.urls import is_loopback, parse_target
from buildit.remote.metas import metas
from buildit.remote.transport import LocationError, Transport, read_small

ENDPOINT = "ac-discovery"
PUBKEYS = "ac-discovery-pubkeys"
BINHOST = "buildit-binhost"
"""Our own tag: `content="PREFIX URL"`, the URL of a binhost for names that begin with PREFIX."""

EXTENSIONS = ("aci", "aci.asc")
PAGE_LIMIT = 1 << 20
"""Bytes of a page; ours have far fewer."""
DEEPEST = 16
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
class Wanted:
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
class Image:
    """Where an image may be, and where its signature."""

    aci: str
    asc: str


@dataclass(frozen=True, slots=True)
class Discovered:
    """Places in the order in which to try them; `refused` says why pages were of no use."""

    images: tuple[Image, ...] = ()
    pubkeys: tuple[str, ...] = ()
    binhosts: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def parse_place(text: str) -> Wanted:
    """`HOST[:PORT][/PATH]` as a user writes it.

    Raises:
        UsageError: it is something else.
    """
    found = _PLACE.fullmatch(text)
    if found is None or any(part in (".", "..") for part in text.split("/")):
        raise UsageError(
            f"{text!r} is no place to discover from",
            hint="write HOST/PATH, such as example.com/containers, without a scheme",
        )
    port = int(found["port"]) if found["port"] else None
    if port is not None and not 1 <= port <= 65535:
        raise UsageError(f"{text!r} has no possible port", hint="ports are 1 to 65535")
    name = found["host"].lower() + found["path"]
    if name.count("/") >= DEEPEST:
        raise UsageError(
            f"{text!r} has more than {DEEPEST} parts", hint="begin further up: HOST/PATH"
        )
    return Wanted(name, port)


def parse_page(page: bytes) -> tuple[Tag, ...]:
    """The discovery tags of a page, in its order; whatever else it is has no meaning."""
    return tuple(islice(_tags(page.decode("utf-8", "replace")), TAGS))


def _tags(text: str) -> Iterator[Tag]:
    for said in metas(text):
        kind = said.get("name", "")
        prefix, _, target = said.get("content", "").strip().partition(" ")
        if kind in (ENDPOINT, PUBKEYS, BINHOST) and prefix and target.strip():
            yield Tag(kind, prefix, target.strip())


def pages(wanted: Wanted) -> Iterator[str]:
    """The pages to ask for, from the whole name up to the bare host."""
    parts = wanted.name.split("/")[1:]
    for count in range(len(parts), -1, -1):
        path = "/".join(["", *parts[:count]])
        yield f"https://{wanted.authority}{path}?ac-discovery=1"


def resolve(template: str, wanted: Wanted, ext: str) -> str | None:
    """A template with its variables replaced; None where one is unknown, as the spec wants."""
    values = {**wanted.labels, "name": wanted.name, "ext": ext}
    unknown = [name for name in _VARIABLE.findall(template) if name not in values]
    if unknown:
        return None
    url = _VARIABLE.sub(lambda found: values[found[1]], template)
    return None if "{" in url or "}" in url else url


def matching(tags: tuple[Tag, ...], kind: str, wanted: Wanted) -> tuple[str, ...]:
    """Targets of the tags of a kind whose prefix the name begins with."""
    found = (t.target for t in tags if t.kind == kind and wanted.name.startswith(t.prefix))
    return tuple(dict.fromkeys(found))


def images(tags: tuple[Tag, ...], wanted: Wanted) -> tuple[Image, ...]:
    """Where the matching templates say that the image is."""
    found = []
    for template in matching(tags, ENDPOINT, wanted):
        aci, asc = (resolve(template, wanted, ext) for ext in EXTENSIONS)
        if aci is not None and asc is not None:
            found.append(Image(aci, asc))
    return tuple(found)


def simple(wanted: Wanted) -> Image | None:
    """Where simple discovery (spec 0.6 and 0.7) says that the image is; None without labels."""
    try:
        parts = [wanted.labels[name] for name in ("version", "os", "arch")]
    except KeyError:
        return None
    path = wanted.name.partition("/")[2]
    stem = f"https://{wanted.authority}/{path}-{'-'.join(parts)}" if path else ""
    return Image(f"{stem}.aci", f"{stem}.aci.asc") if stem else None


def binhosts(tags: tuple[Tag, ...], wanted: Wanted) -> tuple[str, ...]:
    """The URLs that our own tag names, without a slash at the end."""
    found = (resolve(target, wanted, "") for target in matching(tags, BINHOST, wanted))
    return tuple(dict.fromkeys(url.rstrip("/") for url in found if url is not None))


def refusal(url: str, wanted: Wanted) -> str | None:
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


def discover(wanted: Wanted, transport: Transport) -> Discovered:
    """Ask the pages of a name, each at most once, until every kind of tag was found or none can be.

    Images and public keys are walked independently, as the spec says; so are binhosts. A page that
    is not served, or has no tag of a kind, is passed over for that kind.
    """
    found: dict[str, tuple[Tag, ...]] = {}
    refused: list[str] = []
    for url in pages(wanted):
        try:
            tags = parse_page(read_small(transport, url, PAGE_LIMIT))
        except LocationError as error:
            refused.append(f"{url}: {error.reason}")
            if error.unreachable:
                break  # the same host would be asked again, and no path makes it answer
            continue
        kinds = [kind for kind in (ENDPOINT, PUBKEYS, BINHOST) if kind not in found]
        present = {kind: tuple(t for t in tags if t.kind == kind) for kind in kinds}
        found |= {kind: some for kind, some in present.items() if _useful(some, wanted)}
        if not any(present.values()):
            refused.append(f"{url}: it has no discovery tag")
        elif present.get(BINHOST) and BINHOST not in found:
            prefixes = sorted({tag.prefix for tag in present[BINHOST]})[:3]
            refused.append(f"{url}: its binhosts are for {', '.join(prefixes)}, and what is below")
        if len(found) == len((ENDPOINT, PUBKEYS, BINHOST)):
            break
    return _checked(found, wanted, refused)


def _checked(
    found: Mapping[str, tuple[Tag, ...]], wanted: Wanted, refused: list[str]
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

    easy = simple(wanted)
    candidates = (*([easy] if easy else []), *images(found.get(ENDPOINT, ()), wanted))
    good = [one for one in candidates if len(allowed((one.aci, one.asc))) == 2]
    return Discovered(
        images=tuple(good),
        pubkeys=allowed(matching(found.get(PUBKEYS, ()), PUBKEYS, wanted)),
        binhosts=allowed(rooted(binhosts(found.get(BINHOST, ()), wanted))),
        refused=tuple(refused),
    )


def _useful(tags: tuple[Tag, ...], wanted: Wanted) -> bool:
    return any(wanted.name.startswith(tag.prefix) for tag in tags)
