"""The emitters by format: what an `image` step may ask for; adding one is adding it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.errors import RecipeError
from buildit.image.copying import BlobPath
from buildit.image.names import output_name
from buildit.image.replacing import replacing
from buildit.model.image import Emission, Image


@dataclass(frozen=True, slots=True)
class Emitter:
    """`check` refuses what can be told without the layers and gives the manifest or config;
    `write` makes the image at a path that does not exist yet."""

    check: Callable[[Image], dict[str, object]]
    write: Callable[[Image, BlobPath, Path], Emission]


def _aci() -> Emitter:
    from buildit.image.formats.aci import check_aci, write_aci

    return Emitter(check_aci, write_aci)


def _oci() -> Emitter:
    from buildit.image.formats.oci import check_oci, write_oci

    return Emitter(check_oci, write_oci)


EMITTERS: Mapping[str, Callable[[], Emitter]] = {"aci": _aci, "oci": _oci}


def _emitter(image: Image) -> Emitter:
    make = EMITTERS.get(image.format)
    if make is None:
        raise RecipeError(
            f"unknown image format {image.format!r}",
            place=image.place or None,
            hint=f"`type:` takes {', '.join(EMITTERS)}",
        )
    return make()


def check(image: Image) -> dict[str, object]:
    """Refuse an image for what can be told without its layers; returns its manifest or config.

    Raises:
        RecipeError: the format is unknown, or the image breaks one of its rules.
    """
    return _emitter(image).check(image)


def emit(image: Image, blob: BlobPath, output: Path) -> Emission:
    """As `emit_all`, one image."""
    return emit_all((image,), blob, output)[0]


def emit_all(images: Sequence[Image], blob: BlobPath, output: Path) -> tuple[Emission, ...]:
    """Write the images into the directory `output`, each in its format: all of them or none.

    `blob` says where the store keeps a digest's bytes.

    Raises:
        RecipeError: a format is unknown, or an image breaks one of its rules.
        StoreError, IntegrityError: the store lacks a blob, or has it damaged.
    """
    emissions = []
    for image in images:
        check(image)
    with ExitStack() as together:
        for image in images:
            target = output / output_name(image)
            fresh = together.enter_context(replacing(target))
            written = _emitter(image).write(image, blob, fresh)
            emissions.append(replace(written, path=target))
    return tuple(emissions)
