"""A binhost: a static directory with the store's layout, reached by any transport.

Nothing that lies there is believed. A statement is judged by the caller's policy before any other
byte is asked for, and every blob is compared with its name before it gets it in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Notice, Reporter, silent
from buildit.model.artifact import RUNTIME, Artifact
from buildit.remote.binhost.blobs import (
    CONTENTS_LIMIT,
    LOG_LIMIT,
    RECORD_LIMIT,
    Blobs,
    Wanted,
    unreadable,
    wrong,
)
from buildit.remote.transport import LocationError, Transport, read_small
from buildit.store.artifacts import anything, check_name, place_statement, statement_paths
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement
from buildit.store.cas import Store
from buildit.store.layout import key_directory
from buildit.trust.votes import Undecided

Accept = Callable[[bytes, bytes | None, str], None]
"""Judge a statement (bytes, signature or None, builder); raises where it is not trusted."""

SIGNATURE_LIMIT = 64 << 10
TRIES = 2
"""Of a small file, where the host stumbles."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement that was accepted: what it says, who says so, and its bytes."""

    artifact: Artifact
    builder: str
    content: bytes
    signature: bytes | None
    place: str


@dataclass(frozen=True, slots=True)
class Binhost:
    """Takes from the binhost at `base`, an absolute path or a URL.

    `builders` are those whose statements are asked for by name; in a directory of this machine,
    which lists names, all statements are looked at. `unsigned` lets `local` statements pass, as
    only a config may ask.
    """

    name: str
    base: str
    transport: Transport
    accept: Accept
    builders: tuple[str, ...] = ()
    unsigned: bool = False
    report: Reporter = silent
    jobs: int = 8

    def url(self, path: str) -> str:
        return f"{self.base.rstrip('/')}/{path}"

    def read(self, path: str, limit: int) -> bytes | None:
        """A small file below the binhost's root; None where there is none.

        Raises:
            FetchError: it cannot be read.
            IntegrityError: it has more than `limit` bytes.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return read_small(self.transport, self.url(path), limit)
            except LocationError as error:
                if error.absent:
                    return None
                if error.wrong:
                    raise wrong(self.url(path), error.reason) from error
                if not error.transient or attempt == TRIES:
                    raise unreadable(error) from error
        return None

    def claims(self, key: BuildKey) -> tuple[Claim, ...]:
        """The accepted statements about a key; none is a miss. Refused ones are reported.

        Raises:
            IntegrityError: it has the key, yet no statement could be accepted.
            FetchError: it has the key, yet no statement could be read.
        """
        refusals: list[BuilditError] = []
        found = tuple(self._accepted(key, refusals))
        if refusals and not found:
            raise _together(refusals)
        return found

    def pull(
        self, key: BuildKey, store: Store, suits: Callable[[Artifact], str | None] = anything
    ) -> Artifact | None:
        """Take an artifact with its layers, contents, record and log; None where it has none.

        Raises:
            IntegrityError: it has the key, yet no statement or not all bytes could be accepted.
            FetchError: it cannot be read.
            StoreError: the store cannot be written.
        """
        refusals: list[BuilditError] = []
        for claim in self._accepted(key, refusals):
            if suits(claim.artifact) is not None:
                continue
            try:
                return self.take(claim, store)
            except (IntegrityError, FetchError) as error:
                self._refuse(error, refusals)
        if refusals:
            raise _together(refusals)
        return None

    def refusal(self, key: BuildKey, builder: str) -> BuilditError | None:
        """Why a builder's statement about a key is not accepted; None where it is, or is none."""
        try:
            self._claim(f"{builder}.json", key)
        except BuilditError as error:
            return error
        return None

    def take(self, claim: Claim, store: Store) -> Artifact:
        """Bring the blobs of an accepted statement into the store, then the statement itself.

        Raises:
            as `pull`.
        """
        artifact = claim.artifact
        wants = tuple(needed(artifact))
        # Pinned one by one: until the statement is here, the key alone would not keep them.
        store.pin((artifact.key, *(want.digest for want in wants)))
        lacking = tuple(want for want in wants if not _at_hand(store, want))
        with store.batch() as batch:
            self._blobs(store).bring(lacking, batch)
        statement = (claim.builder, claim.content, claim.signature)
        place_statement(store, artifact, *statement, origin=self.name)
        return artifact

    def pull_blob(self, digest: Digest, store: Store, limit: int) -> bool:
        """Take one blob, such as a source, of at most `limit` bytes; False where there is none.

        Raises:
            IntegrityError: its bytes are not what its name promises, or too many.
            FetchError: it cannot be read.
            StoreError: the store cannot be written.
        """
        return self.pull_blobs((Wanted(digest, None, limit, optional=True),), store) == 1

    def pull_blobs(self, wants: Sequence[Wanted], store: Store) -> int:
        """Take blobs that the store lacks; how many came, the optional ones that it lacks aside.

        Raises:
            as `pull_blob`; FetchError too where one that is not optional is missing.
        """
        with store.batch() as batch:
            return self._blobs(store).bring(tuple(wants), batch)

    def _blobs(self, store: Store) -> Blobs:
        return Blobs(self.url, self.transport, store, self.report, self.jobs)

    def _accepted(self, key: BuildKey, refusals: list[BuilditError]) -> Iterator[Claim]:
        for name in self._names(key):
            try:
                claim = self._claim(name, key)
            except (IntegrityError, FetchError) as error:
                self._refuse(error, refusals)
                if isinstance(error.__cause__, LocationError) and error.__cause__.unreachable:
                    return
                continue
            if claim is not None:
                yield claim

    def _names(self, key: BuildKey) -> Iterator[str]:
        if self.base.startswith("/"):
            yield from (path.name for path in statement_paths(Path(self.base), key, self.builders))
            return
        yield from (f"{builder}.json" for builder in self.builders)

    def _claim(self, name: str, key: BuildKey) -> Claim | None:
        path = f"{key_directory(Path(), key)}/{name}"
        content = self.read(path, SIZE_LIMIT)
        if content is None:
            return None
        place = self.url(path)
        try:
            statement = parse_statement(content, key)
            check_name(Path(name), statement.builder, content)
            signature = self.read(f"{path}.sig", SIGNATURE_LIMIT)
            if statement.builder == LOCAL and not self.unsigned:
                raise IntegrityError(
                    "the statement is not signed",
                    hint="have it pushed signed (`signing-key:`), or allow unsigned for this "
                    "binhost",
                )
            self.accept(content, signature, statement.builder)
        except IntegrityError as error:
            error.place = place  # where it lies helps more than what it is about
            raise
        return Claim(statement.artifact, statement.builder, content, signature, place)

    def _refuse(self, error: BuilditError, refusals: list[BuilditError]) -> None:
        refusals.append(error)
        cause = error.__cause__
        if not (isinstance(cause, LocationError) and cause.unreachable):
            # a host that is not there is told of once, by whoever watches over it
            undecided = isinstance(error, Undecided)  # the next builder may say the same
            word = "not yet" if undecided else "refused"
            self.report(Notice(f"{word}: {error.in_one_line()}", warning=not undecided))


def needed(artifact: Artifact) -> Iterator[Wanted]:
    """Each blob that a pull must take, and the log, which it may."""
    for name, output in artifact.outputs.items():
        label = f"{artifact.name}-{artifact.version}" + ("" if name == RUNTIME else f" ({name})")
        layer = Wanted(output.diff_id, output.size, output.size, output.encodings, label=label)
        yield layer
        yield Wanted(output.contents, None, CONTENTS_LIMIT)
    yield Wanted(artifact.record, None, RECORD_LIMIT)
    if artifact.log is not None:
        yield Wanted(artifact.log, None, LOG_LIMIT, optional=True)


def _at_hand(store: Store, want: Wanted) -> bool:
    present = store.size(want.digest)
    return present is not None and want.size in (None, present)


def _together(refusals: list[BuilditError]) -> BuilditError:
    first = refusals[0]
    raised = type(first)(
        first.message,
        place=first.place,
        hint=first.hint,
        details=(*first.details, *(str(error) for error in refusals[1:])),
    )
    raised.__cause__ = first.__cause__
    return raised
