"""An App Container client: meta discovery and simple discovery of images (appc spec 0.8.11,
discovery.md; simple discovery as 0.6 and 0.7 have it)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from buildit.remote.discovery import (
    PAGE_LIMIT,
    Sought,
    Tag,
    pages_of,
    parse_page,
    targets_of,
    template_url,
)
from buildit.remote.transport import LocationError, Transport, read_small


def images(
    tags: Sequence[Tag], name: str, labels: Mapping[str, str]
) -> tuple[tuple[str, str], ...]:
    """Where the templates that fit say that the image is, and its signature."""
    found = []
    for template in targets_of(tags, "ac-discovery", name):
        aci, asc = (
            template_url(template, {**labels, "name": name, "ext": ext})
            for ext in ("aci", "aci.asc")
        )
        if aci is not None and asc is not None:
            found.append((aci, asc))
    return tuple(found)


def simple(wanted: Sought, labels: Mapping[str, str]) -> tuple[str, str]:
    """Where simple discovery says that the image is, and its signature."""
    words = "-".join(labels[word] for word in ("version", "os", "arch"))
    stem = f"https://{wanted.authority}/{wanted.name.partition('/')[2]}-{words}"
    return f"{stem}.aci", f"{stem}.aci.asc"


def walked(wanted: Sought, labels: Mapping[str, str], transport: Transport) -> Iterator[str]:
    """The images that the first page with such tags names."""
    for url in pages_of(wanted):
        try:
            tags = parse_page(read_small(transport, url, PAGE_LIMIT))
        except LocationError:
            continue
        if found := images(tags, wanted.name, labels):
            yield from (aci for aci, _ in found)
            return
