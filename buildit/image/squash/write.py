"""A squashfs of a tree, written front to back but for the superblock: data, fragments, tables.

The same tree gives the same bytes: blocks are cut at fixed sizes and stored in the order of paths,
whoever compresses them; files of the same content are stored once.
"""

from __future__ import annotations

import os
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

from buildit.archive.compress import zstd_block
from buildit.archive.streams import Readable, read_up_to, submit
from buildit.digest import Digest
from buildit.errors import BuildError
from buildit.image.squash import layout as form
from buildit.model.tree import Entry, Kind

OpenSource = Callable[[Entry], AbstractContextManager[Readable]]
"""The bytes of a file; its end may refuse what was read."""
Compress = Callable[[bytes], bytes]

_PAD = 4096
"""The kernel reads images in pages, and loop devices in whole sectors."""
_SUPPORTED = 0xFFFFFFFF
_ZSTD = 9
_LONGEST_NAME = 256
_THREADS = min(8, os.cpu_count() or 1)
"""The bytes do not depend on it."""


def compressor(codec: str) -> Compress:
    """What compresses one block: gzip, xz or zstd; what gains nothing lies as it is."""
    if codec == "none":
        return lambda block: block
    if codec == "gzip":
        return lambda block: zlib.compress(block, 9)
    if codec == "xz":
        import lzma

        filters = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": form.BLOCK_SIZE}]
        return lambda block: lzma.compress(block, check=lzma.CHECK_CRC32, filters=filters)
    return lambda block: zstd_block(block, _ZSTD)


@dataclass(slots=True)
class _Stored:
    """Where the content of a file lies, once all data is written: whole blocks from `start`, and a
    share of a fragment."""

    start: int = 0
    sizes: list[int] = field(default_factory=list)
    fragment: int = form.NO_INDEX
    offset: int = 0

    def took(self, at: int, word: int) -> None:
        """One more block."""
        if not self.sizes:
            self.start = at
        self.sizes.append(word)


class _Metadata:
    """A table in metadata blocks; a record is found by the start of its block and its offset."""

    def __init__(self, compress: Compress) -> None:
        self._compress = compress
        self._open = bytearray()
        self.stored = bytearray()
        self.starts: list[int] = []

    def at(self) -> tuple[int, int]:
        return len(self.stored), len(self._open)

    def add(self, record: bytes) -> tuple[int, int]:
        place = self.at()
        self._open += record
        while len(self._open) >= form.METADATA:
            self._end(self._open[: form.METADATA])
            del self._open[: form.METADATA]
        return place

    def _end(self, block: bytes | bytearray) -> None:
        self.starts.append(len(self.stored))
        packed = self._compress(bytes(block))
        plain = len(packed) >= len(block)
        packed = bytes(block) if plain else packed
        size = len(packed) | (form.PLAIN_METADATA if plain else 0)
        self.stored += size.to_bytes(2, "little") + packed

    def finish(self) -> bytearray:
        if self._open:
            self._end(self._open)
            self._open.clear()
        return self.stored


@dataclass(slots=True)
class _Waiting:
    """A block that a thread compresses, empty for a hole; and who is to know where it lies, and
    its word."""

    block: bytes
    packed: Future[bytes]
    told: Callable[[int, int], None]


@dataclass(slots=True)
class _Data:
    """Blocks of files, compressed by a few threads and written in their order."""

    out: BinaryIO
    compress: Compress
    pool: ThreadPoolExecutor
    at: int = form.SUPERBLOCK.size
    fragments: list[tuple[int, int]] = field(default_factory=list)
    _begun: int = 0
    _tails: bytearray = field(default_factory=bytearray)
    _known: dict[Digest, _Stored] = field(default_factory=dict)
    _waiting: deque[_Waiting] = field(default_factory=deque)

    def known(self, entry: Entry) -> _Stored | None:
        """Where the same content lies already."""
        return None if entry.digest is None else self._known.get(entry.digest)

    def store(self, entry: Entry, content: Readable) -> _Stored:
        """The content of a file; a short end goes into a fragment with those of others."""
        stored = _Stored()
        whole, rest = divmod(entry.size, form.BLOCK_SIZE)
        for _ in range(whole):
            block = read_up_to(content, form.BLOCK_SIZE)
            self._put(block if any(block) else b"", stored.took)
        if rest:
            tail = read_up_to(content, rest)
            if len(self._tails) + len(tail) > form.BLOCK_SIZE:
                self._end_fragment()
            stored.fragment, stored.offset = self._begun, len(self._tails)
            self._tails += tail
        if entry.digest is not None:
            self._known[entry.digest] = stored
        return stored

    def _end_fragment(self) -> None:
        block = bytes(self._tails)
        self._tails.clear()
        self._begun += 1
        self._put(block, lambda at, word: self.fragments.append((at, word)))

    def finish(self) -> None:
        """Write what is left; then all places are known."""
        if self._tails:
            self._end_fragment()
        while self._waiting:
            self._write(self._waiting.popleft())

    def _put(self, block: bytes, told: Callable[[int, int], None]) -> None:
        packed = submit(self.pool, partial(self.compress, block))
        self._waiting.append(_Waiting(block, packed, told))
        if len(self._waiting) > 4 * _THREADS:
            self._write(self._waiting.popleft())

    def _write(self, one: _Waiting) -> None:
        packed = one.packed.result()
        if not one.block:
            one.told(self.at, 0)
            return
        plain = len(packed) >= len(one.block)
        chosen = one.block if plain else packed
        self.out.write(chosen)
        one.told(self.at, len(chosen) | (form.PLAIN_DATA if plain else 0))
        self.at += len(chosen)


@dataclass(slots=True)
class _Node:
    """A directory with what is in it, by name."""

    entry: Entry
    number: int
    names: list[tuple[bytes, _Node | str]] = field(default_factory=list)


class _Tables:
    """Inodes, listings, ids and attributes."""

    def __init__(self, compress: Compress) -> None:
        self.compress = compress
        self.inodes, self.listings = _Metadata(compress), _Metadata(compress)
        self.values, self.sets = _Metadata(compress), _Metadata(compress)
        self.ids: dict[int, int] = {}
        self._known: dict[tuple[tuple[str, bytes], ...], int] = {}

    def head(self, kind: int, entry: Entry, number: int) -> bytes:
        for uid in (entry.uid, entry.gid):
            self.ids.setdefault(uid, len(self.ids))
        owners = self.ids[entry.uid], self.ids[entry.gid]
        return form.INODE.pack(kind, entry.mode, *owners, entry.mtime, number)

    def attributes(self, entry: Entry) -> int:
        """The number of the attributes of an entry."""
        if not entry.xattrs:
            return form.NO_INDEX
        pairs = tuple(sorted(entry.xattrs.items()))
        if pairs not in self._known:
            place, size = self.values.at(), 0
            for name, value in pairs:
                record = _attribute(name, value)
                self.values.add(record)
                size += len(record)
            self._known[pairs] = len(self._known)
            self.sets.add(form.ATTRIBUTES.pack(place[0] << 16 | place[1], len(pairs), size))
        return self._known[pairs]

    @property
    def attributed(self) -> int:
        return len(self._known)


def _attribute(name: str, value: bytes) -> bytes:
    number = next(n for n, prefix in enumerate(form.PREFIXES) if name.startswith(prefix))
    rest = name.removeprefix(form.PREFIXES[number]).encode()
    head = number.to_bytes(2, "little") + len(rest).to_bytes(2, "little")
    return head + rest + form.WORD.pack(len(value)) + value


def _name(entry: Entry) -> bytes:
    return entry.path.rpartition("/")[2].encode("utf-8", "surrogateescape")


def check_entries(entries: Iterable[Entry]) -> None:
    """Refuse what squashfs cannot hold, before a byte is written.

    Raises:
        BuildError: a time, a name or an attribute is such.
    """
    for entry in entries:
        reason = ""
        if not 0 <= entry.mtime <= _SUPPORTED:
            reason = f"squashfs has times from 1970 to 2106, not {entry.mtime}"
        elif len(name := _name(entry)) > _LONGEST_NAME:
            reason = f"squashfs has names of up to {_LONGEST_NAME} bytes, not {len(name)}"
        elif odd := [each for each in entry.xattrs if not each.startswith(form.PREFIXES)]:
            reason = f"squashfs cannot hold the attribute {odd[0]!r}"
        if reason:
            raise BuildError(reason, place=entry.path, hint="leave it out, or take another format")


def write_squashfs(
    entries: Sequence[Entry], content: OpenSource, epoch: int, codec: str, out: BinaryIO
) -> None:
    """Write a tree, in `sort_key` order without its root, to a file that can be sought. The root is
    0755, 0:0, of the time `epoch`; hard links name an earlier file.

    Raises:
        BuildError: a time, name or attribute is none of squashfs, or an error of `content`.
    """
    compress = compressor(codec)
    tables = _Tables(compress)
    out.write(bytes(form.SUPERBLOCK.size))
    with ThreadPoolExecutor(_THREADS, "squashfs") as pool:
        data = _Data(out, compress, pool)
        writer = _Writer(entries, content, data, tables, epoch)
        root = writer.write()
    _finish(out, data, tables, writer.numbers, root, epoch, codec)


@dataclass(slots=True)
class _Writer:
    entries: Sequence[Entry]
    content: OpenSource
    data: _Data
    tables: _Tables
    epoch: int
    numbers: int = 0
    _links: dict[str, int] = field(default_factory=dict)
    _stored: dict[str, _Stored] = field(default_factory=dict)
    _made: dict[str, tuple[int, int, int, int]] = field(default_factory=dict)
    """Of each file and link: block and offset of its inode, its number and basic type."""

    def write(self) -> int:
        """All data and inodes; where the root's is."""
        check_entries(self.entries)
        for entry in self.entries:
            if entry.kind is Kind.HARDLINK:
                self._links[entry.target] = self._links.get(entry.target, 1) + 1
        self.numbers = sum(entry.kind is not Kind.HARDLINK for entry in self.entries) + 1
        self._store()
        root = self._tree()
        block, offset = self._directory(root, self.numbers + 1)
        return block << 16 | offset

    def _store(self) -> None:
        """The data of all files."""
        for entry in self.entries:
            if entry.kind is not Kind.FILE:
                continue
            stored = self.data.known(entry)
            if stored is None:
                with self.content(entry) as content:
                    stored = self.data.store(entry, content)
            self._stored[entry.path] = stored
        self.data.finish()

    def _tree(self) -> _Node:
        """Directories, and the inodes of all else; numbers in the order of paths."""
        root = _Node(Entry("", Kind.DIRECTORY, 0o755, mtime=self.epoch), 1)
        nodes = {"": root}
        number = 1
        for entry in self.entries:
            parent, encoded = entry.path.rpartition("/")[0], _name(entry)
            if entry.kind is Kind.HARDLINK:
                nodes[parent].names.append((encoded, entry.target))
                continue
            number += 1
            if entry.kind is Kind.DIRECTORY:
                node = nodes[entry.path] = _Node(entry, number)
                nodes[parent].names.append((encoded, node))
                continue
            nodes[parent].names.append((encoded, entry.path))
            if entry.kind is Kind.SYMLINK:
                place = self._symlink(entry, number)
            else:
                place = self._file(entry, number)
            self._made[entry.path] = place
        return root

    def _file(self, entry: Entry, number: int) -> tuple[int, int, int, int]:
        stored = self._stored[entry.path]
        links, attributes = self._links.get(entry.path, 1), self.tables.attributes(entry)
        large = max(entry.size, stored.start) > 0xFFFFFFFF
        sizes = b"".join(map(form.WORD.pack, stored.sizes))
        if links == 1 and attributes == form.NO_INDEX and not large and 0 not in stored.sizes:
            head = self.tables.head(form.FILE, entry, number)
            of_file = (stored.start, stored.fragment, stored.offset, entry.size)
            place = self.tables.inodes.add(head + form.BASIC_FILE.pack(*of_file) + sizes)
        else:
            head = self.tables.head(form.FILE + form.EXTENDED, entry, number)
            holes = stored.sizes.count(0) * form.BLOCK_SIZE
            share = (stored.fragment, stored.offset, attributes)
            of_file = (stored.start, entry.size, holes, links, *share)  # type: ignore[assignment]
            place = self.tables.inodes.add(head + form.EXTENDED_FILE.pack(*of_file) + sizes)
        return *place, number, form.FILE

    def _symlink(self, entry: Entry, number: int) -> tuple[int, int, int, int]:
        target, attributes = entry.target.encode("utf-8", "surrogateescape"), b""
        kind = form.SYMLINK
        if entry.xattrs:
            kind += form.EXTENDED
            attributes = form.WORD.pack(self.tables.attributes(entry))
        head = self.tables.head(kind, entry, number)
        record = head + form.LINK.pack(1, len(target)) + target + attributes
        return *self.tables.inodes.add(record), number, form.SYMLINK

    def _directory(self, root: _Node, above: int) -> tuple[int, int]:
        """The listings and inodes of a directory and of all below it, those below first."""
        order: list[tuple[_Node, int]] = []
        queue = [(root, above)]
        while queue:
            node, parent = queue.pop()
            order.append((node, parent))
            queue += [(one, node.number) for _, one in node.names if isinstance(one, _Node)]
        places: dict[int, tuple[int, int]] = {}
        for node, parent in reversed(order):
            rows = sorted(self._rows(node, places))
            place, size = self._listing(rows)
            places[node.number] = self._directory_inode(node, parent, place, size)
        return places[root.number]

    def _rows(
        self, node: _Node, places: dict[int, tuple[int, int]]
    ) -> Iterator[tuple[bytes, int, int, int, int]]:
        for name, one in node.names:
            if isinstance(one, _Node):
                yield name, *places[one.number], one.number, form.DIRECTORY
            else:
                yield name, *self._made[one]

    def _listing(self, rows: list[tuple[bytes, int, int, int, int]]) -> tuple[tuple[int, int], int]:
        """Names in the order of their bytes, those with inodes of one block together."""
        place, size, at = self.tables.listings.at(), 0, 0
        while at < len(rows):
            _, block, _, base, _ = rows[at]
            end = at
            while (
                end < len(rows)
                and end - at < form.MOST_NAMES
                and rows[end][1] == block
                and -0x8000 <= rows[end][3] - base <= 0x7FFF
            ):
                end += 1
            record = form.LISTING.pack(end - at - 1, block, base)
            for name, _, offset, number, kind in rows[at:end]:
                record += form.NAME.pack(offset, number - base, kind, len(name) - 1) + name
            self.tables.listings.add(record)
            size += len(record)
            at = end
        return place, size

    def _directory_inode(
        self, node: _Node, parent: int, place: tuple[int, int], size: int
    ) -> tuple[int, int]:
        links = 2 + sum(isinstance(one, _Node) for _, one in node.names)
        attributes, (block, offset) = self.tables.attributes(node.entry), place
        if attributes == form.NO_INDEX and size + 3 <= 0xFFFF:
            head = self.tables.head(form.DIRECTORY, node.entry, node.number)
            record = form.BASIC_DIRECTORY.pack(block, links, size + 3, offset, parent)
        else:
            head = self.tables.head(form.DIRECTORY + form.EXTENDED, node.entry, node.number)
            of_listing = (links, size + 3, block, parent, 0, offset, attributes)
            record = form.EXTENDED_DIRECTORY.pack(*of_listing)
        return self.tables.inodes.add(head + record)


def _finish(
    out: BinaryIO, data: _Data, tables: _Tables, inodes: int, root: int, epoch: int, codec: str
) -> None:
    """The tables behind the data, and the superblock before it."""
    at = data.at
    begins = []
    for table in (tables.inodes, tables.listings):
        begins.append(at)
        at += out.write(table.finish())

    def indexed(records: Sequence[bytes]) -> int:
        """A table that an index of its blocks leads to; where the index is."""
        nonlocal at
        table = _Metadata(tables.compress)
        for record in records:
            table.add(record)
        start = at
        at += out.write(table.finish())
        index = at
        at += out.write(b"".join(form.LONG.pack(start + one) for one in table.starts))
        return index

    fragments = [form.FRAGMENT.pack(*one, 0) for one in data.fragments]
    fragment_table = indexed(fragments) if fragments else form.NO_TABLE
    ids = indexed([form.WORD.pack(one) for one in tables.ids])
    attribute_table, flags = form.NO_TABLE, form.DUPLICATES
    if tables.attributed:
        values = at
        at += out.write(tables.values.finish())
        start = at
        at += out.write(tables.sets.finish())
        attribute_table = at
        at += out.write(form.ATTRIBUTE_TABLE.pack(values, tables.attributed, 0))
        at += out.write(b"".join(form.LONG.pack(start + one) for one in tables.sets.starts))
    else:
        flags |= form.NO_ATTRIBUTES
    if codec == "none":
        flags |= form.PLAIN
    out.write(bytes(-at % _PAD))
    out.seek(0)
    head = (form.MAGIC, inodes, epoch, form.BLOCK_SIZE, len(data.fragments))
    log = form.BLOCK_SIZE.bit_length() - 1
    kind = form.COMPRESSORS.get(codec, form.COMPRESSORS["gzip"])
    version = (kind, log, flags, len(tables.ids), 4, 0)
    places = (root, at, ids, attribute_table, *begins, fragment_table, form.NO_TABLE)
    out.write(form.SUPERBLOCK.pack(*head, *version, *places))
