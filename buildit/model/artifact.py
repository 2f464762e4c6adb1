"""What a build leaves: outputs, each one layer, bound to a key by an attestation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from buildit.digest import BuildKey, Digest
from buildit.model.accounts import NOTHING, Declared

RUNTIME = "runtime"
"""The output that images take; the others are `dev`, `doc`, `locale`, `debug`."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """One compressed form of a layer: `codec` is `gzip` or `zstd`; digest and size of that form."""

    codec: str
    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Output:
    """One output of a build: a plain tar in the store.

    `diff_id` is the tar's digest (OCI image-spec config.md), `size` its length in bytes.
    `contents` is the digest of the blob that lists its entries (`archive.contents`).
    `needs` are sorted `soname:libz.so.1`, `interp:/lib64/ld-linux-x86-64.so.2`, `path:/bin/sh`.
    `providers` says for each of them which output the build saw it in: `<key>:<output>`, or
    `:<output>` for a sibling of the same build. `run` are outputs that this one needs at run time
    although no file says so, as its own build declared them, named like providers and sorted.
    `declared` are accounts and alternatives that making it revealed, as it does of a .deb.
    """

    diff_id: Digest
    size: int
    contents: Digest
    needs: tuple[str, ...] = ()
    providers: Mapping[str, str] = field(default_factory=dict)
    encodings: tuple[Encoding, ...] = ()
    run: tuple[str, ...] = ()
    declared: Declared = NOTHING


@dataclass(frozen=True, slots=True)
class Artifact:
    """Everything that an attestation says of one key.

    `resolved` names the diff_ids of the dependency outputs that the build used:
    dependency key -> output name -> diff_id. `record` and `log` are blobs. `name`, `version` and
    `platform` are for people and for the optional name index; the record is the truth.
    `materials` are the digests of all source-like inputs: (name, digest). `restated` is the key of
    the build that these outputs come from, where none was made for this key: the inputs are the
    same but for dependencies with other keys and identical bytes (DESIGN 3, early cut-off).
    """

    key: BuildKey
    name: str
    version: str
    platform: str
    outputs: Mapping[str, Output]
    record: Digest
    log: Digest | None = None
    resolved: Mapping[BuildKey, Mapping[str, Digest]] = field(default_factory=dict)
    materials: tuple[tuple[str, Digest], ...] = ()
    epoch: int = 0
    restated: BuildKey | None = None
