"""Upstream's files for a recipe that is imported: found, compared with what its Manifest says, and
pinned by their SHA-256.

Order of places: files of this machine by their names, Debian's archive where it has the same
upstream version (its index is signed, and names the digest), then the URLs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.unpack import open_members
from buildit.commands.run import Downloads
from buildit.debian.sources import SourceCandidate, SourceFile
from buildit.digest import CHUNK, Digest
from buildit.errors import BuilditError, FetchError, IntegrityError, RecipeError
from buildit.events import Notice
from buildit.model.words import name_of, names_archive
from buildit.recipe.ways.ebuild.recipe import Distfile, PinnedSource
from buildit.recipe.yaml.node import read_text
from buildit.remote.fetch import LARGEST_DOWNLOAD, Fetch, plain_http

SUITES = (
    *("bookworm", "bookworm-updates", "bookworm-security"),
    *("trixie", "trixie-updates", "trixie-security"),
)
"""Where Debian's source packages are looked for."""
DISTFILES = "/var/cache/distfiles"
"""Where Portage keeps what it fetched, unless DISTDIR says otherwise."""
_ROW = re.compile(r"DIST (\S+) ([0-9]+)((?: [A-Z0-9]+ [0-9a-f]+)+)")
_KNOWN = {"SHA512": "sha512", "SHA256": "sha256", "BLAKE2B": "blake2b"}
_HEADS = 4096


@dataclass(frozen=True, slots=True)
class Promised:
    """What a Manifest says of a file: its size in bytes, and digests by hashlib's names."""

    size: int
    digests: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Brought:
    """A source that is pinned, its members' names, and the file to copy into `distfiles/` where no
    URL serves it."""

    source: PinnedSource
    members: tuple[str, ...]
    copy: Path | None = None


def read_promises(path: Path) -> dict[str, Promised]:
    """The rows of a Manifest for fetched files (GLEP 74); none where there is no such file.

    Raises:
        RecipeError: it cannot be read.
    """
    if not path.exists():
        return {}
    found = {}
    for match in _ROW.finditer(read_text(path)):
        words = match[3].split()
        pairs = zip(words[::2], words[1::2], strict=True)
        found[match[1]] = Promised(int(match[2]), {_KNOWN[k]: v for k, v in pairs if k in _KNOWN})
    return found


@dataclass(frozen=True, slots=True)
class Upstream:
    """Looks for the files of one version of a package: `source` and `version` as Debian would call
    them, `near` directories of this machine, `promised` what a Manifest says."""

    downloads: Downloads
    source: str
    version: str
    near: tuple[Path, ...]
    promised: Mapping[str, Promised]

    def bring(self, wanted: Iterable[Distfile]) -> tuple[Brought, ...]:
        """All of them, in order.

        Raises:
            FetchError: one is at no place.
            IntegrityError: all that was found of one is not what the Manifest says.
        """
        return tuple(self._one(one, number) for number, one in enumerate(wanted))

    def _one(self, wanted: Distfile, number: int) -> Brought:
        wrong: list[str] = []
        ways: tuple[Callable[[Distfile, int], Iterator[Brought]], ...]
        ways = (self._local, self._debian, self._remote)
        for way in ways:
            try:
                for found in way(wanted, number):
                    refused = self._refused(wanted, found.source.sha256)
                    if not refused:
                        return found
                    wrong.append(f"{found.source.url}: {refused}")
            except (FetchError, RecipeError) as error:
                wrong.append(f"{error.place or wanted.name}: {error.message}")
        hint = f"put {wanted.name} into a directory distfiles/ beside the file, and import again"
        if any("Manifest" in one for one in wrong):
            message = f"what was found of {wanted.name} is not what the Manifest says"
            raise IntegrityError(message, place=wanted.name, hint=hint, details=tuple(wrong))
        message = f"{wanted.name} is at no place that can be reached, so nothing pins it"
        raise FetchError(message, place=wanted.name, hint=hint, details=tuple(wrong))

    def _refused(self, wanted: Distfile, digest: Digest) -> str:
        promised = self.promised.get(wanted.name)
        if promised is None:
            return ""
        path = self.downloads.store.path(digest)
        if path.stat().st_size != promised.size:
            return f"{path.stat().st_size} bytes, {promised.size} says the Manifest"
        for name, value in promised.digests.items():
            if _digest_by(name, path) != value:
                return f"its {name} is another one than the Manifest says"
        return ""

    def _local(self, wanted: Distfile, _: int) -> Iterator[Brought]:
        found = (path for one in self.near if (path := one / wanted.name).is_file())
        listed = (Path(path) for path in self.downloads.near((wanted.name,)))
        for path in (*found, *listed):
            want = Fetch(wanted.name, (str(path.absolute()),), largest=LARGEST_DOWNLOAD)
            digest = self.downloads.fetcher().fetch(want)
            url = next((one for one in wanted.urls if _is_web(one)), "")
            made = self._described(digest, wanted, url, (), f"As it lies in {path.parent}.")
            yield Brought(made.source, made.members, path)

    def _debian(self, wanted: Distfile, number: int) -> Iterator[Brought]:
        if number or self.downloads.offline:
            return
        names = tuple(map(name_of, wanted.urls))
        for name, found in _orig_files(self.downloads, self.source, self.version, names):
            url = f"mirror://debian/{found.path}"
            try:
                digest = self.downloads.fetcher().fetch(
                    Fetch(name, (url,), found.digest, found.size)
                )
            except FetchError as error:
                self.downloads.report(Notice(f"{name}: {error.message}"))
                continue
            web = next((one for one in wanted.urls if _is_web(one)), "")
            note = f"Debian's {name}, upstream's release as Debian has it."
            if wanted.name in self.promised:
                note = f"Debian's {name}, which has the bytes that the Manifest names."
            yield self._described(digest, wanted, web or url, (url,) if web else (), note)

    def _remote(self, wanted: Distfile, _: int) -> Iterator[Brought]:
        promised = self.promised.get(wanted.name)
        for url in wanted.urls:
            if not _is_web(url) and not url.startswith("mirror://"):
                continue
            if plain_http(url) and promised is None:
                continue
            want = Fetch(wanted.name, (url,), None, None, promised is not None, LARGEST_DOWNLOAD)
            digest = self.downloads.fetcher().fetch(want)
            yield self._described(digest, wanted, url, (), "")

    def _described(
        self, digest: Digest, wanted: Distfile, url: str, mirrors: tuple[str, ...], note: str
    ) -> Brought:
        name = wanted.name
        is_archive, top, members = _members(self.downloads.store.path(digest), name)
        placed = url or f"https://example.org/{name}"
        if not url:
            note = f"{note} No URL of the ebuild serves it: distfiles/ has it."
        source = PinnedSource(placed, digest, mirrors, name, is_archive, top, note)
        return Brought(source, members)


def _is_web(url: str) -> bool:
    return url.startswith(("https://", "http://"))


def _digest_by(name: str, path: Path) -> str:
    made = hashlib.new(name)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            made.update(chunk)
    return made.hexdigest()


def _members(path: Path, name: str) -> tuple[bool, str, tuple[str, ...]]:
    """Whether a file is an archive, the directory that all of it lies in, and the names at its top.

    Raises:
        IntegrityError: it is a broken archive.
    """
    single = "" if names_archive(name) else name
    tops: set[str] = set()
    names: list[str] = []
    with path.open("rb") as stream:
        try:
            kind, opened = open_members(stream, Budget(), name, lambda *_: None, single)
            for entry, content in opened:
                first, below, rest = entry.path.partition("/")
                tops.add(first if below or not content else "")
                if "/" not in rest and len(names) < _HEADS:
                    names.append(rest or first)
                while content is not None and content.read(CHUNK):
                    pass
        except BuilditError as error:
            raise IntegrityError(f"it cannot be unpacked: {error.message}", place=name) from error
    top = tops.pop() if len(tops) == 1 else ""
    return not kind.startswith("file"), top, tuple(names)


def _orig_files(
    downloads: Downloads, source: str, version: str, names: tuple[str, ...] = ()
) -> Iterator[tuple[str, SourceFile]]:
    """Debian's copies of upstream's release: `NAME_VERSION.orig.tar.*` of the source package, in
    this version, or as upstream calls it in the names of its files (`2.1.12-stable`)."""
    archive = downloads.debian()
    with archive.open_sources(SUITES) as sources:
        candidates = sources.offered(source)
    for one in candidates:
        theirs = _upstream_version(one)
        longer = theirs.startswith(version) and any(theirs in name for name in names)
        if theirs != version and not longer:
            continue
        for file in one.files:
            if re.fullmatch(rf".+_{re.escape(theirs)}\.orig\.tar\.[a-z0-9]+", file.name):
                yield file.name, file


def _upstream_version(one: SourceCandidate) -> str:
    text = one.version.partition(":")[2] or one.version
    return text.rpartition("-")[0] or text
