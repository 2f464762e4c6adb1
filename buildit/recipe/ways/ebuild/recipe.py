"""An ebuild as a recipe: first what has to be fetched and looked up for it, then, with that, the
text of its pkg.yaml. Both are functions of text; the ebuild is read, never sourced."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from buildit.digest import Digest
from buildit.errors import RecipeError
from buildit.model.use import FLAG_NAME
from buildit.model.words import name_of
from buildit.recipe.leaf import LeafError, web_url
from buildit.recipe.ways.ebuild.depend import AnyIn, FlagSet, Item, parse_spec, spec_rows
from buildit.recipe.ways.ebuild.header import Header, Unread, read_header
from buildit.recipe.ways.ebuild.needs import (
    BUILD,
    LINK,
    RUN,
    DebianNames,
    EbuildNeeds,
    TreePackageFacts,
    read_needs,
)
from buildit.recipe.ways.ebuild.phases import WORK, Phases, read_phases
from buildit.recipe.ways.ebuild.scripts import constant_flag
from buildit.recipe.yaml.write import Remarked, YamlData, yaml_text

_QUIET_ECLASSES = frozenset(
    (
        *("autotools", "cmake", "meson", "toolchain-funcs", "flag-o-matic", "systemd", "udev"),
        *("tmpfiles", "bash-completion-r1", "shell-completion", "xdg", "xdg-utils", "desktop"),
        *("linux-info", "verify-sig", "fcaps", "pam", "multilib", "multilib-minimal"),
        *("multilib-build", "multiprocessing", "libtool", "out-of-source", "dot-a", "edo"),
        *("readme.gentoo-r1", "prefix", "optfeature", "go-module", "distutils-r1", "cargo"),
        *("cmake-multilib", "meson-multilib", "elisp-common", "gnome2-utils", "user-info"),
        *("pypi", "ninja-utils", "virtualx", "db-use", "usr-ldscript", "out-of-source-utils"),
    )
)
"""Eclasses whose functions and variables are known here, or mean nothing in a build of ours."""
_LICENSES = {
    "Apache-2.0": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD-1": "BSD-1-Clause",
    "BSD-2": "BSD-2-Clause",
    "BSD-4": "BSD-4-Clause",
    "Boost-1.0": "BSL-1.0",
    "CC0-1.0": "CC0-1.0",
    "GPL-1+": "GPL-1.0-or-later",
    "GPL-2": "GPL-2.0-only",
    "GPL-2+": "GPL-2.0-or-later",
    "GPL-3": "GPL-3.0-only",
    "GPL-3+": "GPL-3.0-or-later",
    "LGPL-2": "LGPL-2.0-only",
    "LGPL-2+": "LGPL-2.0-or-later",
    "LGPL-2.1": "LGPL-2.1-only",
    "LGPL-2.1+": "LGPL-2.1-or-later",
    "LGPL-3": "LGPL-3.0-only",
    "LGPL-3+": "LGPL-3.0-or-later",
    "AGPL-3": "AGPL-3.0-only",
    "AGPL-3+": "AGPL-3.0-or-later",
    "ISC": "ISC",
    "MIT": "MIT",
    "MPL-2.0": "MPL-2.0",
    "PSF-2": "PSF-2.0",
    "ZLIB": "Zlib",
    "openssl": "OpenSSL",
    "public-domain": "LicenseRef-public-domain",
    "Unlicense": "Unlicense",
    "WTFPL-2": "WTFPL",
    "curl": "curl",
    "Artistic-2": "Artistic-2.0",
}
"""Gentoo's names (licenses/ of its repository) by SPDX's."""
_SKIPPED_FLAGS = frozenset(("verify-sig",))


@dataclass(frozen=True, slots=True)
class Distfile:
    """A file that SRC_URI names: where it is, and what it is called."""

    name: str
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PinnedSource:
    """A source as a recipe has it; `note` says where its bytes are known from."""

    url: str
    sha256: Digest
    mirrors: tuple[str, ...] = ()
    name: str = ""
    archive: bool = True
    top: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class EbuildFacts:
    """What an import looked up: sources in the order of `Ebuild.distfiles`, files of FILESDIR by
    name, what trees and Debian have, what flags mean, whether the first source has a
    `configure`."""

    sources: tuple[PinnedSource, ...]
    files: frozenset[str] = frozenset()
    tree: Mapping[str, TreePackageFacts] = field(default_factory=dict)
    debian: Mapping[str, DebianNames] = field(default_factory=dict)
    flags: Mapping[str, str] = field(default_factory=dict)
    has_configure: bool | None = None


@dataclass(frozen=True, slots=True)
class Ebuild:
    """What an ebuild asks for: `flags` with their defaults, files to fetch, packages by name."""

    header: Header
    flags: Mapping[str, bool]
    distfiles: tuple[Distfile, ...]
    unread: tuple[Unread, ...]

    @property
    def name(self) -> str:
        return f"{self.header.scope.text('CATEGORY')}/{self.header.name}"


@dataclass(frozen=True, slots=True)
class WrittenRecipe:
    """A pkg.yaml, what it needs of FILESDIR as patches and as files, and what was not understood,
    in the order of the ebuild's lines."""

    text: str
    patches: tuple[str, ...]
    files: tuple[str, ...]
    unread: tuple[Unread, ...]


def read_ebuild(text: str, file: str, name: str, version: str, category: str) -> Ebuild:
    """What the text of `category/name/name-version.ebuild` asks for.

    Raises:
        RecipeError: it is no ebuild that can be read, or a specification in it is malformed.
    """
    header = read_header(text, file, name, version, category)
    if version.startswith("9999"):
        hint = "import an ebuild of a release: what a live one builds is known only when it runs"
        raise RecipeError("a live ebuild has no version", place=file, hint=hint)
    flags = _flags(header)
    unread = list(header.unread)
    distfiles = tuple(_distfiles(header, unread))
    why = "what this eclass sets and does is missing"
    unknown = (one for one in header.eclasses if one not in _QUIET_ECLASSES)
    unread += [Unread(1, f"inherit {one}", why) for one in unknown]
    return Ebuild(header, flags, distfiles, tuple(unread))


def _flags(header: Header) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for word in header.scope.text("IUSE").split():
        name = word.lstrip("+-")
        if re.fullmatch(FLAG_NAME, name) and name not in _SKIPPED_FLAGS:
            found[name] = word.startswith("+")
    if "src_test" in header.functions:
        found.setdefault("test", False)
    return found


def _distfiles(header: Header, unread: list[Unread]) -> Iterator[Distfile]:
    """The files of SRC_URI; those under a flag are told, as a recipe has its sources always.

    Raises:
        RecipeError: it is malformed.
    """
    line = header.lines.get("SRC_URI", 1)
    place = f"{header.scope.file}:{line}"
    found: dict[str, list[str]] = {}
    for given, spec in spec_rows(parse_spec(header.scope.text("SRC_URI"), place)):
        if any(constant_flag(flag) not in (None, on) for flag, on in given):
            continue
        if not isinstance(spec, Item):
            raise RecipeError("SRC_URI has a group of alternatives", place=place)
        url = re.sub(r"^(?:fetch|mirror)\+", "", spec.text)
        if any(constant_flag(flag) is None for flag, _ in given):
            unread.append(Unread(line, url, f"a source under {_when(given)}: a recipe has all"))
            continue
        name = spec.renamed or name_of(url) or url
        found.setdefault(name, []).append(url)
    yield from (Distfile(name, tuple(urls)) for name, urls in found.items())


def written_recipe(ebuild: Ebuild, facts: EbuildFacts) -> WrittenRecipe:
    """The pkg.yaml of an ebuild, for `pkgs/CATEGORY/NAME/`.

    Raises:
        RecipeError: a dependency is malformed, or FILESDIR lacks a patch or file.
    """
    header, flags = ebuild.header, frozenset(ebuild.flags)
    phases = read_phases(
        header,
        flags,
        facts.files,
        has_configure=facts.has_configure,
        further=len(facts.sources) > 1,
    )
    needs = read_needs(header, flags, facts.tree, facts.debian)
    for atom in phases.build:
        needs.add(BUILD, atom, ())
    unread = tuple(
        dict.fromkeys(sorted((*ebuild.unread, *phases.unread, *needs.unread), key=lambda u: u.line))
    )
    document = {**_about(ebuild), **_body(ebuild, facts, phases, needs)}
    eapi = header.scope.text("EAPI")
    head = f"Imported from {header.scope.file} (EAPI {eapi}), which was read and never run."
    text = yaml_text(Remarked((head, *_told(header, unread)), document))
    patches = tuple(one.name for one in phases.patches)
    return WrittenRecipe(text, tuple(dict.fromkeys(patches)), phases.files, unread)


def _told(header: Header, unread: tuple[Unread, ...]) -> Iterator[str]:
    if not unread:
        return
    yield "Not taken over, by line:"
    for one in unread:
        first, *more = one.text.split("\n")
        why = f"  ({one.why})" if one.why else ""
        yield f"  {header.scope.file}:{one.line}: {first}{why}"
        yield from (f"    {line.strip()}" for line in more)


def _about(ebuild: Ebuild) -> dict[str, YamlData]:
    scope, found = ebuild.header.scope, dict[str, YamlData]()
    if text := scope.text("DESCRIPTION").strip():
        found["description"] = " ".join(text.split())
    pages = [page for page in scope.text("HOMEPAGE").split() if _is_page(page)]
    if pages:
        found["homepage"] = pages[0]
    if license_ := _license(ebuild.header):
        found["license"] = license_
    return found


def _is_page(url: str) -> bool:
    try:
        web_url(url)
    except LeafError:
        return False
    return True


def _license(header: Header) -> str:
    """LICENSE as an SPDX expression; of parts under a flag all count."""
    place = f"{header.scope.file}:{header.lines.get('LICENSE', 1)}"
    parts = []
    for _, spec in spec_rows(parse_spec(header.scope.text("LICENSE"), place)):
        if isinstance(spec, AnyIn):
            inner = [_spdx(one.text) for _, one in spec_rows(spec.items) if isinstance(one, Item)]
            parts.append(f"({' OR '.join(inner)})" if len(inner) > 1 else "".join(inner))
        elif isinstance(spec, Item):
            parts.append(_spdx(spec.text))
    parts = list(dict.fromkeys(part for part in parts if part))
    only = parts[0].strip("()") if len(parts) == 1 else ""
    return only or " AND ".join(parts)


def _spdx(name: str) -> str:
    return _LICENSES.get(name, f"LicenseRef-{re.sub('[^A-Za-z0-9.-]', '-', name)}")


def _when(given: FlagSet) -> str:
    return " && ".join(flag if on else f"!{flag}" for flag, on in given)


def _body(
    ebuild: Ebuild, facts: EbuildFacts, phases: Phases, needs: EbuildNeeds
) -> dict[str, YamlData]:
    found: dict[str, YamlData] = {}
    sources = [_source(one, number, phases.strip) for number, one in enumerate(facts.sources)]
    found["versions"] = {ebuild.header.version: {"sources": sources} if sources else {}}
    if phases.patches:
        found["patches"] = {
            f"patches/{one.name}": _patch(one.name, one.strip) for one in phases.patches
        }
    if ebuild.flags:
        found["use"] = {
            name: {"default": "on" if on else "off", "description": _meaning(name, facts)}
            for name, on in ebuild.flags.items()
        }
    if rule := " ".join(ebuild.header.scope.text("REQUIRED_USE").split()):
        found["required-use"] = [rule]
    depends = {kind: _atoms(needs.atoms[kind]) for kind in (BUILD, LINK, RUN) if needs.atoms[kind]}
    if depends:
        found["depends"] = depends
    found["style"] = phases.style
    if phases.arguments:
        found["configure"] = _arguments(phases)
    if phases.environment:
        found["environment"] = phases.environment
    if phases.steps:
        order = ("prepare", "configure", "compile", "check", "install")
        found["steps"] = {name: phases.steps[name] for name in order if name in phases.steps}
    if phases.capabilities:
        found["files"] = [
            {"path": path, "capabilities": [capability]} for path, capability in phases.capabilities
        ]
    if needs.users:
        found["users"] = {
            name: {"uid": str(uid), "gid": str(needs.groups.get(name, uid))}
            for name, uid in needs.users.items()
        }
    if needs.groups:
        found["groups"] = {name: {"gid": str(gid)} for name, gid in needs.groups.items()}
    return found


def _source(one: PinnedSource, number: int, strip: int) -> YamlData:
    made: dict[str, YamlData] = {"url": one.url}
    if one.mirrors:
        made["mirrors"] = [*one.mirrors]
    made["sha256"] = one.sha256
    if one.name and one.name != name_of(one.url):
        made["name"] = one.name
    if number:
        made["directory"] = WORK
    if not one.archive:
        made["unpack"] = "no"
    elif number or strip == 0 or not one.top:
        made["strip"] = "0"
    return Remarked((one.note,), made) if one.note else made


def _patch(name: str, strip: int) -> YamlData:
    text = f"{name.rpartition('/')[2]} of the ebuild"
    return text if strip == 1 else {"description": text, "strip": str(strip)}


def _meaning(name: str, facts: EbuildFacts) -> str:
    return facts.flags.get(name) or f"What the ebuild calls {name}"


def _atoms(listed: Mapping[str, list[FlagSet]]) -> list[YamlData]:
    found: list[YamlData] = []
    for atom, conditions in listed.items():
        if () in conditions:
            found.append(atom)
            continue
        shown = " || ".join(
            f"({_when(one)})" if len(one) > 1 and len(conditions) > 1 else _when(one)
            for one in conditions
        )
        found.append({"when": shown, "atom": atom})
    return found


def _arguments(phases: Phases) -> list[YamlData]:
    return [
        {"when": _when(one.given), "then": one.text} if one.given else one.text
        for one in phases.arguments
    ]
