"""What packages register with update-alternatives(1) and update-xmlcatalog(8), and what it comes to
in a root that has all of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain


@dataclass(frozen=True, slots=True)
class Slave:
    """A link that follows its master: it is made where `path` exists."""

    link: str
    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """One call of `update-alternatives --install` (update-alternatives(1)); absolute paths."""

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[Slave, ...] = ()


@dataclass(frozen=True, slots=True)
class Delegation:
    """One entry of the XML catalog: identifiers of `kind` (`public`, `system`, `uri`) that begin
    with `start` are looked up in the catalog `local`, an absolute path."""

    kind: str
    start: str
    local: str


def chosen_links(
    every: Iterable[Alternative], exists: Callable[[str], bool]
) -> dict[str, tuple[str, str]]:
    """The links of the alternatives in automatic mode: link -> (name, path), absolute paths.

    Of one name the highest priority wins, of equal ones the first; only what `exists` counts.
    """
    best: dict[str, Alternative] = {}
    for one in every:
        if exists(one.path):
            before = best.setdefault(one.name, one)
            if one.priority > before.priority:
                best[one.name] = one
    found: dict[str, tuple[str, str]] = {}
    for one in best.values():
        slaves = (slave for slave in one.slaves if exists(slave.path))
        for link in chain((Slave(one.link, one.name, one.path),), slaves):
            found.setdefault(link.link, (link.name, link.path))
    return found


DELEGATES = {
    "public": ("delegatePublic", "publicIdStartString"),
    "system": ("delegateSystem", "systemIdStartString"),
    "uri": ("delegateURI", "uriStartString"),
}


def xml_catalog(every: Iterable[Delegation]) -> str:
    """The text of /etc/xml/catalog (OASIS XML Catalogs 1.1), sorted."""
    lines = []
    for one in every:
        element, attribute = DELEGATES[one.kind]
        start, local = _quoted(one.start), _quoted(f"file://{one.local}")
        lines.append(f'<{element} {attribute}="{start}" catalog="{local}"/>\n')
    name = "urn:oasis:names:tc:entity:xmlns:xml:catalog"
    body = "".join(sorted(set(lines)))
    return f'<?xml version="1.0"?>\n<catalog xmlns="{name}">\n{body}</catalog>\n'


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
