"""Binhosts for tests: the real ones, put together in few words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from buildit.digest import BuildKey, Digest, digest_bytes
from buildit.errors import IntegrityError
from buildit.events import Reporter, silent
from buildit.model.artifact import Artifact
from buildit.remote.binhost.binhost import Accept, Binhost
from buildit.remote.binhost.publishing import FilePublisher, Push, Pushed
from buildit.remote.transport import LocalTransport
from buildit.store.cas import Store

BUILDER = "ab" * 32


def sign(content: bytes) -> bytes:
    return b"signed " + digest_bytes(content).encode()


def accept(content: bytes, signature: bytes | None, builder: str) -> None:
    """The policy of these tests: one builder, and the signature above."""
    if builder != BUILDER or signature != sign(content):
        raise IntegrityError("not trusted", place=builder)


@dataclass(frozen=True, slots=True)
class FileBinhost:
    """A directory that is pulled from and pushed to under one policy."""

    root: Path
    accept: Accept
    unsigned: bool = False
    report: Reporter = silent

    @property
    def binhost(self) -> Binhost:
        way = LocalTransport(follow=False)
        return Binhost(
            "test", str(self.root), way, self.accept, (), self.unsigned, self.report, jobs=1
        )

    def pull(self, key: BuildKey, store: Store) -> Artifact | None:
        return self.binhost.pull(key, store)

    def pull_blob(self, digest: Digest, store: Store, limit: int) -> bool:
        return self.binhost.pull_blob(digest, store, limit)

    def push(self, key: BuildKey, store: Store) -> Pushed:
        publisher = FilePublisher(self.root)
        try:
            return Push(store, publisher, self.accept, self.unsigned)((key,))
        finally:
            publisher.close()
