"""A container's card: what lies inside a published container, as JSON for people's pages and tools.

It is published beside the images, `containers/<name>/<name>-<version>-<os>-<arch>.json`. Nothing is
decided by it: who takes an image or a package verifies those.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from buildit.digest import canonical, is_hex64

FORMAT = "1"
LIMIT = 16 << 20
"""Bytes of a card."""


@dataclass(frozen=True, slots=True)
class CardPackage:
    """A package of the container. `inside` says that the images have its files; otherwise it was
    only needed to build. `size` is in bytes of its plain runtime layer."""

    key: str
    name: str
    version: str
    flags: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()
    inside: bool = True
    size: int = 0
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CardImage:
    """A published file; an OCI layout is a directory and has no digest of its own."""

    file: str
    format: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Card:
    """One version of a container for one platform."""

    name: str
    version: str
    os: str
    arch: str
    author: str
    packages: tuple[CardPackage, ...] = ()
    images: tuple[CardImage, ...] = ()


def card_bytes(card: Card) -> bytes:
    return canonical({"format": FORMAT, **asdict(card)})


def parse_card(content: bytes) -> Card | None:
    """Read a card; None where it is none, or of another format."""
    try:
        found = json.loads(content)
        if found.pop("format") != FORMAT:
            return None
        packages = tuple(_package(one) for one in found.pop("packages"))
        images = tuple(CardImage(**one) for one in found.pop("images"))
        card = Card(**found, packages=packages, images=images)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    texts = [card.name, card.version, card.os, card.arch, card.author]
    texts += [text for i in card.images for text in (i.file, i.format, i.digest)]
    counts = [*(p.size for p in card.packages), *(i.size for i in card.images)]
    good = all(type(text) is str for text in texts) and all(type(n) is int for n in counts)
    return card if good else None


def _package(found: dict[str, Any]) -> CardPackage:
    for name in ("flags", "patches", "libraries"):
        found[name] = tuple(found[name])
    package = CardPackage(**found)
    texts = (package.key, package.name, package.version)
    lists = (*package.flags, *package.patches, *package.libraries)
    if not all(type(text) is str for text in (*texts, *lists)) or not is_hex64(package.key):
        raise ValueError("not a package")
    return package
