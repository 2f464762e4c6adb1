"""Bytes of files inside the store's layers, read where they lie: nothing is unpacked.

Layers are canonical tars, so a layer's listing alone says where each file's bytes begin. Those of
a base are as somebody else wrote them: their headers are read.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from buildit.archive.streams import HashingWriter
from buildit.archive.tar.read import read_tar
from buildit.archive.tar.write import BLOCK, END, TarWriter, header_blocks
from buildit.digest import Digest
from buildit.errors import IntegrityError
from buildit.files import replacing
from buildit.image.merge import GENERATED, Member, Overlay, Rootfs
from buildit.image.output import BlobPath, open_blob
from buildit.image.reading import FOREIGN, Hashed
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry, Kind
from buildit.store.blobs import CorruptBlob


def offsets(listing: Sequence[Entry], layer: Layer) -> dict[str, int]:
    """Where the content of each file begins in the layer's tar, in bytes.

    Raises:
        IntegrityError: the listing does not add up to the layer's size.
    """
    starts: dict[str, int] = {}
    at = 0
    for entry in listing:
        at += len(header_blocks(entry, b""))
        if entry.kind is Kind.FILE:
            starts[entry.path] = at
            at += -(-entry.size // BLOCK) * BLOCK
    at += len(END)
    if at != layer.size:
        said = f"the layer of {layer.title} has {layer.size} bytes, its contents say {at}"
        hint = "run `buildit store verify`: it sets damaged objects aside"
        raise IntegrityError(said, place=layer.diff_id, hint=hint)
    return starts


def read_offsets(stream: BinaryIO, title: str) -> dict[str, int]:
    """Where the content of each file begins in a tar that anybody wrote, in bytes; a hard link's is
    that of its file.

    Raises:
        IntegrityError, BuildError: it is no tar that a layer can be.
        OSError: it cannot be read.
    """
    starts: dict[str, int] = {}
    for entry, _ in read_tar(stream, FOREIGN, title, nodes=lambda _: None):
        if entry.kind is Kind.FILE:
            starts[entry.path] = stream.tell()
        elif entry.kind is Kind.HARDLINK:
            starts[entry.path] = starts[entry.target]
    return starts


class Slice(io.RawIOBase):
    """A part of an open file as a file of its own; closes the file."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._start = start
        self._size = size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self._size - self._at))
        start = self._start + self._at
        count = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], start) if wanted else 0
        self._at += count
        return count

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


_READ: dict[Digest, Mapping[str, int]] = {}
"""What `read_offsets` said of a base's layers: seconds for a large one, and a digest names bytes
that never change."""

_KEPT = "1"
"""Version of what is kept of it from one run to the next."""


def _kept_offsets(path: Path) -> Mapping[str, int] | None:
    """What an earlier run kept; None where that is nothing, or no such thing."""
    try:
        found = json.loads(path.read_bytes())
        starts = dict(zip(found["paths"], found["starts"], strict=True))
        if found["format"] != _KEPT or not all(type(one) is int for one in starts.values()):
            return None
    except (OSError, KeyError, TypeError, ValueError):
        return None
    return starts


def _keep_offsets(path: Path, starts: Mapping[str, int]) -> None:
    kept = {"format": _KEPT, "paths": [*starts], "starts": [*starts.values()]}
    with suppress(OSError), replacing(path) as stream:
        stream.write(json.dumps(kept, separators=(",", ":")).encode("utf-8", "surrogateescape"))


@dataclass(frozen=True, slots=True)
class Contents:
    """Opens the bytes of members of a merged tree. `kept` is a directory for what is known of a
    base's layers, which any run may take or lose."""

    rootfs: Rootfs | Overlay
    blob: BlobPath
    kept: Path | None = None
    _starts: dict[int, Mapping[str, int]] = field(default_factory=dict)

    def open(self, member: Member) -> Slice:
        """The content of a file.

        Raises:
            StoreError, IntegrityError: the layer is missing or of another size.
        """
        layer = self.rootfs.layers[member.layer]
        start = self.start(member)
        descriptor = open_blob(self.blob, layer.diff_id, layer.size, layer.title)
        return Slice(descriptor, start, member.entry.size)

    def start(self, member: Member) -> int:
        """Where in its layer the content of a file begins, in bytes.

        Raises:
            StoreError, IntegrityError: as `open`.
        """
        number = member.layer
        if number not in self._starts:
            self._starts[number] = self._located(number)
        return self._starts[number][member.source]

    def _located(self, number: int) -> Mapping[str, int]:
        layer = self.rootfs.layers[number]
        if layer.kind is not LayerKind.FROM:
            return offsets(self.rootfs.listings[number], layer)
        if layer.diff_id not in _READ:
            _READ[layer.diff_id] = self._of_base(layer)
        return _READ[layer.diff_id]

    def _of_base(self, layer: Layer) -> Mapping[str, int]:
        path = None if self.kept is None else self.kept / layer.diff_id
        known = None if path is None else _kept_offsets(path)
        if known is not None:
            return known
        descriptor = open_blob(self.blob, layer.diff_id, layer.size, layer.title)
        with open(descriptor, "rb") as stream:
            starts = read_offsets(stream, layer.title)
        if path is not None:
            _keep_offsets(path, starts)
        return starts

    @contextmanager
    def checked(self, member: Member) -> Iterator[Hashed]:
        """As `open`; that the bytes are the file's is seen at the end.

        Raises:
            CorruptBlob: at the end, where they are not of the digest that the listing gives.
        """
        with closing(self.open(member)) as stream:
            content = Hashed(stream)
            yield content
            if content.digest() != member.entry.digest:
                layer = self.rootfs.layers[member.layer]
                title = f"{member.source!r} in the layer of {layer.title}"
                raise CorruptBlob(layer.diff_id, title)


def add_members(tar: TarWriter, rootfs: Rootfs, blob: BlobPath, below: str = "") -> None:
    """Write a tree into a tar, beneath `below` (such as `rootfs/`); the bytes of files straight
    from the layers that bring them.

    Raises:
        CorruptBlob: a layer holds other bytes than its listing says.
        StoreError: a layer is missing.
    """
    contents = Contents(rootfs, blob)
    for member in rootfs.members():
        entry = member.entry
        if below:
            target = f"{below}{entry.target}" if entry.kind is Kind.HARDLINK else entry.target
            entry = replace(entry, path=f"{below}{entry.path}", target=target)
        if entry.kind is not Kind.FILE:
            tar.add(entry)
            continue
        if member.layer == GENERATED:  # the mark of a deletion
            tar.add_file(entry, io.BytesIO())
            continue
        with closing(contents.open(member)) as content:
            digest = tar.add_file(replace(entry, digest=None), content)
        if digest != entry.digest:
            layer = rootfs.layers[member.layer]
            raise CorruptBlob(layer.diff_id, f"{member.source!r} in the layer of {layer.title}")


def file_entry(path: str, size: int, mtime: int) -> Entry:
    """A plain file of root's in an archive of ours."""
    return Entry(path, Kind.FILE, 0o644, mtime=mtime, size=size)


def write_tree(
    target: Path, fill: Callable[[TarWriter], None], *, whiteouts: bool = False
) -> tuple[Digest, int]:
    """Write a tar of what `fill` puts into it, a new file; its digest and size in bytes.
    `whiteouts` is as of `write_tar`.

    Raises:
        StoreError, IntegrityError: as `fill`.
        OSError: the file cannot be written.
    """
    with target.open("xb") as out, closing(HashingWriter(out)) as hashing:
        tar = TarWriter(hashing, whiteouts=whiteouts)
        fill(tar)
        tar.finish()
        return hashing.digest(), hashing.size
