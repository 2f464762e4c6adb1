"""A binhost's pages and indices, made anew from what lies there: views that can be lost.

Two publishers may write views at once, and the last one wins. So a publisher that has written looks
again at what lies there, and writes anew where it changed meanwhile: the last to write has seen
everything that was published before its writing. A view is made of files that are never replaced
(entries, statements, details) and of containers' entries, never of another view.

The text of a page is a pure function of what the catalogue says, without JavaScript. Whatever
others wrote stays text: templates escape all that they print, what cannot be seen becomes a
replacement character first, and no link leaves the site. The pages carry the tags of App Container
discovery and our own.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from hashlib import sha256
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from buildit.digest import BuildKey, canonical, is_hex64, key_uuid
from buildit.errors import IntegrityError, UsageError
from buildit.events import Reporter
from buildit.image.formats.table import command_of, is_discovered
from buildit.model.config import Directory, Https, Oci, Repository, Trust
from buildit.model.words import counted, size
from buildit.remote.binhost.protocols import Views
from buildit.remote.binhost.remotes import Remotes
from buildit.site.catalogue import (
    DETAILS_SUFFIX,
    PAGE,
    SUMS_SUFFIX,
    Catalogue,
    CataloguePackage,
    ContainerIndex,
    PublishedFile,
    Site,
)
from buildit.store.attest import LOCAL, SIZE_LIMIT, fingerprint
from buildit.store.cas import Store
from buildit.store.disk import FORMAT_FILE
from buildit.store.names import (
    INDEX_FILE,
    ContainerEntry,
    IndexedBuild,
    NameIndex,
    PackageEntry,
    index_bytes,
    name_place,
)
from buildit.trust.policy import Policy
from buildit.trust.ssh import NAMESPACE, builder_name, claimed_key, parse_public, public_line

if TYPE_CHECKING:
    from jinja2 import Environment

PUBKEYS_FILE = "pubkeys.asc"
SITE_FILE = "site.json"
SITE_FORMAT = "1"
BUILDERS = "builders"
"""The directory of the builders' public keys."""
VIEW_LIMIT = 64 << 20
MOST_ROUNDS = 5
"""How often pages are made while others go on publishing; who publishes last makes them too."""
PAGES_AT_ONCE = 500
"""Packages whose pages are in memory at once."""
MOST_INSIDE = 20
"""Containers that a build's entry names."""
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


def site_of(repository: Repository) -> Site:
    """What the pages of a repository say of it: its address only where it is served over HTTPS."""
    root = repository.download
    return Site(repository.name, root.root.rstrip("/") if isinstance(root, Https) else "")


def refresh_pages(views: Views, site: Site, packages: Collection[str] | None = None) -> int:
    """Make the pages anew; how many files were written.

    `packages` are the names whose own pages may have changed; None is all. Title and address are
    those that the binhost has already, where it does: two publishers may call it by two names.

    Raises:
        FetchError, StoreError: the binhost cannot be read or written.
    """
    known = stated_site(views)
    if known is not None:
        site = Site(known.title, known.url or site.url)
    return _Pages(views, site, Catalogue(views)).refresh(packages)


def name_site(views: Views, site: Site) -> int:
    """Make all pages anew under this title and address; how many files were written.

    Raises:
        FetchError, StoreError: the binhost cannot be read or written.
    """
    return _Pages(views, site, Catalogue(views)).refresh(None)


def stated_site(views: Views) -> Site | None:
    """Title and address as the binhost itself has them; None where it has none, or bad ones."""
    try:
        found = json.loads(views.read([SITE_FILE], VIEW_LIMIT)[0] or b"")
        if found["format"] != SITE_FORMAT:
            return None
        title, url = str(found["title"]), str(found["url"])
        title.encode()
        return Site(title, url) if title and (not url or is_address(url)) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def is_address(url: str) -> bool:
    """Whether pages can be at this address: https, a host and a path, and nothing else."""
    try:
        parts = urlsplit(url)
        plain = parts.scheme == "https" and parts.hostname and (parts.port or 1)
    except ValueError:
        return False
    rest = parts.query or parts.fragment or parts.username or parts.password
    odd = any(not one.isprintable() or one in " <>\"'{}\\^`|" for one in url)
    return bool(plain) and not rest and not odd and url.isascii()


@dataclass(frozen=True, slots=True)
class _Seen:
    """All that views are made of: where two looks are equal, so are their views."""

    site: Site
    containers: tuple[ContainerIndex, ...]
    packages: tuple[CataloguePackage, ...]
    shown: tuple[CataloguePackage, ...]
    statements: Mapping[BuildKey, tuple[str, ...]]


@dataclass(slots=True)
class _Pages:
    views: Views
    site: Site
    catalogue: Catalogue
    _made: dict[str, bytes] = field(default_factory=dict)
    """The digest of what each path was given, or had already."""

    def refresh(self, wanted: Collection[str] | None) -> int:
        written = 0
        seen: _Seen | None = None
        for _ in range(MOST_ROUNDS):
            now = self._look(wanted)
            if now == seen:
                break
            seen = now
            for files in self._files(now):
                written += self._put(files)
        return written

    def _look(self, wanted: Collection[str] | None) -> _Seen:
        packages = self.catalogue.packages()
        shown = tuple(one for one in packages if wanted is None or one.name in wanted)
        return _Seen(
            replace(self.site, pubkeys=PUBKEYS_FILE in self.views.names(("",))[0]),
            self.catalogue.containers(),
            packages,
            shown,
            self.catalogue.statements([key for one in shown for key in one.shown]),
        )

    def _files(self, seen: _Seen) -> Iterator[dict[str, bytes]]:
        """All views, in groups that fit into memory; the first page last: it links to the rest."""
        details, inside = _said(seen.containers)
        builders = set(self._builders())
        for at in range(0, len(seen.shown), PAGES_AT_ONCE):
            group = seen.shown[at : at + PAGES_AT_ONCE]
            keys = [key for one in group for key in one.shown]
            builds = self.catalogue.builds({key: seen.statements[key] for key in keys})
            public = dict(self._keys_of(builds.values(), builders))
            builders |= {Path(path).stem for path in public}
            known = {entry.key: entry for entry in self.catalogue.details(group)} | details
            whole = {
                key: replace(one, details=known.get(key), inside=inside.get(key, ()))
                for key, one in builds.items()
            }
            for one in group:
                index = one.index(whole)
                public[f"n/{one.directory}/{INDEX_FILE}"] = index_bytes(index)
                public[f"n/{one.directory}/{PAGE}"] = package_page(seen.site, index).encode()
            yield public
        yield dict(_new_details(seen.packages, details))
        yield dict(_lists(seen.site, seen.containers, seen.packages, sorted(builders)))
        said = {"format": SITE_FORMAT, "title": seen.site.title, "url": seen.site.url}
        yield {SITE_FILE: canonical(said)}

    def _builders(self) -> Iterator[str]:
        """Those whose public key is there already."""
        names = [name for name in self.views.names([BUILDERS])[0] if is_hex64(Path(name).stem)]
        paths = [f"{BUILDERS}/{name}" for name in names if name.endswith(".pub")]
        for path, content in zip(paths, self.catalogue.lasting(paths), strict=True):
            if content is not None and _is_key_of(Path(path).stem, content):
                yield Path(path).stem

    def _keys_of(
        self, builds: Iterable[IndexedBuild], known: Collection[str]
    ) -> Iterator[tuple[str, bytes]]:
        """The public keys of further builders, out of what they signed: the name of a builder is
        the digest of the key, so that no publisher can put another one in its place."""
        signed: dict[str, tuple[str, str]] = {}
        for one in builds:
            where = f"k/{one.key[:2]}/{one.key}"
            for said in one.attestations:
                if said.signature and said.builder not in (LOCAL, *known):
                    paths = (f"{where}/{said.statement}", f"{where}/{said.signature}")
                    signed.setdefault(said.builder, paths)
        for builder, paths in sorted(signed.items()):
            statement, signature = self.catalogue.lasting(paths, SIZE_LIMIT)
            text = (signature or b"").decode("utf-8", "replace")
            public = claimed_key(statement or b"", text, NAMESPACE)
            if public is not None and builder_name(public) == builder:
                yield f"{BUILDERS}/{builder}.pub", f"{public_line(public)}\n".encode()

    def _put(self, files: Mapping[str, bytes]) -> int:
        """Write what is not there yet as it should be, and was not put by an earlier round."""
        digests = {path: sha256(content).digest() for path, content in files.items()}
        new = [path for path in files if self._made.get(path) != digests[path]]
        there = dict(zip(new, self.views.read(new, VIEW_LIMIT), strict=True))
        changed = [path for path in new if there[path] != files[path]]
        for path in changed:
            self.views.write(path, files[path])
        self._made |= digests
        return len(changed)


def _said(
    containers: Sequence[ContainerIndex],
) -> tuple[dict[BuildKey, PackageEntry], dict[BuildKey, tuple[tuple[str, str], ...]]]:
    """What containers' entries say of builds: details, and who has each one inside."""
    details: dict[BuildKey, PackageEntry] = {}
    inside: dict[BuildKey, dict[tuple[str, str], None]] = {}
    for container in containers:
        for entry in container.entries:
            for package in entry.packages:
                details.setdefault(package.key, package)
                if package.inside:
                    place = (container.directory, entry.title)
                    inside.setdefault(package.key, {})[place] = None
    return details, {key: tuple(islice(found, MOST_INSIDE)) for key, found in inside.items()}


def _new_details(
    packages: Sequence[CataloguePackage], details: Mapping[BuildKey, PackageEntry]
) -> Iterator[tuple[str, bytes]]:
    """Kept beside the names: a container's entry is replaced when it is published anew."""
    for package in packages:
        for key in package.versions:
            name, entry = f"{key}{DETAILS_SUFFIX}", details.get(key)
            if entry is not None and name not in package.files and entry.name == package.name:
                kept = replace(entry, inside=True)  # of a build, whatever container it is in
                yield f"n/{package.directory}/{name}", index_bytes(kept)


def _lists(
    site: Site,
    containers: Sequence[ContainerIndex],
    packages: Sequence[CataloguePackage],
    builders: Sequence[str],
) -> Iterator[tuple[str, bytes]]:
    directories = frozenset(one.directory for one in packages)
    for one in containers:
        where = f"containers/{one.directory}"
        for title, files in one.published.items():
            if files:
                yield f"{where}/{title}{SUMS_SUFFIX}", sums(files).encode()
        yield f"{where}/{PAGE}", container_page(site, one, directories).encode()
    listed = sorted((one.listed() for one in packages), key=lambda one: one.directory)
    for category, group in groupby(listed, lambda one: one.category):
        there = [one for one in group if one.older]
        yield f"n/{category}/{PAGE}", category_page(site, category, there).encode()
    there = [one for one in listed if one.older]
    filled = [one for one in containers if one.entries]
    yield f"n/{PAGE}", packages_page(site, there).encode()
    yield f"containers/{PAGE}", containers_page(site, filled).encode()
    yield PAGE, root_page(site, filled, there, builders).encode()


def _is_key_of(builder: str, content: bytes) -> bool:
    try:
        return builder_name(parse_public(content.decode())) == builder
    except (UnicodeDecodeError, IntegrityError):
        return False


# -- on demand


@dataclass(frozen=True, slots=True)
class Repaged:
    """What was made anew: how many files were written, under which title and address."""

    path: str
    title: str
    url: str
    written: int


def repage(
    what: str,
    repositories: Sequence[Repository],
    trust: Trust,
    store: Store,
    report: Reporter,
    title: str = "",
    url: str = "",
) -> Repaged:
    """Make all pages of a binhost anew, from what lies there: no container is needed.

    `what` is a directory, or the name of a repository of the configuration. Without `title` and
    `url` they stay what they are; a binhost that has none yet takes them from its repository.

    Raises:
        UsageError: no such repository or directory, or it cannot be published to; `url` is no
            https address.
        FetchError, StoreError: the binhost cannot be read or written.
    """
    address = url.rstrip("/")
    if address and not is_address(address):
        hint = "give the https:// address of the binhost's root, without a query"
        raise UsageError("not an address that pages can have", place=url, hint=hint)
    one = _repository(what, repositories)
    if isinstance(one.upload, Oci):
        hint = "clients list its tags; publish to a directory or over SSH where pages are wanted"
        raise UsageError("a registry has no pages", place=str(one.upload), hint=hint)
    remotes = Remotes((one,), Policy(trust, store, report), store, report)
    try:
        with remotes.publishing(one) as remote:
            known = stated_site(remote) or site_of(one)
            site = Site(title or known.title, address or known.url)
            written = name_site(remote, site)
    finally:
        remotes.close()
    return Repaged(str(one.upload), site.title, site.url, written)


def _repository(what: str, repositories: Sequence[Repository]) -> Repository:
    for one in repositories:
        if one.name == what:
            if one.upload:
                return one
            hint = "give it an upload-type and an upload-path, or name the directory"
            raise UsageError(f"repository {what} has no place to publish to", hint=hint)
    if not os.path.isdir(what):
        hint = f"repositories: {', '.join(one.name for one in repositories) or 'none'}"
        message = f"{what!r} is neither a directory nor a repository of the configuration"
        raise UsageError(message, hint=hint)
    root = Path(what).resolve()
    if not (root / FORMAT_FILE).is_file():
        hint = f"name the directory that has {FORMAT_FILE}"  # opening would make a store of it
        raise UsageError("the directory is no binhost", place=str(root), hint=hint)
    for one in repositories:
        if one.upload == Directory(str(root)):
            return one
    return Repository(root.name, Directory(str(root)), Directory(str(root)))


# -- the text of a page


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


# -- their templates


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
    digest = base64.b64encode(sha256(style.encode()).digest()).decode()
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
    starts = [command_of(one.format, one.file, entry.name) for one in entry.images]
    return [
        f"curl -fsSO {place}{listed}",
        f"cut -c67- {listed} |",
        f"    wget -qxnH --cut-dirs={depth} -B {place} -i -",
        f"sha256sum --quiet -c {listed}",
        *(f"gpg --verify {shlex.quote(f'{file}.asc')} {shlex.quote(file)}" for file in signed),
        *filter(None, starts),
    ]
