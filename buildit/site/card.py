"""Cards say what lies inside, as JSON for people's pages and tools: of a container, of a package.

A container's card is published beside its images,
`containers/<name>/<name>-<version>-<os>-<arch>.card.json`; what it says of a package stays beside
the package's names, `n/<category>/<name>/<key>.card`, when the container is published anew. Nothing
is decided by a card: who takes an image or a package verifies those.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from buildit.digest import canonical, is_hex64

FORMAT = "1"
LIMIT = 16 << 20
"""Bytes of a card."""
MOST = 1 << 62
"""No size is larger; a hostile card may hold any number."""


@dataclass(frozen=True, slots=True)
class CardPackage:
    """A package of the container. `inside` says that the images have its files; otherwise it was
    only needed to build. `size` is in bytes of its plain runtime layer. `flags` are as a lock has
    them (`+ssl`, `-selinux`); `notes` are the descriptions of `patches`, in the same order, or
    none. `deb` is the SHA-256 of the .deb where it is a Debian package."""

    key: str
    name: str
    version: str
    flags: tuple[str, ...] = ()
    patches: tuple[str, ...] = ()
    inside: bool = True
    size: int = 0
    libraries: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    description: str = ""
    deb: str = ""


@dataclass(frozen=True, slots=True)
class CardImage:
    """A published image. An OCI layout is a directory and has no `digest` of its own;
    `identifier` is what the format's tools call the image (`model.image.Emission`)."""

    file: str
    format: str
    size: int
    digest: str
    identifier: str = ""


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

    @property
    def stem(self) -> str:
        """What the names of its files begin with, in its directory."""
        return f"{self.name}-{self.version}-{self.os}-{self.arch}".rpartition("/")[2]


def card_bytes(card: Card) -> bytes:
    return canonical({"format": FORMAT, **asdict(card)})


def parse_card(content: bytes) -> Card | None:
    """Read a card; None where it is none, or of another format."""
    try:
        found = _document(content)
        packages = tuple(_package(one) for one in found.pop("packages"))
        images = tuple(CardImage(**one) for one in found.pop("images"))
        card = Card(**found, packages=packages, images=images)
        _check(card)
        for image in images:
            _check(image)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return card


def package_bytes(package: CardPackage) -> bytes:
    """What is said of one build, whatever container it is in: `inside` is not in it."""
    said = asdict(package)
    del said["inside"]
    return canonical({"format": FORMAT, **said})


def parse_package(content: bytes) -> CardPackage | None:
    """Read what `package_bytes` wrote; None where it is something else."""
    try:
        return _package(_document(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _document(content: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(content)
    if found.pop("format") != FORMAT:
        raise ValueError("another format")
    return found


def _package(found: dict[str, Any]) -> CardPackage:
    for name in ("flags", "patches", "libraries", "notes"):
        value = found.get(name, [])
        if type(value) is not list:
            raise TypeError(f"{name} is no list")
        found[name] = tuple(value)
    package = CardPackage(**found)
    _check(package)
    if not is_hex64(package.key) or (package.deb and not is_hex64(package.deb)):
        raise ValueError("not a digest")
    if package.notes and len(package.notes) != len(package.patches):
        raise ValueError("not a note for each patch")
    return package


def _check(value: Card | CardImage | CardPackage) -> None:
    """Every field as it is declared; texts can be written as UTF-8, and sizes be sizes."""
    for field in fields(value):
        found = getattr(value, field.name)
        match field.type:
            case "str":
                good = _is_text(found)
            case "int":
                good = type(found) is int and 0 <= found < MOST
            case "bool":
                good = type(found) is bool
            case "tuple[str, ...]":
                good = all(map(_is_text, found))
            case _:
                good = True  # packages and images, each checked by itself
        if not good:
            raise ValueError(f"{field.name} is not {field.type}")


def _is_text(value: object) -> bool:
    if type(value) is not str:
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
