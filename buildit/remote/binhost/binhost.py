"""A binhost: a static directory with the store's layout, reached by any transport.

Nothing that lies there is believed. A statement is judged by the caller's policy before any other
byte is asked for, and every blob is compared with its name before it gets it in the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from buildit.archive.workers import submit
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError, FetchError, IntegrityError
from buildit.events import Notice, Reporter, silent
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.config import Directory
from buildit.remote.binhost.protocols import (
    PACK,
    PACK_LIMIT,
    Remote,
    WantedBlob,
    members_of,
    statement_path,
)
from buildit.remote.transport import LocationError
from buildit.store.artifacts import anything, check_name, place_statement, split_statement_name
from buildit.store.attest import LOCAL, parse_statement
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.trust.policy import Accept, Undecided

_RECORD_LIMIT = 64 << 20
_CONTENTS_LIMIT = 256 << 20
_LOG_LIMIT = 1 << 30


@dataclass(frozen=True, slots=True)
class Claim:
    """A statement that was accepted: what it says, who says so, its bytes, and its path below the
    binhost's root."""

    artifact: Artifact
    builder: str
    content: bytes
    signature: bytes | None
    path: str


@dataclass(frozen=True, slots=True)
class Binhost:
    """Takes from one remote what `accept` accepts.

    `builders` are those whose statements are asked for by name; in a directory of this machine,
    which lists names, all statements are looked at. `unsigned` lets `local` statements pass, as
    only a config may ask.
    """

    name: str
    remote: Remote
    accept: Accept
    builders: tuple[str, ...] = ()
    unsigned: bool = False
    report: Reporter = silent

    @property
    def lists(self) -> bool:
        """Whether what it has is listed for the asking: in a directory of this machine."""
        return isinstance(self.remote.address, Directory)

    def read(self, path: str, limit: int) -> bytes | None:
        """A small file below the binhost's root; None where there is none, or a larger one.

        Raises:
            FetchError: it cannot be read.
        """
        return self.remote.read((path,), limit)[0]

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
            self._bring(claim, lacking, store, batch)
        statement = (claim.builder, claim.content, claim.signature)
        place_statement(store, artifact, *statement, origin=self.name)
        return artifact

    def _bring(
        self, claim: Claim, lacking: Sequence[WantedBlob], store: Store, batch: Batch
    ) -> None:
        """The layers, and meanwhile the small blobs in one pack; what was not in it by itself."""
        small = tuple(want for want in lacking if want.size is None)
        if len(small) < 2 or self.lists:
            self.remote.get(lacking, store, batch)
            return
        layers = tuple(want for want in lacking if want.size is not None)
        with ThreadPoolExecutor(1, "buildit-pack") as pool:
            packed = submit(pool, partial(self._unpack, claim, small, batch))
            self.remote.get(layers, store, batch)
        came = packed.result()
        rest = tuple(want for want in small if want.digest not in came)
        if rest:
            self.remote.get(rest, store, batch)

    def _unpack(self, claim: Claim, small: Sequence[WantedBlob], batch: Batch) -> set[Digest]:
        """Which blobs came in the statement's pack; binhosts of before have none."""
        came: set[Digest] = set()
        with suppress(FetchError):
            pack = self.read(claim.path + PACK, PACK_LIMIT)
            for digest, content in members_of(pack or b""):
                if digest not in came and any(digest == want.digest for want in small):
                    batch.put_bytes(content)
                    came.add(digest)
        return came

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
        if not self.lists:
            yield from (f"{builder}.json" for builder in self.builders)
            return
        ranks = {builder: rank for rank, builder in enumerate(self.builders)}

        def order(name: str) -> tuple[int, int, str]:
            builder, _, rest = name.partition(".")
            return ranks.get(builder, len(ranks)), len(rest), name

        listed = self.remote.names((statement_path(key, ""),))[0]
        yield from sorted(
            (name for name in listed if split_statement_name(name) is not None), key=order
        )

    def _claim(self, name: str, key: BuildKey) -> Claim | None:
        found = self.remote.of(((key, name),))[0]
        if found is None:
            return None
        content, signature = found
        path = statement_path(key, name)
        place = self.remote.address.url(path)
        try:
            statement = parse_statement(content, key)
            check_name(Path(name), statement.builder, content)
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
        return Claim(statement.artifact, statement.builder, content, signature, path)

    def _refuse(self, error: BuilditError, refusals: list[BuilditError]) -> None:
        refusals.append(error)
        cause = error.__cause__
        if not (isinstance(cause, LocationError) and cause.unreachable):
            # a host that is not there is told of once, by its circuit
            undecided = isinstance(error, Undecided)  # the next builder may say the same
            word = "not yet" if undecided else "refused"
            self.report(Notice(f"{word}: {error.in_one_line()}", warning=not undecided))


def needed(artifact: Artifact) -> Iterator[WantedBlob]:
    """Each blob that a pull must take, and the log, which it may."""
    for name, output in artifact.outputs.items():
        label = f"{artifact.name}-{artifact.version}" + ("" if name == RUNTIME else f" ({name})")
        layer = WantedBlob(output.diff_id, output.size, output.size, output.encodings, label=label)
        yield layer
        yield WantedBlob(output.contents, None, _CONTENTS_LIMIT)
    yield WantedBlob(artifact.record, None, _RECORD_LIMIT)
    if artifact.log is not None:
        yield WantedBlob(artifact.log, None, _LOG_LIMIT, optional=True)


def _at_hand(store: Store, want: WantedBlob) -> bool:
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
