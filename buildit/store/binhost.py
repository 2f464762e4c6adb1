"""The simplest binhost: a directory with the store's own layout, pulled from and pushed to.

Nothing that lies there is believed. A statement is judged by the caller's policy before any other
byte is read, and every blob is compared with its name while it is copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import CHUNK, BuildKey, Digest
from buildit.errors import BuilditError, FetchError, IntegrityError, UsageError
from buildit.events import Notice, Reporter, silent
from buildit.model.artifact import Artifact
from buildit.store.artifacts import (
    Found,
    check_name,
    examine,
    incomplete,
    place_statement,
    read_bounded,
    read_statement,
    signature_path,
    statement_paths,
)
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement
from buildit.store.cas import Store
from buildit.store.durable import open_regular
from buildit.store.ingest import Batch, Sink

Accept = Callable[[bytes, bytes | None, str], None]
"""Judge a statement (bytes, signature or None, builder); raises where it is not trusted."""

SIGNATURE_LIMIT = 64 << 10
RECORD_LIMIT = 64 << 20
CONTENTS_LIMIT = 256 << 20
LOG_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push added; `differs` names statements that contradict an earlier one there."""

    blobs: int
    statements: int
    differs: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class FileBinhost:
    """A binhost at `root`. `unsigned` lets `local` statements pass, as only a config may ask."""

    root: Path
    accept: Accept
    unsigned: bool = False
    report: Reporter = silent

    def pull(self, key: BuildKey, store: Store) -> Artifact | None:
        """Take an artifact with its layers, contents, record and log; None where it has none.

        Raises:
            IntegrityError: it has the key, yet no statement or not all bytes could be accepted.
            FetchError: the directory cannot be read.
            StoreError: the store cannot be written.
        """
        refusals: list[BuilditError] = []
        for path in statement_paths(self.root, key):
            try:
                return self._pull(path, key, store)
            except (IntegrityError, FetchError) as error:
                refusals.append(error)
                what = error.message if error.place == str(path) else str(error)
                self.report(Notice(f"refused {path}: {what}", warning=True))
        if not refusals:
            return None
        first = refusals[0]
        raise type(first)(
            first.message,
            place=first.place,
            hint=first.hint,
            details=(*first.details, *(str(error) for error in refusals[1:])),
        )

    def pull_blob(self, digest: Digest, store: Store, limit: int) -> bool:
        """Take one blob, such as a source, of at most `limit` bytes; False where there is none.

        Raises:
            IntegrityError: its bytes are not what its name promises, or too many.
            FetchError: it cannot be read.
            StoreError: the store cannot be written.
        """
        if not os.path.lexists(self._blob(digest)):
            return False
        with store.ingest() as sink:
            self._copy(digest, sink, limit, None)
        return True

    def push(self, key: BuildKey, store: Store) -> Pushed:
        """Publish all that the store has of a key: blobs first, then statements.

        Raises:
            UsageError: the store has no such build, or only an unsigned one.
            IntegrityError: a blob of the store is corrupt; it was set aside.
            StoreError: the directory cannot be written.
        """
        statements = tuple(self._publishable(key, store))
        differs = []
        blobs = written = 0
        with Store.open(self.root) as target:
            for path, artifact, builder in statements:
                blobs += _push_blobs(artifact, store, target)
                content = read_bounded(path, SIZE_LIMIT)
                placed = place_statement(target, artifact, builder, content, _signature(path))
                written += 1
                if placed.differs_from is not None:
                    differs.append(placed.path)
        return Pushed(blobs, written, tuple(differs))

    def _pull(self, path: Path, key: BuildKey, store: Store) -> Artifact:
        content = self._read(path, SIZE_LIMIT)
        statement = parse_statement(content, key)
        check_name(path, statement.builder, content)
        signature = self._signature(path)
        if statement.builder == LOCAL and not self.unsigned:
            raise IntegrityError(
                "the statement is not signed",
                place=str(path),
                hint="have it pushed signed (`signing-key:`), or allow unsigned for this binhost",
            )
        self.accept(content, signature, statement.builder)
        artifact = statement.artifact
        # Pinned one by one: until the statement is here, the key alone would not keep them.
        store.pin((key, *(digest for digest, _, _ in _needed(artifact))))
        with store.batch() as batch:
            for digest, size, limit in _needed(artifact):
                present = store.size(digest)
                if present is None or size not in (None, present):
                    self._pull_into(batch, digest, limit, size)
            if artifact.log is not None and os.path.lexists(self._blob(artifact.log)):
                self._pull_into(batch, artifact.log, LOG_LIMIT, None)
        place_statement(store, artifact, statement.builder, content, signature)
        return artifact

    def _pull_into(self, batch: Batch, digest: Digest, limit: int, size: int | None) -> None:
        with batch.ingest() as sink:
            self._copy(digest, sink, limit, size)

    def _copy(self, digest: Digest, sink: Sink, limit: int, size: int | None) -> None:
        """Copy one blob while hashing it, and commit it if it is what its name says."""
        path = self._blob(digest)
        try:
            source = open_regular(path)
        except OSError as error:
            raise _unreadable(path, error) from None
        with source:
            length = os.fstat(source.fileno()).st_size
            if size is not None and length != size:
                raise _wrong(path, f"it has {length} bytes, not {size}")
            while chunk := _read_chunk(source.read, path):
                if sink.size + len(chunk) > limit:
                    raise _wrong(path, f"it has more than {limit} bytes")
                sink.write(chunk)
        try:
            sink.commit(digest)
        except IntegrityError as error:
            raise _wrong(path, error.message) from None

    def _publishable(self, key: BuildKey, store: Store) -> Iterator[tuple[Path, Artifact, str]]:
        """Whole statements of the store, read anew; unsigned ones only where that is allowed."""
        found = examine(store, key)
        if not isinstance(found, Found):
            raise UsageError(
                f"there is nothing to push: {found.reasons[0]}",
                place=f"key {key}",
                hint="build it first",
            )
        signed = 0
        for path in statement_paths(store.root, key):
            artifact, builder = read_statement(path, key)
            usable = builder != LOCAL or self.unsigned
            if usable and incomplete(store, artifact) is None:
                signed += 1
                yield path, artifact, builder
        if not signed:
            raise UsageError(
                "the build is not signed, and unsigned builds are not published",
                place=f"key {key}",
                hint="set `signing-key:` and build anew, or allow unsigned for this binhost",
            )

    def _signature(self, path: Path) -> bytes | None:
        beside = signature_path(path)
        return self._read(beside, SIGNATURE_LIMIT) if os.path.lexists(beside) else None

    def _read(self, path: Path, limit: int) -> bytes:
        try:
            return read_bounded(path, limit)
        except OSError as error:
            raise _unreadable(path, error) from None

    def _blob(self, digest: Digest) -> Path:
        return self.root / "blobs" / "sha256" / digest


def _needed(artifact: Artifact) -> Iterator[tuple[Digest, int | None, int]]:
    """Digest, size where it is known, and most bytes of each blob that a pull must take."""
    for output in artifact.outputs.values():
        yield output.diff_id, output.size, output.size
        yield output.contents, None, CONTENTS_LIMIT
    yield artifact.record, None, RECORD_LIMIT


def _push_blobs(artifact: Artifact, store: Store, target: Store) -> int:
    """Copy what the binhost lacks: all that is needed, and what else the store has."""
    wanted = {digest for digest, _, _ in _needed(artifact)}
    wanted |= {digest for _, digest in artifact.materials}
    wanted |= {form.digest for output in artifact.outputs.values() for form in output.encodings}
    wanted |= {artifact.log} if artifact.log is not None else set()
    target.pin(sorted(wanted))
    lacking = [
        digest
        for digest in sorted(wanted)
        if store.has(digest) and target.size(digest) != store.size(digest)
    ]
    with target.batch() as batch:
        for digest in lacking:
            with store.checked(digest) as source, batch.ingest() as sink:
                while chunk := source.read(CHUNK):
                    sink.write(chunk)
                sink.commit(digest)
    return len(lacking)


def _signature(path: Path) -> bytes | None:
    beside = signature_path(path)
    return read_bounded(beside, SIGNATURE_LIMIT) if beside.exists() else None


def _read_chunk(read: Callable[[int], bytes], path: Path) -> bytes:
    try:
        return read(CHUNK)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: OSError) -> FetchError:
    return FetchError(
        f"the binhost cannot be read: {error.strerror}",
        place=str(path),
        hint="check the directory, or push to it again",
    )


def _wrong(path: Path, reason: str) -> IntegrityError:
    return IntegrityError(
        f"the binhost serves wrong bytes: {reason}",
        place=str(path),
        hint="nothing of it was kept; run `buildit store verify` there, or remove it and push anew",
    )
