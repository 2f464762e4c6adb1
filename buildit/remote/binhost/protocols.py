"""What a binhost is to its callers: three small protocols, each of at most three methods.

A directory, a web server and a directory behind SSH are such remotes, and so is one in memory that
the tests use. A remote serves and takes bytes and judges no one: `Binhost` does, before it takes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Protocol

from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import FetchError
from buildit.model.artifact import Artifact, Encoding
from buildit.model.config import Address
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.store.disk import BLOBS, key_directory

SIGNATURE_LIMIT = 64 << 10
PACK = ".pack"
"""After a statement's file name: the small blobs of its artifact, together."""


@dataclass(frozen=True, slots=True)
class WantedBlob:
    """A blob: its `size` in bytes where known, and the most that it may have. `forms` are its
    compressed forms. An `optional` one may be missing. `label` is what people call it."""

    digest: Digest
    size: int | None
    limit: int
    forms: tuple[Encoding, ...] = ()
    optional: bool = False
    label: str = ""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A blob to send; `open` gives a stream that raises at its end where the bytes are wrong."""

    digest: Digest
    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class SignedStatement:
    """A statement as it is published. `pack` are the small blobs of its artifact; empty for none.
    `resolved` is the artifact's resolved key (DESIGN 3, early cut-off), None where it has none."""

    artifact: Artifact
    builder: str
    content: bytes
    signature: bytes | None
    pack: bytes = b""
    resolved: Digest | None = None

    @property
    def path(self) -> str:
        """Where it is, below a binhost's root."""
        return statement_path(self.artifact.key, f"{self.builder}.json")


Served = tuple[bytes, bytes | None]
"""A statement's bytes and its signature's, as they lie there."""
Progress = Callable[[int, int], None]
"""Bytes sent, and bytes to send in all."""


class Blobs(Protocol):
    """Bytes by their SHA-256."""

    def missing(self, blobs: Mapping[Digest, int]) -> frozenset[Digest]:
        """Those that are not there with this size.

        Raises:
            FetchError, StoreError: the place cannot be read.
        """

    def get(self, wanted: Sequence[WantedBlob], store: Store, batch: Batch) -> int:
        """Bring blobs into a batch of a store, each compared with its name; how many came. What was
        cut short goes on, another time, from what the store's cache has of it.

        Raises:
            IntegrityError: one has other bytes than its name promises, or too many.
            FetchError: one cannot be read, or is missing and not optional.
            StoreError: the store cannot be written.
        """

    def put(self, blobs: Sequence[Outgoing], progress: Progress) -> None:
        """Send blobs; one is there whole or not at all.

        Raises:
            FetchError, StoreError: the place cannot be written.
        """


class Statements(Protocol):
    """What builders say of keys."""

    def of(self, asked: Sequence[tuple[BuildKey, str]]) -> list[Served | None]:
        """The statement about each key under a file name (`<builder>.json`); None where none is.

        Raises:
            FetchError: one cannot be read.
            IntegrityError: one is larger than a statement can be.
        """

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        """Publish statements whose blobs are there, each with its pack; where those are that
        contradict another, which stays. One that is there already gets this signature."""


class Views(Protocol):
    """Files that can be made anew from the rest: indices of names, pages, containers' files."""

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        """What is in each directory, sorted; nothing where there is none, or it is not listed."""

    def read(self, paths: Sequence[str], limit: int) -> list[bytes | None]:
        """Files of at most `limit` bytes; None where there is none, or a larger one.

        Raises:
            FetchError, StoreError: one cannot be read.
        """

    def write(self, path: str, content: bytes | Path) -> None:
        """Give bytes, or those of a file, their name, replacing what has it.

        Raises:
            FetchError, StoreError: the place cannot be written.
        """


class Remote(Blobs, Statements, Views, Protocol):
    """A binhost at an address."""

    @property
    def address(self) -> Address: ...


def blob_path(digest: Digest) -> str:
    """Where a blob is, below a binhost's root."""
    return f"{BLOBS}/{digest}"


def statement_path(key: BuildKey, name: str) -> str:
    """Where the file `name` of a key is, below a binhost's root."""
    return f"{key_directory(Path(), key)}/{name}"


def reading_of(content: bytes | Path) -> BinaryIO:
    """The bytes of a view, to read."""
    return BytesIO(content) if isinstance(content, bytes) else content.open("rb")


def unheard(_sent: int, _total: int) -> None:
    """The progress of library use."""


def takes_nothing(address: Address) -> FetchError:
    hint = "publish to the directory that it serves: `upload-type: ssh` or `file`"
    return FetchError("nothing can be published to a web server", place=str(address), hint=hint)


# -- the small blobs of one artifact in one file: record, listings, log. A member is a line
# `<sha256> <size>` and its bytes. A pack proves nothing and need not be there: each member is
# compared with its own name, and what is missing or wrong is asked for by itself.

PACK_LIMIT = 1 << 20
"""Bytes of a pack."""
MEMBER_LIMIT = 256 << 10
"""Bytes of one member; a longer log is asked for by itself."""
_HEAD = re.compile(rb"([0-9a-f]{64}) ([0-9]{1,7})\n")


def pack_of(members: Iterable[bytes]) -> bytes:
    """The members that fit, in this order; empty where fewer than two do."""
    found: dict[Digest, bytes] = {}
    size = 0
    for content in members:
        whole = b"%s %d\n%s" % (digest_bytes(content).encode(), len(content), content)
        if len(content) <= MEMBER_LIMIT and size + len(whole) <= PACK_LIMIT:
            found.setdefault(digest_bytes(content), whole)
            size += len(whole)
    return b"".join(found.values()) if len(found) > 1 else b""


def members_of(pack: bytes) -> Iterator[tuple[Digest, bytes]]:
    """The members whose bytes are right; what is no member ends it."""
    at = 0
    while head := _HEAD.match(pack, at):
        at = head.end() + int(head[2])
        content = pack[head.end() : at]
        if digest_bytes(content) == head[1].decode():
            yield Digest(head[1].decode()), content
