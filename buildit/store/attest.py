"""An artifact as an in-toto Statement v1 with SLSA provenance v1, and back.

Canonical JSON: same artifact and builder, same bytes; no time of day is in it. The subjects are the
outputs. Fields of ours have the prefix `buildit_` (SLSA v1.0 provenance, "Extension fields").
Reading is strict by construction: what was read is written again and must give the same bytes, so
nothing in a statement is redundant, unknown or ambiguous.
"""

from __future__ import annotations

import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from buildit.codec import CodecError, decode, encode, from_plain, keyed, to_plain
from buildit.digest import BuildKey, Digest, is_hex64
from buildit.errors import IntegrityError
from buildit.model.artifact import Artifact, Encoding, Output

LOCAL = "local"
"""The builder of unsigned statements; others are the SHA-256 of an SSH public key blob."""

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:buildit:build:1"
BUILDER_ID = "urn:buildit:builder:"
SIZE_LIMIT = 16 << 20
"""Bytes of a statement; one that names 50 000 dependencies has about 15 MB."""

_OUTPUT_NAME = re.compile(r"[a-z0-9][a-z0-9.+_-]{0,127}")
_CODECS = ("gzip", "zstd")
_MAX_SIZE = 1 << 62


@dataclass(frozen=True, slots=True)
class Statement:
    """What one builder says of one key."""

    artifact: Artifact
    builder: str


def is_builder(text: str) -> bool:
    return text == LOCAL or is_hex64(text)


def fingerprint(builder: str) -> str:
    """A builder's key as `ssh-keygen -l` prints it: the same SHA-256 as its name here."""
    if not is_hex64(builder):
        return "unsigned"
    packed = binascii.b2a_base64(bytes.fromhex(builder), newline=False).decode()
    return f"SHA256:{packed.rstrip('=')}"


def statement_bytes(artifact: Artifact, builder: str) -> bytes:
    """The statement to keep and sign.

    Raises:
        ValueError: the artifact or the builder's name is not well formed.
    """
    _check(artifact, builder)
    document = _written(artifact, builder)
    # The reader of documents is the judge of digests and of types.
    from_plain(_Document, to_plain(document))
    return encode(document)


def parse_statement(content: bytes, key: BuildKey) -> Statement:
    """Read a statement about `key`.

    Raises:
        IntegrityError: it is about another key, or not exactly as `statement_bytes` writes it.
    """
    place = f"statement of key {key}"
    if len(content) > SIZE_LIMIT:
        _refuse(place, f"it has {len(content)} bytes, more than {SIZE_LIMIT}")
    try:
        statement = _read(decode(_Document, content))
        _check(statement.artifact, statement.builder)
    except ValueError as error:
        _refuse(place, str(error))
    if encode(_written(statement.artifact, statement.builder)) != content:
        _refuse(place, "it holds fields or a form that this buildit does not write")
    if statement.artifact.key != key:
        _refuse(place, f"it speaks of key {statement.artifact.key}")
    return statement


def stated_key(content: bytes) -> BuildKey:
    """The key that a statement says it is about; `parse_statement` judges the rest of it.

    Raises:
        IntegrityError: it says none.
    """
    try:
        definition = json.loads(content)["predicate"]["buildDefinition"]
        key = definition["externalParameters"]["key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        key = None
    if not isinstance(key, str) or not is_hex64(key):
        _refuse("a statement", "it names no key")
    return BuildKey(key)


def _refuse(place: str, reason: str) -> NoReturn:
    raise IntegrityError(
        f"the attestation is refused: {reason}",
        place=place,
        hint="build it anew, or take it from another binhost; use a newer buildit if its maker did",
    )


# -- the document, by the names of in-toto and SLSA


@dataclass(frozen=True, slots=True)
class _Sha256:
    sha256: Digest


@dataclass(frozen=True, slots=True)
class _Annotations:
    buildit_key: BuildKey


@dataclass(frozen=True, slots=True)
class _Descriptor:
    name: str
    digest: _Sha256
    annotations: _Annotations | None = field(default=None, metadata=keyed(sparse=True))


@dataclass(frozen=True, slots=True)
class _Parameters:
    key: BuildKey
    name: str
    platform: str
    version: str


@dataclass(frozen=True, slots=True)
class _Definition:
    parameters: _Parameters = field(metadata=keyed("externalParameters"))
    dependencies: tuple[_Descriptor, ...] = field(metadata=keyed("resolvedDependencies"))
    type_: str = field(default=BUILD_TYPE, metadata=keyed("buildType"))


@dataclass(frozen=True, slots=True)
class _Builder:
    id: str


@dataclass(frozen=True, slots=True)
class _Details:
    builder: _Builder
    byproducts: tuple[_Descriptor, ...]


@dataclass(frozen=True, slots=True)
class _Output:
    contents: Digest
    encodings: tuple[Encoding, ...]
    needs: tuple[str, ...]
    providers: Mapping[str, str]
    size: int
    run: tuple[str, ...] = field(default=(), metadata=keyed(sparse=True))


@dataclass(frozen=True, slots=True)
class _Predicate:
    definition: _Definition = field(metadata=keyed("buildDefinition"))
    details: _Details = field(metadata=keyed("runDetails"))
    epoch: int = field(metadata=keyed("buildit_epoch"))
    outputs: Mapping[str, _Output] = field(metadata=keyed("buildit_outputs"))
    # Only where it says something: statements without it keep their bytes.
    restated: BuildKey | None = field(default=None, metadata=keyed("buildit_restated", sparse=True))


@dataclass(frozen=True, slots=True)
class _Document:
    predicate: _Predicate
    subject: tuple[_Descriptor, ...]
    type_: str = field(default=STATEMENT_TYPE, metadata=keyed("_type"))
    predicate_type: str = field(default=PREDICATE_TYPE, metadata=keyed("predicateType"))


def _named(name: str, digest: Digest, of: BuildKey | None = None) -> _Descriptor:
    return _Descriptor(name, _Sha256(digest), None if of is None else _Annotations(of))


def _written(artifact: Artifact, builder: str) -> _Document:
    """The subjects are the outputs; SLSA `resolvedDependencies` are the record first, materials as
    ordered, then outputs by key."""
    dependencies = (
        _named("record", artifact.record),
        *(_named(f"material:{name}", digest) for name, digest in artifact.materials),
        *(
            _named(f"output:{name}", digest, key)
            for key, outputs in sorted(artifact.resolved.items())
            for name, digest in sorted(outputs.items())
        ),
    )
    outputs = {
        name: _Output(one.contents, one.encodings, one.needs, one.providers, one.size, one.run)
        for name, one in artifact.outputs.items()
    }
    parameters = _Parameters(artifact.key, artifact.name, artifact.platform, artifact.version)
    logs = () if artifact.log is None else (_named("log", artifact.log),)
    return _Document(
        _Predicate(
            _Definition(parameters, dependencies),
            _Details(_Builder(f"{BUILDER_ID}{builder}"), logs),
            artifact.epoch,
            outputs,
            artifact.restated,
        ),
        tuple(_named(name, one.diff_id) for name, one in sorted(artifact.outputs.items())),
    )


def _read(document: _Document) -> Statement:
    predicate = document.predicate
    parameters = predicate.definition.parameters
    diff_ids = {one.name: one.digest.sha256 for one in document.subject}
    if diff_ids.keys() != predicate.outputs.keys():
        raise CodecError("its subjects are not its outputs")
    record, *others = predicate.definition.dependencies or (None,)
    if record is None:
        raise CodecError("it names no record")
    materials: list[tuple[str, Digest]] = []
    resolved: dict[BuildKey, dict[str, Digest]] = {}
    for one in others:
        _, _, name = one.name.partition(":")
        if one.annotations is None:
            materials.append((name, one.digest.sha256))
        else:
            resolved.setdefault(one.annotations.buildit_key, {})[name] = one.digest.sha256
    outputs = {
        name: Output(
            diff_ids[name], one.size, one.contents, one.needs, one.providers, one.encodings, one.run
        )
        for name, one in predicate.outputs.items()
    }
    logs = predicate.details.byproducts
    artifact = Artifact(
        parameters.key,
        parameters.name,
        parameters.version,
        parameters.platform,
        outputs,
        record.digest.sha256,
        logs[0].digest.sha256 if logs else None,
        resolved,
        tuple(materials),
        predicate.epoch,
        predicate.restated,
    )
    return Statement(artifact, predicate.details.builder.id.removeprefix(BUILDER_ID))


# -- judging what types do not say


def _check(artifact: Artifact, builder: str) -> None:
    if not is_builder(builder):
        raise ValueError(f"{builder!r:.80} is no builder's name")
    if not artifact.outputs:
        raise ValueError("it has no outputs")
    used = (name for outputs in artifact.resolved.values() for name in outputs)
    for name in (*artifact.outputs, *used):
        if not _OUTPUT_NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is not an output's name")
    if not all(artifact.resolved.values()):
        raise ValueError("a dependency is named without outputs")
    _check_count(artifact.epoch, "epoch")
    for output in artifact.outputs.values():
        _check_output(output)


def _check_count(value: int, what: str) -> None:
    if not 0 <= value < _MAX_SIZE:
        raise ValueError(f"{what} is not a count")


def _check_output(output: Output) -> None:
    _check_count(output.size, "size")
    if list(output.needs) != sorted(set(output.needs)):
        raise ValueError("needs are not sorted or not unique")
    if list(output.run) != sorted(set(output.run)):
        raise ValueError("run is not sorted or not unique")
    for provider in (*output.providers.values(), *output.run):
        key, colon, name = provider.partition(":")
        if not colon or (key and not is_hex64(key)) or not _OUTPUT_NAME.fullmatch(name):
            raise ValueError(f"{provider!r:.160} is not a provider")
    for need in output.providers:
        if need not in output.needs:
            raise ValueError(f"{need!r:.80} has a provider but is not needed")
    for encoding in output.encodings:
        _check_count(encoding.size, "size")
        if encoding.codec not in _CODECS:
            raise ValueError(f"{encoding.codec!r:.80} is not a codec")
