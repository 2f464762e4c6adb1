"""A binhost's pages, made anew from what lies there: a view that can be lost and regenerated.

Read are the index of names, the statements and the cards of containers; what is malformed is left
out. A page is replaced only where it changes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from buildit.digest import BuildKey, is_hex64
from buildit.errors import BuilditError, IntegrityError
from buildit.model.artifact import Artifact
from buildit.model.card import LIMIT as CARD_LIMIT
from buildit.model.card import Card, CardPackage, parse_card
from buildit.model.version import Version
from buildit.pipeline.settings import Repository
from buildit.store.artifacts import split_name
from buildit.store.attest import SIZE_LIMIT, parse_statement
from buildit.store.page import (
    Build,
    Container,
    Site,
    container_page,
    containers_page,
    package_page,
    root_page,
)

INDEX = "index.html"
PUBKEYS = "pubkeys.asc"
CARD = ".card.json"
PAGE_LIMIT = 64 << 20
DEEPEST = 8
"""Directories below `containers/`: a container's name may be a path."""


class Shelf(Protocol):
    """A binhost as whoever publishes to it sees it (`net.publishing.Publisher`); paths are below
    its root. Many things are asked for at once: each question is a round trip to a server."""

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]: ...

    def read_files(self, paths: Sequence[str]) -> list[bytes | None]: ...

    def read_file(self, path: str, limit: int) -> bytes | None: ...

    def put_file(self, path: str, source: Path) -> None: ...


def site_of(repository: Repository) -> Site:
    """What the pages of a repository say of it: its address only where it is served over HTTPS."""
    web = repository.download.startswith("https://")
    return Site(repository.name, repository.download.rstrip("/") if web else "")


def refresh(
    shelf: Shelf, site: Site, scratch: Path, packages: Collection[str] | None = None
) -> int:
    """Make the pages anew; how many of them changed.

    `packages` are the names whose own pages may have changed; None is all. `scratch` is a directory
    for files on their way.

    Raises:
        FetchError, StoreError: the binhost cannot be read or written.
    """
    site = Site(site.title, site.url, PUBKEYS in shelf.names(("",))[0])
    return _Pages(shelf, site, scratch).refresh(packages)


@dataclass(frozen=True, slots=True)
class _Package:
    """A package of the index: its directory, and the version of each key."""

    name: str
    directory: str
    keys: Mapping[BuildKey, str]


@dataclass(slots=True)
class _Pages:
    shelf: Shelf
    site: Site
    scratch: Path

    def refresh(self, wanted: Collection[str] | None) -> int:
        containers = tuple(self._containers())
        details = {
            package.key: package
            for container in containers
            for card in reversed(container.cards)
            for package in card.packages
        }
        index = tuple(self._index())
        shown = [package for package in index if wanted is None or package.name in wanted]
        versions = {
            package.name: sorted(set(package.keys.values()), key=_version, reverse=True)
            for package in index
        }
        pages = {
            "": root_page(self.site, containers, versions),
            "containers": containers_page(self.site, containers),
        }
        for container in containers:
            pages[f"containers/{container.directory}"] = container_page(self.site, container)
        builds = self._builds([key for package in shown for key in package.keys], details)
        for package in shown:
            own = [builds[key] for key in package.keys if key in builds]
            own.sort(key=_newest_build, reverse=True)
            pages[package.directory] = package_page(self.site, package.name, own)
        return self._put({f"{name}/{INDEX}".lstrip("/"): page for name, page in pages.items()})

    def _containers(self) -> Iterator[Container]:
        """Level by level: a container's name may be a path."""
        level = ["containers"]
        for _ in range(DEEPEST):
            further: list[str] = []
            for directory, names in zip(level, self.shelf.names(level), strict=True):
                stems = {name.removesuffix(CARD) for name in names if name.endswith(CARD)}
                # Beside a card lies the container's spec under its name, where no card can be.
                further += [
                    f"{directory}/{name}"
                    for name in names
                    if name not in stems and not _is_file(name)
                ]
                cards = list(self._cards([f"{directory}/{stem}{CARD}" for stem in sorted(stems)]))
                if cards:
                    cards.sort(key=_newest_card, reverse=True)
                    path = directory.partition("/")[2]
                    yield Container(path, tuple(cards), frozenset(names))
            level = further
            if not level:
                return

    def _cards(self, paths: Sequence[str]) -> Iterator[Card]:
        for content in self._read(paths, CARD_LIMIT):
            card = parse_card(content) if content is not None else None
            if card is not None:
                yield card

    def _index(self) -> Iterator[_Package]:
        names = self.shelf.names
        categories = [f"n/{name}" for name in names(["n"])[0]]
        below = zip(categories, names(categories), strict=True)
        directories = [f"{category}/{name}" for category, rest in below for name in rest]
        paths = [
            f"{directory}/{name}"
            for directory, entries in zip(directories, names(directories), strict=True)
            for name in entries
            if name.endswith(".json") and is_hex64(name.removesuffix(".json"))
        ]
        found: dict[str, _Package] = {}
        for path, content in zip(paths, self.shelf.read_files(paths), strict=True):
            directory, _, file = path.rpartition("/")
            entry = _entry(content or b"", file.removesuffix(".json"))
            if entry is not None:
                key, name, version = entry
                known = found.get(directory, _Package(name, directory, {}))
                found[directory] = replace(known, keys={**known.keys, key: version})
        yield from found.values()

    def _builds(
        self, keys: Sequence[BuildKey], details: Mapping[str, CardPackage]
    ) -> dict[BuildKey, Build]:
        directories = [f"k/{key[:2]}/{key}" for key in keys]
        files = [
            (key, named[0], name)
            for key, names in zip(keys, self.shelf.names(directories), strict=True)
            for name in names
            if (named := split_name(name)) is not None
        ]
        contents = self._read([f"k/{k[:2]}/{k}/{name}" for k, _, name in files], SIZE_LIMIT)
        found: dict[BuildKey, Build] = {}
        for (key, builder, name), content in zip(files, contents, strict=True):
            artifact = _artifact(content, key)
            if artifact is None:
                continue
            known = found.get(key) or _build(artifact, details.get(key))
            found[key] = replace(
                known,
                builders=(*known.builders, builder),
                statements=(*known.statements, name),
            )
        return found

    def _read(self, paths: Sequence[str], limit: int) -> Iterator[bytes | None]:
        """Files of which few are large: those are read one by one."""
        for path, content in zip(paths, self.shelf.read_files(paths), strict=True):
            if content is not None:
                yield content
                continue
            try:
                yield self.shelf.read_file(path, limit)
            except IntegrityError:
                yield None  # larger than it may be

    def _put(self, pages: Mapping[str, str]) -> int:
        changed = 0
        there = self._read(list(pages), PAGE_LIMIT)
        for (path, page), before in zip(pages.items(), list(there), strict=True):
            content = page.encode("utf-8", "replace")
            if before != content:
                source = self.scratch / "page"
                source.write_bytes(content)
                self.shelf.put_file(path, source)
                changed += 1
        return changed


def _entry(content: bytes, key: str) -> tuple[BuildKey, str, str] | None:
    try:
        found = json.loads(content)
        name, version = found["name"], found["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    good = isinstance(name, str) and isinstance(version, str) and found.get("key") == key
    return (BuildKey(key), name, version) if good else None


def _artifact(content: bytes | None, key: BuildKey) -> Artifact | None:
    try:
        return None if content is None else parse_statement(content, key).artifact
    except IntegrityError:
        return None


def _build(artifact: Artifact, details: CardPackage | None) -> Build:
    size = sum(output.size for output in artifact.outputs.values())
    return Build(artifact.key, artifact.version, artifact.platform, size, (), (), details)


def _is_file(name: str) -> bool:
    """Whether it is surely no directory with containers: those need not be asked for."""
    return name.endswith((".json", ".html", ".aci", ".asc", ".oci", ".tar"))


def _version(text: str) -> tuple[bool, Version | str]:
    try:
        return True, Version.parse(text)
    except BuilditError:
        return False, text


def _newest_card(card: Card) -> tuple[tuple[bool, Version | str], str, str]:
    return _version(card.version), card.os, card.arch


def _newest_build(build: Build) -> tuple[tuple[bool, Version | str], str, str]:
    return _version(build.version), build.platform, build.key
