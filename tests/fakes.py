"""Real implementations of our protocols, in memory, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from buildit.digest import CHUNK, BuildKey, Digest, digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.model.config import Address, Directory
from buildit.remote.binhost.directory import ReadOnly
from buildit.remote.binhost.protocols import (
    PACK,
    Outgoing,
    Progress,
    Served,
    SignedStatement,
    WantedBlob,
    blob_path,
    reading_of,
)
from buildit.remote.fetch import web_transport
from buildit.remote.transport import (
    LocalTransport,
    LocationError,
    Response,
    SchemeTransport,
    check_cap,
)
from buildit.store.blobs import Batch
from buildit.store.cas import Store


def default_transport() -> SchemeTransport:
    """https, http and local files."""
    return SchemeTransport({"https": web_transport, "http": web_transport, "file": LocalTransport})


class FakeTransport:
    """Serves `{url: bytes}`, or raises the error that is there instead.

    `ranges` says whether a body can begin in the middle. `asked` is what was asked: (url, offset).
    """

    def __init__(
        self, bodies: Mapping[str, bytes | LocationError], *, ranges: bool = True, chunk: int = 7
    ) -> None:
        self.bodies = dict(bodies)
        self.asked: list[tuple[str, int]] = []
        self._ranges = ranges
        self._chunk = chunk

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        self.asked.append((url, offset))
        body = self.bodies.get(url, LocationError(url, "not found (HTTP 404)", absent=True))
        if isinstance(body, LocationError):
            raise body
        check_cap(url, len(body), cap)
        start = offset if self._ranges and offset <= len(body) else 0
        chunks = (body[at : at + self._chunk] for at in range(start, len(body), self._chunk))
        yield Response(chunks, start, len(body), lambda: None)

    def close(self) -> None:
        return


class MemoryIngest:
    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        self._blobs = blobs
        self._data = bytearray()

    def write(self, data: bytes, /) -> int:
        self._data += data
        return len(data)

    def commit(self, expected: Digest | None = None) -> Digest:
        digest = digest_bytes(bytes(self._data))
        if expected is not None and digest != expected:
            raise IntegrityError(f"expected {expected}, got {digest}")
        self._blobs[digest] = bytes(self._data)
        return digest


class MemorySink:
    """A blob store of nothing but a dictionary."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    def has(self, digest: Digest) -> bool:
        return digest in self.blobs

    @contextmanager
    def ingest(self) -> Iterator[MemoryIngest]:
        yield MemoryIngest(self.blobs)


@dataclass
class MemoryFiles:
    """Serves a dictionary of paths below an address; `dead` serves nothing at all."""

    address: Address
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    dead: bool = False

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        path = url.removeprefix(self.address.url(""))
        self.asked.append(path)
        if self.dead:
            raise LocationError(url, "connection refused", unreachable=True)
        if path not in self.files:
            raise LocationError(url, "no such file", absent=True)
        body = self.files[path]
        check_cap(url, len(body), cap)
        yield Response(iter((body[offset:],)), offset, len(body), lambda: None)

    def close(self) -> None:
        return


class MemoryRemote:
    """A binhost of nothing but a dictionary: its blobs, statements and views, as all others."""

    def __init__(self, address: Address | None = None) -> None:
        self.address = address or Directory("/memory")
        self.transport = MemoryFiles(self.address)
        self.files = self.transport.files
        self.reading = ReadOnly(self.address, self.transport, jobs=1)

    def missing(self, blobs: Mapping[Digest, int]) -> frozenset[Digest]:
        sizes = {digest: len(self.files.get(blob_path(digest), b"")) for digest in blobs}
        there = {digest for digest in blobs if blob_path(digest) in self.files}
        return frozenset(one for one in blobs if one not in there or sizes[one] != blobs[one])

    def get(self, wanted: Sequence[WantedBlob], store: Store, batch: Batch) -> int:
        return self.reading.get(wanted, store, batch)

    def put(self, blobs: Sequence[Outgoing], progress: Progress) -> None:
        for blob in blobs:
            with closing(blob.open()) as stream:
                content = b"".join(iter(lambda: stream.read(CHUNK), b""))
            if digest_bytes(content) != blob.digest:
                raise IntegrityError("other bytes than were promised")
            self.files[blob_path(blob.digest)] = content
            progress(blob.size, sum(one.size for one in blobs))

    def of(self, asked: Sequence[tuple[BuildKey, str]]) -> list[Served | None]:
        return self.reading.of(asked)

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        differs = []
        for one in statements:
            path = one.path
            if self.files.get(path, one.content) != one.content:
                path = f"{path.removesuffix('.json')}.{digest_bytes(one.content)}.json"
                differs.append(path)
            beside = {path: one.content, f"{path}.sig": one.signature, path + PACK: one.pack}
            self.files |= {name: content for name, content in beside.items() if content}
        return differs

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        return [self._names(PurePosixPath(directory)) for directory in directories]

    def _names(self, directory: PurePosixPath) -> tuple[str, ...]:
        depth = len(directory.parts)
        below = (PurePosixPath(path) for path in self.files)
        found = {path.parts[depth] for path in below if directory in path.parents}
        return tuple(sorted(found))

    def read(self, paths: Sequence[str], limit: int) -> list[bytes | None]:
        if self.transport.dead:
            raise FetchError("connection refused")
        self.transport.asked += paths
        found = (self.files.get(path) for path in paths)
        return [one if one is not None and len(one) <= limit else None for one in found]

    def write(self, path: str, content: bytes | Path) -> None:
        with reading_of(content) as stream:
            self.files[path] = stream.read()
