"""A plain directory of files named by digest, for what is fetched, read once and thrown away."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from buildit.digest import Digest
from buildit.errors import IntegrityError, StoreError


class FolderIngest:
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
    """A `net.sources.BlobSink` on a directory, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, digest: Digest) -> Path:
        return self._folder / digest

    def has(self, digest: Digest) -> bool:
        return self.path(digest).is_file()

    @contextmanager
    def ingest(self) -> Iterator[FolderIngest]:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as stream:
                try:
                    yield FolderIngest(stream.file, Path(stream.name), self._folder)
                finally:
                    Path(stream.name).unlink(missing_ok=True)
        except OSError as error:
            raise StoreError(f"cannot write: {error.strerror}", place=str(self._folder)) from error
