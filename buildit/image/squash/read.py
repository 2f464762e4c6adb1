"""The tree of a squashfs 4.0 as its bytes say; shares records with the writer, and no rule.

Every place is checked before it is followed: an image may come from a stranger.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from struct import Struct
from typing import BinaryIO

from buildit.archive.admit import Gate
from buildit.archive.compress import unpack_zstd_block
from buildit.digest import Digest
from buildit.errors import IntegrityError
from buildit.image.reading import FOREIGN, Hasher
from buildit.image.squash import layout as form
from buildit.model.tree import Entry, Kind

_LARGEST_BLOCK = 1 << 20
_MOST_INODES = 10_000_000
_LONGEST_NAME = 256
_LONGEST_TARGET = 65535
_LONGEST_VALUE = 1 << 16
"""Bytes of an attribute's value, and of a name (XATTR_SIZE_MAX)."""
_MOST_ATTRIBUTES = 64 << 20
"""Bytes of all of them: they are kept."""
_BLOCKS_KEPT, _FRAGMENTS_KEPT = 1024, 8
_XZ_MEMORY = 64 << 20


def read_squashfs(
    stream: BinaryIO, budget: int, hasher: Hasher = hashlib.sha256
) -> Iterator[Entry]:
    """The entries of an image, its root "" first, files with their digests; names of one inode
    become hard links to the first of them. `budget` are the bytes that all may have, unpacked.

    Raises:
        IntegrityError: the image is damaged, or of a kind that is not read here.
    """
    try:
        yield from _Image.of(stream, budget, hasher).entries()
    except (struct.error, zlib.error, EOFError, ValueError, IndexError, OverflowError) as error:
        raise IntegrityError(f"the squashfs is damaged: {error}") from error
    except Exception as error:
        if type(error).__name__ not in ("LZMAError", "ZstdError"):
            raise
        raise IntegrityError(f"the squashfs is damaged: {error}") from error


def _unpacker(kind: int) -> Callable[[bytes, int], bytes]:
    """What unpacks a block that may have so many bytes."""
    if kind == form.COMPRESSORS["gzip"]:
        return lambda block, most: zlib.decompressobj().decompress(block, most)
    if kind == form.COMPRESSORS["xz"]:
        import lzma

        def unxz(block: bytes, most: int) -> bytes:
            return lzma.LZMADecompressor(memlimit=_XZ_MEMORY).decompress(block, most)

        return unxz
    if kind == form.COMPRESSORS["zstd"]:
        return unpack_zstd_block
    raise IntegrityError(f"the squashfs is compressed in a way that is not read here ({kind})")


@dataclass(frozen=True, slots=True)
class _Inode:
    """An inode as it lies there: `listing` of a directory is its block, offset and size."""

    kind: int
    entry: Entry
    number: int
    listing: tuple[int, int, int] = (0, 0, 0)
    start: int = 0
    sizes: tuple[int, ...] = ()
    fragment: int = form.NO_INDEX
    offset: int = 0


@dataclass(slots=True)
class _Image:
    stream: BinaryIO
    budget: int
    head: tuple[int, ...]
    unpack: Callable[[bytes, int], bytes]
    hasher: Hasher
    ids: tuple[int, ...] = ()
    attributes_left: int = _MOST_ATTRIBUTES
    names_left: int = FOREIGN.entries
    _blocks: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    _shares: dict[int, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, stream: BinaryIO, budget: int, hasher: Hasher) -> _Image:
        head = form.SUPERBLOCK.unpack(_exactly(stream, 0, form.SUPERBLOCK.size))
        magic, inodes, _, size, _, kind, log, _, ids, major, minor = head[:11]
        if magic != form.MAGIC or (major, minor) != (4, 0):
            raise IntegrityError("it is no squashfs of version 4.0")
        if size != 1 << log or not 4096 <= size <= _LARGEST_BLOCK:
            raise IntegrityError(f"the squashfs has blocks of {size} bytes")
        if inodes > _MOST_INODES or head[12] > stream.seek(0, 2):
            raise IntegrityError("the squashfs is longer than its file")
        image = cls(stream, budget, head, _unpacker(kind), hasher)
        rows = (image._row(head[13], ids, form.WORD, number) for number in range(ids))
        image.ids = tuple(number for [number] in rows)
        return image

    def _row(self, index: int, count: int, shape: Struct, number: int) -> tuple[int, ...]:
        """A record of a table that an index of its blocks leads to."""
        if number >= count:
            raise IntegrityError(f"the squashfs names record {number} of {count}")
        per_block = form.METADATA // shape.size
        place, row = divmod(number, per_block)
        [at] = form.LONG.unpack(_exactly(self.stream, index + 8 * place, 8))
        block, _ = self.metadata(at)
        return shape.unpack(block[row * shape.size : (row + 1) * shape.size])

    def metadata(self, at: int) -> tuple[bytes, int]:
        """An unpacked metadata block, and where the next one begins."""
        if at not in self._blocks:
            size = int.from_bytes(_exactly(self.stream, at, 2), "little")
            stored = size & form.LARGEST_METADATA_SIZE
            raw = _exactly(self.stream, at + 2, stored)
            block = raw if size & form.PLAIN_METADATA else self.unpack(raw, form.METADATA)
            self._spend(form.METADATA)
            if len(self._blocks) >= _BLOCKS_KEPT:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[at] = block[: form.METADATA], at + 2 + stored
        return self._blocks[at]

    def _spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise IntegrityError("the squashfs unpacks to more than its size allows")

    def _attributes(self) -> Callable[[int], dict[str, bytes]]:
        """By the number of a set."""
        table = self.head[14]
        if table == form.NO_TABLE:
            return lambda _: {}
        values, count, _ = form.ATTRIBUTE_TABLE.unpack(_exactly(self.stream, table, 16))

        @lru_cache(_BLOCKS_KEPT)
        def of(number: int) -> dict[str, bytes]:
            if number == form.NO_INDEX:
                return {}
            place, names, _ = self._row(table + 16, count, form.ATTRIBUTES, number)
            cursor, found = _Cursor(self, values + (place >> 16), place & 0xFFFF), {}
            for _ in range(names):
                kind, size = Struct("<2H").unpack(cursor.read(4))
                if kind >= len(form.PREFIXES):
                    raise IntegrityError(f"the squashfs has an attribute of kind {kind}")
                name = form.PREFIXES[kind] + cursor.read(size).decode("utf-8", "surrogateescape")
                [length] = cursor.record(form.WORD)
                self.attributes_left -= size + length
                if length > _LONGEST_VALUE or self.attributes_left < 0:
                    raise IntegrityError(f"the squashfs has an attribute of {length} bytes")
                found[name] = cursor.read(length)
            return found

        return of

    def entries(self) -> Iterator[Entry]:
        attributes = self._attributes()
        root = self.head[11]
        queue: list[tuple[str, int, int]] = [("", root >> 16, root & 0xFFFF)]
        first: dict[int, str] = {}
        seen: set[int] = set()
        gate = Gate(FOREIGN, "squashfs")
        while queue:
            path, block, offset = queue.pop()
            inode = self._inode(path, block, offset, attributes)
            if path:
                gate.admit(inode.entry)
            if inode.kind == form.DIRECTORY:
                if inode.number in seen:
                    raise IntegrityError(f"the squashfs has a directory twice: {path!r}")
                seen.add(inode.number)
                yield inode.entry
                rows = sorted(self._listing(path, inode), reverse=True)
                queue += rows
            elif inode.number in first and inode.kind == form.FILE:
                target = first[inode.number]
                yield replace(inode.entry, kind=Kind.HARDLINK, target=target, size=0, xattrs={})
            else:
                first[inode.number] = path
                yield self._whole(inode) if inode.kind == form.FILE else inode.entry

    def _inode(
        self, path: str, block: int, offset: int, attributes: Callable[[int], dict[str, bytes]]
    ) -> _Inode:
        cursor = _Cursor(self, self.head[15] + block, offset)
        kind, mode, uid, gid, mtime, number = cursor.record(form.INODE)
        owners = self.ids[uid], self.ids[gid]
        entry = Entry(path, Kind.DIRECTORY, mode & 0o7777, mtime, *owners)
        basic = kind - form.EXTENDED if kind > form.EXTENDED else kind
        extended = kind > form.EXTENDED
        if basic == form.DIRECTORY:
            if extended:
                _, size, at, _, _, where, own = cursor.record(form.EXTENDED_DIRECTORY)
            else:
                at, _, size, where, _ = cursor.record(form.BASIC_DIRECTORY)
                own = form.NO_INDEX
            entry = replace(entry, xattrs=attributes(own))
            return _Inode(basic, entry, number, (at, where, max(0, size - 3)))
        if basic == form.SYMLINK:
            _, length = cursor.record(form.LINK)
            if length > _LONGEST_TARGET:
                raise IntegrityError(f"{path!r} has a target of {length} bytes")
            target = cursor.read(length).decode("utf-8", "surrogateescape")
            own = cursor.record(form.WORD)[0] if extended else form.NO_INDEX
            linked = replace(entry, kind=Kind.SYMLINK, target=target, xattrs=attributes(own))
            return _Inode(basic, linked, number)
        if basic != form.FILE:
            raise IntegrityError(f"{path!r} is a device, socket or FIFO")
        own = form.NO_INDEX
        if extended:
            start, size, _, _, fragment, where, own = cursor.record(form.EXTENDED_FILE)
        else:
            start, fragment, where, size = cursor.record(form.BASIC_FILE)
        whole, rest = divmod(size, self.head[3])
        count = whole + (1 if rest and fragment == form.NO_INDEX else 0)
        self._spend(size)  # before a list of as many blocks is made
        sizes = tuple(cursor.record(form.WORD)[0] for _ in range(count))
        entry = replace(entry, kind=Kind.FILE, size=size, xattrs=attributes(own))
        return _Inode(basic, entry, number, (0, 0, 0), start, sizes, fragment, where)

    def _listing(self, path: str, inode: _Inode) -> Iterator[tuple[str, int, int]]:
        block, offset, size = inode.listing
        cursor = _Cursor(self, self.head[16] + block, offset)
        names: set[bytes] = set()
        while cursor.taken < size:
            count, inodes, _ = cursor.record(form.LISTING)
            if count >= form.MOST_NAMES:
                raise IntegrityError(f"the squashfs has a damaged listing of {path!r}")
            for _ in range(count + 1):
                at, _, _, length = cursor.record(form.NAME)
                name = cursor.read(length + 1)
                if name in (b".", b"..") or b"/" in name or b"\0" in name or name in names:
                    raise IntegrityError(f"the squashfs has a name {name!r} in {path!r}")
                if length >= _LONGEST_NAME:
                    raise IntegrityError(f"the squashfs has a name of {length + 1} bytes")
                names.add(name)
                self.names_left -= 1
                if self.names_left < 0:
                    raise IntegrityError(f"the squashfs has over {FOREIGN.entries} names")
                text = name.decode("utf-8", "surrogateescape")
                yield f"{path}/{text}" if path else text, inodes, at

    def _whole(self, inode: _Inode) -> Entry:
        """The entry of a file with the digest of its content."""
        digest, at, left, size = self.hasher(), inode.start, inode.entry.size, self.head[3]
        for stored in inode.sizes:
            wanted = min(size, left)
            block = bytes(wanted) if not stored else self._data(at, stored)
            if len(block) != wanted:
                raise IntegrityError(f"the squashfs has a short block in {inode.entry.path!r}")
            at += stored & ~form.PLAIN_DATA
            left -= wanted
            digest.update(block)
        if inode.fragment != form.NO_INDEX:
            share = self._share(inode.fragment)
            tail = share[inode.offset : inode.offset + left]
            left -= len(tail)
            digest.update(tail)
        if left:
            raise IntegrityError(f"the squashfs lacks {left} bytes of {inode.entry.path!r}")
        return replace(inode.entry, digest=Digest(digest.hexdigest()))

    def _share(self, number: int) -> bytes:
        """A fragment; files that follow each other have the same one."""
        if number not in self._shares:
            at, stored, _ = self._row(self.head[17], self.head[4], form.FRAGMENT, number)
            self._spend(self.head[3])
            if len(self._shares) >= _FRAGMENTS_KEPT:
                del self._shares[next(iter(self._shares))]
            self._shares[number] = self._data(at, stored)
        return self._shares[number]

    def _data(self, at: int, stored: int) -> bytes:
        raw = _exactly(self.stream, at, stored & ~form.PLAIN_DATA)
        return raw if stored & form.PLAIN_DATA else self.unpack(raw, self.head[3])


@dataclass(slots=True)
class _Cursor:
    """Reads on from one metadata block into the next."""

    image: _Image
    at: int
    offset: int
    taken: int = 0

    def read(self, size: int) -> bytes:
        parts = bytearray()
        while len(parts) < size:
            block, following = self.image.metadata(self.at)
            part = block[self.offset : self.offset + size - len(parts)]
            parts += part
            self.offset += len(part)
            if self.offset >= form.METADATA:
                self.at, self.offset = following, 0
            elif not part:
                raise IntegrityError("the squashfs ends inside a table")
        self.taken += size
        return bytes(parts)

    def record(self, shape: Struct) -> tuple[int, ...]:
        return shape.unpack(self.read(shape.size))


def _exactly(stream: BinaryIO, at: int, size: int) -> bytes:
    if size > _LARGEST_BLOCK:
        raise IntegrityError(f"the squashfs has a block of {size} bytes")
    stream.seek(at)
    content = stream.read(size)
    if len(content) != size:
        raise IntegrityError("the squashfs is cut off")
    return content
