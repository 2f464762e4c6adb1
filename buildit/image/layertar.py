"""Bytes of files inside the store's layers, read where they lie: nothing is unpacked.

Layers are canonical tars, so a layer's listing alone says where each file's bytes begin.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.contents import parse_contents
from buildit.archive.tar.header import BLOCK, END, header_blocks
from buildit.archive.tar.write import TarWriter, hashing_writer
from buildit.digest import Digest
from buildit.errors import IntegrityError
from buildit.image.copying import BlobPath, open_blob, small_blob
from buildit.image.merge import Member, Rootfs
from buildit.model.image import Layer
from buildit.model.tree import Entry, Kind
from buildit.store.checked import CorruptBlob


def read_listing(layer: Layer, blob: BlobPath) -> tuple[Entry, ...]:
    """The entries of a layer, from its contents blob.

    Raises:
        StoreError: the blob cannot be read.
        CorruptBlob: it holds other bytes than its name says.
        IntegrityError: it is not a listing.
    """
    return parse_contents(small_blob(blob, layer.contents, layer.title))


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
    if at + len(END) != layer.size:
        raise IntegrityError(
            f"the layer of {layer.title} has {layer.size} bytes, its contents say {at + len(END)}",
            place=layer.diff_id,
            hint="run `buildit store verify`: it sets damaged objects aside",
        )
    return starts


class Slice:
    """A part of an open file, as `archive.tar.write` reads contents; closes the file."""

    __slots__ = ("at", "descriptor", "left")

    def __init__(self, descriptor: int, at: int, size: int) -> None:
        self.descriptor = descriptor
        self.at = at
        self.left = size

    def readinto(self, buffer: memoryview, /) -> int:
        wanted = min(len(buffer), self.left)
        count = os.preadv(self.descriptor, [buffer[:wanted]], self.at) if wanted else 0
        self.at += count
        self.left -= count
        return count

    def close(self) -> None:
        os.close(self.descriptor)


@dataclass(frozen=True, slots=True)
class Contents:
    """Opens the bytes of members of a merged tree."""

    rootfs: Rootfs
    blob: BlobPath
    _starts: dict[int, Mapping[str, int]] = field(default_factory=dict)

    def open(self, member: Member) -> Slice:
        """The content of a file.

        Raises:
            StoreError, IntegrityError: the layer is missing or of another size.
        """
        number = member.layer
        layer = self.rootfs.layers[number]
        if number not in self._starts:
            self._starts[number] = offsets(self.rootfs.listings[number], layer)
        descriptor = open_blob(self.blob, layer.diff_id, layer.size, layer.title)
        return Slice(descriptor, self._starts[number][member.source], member.entry.size)


def add_member(tar: TarWriter, entry: Entry, member: Member, contents: Contents) -> None:
    """Write a member into a tar as `entry`, its bytes straight from the layer that brings it.

    Raises:
        CorruptBlob: the layer holds other bytes than its listing says.
        StoreError: the layer is missing.
    """
    if entry.kind is not Kind.FILE:
        tar.add(entry)
        return
    content = contents.open(member)
    try:
        digest = tar.add_file(replace(entry, digest=None), content)
    finally:
        content.close()
    if digest != entry.digest:
        layer = contents.rootfs.layers[member.layer]
        raise CorruptBlob(layer.diff_id, f"{member.source!r} in the layer of {layer.title}")


def write_merged(rootfs: Rootfs, blob: BlobPath, target: Path) -> tuple[Digest, int]:
    """Write a tree as one tar, a new file; its digest and size in bytes.

    Raises:
        StoreError, IntegrityError: a layer is missing or damaged.
        OSError: the file cannot be written.
    """
    contents = Contents(rootfs, blob)
    with target.open("xb") as out, closing(hashing_writer(out)) as hashing:
        tar = TarWriter(hashing)
        for member in rootfs.members():
            add_member(tar, member.entry, member, contents)
        tar.finish()
        return hashing.digest(), hashing.size


def write_directories(entries: Iterable[Entry], epoch: int, target: Path) -> tuple[Digest, int]:
    """Write `/` (0755, 0:0, `epoch`) and further directories as a tar, a new file; its digest and
    size in bytes."""
    with target.open("xb") as out, closing(hashing_writer(out)) as hashing:
        tar = TarWriter(hashing)
        tar.add_root(0o755, epoch)
        for entry in entries:
            tar.add(entry)
        tar.finish()
        return hashing.digest(), hashing.size
