"""Blobs of a binhost into the store: several at a time, resumed, verified, in their shortest form.

Wrong bytes are never kept, whatever they were served as; a layer that travels compressed is
verified in that form and again when it is plain, and never grows beyond its stated size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial

from buildit.archive.workers import submit
from buildit.digest import CHUNK, Digest, digest_bytes
from buildit.errors import BuildError, FetchError, IntegrityError
from buildit.events import Fetching, Reporter, silent
from buildit.model.artifact import Encoding
from buildit.remote.fetch import ATTEMPTS, Abort, Failure, Fetch, Fetcher, raise_first
from buildit.remote.http.partials import Partial, open_partial
from buildit.remote.transport import LocationError, Transport
from buildit.store.cas import Store
from buildit.store.ingest import Batch
from buildit.store.layout import BLOBS

RECORD_LIMIT = 64 << 20
CONTENTS_LIMIT = 256 << 20
LOG_LIMIT = 1 << 30
LARGE = 4 << 20
"""Bytes from which on an interrupted download is worth going on with."""
SMALL = 256 << 10
FEW = 16
"""From so many small blobs on, they come over one connection, each asked for before the last has
come."""
WINDOW = 16 << 20
"""Bytes that unpacking one may take, of several at a time; what we pack asks for far less."""
CODEC = "zstd"
"""The form that is preferred to the plain one."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A blob: its `size` in bytes where known, and the most that it may have. `forms` are its
    compressed forms. An `optional` one may be missing. `label` is what people call it."""

    digest: Digest
    size: int | None
    limit: int
    forms: tuple[Encoding, ...] = ()
    optional: bool = False
    label: str = ""


class AbsentError(Exception):
    """The binhost does not have it."""


@dataclass(frozen=True, slots=True)
class Blobs:
    """Brings blobs from `url(path)` through one transport into one store."""

    url: Callable[[str], str]
    transport: Transport
    store: Store
    report: Reporter = silent
    jobs: int = 8

    def bring(self, wants: Sequence[Wanted], batch: Batch) -> int:
        """Write all of them into the batch; how many of them came.

        Raises:
            IntegrityError: one has other bytes than its name promises, or too many.
            FetchError: one cannot be read, or is missing and not optional.
            StoreError: the store cannot be written.
        """
        unique = {want.digest: want for want in reversed(wants)}
        came = self._in_bulk(list(unique.values()), batch)
        for digest in came:
            del unique[digest]
        return len(came) + self._several(unique, batch)

    def _in_bulk(self, wants: Sequence[Wanted], batch: Batch) -> list[Digest]:
        """Take small blobs over one connection, where that is possible; which came, and are right.
        Any other is asked for again, by a way that can say what is wrong."""
        ask: Callable[[Sequence[tuple[str, int]]], Iterator[bytes | None]] | None
        ask = getattr(self.transport, "bulk", None)
        small = [w for w in wants if (w.size or 0) <= SMALL and not (w.size and _forms(w))]
        if ask is None or len(small) < FEW:
            return []
        small.sort(key=lambda want: want.size is None)  # one that is long after all ends it
        asked = [(self.url(blob_path(want.digest)), min(want.limit, SMALL)) for want in small]
        came = []
        for want, body in zip(small, ask(asked), strict=False):
            if body is not None and digest_bytes(body) == want.digest:
                batch.put_bytes(body)
                came.append(want.digest)
        return came

    def _several(self, unique: Mapping[Digest, Wanted], batch: Batch) -> int:
        if len(unique) < 2 or self.jobs < 2:
            return sum(self._one(want, batch, Abort()) for want in unique.values())
        abort = Abort()
        with ThreadPoolExecutor(min(self.jobs, len(unique)), "buildit-pull") as pool:
            futures = [
                submit(pool, partial(self._one, want, batch, abort)) for want in unique.values()
            ]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                if any(future.done() and future.exception() for future in futures):
                    abort.all()
            except BaseException:
                abort.all()
                raise
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
        raise_first(futures)
        return sum(future.result() for future in futures)

    def _one(self, want: Wanted, batch: Batch, abort: Abort) -> bool:
        try:
            if not any(self._encoded(want, form, batch, abort) for form in _forms(want)):
                self._plain(want, batch, abort)
        except AbsentError:
            if want.optional:
                return False
            place = self.url(blob_path(want.digest))
            raise FetchError(
                "the binhost has the statement, but not all that it names",
                place=place,
                hint="have it pushed again: what is missing is added",
            ) from None
        return True

    # -- plain

    def _plain(self, want: Wanted, batch: Batch, abort: Abort) -> None:
        if want.size is None or want.size < LARGE:
            self._direct(want, batch, abort)
            return
        with open_partial(self.store.cache("partial"), want.digest) as partial:
            self._fill(partial, (want.digest, want.size), want.label, abort)
            batch.adopt(partial.path, partial.descriptor(), want.digest, want.size)

    def _direct(self, want: Wanted, batch: Batch, abort: Abort) -> None:
        """Into the store without a detour; begun anew where the host stumbles."""
        url = self.url(blob_path(want.digest))
        for attempt in range(1, ATTEMPTS + 1):
            abort.check()
            try:
                with batch.ingest() as sink, self.transport.get(url, 0, want.limit) as response:
                    with abort.covering(response):
                        for chunk in response.chunks:
                            sink.write(chunk)
                    if want.size not in (None, sink.size):
                        raise wrong(url, f"it has {sink.size} bytes, not {want.size}")
                    try:
                        sink.commit(want.digest)
                    except IntegrityError as error:
                        raise wrong(url, error.message) from None
                    return
            except LocationError as error:
                if not error.transient or attempt == ATTEMPTS:
                    raise self._translated(error) from error
                abort.pause(min(error.retry_after, 5.0) or 0.2 * attempt)

    # -- compressed

    def _encoded(self, want: Wanted, form: Encoding, batch: Batch, abort: Abort) -> bool:
        """Take a compressed form; False where the binhost does not have it."""
        with open_partial(self.store.cache("partial"), form.digest) as partial:
            try:
                self._fill(partial, (form.digest, form.size), want.label, abort)
            except AbsentError:
                return False
            self._unpack(want, form, partial, batch)
            partial.drop()
        return True

    def _unpack(self, want: Wanted, form: Encoding, partial: Partial, batch: Batch) -> None:
        from buildit.archive.decompress import decompressed
        from buildit.archive.tar.admit import Budget

        url = self.url(blob_path(form.digest))
        # its stated size bounds it; zeros compress as well as they like
        budget = Budget(total_bytes=want.limit, ratio=1 << 40, memory=WINDOW)
        try:
            with batch.ingest() as sink:
                stream = decompressed(partial.rewind(), budget, url)
                while chunk := stream.read(CHUNK):
                    sink.write(chunk)
                if want.size not in (None, sink.size):
                    raise wrong(url, f"it unpacks to {sink.size} bytes, not {want.size}")
                sink.commit(want.digest)
        except (IntegrityError, BuildError) as error:
            raise wrong(url, f"as {form.codec}: {error.message}") from error

    # -- both

    def _fill(self, partial: Partial, blob: tuple[Digest, int], label: str, abort: Abort) -> None:
        """Download into a partial file, on from where it ends, until its bytes are right."""
        digest, size = blob
        url = self.url(blob_path(digest))
        label = label or f"sha256:{digest[:12]}"
        folder = self.store.cache("partial")
        fetcher = Fetcher(self.store, self.transport, folder, reporter=self.report, abort=abort)
        failure = fetcher.from_location(url, Fetch(label, (url,), digest, size), partial)
        if failure is not None:
            raise self._failed(url, failure) from failure.cause
        if partial.size != size:
            raise wrong(url, f"it has {partial.size} bytes, not {size}")
        self.report(Fetching(label, size, size, done=True))

    def _failed(self, url: str, failure: Failure) -> Exception:
        if failure.wrong:
            return wrong(url, failure.reason)
        if failure.cause is not None:
            return self._translated(failure.cause)
        return FetchError(f"the binhost cannot be read: {failure.reason}", place=url)

    def _translated(self, error: LocationError) -> Exception:
        if error.absent:
            return AbsentError()
        if error.wrong:
            return wrong(error.place or "", error.reason)
        return unreadable(error)


def wrong(place: str, reason: str) -> IntegrityError:
    return IntegrityError(
        f"the binhost serves wrong bytes: {reason}",
        place=place,
        hint="nothing of it was kept; run `buildit store verify` there, or remove it and push anew",
    )


def unreadable(error: LocationError) -> FetchError:
    return FetchError(
        f"the binhost cannot be read: {error.reason}",
        place=error.place,
        hint=error.hint or "check the binhost, or push to it again",
    )


def blob_path(digest: Digest) -> str:
    """Where a blob is, below a binhost's root."""
    return f"{BLOBS}/{digest}"


def _forms(want: Wanted) -> list[Encoding]:
    return [form for form in want.forms if form.codec == CODEC]
