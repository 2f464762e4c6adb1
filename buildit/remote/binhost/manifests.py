"""What a binhost in an OCI registry is made of: tags and manifests (image-spec 1.1). Pure.

    <key>.<32 digits of the builder>                    an image: what the build gives at run time
    <key>.<32 of the builder>.<30 of a statement>       that statement, its signature, all that it
                                                        names; the image is its subject
    resolved.<resolved key>.<32 of the builder>         the same image (DESIGN 3, early cut-off)
    name.<category>_s<name>.<key>                       the same image, for people and for `why`
    blobs.<digest>                                      all that one push needs: sources, .debs

The tag of a key and builder says by annotations which statement is meant. A statement has a tag of
its own, so that none is ever lost, whoever publishes at the same time. Every blob is referred to by
a manifest with a tag, since a registry removes what is not.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildit.digest import BuildKey, Digest, canonical, digest_bytes, is_hex64, oci_digest
from buildit.image.rules import rfc3339
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.remote.registry.client import IMAGE_MANIFEST
from buildit.remote.registry.referrers import EMPTY, EMPTY_MEDIA, STATEMENT_MEDIA, artifact
from buildit.store.artifacts import split_statement_name
from buildit.store.names import name_place

Descriptor = dict[str, Any]
"""What a manifest says of a blob: media type, digest, size (image-spec descriptor.md)."""

CONFIG_MEDIA = "application/vnd.oci.image.config.v1+json"
LAYER_MEDIA = "application/vnd.oci.image.layer.v1.tar"
PACK_MEDIA = "application/vnd.buildit.pack.v1"
BLOBS_MEDIA = "application/vnd.buildit.blobs.v1"
ANY_MEDIA = "application/octet-stream"
MOST_LISTED = 10_000
"""Blobs of one manifest, which has at most 4 MiB."""

_PREFIX = "buildit."
_BUILDER_DIGITS, _STATEMENT_DIGITS = 32, 30
_LONGEST_TAG = 128
_TITLE = "org.opencontainers.image.title"
_PART = re.compile(r"k/[0-9a-f]{2}/([0-9a-f]{64})/([0-9a-f.]+\.json)(\.sig|\.pack)?")
_ENTRY = re.compile(r"r/[0-9a-f]{2}/([0-9a-f]{64})/([0-9a-f]{64})\.json")
_BLOB = re.compile(r"blobs/sha256/([0-9a-f]{64})")
_KEYED = re.compile(rf"([0-9a-f]{{64}})\.[0-9a-f]{{{_BUILDER_DIGITS}}}")
_NAMED = re.compile(r"name\.([A-Za-z0-9._-]+)\.([0-9a-f]{64})")
_ESCAPES = {"_": "_u", "+": "_p", "/": "_s"}
"""What a tag cannot have, or has for this."""
_PLAIN = {escaped: plain for plain, escaped in _ESCAPES.items()}


# -- tags


def key_tag(key: BuildKey, builder: str) -> str:
    """The tag of what a builder says of a key."""
    return f"{key}.{builder[:_BUILDER_DIGITS]}"


def statement_tag(key: BuildKey, builder: str, statement: Digest) -> str:
    """The tag of one statement, as long as a tag can be."""
    return f"{key_tag(key, builder)}.{statement[:_STATEMENT_DIGITS]}"


def resolved_tag(resolved: Digest, builder: str) -> str:
    return f"resolved.{resolved}.{builder[:_BUILDER_DIGITS]}"


def name_tag(name: str, key: BuildKey) -> str | None:
    """The tag by which builds of a name are found; None where no tag can have the name."""
    place = name_place(name)
    if place is None:
        return None
    tag = f"name.{''.join(_ESCAPES.get(one, one) for one in place)}.{key}"
    return tag if len(tag) <= _LONGEST_TAG else None


def blobs_tag(digests: Iterable[Digest]) -> str:
    return f"blobs.{digest_bytes(canonical(sorted(digests)))}"


def named_by(tags: Iterable[str], place: str) -> tuple[str, ...]:
    """The files that a directory `n/<category>/<name>` would have: `<key>.json`, sorted."""
    return tuple(sorted(f"{key}.json" for at, key in _names(tags) if at == place))


def _names(tags: Iterable[str]) -> Iterator[tuple[str, str]]:
    for tag in tags:
        if (found := _NAMED.fullmatch(tag)) is not None:
            yield re.sub("_[ups]", lambda one: _PLAIN[one[0]], found[1]), found[2]


def tags_of(tags: Iterable[str], key: str) -> tuple[str, ...]:
    """The tags of what builders say of a key."""
    found = ((tag, _KEYED.fullmatch(tag)) for tag in tags)
    return tuple(tag for tag, match in found if match is not None and match[1] == key)


# -- paths below a binhost's root, as they are in a registry


@dataclass(frozen=True, slots=True)
class Part:
    """What of a statement a path means: `mark` is the annotation of a tag that has its digest."""

    tag: str
    mark: str


STATEMENT_MARK, SIGNATURE_MARK, PACK_MARK = (
    *(_PREFIX + "statement", _PREFIX + "signature", _PREFIX + "pack"),
)
KEY_MARK, BUILDER_MARK = _PREFIX + "key", _PREFIX + "builder"
_MARKS = {None: STATEMENT_MARK, ".sig": SIGNATURE_MARK, ".pack": PACK_MARK}


def part_at(path: str) -> Part | None:
    """The part of a statement at `k/<aa>/<key>/<builder>[.<digest>].json[.sig|.pack]`."""
    found = _PART.fullmatch(path)
    named = split_statement_name(found[2]) if found is not None else None
    if found is None or named is None or not is_hex64(named[0]):
        return None
    key, (builder, statement) = BuildKey(found[1]), named
    tag = statement_tag(key, builder, statement) if statement else key_tag(key, builder)
    return Part(tag, _MARKS[found[3]])


def entry_at(path: str) -> str | None:
    """The tag of the entry `r/<aa>/<resolved key>/<builder>.json`."""
    found = _ENTRY.fullmatch(path)
    return None if found is None else resolved_tag(Digest(found[1]), found[2])


def blob_at(path: str) -> Digest | None:
    found = _BLOB.fullmatch(path)
    return None if found is None else Digest(found[1])


# -- manifests


def descriptor(media_type: str, digest: Digest, size: int, title: str = "") -> Descriptor:
    annotations = {"annotations": {_TITLE: title}} if title else {}
    return {"mediaType": media_type, "digest": oci_digest(digest), "size": size, **annotations}


def descriptor_of(media_type: str, content: bytes, title: str = "") -> Descriptor:
    return descriptor(media_type, digest_bytes(content), len(content), title)


def image_outputs(made: Artifact) -> dict[str, Output]:
    """The outputs that an image of an artifact has: that for run time, all where there is none."""
    found = {name: one for name, one in made.outputs.items() if name == RUNTIME}
    return found or dict(sorted(made.outputs.items()))


def image_config(made: Artifact) -> bytes:
    """The image config (image-spec config.md): nothing is started, it is a part of an image."""
    system, _, arch = made.platform.partition("/")
    outputs = image_outputs(made)
    created = rfc3339(made.epoch)
    label = f"buildit: {made.name}-{made.version}"
    return canonical(
        {
            "architecture": arch,
            "config": {},
            "created": created,
            "history": [{"created": created, "created_by": f"{label} ({one})"} for one in outputs],
            "os": system,
            "rootfs": {
                "diff_ids": [oci_digest(one.diff_id) for one in outputs.values()],
                "type": "layers",
            },
        }
    )


@dataclass(frozen=True, slots=True)
class StatementParts:
    """Descriptors of a statement and of what lies beside it."""

    statement: Descriptor
    signature: Descriptor | None
    pack: Descriptor | None

    @property
    def all(self) -> list[Descriptor]:
        found = (self.statement, self.signature, self.pack)
        return [one for one in found if one is not None]


def annotations_of(made: Artifact, builder: str, parts: StatementParts) -> dict[str, str]:
    """What a tag says: whose statement about which key, and where its parts are."""
    found = {
        _TITLE: made.name,
        "org.opencontainers.image.version": made.version,
        KEY_MARK: made.key,
        BUILDER_MARK: builder,
        STATEMENT_MARK: parts.statement["digest"],
    }
    found |= {SIGNATURE_MARK: parts.signature["digest"]} if parts.signature is not None else {}
    found |= {PACK_MARK: parts.pack["digest"]} if parts.pack is not None else {}
    return found


def image_manifest(
    config: Descriptor, layers: Sequence[Descriptor], annotations: Mapping[str, str]
) -> bytes:
    """An image that every client can pull."""
    return canonical(
        {
            "annotations": dict(annotations),
            "config": config,
            "layers": list(layers),
            "mediaType": IMAGE_MANIFEST,
            "schemaVersion": 2,
        }
    )


def statement_manifest(
    subject: bytes, parts: StatementParts, blobs: Sequence[Descriptor], marks: Mapping[str, str]
) -> bytes:
    """A statement as an OCI 1.1 referrer of its image, and the blobs that it names."""
    return _listing(STATEMENT_MEDIA, [*parts.all, *blobs], marks, subject)


def blobs_manifest(blobs: Mapping[Digest, int]) -> bytes:
    """What keeps blobs from being removed as garbage."""
    listed = [descriptor(ANY_MEDIA, digest, size) for digest, size in sorted(blobs.items())]
    return _listing(BLOBS_MEDIA, listed, {})


def _listing(
    kind: str, blobs: Sequence[Descriptor], annotations: Mapping[str, str], subject: bytes = b""
) -> bytes:
    once: dict[str, Descriptor] = {}
    for one in blobs:
        once.setdefault(one["digest"], one)
    about = descriptor_of(IMAGE_MANIFEST, subject) if subject else None
    document = artifact(kind, descriptor_of(EMPTY_MEDIA, EMPTY), [*once.values()], about)
    return canonical({**document, **({"annotations": dict(annotations)} if annotations else {})})


def marks_of(manifest: bytes) -> dict[str, str]:
    """The annotations of a manifest; none where it has none, or is not one of ours."""
    try:
        found = json.loads(manifest)["annotations"]
        return {str(name): str(text) for name, text in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
