"""The pages of a binhost as HTML text: pure, deterministic, without JavaScript.

They are for people, and carry the tags of App Container discovery and our own. All text of others
is escaped, and what becomes part of a link is quoted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from urllib.parse import quote, urlsplit

from buildit.digest import BuildKey, key_uuid
from buildit.model.card import Card, CardPackage

STYLE = """\
:root{--ink:#1d2329;--soft:#5b6670;--line:#dde2e7;--back:#fbfcfd;--card:#fff;--link:#0b57a4;--tag:#eef2f6}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa5b0;--line:#2d353d;--back:#14181c;\
--card:#1b2026;--link:#7ab7f5;--tag:#262d35}}
*{box-sizing:border-box}
body{margin:0 auto;max-width:68rem;padding:1.5rem 1.25rem 4rem;background:var(--back);\
color:var(--ink);font:16px/1.55 system-ui,sans-serif;overflow-wrap:break-word}
h1{font-size:1.75rem;line-height:1.2;margin:.3rem 0 .4rem}
h2{font-size:1.2rem;margin:2.4rem 0 .6rem}
h3{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.4rem 0}
a{color:var(--link);text-decoration:none}
a:hover,a:focus{text-decoration:underline}
nav,.soft,footer{color:var(--soft);font-size:.9rem}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.8rem}
code,pre{font:.86em/1.5 ui-monospace,monospace}
pre{background:var(--card);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem;\
overflow-x:auto;overflow-wrap:normal}
table{border-collapse:collapse;width:100%;background:var(--card);border:1px solid var(--line);\
border-radius:6px}
th,td{text-align:left;vertical-align:top;padding:.45rem .75rem;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-size:.82rem;font-weight:600;white-space:nowrap}
tbody th{font-weight:600;white-space:nowrap}
.n{text-align:right;white-space:nowrap}
code,li{overflow-wrap:anywhere}
ul.tags{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.25rem}
ul.tags li{background:var(--tag);border-radius:4px;padding:0 .4rem;\
font:.82em/1.6 ui-monospace,monospace}
@media(max-width:42rem){
thead{position:absolute;left:-9999px}
tr{display:block;padding:.5rem 0;border-top:1px solid var(--line)}
tbody tr:first-child{border-top:0}
th,td,.n{display:block;border:0;padding:.1rem .75rem;text-align:left}
tbody th{white-space:normal;overflow-wrap:anywhere}
td:empty{display:none}
td[data-l]::before{content:attr(data-l) " ";color:var(--soft);font-size:.82rem}
}"""

_WHAT = (
    '<p class="soft">Every package is found by the hash of all its inputs, and signed by who built '
    "it.</p>"
)
_TRUST = (
    "<p>A place is not trust: ask the builders for their SSH public keys, compare the "
    "fingerprints, and <code>buildit trust add KEYFILE</code>.</p>"
)
_FOOTER = (
    "<footer>Written by <code>buildit push</code> from what lies here; it can be made "
    "anew.</footer>"
)
_UNITS = ("B", "kB", "MB", "GB", "TB")


@dataclass(frozen=True, slots=True)
class Site:
    """`title` is the repository's name; `url` where the root is served (https), empty where it is
    not: then the pages have no discovery tags. `pubkeys` says that there is a `pubkeys.asc`."""

    title: str
    url: str = ""
    pubkeys: bool = False

    @property
    def prefix(self) -> str:
        """The root as a name for discovery: host and path, without the port."""
        parts = urlsplit(self.url)
        return f"{parts.hostname or ''}{parts.path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Build:
    """A published build. `details` are its flags, patches and libraries where a card has them."""

    key: BuildKey
    version: str
    platform: str
    size: int
    builders: tuple[str, ...]
    statements: tuple[str, ...]
    details: CardPackage | None = None


@dataclass(frozen=True, slots=True)
class Container:
    """A directory of `containers/`: its cards, newest version first, and the files beside them."""

    directory: str
    cards: tuple[Card, ...]
    files: frozenset[str]


def root_page(
    site: Site, containers: Sequence[Container], packages: Mapping[str, Sequence[str]]
) -> str:
    """The first page: how to use the binhost, its containers, its packages with their versions."""
    rows = [
        (_link(f"n/{_category(name)}/", name), _tags(versions))
        for name, versions in sorted(packages.items())
    ]
    amount = f"{_count(len(containers), 'container')}, {_count(len(packages), 'package')}"
    body = [
        f"<h1>{escape(site.title)}</h1>",
        f"<p>Built from source by <code>buildit</code>: {amount}.</p>",
        _WHAT,
        *_usage(site),
        "<h2>Containers</h2>",
        _container_table(containers, "containers/"),
        "<h2>Packages</h2>",
        _table(("Package", "Versions"), rows) if rows else _nothing("packages"),
    ]
    return _page(site, site.title, (), body, containers)


def containers_page(site: Site, containers: Sequence[Container]) -> str:
    body = ["<h1>Containers</h1>", _container_table(containers, "")]
    return _page(site, "Containers", (("../", site.title),), body, containers)


def container_page(site: Site, container: Container) -> str:
    """All versions of a container: files, and every package and library inside."""
    body = [f"<h1>{escape(container.directory)}</h1>"]
    for card in container.cards:
        title = f"{card.version} for {card.os}/{card.arch}"
        author = f' <span class="soft">by {escape(card.author)}</span>' if card.author else ""
        body += [f"<h2>{escape(title)}{author}</h2>", _image_table(card, container.files)]
        inside = [package for package in card.packages if package.inside]
        others = [package for package in card.packages if not package.inside]
        body += [
            f"<h3>Inside: {_count(len(inside), 'package')}</h3>",
            _package_table(inside, container),
        ]
        if others:
            names = [f"{one.name}-{one.version}" for one in others]
            body += ["<h3>Only needed to build</h3>", _tags(sorted(names))]
    if not container.cards:
        body.append(_nothing("containers"))
    up = "../" * (container.directory.count("/") + 1)
    trail = ((f"{up}../", site.title), (up, "Containers"))
    return _page(site, container.directory, trail, body, (container,))


def package_page(site: Site, name: str, builds: Sequence[Build]) -> str:
    """All builds of a package: version, flags, patches, size, and who built it."""
    rows = []
    for build in builds:
        about = build.details or CardPackage(build.key, name, build.version)
        rows.append(
            (
                escape(build.version),
                f'<code title="{build.key}">{key_uuid(build.key)}</code>',
                escape(build.platform),
                _tags(about.flags),
                _tags(about.patches),
                _size(build.size),
                _builders(build),
            )
        )
    heads = ("Version", "HASH", "Platform", "Flags", "Patches", "#Size", "Builders")
    body = [f"<h1>{escape(name)}</h1>", _table(heads, rows) if rows else _nothing("packages")]
    body.append(
        '<p class="soft">A builder is the SHA-256 of an SSH public key; the link is to what was '
        "signed. <code>ssh-keygen -Y verify -n buildit-attestation-v1</code> checks it.</p>"
    )
    return _page(site, name, (("../../../", site.title),), body, ())


# -- parts


def _page(
    site: Site,
    title: str,
    trail: Sequence[tuple[str, str]],
    body: Iterable[str],
    containers: Sequence[Container],
) -> str:
    crumbs = " / ".join(_link(target, text) for target, text in trail)
    parts = [
        "<!doctype html>",
        '<html lang="en">',
        "<head>",
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width,initial-scale=1">',
        *discovery_tags(site, containers),
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE}\n</style>",
        "</head>",
        "<body>",
        *([f"<nav>{crumbs}</nav>"] if crumbs else []),
        *body,
        _FOOTER,
        "</body>",
        "</html>",
    ]
    return "\n".join(parts) + "\n"


def discovery_tags(site: Site, containers: Sequence[Container]) -> list[str]:
    """Our own tag, and those of App Container discovery; the longest prefix first, since a client
    takes every tag whose prefix fits."""
    if not site.url:
        return []
    url = quote(site.url, safe=":/~")
    found = [("buildit-binhost", site.prefix, url)]
    if site.pubkeys:
        found.append(("ac-discovery-pubkeys", site.prefix, f"{url}/pubkeys.asc"))
    endpoints: dict[tuple[str, str], None] = {}
    for container in containers:
        for stem, prefix in _image_names(site, container):
            place = f"{url}/containers/{quote(container.directory)}/{quote(stem)}"
            endpoints[prefix, f"{place}-{{version}}-{{os}}-{{arch}}.{{ext}}"] = None
    longest = sorted(endpoints, key=lambda one: (-len(one[0]), one))
    found += [("ac-discovery", prefix, template) for prefix, template in longest]
    return [
        f'<meta name="{kind}" content="{escape(prefix)} {escape(target)}">'
        for kind, prefix, target in found
    ]


def _image_names(site: Site, container: Container) -> Iterable[tuple[str, str]]:
    """For each .aci, what its file name begins with, and the names that it is found by."""
    for card in container.cards:
        for image in card.images:
            stem, version, _ = image.file.partition(f"-{card.version}-{card.os}-")
            if image.format == "aci" and version and image.file in container.files:
                yield stem, f"{site.prefix}/containers/{container.directory}"
                if "/" in card.name:
                    yield stem, card.name


def _usage(site: Site) -> list[str]:
    if not site.url:
        return []
    host, path = urlsplit(site.url).netloc, urlsplit(site.url).path
    config = (
        "repository:\n"
        f"  name: {site.title}\n"
        "  download-type: https\n"
        f"  download-path: {host}{path}\n"
        "trust:\n"
        "  allowed-signers: ./allowed_signers   # whose builds you believe"
    )
    return [
        "<h2>Use it</h2>",
        f"<pre>buildit DIR --discover={escape(host + path)}</pre>",
        "<p>or for good, in <code>.buildit-config.yaml</code>:</p>",
        f"<pre>{escape(config)}</pre>",
        _TRUST,
    ]


def _container_table(containers: Sequence[Container], up: str) -> str:
    rows = []
    for one in containers:
        versions = dict.fromkeys(card.version for card in one.cards)
        names = {p.key for card in one.cards[:1] for p in card.packages if p.inside}
        link = _link(f"{up}{quote(one.directory)}/", one.directory)
        rows.append((link, _tags(versions), _count(len(names), "package")))
    heads = ("Container", "Versions", "Inside the newest")
    return _table(heads, rows) if rows else _nothing("containers")


def _image_table(card: Card, files: frozenset[str]) -> str:
    rows = []
    for image in card.images:
        signature = f"{image.file}.asc"
        signed = _link(quote(signature), "OpenPGP signature") if signature in files else ""
        rows.append(
            (
                # A layout is a directory: a web server need not have a page of it.
                _link(quote(image.file), image.file) if image.digest else escape(image.file),
                escape(image.format.upper()),
                _size(image.size),
                f"<code>{escape(image.digest)}</code>" if image.digest else "",
                signed,
            )
        )
    heads = ("File", "Format", "#Size", "SHA-256", "Signature")
    return _table(heads, rows) if rows else _nothing("images")


def _package_table(packages: Sequence[CardPackage], container: Container) -> str:
    up = "../" * (container.directory.count("/") + 2)
    rows = [
        (
            _package_link(up, one.name),
            escape(one.version),
            _tags(one.flags),
            _tags(one.patches),
            _tags(one.libraries),
            _size(one.size),
        )
        for one in sorted(packages, key=lambda one: (one.name, one.version))
    ]
    heads = ("Package", "Version", "Flags", "Patches", "Libraries", "#Size")
    return _table(heads, rows) if rows else _nothing("packages")


def _builders(build: Build) -> str:
    directory = f"../../../k/{build.key[:2]}/{build.key}/"
    links = [
        _link(directory + quote(file), builder[:12])
        for builder, file in zip(build.builders, build.statements, strict=True)
    ]
    return "<br>".join(f'<code class="n">{link}</code>' for link in links)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of HTML cells; a head that begins with `#` is of numbers. On a phone each row is a
    block, and each cell says what it is."""
    names = [head.removeprefix("#") for head in heads]
    top = "".join(f"<th{_kind(head)}>{name}</th>" for head, name in zip(heads, names, strict=True))
    lines = ["<table>", f"<thead><tr>{top}</tr></thead>", "<tbody>"]
    for row in rows:
        cells = [f"<th>{row[0]}</th>"]
        for head, name, cell in zip(heads[1:], names[1:], row[1:], strict=True):
            cells.append(f'<td{_kind(head)} data-l="{name}">{cell}</td>' if cell else "<td></td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody>", "</table>"])


def _kind(head: str) -> str:
    return ' class="n"' if head.startswith("#") else ""


def _tags(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return f'<ul class="tags">{items}</ul>' if items else ""


def _link(target: str, text: str) -> str:
    return f'<a href="{escape(target)}">{escape(text)}</a>'


def _package_link(up: str, name: str) -> str:
    """A link to the package's page; a Debian package has none, since the index leaves it out."""
    return escape(name) if ":" in name else _link(f"{up}n/{_category(name)}/", name)


def _category(name: str) -> str:
    """The directory of a package's page: as the index of names has it."""
    category, _, rest = name.rpartition("/")
    return f"{quote(category or 'local', safe='')}/{quote(rest, safe='')}"


def _nothing(what: str) -> str:
    return f'<p class="soft">No {what} yet.</p>'


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    value = float(count)
    for unit in _UNITS:
        if value < 999.5 or unit == _UNITS[-1]:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("the last unit takes everything")
