"""The page of a container: its images, how to get them, every package and library inside."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from urllib.parse import quote

from buildit.model.amount import counted
from buildit.site.card import Card, CardPackage
from buildit.site.html import (
    anchor,
    chips,
    commands,
    document,
    exact,
    flag_chips,
    link,
    nothing,
    size,
    table,
    text,
)
from buildit.site.page import discovery_tags
from buildit.site.shown import Container, Site, SpecFile
from buildit.store.names import place_of

SUMS = ".sha256"
"""After a card's title: what `sha256sum -c` takes, of all that is published of it."""


def container_page(site: Site, container: Container, packages: frozenset[str]) -> str:
    """The newest version for each platform is open, the others can be opened. `packages` are the
    directories below `n/` that have a page."""
    body = [f"<h1>{text(container.directory)}</h1>", *_summary(container)]
    seen: set[str] = set()
    for card in container.cards:
        platform = f"{card.os}/{card.arch}"
        parts = _version(site, container, card, packages)
        heading = f"{text(card.version)} for {text(platform)}"
        name = anchor(card.stem)
        if platform not in seen:
            body += [f'<h2 id="{name}">{heading}</h2>', *parts]
        else:
            body += [f'<details id="{name}"><summary>{heading}</summary>', *parts, "</details>"]
        seen.add(platform)
    if container.older:
        body += ["<h2>Older versions</h2>", _older(container)]
    if not container.cards:
        body.append(nothing("Nothing of it is here."))
    up = "../" * (container.directory.count("/") + 1)
    trail = ((f"{up}../", site.title), (up, "Containers"))
    return document(container.directory, discovery_tags(site, (container,)), trail, body)


def _summary(container: Container) -> Iterator[str]:
    versions = len({card.version for card in container.cards}) + len(container.older)
    if container.cards:
        newest = container.cards[0]
        author = f" by {text(newest.author)}" if newest.author else ""
        more = f'<span class="soft">({counted(versions, "version")})</span>'
        yield f'<p class="lead">Newest: {text(newest.version)}{author} {more}</p>'


def _older(container: Container) -> str:
    items = [f"<li>{link(f'{title}.card.json', title)}</li>" for title in container.older]
    return f'<ul class="plain">{"".join(items)}</ul>'


def _version(
    site: Site, container: Container, card: Card, packages: frozenset[str]
) -> Iterator[str]:
    inside = [package for package in card.packages if package.inside]
    others = [package for package in card.packages if not package.inside]
    files = container.published.get(card.stem, ())
    yield "<h3>Images</h3>"
    yield _images(card, container.files)
    yield from _getting(site, container, card, files)
    libraries = {name for package in inside for name in package.libraries}
    unpacked = sum({package.key: package.size for package in inside}.values())
    what = (counted(len(inside), "package"), counted(len(libraries), "library", "libraries"))
    yield f"<h3>Inside: {', '.join(what)}, {size(unpacked)} unpacked</h3>"
    yield _inside([one for one in inside if not one.deb], container, packages, files, card)
    debs = [one for one in inside if one.deb]
    if debs:
        yield "<h3>Inside, from Debian</h3>"
        yield _debian(debs)
    if others:
        yield "<h3>Only needed to build</h3>"
        yield chips(sorted(f"{one.name}-{one.version}" for one in others))
    yield from _spec(card, files)


def _images(card: Card, files: frozenset[str]) -> str:
    rows = []
    for image in card.images:
        signature = f"{image.file}.asc"
        there = image.digest and image.file in files
        rows.append(
            (
                # A layout is a directory: a web server need not have a page of it.
                link(image.file, image.file) if there else text(image.file),
                text(image.format.upper()),
                size(image.size),
                exact(image.digest or image.identifier),
                link(signature, "OpenPGP signature") if signature in files else "none",
            )
        )
    heads = ("Image", "=Format", "#Size", "SHA-256, or digest of the manifest", "=Signature")
    return table("Images", heads, rows) if rows else nothing("No image of it is here.")


def _getting(
    site: Site, container: Container, card: Card, files: Sequence[SpecFile]
) -> Iterator[str]:
    """The exact commands to fetch what is published of one version, and to check it."""
    if not site.url or not files:
        return
    place = f"{site.url}/containers/{quote(container.directory, errors='replace')}/"
    sums = quote(f"{card.stem}{SUMS}", errors="replace")
    depth = len([part for part in place.split("/")[3:] if part])
    signed = [one.file for one in card.images if f"{one.file}.asc" in container.files]
    layouts = [one.file for one in card.images if one.format == "oci" and not one.digest]
    lines = [
        f"curl -fsSO {place}{sums}",
        f"cut -c67- {sums} |",
        f"    wget -qxnH --cut-dirs={depth} -B {place} -i -",
        f"sha256sum --quiet -c {sums}",
        *(f"gpg --verify {shlex.quote(f'{file}.asc')} {shlex.quote(file)}" for file in signed),
        *(f"podman run --rm {shlex.quote(f'oci:{file}')}" for file in layouts),
    ]
    yield "<h3>Get it: images and spec</h3>"
    yield commands(lines)


def _inside(
    inside: Sequence[CardPackage],
    container: Container,
    packages: frozenset[str],
    files: Sequence[SpecFile],
    card: Card,
) -> str:
    up = "../" * (container.directory.count("/") + 2)
    rows = []
    for one in sorted(inside, key=lambda one: (one.name, one.version)):
        directory = place_of(one.name)
        there = directory in packages
        rows.append(
            (
                link(f"{up}n/{directory}/", one.name, one.key) if there else text(one.name),
                text(one.version),
                flag_chips(one.flags),
                _patches(one, files, card),
                chips(one.libraries),
                size(one.size),
            )
        )
    heads = ("Package", "-Version", "Flags", "+Patches", "Libraries", "#Unpacked")
    return table("Inside", heads, rows) if rows else nothing("Nothing but files of the container.")


def _debian(debs: Sequence[CardPackage]) -> str:
    """Debian packages have no page: nothing of them was decided here, and their .deb says all."""
    rows = [
        (
            text(one.name.removeprefix("debian:")),
            text(one.version),
            chips(one.libraries),
            exact(one.deb),
            size(one.size),
        )
        for one in sorted(debs, key=lambda one: (one.name, one.version))
    ]
    heads = ("Package", "-Version", "Libraries", "SHA-256 of the .deb", "#Unpacked")
    return table("Inside, from Debian", heads, rows)


def _patches(one: CardPackage, files: Sequence[SpecFile], card: Card) -> str:
    """Each patch with its description, and a link to the very file where it is published."""
    notes = one.notes or ("",) * len(one.patches)
    items = []
    for name, note in zip(one.patches, notes, strict=True):
        places = [file.path for file in files if file.path.endswith(f"/{name}")]
        own = [path for path in places if path.startswith(f"{card.stem}/")]
        shown = link(own[0], name) if len(own) == 1 else f"<code>{text(name)}</code>"
        items.append(f"<li>{shown}{f'<br>{text(note)}' if note else ''}</li>")
    return f'<ul class="plain">{"".join(items)}</ul>' if items else ""


def _spec(card: Card, files: Sequence[SpecFile]) -> Iterator[str]:
    own = [file for file in files if file.path.startswith(f"{card.stem}/")]
    if own:
        rows = [
            (
                link(one.path, one.path.removeprefix(f"{card.stem}/")),
                size(one.size),
                exact(one.digest),
            )
            for one in own
        ]
        yield f"<details><summary>Spec: {counted(len(own), 'file')}</summary>"
        yield table("Spec", ("File", "#Size", "SHA-256"), rows)
        yield "</details>"


def sums(files: Sequence[SpecFile]) -> str:
    """What `sha256sum -c` takes."""
    return "".join(f"{one.digest}  {one.path}\n" for one in files)
