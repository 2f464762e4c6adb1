"""The images of a build, as results."""

from __future__ import annotations

from collections.abc import Sequence

from buildit.events import Notice, Reporter
from buildit.model.image import Emission


def told(emissions: tuple[Emission, ...], report: Reporter) -> tuple[Emission, ...]:
    """The emissions, after their remarks have been reported."""
    for emission in emissions:
        for notice in emission.notices:
            report(Notice(notice))
    return emissions


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
