"""The emitters by format: what an `image` step may ask for; adding one is adding it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from buildit.errors import RecipeError
from buildit.image.copying import BlobPath
from buildit.model.image import Emission, Image

Emitter = Callable[[Image, BlobPath, Path], Emission]


def _aci(image: Image, blob: BlobPath, output: Path) -> Emission:
    from buildit.image.aci import emit_aci

    return emit_aci(image, blob, output)


def _oci(image: Image, blob: BlobPath, output: Path) -> Emission:
    from buildit.image.oci import emit_oci

    return emit_oci(image, blob, output)


EMITTERS: Mapping[str, Emitter] = {"aci": _aci, "oci": _oci}


def emit(image: Image, blob: BlobPath, output: Path) -> Emission:
    """Write the image into the directory `output`, in its format.

    `blob` says where the store keeps a digest's bytes.

    Raises:
        RecipeError: the format is unknown, or the image breaks one of its rules.
        StoreError, IntegrityError: the store lacks a blob, or has it damaged.
    """
    emitter = EMITTERS.get(image.format)
    if emitter is None:
        raise RecipeError(
            f"unknown image format {image.format!r}",
            place=image.place or None,
            hint=f"`type:` takes {', '.join(EMITTERS)}",
        )
    return emitter(image, blob, output)
