"""The page of a package: each of its builds with flags, patches, sizes, libraries and builders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from buildit.digest import key_uuid
from buildit.model.amount import counted
from buildit.model.artifact import RUNTIME
from buildit.site.card import CardPackage
from buildit.site.html import (
    chips,
    document,
    exact,
    facts,
    flag_chips,
    link,
    nothing,
    size,
    table,
    text,
)
from buildit.site.page import discovery_tags
from buildit.site.shown import Build, Claim, Listed, Site
from buildit.store.attest import fingerprint

MOST_BUILDS = 100
"""Builds that a page shows; a hash finds the others all the same."""

_CHECKING = (
    '<p class="soft">A statement checks without buildit: <code>ssh-keygen -Y verify -f '
    "allowed_signers -I NAME -n buildit-attestation-v1 -s STATEMENT.sig &lt; STATEMENT</code></p>"
)


def package_page(site: Site, package: Listed, builds: Sequence[Build], hidden: int = 0) -> str:
    """All builds that are given, in their order; `hidden` is how many are older."""
    notes = [one.details.description for one in builds if one.details and one.details.description]
    body = [f"<h1>{text(package.name)}</h1>"]
    body += [f'<p class="lead">{text(notes[0])}</p>'] if notes else []
    if builds:
        said = f"{counted(len(builds) + hidden, 'build')}, newest version first"
        body.append(f'<p class="soft">{said}</p>')
        body += [part for build in builds for part in _build(build)]
        body += [nothing(f"{counted(hidden, 'older build')} not shown.")] if hidden else []
        body.append(_CHECKING)
    else:
        body.append(nothing("No build of it is here."))
    category = package.directory.partition("/")[0]
    trail = (("../../../", site.title), ("../../", "Packages"), ("../", category))
    return document(package.name, discovery_tags(site, ()), trail, body)


def _build(build: Build) -> Iterator[str]:
    about = build.details or CardPackage(build.key, "", build.version)
    yield f'<section id="{build.key}">'
    platform = f'<span class="soft">for {text(build.platform)}</span>'
    yield f"<h2>{text(build.version)} {platform}</h2>"
    known = build.details is not None
    yield facts(
        (
            ("HASH", exact(key_uuid(build.key))),
            ("Key", exact(build.key)),
            ("Flags", flag_chips(about.flags) or ("none" if known else "not known")),
            ("Patches", patches(about) or ("none" if known else "not known")),
            ("Libraries", chips(about.libraries)),
            ("Signed by", _builders(build)),
            ("Inside of", _inside(build)),
        )
    )
    yield _parts(build)
    yield "</section>"


def patches(about: CardPackage) -> str:
    """Patches in the order in which they are applied, each with its description."""
    notes = about.notes or ("",) * len(about.patches)
    items = [
        f"<li><code>{text(name)}</code>{f'<br>{text(note)}' if note else ''}</li>"
        for name, note in zip(about.patches, notes, strict=True)
    ]
    return f'<ul class="plain">{"".join(items)}</ul>' if items else ""


def _builders(build: Build) -> str:
    """Who signed, with links to what was signed; whether those who did got the same bytes."""
    directory = f"../../../k/{build.key[:2]}/{build.key}/"
    items = []
    for claim in build.claims:
        links = [link(f"{directory}{claim.statement}", "statement")]
        links += [link(f"{directory}{claim.signature}", "signature")] if claim.signature else []
        differs = "" if claim.same else ' <strong class="bad">other bytes</strong>'
        items.append(
            f"<li>{exact(fingerprint(claim.builder))}{differs}<br>"
            f"<small>{', '.join(links)}{_restated(claim)}</small></li>"
        )
    # What was taken over from another build is nobody's vote (docs/adr/0009).
    built = {claim.builder for claim in build.claims if claim.restated is None}
    if not all(claim.same for claim in build.claims):
        items.insert(0, '<li class="bad">not reproducible: other bytes came out</li>')
    elif len(built) > 1:
        items.insert(0, f'<li class="ok">{counted(len(built), "builder")}, the same bytes</li>')
    return f'<ul class="plain">{"".join(items)}</ul>' if items else ""


def _restated(claim: Claim) -> str:
    """Early cut-off: nothing was built; another build's dependencies had the same bytes."""
    if claim.restated is None:
        return ""
    return f"; not built again, the bytes are those of {exact(key_uuid(claim.restated))}"


def _inside(build: Build) -> str:
    items = [
        f"<li>{link(f'../../../containers/{directory}/', title, title)}</li>"
        for directory, title in build.inside
    ]
    return f'<ul class="plain">{"".join(items)}</ul>' if items else ""


def _parts(build: Build) -> str:
    heads = ["Output", "#Unpacked", "#Download", "Digest of the plain layer"]
    rows = [
        [
            text(part.name),
            size(part.size),
            size(part.packed) if part.packed else "",
            exact(part.digest),
        ]
        for part in sorted(build.parts, key=lambda one: (one.name != RUNTIME, one.name))
    ]
    if not any(part.packed for part in build.parts):  # layers lie plain in a directory
        for row in (heads, *rows):
            del row[2]
    return table("Outputs", heads, rows) if rows else ""
