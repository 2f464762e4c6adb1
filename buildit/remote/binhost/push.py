"""Push: blobs first, then statements, whatever the way to the binhost is.

Only what the binhost lacks travels, layers in their shortest form. What is there is never
overwritten: a second, different statement of one builder is kept beside the first and reported.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.archive.compress import compress_layer
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, UsageError
from buildit.model.artifact import Artifact, Encoding, Output
from buildit.remote.binhost.binhost import needed
from buildit.remote.binhost.protocols import (
    MEMBER_LIMIT,
    Outgoing,
    Progress,
    Remote,
    Served,
    SignedStatement,
    pack_of,
    unheard,
)
from buildit.store.artifacts import (
    Believed,
    Found,
    anybody,
    examine,
    incomplete,
    origin_of,
    read_bounded,
    read_statement,
    resolved_of,
    signature_path,
    statement_paths,
)
from buildit.store.attest import LOCAL, SIZE_LIMIT, parse_statement, statement_bytes
from buildit.store.cas import Store
from buildit.trust.policy import Accept
from buildit.trust.signers import UNSIGNED, Signer

CODEC = "zstd"
"""The form in which layers travel."""
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
    `signer` signs those of the caller's own builds, whose layers travel `compressed`; `believed`
    says which statements that came from elsewhere are published again."""

    store: Store
    remote: Remote
    accept: Accept
    unsigned: bool = False
    signer: Signer = UNSIGNED
    compressed: bool = False
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
        found = examine(self.store, key, believed=self.believed)
        if not isinstance(found, Found):
            reason = f"there is nothing to push: {found.reasons[0]}"
            raise UsageError(reason, place=f"key {key}", hint="build it first")
        unsigned = []
        count = 0
        for path in statement_paths(self.store.root, key):
            artifact, builder = read_statement(path, key)
            origin = origin_of(path)
            said = Found(artifact, builder, path, origin)
            if incomplete(self.store, artifact) is not None or self.believed(said) is not None:
                continue
            one = SignedStatement(
                artifact, builder, read_bounded(path, SIZE_LIMIT), _signature(path)
            )
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
            raise UsageError(
                f"nobody signed the build, which was taken from '{found.origin}': it is not yours "
                "to sign",
                place=f"key {key}",
                hint="leave that repository out of the configuration and build again: then it is "
                "built here",
            )
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
        artifact, files = compress(one.artifact, self.store, scratch)
        if not files:
            return one
        packed.update(files)
        content = statement_bytes(artifact, one.builder)
        return SignedStatement(artifact, one.builder, content, sign(content))

    def _agreeing(self, one: SignedStatement, there: Served | None) -> SignedStatement | None:
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
        there = [digest for digest in small if (store.size(digest) or MEMBER_LIMIT) < MEMBER_LIMIT]
        pack = pack_of(store.read(digest) for digest in there)
        record = "" if artifact.restated is not None else store.read(artifact.record).decode()
        return replace(one, pack=pack, resolved=resolved_of(artifact, record) if record else None)

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


def compress(
    artifact: Artifact, store: Store, directory: Path
) -> tuple[Artifact, Mapping[Digest, Path]]:
    """The artifact with the zstd form of its layers, whose files are in `directory`.

    Raises:
        IntegrityError: a layer of the store is corrupt.
        OSError: the directory cannot be written.
    """
    files: dict[Digest, Path] = {}
    outputs: dict[str, Output] = {}
    for name, output in artifact.outputs.items():
        form = _encoded(output, store, directory, files)
        outputs[name] = replace(output, encodings=(form,)) if form else output
    return (replace(artifact, outputs=outputs) if files else artifact), files


def _encoded(
    output: Output, store: Store, directory: Path, files: dict[Digest, Path]
) -> Encoding | None:
    if output.size < LEAST or not _promising(output, store):
        return None
    path = directory / f"{output.diff_id}.{CODEC}"
    path.unlink(missing_ok=True)
    with store.checked(output.diff_id) as layer:
        digest, size = compress_layer(layer, output.diff_id, CODEC, path)
    if size > output.size * WORTH:
        path.unlink()
        return None
    files[digest] = path
    return Encoding(CODEC, digest, size)


def _promising(output: Output, store: Store) -> bool:
    """Whether a piece of a large layer, from its middle, shrinks; most of a build's do."""
    if output.size < 8 * SAMPLE:
        return True
    with store.open_blob(output.diff_id) as layer:
        layer.seek(output.size // 2)
        piece = layer.read(SAMPLE)
    return len(zlib.compress(piece, 1)) < len(piece) * WORTH
