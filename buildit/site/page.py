"""The pages of a binhost that list: the first one, containers, categories, packages.

Pure, deterministic, without JavaScript. They are for people, and carry the tags of App Container
discovery and our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from urllib.parse import quote

from buildit.model.amount import counted
from buildit.site.html import chips, commands, document, exact, link, nothing, table, text
from buildit.site.shown import Container, Listed, Site
from buildit.store.attest import fingerprint

MOST_ON_ROOT = 250
"""Packages that the first page lists by itself; of more it lists the categories."""
MOST_VERSIONS = 8
BUILDERS = "builders"
"""The directory of the builders' public keys."""

_WHAT = (
    '<p class="lead">Packages and containers built from source by <code>buildit</code>. Each build '
    "is found by the hash of all its inputs, and signed by who made it: a machine that knows this "
    "place, and trusts its builders, downloads instead of building.</p>"
)
_DISCOVERED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~/-]*")
"""Names that discovery can ask for; others, such as one with a blank, would change what a tag says
(App Container spec, discovery.md: prefix and template are parted by a blank)."""


def root_page(
    site: Site,
    containers: Sequence[Container],
    packages: Sequence[Listed],
    builders: Sequence[str],
) -> str:
    """The first page: what this is, how to use it, its builders, containers and packages."""
    amounts = (counted(len(containers), "container"), counted(len(packages), "package"))
    body = [
        f"<h1>{text(site.title)}</h1>",
        _WHAT,
        *_shortest(site),
        f'<p class="soft">{", ".join((*amounts, counted(len(builders), "builder")))}</p>',
        "<h2>Containers</h2>",
        _container_table(containers, "containers/"),
        "<h2>Packages</h2>",
        *_root_packages(packages),
        '<h2 id="use">Use it</h2>',
        *_usage(site, builders),
        '<h2 id="builders">Builders</h2>',
        *_builders(builders),
    ]
    return document(site.title, discovery_tags(site, containers), (), body)


def containers_page(site: Site, containers: Sequence[Container]) -> str:
    body = [
        "<h1>Containers</h1>",
        f'<p class="soft">{counted(len(containers), "container")}</p>',
        _container_table(containers, ""),
    ]
    tags = discovery_tags(site, containers)
    return document("Containers", tags, (("../", site.title),), body)


def packages_page(site: Site, packages: Sequence[Listed]) -> str:
    """The categories."""
    body = [
        "<h1>Packages</h1>",
        f'<p class="soft">{counted(len(packages), "package")}</p>',
        _category_table(packages, ""),
    ]
    return document("Packages", discovery_tags(site, ()), (("../", site.title),), body)


def category_page(site: Site, category: str, packages: Sequence[Listed]) -> str:
    trail = (("../../", site.title), ("../", "Packages"))
    body = [
        f"<h1>{text(category)}</h1>",
        f'<p class="soft">{counted(len(packages), "package")}</p>',
        _package_table(packages, "../"),
    ]
    return document(category, discovery_tags(site, ()), trail, body)


# -- parts


def discovery_tags(site: Site, containers: Sequence[Container]) -> list[tuple[str, str]]:
    """Our own tag, and those of App Container discovery; the longest prefix first, since a client
    takes every tag whose prefix fits."""
    if not site.url:
        return []
    url = quote(site.url, safe=":/~")
    found = [("buildit-binhost", f"{site.prefix} {url}")]
    if site.pubkeys:
        found.append(("ac-discovery-pubkeys", f"{site.prefix} {url}/pubkeys.asc"))
    endpoints: dict[tuple[str, str], None] = {}
    for container in containers:
        for stem, prefix in _image_names(site, container):
            place = f"{url}/containers/{quote(container.directory)}/{quote(stem)}"
            endpoints[prefix, f"{place}-{{version}}-{{os}}-{{arch}}.{{ext}}"] = None
    longest = sorted(endpoints, key=lambda one: (-len(one[0]), one))
    return found + [("ac-discovery", f"{prefix} {template}") for prefix, template in longest]


def _image_names(site: Site, container: Container) -> Iterator[tuple[str, str]]:
    """For each .aci, what its file name begins with, and the names that it is found by."""
    for card in container.cards:
        for image in card.images:
            stem, version, _ = image.file.partition(f"-{card.version}-{card.os}-")
            if image.format == "aci" and version and image.file in container.files:
                names = [f"{site.prefix}/containers/{container.directory}"]
                names += [card.name] if "/" in card.name else []
                yield from ((stem, name) for name in names if _DISCOVERED.fullmatch(name))


def _shortest(site: Site) -> Iterator[str]:
    if site.url:
        yield commands((f"buildit DIR --discover={site.place}",))
        yield f'<p class="soft">once you trust a builder: {link("", "how to use it", "use")}</p>'


def _usage(site: Site, builders: Sequence[str]) -> Iterator[str]:
    """The exact commands, from trusting a builder to a container."""
    if not site.url:
        yield nothing(
            "This place is not served over HTTPS: whoever publishes to it knows its path."
        )
        return
    known = builders[0] if builders else "BUILDER"
    config = (
        "repository:",
        f"  name: {site.title}",
        "  download-type: https",
        f"  download-path: {site.place}",
    )
    yield '<ol class="how">'
    yield (
        "<li>Trust a builder, once. This place is not trust: ask its people for the fingerprint of "
        "their SSH key by other means, and compare. Each builder's key is "
        f"{link('', 'below', 'builders')}."
    )
    yield commands(
        (
            f"curl -fsSo builder.pub {site.url}/{BUILDERS}/{known}.pub",
            "ssh-keygen -lf builder.pub",
            "buildit trust add builder.pub --as WHO@example.org",
        )
    )
    yield "</li><li>Build a container of yours; what lies here is taken from here."
    yield commands((f"buildit DIR --discover={site.place}",))
    yield "</li><li>Or name the place for good, in <code>.buildit-config.yaml</code>."
    yield commands(config)
    yield "</li></ol>"


def _builders(builders: Sequence[str]) -> Iterator[str]:
    rows = [
        (
            exact(fingerprint(builder)),
            link(f"{BUILDERS}/{builder}.pub", f"{builder[:12]}\u2026.pub"),
        )
        for builder in builders
    ]
    if not rows:
        yield nothing("Nobody has signed anything here yet.")
        return
    yield (
        '<p class="soft">Whoever signed a build here. The fingerprint is what '
        "<code>ssh-keygen -l</code> prints of the key.</p>"
    )
    yield table("Builders", ("Fingerprint", "Public key"), rows)


def _container_table(containers: Sequence[Container], up: str) -> str:
    rows = []
    for one in sorted(containers, key=lambda one: one.directory):
        newest = one.cards[0] if one.cards else None
        versions = dict.fromkeys(card.version for card in one.cards)
        inside = [p for p in newest.packages if p.inside] if newest else []
        formats = dict.fromkeys(i.format.upper() for i in newest.images) if newest else ()
        packages = len({p.key for p in inside})
        libraries = len({name for p in inside for name in p.libraries})
        rows.append(
            (
                link(f"{up}{one.directory}/", one.directory),
                _some(versions),
                chips(dict.fromkeys(f"{card.os}/{card.arch}" for card in one.cards)),
                chips(formats),
                f"{counted(packages, 'package')}, {counted(libraries, 'library', 'libraries')}",
            )
        )
    heads = ("Container", "Versions", "Platforms", "Images", "Inside the newest")
    return table("Containers", heads, rows) if rows else nothing("No container yet.")


def _root_packages(packages: Sequence[Listed]) -> Iterator[str]:
    if not packages:
        yield nothing("No package yet.")
        return
    yield (
        '<p class="soft">The page of a package has each of its builds: flags, patches, sizes, and '
        "who signed it.</p>"
    )
    if len(packages) > MOST_ON_ROOT:
        yield _category_table(packages, "n/")
    else:
        yield _package_table(packages, "n/")


def _package_table(packages: Sequence[Listed], up: str) -> str:
    rows = [
        (link(f"{up}{one.directory}/", one.name), _some(one.versions))
        for one in sorted(packages, key=lambda one: one.directory)
    ]
    heads = ("Package", "Versions")
    return table("Packages", heads, rows) if rows else nothing("No package yet.")


def _category_table(packages: Sequence[Listed], up: str) -> str:
    rows = [
        (link(f"{up}{category}/", category), str(len(list(group))))
        for category, group in groupby(sorted(map(category_of, packages)))
    ]
    heads = ("Category", "#Packages")
    return table("Categories", heads, rows) if rows else nothing("No package yet.")


def category_of(package: Listed) -> str:
    return package.directory.partition("/")[0]


def _some(versions: Iterable[str]) -> str:
    """The newest versions, and how many more there are."""
    known = list(versions)
    more = [f"and {len(known) - MOST_VERSIONS} more"] if len(known) > MOST_VERSIONS else []
    return chips([*known[:MOST_VERSIONS], *more])
