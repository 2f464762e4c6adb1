"""A binhost's pages, made anew from what lies there: a view that can be lost and regenerated.

Two publishers may write pages at once, and the last one wins. So whoever has written looks again at
what lies there, and writes anew where it changed meanwhile: the last to write has seen everything
that was published before its writing.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from urllib.parse import urlsplit

from buildit.digest import BuildKey, canonical, is_hex64
from buildit.errors import IntegrityError
from buildit.model.address import Https
from buildit.model.config import Repository
from buildit.site.card import CardPackage, package_bytes, parse_package
from buildit.site.container_page import SUMS, container_page, sums
from buildit.site.package_page import MOST_BUILDS, package_page
from buildit.site.page import (
    BUILDERS,
    category_of,
    category_page,
    containers_page,
    packages_page,
    root_page,
)
from buildit.site.shelf import (
    INDEX,
    OWN_CARD,
    Package,
    Reading,
    Shelf,
    Stated,
    builders_of,
    version_key,
)
from buildit.site.shown import Build, Container, Listed, Site
from buildit.store.attest import SIZE_LIMIT
from buildit.trust.sshkeys import parse_public, public_line
from buildit.trust.sshsig import NAMESPACE, builder_name, claimed_key

PUBKEYS = "pubkeys.asc"
SITE = "site.json"
SITE_FORMAT = "1"
PAGE_LIMIT = 64 << 20
ROUNDS = 5
"""How often pages are made while others go on publishing; who publishes last makes them too."""
GROUP = 500
"""Packages whose pages are in memory at once."""
MOST_INSIDE = 20
"""Containers that a build's entry names."""


def site_of(repository: Repository) -> Site:
    """What the pages of a repository say of it: its address only where it is served over HTTPS."""
    root = repository.download
    return Site(repository.name, root.root.rstrip("/") if isinstance(root, Https) else "")


def refresh(
    shelf: Shelf, site: Site, scratch: Path, packages: Collection[str] | None = None
) -> int:
    """Make the pages anew; how many files were written.

    `packages` are the names whose own pages may have changed; None is all. `scratch` is a directory
    for files on their way. Title and address are those that the binhost has already, where it does:
    two publishers may call it by two names.

    Raises:
        FetchError, StoreError: the binhost cannot be read or written.
    """
    known = stated_site(shelf)
    if known is not None:
        site = Site(known.title, known.url or site.url)
    return _Pages(shelf, site, scratch).refresh(packages)


def name_site(shelf: Shelf, site: Site, scratch: Path) -> int:
    """Make all pages anew under this title and address; how many files were written.

    Raises:
        FetchError, StoreError: the binhost cannot be read or written.
    """
    return _Pages(shelf, site, scratch).refresh(None)


def stated_site(shelf: Shelf) -> Site | None:
    """Title and address as the binhost itself has them; None where it has none, or bad ones."""
    try:
        found = json.loads(shelf.read([SITE], PAGE_LIMIT)[0] or b"")
        if found["format"] != SITE_FORMAT:
            return None
        title, url = str(found["title"]), str(found["url"])
        title.encode()
        return Site(title, url) if title and (not url or is_address(url)) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def is_address(url: str) -> bool:
    """Whether pages can be at this address: https, a host and a path, and nothing else."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.hostname and (parts.port or 1)
    except ValueError:
        return False
    rest = parts.query or parts.fragment or parts.username or parts.password
    odd = any(not one.isprintable() or one in " <>\"'{}\\^`|" for one in url)
    return bool(plain) and not rest and not odd and url.isascii()


@dataclass(frozen=True, slots=True)
class _Seen:
    """All that pages are made of: where two looks are equal, so are their pages."""

    site: Site
    containers: tuple[Container, ...]
    packages: tuple[Package, ...]
    shown: tuple[Package, ...]
    statements: Mapping[BuildKey, tuple[str, ...]]


@dataclass(slots=True)
class _Pages:
    shelf: Shelf
    site: Site
    scratch: Path
    _reading: Reading = field(init=False)
    _made: dict[str, bytes] = field(default_factory=dict)
    """The digest of what each path was given, or had already."""

    def __post_init__(self) -> None:
        self._reading = Reading(self.shelf)

    def refresh(self, wanted: Collection[str] | None) -> int:
        written = 0
        seen: _Seen | None = None
        for _ in range(ROUNDS):
            now = self._look(wanted)
            if now == seen:
                break
            seen = now
            for files in self._files(now):
                written += self._put(files)
        return written

    def _look(self, wanted: Collection[str] | None) -> _Seen:
        packages = self._reading.packages()
        shown = tuple(one for one in packages if wanted is None or one.name in wanted)
        return _Seen(
            replace(self.site, pubkeys=PUBKEYS in self.shelf.names(("",))[0]),
            self._reading.containers(),
            packages,
            shown,
            self._reading.statements([key for one in shown for key in _keys(one)]),
        )

    def _files(self, seen: _Seen) -> Iterator[dict[str, bytes]]:
        """All views, in groups that fit into memory; the first page last: it links to the rest."""
        known = _Known.of(seen.containers)
        builders = set(self._builders())
        for at in range(0, len(seen.shown), GROUP):
            group = seen.shown[at : at + GROUP]
            keys = [key for one in group for key in _keys(one)]
            stated = self._reading.builds({key: seen.statements[key] for key in keys})
            public = self._keys_of(builders_of(stated), builders)
            builders |= {Path(path).stem for path in public}
            yield public | dict(self._own_pages(seen.site, group, stated, known))
        yield dict(_new_cards(seen.packages, known))
        yield dict(self._lists(seen.site, seen.containers, seen.packages, sorted(builders)))
        said = {"format": SITE_FORMAT, "title": seen.site.title, "url": seen.site.url}
        yield {SITE: canonical(said)}

    def _own_pages(
        self,
        site: Site,
        packages: Sequence[Package],
        stated: Mapping[BuildKey, Stated],
        known: _Known,
    ) -> Iterator[tuple[str, bytes]]:
        """The page of each package itself."""
        known = known.with_own(self._own_cards(packages))
        for one in packages:
            builds = [known.build(key, stated[key]) for key in _keys(one) if key in stated]
            hidden = max(0, len(one.keys) - MOST_BUILDS)
            page = package_page(site, _listed(one), builds, hidden)
            yield f"n/{one.directory}/{INDEX}", page.encode()

    def _lists(
        self,
        site: Site,
        containers: Sequence[Container],
        packages: Sequence[Package],
        builders: Sequence[str],
    ) -> Iterator[tuple[str, bytes]]:
        directories = frozenset(one.directory for one in packages)
        for one in containers:
            where = f"containers/{one.directory}"
            for title, files in one.published.items():
                if files:
                    yield f"{where}/{title}{SUMS}", sums(files).encode()
            yield f"{where}/{INDEX}", container_page(site, one, directories).encode()
        listed = sorted((_listed(one) for one in packages), key=lambda one: one.directory)
        for category, group in groupby(listed, category_of):
            there = [one for one in group if one.versions]
            yield f"n/{category}/{INDEX}", category_page(site, category, there).encode()
        there = [one for one in listed if one.versions]
        filled = [one for one in containers if one.cards]
        yield f"n/{INDEX}", packages_page(site, there).encode()
        yield f"containers/{INDEX}", containers_page(site, filled).encode()
        yield INDEX, root_page(site, filled, there, builders).encode()

    # -- packages' own cards

    def _own_cards(self, packages: Sequence[Package]) -> Iterator[CardPackage]:
        """What earlier cards of containers said of their builds."""
        paths = [
            f"n/{one.directory}/{key}{OWN_CARD}"
            for one in packages
            for key in _keys(one)
            if f"{key}{OWN_CARD}" in one.files
        ]
        for path, content in zip(paths, self._reading.lasting(paths), strict=True):
            card = parse_package(content) if content is not None else None
            if card is not None and path.endswith(f"/{card.key}{OWN_CARD}"):
                yield card

    # -- builders

    def _builders(self) -> Iterator[str]:
        """Those whose public key is there already."""
        names = [name for name in self.shelf.names([BUILDERS])[0] if is_hex64(Path(name).stem)]
        paths = [f"{BUILDERS}/{name}" for name in names if name.endswith(".pub")]
        for path, content in zip(paths, self._reading.lasting(paths), strict=True):
            if content is not None and _is_key_of(Path(path).stem, content):
                yield Path(path).stem

    def _keys_of(
        self, signed: Mapping[str, tuple[str, str]], known: Collection[str]
    ) -> dict[str, bytes]:
        """The public keys of further builders, out of what they signed: the name of a builder is
        the digest of the key, so that nobody can put another one in its place."""
        found: dict[str, bytes] = {}
        for builder, paths in sorted(signed.items()):
            if builder in known:
                continue
            statement, signature = self._reading.lasting(paths, SIZE_LIMIT)
            text = (signature or b"").decode("utf-8", "replace")
            public = claimed_key(statement or b"", text, NAMESPACE)
            if public is not None and builder_name(public) == builder:
                found[f"{BUILDERS}/{builder}.pub"] = f"{public_line(public)}\n".encode()
        return found

    # -- writing

    def _put(self, files: Mapping[str, bytes]) -> int:
        """Write what is not there yet as it should be, and was not put by an earlier round."""
        digests = {path: sha256(content).digest() for path, content in files.items()}
        new = [path for path in files if self._made.get(path) != digests[path]]
        written = 0
        for path, before in zip(new, self._reading.read(new, PAGE_LIMIT), strict=True):
            self._made[path] = digests[path]
            if before != files[path]:
                source = self.scratch / "page"
                source.write_bytes(files[path])
                self.shelf.write(path, source)
                written += 1
        return written


@dataclass(frozen=True, slots=True)
class _Known:
    """What cards say of builds: details, and the containers that have each one inside."""

    details: Mapping[str, CardPackage]
    inside: Mapping[str, tuple[tuple[str, str], ...]]

    @classmethod
    def of(cls, containers: Sequence[Container]) -> _Known:
        details: dict[str, CardPackage] = {}
        inside: dict[str, dict[tuple[str, str], None]] = {}
        for container in containers:
            for card in container.cards:
                for package in card.packages:
                    details.setdefault(package.key, package)
                    if package.inside:
                        place = (container.directory, card.stem)
                        inside.setdefault(package.key, {})[place] = None
        return cls(
            details, {key: tuple(islice(found, MOST_INSIDE)) for key, found in inside.items()}
        )

    def with_own(self, cards: Iterator[CardPackage]) -> _Known:
        return replace(self, details={**{card.key: card for card in cards}, **self.details})

    def build(self, key: BuildKey, stated: Stated) -> Build:
        return Build(
            key,
            stated.artifact.version,
            stated.artifact.platform,
            stated.parts,
            stated.claims,
            self.details.get(key),
            self.inside.get(key, ()),
        )


def _new_cards(packages: Sequence[Package], known: _Known) -> Iterator[tuple[str, bytes]]:
    """Kept beside the names: a container's card is replaced when it is published anew."""
    for package in packages:
        for key in package.keys:
            name, card = f"{key}{OWN_CARD}", known.details.get(key)
            if card is not None and name not in package.files and card.name == package.name:
                yield f"n/{package.directory}/{name}", package_bytes(card)


def _keys(package: Package) -> list[BuildKey]:
    return package.newest()[:MOST_BUILDS]


def _listed(package: Package) -> Listed:
    versions = sorted(set(package.keys.values()), key=version_key, reverse=True)
    return Listed(package.directory, package.name, tuple(versions))


def _is_key_of(builder: str, content: bytes) -> bool:
    try:
        return builder_name(parse_public(content.decode())) == builder
    except (UnicodeDecodeError, IntegrityError):
        return False
