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
from dataclasses import dataclass
from typing import Any, NoReturn

from buildit.codec import CodecError, decode, from_plain, to_plain
from buildit.digest import BuildKey, Digest, canonical, is_hex64
from buildit.errors import IntegrityError
from buildit.model.accounts import ACCOUNT_NAME, Declared, Group, User
from buildit.model.artifact import Artifact, Output

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
    # The reader is the judge of digests and of types.
    from_plain(Artifact, to_plain(artifact))
    return canonical(_document(artifact, builder))


def parse_statement(content: bytes, key: BuildKey) -> Statement:
    """Read a statement about `key`.

    Raises:
        IntegrityError: it is about another key, or not exactly as `statement_bytes` writes it.
    """
    place = f"statement of key {key}"
    if len(content) > SIZE_LIMIT:
        _refuse(place, f"it has {len(content)} bytes, more than {SIZE_LIMIT}")
    try:
        statement = _read(decode(object, content))
        _check(statement.artifact, statement.builder)
    except ValueError as error:
        _refuse(place, str(error))
    except (LookupError, TypeError, AttributeError):
        _refuse(place, "it is no statement of a build")
    if canonical(_document(statement.artifact, statement.builder)) != content:
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
        key = json.loads(content)["predicate"]["buildDefinition"]["externalParameters"]["key"]
    except (ValueError, TypeError, KeyError, RecursionError):
        key = None
    if not isinstance(key, str) or not is_hex64(key):
        _refuse("a statement", "it names no key")
    return BuildKey(key)


def _refuse(place: str, reason: str) -> NoReturn:
    hint = "build it anew, or take it from another binhost; use a newer buildit if its maker did"
    raise IntegrityError(f"the attestation is refused: {reason}", place=place, hint=hint)


# -- the document, by the names of in-toto and SLSA

_PARAMETERS = ("key", "name", "platform", "version")


def _named(name: str, digest: Digest) -> dict[str, Any]:
    return {"name": name, "digest": {"sha256": digest}}


def _document(artifact: Artifact, builder: str) -> dict[str, Any]:
    """The subjects are the outputs; SLSA `resolvedDependencies` are the record first, materials as
    ordered, then outputs by key."""
    plain = to_plain(artifact)
    outputs: dict[str, dict[str, Any]] = plain["outputs"]
    subject = [_named(name, outputs[name].pop("diff_id")) for name in sorted(outputs)]
    predicate = {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {name: plain[name] for name in _PARAMETERS},
            "resolvedDependencies": [
                _named("record", artifact.record),
                *(_named(f"material:{name}", digest) for name, digest in artifact.materials),
                *(
                    _named(f"output:{name}", digest) | {"annotations": {"buildit_key": key}}
                    for key, used in sorted(artifact.resolved.items())
                    for name, digest in sorted(used.items())
                ),
            ],
        },
        "runDetails": {
            "builder": {"id": f"{BUILDER_ID}{builder}"},
            "byproducts": [] if artifact.log is None else [_named("log", artifact.log)],
        },
        "buildit_epoch": artifact.epoch,
        # Some only where they say something: statements without them keep their bytes.
        "buildit_outputs": {
            name: {
                field: value
                for field, value in one.items()
                if field not in ("run", "declared") or getattr(artifact.outputs[name], field)
            }
            for name, one in outputs.items()
        },
    }
    if artifact.restated is not None:
        predicate["buildit_restated"] = artifact.restated
    return {
        "_type": STATEMENT_TYPE,
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
        "subject": subject,
    }


def _read(document: Any) -> Statement:  # noqa: ANN401 - JSON of a stranger
    """What is read is written again and compared, so nothing here has to be strict.

    Raises:
        ValueError, LookupError, TypeError, AttributeError: the document is no statement.
    """
    predicate = document["predicate"]
    definition, details = predicate["buildDefinition"], predicate["runDetails"]
    outputs = predicate["buildit_outputs"]
    diff_ids = {one["name"]: one["digest"]["sha256"] for one in document["subject"]}
    if diff_ids.keys() != outputs.keys():
        raise CodecError("its subjects are not its outputs")
    record, *others = definition["resolvedDependencies"] or (None,)
    if record is None:
        raise CodecError("it names no record")
    materials: list[list[object]] = []
    resolved: dict[str, dict[str, object]] = {}
    for one in others:
        name, digest = one["name"].partition(":")[2], one["digest"]["sha256"]
        if "annotations" in one:
            resolved.setdefault(one["annotations"]["buildit_key"], {})[name] = digest
        else:
            materials.append([name, digest])
    plain = {
        **{name: definition["externalParameters"][name] for name in _PARAMETERS},
        "outputs": {name: {**one, "diff_id": diff_ids[name]} for name, one in outputs.items()},
        "record": record["digest"]["sha256"],
        "log": next((one["digest"]["sha256"] for one in details["byproducts"]), None),
        "resolved": resolved,
        "materials": materials,
        "epoch": predicate["buildit_epoch"],
        "restated": predicate.get("buildit_restated"),
    }
    return Statement(from_plain(Artifact, plain), details["builder"]["id"].removeprefix(BUILDER_ID))


# -- judging what types do not say


def _check(artifact: Artifact, builder: str) -> None:
    if not is_builder(builder):
        raise ValueError(f"{builder!r:.80} is no builder's name")
    # Half of a surrogate pair is a ValueError here: it could be in no index and on no screen.
    f"{artifact.name}{artifact.version}{artifact.platform}".encode()
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
    for what, names in (("needs are", output.needs), ("run is", output.run)):
        if list(names) != sorted(set(names)):
            raise ValueError(f"{what} not sorted or not unique")
    for provider in (*output.providers.values(), *output.run):
        key, colon, name = provider.partition(":")
        if not colon or (key and not is_hex64(key)) or not _OUTPUT_NAME.fullmatch(name):
            raise ValueError(f"{provider!r:.160} is not a provider")
    _check_declared(output.declared)
    for need in output.providers:
        if need not in output.needs:
            raise ValueError(f"{need!r:.80} has a provider but is not needed")
    for encoding in output.encodings:
        _check_count(encoding.size, "size")
        if encoding.codec not in _CODECS:
            raise ValueError(f"{encoding.codec!r:.80} is not a codec")


def _check_declared(declared: Declared) -> None:
    named: tuple[User | Group, ...] = (*declared.users, *declared.groups)
    names = [one.name for one in named]
    names += [member for group in declared.groups for member in group.members]
    for name in names:
        if not re.fullmatch(ACCOUNT_NAME, name):
            raise ValueError(f"{name!r:.80} is not an account's name")
    numbers = [number for user in declared.users for number in (user.uid, user.gid)]
    for number in (*numbers, *(group.gid for group in declared.groups)):
        if not 0 <= number < 1 << 31:
            raise ValueError("an account has no id")
    for one in declared.alternatives:
        for path in (one.link, one.target):
            parts = path.split("/")
            if not path.isprintable() or not all(parts) or {".", ".."} & {*parts}:
                raise ValueError(f"{path!r:.80} is not a path")
