"""Push: blobs first, then statements, whatever the way to the binhost is.

Only what the binhost lacks travels. What is there is never overwritten: a second, different
statement of one builder is kept beside the first and reported.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

from buildit.digest import CHUNK, BuildKey, Digest
from buildit.errors import IntegrityError, UsageError
from buildit.model.artifact import Artifact
from buildit.remote.binhost.binhost import Accept, needed
from buildit.store.artifacts import (
    Believed,
    Found,
    anybody,
    examine,
    incomplete,
    origin_of,
    place_statement,
    read_bounded,
    read_statement,
    signature_path,
    statement_paths,
)
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement, statement_bytes
from buildit.store.cas import Store
from buildit.store.durable import located
from buildit.store.layout import key_directory

SMALL_FILE = 1 << 18
"""Most bytes of a file that is read with many others; a way to a binhost may allow less."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A blob to send; `open` gives a stream that raises at its end where the bytes are wrong."""

    digest: Digest
    size: int
    open: Callable[[], BinaryIO]


@dataclass(frozen=True, slots=True)
class Signed:
    """A statement as it is published."""

    artifact: Artifact
    builder: str
    content: bytes
    signature: bytes | None


Progress = Callable[[int, int], None]
"""Bytes sent, and bytes to send in all."""


def unheard(_sent: int, _total: int) -> None:
    """The progress of library use."""


class Publisher(Protocol):
    """One place to publish to, written as the store is: complete objects only."""

    def sizes(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        """The blobs that are there."""
        ...

    def published(self, statements: Sequence[Signed]) -> list[tuple[bytes, bytes | None] | None]:
        """What is there of the same builder about the same key, with its signature, for each."""
        ...

    def put_blobs(self, blobs: Sequence[Outgoing], progress: Progress) -> None: ...

    def put_statements(self, statements: Sequence[Signed]) -> list[str]:
        """Publish statements whose blobs are there; where those are that contradict another."""
        ...

    def put_signature(self, signed: Signed) -> None:
        """Replace the signature of a published statement, which does not hold."""
        ...

    def put_file(self, path: str, source: Path) -> None:
        """Give a file of a view its name, replacing what has it."""
        ...

    def read_file(self, path: str, limit: int) -> bytes | None:
        """A small file of a view; None where there is none."""
        ...

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        """What is in each directory, sorted; nothing where there is none."""
        ...

    def read_files(self, paths: Sequence[str]) -> list[bytes | None]:
        """Many small files; None where there is none, or one of more than `SMALL_FILE` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Packing:
    """How one's own builds travel: `sign` signs their statements, and `pack` compresses layers
    (into a directory, giving the artifact with its encodings and the files of those)."""

    builder: str
    sign: Callable[[bytes], bytes]
    pack: Callable[[Artifact, Path], tuple[Artifact, Mapping[Digest, Path]]] | None = None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push added; `differs` names statements that contradict an earlier one there."""

    blobs: int = 0
    statements: int = 0
    sent: int = 0
    differs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Push:
    """Publishes from one store to one place. `unsigned` lets `local` statements be published,
    `believed` says which statements that came from elsewhere are published again."""

    store: Store
    publisher: Publisher
    accept: Accept
    unsigned: bool = False
    packing: Packing | None = None
    progress: Progress = field(default=unheard)
    believed: Believed = anybody

    def __call__(self, keys: Sequence[BuildKey], beside: Sequence[Digest] = ()) -> Pushed:
        """Publish all that the store has of these keys, and further blobs that it has.

        Raises:
            UsageError: the store has no such build, or only an unsigned one.
            IntegrityError: a blob of the store is corrupt; it was set aside.
            FetchError, StoreError: the place cannot be written.
        """
        signed = [one for key in keys for one in self._publishable(key)]
        published = self.publisher.published(signed)
        scratch = self.store.scratch("push")
        packed: dict[Digest, Path] = {}
        try:
            pairs = list(zip(signed, published, strict=True))
            there = [self._agreeing(one, found) for one, found in pairs]
            new = [
                self._packed(one, scratch, packed)
                for one, agreeing in zip(signed, there, strict=True)
                if agreeing is None
            ]
            ready = [*(one for one in there if one is not None), *new]
            sent, count = self._send(ready, beside, packed)
        finally:
            self.store.discard(scratch)
        differs = self.publisher.put_statements(new)
        return Pushed(count, len(new), sent, tuple(differs))

    # -- statements

    def _publishable(self, key: BuildKey) -> Iterator[Signed]:
        """Whole statements of the store, read anew; unsigned ones only where that is allowed."""
        found = examine(self.store, key, believed=self.believed)
        if not isinstance(found, Found):
            raise UsageError(
                f"there is nothing to push: {found.reasons[0]}",
                place=f"key {key}",
                hint="build it first",
            )
        unsigned = []
        count = 0
        for path in statement_paths(self.store.root, key):
            artifact, builder = read_statement(path, key)
            origin = origin_of(path)
            said = Found(artifact, builder, path, origin)
            if incomplete(self.store, artifact) is not None or self.believed(said) is not None:
                continue
            one = Signed(artifact, builder, read_bounded(path, SIZE_LIMIT), _signature(path))
            if builder == LOCAL and not self.unsigned:
                unsigned += [] if origin else [one]
                continue
            count += 1
            yield one
        if count:
            return
        if self.packing is None:
            raise UsageError(
                "the build is not signed, and unsigned builds are not published",
                place=f"key {key}",
                hint="set `signing-key:` and push again, or allow unsigned for this binhost",
            )
        if not unsigned:
            raise UsageError(
                f"nobody signed the build, which was taken from '{found.origin}': it is not yours "
                "to sign",
                place=f"key {key}",
                hint="leave that repository out of the configuration and build again: then it is "
                "built here",
            )
        # Built here before there was a key: whoever publishes a build of theirs vouches for it.
        for one in unsigned[:1]:
            content = statement_bytes(one.artifact, self.packing.builder)
            yield Signed(one.artifact, self.packing.builder, content, self.packing.sign(content))

    def _packed(self, one: Signed, scratch: Path, packed: dict[Digest, Path]) -> Signed:
        """The statement to publish: one's own says which compressed forms are there."""
        if self.packing is None or self.packing.pack is None or one.builder != self.packing.builder:
            return one
        artifact, files = self.packing.pack(one.artifact, scratch)
        if not files:
            return one
        packed.update(files)
        content = statement_bytes(artifact, one.builder)
        return Signed(artifact, one.builder, content, self.packing.sign(content))

    def _agreeing(self, one: Signed, there: tuple[bytes, bytes | None] | None) -> Signed | None:
        """What is published already, where it says the same: it stays as it is, whatever it was
        packed with, since another version of a compressor is no contradiction."""
        if there is None:
            return None
        content, signature = there
        try:
            artifact = parse_statement(content, one.artifact.key).artifact
        except IntegrityError:
            return None
        if _essence(artifact) != _essence(one.artifact):
            return None
        try:
            self.accept(content, signature, one.builder)
        except IntegrityError:
            if content != one.content:
                return None
            self.publisher.put_signature(one)  # a push that was cut short left none, or another's
        return Signed(artifact, one.builder, content, signature)

    # -- blobs

    def _send(
        self, ready: Sequence[Signed], beside: Sequence[Digest], packed: Mapping[Digest, Path]
    ) -> tuple[int, int]:
        wanted: set[Digest] = set(beside)
        layers: list[tuple[Digest, tuple[Digest, ...]]] = []
        for one in ready:
            for output in one.artifact.outputs.values():
                layers.append((output.diff_id, tuple(form.digest for form in output.encodings)))
                wanted.add(output.contents)
            wanted |= {want.digest for want in needed(one.artifact)}
            wanted |= {digest for _, digest in one.artifact.materials}
        wanted -= {diff_id for diff_id, _ in layers}
        asked = wanted | {name for diff_id, forms in layers for name in (diff_id, *forms)}
        there = self.publisher.sizes(sorted(asked))
        stated = {
            form.digest: form.size
            for one in ready
            for output in one.artifact.outputs.values()
            for form in output.encodings
        }
        for diff_id, forms in layers:
            # one form is enough, and the shortest of those that can be had
            present = any(there.get(form) == stated[form] for form in forms)
            if not present and there.get(diff_id) != self.store.size(diff_id):
                here = {form for form in forms if form in packed or self.store.has(form)}
                wanted |= here or {diff_id}
        blobs = [
            blob
            for digest in sorted(wanted)
            if (blob := self._outgoing(digest, packed)) and there.get(digest) != blob.size
        ]
        self.publisher.put_blobs(blobs, self.progress)
        return sum(blob.size for blob in blobs), len(blobs)

    def _outgoing(self, digest: Digest, packed: Mapping[Digest, Path]) -> Outgoing | None:
        if digest in packed:
            path = packed[digest]
            return Outgoing(digest, path.stat().st_size, lambda: path.open("rb"))
        size = self.store.size(digest)
        return None if size is None else Outgoing(digest, size, lambda: self.store.checked(digest))


def _essence(artifact: Artifact) -> object:
    """What a statement says, without the compressed forms."""
    outputs = {
        name: (one.diff_id, one.size, one.contents, one.needs, dict(one.providers))
        for name, one in artifact.outputs.items()
    }
    return outputs, {key: dict(used) for key, used in artifact.resolved.items()}, artifact.record


def _signature(path: Path) -> bytes | None:
    beside = signature_path(path)
    return read_bounded(beside, SIZE_LIMIT) if beside.exists() else None


class FilePublisher:
    """A directory of this machine: a store like any other, made at the first thing to write."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._opened: Store | None = None

    @property
    def _target(self) -> Store:
        if self._opened is None:
            self._opened = Store.open(self._root)
        return self._opened

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def sizes(self, digests: Sequence[Digest]) -> Mapping[Digest, int]:
        self._target.pin(digests)
        found = ((digest, self._target.size(digest)) for digest in digests)
        return {digest: size for digest, size in found if size is not None}

    def published(self, statements: Sequence[Signed]) -> list[tuple[bytes, bytes | None] | None]:
        return [self._published(self._path(one)) for one in statements]

    def _published(self, path: Path) -> tuple[bytes, bytes | None] | None:
        with located(path):
            return (read_bounded(path, SIZE_LIMIT), _signature(path)) if path.exists() else None

    def _path(self, signed: Signed) -> Path:
        return key_directory(self._target.root, signed.artifact.key) / f"{signed.builder}.json"

    def put_blobs(self, blobs: Sequence[Outgoing], progress: Progress) -> None:
        total, sent = sum(blob.size for blob in blobs), 0
        with self._target.batch() as batch:
            for blob in blobs:
                with closing(blob.open()) as source, batch.ingest() as sink:
                    while chunk := source.read(CHUNK):
                        sink.write(chunk)
                        sent += len(chunk)
                        progress(sent, total)
                    sink.commit(blob.digest)

    def put_statements(self, statements: Sequence[Signed]) -> list[str]:
        differs = []
        for one in statements:
            placed = place_statement(
                self._target, one.artifact, one.builder, one.content, one.signature
            )
            if placed.differs_from is not None:
                differs.append(str(placed.path))
        return differs

    def put_signature(self, signed: Signed) -> None:
        if signed.signature is not None:
            beside, lease = signature_path(self._path(signed)), self._target.lease()
            entry = lease.entry("signature")
            with located(beside):
                self._target.disk.replace_file("signature", beside, signed.signature, entry)

    def put_file(self, path: str, source: Path) -> None:
        """Give a file of a view its name, replacing what has it."""
        target = self._target.root / path
        temporary = self._target.lease().entry("view")
        with located(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb") as stream, temporary.open("xb") as out:
                while chunk := stream.read(CHUNK):
                    out.write(chunk)
            temporary.chmod(0o644)
            temporary.rename(target)

    def read_file(self, path: str, limit: int) -> bytes | None:
        target = self._target.root / path
        with located(target):
            return read_bounded(target, limit) if target.is_file() else None

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        return [self._names(self._target.root / directory) for directory in directories]

    def _names(self, directory: Path) -> tuple[str, ...]:
        with located(directory):
            return tuple(sorted(os.listdir(directory))) if directory.is_dir() else ()

    def read_files(self, paths: Sequence[str]) -> list[bytes | None]:
        return [self._small(self._target.root / path) for path in paths]

    def _small(self, path: Path) -> bytes | None:
        with located(path):
            if not path.is_file() or path.stat().st_size > SMALL_FILE:
                return None
            return path.read_bytes()
