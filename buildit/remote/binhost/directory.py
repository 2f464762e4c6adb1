"""A binhost that is a directory of this machine: a store like any other, written as one."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path

from buildit.digest import CHUNK, BuildKey, Digest
from buildit.errors import IntegrityError
from buildit.files import replacing
from buildit.model.address import Directory
from buildit.remote.binhost.protocols import (
    PACK,
    Outgoing,
    Progress,
    Served,
    SignedStatement,
    WantedBlob,
    reading_of,
)
from buildit.remote.binhost.reading import ReadOnly
from buildit.store.artifacts import place_statement, read_bounded, signature_path
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.store.durable import located


class DirectoryRemote:
    """Blobs, statements and views below a directory, which is made at the first thing to write."""

    def __init__(self, address: Directory, reading: ReadOnly) -> None:
        self.address = address
        self._root = Path(address.path)
        self._reading = reading
        self._opened: Store | None = None

    @property
    def _target(self) -> Store:
        if self._opened is None:
            self._opened = Store.open(self._root)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    # -- blobs

    def missing(self, blobs: Mapping[Digest, int]) -> frozenset[Digest]:
        self._target.pin(tuple(blobs))
        return frozenset(one for one, size in blobs.items() if self._target.size(one) != size)

    def get(self, wanted: Sequence[WantedBlob], store: Store, batch: Batch) -> int:
        return self._reading.get(wanted, store, batch)

    def put(self, blobs: Sequence[Outgoing], progress: Progress) -> None:
        total, sent = sum(blob.size for blob in blobs), 0
        with self._target.batch() as batch:
            for blob in blobs:
                with closing(blob.open()) as source, batch.ingest() as sink:
                    while chunk := source.read(CHUNK):
                        sink.write(chunk)
                        sent += len(chunk)
                        progress(sent, total)
                    sink.commit(blob.digest)

    # -- statements

    def of(self, asked: Sequence[tuple[BuildKey, str]]) -> list[Served | None]:
        return self._reading.of(asked)

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        differs = []
        for one in statements:
            placed = place_statement(
                self._target, one.artifact, one.builder, one.content, one.signature
            )
            if placed.differs_from is not None:
                differs.append(str(placed.path))
            self._settle(placed.path, one)
        return differs

    def _settle(self, path: Path, one: SignedStatement) -> None:
        """The signature and the pack of this statement, whatever an earlier push left."""
        disk, beside, pack = (
            self._target.disk,
            signature_path(path),
            path.with_name(path.name + PACK),
        )
        entry = self._target.lease().entry("beside")
        with located(path):
            if one.signature and _bytes(beside, len(one.signature)) != one.signature:
                disk.replace_file("signature", beside, one.signature, entry)
            if one.pack and _bytes(pack, len(one.pack)) != one.pack:
                disk.replace_file("pack", pack, one.pack, entry, sync=False)

    # -- views

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        return [self._names(self._root / directory) for directory in directories]

    def _names(self, directory: Path) -> tuple[str, ...]:
        with located(directory):
            return tuple(sorted(os.listdir(directory))) if directory.is_dir() else ()

    def read(self, paths: Sequence[str], limit: int) -> list[bytes | None]:
        found = []
        for path in paths:
            with located(self._root / path):
                found.append(_bytes(self._root / path, limit))
        return found

    def write(self, path: str, content: bytes | Path) -> None:
        target = self._target.root / path
        temporary = self._target.lease().entry("view")
        with located(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with reading_of(content) as stream, replacing(target, temporary=temporary) as out:
                while chunk := stream.read(CHUNK):
                    out.write(chunk)


def _bytes(path: Path, limit: int) -> bytes | None:
    """A small file; None where there is none, or one that is larger or no regular file."""
    try:
        return read_bounded(path, limit) if path.is_file() else None
    except IntegrityError:
        return None
