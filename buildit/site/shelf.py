"""What lies in a binhost, as its pages show it: read from names, statements and cards.

Other people publish there too, so everything is read as a stranger's: what is malformed, too large
or says another name than its place does is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildit.digest import BuildKey, is_hex64
from buildit.errors import BuilditError, IntegrityError
from buildit.model.artifact import Artifact
from buildit.model.version import Version
from buildit.remote.binhost.protocols import Views
from buildit.site.card import LIMIT as CARD_LIMIT
from buildit.site.card import MOST, Card, parse_card
from buildit.site.container_page import SUMS
from buildit.site.shown import Claim, Container, Part, SpecFile
from buildit.store.artifacts import split_name
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement
from buildit.store.names import is_part, place_of
from buildit.trust.votes import claim as outputs_of

INDEX = "index.html"
CARD = ".card.json"
OWN_CARD = ".card"
"""After a key, in a package's directory below `n/`: a package's own card."""
DEEPEST = 8
"""Directories below `containers/`: a container's name may be a path."""
MOST_CARDS = 12
"""Cards of one container that are read, newest first; of older ones only the names are shown."""

_SPEC_PATH = re.compile(r"[^\x00-\x20\x7f\\\"'`$<>|;&*?~%#:-][^\x00-\x1f\x7f\\%#?:]{0,1023}")
"""What may stand in a list for sha256sum and wget: neither reads it as anything but a name."""

Key = tuple[bool, Version | tuple[tuple[int, str], ...]]


Shelf = Views


@dataclass(frozen=True, slots=True)
class Package:
    """A package of the index: its directory below `n/`, the version of each key, and the names of
    all files there (of which our own views are some: they make no difference)."""

    directory: str
    keys: Mapping[BuildKey, str]
    files: frozenset[str] = field(compare=False)

    @property
    def name(self) -> str:
        return self.directory.removeprefix("local/")

    def newest(self) -> list[BuildKey]:
        """Its keys, newest version first; one order whoever looks."""
        order = sorted(self.keys, key=lambda key: (version_key(self.keys[key]), key))
        return order[::-1]


@dataclass(frozen=True, slots=True)
class Stated:
    """A build by its statements: what the first says, and who says so."""

    artifact: Artifact
    claims: tuple[Claim, ...]
    parts: tuple[Part, ...]


@dataclass(slots=True)
class Reading:
    """Reads one binhost. What never changes there is read once, however often it is asked for."""

    shelf: Shelf
    _kept: dict[str, bytes] = field(default_factory=dict)
    _cards: dict[bytes, Card | None] = field(default_factory=dict)

    def containers(self) -> tuple[Container, ...]:
        """Level by level: a container's name may be a path. One without cards is given where it
        has a page, which then says so."""
        found: list[Container] = []
        level = ["containers"]
        for _ in range(DEEPEST):
            further: list[str] = []
            for directory, names in zip(level, self.shelf.names(level), strict=True):
                stems = {name.removesuffix(CARD) for name in names if name.endswith(CARD)}
                # Beside a card lies the container's spec under its name, where no card can be.
                further += [
                    f"{directory}/{name}"
                    for name in names
                    if name not in stems and not _is_file(name) and _is_text(name)
                ]
                if stems or (INDEX in names and directory != "containers"):
                    found.append(self._container(directory, names, filter(_is_text, stems)))
            level = further
        return tuple(sorted(found, key=lambda one: one.directory))

    def _container(self, directory: str, names: Sequence[str], stems: Iterator[str]) -> Container:
        path = directory.partition("/")[2]
        order = sorted(stems, key=lambda stem: _newest(stem, path), reverse=True)
        contents = self.read([f"{directory}/{stem}{CARD}" for stem in order[:MOST_CARDS]])
        cards: dict[str, Card] = {}
        for stem, content in zip(order, contents, strict=False):
            card = self._card(content) if content is not None else None
            if card is not None and card.stem == stem:
                cards[stem] = card
        lists = self.read([f"{directory}/{stem}.json" for stem in cards])
        published = {
            card.stem: _published(content, path)
            for card, content in zip(cards.values(), lists, strict=True)
        }
        shown = sorted(cards.values(), key=_card_key, reverse=True)
        older = tuple(order[MOST_CARDS:])
        files = frozenset(name for name in names if not name.endswith((".html", SUMS)))
        return Container(path, tuple(shown), files, older, published)

    def _card(self, content: bytes) -> Card | None:
        if content not in self._cards:
            self._cards[content] = parse_card(content)
        return self._cards[content]

    def packages(self) -> tuple[Package, ...]:
        """The index of names. A directory with a page and no entries is given too."""
        names = self.shelf.names
        categories = [f"n/{name}" for name in names(["n"])[0] if _is_part(name)]
        below = zip(categories, names(categories), strict=True)
        directories = [
            f"{where}/{name}" for where, rest in below for name in rest if _is_part(name)
        ]
        listed = dict(zip(directories, names(directories), strict=True))
        paths = [
            f"{where}/{name}"
            for where, files in listed.items()
            for name in files
            if _is_entry(name)
        ]
        versions: dict[str, dict[BuildKey, str]] = {}
        for path, content in zip(paths, self.lasting(paths), strict=True):
            directory, _, file = path.rpartition("/")
            entry = _entry(content or b"", directory, file.removesuffix(".json"))
            if entry is not None:
                versions.setdefault(directory, {})[entry[0]] = entry[1]
        return tuple(
            Package(where.removeprefix("n/"), versions.get(where, {}), frozenset(files))
            for where, files in listed.items()
            if where in versions or INDEX in files
        )

    def statements(self, keys: Sequence[BuildKey]) -> dict[BuildKey, tuple[str, ...]]:
        """The names of the files about each key."""
        return dict(
            zip(keys, self.shelf.names([f"k/{key[:2]}/{key}" for key in keys]), strict=True)
        )

    def builds(self, named: Mapping[BuildKey, tuple[str, ...]]) -> dict[BuildKey, Stated]:
        """What is said of each key, in files of these names, which never change."""
        files = [
            (key, split[0], name, f"{name}.sig" if f"{name}.sig" in names else "")
            for key, names in named.items()
            for name in sorted(names, key=lambda name: (len(name), name))
            if (split := split_name(name)) is not None
        ]
        contents = self.lasting(
            [f"k/{key[:2]}/{key}/{name}" for key, _, name, _ in files], SIZE_LIMIT
        )
        found: dict[BuildKey, Stated] = {}
        for (key, builder, name, signature), content in zip(files, contents, strict=True):
            artifact = _artifact(content, key, builder)
            if artifact is None:
                continue
            known = found.get(key)
            same = known is None or outputs_of(known.artifact) == outputs_of(artifact)
            claim = Claim(builder, name, signature, same, artifact.restated)
            earlier = known or Stated(artifact, (), ())
            parts = _parts(artifact, earlier.parts) if same else earlier.parts
            found[key] = replace(earlier, claims=(*earlier.claims, claim), parts=parts)
        return found

    def lasting(self, paths: Sequence[str], limit: int = CARD_LIMIT) -> list[bytes | None]:
        """Files that are never replaced: each is read once."""
        new = [path for path in paths if path not in self._kept]
        for path, content in zip(new, self.read(new, limit), strict=True):
            if content is not None:
                self._kept[path] = content
        return [self._kept.get(path) for path in paths]

    def read(self, paths: Sequence[str], limit: int = CARD_LIMIT) -> Iterator[bytes | None]:
        yield from self.shelf.read(paths, limit)


def version_key(text: str) -> Key:
    """Orders versions, after all that is none: that is ordered by its words and numbers, since a
    container's version is any text (`1.22.1-p2` before `1.22.1-p10`)."""
    try:
        return True, Version.parse(text)
    except BuilditError:
        words = re.findall(r"[0-9]{1,18}|[^0-9]+", text)
        return False, tuple((int(w), "") if w[0] in "0123456789" else (-1, w) for w in words)


def _newest(stem: str, directory: str) -> tuple[Key, str]:
    """Where a card's name puts it: `<name>-<version>-<os>-<arch>`."""
    rest = stem.removeprefix(f"{directory.rpartition('/')[2]}-")
    return version_key(rest.rsplit("-", 2)[0]), stem


def _card_key(card: Card) -> tuple[Key, str, str]:
    return version_key(card.version), card.os, card.arch


def _published(content: bytes | None, directory: str) -> tuple[SpecFile, ...]:
    """The files of a container's list, by their path beside the list."""
    prefix = f"containers/{directory}/"
    try:
        files = json.loads(content or b"{}")["files"].items()
        found = [(path, one["sha256"], one["size"]) for path, one in sorted(files)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ()
    return tuple(
        SpecFile(path.removeprefix(prefix), digest, size)
        for path, digest, size in found
        if path.startswith(prefix) and _is_plain(path.removeprefix(prefix), digest, size)
    )


def _is_plain(path: str, digest: object, size: object) -> bool:
    """Whether a published file can stand in a list for other programs."""
    named = _SPEC_PATH.fullmatch(path) is not None and _is_text(path)
    below = not {"", ".", ".."} & set(path.split("/"))
    known = isinstance(digest, str) and is_hex64(digest)
    return named and below and known and type(size) is int and 0 <= size < MOST


def _entry(content: bytes, directory: str, key: str) -> tuple[BuildKey, str] | None:
    """Key and version of an entry of the index, which must lie where its name belongs."""
    try:
        found = json.loads(content)
        name, version = found["name"], found["version"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(name, str) or not isinstance(version, str) or not _is_text(version):
        return None
    here = directory == f"n/{place_of(name)}"
    return (BuildKey(key), version) if found.get("key") == key and here else None


def _artifact(content: bytes | None, key: BuildKey, builder: str) -> Artifact | None:
    try:
        statement = None if content is None else parse_statement(content, key)
    except IntegrityError:
        return None
    if statement is None or statement.builder != builder:
        return None
    return statement.artifact


def _parts(artifact: Artifact, known: Sequence[Part]) -> tuple[Part, ...]:
    """The outputs, with the shortest compressed form that any of the statements names."""
    before = {part.name: part.packed for part in known}
    parts = []
    for name, output in artifact.outputs.items():
        sizes = [one.size for one in output.encodings]
        sizes += [before[name]] if before.get(name) else []
        parts.append(Part(name, output.size, min(sizes, default=0), output.diff_id))
    return tuple(parts)


def builders_of(stated: Mapping[BuildKey, Stated]) -> dict[str, tuple[str, str]]:
    """For each builder that signed: a statement and its signature, as paths."""
    found: dict[str, tuple[str, str]] = {}
    for key, one in stated.items():
        for claim in one.claims:
            if claim.builder != LOCAL and claim.signature:
                where = f"k/{key[:2]}/{key}"
                paths = (f"{where}/{claim.statement}", f"{where}/{claim.signature}")
                found.setdefault(claim.builder, paths)
    return found


def _is_entry(name: str) -> bool:
    return name.endswith(".json") and is_hex64(name.removesuffix(".json"))


def _is_part(name: str) -> bool:
    return is_part(name) and name != INDEX


def _is_file(name: str) -> bool:
    """Whether it is surely no directory with containers: those need not be asked for."""
    return name.endswith((".json", ".html", ".aci", ".asc", ".oci", ".tar", SUMS))


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
