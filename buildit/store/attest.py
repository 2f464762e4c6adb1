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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NoReturn, TypeVar

from buildit.digest import BuildKey, Digest, canonical, is_hex64
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
_T = TypeVar("_T")


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
    _check_artifact(artifact, builder)
    return canonical(_statement(artifact, builder))


def parse_statement(content: bytes, key: BuildKey) -> Statement:
    """Read a statement about `key`.

    Raises:
        IntegrityError: it is about another key, or not exactly as `statement_bytes` writes it.
    """
    place = f"statement of key {key}"
    if len(content) > SIZE_LIMIT:
        _refuse(place, f"it has {len(content)} bytes, more than {SIZE_LIMIT}")
    try:
        document = json.loads(content)
        statement = _read(document)
        again = statement_bytes(statement.artifact, statement.builder)
    except RecursionError:
        _refuse(place, "it is nested too deeply")
    except (ValueError, TypeError, KeyError) as error:
        _refuse(place, _reason(error))
    if again != content:
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


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]!r}"
    return str(error) or "it is not JSON"


# -- writing


def _statement(artifact: Artifact, builder: str) -> dict[str, object]:
    return {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": name, "digest": _sha256(output.diff_id)}
            for name, output in sorted(artifact.outputs.items())
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "key": artifact.key,
                    "name": artifact.name,
                    "platform": artifact.platform,
                    "version": artifact.version,
                },
                "resolvedDependencies": _dependencies(artifact),
            },
            "runDetails": {
                "builder": {"id": f"{BUILDER_ID}{builder}"},
                "byproducts": [] if artifact.log is None else [_named("log", artifact.log)],
            },
            "buildit_epoch": artifact.epoch,
            "buildit_outputs": {name: _output(output) for name, output in artifact.outputs.items()},
            # Only where it says something: statements without it keep their bytes.
            **({} if artifact.restated is None else {"buildit_restated": artifact.restated}),
        },
    }


def _dependencies(artifact: Artifact) -> list[dict[str, object]]:
    """SLSA `resolvedDependencies`: the record first, materials as ordered, then outputs by key."""
    return [
        _named("record", artifact.record),
        *(_named(f"material:{name}", digest) for name, digest in artifact.materials),
        *(
            {**_named(f"output:{name}", digest), "annotations": {"buildit_key": key}}
            for key, outputs in sorted(artifact.resolved.items())
            for name, digest in sorted(outputs.items())
        ),
    ]


def _named(name: str, digest: Digest) -> dict[str, object]:
    return {"name": name, "digest": _sha256(digest)}


def _sha256(digest: Digest) -> dict[str, str]:
    return {"sha256": digest}


def _output(output: Output) -> dict[str, object]:
    return {
        "contents": output.contents,
        "encodings": [
            {"codec": found.codec, "digest": found.digest, "size": found.size}
            for found in output.encodings
        ],
        "needs": list(output.needs),
        "providers": dict(output.providers),
        "size": output.size,
    }


# -- reading: shapes only; `_check_artifact` and the second writing judge the values


def _read(document: object) -> Statement:
    statement = _map(document, "the statement")
    predicate = _map(statement["predicate"], "predicate")
    definition = _map(predicate["buildDefinition"], "buildDefinition")
    parameters = _map(definition["externalParameters"], "externalParameters")
    details = _map(predicate["runDetails"], "runDetails")
    outputs = _map(predicate["buildit_outputs"], "buildit_outputs")
    diff_ids = dict(_list(statement["subject"], "subject", _read_named))
    if diff_ids.keys() != outputs.keys():
        raise ValueError("its subjects are not its outputs")
    record, materials, resolved = _read_dependencies(definition["resolvedDependencies"])
    logs = _list(details["byproducts"], "byproducts", _read_named)
    artifact = Artifact(
        key=BuildKey(_text(parameters["key"], "key")),
        name=_text(parameters["name"], "name"),
        version=_text(parameters["version"], "version"),
        platform=_text(parameters["platform"], "platform"),
        outputs={name: _read_output(diff_ids[name], found) for name, found in outputs.items()},
        record=record,
        log=logs[0][1] if logs else None,
        resolved=resolved,
        materials=materials,
        epoch=_count(predicate["buildit_epoch"], "buildit_epoch"),
        restated=_restated(predicate),
    )
    builder = _text(_map(details["builder"], "builder")["id"], "builder.id")
    return Statement(artifact, builder.removeprefix(BUILDER_ID))


def _restated(predicate: Mapping[str, object]) -> BuildKey | None:
    if "buildit_restated" not in predicate:
        return None
    return BuildKey(_text(predicate["buildit_restated"], "buildit_restated"))


def _read_dependencies(
    value: object,
) -> tuple[Digest, tuple[tuple[str, Digest], ...], dict[BuildKey, dict[str, Digest]]]:
    found = _list(value, "resolvedDependencies", lambda entry: _map(entry, "a dependency"))
    if not found:
        raise ValueError("it names no record")
    materials: list[tuple[str, Digest]] = []
    resolved: dict[BuildKey, dict[str, Digest]] = {}
    for entry in found[1:]:
        name, digest = _read_named(entry)
        kind, _, rest = name.partition(":")
        if kind == "material":
            materials.append((rest, digest))
        else:
            notes = _map(entry["annotations"], "annotations")
            key = BuildKey(_text(notes["buildit_key"], "buildit_key"))
            resolved.setdefault(key, {})[rest] = digest
    return _read_named(found[0])[1], tuple(materials), resolved


def _read_output(diff_id: Digest, value: object) -> Output:
    found = _map(value, "an output")
    return Output(
        diff_id=diff_id,
        size=_count(found["size"], "size"),
        contents=_digest(found["contents"]),
        needs=tuple(_list(found["needs"], "needs", lambda need: _text(need, "a need"))),
        providers={
            need: _text(provider, "a provider")
            for need, provider in _map(found["providers"], "providers").items()
        },
        encodings=tuple(_list(found["encodings"], "encodings", _read_encoding)),
    )


def _read_encoding(value: object) -> Encoding:
    found = _map(value, "an encoding")
    codec = _text(found["codec"], "codec")
    return Encoding(codec, _digest(found["digest"]), _count(found["size"], "size"))


def _read_named(value: object) -> tuple[str, Digest]:
    found = _map(value, "a descriptor")
    return _text(found["name"], "name"), _digest(_map(found["digest"], "digest")["sha256"])


def _map(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError(f"{what} is not a map")
    return value


def _list(value: object, what: str, read: Callable[[object], _T]) -> list[_T]:
    if not isinstance(value, list):
        raise TypeError(f"{what} is not a list")
    return [read(entry) for entry in value]


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{what} is not text")
    return value


def _count(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < _MAX_SIZE:
        raise ValueError(f"{what} is not a count")
    return value


def _digest(value: object) -> Digest:
    if not isinstance(value, str) or not is_hex64(value):
        raise ValueError(f"{value!r:.80} is not a SHA-256 digest")
    return Digest(value)


# -- judging


def _check_artifact(artifact: Artifact, builder: str) -> None:
    if not is_builder(builder):
        raise ValueError(f"{builder!r:.80} is no builder's name")
    further = () if artifact.restated is None else (artifact.restated,)
    for hexdigits in (artifact.key, *artifact.resolved, *further):
        if not is_hex64(hexdigits):
            raise ValueError(f"{hexdigits!r:.80} is not a build key")
    if not artifact.outputs:
        raise ValueError("it has no outputs")
    for name in (
        *artifact.outputs,
        *(name for used in artifact.resolved.values() for name in used),
    ):
        if not _OUTPUT_NAME.fullmatch(name):
            raise ValueError(f"{name!r:.80} is not an output's name")
    if not all(artifact.resolved.values()):
        raise ValueError("a dependency is named without outputs")
    _count(artifact.epoch, "epoch")
    for digest in _digests(artifact):
        _digest(digest)
    for output in artifact.outputs.values():
        _check_output(output)


def _digests(artifact: Artifact) -> list[Digest]:
    return [
        artifact.record,
        *([] if artifact.log is None else [artifact.log]),
        *(digest for _, digest in artifact.materials),
        *(digest for used in artifact.resolved.values() for digest in used.values()),
        *(output.diff_id for output in artifact.outputs.values()),
    ]


def _check_output(output: Output) -> None:
    _count(output.size, "size")
    _digest(output.contents)
    if list(output.needs) != sorted(set(output.needs)):
        raise ValueError("needs are not sorted or not unique")
    for need, provider in output.providers.items():
        key, colon, name = provider.partition(":")
        if not colon or (key and not is_hex64(key)) or not _OUTPUT_NAME.fullmatch(name):
            raise ValueError(f"{provider!r:.160} is not a provider")
        if need not in output.needs:
            raise ValueError(f"{need!r:.80} has a provider but is not needed")
    for encoding in output.encodings:
        _digest(encoding.digest)
        _count(encoding.size, "size")
        if encoding.codec not in _CODECS:
            raise ValueError(f"{encoding.codec!r:.80} is not a codec")
