"""Real implementations of our protocols, in memory, for tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from buildit.digest import Digest, digest_bytes
from buildit.errors import IntegrityError
from buildit.remote.transport import LocationError, Response, check_cap


class FakeTransport:
    """Serves `{url: bytes}`, or raises the error that is there instead.

    `ranges` says whether a body can begin in the middle. `asked` is what was asked: (url, offset).
    """

    def __init__(
        self,
        bodies: Mapping[str, bytes | LocationError],
        *,
        ranges: bool = True,
        chunk: int = 7,
        content_type: str = "application/octet-stream",
    ) -> None:
        self.bodies = dict(bodies)
        self.asked: list[tuple[str, int]] = []
        self._ranges = ranges
        self._chunk = chunk
        self._content_type = content_type

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        self.asked.append((url, offset))
        body = self.bodies.get(url, LocationError(url, "not found (HTTP 404)", absent=True))
        if isinstance(body, LocationError):
            raise body
        check_cap(url, len(body), cap)
        start = offset if self._ranges and offset <= len(body) else 0
        chunks = (body[at : at + self._chunk] for at in range(start, len(body), self._chunk))
        yield Response(chunks, start, len(body), self._content_type, lambda: None)

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
