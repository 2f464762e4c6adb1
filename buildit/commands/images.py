"""Images that were emitted, brought to a registry (distribution-spec 1.1), with what is said of
them: the image's statement, and the signatures of OpenSSH and of cosign over it and over its digest
(docs/adr/0016)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.archive.streams import run_all
from buildit.commands import stamp
from buildit.commands.statement import kept_statement
from buildit.digest import canonical
from buildit.errors import IntegrityError, UsageError
from buildit.image.formats.table import Document
from buildit.image.layout import (
    Layout,
    blob_place,
    images_of,
    json_object,
    json_objects,
    named_of,
    opened_layout,
)
from buildit.image.rules import tag
from buildit.remote.registry.client import IMAGE_MANIFEST, advised
from buildit.remote.registry.referrers import (
    COSIGN_ARTIFACT,
    COSIGN_PAYLOAD,
    EMPTY,
    EMPTY_MEDIA,
    SSHSIG_MEDIA,
    STATEMENT_MEDIA,
    artifact,
    cosign_payload,
    cosign_tag,
    image_attestation,
    signed_layer,
    titled,
    with_layer,
)
from buildit.trust.ssh import plain_signature, sign

if TYPE_CHECKING:
    from buildit.remote.registry.client import Registry
    from buildit.remote.registry.reference import Reference
    from buildit.trust.ssh import SigningKey

_REMEMBERED = 10_000
"""Blobs of one host of which is known where they lie."""
_AT_ONCE = 4
"""Blobs that are sent at one time."""


@dataclass(frozen=True, slots=True)
class PushedImage:
    """What a push did: `reference` names the image by its digest, `sent` counts bytes, `blobs` what
    the registry did not have. `statement` and `signature` are the digests of the manifests of the
    image's statement and of cosign's signature, empty where there is none."""

    reference: Reference
    tag: str
    blobs: int
    sent: int
    statement: str = ""
    signature: str = ""


@dataclass(frozen=True, slots=True)
class _Blob:
    digest: str
    size: int
    place: str


def push_image(
    path: Path, to: Reference, registry: Registry, key: SigningKey | None = None
) -> PushedImage:
    """Send an OCI image, in a directory or an archive, to a repository: only the blobs that it
    lacks, then the manifest under its digest (those for several platforms, and their index), what
    is said of it, signed by `key`, and its tag last, so that nobody finds it half made. Digests
    stay what they are.

    `to` has a tag, or the image's version becomes it.

    Raises:
        UsageError: `to` has a digest, there is no image, or the key cannot be used.
        IntegrityError: the image is not what it says, or the registry stores something else.
        FetchError: the registry cannot be talked to, or refuses.
    """
    if to.digest:
        hint = "name a tag; the digest follows from the image"
        raise UsageError("an image cannot be pushed to a digest", place=str(to), hint=hint)
    hint = "try again: blobs that are there are not sent again; or ask whoever runs it"
    with advised(to, hint):
        return _pushed(path, to, registry, key)


def _pushed(path: Path, to: Reference, registry: Registry, key: SigningKey | None) -> PushedImage:
    try:
        with opened_layout(path) as layout:
            named = named_of(layout)
            top = layout.blob(named, "manifest")
            images = {
                str(each["digest"]): (layout.blob(each, "manifest"), str(each["mediaType"]))
                for each in images_of(layout, named)
            }
            blobs = {
                blob.digest: blob
                for manifest, _ in images.values()
                for blob in _blobs(json_object(manifest, "manifest"))
            }
            if layout.problems:
                raise IntegrityError(layout.problems[0])
            others = _elsewhere(to)
            registry.also = frozenset({others[one] for one in blobs if one in others})
            works = [partial(_brought, layout, one, registry, others) for one in blobs.values()]
            sent = run_all(works, _AT_ONCE)
    except OSError as error:
        hint = "name an image of type oci or oci-archive"
        raise UsageError(f"cannot be read: {error.strerror}", place=str(path), hint=hint) from error
    except (IntegrityError, UsageError) as error:
        error.place = error.place or str(path)
        raise
    digest, name = str(named["digest"]), to.tag or _tag(named)
    media_type = str(named["mediaType"])
    every = {**images, digest: (top, media_type)}  # an index after what it names
    for each, (manifest, kind) in every.items():
        registry.put_manifest(manifest, kind, each)
    subject = {"mediaType": media_type, "digest": digest, "size": len(top)}
    statement = _stated(registry, subject, kept_statement(path), key)
    signature = "" if key is None else _signed(registry, subject, key)
    registry.put_manifest(top, media_type, name)
    _remember(to, blobs)
    new = [size for size in sent if size is not None]
    return PushedImage(to.by_digest(digest), name, len(new), sum(new), statement, signature)


def _stated(
    registry: Registry, subject: Document, statement: Document | None, key: SigningKey | None
) -> str:
    """Put the statement of an image, with what `ssh-keygen -Y verify` reads."""
    if statement is None:
        return ""
    content = image_attestation(statement, subject["digest"])
    layers = [titled(registry.put_bytes(content, STATEMENT_MEDIA), "statement.json")]
    if key is not None:
        signature = sign(content, key).encode()
        layers.append(titled(registry.put_bytes(signature, SSHSIG_MEDIA), "statement.json.sig"))
    config = registry.put_bytes(EMPTY, EMPTY_MEDIA)
    document = artifact(STATEMENT_MEDIA, config, layers, subject)
    return registry.add_referrer(canonical(document), subject["digest"])


def _signed(registry: Registry, subject: Document, key: SigningKey) -> str:
    """Put what `cosign verify` reads, as a referrer and by the tag that it looks at first, beside
    other people's signatures."""
    payload = cosign_payload(f"{registry.at.host}/{registry.at.name}", subject["digest"])
    signature = plain_signature(key.public, key.sign(payload))
    if signature is None:
        return ""
    layer = signed_layer(registry.put_bytes(payload, COSIGN_PAYLOAD), signature)
    config = registry.put_bytes(EMPTY, COSIGN_ARTIFACT)
    document = artifact(COSIGN_ARTIFACT, config, [layer], subject)
    digest = registry.add_referrer(canonical(document), subject["digest"])

    def one_more(kept: Document | None) -> Document | None:
        return with_layer(kept, document, layer)

    registry.amend(cosign_tag(subject["digest"]), IMAGE_MANIFEST, one_more)
    return digest


def _blobs(manifest: Document) -> tuple[_Blob, ...]:
    """The config and the layers of a manifest, each once."""
    config = manifest.get("config")
    if not isinstance(config, dict):
        raise IntegrityError("the manifest names no image config")
    found: dict[str, _Blob] = {}
    for descriptor in (config, *json_objects(manifest, "layers", "manifest")):
        place, size = blob_place(descriptor, "blob"), descriptor.get("size")
        if type(size) is not int or size < 0:
            raise IntegrityError(f"the blob {descriptor['digest']} has no size")
        found[place] = _Blob(str(descriptor["digest"]), size, place)
    return tuple(found.values())


def _elsewhere(to: Reference) -> dict[str, str]:
    """The other repositories of the host that blobs were brought to from here, by digest: where it
    still has one there, nothing travels (distribution-spec, "Mounting a blob")."""
    known = stamp.last(stamp.name("mounts", to.host))
    return {str(digest): str(name) for digest, name in known.items() if name != to.name}


def _remember(to: Reference, blobs: Iterable[str]) -> None:
    kept = stamp.name("mounts", to.host)
    known = stamp.last(kept) | dict.fromkeys(blobs, to.name)
    stamp.write(kept, [], dict([*known.items()][-_REMEMBERED:]))


def _brought(
    layout: Layout, blob: _Blob, registry: Registry, others: Mapping[str, str]
) -> int | None:
    """Bytes that were sent; None where the registry had the blob."""
    there = registry.has_blob(blob.digest)
    if there is not None and there != blob.size:
        reason = f"the registry has {there} bytes as {blob.digest}, which has {blob.size}"
        hint = "its storage is damaged: ask whoever runs it"
        raise IntegrityError(reason, place=str(registry.at), hint=hint)
    if there is not None:
        return None
    other = others.get(blob.digest, "")
    opened = partial(layout.open, blob.place)
    return blob.size if registry.put_blob(blob.digest, blob.size, opened, other) else None


def _tag(described: Document) -> str:
    annotations = described.get("annotations")
    name = (
        annotations.get("org.opencontainers.image.ref.name")
        if isinstance(annotations, dict)
        else ""
    )
    return tag(str(name).rpartition(":")[2]) if name else "latest"
