"""Binhosts for tests: the real ones, put together in few words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import IntegrityError
from buildit.events import Reporter, silent
from buildit.model.artifact import Artifact
from buildit.model.config import Address, Directory, Repository, parse_address
from buildit.remote.binhost.binhost import Binhost, Push, Pushed
from buildit.remote.binhost.directory import DirectoryRemote, ReadOnly
from buildit.remote.binhost.protocols import Remote, WantedBlob
from buildit.remote.transport import LocalTransport, Transport
from buildit.store.cas import Store
from buildit.trust.policy import Accept

BUILDER = "ab" * 32


def sign(content: bytes) -> bytes:
    return b"signed " + digest_bytes(content).encode()


def accept(content: bytes, signature: bytes | None, builder: str) -> None:
    """The policy of these tests: one builder, and the signature above."""
    if builder != BUILDER or signature != sign(content):
        raise IntegrityError("not trusted", place=builder)


def readable(
    address: Address | str, transport: Transport, report: Reporter = silent, jobs: int = 1
) -> Remote:
    """What is read at an address through a transport, as of a web server."""
    address = parse_address(address) if isinstance(address, str) else address
    return ReadOnly(address, transport, report, jobs)


def directory(root: Path) -> DirectoryRemote:
    """A directory of this machine."""
    return DirectoryRemote(Directory(str(root)), LocalTransport(follow=False))


def pull_blobs(host: Binhost, wanted: Sequence[WantedBlob], store: Store) -> int:
    """Take blobs by themselves, as no pull of an artifact does; how many came."""
    with store.batch() as batch:
        return host.remote.get(wanted, store, batch)


@dataclass(frozen=True, slots=True)
class FileBinhost:
    """A directory that is pulled from and pushed to under one policy."""

    root: Path
    accept: Accept
    unsigned: bool = False
    report: Reporter = silent

    @property
    def binhost(self) -> Binhost:
        return Binhost("test", directory(self.root), self.accept, (), self.unsigned, self.report)

    def pull(self, key: BuildKey, store: Store) -> Artifact | None:
        return self.binhost.pull(key, store)

    def pull_blob(self, digest: Digest, store: Store, limit: int) -> bool:
        wanted = WantedBlob(digest, None, limit, optional=True)
        return pull_blobs(self.binhost, (wanted,), store) == 1

    def push(self, key: BuildKey, store: Store) -> Pushed:
        there = directory(self.root)
        try:
            return Push(store, there, self.accept, self.unsigned)((key,))
        finally:
            there.close()


def repository(name: str, download: str, upload: str = "", *, unsigned: bool = False) -> Repository:
    """A repository of a configuration, by its addresses as text."""
    there, target = (parse_address(text) if text else None for text in (download, upload))
    return Repository(name, there, target, unsigned=unsigned)
