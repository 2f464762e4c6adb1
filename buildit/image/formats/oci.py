"""Emit an image as an OCI image layout directory (image-spec image-layout.md).

The layers are plain tars, so that their blobs are the store's own bytes, unless `compress` says
otherwise. All JSON is canonical: the same image gives the same manifest digest anywhere.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from buildit.digest import Digest, canonical, digest_bytes, is_hex64, oci_digest
from buildit.errors import RecipeError
from buildit.image.appspec import check_app, check_tree
from buildit.image.copying import BlobPath
from buildit.image.formats.oci_config import directories, image_config, program, rfc3339
from buildit.image.formats.oci_layers import Blobs, Written, write_layers
from buildit.image.names import machine, output_name, reference, tag
from buildit.image.replacing import replacing
from buildit.model.image import Emission, Image

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
SUFFIXES = {"none": "", "gzip": "+gzip", "zstd": "+zstd"}
LAYOUT = {"imageLayoutVersion": "1.0.0"}


def emit_oci(image: Image, blob: BlobPath, output: Path) -> Emission:
    """Write `NAME-VERSION-OS-ARCH.oci/` into `output`, replacing what was there at once.

    Raises:
        RecipeError: the image, its app or its content breaks a rule, or layers clash.
        StoreError: a blob is missing, or the output cannot be written.
        IntegrityError: a blob is damaged.
    """
    check_oci(image)
    _check_layers(image)
    with replacing(output / output_name(image)) as fresh:
        written = write_oci(image, blob, fresh)
    return replace(written, path=output / output_name(image))


def write_oci(image: Image, blob: BlobPath, fresh: Path) -> Emission:
    """Write the image to the path `fresh`, which does not exist yet.

    Raises:
        RecipeError, StoreError, IntegrityError, OSError: as `emit_oci`.
    """
    codec = image.compress or "none"
    check_oci(image)
    _check_layers(image)
    directory = fresh / "blobs" / "sha256"
    for made in (fresh, fresh / "blobs", directory):
        made.mkdir()
        made.chmod(0o755)  # whatever the umask
    layers, found = write_layers(image.layers, image.epoch, Blobs(blob, directory, codec))
    config = image_config(
        image, [layer.diff_id for layer in layers], [layer.title for layer in layers]
    )
    check_tree(program(config), directories(config), found.find, image.place)
    manifest = canonical(_manifest(image, config, layers, SUFFIXES[codec]))
    for document in (canonical(config), manifest):
        _write(directory / digest_bytes(document), document)
    _write(fresh / "oci-layout", canonical(LAYOUT))
    _write(fresh / "index.json", canonical(_index(image, config, manifest)))
    digest = digest_bytes(manifest)
    return Emission(fresh, image.format, digest, oci_digest(digest), found.notices)


def check_oci(image: Image) -> dict[str, object]:
    """Refuse what can be told without the layers; returns the config, without those.

    Raises:
        RecipeError: the image, its app or its content breaks a rule.
    """
    codec = image.compress or "none"
    if codec not in SUFFIXES:
        raise RecipeError(
            f"an OCI image cannot be compressed as {codec!r}",
            place=image.place or None,
            hint=f"`compress:` takes {', '.join(SUFFIXES)}",
        )
    if image.app is not None:
        check_app(image.app, image.place)
    output_name(image)
    return image_config(image, (), ())


def _check_layers(image: Image) -> None:
    if not image.layers:
        raise RecipeError(
            "the image holds nothing",
            place=image.place or None,
            hint="add a `package` or `sync` step before the image step",
        )
    for layer in image.layers:
        if not is_hex64(layer.diff_id):  # it becomes a file name
            raise ValueError(f"not a digest: {layer.diff_id!r}")


def _manifest(
    image: Image, config: dict[str, object], layers: tuple[Written, ...], suffix: str
) -> dict[str, object]:
    """image-spec manifest.md; a media type is always written, so that nothing is guessed."""
    encoded = canonical(config)
    annotations = {
        "org.opencontainers.image.created": rfc3339(image.epoch),
        "org.opencontainers.image.title": image.name,
        "org.opencontainers.image.version": image.version,
        **({"org.opencontainers.image.authors": image.author} if image.author else {}),
        **dict(image.about),
        **dict(image.annotations),
    }
    return {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _descriptor(CONFIG, digest_bytes(encoded), len(encoded)),
        "layers": [_descriptor(LAYER + suffix, layer.digest, layer.size) for layer in layers],
        "annotations": annotations,
    }


def _index(image: Image, config: dict[str, object], manifest: bytes) -> dict[str, object]:
    """image-spec image-index.md; `ref.name` is what skopeo and umoci take as the tag (umoci allows
    no colon in it), containerd's own name what ctr and podman call a loaded image."""
    kind = machine(image)
    variant = {"variant": kind.oci_variant} if kind.oci_variant else {}
    platform = {"architecture": kind.oci, "os": config["os"], **variant}
    descriptor = {
        **_descriptor(MANIFEST, digest_bytes(manifest), len(manifest)),
        "platform": platform,
        "annotations": {
            "io.containerd.image.name": reference(image),
            "org.opencontainers.image.ref.name": tag(image.version),
        },
    }
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor]}


def _descriptor(media_type: str, digest: Digest, size: int) -> dict[str, object]:
    return {"mediaType": media_type, "digest": oci_digest(digest), "size": size}


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)
