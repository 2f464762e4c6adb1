"""The images of a build, as results."""

from __future__ import annotations

from collections.abc import Sequence

from buildit.model.image import Emission


def images_plain(emissions: Sequence[Emission]) -> list[dict[str, object]]:
    return [
        {
            "path": str(one.path),
            "format": one.format,
            "digest": f"sha256:{one.digest}",
            "identifier": one.identifier,
        }
        for one in emissions
    ]
