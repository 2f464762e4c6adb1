"""A binhost: a static directory with the store's layout, reached by any transport, from which
builds are taken and to which they are pushed.

Nothing that lies there is believed. A statement is judged by the caller's policy before any other
byte is asked for, and every blob is compared with its name before it gets it in the store.

A push sends blobs first, then statements, whatever the way is. Only what the binhost lacks travels,
layers in their shortest form. What is there is never overwritten: a second, different statement of
one builder is kept beside the first and reported.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from buildit.archive.compress import compress_layer
from buildit.archive.streams import submit
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError, FetchError, IntegrityError, UsageError
from buildit.events import Notice, Reporter, silent
from buildit.model.artifact import RUNTIME, Artifact, Encoding, Output
from buildit.model.config import Directory, Oci
from buildit.remote.binhost import protocols
from buildit.remote.binhost.protocols import Remote, SignedStatement, WantedBlob
from buildit.remote.transport import LocationError
from buildit.store import artifacts
from buildit.store.artifacts import Believed, Found
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement, statement_bytes
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.trust.policy import Accept, Undecided
from buildit.trust.signers import UNSIGNED, Signer

_RECORD_LIMIT, _CONTENTS_LIMIT, _LOG_LIMIT = 64 << 20, 256 << 20, 1 << 30


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

    @property
    def tagged(self) -> bool:
        """Whether a list of tags says what it has, as a registry gives one."""
        return isinstance(self.remote.address, Oci)

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
        self,
        key: BuildKey,
        store: Store,
        suits: Callable[[Artifact], str | None] = artifacts.anything,
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
        artifacts.place_statement(store, artifact, *statement, origin=self.name)
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
            pack = self.read(claim.path + protocols.PACK, protocols.PACK_LIMIT)
            for digest, content in protocols.members_of(pack or b""):
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

        listed = self.remote.names((protocols.statement_path(key, ""),))[0]
        names = (name for name in listed if artifacts.split_statement_name(name) is not None)
        yield from sorted(names, key=order)

    def _claim(self, name: str, key: BuildKey) -> Claim | None:
        found = self.remote.of(((key, name),))[0]
        if found is None:
            return None
        content, signature = found
        path = protocols.statement_path(key, name)
        place = self.remote.address.url(path)
        try:
            statement = parse_statement(content, key)
            artifacts.check_name(Path(name), statement.builder, content)
            if statement.builder == LOCAL and not self.unsigned:
                hint = "have it pushed signed (`signing-key:`), or allow unsigned for this binhost"
                raise IntegrityError("the statement is not signed", hint=hint)
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
    details = (*first.details, *(str(error) for error in refusals[1:]))
    raised = type(first)(first.message, place=first.place, hint=first.hint, details=details)
    raised.__cause__ = first.__cause__
    return raised


# -- publishing

CODEC = "zstd"
"""The form in which layers travel, but to a registry: there every client reads `gzip`, while Docker
reads zstd from 23 on, and umoci not at all."""
LEAST = 4 << 10
"""Bytes of the smallest layer that is compressed."""
WORTH = 0.9
"""A compressed form travels where it has at most this part of the plain one's bytes."""
SAMPLE = 1 << 20
_PACKS_AT_ONCE = 32
"""Statements whose packs are in memory at one time."""


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
    `signer` signs those of the caller's own builds, whose layers travel `compressed` by `codec`;
    `believed` says which statements that came from elsewhere are published again."""

    store: Store
    remote: Remote
    accept: Accept
    unsigned: bool = False
    signer: Signer = UNSIGNED
    compressed: bool = False
    codec: str = CODEC
    progress: protocols.Progress = field(default=protocols.unheard)
    believed: Believed = artifacts.anybody

    def __call__(self, keys: Sequence[BuildKey], beside: Sequence[Digest] = ()) -> Pushed:
        """Publish all that the store has of these keys, and further blobs that it has.

        Raises:
            UsageError: the store has no such build, or only an unsigned one.
            IntegrityError: a blob of the store is corrupt; it was set aside.
            FetchError, StoreError: the place cannot be written.
        """
        signed = [one for key in keys for one in self._publishable(key)]
        published = self.remote.of([(one.artifact.key, f"{one.builder}.json") for one in signed])
        scratch = self.store.scratch("push")
        packed: dict[Digest, Path] = {}
        try:
            pairs = list(zip(signed, published, strict=True))
            there = [(one, self._agreeing(one, found)) for one, found in pairs]
            new = [self._packed(one, scratch, packed) for one, agreeing in there if not agreeing]
            ready = [*(agreeing for _, agreeing in there if agreeing), *new]
            sent, count = self._send(ready, beside, packed)
        finally:
            self.store.discard(scratch)
        differs: list[str] = []
        for at in range(0, len(new), _PACKS_AT_ONCE):
            differs += self.remote.add([self._whole(one) for one in new[at : at + _PACKS_AT_ONCE]])
        return Pushed(count, len(new), sent, tuple(differs))

    # -- statements

    def _publishable(self, key: BuildKey) -> Iterator[SignedStatement]:
        """Whole statements of the store, read anew; unsigned ones only where that is allowed."""
        found = artifacts.examine(self.store, key, believed=self.believed)
        if not isinstance(found, Found):
            reason = f"there is nothing to push: {found.reasons[0]}"
            raise UsageError(reason, place=f"key {key}", hint="build it first")
        unsigned = []
        count = 0
        for path in artifacts.statement_paths(self.store.root, key):
            artifact, builder = artifacts.read_statement(path, key)
            origin = artifacts.origin_of(path)
            said = Found(artifact, builder, path, origin)
            if artifacts.incomplete(self.store, artifact) or self.believed(said) is not None:
                continue
            beside = artifacts.signature_path(path)
            signature = artifacts.read_bounded(beside, SIZE_LIMIT) if beside.exists() else None
            content = artifacts.read_bounded(path, SIZE_LIMIT)
            one = SignedStatement(artifact, builder, content, signature)
            if builder == LOCAL and not self.unsigned:
                unsigned += [] if origin else [one]
                continue
            count += 1
            yield one
        if count:
            return
        builder, sign = self.signer.builder, self.signer.sign
        if sign is None:
            reason = "the build is not signed, and unsigned builds are not published"
            hint = "set `signing-key:` and push again, or allow unsigned for this binhost"
            raise UsageError(reason, place=f"key {key}", hint=hint)
        if not unsigned:
            taken = f"nobody signed the build, which was taken from '{found.origin}'"
            again = "leave that repository out of the configuration and build again"
            hint = f"{again}: then it is built here"
            raise UsageError(f"{taken}: it is not yours to sign", place=f"key {key}", hint=hint)
        # Built here before there was a key: a user who publishes a build vouches for it.
        for one in unsigned[:1]:
            content = statement_bytes(one.artifact, builder)
            yield SignedStatement(one.artifact, builder, content, sign(content))

    def _packed(
        self, one: SignedStatement, scratch: Path, packed: dict[Digest, Path]
    ) -> SignedStatement:
        """The statement to publish: the caller's own says which compressed forms are there."""
        sign = self.signer.sign
        if sign is None or not self.compressed or one.builder != self.signer.builder:
            return one
        artifact, files = compress(one.artifact, self.store, scratch, self.codec)
        if not files:
            return one
        packed.update(files)
        content = statement_bytes(artifact, one.builder)
        return SignedStatement(artifact, one.builder, content, sign(content))

    def _agreeing(
        self, one: SignedStatement, there: protocols.Served | None
    ) -> SignedStatement | None:
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
            self.remote.add([self._whole(one)])  # a push that was cut short left none, or another's
        return SignedStatement(artifact, one.builder, content, signature)

    # -- blobs

    def _send(
        self,
        ready: Sequence[SignedStatement],
        beside: Sequence[Digest],
        packed: Mapping[Digest, Path],
    ) -> tuple[int, int]:
        wanted: set[Digest] = set(beside)
        outputs: list[Output] = []
        for one in ready:
            outputs += one.artifact.outputs.values()
            wanted |= {want.digest for want in needed(one.artifact)}
            wanted |= {digest for _, digest in one.artifact.materials}
        layers = {output.diff_id: self.store.size(output.diff_id) or 0 for output in outputs}
        forms = {form.digest: form.size for output in outputs for form in output.encodings}
        wanted -= layers.keys()
        found = (self._outgoing(digest, packed) for digest in sorted(wanted))
        blobs = {blob.digest: blob for blob in found if blob is not None}
        sizes = {digest: blob.size for digest, blob in blobs.items()}
        missing = self.remote.missing(sizes | layers | forms)
        for output in outputs:
            # one form is enough, and the shortest of those that can be had
            names = {form.digest for form in output.encodings}
            if missing >= {output.diff_id, *names}:
                here = {name for name in names if name in packed or self.store.has(name)}
                more = (self._outgoing(name, packed) for name in here or {output.diff_id})
                blobs |= {blob.digest: blob for blob in more if blob is not None}
        sent = [blob for digest, blob in sorted(blobs.items()) if digest in missing]
        self.remote.put(sent, self.progress)
        return sum(blob.size for blob in sent), len(sent)

    def _whole(self, one: SignedStatement) -> SignedStatement:
        """With the pack of its small blobs, and its resolved key where it is no repetition."""
        artifact, store = one.artifact, self.store
        small = [artifact.record, *(output.contents for output in artifact.outputs.values())]
        small += [artifact.log] if artifact.log is not None else []
        limit = protocols.MEMBER_LIMIT
        there = [digest for digest in small if (store.size(digest) or limit) < limit]
        pack = protocols.pack_of(store.read(digest) for digest in there)
        record = "" if artifact.restated is not None else store.read(artifact.record).decode()
        resolved = artifacts.resolved_of(artifact, record) if record else None
        return replace(one, pack=pack, resolved=resolved)

    def _outgoing(self, digest: Digest, packed: Mapping[Digest, Path]) -> protocols.Outgoing | None:
        if digest in packed:
            path = packed[digest]
            return protocols.Outgoing(digest, path.stat().st_size, lambda: path.open("rb"))
        if (size := self.store.size(digest)) is None:
            return None
        return protocols.Outgoing(digest, size, lambda: self.store.checked(digest))


def _essence(artifact: Artifact) -> object:
    """What a statement says, without the compressed forms."""
    outputs = {
        name: (one.diff_id, one.size, one.contents, one.needs, dict(one.providers))
        for name, one in artifact.outputs.items()
    }
    return outputs, {key: dict(used) for key, used in artifact.resolved.items()}, artifact.record


def compress(
    artifact: Artifact, store: Store, directory: Path, codec: str = CODEC
) -> tuple[Artifact, Mapping[Digest, Path]]:
    """The artifact with the compressed form of its layers, whose files are in `directory`.

    Raises:
        IntegrityError: a layer of the store is corrupt.
        OSError: the directory cannot be written.
    """
    files: dict[Digest, Path] = {}
    outputs: dict[str, Output] = {}
    for name, output in artifact.outputs.items():
        form = _encoded(output, store, directory / f"{output.diff_id}.{codec}", files)
        outputs[name] = replace(output, encodings=(form,)) if form else output
    return (replace(artifact, outputs=outputs) if files else artifact), files


def _encoded(
    output: Output, store: Store, path: Path, files: dict[Digest, Path]
) -> Encoding | None:
    """The form that the path's suffix names, where it is worth it."""
    if output.size < LEAST or not _promising(output, store):
        return None
    codec = path.suffix.removeprefix(".")
    path.unlink(missing_ok=True)
    with store.checked(output.diff_id) as layer:
        digest, size = compress_layer(layer, output.diff_id, codec, path)
    if size > output.size * WORTH:
        path.unlink()
        return None
    files[digest] = path
    return Encoding(codec, digest, size)


def _promising(output: Output, store: Store) -> bool:
    """Whether a piece of a large layer, from its middle, shrinks; most of a build's do."""
    if output.size < 8 * SAMPLE:
        return True
    with store.open_blob(output.diff_id) as layer:
        layer.seek(output.size // 2)
        piece = layer.read(SAMPLE)
    return len(zlib.compress(piece, 1)) < len(piece) * WORTH
