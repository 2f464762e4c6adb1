"""The emitters by format: what an `image` step may ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from buildit.image.aci import emit_aci
from buildit.image.copying import BlobPath
from buildit.image.oci import emit_oci
from buildit.model.image import Emission, Image

EMITTERS: Mapping[str, Callable[[Image, BlobPath, Path], Emission]] = {
    "aci": emit_aci,
    "oci": emit_oci,
}
