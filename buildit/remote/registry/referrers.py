"""What is said about an image, as manifests that name it as their subject (image-spec manifest.md,
"Guidelines for Artifact Usage"): its in-toto statement with OpenSSH's signature, and the signature
that cosign verifies (sigstore's SIGNATURE_SPEC.md). Documents only.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING

from buildit.digest import canonical
from buildit.errors import IntegrityError
from buildit.remote.registry.client import IMAGE_MANIFEST

if TYPE_CHECKING:
    from buildit.image.formats.table import Document

STATEMENT_MEDIA = "application/vnd.in-toto+json"
SSHSIG_MEDIA = "application/vnd.buildit.sshsig"
COSIGN_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
COSIGN_PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
EMPTY_MEDIA = "application/vnd.oci.empty.v1+json"
EMPTY = b"{}"
"""The config of what needs none (image-spec manifest.md, "Guidance for an Empty Descriptor")."""
_COSIGN_SIGNATURE = "dev.cosignproject.cosign/signature"
_TITLE = "org.opencontainers.image.title"
PREDICATE = "urn:buildit:image:1"
_STATEMENT = "https://in-toto.io/Statement/v1"


def image_attestation(statement: Document, digest: str) -> bytes:
    """The in-toto Statement v1 of an image: `digest` (`sha256:…`) of its manifest is the subject,
    what `commands.statement.image_statement` says of it the predicate."""
    said = {name: value for name, value in statement.items() if name != "image"}
    name = f"{said.get('name', '')}:{said.get('version', '')}"
    subject = {"name": name, "digest": {"sha256": digest.removeprefix("sha256:")}}
    document = {"_type": _STATEMENT, "predicateType": PREDICATE, "predicate": said}
    return canonical(document | {"subject": [subject]})


def cosign_payload(repository: str, digest: str) -> bytes:
    """What cosign has a key sign of the manifest `digest` in `repository` (`HOST/NAME`)."""
    critical = {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    return canonical({"critical": critical, "optional": None})


def cosign_tag(digest: str) -> str:
    """Where cosign looks for the signatures of a manifest first."""
    return f"{digest.replace(':', '-', 1)}.sig"


def titled(descriptor: Document, title: str) -> Document:
    """A layer that `oras pull` writes to a file."""
    return {**descriptor, "annotations": {_TITLE: title}}


def signed_layer(payload: Document, signature: bytes) -> Document:
    """The layer of a payload and what a key signed of it: `signature` as X.509 has it."""
    return {**payload, "annotations": {_COSIGN_SIGNATURE: base64.b64encode(signature).decode()}}


def artifact(
    kind: str, config: Document, layers: Sequence[Document], subject: Document | None
) -> Document:
    """The manifest of an artifact of a type, about `subject` where there is one."""
    kept = {name: subject[name] for name in ("mediaType", "digest", "size")} if subject else None
    return {
        "schemaVersion": 2,
        "mediaType": IMAGE_MANIFEST,
        "artifactType": kind,
        "config": config,
        "layers": [*layers],
        **({"subject": kept} if kept else {}),
    }


def with_layer(kept: Document | None, made: Document, layer: Document) -> Document | None:
    """The manifest of all signatures with one more; `made` where there is none yet, None where it
    is among them.

    Raises:
        IntegrityError: what is there is no manifest.
    """
    if kept is None:
        return made
    layers = kept.get("layers")
    if not isinstance(layers, list):
        raise IntegrityError("its manifest of signatures has no layers")
    return None if layer in layers else {**kept, "layers": [*layers, layer]}
