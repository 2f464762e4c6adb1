"""Debian's archive through the machine's own apt sources, and its verified indices.

`mirror://debian/…` means the sources whose signed release says `Origin: Debian`. A suite that the
machine does not use itself is looked for below the same places, so that a toolchain of Debian 12 or
13 can be chosen on any Debian. The archives that are named for `deb` have the source packages too.

An archive's signed list of indices (InRelease) is verified, checked, then read. The rules are
apt-secure(8)'s, narrowed: only the archive keys in `keys/` count, the suite must be the one asked
for, the time must fit, `Origin` must be Debian, and only SHA-256 is looked at.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from buildit.archive.admit import Budget
from buildit.archive.compress import decompressed
from buildit.debian.apt import AptSource, paragraphs
from buildit.debian.index import INDEX_FORMAT, OpenIndex, Table, build_index
from buildit.debian.packages import PACKAGES, Indices
from buildit.debian.sources import SOURCES, Sources
from buildit.digest import Digest, digest_bytes, is_hex64
from buildit.errors import FetchError, IntegrityError, RecipeError, UnsatisfiableError
from buildit.events import Reporter, silent
from buildit.remote.fetch import ATTEMPTS, Abort, Fetch, Fetcher, retried
from buildit.remote.transport import LocationError, Transport, read_small
from buildit.trust.openpgp import verify_clearsigned

DEBIAN_ORIGIN = "Debian"
MAX_INRELEASE = 16 << 20
"""Largest InRelease in bytes; bookworm's has 150 kB."""
CLOCK_SLACK = 24 * 3600
"""Seconds that the archive's clock may be ahead of ours."""
_PATH = re.compile(r"[A-Za-z0-9+@][A-Za-z0-9+@._/-]*")
KEEP_SECONDS = 30 * 24 * 3600
"""How long a cached index stays after its last use."""
MAX_INDEX = 1 << 30
"""Largest plain Packages file in bytes; bookworm's has 47 MB."""
_FORMS = (".xz", ".gz", "")
_MAIN, _SECURITY = "/debian", "/debian-security"
"""How the URIs of Debian's two archives end on its mirrors."""
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One index: digest and size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Release:
    """What a suite says of itself. Times in seconds since 1970. `files` by path below the suite."""

    origin: str
    suite: str
    codename: str
    date: int
    valid_until: int | None
    by_hash: bool
    components: tuple[str, ...]
    files: Mapping[str, IndexFile]


def archive_keys() -> tuple[bytes, ...]:
    """The OpenPGP keys of Debian's archive that buildit ships (`keys/README.md`)."""
    folder = Path(__file__).parent / "keys"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.asc")))


def fetch_release(
    source: AptSource, transport: Transport, keys: Sequence[bytes], now: int
) -> Release:
    """Fetch, verify and check the release of a source.

    Raises:
        FetchError: the archive does not serve it.
        IntegrityError: it is not signed by `keys`, is of another suite, outdated, or malformed.
    """
    url = inrelease_url(source)
    try:
        message = read_small(transport, url, MAX_INRELEASE)
    except LocationError as error:
        error.hint = error.hint or "check the network and the machine's apt sources"
        raise
    release = read_release(message, keys, url)
    check_release(release, source, now)
    return release


def beside(sources: Iterable[AptSource], suite: str) -> Iterator[AptSource]:
    """Where a suite may be that no source names: below each of them, as a mirror has all suites;
    before, for security updates, in the `…/debian-security` that mirrors have beside `…/debian`.

    Only where to look: whose suite it is, its signature says.
    """
    listed = [replace(source, suite=suite, components=("main",)) for source in sources]
    if suite.endswith("-security"):
        for one in listed:
            if one.uri.endswith(_MAIN):
                yield replace(one, uri=f"{one.uri}-security")
    yield from listed


def likely_bases(sources: Iterable[AptSource], suite: str) -> tuple[str, ...]:
    """The URIs below which a suite's packages most likely are: those of the sources that name it,
    else those of Debian's mirrors by their names."""
    known = tuple(sources)
    named = [one.uri for one in known if one.suite == suite]
    others = (one.uri for one in beside(known, suite) if one.uri.endswith((_MAIN, _SECURITY)))
    return tuple(dict.fromkeys(named or others))


def inrelease_url(source: AptSource) -> str:
    return f"{source.uri}/dists/{source.suite}/InRelease"


def read_release(message: bytes, keys: Sequence[bytes], place: str) -> Release:
    """Verify an InRelease, then read what was verified.

    Raises:
        IntegrityError: a bad signature, or a malformed file.
    """
    try:
        return _parse(verify_clearsigned(message, keys).text)
    except IntegrityError as error:
        raise IntegrityError(error.message, place=place, hint=error.hint) from error
    except (RecipeError, ValueError) as error:
        reason = error.message if isinstance(error, RecipeError) else error
        raise IntegrityError(f"malformed release file: {reason}", place=place) from error


def check_release(release: Release, source: AptSource, now: int) -> None:
    """Check a release against what was asked for, at the time `now`.

    Raises:
        IntegrityError: another suite, outdated, or from the future.
    """
    place = inrelease_url(source)
    if source.suite not in (release.suite, release.codename):
        reason = f"is of suite {release.codename!r} ({release.suite!r}), not of {source.suite!r}"
        raise IntegrityError(reason, place=place, hint="the mirror is broken: take another one")
    if source.check_date and release.date > now + CLOCK_SLACK:
        reason = f"was signed at {iso_time(release.date)}, which is in the future"
        raise IntegrityError(reason, place=place, hint="set this machine's clock")
    if source.check_valid_until and release.valid_until is not None and now > release.valid_until:
        reason = f"is valid until {iso_time(release.valid_until)}, which has passed"
        way = "for a snapshot, say Check-Valid-Until: no in its apt source"
        hint = f"the mirror is out of date: take another one; {way}"
        raise IntegrityError(reason, place=place, hint=hint)


def iso_time(seconds: int) -> str:
    """`2026-05-16T09:30:11Z`"""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse(text: bytes) -> Release:
    """ValueError says what is malformed."""
    try:
        found = [fields for _, fields in paragraphs(text.decode("utf-8"), "InRelease")]
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if len(found) != 1:
        raise ValueError(f"{len(found)} paragraphs")
    (fields,) = found
    for name in ("date", "sha256"):
        if name not in fields:
            raise ValueError(f"no {name!r}")
    return Release(
        origin=fields.get("origin", ""),
        suite=fields.get("suite", ""),
        codename=fields.get("codename", ""),
        date=_time(fields["date"]),
        valid_until=_time(fields["valid-until"]) if "valid-until" in fields else None,
        by_hash=fields.get("acquire-by-hash") == "yes",
        components=tuple(fields.get("components", "").split()),
        files=dict(_file(line) for line in fields["sha256"].split("\n") if line),
    )


def _time(text: str) -> int:
    """`Sat, 11 Jul 2026 10:16:37 UTC`"""
    try:
        return int(parsedate_to_datetime(text.replace("UTC", "+0000")).timestamp())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a time: {text!r}") from error


def _file(line: str) -> tuple[str, IndexFile]:
    words = line.split()
    if len(words) != 3 or not is_hex64(words[0]) or not words[1].isdecimal():
        raise ValueError(f"{line[:80]!r}")
    digest, size, path = words
    if ".." in path or not _PATH.fullmatch(path):
        raise ValueError(f"path {path[:80]!r}")
    return path, IndexFile(Digest(digest), int(size))


class _Fetched:
    """A `BlobSink` in memory, for packed indices (10 MB), which are read once and thrown away."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    def has(self, digest: Digest) -> bool:
        return digest in self.blobs

    @contextmanager
    def ingest(self) -> Iterator[_Ingest]:
        yield _Ingest(self.blobs)


class _Ingest(io.BytesIO):
    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        super().__init__()
        self._blobs = blobs

    def commit(self, expected: Digest | None = None) -> Digest:
        data = self.getvalue()
        digest = digest_bytes(data)
        if expected is not None and digest != expected:
            raise IntegrityError(f"expected sha256:{expected}, got sha256:{digest}")
        self._blobs[digest] = data
        return digest


@dataclass(frozen=True, slots=True)
class DebianArchive:
    """The archive as `sources` reach it; `keys` sign it; `now` in seconds since 1970.

    `cache` is a directory for indices, ours alone and safe to delete.
    """

    sources: Sequence[AptSource]
    transport: Transport
    cache: Path
    keys: Sequence[bytes]
    now: int
    reporter: Reporter = silent
    _releases: dict[str, tuple[AptSource, Release]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What was verified once holds for all that is chosen in one run."""

    def bases(self) -> tuple[str, ...]:
        """The URIs of Debian's archive among the sources, in their order, and those of its security
        updates that no source names.

        Times are not checked: a digest pins whatever is fetched from there.

        Raises:
            FetchError: none of the sources is Debian's, or none answers.
        """
        found: dict[str, None] = {}
        reasons: list[str] = []
        for source in self.sources:
            if source.uri in found:
                continue
            try:
                url = inrelease_url(source)
                message = read_small(self.transport, url, MAX_INRELEASE)
                if read_release(message, self.keys, url).origin == DEBIAN_ORIGIN:
                    found[source.uri] = None
                else:
                    reasons.append(f"{url}: its origin is not Debian")
            except (FetchError, IntegrityError) as error:
                reasons.append(str(error))
        if not found:
            raise _no_source(reasons)
        known = (source for source in self.sources if source.uri in found)
        further = (one.uri for one in beside(known, "-security"))
        return tuple(dict.fromkeys((*found, *further)))

    @contextmanager
    def open_indices(self, suites: Sequence[str], arch: str) -> Iterator[Indices]:
        """The package indices of some suites for one Debian architecture (`amd64`).

        Raises:
            FetchError: a suite, or one of its indices, is served by no source.
            IntegrityError: a signature, digest, suite, origin or time is wrong.
            StoreError: the cache cannot be written.
        """
        with self._opened(suites, f"binary-{arch}/Packages", PACKAGES) as (opened, dates):
            yield Indices(opened, dates, arch)

    @contextmanager
    def open_sources(self, suites: Sequence[str]) -> Iterator[Sources]:
        """The indices of source packages of some suites.

        Raises:
            as `open_indices`.
        """
        with self._opened(suites, "source/Sources", SOURCES) as (opened, dates):
            yield Sources(opened, dates)

    @contextmanager
    def _opened(
        self, suites: Sequence[str], name: str, table: Table[_T]
    ) -> Iterator[tuple[tuple[OpenIndex[_T], ...], dict[str, str]]]:
        releases = [self._release(suite) for suite in suites]
        wanted = [
            _listed(source, release, f"{component}/{name}", self.cache)
            for source, release in releases
            for component in _components(source, release)
        ]
        self._bring([index for index in wanted if not index.path.is_file()], table)
        with ExitStack() as stack:
            opened = []
            for index in wanted:
                os.utime(index.path)
                one = OpenIndex(index.path, index.suite, table)
                opened.append(stack.enter_context(closing(one)))
            oldest = time.time() - KEEP_SECONDS
            for path in self.cache.glob("*.index"):
                if path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
            dates = {source.suite: iso_time(release.date) for source, release in releases}
            yield tuple(opened), dates

    def _release(self, suite: str) -> tuple[AptSource, Release]:
        if suite not in self._releases:
            self._releases[suite] = self._verified(suite)
        return self._releases[suite]

    def _verified(self, suite: str) -> tuple[AptSource, Release]:
        own = [source for source in self.sources if source.suite == suite]
        tried = {source.uri for source in own}
        others = {one.uri: one for one in beside(self.sources, suite) if one.uri not in tried}
        reasons: list[str] = []
        for source in (*own, *others.values()):
            try:
                release = fetch_release(source, self.transport, self.keys, self.now)
            except FetchError as error:
                reasons.append(str(error))
                continue
            except IntegrityError as error:
                if source in own:
                    raise  # what should be Debian's and does not verify is not passed over
                reasons.append(str(error))
                continue
            if release.origin == DEBIAN_ORIGIN:
                return source, release
            reasons.append(f"{inrelease_url(source)}: its origin is {release.origin!r}")
        raise _no_source(reasons, suite)

    def _bring(self, missing: Sequence[_Listed], table: Table[Any]) -> None:
        """Fetch, verify and convert indices."""
        if not missing:
            return
        sink = _Fetched()
        fetcher = Fetcher(sink, self.transport, self.cache / "partial", reporter=self.reporter)
        fetcher.fetch_all([index.fetch for index in missing], 4)
        for index in missing:
            packed = io.BytesIO(sink.blobs.pop(index.digest))
            plain = decompressed(packed, Budget(total_bytes=MAX_INDEX), index.fetch.name)
            build_index(plain, table, index.path, index.fetch.name, index.stated)


@dataclass(frozen=True, slots=True)
class _Listed:
    """One index that a release lists: its packed form, the plain one's digest where the release has
    it, and where it is kept."""

    suite: str
    fetch: Fetch
    digest: Digest
    stated: Digest | None
    path: Path


def _listed(source: AptSource, release: Release, name: str, cache: Path) -> _Listed:
    """`name` is without the compression's ending."""
    base = f"{source.uri}/dists/{source.suite}"
    folder, _, kind = name.rpartition("/")
    for form in _FORMS:
        file = release.files.get(name + form)
        if file is None:
            continue
        by_hash = f"{base}/{folder}/by-hash/SHA256/{file.digest}"
        urls = ((by_hash,) if release.by_hash else ()) + (f"{base}/{name}{form}",)
        fetch = Fetch(f"{source.suite} {name}{form}", urls, file.digest, file.size)
        plain = release.files.get(name)
        stated = plain.digest if plain else None
        # the kind in its name, as all empty indices have one digest
        path = cache / f"{file.digest}.{kind}.{INDEX_FORMAT}.index"
        return _Listed(source.suite, fetch, file.digest, stated, path)
    hint = "check the architecture and the components"
    raise UnsatisfiableError(f"lists no {name}", place=base, hint=hint)


def _components(source: AptSource, release: Release) -> tuple[str, ...]:
    """The source's components that the suite has; the security archive writes `updates/main`."""
    had = {component.rpartition("/")[2] for component in release.components}
    return tuple(component for component in source.components if component in had)


def _no_source(reasons: Sequence[str], suite: str = "") -> FetchError:
    what = f"has the suite {suite!r}" if suite else "is Debian's archive"
    part = _SECURITY if suite.endswith("-security") else _MAIN
    line = f"deb https://HOST{part} {suite or 'bookworm'} main"
    hint = f"add one: {line}, in /etc/apt/sources.list.d"
    details = tuple(reasons)
    return FetchError(f"no apt source of this machine {what}", hint=hint, details=details)


def is_served(transport: Transport, urls: Iterable[str], size: int) -> bool:
    """Whether a file of `size` bytes is at one of the places; nothing of it is read.

    Raises:
        LocationError: none has it, and one could not be asked.
    """
    failed: LocationError | None = None
    for url in urls:
        try:
            if retried(partial(_has_size, transport, url, size), ATTEMPTS, Abort(), 10.0):
                return True
        except LocationError as error:
            failed = failed if error.absent or error.wrong else error
    if failed is not None:
        raise failed
    return False


def _has_size(transport: Transport, url: str, size: int) -> bool:
    with transport.get(url, 0, size) as response:
        return response.total in (None, size)
