"""Debian's archive through the machine's own apt sources: where it is, and its verified indices.

`mirror://debian/…` means the sources whose signed release says `Origin: Debian`. A suite that the
machine does not use itself is looked for below the same places, so that a Debian 12 toolchain can
be chosen on a later Debian too.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, BinaryIO

from buildit.archive.decompress import decompressed
from buildit.archive.tar.admit import Budget
from buildit.debian.packages import INDEX_FORMAT, PackageIndex, build_index
from buildit.debian.release import (
    DEBIAN_ORIGIN,
    MAX_INRELEASE,
    IndexFile,
    Release,
    fetch_release,
    inrelease_url,
    iso_time,
    read_release,
)
from buildit.debian.select import Merged
from buildit.debian.sources_list import AptSource
from buildit.digest import CHUNK, Digest
from buildit.errors import FetchError, IntegrityError, StoreError, UnsatisfiableError
from buildit.events import Reporter, silent
from buildit.remote.fetch import Fetch, Fetcher
from buildit.remote.transport import Transport, read_small

KEEP_SECONDS = 30 * 24 * 3600
"""How long a cached index stays after its last use."""
MAX_INDEX = 1 << 30
"""Largest plain Packages file in bytes; bookworm's has 47 MB."""
_FORMS = (".xz", ".gz", "")


class _FolderIngest:
    def __init__(self, stream: IO[bytes], path: Path, folder: Path) -> None:
        self._stream = stream
        self._path = path
        self._folder = folder
        self._hash = hashlib.sha256()

    def write(self, data: bytes, /) -> int:
        self._hash.update(data)
        return self._stream.write(data)

    def commit(self, expected: Digest | None = None) -> Digest:
        digest = Digest(self._hash.hexdigest())
        if expected is not None and digest != expected:
            raise IntegrityError(f"expected sha256:{expected}, got sha256:{digest}")
        self._stream.flush()
        os.replace(self._path, self._folder / digest)
        return digest


class FolderSink:
    """A plain directory of files named by digest, for what is fetched, read once and thrown away.

    A `BlobSink` on a directory, which is made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: Digest) -> Path:
        return self._folder / digest

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    @contextmanager
    def ingest(self) -> Iterator[_FolderIngest]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as stream:
                try:
                    yield _FolderIngest(stream.file, Path(stream.name), self._folder)
                finally:
                    Path(stream.name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write: {error.strerror}", place=str(self._folder)) from error


@dataclass(frozen=True, slots=True)
class Indices:
    """What can be chosen from: all suites as one, and each suite's date (ISO 8601, UTC)."""

    merged: Merged
    dates: Mapping[str, str]


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

    def bases(self) -> tuple[str, ...]:
        """The URIs of Debian's archive among the sources, in their order.

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
        return tuple(found)

    @contextmanager
    def open_indices(self, suites: Sequence[str], arch: str) -> Iterator[Indices]:
        """The package indices of some suites for one Debian architecture (`amd64`).

        Raises:
            FetchError: a suite, or one of its indices, is served by no source.
            IntegrityError: a signature, digest, suite, origin or time is wrong.
            StoreError: the cache cannot be written.
        """
        releases = [self._release(suite) for suite in suites]
        wanted = [
            _packages(source, release, component, arch)
            for source, release in releases
            for component in _components(source, release)
        ]
        self._bring([index for index in wanted if not self._cached(index).is_file()])
        with ExitStack() as stack:
            opened: list[PackageIndex] = []
            for index in wanted:
                path = self._cached(index)
                os.utime(path)
                opened.append(PackageIndex(path, index.suite))
                stack.callback(opened[-1].close)
            self._prune()
            dates = {source.suite: iso_time(release.date) for source, release in releases}
            yield Indices(Merged(tuple(opened)), dates)

    def _release(self, suite: str) -> tuple[AptSource, Release]:
        own = [source for source in self.sources if source.suite == suite]
        others = {
            source.uri: replace(source, suite=suite, components=("main",))
            for source in self.sources
            if all(source.uri != one.uri for one in own)
        }
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

    def _cached(self, index: _Packages) -> Path:
        return self.cache / f"{index.file.digest}.{INDEX_FORMAT}.index"

    def _bring(self, missing: Sequence[_Packages]) -> None:
        """Fetch, verify and convert indices."""
        if not missing:
            return
        sink = FolderSink(self.cache / "fetched")
        fetcher = Fetcher(sink, self.transport, self.cache / "partial", reporter=self.reporter)
        fetcher.fetch_all([index.fetch() for index in missing], 4)
        for index in missing:
            path = sink.path(index.file.digest)
            with path.open("rb") as packed:
                plain = decompressed(packed, Budget(total_bytes=MAX_INDEX), index.place)
                checked = _Checked(plain, index.plain, index.place)
                build_index(checked, self._cached(index), index.place)
            path.unlink()

    def _prune(self) -> None:
        oldest = time.time() - KEEP_SECONDS
        for path in self.cache.glob("*.index"):
            if path.stat().st_mtime < oldest:
                path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Packages:
    """One Packages file: its packed form, and its plain one where the release states it."""

    suite: str
    place: str
    urls: tuple[str, ...]
    file: IndexFile
    plain: IndexFile | None

    def fetch(self) -> Fetch:
        return Fetch(self.place, self.urls, self.file.digest, self.file.size)


class _Checked:
    """A stream that raises at its end where its bytes were not those that the release states."""

    def __init__(self, stream: BinaryIO, stated: IndexFile | None, place: str) -> None:
        self._stream = stream
        self._stated = stated
        self._place = place
        self._hash = hashlib.sha256()

    def read(self, size: int = CHUNK, /) -> bytes:
        chunk = self._stream.read(size)
        self._hash.update(chunk)
        if not chunk and self._stated is not None:
            got = self._hash.hexdigest()
            if got != self._stated.digest:
                raise IntegrityError(
                    f"unpacks to sha256:{got}, not to sha256:{self._stated.digest}",
                    place=self._place,
                )
        return chunk


def _packages(source: AptSource, release: Release, component: str, arch: str) -> _Packages:
    name = f"{component}/binary-{arch}/Packages"
    base = f"{source.uri}/dists/{source.suite}"
    for form in _FORMS:
        file = release.files.get(name + form)
        if file is None:
            continue
        by_hash = f"{base}/{component}/binary-{arch}/by-hash/SHA256/{file.digest}"
        urls = ((by_hash,) if release.by_hash else ()) + (f"{base}/{name}{form}",)
        plain = release.files.get(name)
        return _Packages(source.suite, f"{source.suite} {name}{form}", urls, file, plain)
    raise UnsatisfiableError(
        f"has no packages of {component} for {arch}", place=f"{base}", hint="check the architecture"
    )


def _components(source: AptSource, release: Release) -> tuple[str, ...]:
    """The source's components that the suite has; the security archive writes `updates/main`."""
    had = {component.rpartition("/")[2] for component in release.components}
    return tuple(component for component in source.components if component in had)


def _no_source(reasons: Sequence[str], suite: str = "") -> FetchError:
    what = f"has the suite {suite!r}" if suite else "is Debian's archive"
    return FetchError(
        f"no apt source of this machine {what}",
        hint="add one: deb https://HOST/debian bookworm main, in /etc/apt/sources.list.d",
        details=tuple(reasons),
    )
