"""`pkg.yaml`: the typed recipe, after its base chain is merged and its templates are rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, Tag

from buildit.model.use import FlagLayer
from buildit.recipe import schema
from buildit.recipe.schema import Model
from buildit.recipe.yaml.node import Mapping


class SignatureSpec(Model):
    """The upstream OpenPGP signature of a source."""

    url: schema.SourceUrl
    """Where the detached signature is."""
    mirrors: tuple[schema.SourceUrl, ...] = ()
    """Further places of it, tried in order."""
    keys_: Annotated[tuple[schema.RelativePath, ...], Field(min_length=1)]
    """Files with the OpenPGP keys that may have made it, beside pkg.yaml."""


class SourceSpec(Model):
    """An upstream archive or file; its SHA-256 is its identity, the places are only places."""

    url: schema.SourceUrl
    """Where upstream publishes it."""
    mirrors: tuple[schema.SourceUrl, ...] = ()
    """Further places, tried in order: `https://…` or `mirror://NAME/…`."""
    sha256: schema.Sha256
    """SHA-256 of the archive's bytes, as `buildit digest` prints it."""
    name: schema.FileName | None = None
    """The name of its file, where the URL does not end with it."""
    unpack: schema.OnOff = True
    """`no` takes the file as it is, under its name."""
    strip: schema.Count = 1
    """Leading directories to drop while unpacking; all members must have them in common."""
    exclude: tuple[schema.Line, ...] = ()
    """Globs of members to leave out, as the archive names them."""
    directory: schema.RelativePath = "."
    """Where to unpack, below the source directory."""
    signature: SignatureSpec | None = None
    """Checked before the source is used for the first time."""


class GitSpec(Model):
    """A commit of a git repository, taken as an archive without a top directory."""

    git: schema.GitUrl
    """Where upstream has the repository."""
    mirrors: tuple[schema.GitUrl, ...] = ()
    """Further repositories with the commit, tried in order."""
    commit: schema.CommitId | None = None
    """The commit; with a `tag`, where the tag must be."""
    tag: schema.TagName | None = None
    """A tag; without a `commit`, the lock pins the one that it is at."""
    sha256: schema.Sha256 | None = None
    """SHA-256 of the commit's canonical tar, as `buildit.lock` has it, which pins it otherwise."""
    submodules: schema.OnOff = True
    """`no` leaves the directories of submodules empty."""
    exclude: tuple[schema.Line, ...] = ()
    """Globs of paths to leave out."""
    directory: schema.RelativePath = "."
    """Where to unpack, below the source directory."""


class PathSpec(Model):
    """A directory of this machine, for work: built where it was built before, never published.

    `.git` and what git ignores are left out.
    """

    path: schema.WorkDirectory
    """The directory, from this file: `../src`."""
    exclude: tuple[schema.Line, ...] = ()
    """Globs of paths to leave out."""
    directory: schema.RelativePath = "."
    """Where to unpack, below the source directory."""


AnySource = Annotated[
    Annotated[GitSpec, Tag("<git>")]
    | Annotated[PathSpec, Tag("<path>")]
    | Annotated[SourceSpec, Tag("<url>")],
    schema.by_key(GitSpec, PathSpec, SourceSpec),
]


class PatchSpec(Model):
    """A patch with more than a description."""

    description: schema.Line
    """What it does, for people."""
    sha256: schema.Sha256 | None = None
    """SHA-256 of its canonical form, as `buildit lock` prints it."""
    strip: schema.Count = 1
    """Leading parts to drop from the paths inside it."""
    when: schema.Line | None = None
    """Apply only where this flag condition holds."""
    fixes: tuple[schema.Line, ...] = ()
    """What it mends, such as CVE-2023-44487."""
    upstream: schema.Line | None = None
    """Where upstream has it: a URL, `no`, or `pending`."""


class FlagSpec(Model):
    """A USE flag: on or off, or one of several choices."""

    default: schema.Line
    """`on`, `off`, or one of `choices`."""
    description: schema.Line
    """What it changes."""
    choices: tuple[schema.FlagName, ...] = ()
    """The values of a one-of flag; empty for on and off."""


class ConditionalItem(Model):
    """An item of a list that stands only where a flag condition holds."""

    when: schema.Line
    """A flag condition: `ssl`, `!ssl`, `ssl && !gnutls`, `tls=openssl`."""
    then: schema.TextOrList[schema.MaybeEmpty]
    """One item or a list of them."""


class ConditionalAtom(Model):
    """A dependency that stands only where a flag condition holds."""

    when: schema.Line
    """A flag condition."""
    atom: schema.Line
    """The dependency."""


AtomItem = schema.TextOrMap[schema.Line, ConditionalAtom]


class Depends(Model):
    """What a package needs, by when."""

    build: tuple[AtomItem, ...] = ()
    """Tools that run in the chroot."""
    link: tuple[AtomItem, ...] = ()
    """Libraries and headers that it is built against."""
    run: tuple[AtomItem, ...] = ()
    """Only what cannot be detected: dlopen, data, helpers."""


class Steps(Model):
    """Scripts for `sh -eu` that replace a phase of the build style; an empty one drops it."""

    prepare: schema.MaybeEmpty | None = None
    """After the patches."""
    configure: schema.MaybeEmpty | None = None
    """`"$@"` are the items of `configure:`."""
    compile: schema.MaybeEmpty | None = None
    """`$JOBS` says how many jobs may run at once."""
    check: schema.MaybeEmpty | None = None
    """The tests of upstream."""
    install: schema.MaybeEmpty | None = None
    """Into `$DESTDIR`."""


class OutputSpec(Model):
    """An output's share of the installed files."""

    paths: tuple[schema.Line, ...] = ()
    """Globs of paths without a leading slash; `**` crosses directories."""
    optional: Literal["yes", "no"] = "no"
    """`yes` where the output may be empty; for `runtime` without `paths`, the whole package."""


OutputName = Literal["runtime", "dev", "doc", "locale", "debug"]


class FileRule(Model):
    """What an installed file has beyond 0:0 and the mode that it was installed with."""

    path: schema.Line
    """A glob of paths without a leading slash."""
    mode: schema.Mode | None = None
    """Permission bits, octal with a leading zero."""
    owner: schema.Line | None = None
    """`uid:gid`, numeric, or names that `users` and `groups` of this recipe declare."""
    capabilities: tuple[schema.Line, ...] = ()
    """File capabilities, such as `cap_net_bind_service=ep`."""


class UserSpec(Model):
    """A user with a fixed id."""

    uid: schema.NumericId
    """The fixed uid."""
    gid: schema.NumericId
    """The gid of its first group."""
    home: schema.ImagePath = "/nonexistent"
    """Its home directory."""
    shell: schema.ImagePath = "/usr/sbin/nologin"
    """Its shell."""
    comment: schema.MaybeEmpty = ""
    """The GECOS field."""


class GroupSpec(Model):
    """A group with a fixed id."""

    gid: schema.NumericId
    """The fixed gid."""
    members: tuple[schema.AccountName, ...] = ()
    """Users that are in it besides those that have it as first group."""


class WaiverSpec(Model):
    """A finding of a check that this package accepts."""

    check: schema.Line
    """The id of the finding."""
    path: schema.Line = "**"
    """A glob of the paths it is accepted for."""
    reason: schema.Line
    """Why it is right here."""


StyleName = Literal["autotools", "cmake", "meson", "make", "python", "go", "cargo", "custom"]


class Recipe(Model):
    """How one version of a package is built."""

    description: schema.Text | None = None
    """What the package is."""
    homepage: schema.Url | None = None
    """Its page."""
    license: schema.Line | None = None
    """An SPDX expression."""
    author: schema.Line | None = None
    """Who wrote this recipe."""
    toolchain: schema.Line | None = None
    """The set of .debs that the chroot is made of; without it the container's."""
    sources: tuple[AnySource, ...] = ()
    """Upstream archives, commits and directories, unpacked in order."""
    patches: dict[str, schema.TextOrMap[schema.Line, PatchSpec]] = Field(default_factory=dict)
    """Path or URL of each patch -> what it does; applied in order."""
    use: dict[schema.FlagName, FlagSpec] = Field(default_factory=dict)
    """The flags that the package has."""
    required_use: tuple[object, ...] = ()
    """Rules between flags: all-of, any-of, one-of, at-most-one, if/then, or Portage's notation."""
    depends: Depends = Depends()
    """What it needs."""
    style: StyleName = "custom"
    """Where the phases come from."""
    configure: tuple[schema.TextOrMap[schema.MaybeEmpty, ConditionalItem], ...] = ()
    """Arguments of the configure phase (make variables for style `make`)."""
    environment: dict[schema.Identifier, schema.MaybeEmpty] = Field(default_factory=dict)
    """Further variables of the build."""
    steps: Steps = Steps()
    """Phases of its own."""
    fakeroot: Literal["yes", "no"] = "no"
    """`yes` runs the install phase under fakeroot, for upstreams that give files to root there."""
    outputs: dict[OutputName, schema.ListOrMap[schema.Line, OutputSpec]] = Field(
        default_factory=dict
    )
    """Globs that go to an output before the usual rules."""
    files: tuple[FileRule, ...] = ()
    """Modes, owners and capabilities."""
    strip: Literal["yes", "no"] = "yes"
    """`no` leaves symbols and debug information in programs and libraries."""
    users: dict[schema.AccountName, UserSpec] = Field(default_factory=dict)
    """Users that an image with the package has."""
    groups: dict[schema.AccountName, GroupSpec] = Field(default_factory=dict)
    """Groups that an image with the package has."""
    waivers: tuple[WaiverSpec, ...] = ()
    """Findings of checks that are right here."""


class UseChoice(Model):
    """`use:` of an embedded package: flags to turn on and off, or `flag=choice`."""

    with_: tuple[schema.Line, ...] = ()
    """Flags to enable, or `flag=choice`."""
    without: tuple[schema.Line, ...] = ()
    """Flags to disable."""


class TreePackage(Recipe):
    """`pkgs/<category>/<name>/pkg.yaml`: a recipe with its versions."""

    versions: dict[schema.VersionText, Recipe]
    """What differs by version; laid over the keys above."""


class EmbeddedPackage(Recipe):
    """`pkg.yaml` beside a container: a base and what differs from it."""

    base: schema.Line
    """`category/name-version`, or a path to another package's directory."""
    version: schema.VersionText | None = None
    """The version of the result, where it is not the base's."""


class DebianDepends(Model):
    """Debian packages beyond those that the source itself asks for."""

    build: tuple[schema.DebianPackage, ...] = ()
    """For its chroot."""
    run: tuple[schema.DebianPackage, ...] = ()
    """For an image with what it gives."""


class DebianSourcePackage(Model):
    """`pkg.yaml` beside a container, with a Debian source package as base."""

    base: schema.DebianPackage
    """`debian:NAME`, or `debian:NAME=VERSION`."""
    description: schema.Text | None = None
    """What the package is."""
    homepage: schema.Url | None = None
    """Its page."""
    license: schema.Line | None = None
    """An SPDX expression."""
    author: schema.Line | None = None
    """Who wrote this recipe."""
    patches: dict[str, schema.TextOrMap[schema.Line, PatchSpec]] = Field(default_factory=dict)
    """Path or URL of each patch -> what it does; applied in order, on top of Debian's."""
    use: UseChoice = UseChoice()
    """Build profiles and options that the source declares: `with: [check]`, `without: [doc]`."""
    configure: tuple[schema.Line, ...] = ()
    """Appended to what debian/rules gives to the program's own configure step."""
    version_suffix: schema.VersionSuffix | None = None
    """What the version of the .debs has after Debian's; `+buildit1` where something changed."""
    depends: DebianDepends = DebianDepends()
    """Debian packages beyond those of its debian/control."""
    toolchain: schema.Line | None = None
    """The set of .debs whose suites the source and its Build-Depends are of; without it the
    container's."""


class ToolchainDebian(Model):
    """The .debs that a chroot is made of."""

    suites: tuple[schema.Line, ...]
    """Suites to choose from, such as bookworm and bookworm-security."""
    packages: tuple[schema.Line, ...]
    """Names, closed over Depends and Pre-Depends."""
    run: dict[schema.Line, tuple[schema.Line, ...]] = Field(default_factory=dict)
    """What a .deb's files load only with dlopen, and so an image with it needs besides."""


class ToolchainPackage(Model):
    """`pkgs/toolchain/<name>/pkg.yaml`."""

    description: schema.Text | None = None
    """What it is for."""
    style: Literal["toolchain"]
    """Says that this is a toolchain."""
    debian: ToolchainDebian
    """The set."""


@dataclass(frozen=True, slots=True)
class DebianBase:
    """A package beside a container whose base is a Debian source package. `name` is Debian's,
    `version` empty where the newest will do; `node` is the document that `recipe` was read from."""

    name: str
    version: str
    origin: str
    recipe: DebianSourcePackage
    node: Mapping
    directory: str


@dataclass(frozen=True, slots=True)
class Package:
    """One version of a package with its whole base chain merged; the flags are still open.

    `name` is `category/name`. `node` is the merged document that `recipe` was read from.
    `directories` are those of the chain, base first: their `files/` are laid over each other.
    `layers` are the flags that the chain itself sets. `origin` is what a person calls it.
    """

    name: str
    version: str
    origin: str
    recipe: Recipe
    node: Mapping
    directories: tuple[str, ...]
    layers: tuple[FlagLayer, ...] = ()
