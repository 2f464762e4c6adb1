"""A binhost that is a directory: as a transport shows it, such as a web server's, to be read; and
one of this machine, a store like any other, written as one.

Wrong bytes are never kept, whatever they were served as; a layer that travels compressed is
verified in that form and again when it is plain, and never grows beyond its stated size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.compress import decompressed
from buildit.archive.streams import run_all
from buildit.digest import CHUNK, BuildKey, Digest
from buildit.errors import BuildError, FetchError, IntegrityError
from buildit.events import Fetching, Reporter, silent
from buildit.files import replacing
from buildit.model.artifact import Encoding
from buildit.model.config import Address, Directory
from buildit.remote import fetch
from buildit.remote.binhost import protocols
from buildit.remote.binhost.protocols import Outgoing, Served, SignedStatement, WantedBlob
from buildit.remote.transport import LocationError, Transport, read_small
from buildit.store.artifacts import place_statement, read_bounded, signature_path
from buildit.store.attest import SIZE_LIMIT
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.store.disk import located

LARGE = 4 << 20
"""Bytes from which on an interrupted download is worth going on with."""
WINDOW = 16 << 20
"""Bytes that unpacking one may take, of several at a time; what we pack asks for far less."""
CODECS = ("zstd", "gzip")
"""Forms of layers that are taken."""
TRIES = 2
"""Of a small file, where the host stumbles."""


@dataclass(frozen=True, slots=True)
class _Into:
    """Where blobs of one call go, and what ends the call."""

    store: Store
    batch: Batch
    abort: fetch.Abort


class ReadOnly:
    """The binhost at an address, as a web server shows it: blobs, statements and views."""

    def __init__(
        self, address: Address, transport: Transport, report: Reporter = silent, jobs: int = 8
    ) -> None:
        self.address = address
        self.transport = transport
        self.report = report
        self.jobs = jobs

    # -- statements and views

    def of(self, asked: Sequence[tuple[BuildKey, str]]) -> list[Served | None]:
        return [self._statement(protocols.statement_path(key, name)) for key, name in asked]

    def _statement(self, path: str) -> Served | None:
        content = self._small(path, SIZE_LIMIT)
        if content is None:
            return None
        return content, self._small(f"{path}.sig", protocols.SIGNATURE_LIMIT)

    def read(self, paths: Sequence[str], limit: int) -> list[bytes | None]:
        found: list[bytes | None] = []
        for path in paths:
            try:
                found.append(self._small(path, limit))
            except IntegrityError:
                found.append(None)
        return found

    def names(self, directories: Sequence[str]) -> list[tuple[str, ...]]:
        return [() for _ in directories]

    def _small(self, path: str, limit: int) -> bytes | None:
        """A small file below the root; None where there is none.

        Raises:
            FetchError: it cannot be read.
            IntegrityError: it has more than `limit` bytes.
        """
        work = partial(read_small, self.transport, self.address.url(path), limit)
        try:
            return fetch.retried(work, TRIES, fetch.Abort(), longest=0.0)
        except LocationError as error:
            if error.absent:
                return None
            raise _translated(error) from error

    # -- what it does not do; the parameters are the protocols'

    def missing(self, blobs: Mapping[Digest, int]) -> frozenset[Digest]:  # noqa: ARG002
        raise protocols.takes_nothing(self.address)

    def put(self, blobs: Sequence[Outgoing], progress: protocols.Progress) -> None:  # noqa: ARG002
        raise protocols.takes_nothing(self.address)

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:  # noqa: ARG002
        raise protocols.takes_nothing(self.address)

    def write(self, path: str, content: bytes | Path) -> None:  # noqa: ARG002
        raise protocols.takes_nothing(self.address)

    # -- blobs

    def get(self, wanted: Sequence[WantedBlob], store: Store, batch: Batch) -> int:
        unique = {want.digest: want for want in reversed(wanted)}
        into = _Into(store, batch, fetch.Abort())
        tasks = [partial(self._one, want, into) for want in unique.values()]
        return sum(run_all(tasks, self.jobs, into.abort.all))

    def _one(self, want: WantedBlob, into: _Into) -> bool:
        try:
            if not any(self._encoded(want, form, into) for form in want.forms):
                self._plain(want, into)
        except LocationError as error:
            if not error.absent:
                raise _translated(error) from error
            if want.optional:
                return False
            reason = "the binhost has the statement, but not all that it names"
            place = self.address.url(protocols.blob_path(want.digest))
            hint = "have it pushed again: what is missing is added"
            raise FetchError(reason, place=place, hint=hint) from None
        return True

    # -- plain

    def _plain(self, want: WantedBlob, into: _Into) -> None:
        if want.size is None or want.size < LARGE:
            work = partial(self._direct, want, into)
            fetch.retried(work, fetch.ATTEMPTS, into.abort, longest=5.0)
            return
        with fetch.open_partial(into.store.cache("partial"), want.digest) as file:
            self._fill(file, (want.digest, want.size), want.label, into)
            into.batch.adopt(file.path, file.descriptor(), want.digest, want.size)

    def _direct(self, want: WantedBlob, into: _Into) -> None:
        """Into the store without a detour; begun anew where the host stumbles."""
        url = self.address.url(protocols.blob_path(want.digest))
        into.abort.check()
        with (
            into.batch.ingest() as sink,
            self.transport.get(url, 0, want.limit) as response,
            into.abort.covering(response),
        ):
            for chunk in response.chunks:
                sink.write(chunk)
            if want.size not in (None, sink.size):
                raise wrong(url, f"it has {sink.size} bytes, not {want.size}")
            try:
                sink.commit(want.digest)
            except IntegrityError as error:
                raise wrong(url, error.message) from None

    # -- compressed

    def _encoded(self, want: WantedBlob, form: Encoding, into: _Into) -> bool:
        """Take a compressed form; False where it is none of ours, or the binhost lacks it."""
        if form.codec not in CODECS:
            return False
        with fetch.open_partial(into.store.cache("partial"), form.digest) as file:
            try:
                self._fill(file, (form.digest, form.size), want.label, into)
            except LocationError as error:
                if error.absent:
                    return False
                raise
            self._unpack(want, form, file, into)
            file.drop()
        return True

    def _unpack(self, want: WantedBlob, form: Encoding, file: fetch.Partial, into: _Into) -> None:
        url = self.address.url(protocols.blob_path(form.digest))
        # its stated size bounds it; zeros compress as well as they like
        budget = Budget(total_bytes=want.limit, ratio=1 << 40, memory=WINDOW)
        try:
            with into.batch.ingest() as sink:
                stream = decompressed(file.rewind(), budget, url)
                while chunk := stream.read(CHUNK):
                    sink.write(chunk)
                if want.size not in (None, sink.size):
                    raise wrong(url, f"it unpacks to {sink.size} bytes, not {want.size}")
                sink.commit(want.digest)
        except (IntegrityError, BuildError) as error:
            raise wrong(url, f"as {form.codec}: {error.message}") from error

    # -- both

    def _fill(self, file: fetch.Partial, blob: tuple[Digest, int], label: str, into: _Into) -> None:
        """Download into a partial file, on from where it ends, until its bytes are right."""
        digest, size = blob
        url = self.address.url(protocols.blob_path(digest))
        label = label or f"sha256:{digest[:12]}"
        folder = into.store.cache("partial")
        fetcher = fetch.Fetcher(
            into.store, self.transport, folder, reporter=self.report, abort=into.abort
        )
        fetcher.from_location(url, fetch.Fetch(label, (url,), digest, size), file)
        if file.size != size:
            raise wrong(url, f"it has {file.size} bytes, not {size}")
        self.report(Fetching(label, size, size, done=True))


def wrong(place: str, reason: str) -> IntegrityError:
    hint = "nothing of it was kept; run `buildit store verify` there, or remove it and push anew"
    return IntegrityError(f"the binhost serves wrong bytes: {reason}", place=place, hint=hint)


def _translated(error: LocationError) -> IntegrityError | FetchError:
    if error.wrong:
        return wrong(error.place or "", error.reason)
    hint = error.hint or "check the binhost, or push to it again"
    return FetchError(f"the binhost cannot be read: {error.reason}", place=error.place, hint=hint)


class DirectoryRemote(ReadOnly):
    """A directory of this machine, which is made at the first thing to write."""

    def __init__(self, address: Directory, transport: Transport, report: Reporter = silent) -> None:
        super().__init__(address, transport, report, jobs=1)
        self._root = Path(address.path)
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

    def put(self, blobs: Sequence[Outgoing], progress: protocols.Progress) -> None:
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

    def add(self, statements: Sequence[SignedStatement]) -> list[str]:
        differs = []
        for one in statements:
            said = (one.artifact, one.builder, one.content, one.signature)
            placed = place_statement(self._target, *said)
            if placed.differs_from is not None:
                differs.append(str(placed.path))
            self._settle(placed.path, one)
        return differs

    def _settle(self, path: Path, one: SignedStatement) -> None:
        """The signature and the pack of this statement, whatever an earlier push left."""
        disk, beside = self._target.disk, signature_path(path)
        pack = path.with_name(path.name + protocols.PACK)
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
            with (
                protocols.reading_of(content) as stream,
                replacing(target, temporary=temporary) as out,
            ):
                while chunk := stream.read(CHUNK):
                    out.write(chunk)


def _bytes(path: Path, limit: int) -> bytes | None:
    """A small file; None where there is none, or one that is larger or no regular file."""
    try:
        return read_bounded(path, limit) if path.is_file() else None
    except IntegrityError:
        return None
