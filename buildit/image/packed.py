"""The files of an image that is one plain tar, opened where they lie: nothing is unpacked."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from buildit.archive.tar.read import read_tar
from buildit.image.layertar import Slice
from buildit.image.reading import FOREIGN
from buildit.model.tree import Kind

_USTAR_AT = 257


def is_tar(stream: BufferedReader) -> bool:
    """Whether a file is a plain tar of POSIX or GNU; it is read from its start again."""
    stream.seek(_USTAR_AT)
    magic = stream.read(5)
    stream.seek(0)
    return magic == b"ustar"


@dataclass(frozen=True, slots=True)
class Packed:
    """A file and where in it each member that is a file begins, and its size, in bytes."""

    stream: BufferedReader
    files: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, stream: BufferedReader, path: Path) -> Packed:
        """Raises IntegrityError or BuildError where it is no tar that a layer could be."""
        members = read_tar(stream, FOREIGN, str(path))
        files = {
            entry.path: (stream.tell(), entry.size)
            for entry, _ in members
            if entry.kind is Kind.FILE
        }
        return cls(stream, files)

    def open(self, name: str) -> BufferedReader:
        """Raises OSError where there is no such file."""
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
        return BufferedReader(Slice(os.dup(self.stream.fileno()), *self.files[name]))
