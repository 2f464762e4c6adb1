"""The pages of a binhost as text: a pure function of what the catalogue says, without JavaScript.

Whatever others wrote stays text: templates escape all that they print, what cannot be seen becomes
a replacement character first, and no link leaves the site. The pages carry the tags of App
Container discovery and our own.
"""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from buildit.digest import key_uuid
from buildit.image.formats.table import is_directory, is_discovered
from buildit.model.words import counted, size
from buildit.site.catalogue import SUMS_SUFFIX, ContainerIndex, PublishedFile, Site
from buildit.store.attest import fingerprint
from buildit.store.names import ContainerEntry, NameIndex, name_place

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ON_ROOT = 250
"""Packages that the first page lists by itself; of more it lists the categories."""
MOST_VERSIONS = 8

_TEMPLATES = Path(__file__).with_name("templates")
_UNSEEN = re.compile(
    # C0, C1 and DEL; marks, embeddings and isolates of direction (UAX 9); soft hyphens, joiners
    # and other text that shows nothing; line and paragraph separators; halves of pairs.
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_DISCOVERED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~/-]*")
"""Names that discovery can ask for; others, such as one with a blank, would change what a tag says
(App Container spec, discovery.md: prefix and template are parted by a blank)."""

_Trail = tuple[tuple[str, str], ...]
"""From the first page to a page's directory: link and name."""


def root_page(
    site: Site,
    containers: Sequence[ContainerIndex],
    packages: Sequence[NameIndex],
    builders: Sequence[str],
) -> str:
    """The first page: what this is, how to use it, its builders, containers and packages."""
    lists = {"containers": containers, "packages": packages, "builders": builders}
    return _page("root", site, site.title, (), containers, **lists)


def containers_page(site: Site, containers: Sequence[ContainerIndex]) -> str:
    known = {"what": "container", "table": "container_table", "up": ""}
    trail = (("../", site.title),)
    return _page("list", site, "Containers", trail, containers, listed=containers, **known)


def packages_page(site: Site, packages: Sequence[NameIndex]) -> str:
    """The categories."""
    known = {"what": "package", "table": "category_table", "up": ""}
    return _page("list", site, "Packages", (("../", site.title),), (), listed=packages, **known)


def category_page(site: Site, category: str, packages: Sequence[NameIndex]) -> str:
    trail = (("../../", site.title), ("../", "Packages"))
    known = {"what": "package", "table": "package_table", "up": "../"}
    return _page("list", site, category, trail, (), listed=packages, **known)


def package_page(site: Site, index: NameIndex) -> str:
    """Each build that the index tells all of: flags, patches, sizes, libraries and builders."""
    trail = (("../../../", site.title), ("../../", "Packages"), ("../", index.category))
    return _page("package", site, index.name, trail, index=index)


def container_page(site: Site, index: ContainerIndex, directories: Collection[str]) -> str:
    """The newest version for each platform is open, the others can be opened. `directories` are
    those below `n/` that have a page."""
    up = "../" * (index.directory.count("/") + 1)
    opened = {entry.platform: entry.title for entry in reversed(index.entries)}.values()
    known = {"directories": directories, "opened": opened, "up": f"{up}../"}
    trail = ((f"{up}../", site.title), (up, "Containers"))
    return _page("container", site, index.directory, trail, (index,), index=index, **known)


def sums(files: Iterable[PublishedFile]) -> str:
    """What `sha256sum -c` takes."""
    return "".join(f"{one.digest}  {one.path}\n" for one in files)


def discovery_tags(site: Site, containers: Sequence[ContainerIndex]) -> list[tuple[str, str]]:
    """Our own tag, and those of App Container discovery; the longest prefix first, since a client
    takes every tag whose prefix fits."""
    if not site.url:
        return []
    url = quote(site.url, safe=":/~")
    found = [("buildit-binhost", f"{site.prefix} {url}")]
    if site.pubkeys:
        found.append(("ac-discovery-pubkeys", f"{site.prefix} {url}/pubkeys.asc"))
    endpoints = {
        (prefix, f"{url}/containers/{quote(container.directory)}/{quote(stem)}")
        for container in containers
        for stem, prefix in _image_names(site, container)
    }
    rest = "-{version}-{os}-{arch}.{ext}"
    longest = sorted(endpoints, key=lambda one: (-len(one[0]), one))
    return found + [("ac-discovery", f"{prefix} {place}{rest}") for prefix, place in longest]


def _image_names(site: Site, container: ContainerIndex) -> Iterator[tuple[str, str]]:
    """For each .aci, what its file name begins with, and the names that it is found by."""
    for entry in container.entries:
        for image in entry.images:
            stem, version, _ = image.file.partition(f"-{entry.version}-{entry.os}-")
            if is_discovered(image.format) and version and image.file in container.files:
                names = [f"{site.prefix}/containers/{container.directory}"]
                names += [entry.name] if "/" in entry.name else []
                yield from ((stem, name) for name in names if _DISCOVERED.fullmatch(name))


# -- templates


def _page(
    template: str,
    site: Site,
    title: str,
    trail: _Trail,
    discovered: Sequence[ContainerIndex] = (),
    **known: object,
) -> str:
    """A whole page of what is `known`; discovery finds the containers of `discovered` on it."""
    tags = discovery_tags(site, discovered)
    found = _templates().get_template(f"{template}.html.j2")
    return found.render(site=site, title=title, trail=trail, tags=tags, **known)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    made = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_seen,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = (_TEMPLATES / "style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    made.globals |= {
        "style": Markup(style),  # noqa: S704 - ours
        # Content Security Policy level 3: nothing is loaded, nothing runs, and one style counts.
        "policy": Markup(  # noqa: S704 - ours
            f"default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'sha256-{digest}'"
        ),
        "newline": Markup("\n"),
        "most_on_root": MOST_ON_ROOT,
        "most_versions": MOST_VERSIONS,
        "fetching": _fetching,
    }
    made.filters |= {
        "anchor": lambda name: re.sub(r"[^A-Za-z0-9._+~-]", "_", name),
        "beginning": lambda files, text: [one for one in files if one.path.startswith(text)],
        "counted": lambda things, *words: counted(len(things), *words),
        "distinct": lambda values: list(dict.fromkeys(values)),
        "ending": lambda paths, name: [path for path in paths if path.endswith(f"/{name}")],
        "fingerprint": fingerprint,
        "href": _href,
        "libraries": lambda packages: {name for one in packages for name in one.libraries},
        "place": name_place,
        "size": lambda number: size(number, "EB"),  # a stranger's entry may hold any
        "unpacked": lambda packages: sum({one.key: one.size for one in packages}.values()),
        "uuid": key_uuid,
    }
    return made


def _seen(value: object) -> object:
    """What is printed, before it is escaped: in text of others, white space is a blank, and what
    cannot be seen, or turns the direction of what follows, is a replacement character."""
    if type(value) is not str or (value.isascii() and value.isprintable()):
        return value  # most of it
    return _UNSEEN.sub("\ufffd", re.sub(r"[\t\n\r\x0b\x0c\x85\u2028\u2029]+", " ", value))


def _href(path: str) -> str:
    """A relative link to a path, which can be no other scheme, host or query."""
    quoted = quote(path, errors="replace")
    return f".{quoted}" if quoted.startswith("/") else quoted


def _fetching(site: Site, index: ContainerIndex, entry: ContainerEntry) -> list[str]:
    """The exact commands to fetch what is published of one version, and to check it."""
    place = f"{site.url}/containers/{quote(index.directory, errors='replace')}/"
    listed = quote(f"{entry.title}{SUMS_SUFFIX}", errors="replace")
    depth = len([part for part in place.split("/")[3:] if part])
    signed = [one.file for one in entry.images if f"{one.file}.asc" in index.files]
    layouts = [one.file for one in entry.images if is_directory(one.format) and not one.digest]
    return [
        f"curl -fsSO {place}{listed}",
        f"cut -c67- {listed} |",
        f"    wget -qxnH --cut-dirs={depth} -B {place} -i -",
        f"sha256sum --quiet -c {listed}",
        *(f"gpg --verify {shlex.quote(f'{file}.asc')} {shlex.quote(file)}" for file in signed),
        *(f"podman run --rm {shlex.quote(f'oci:{file}')}" for file in layouts),
    ]
