"""`container.yaml`: an ordered list of steps, each a map with one key."""

from __future__ import annotations

from collections.abc import Mapping as Map
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from buildit.digest import Digest
from buildit.model.platform import Platform
from buildit.recipe import schema
from buildit.recipe.database.spec import DatabaseSpec
from buildit.recipe.leaf import LeafError
from buildit.recipe.package import GroupSpec, UserSpec
from buildit.recipe.schema import Model
from buildit.recipe.testspec import Command, ImageTestSpec
from buildit.recipe.yaml.node import Mapping, Node


class EmbeddedPackageStep(Model):
    """A package whose pkg.yaml lies beside the container."""

    type: Literal["embedded"]
    """Says so."""
    path: schema.Line
    """Its directory, such as ./pkgs/nginx."""
    packages: tuple[schema.Line, ...] = ()
    """Of a Debian source package: which of its binary packages the image takes."""


class AtomPackageStep(Model):
    """A package of the tree."""

    atom: schema.Line
    """`category/name`, with version and flags where they matter."""


class DebianPackageStep(Model):
    """A Debian binary package, unpacked; none of its scripts runs."""

    debian: schema.DebianName
    """Its name, with `=version` where it matters."""
    version: schema.DebianVersion | None = None
    """The same as `=version`."""
    closure: Literal["depends", "files"] = "depends"
    """What comes with it: its Depends, or only what its files are seen to need."""
    without: tuple[schema.Line, ...] = ()
    """Globs of its files that stay out of the image: `usr/bin/rrsync`, `usr/share/doc/**`."""
    slices: tuple[schema.Line, ...] | None = None
    """The shares of it that are taken, as pkgs/debian/slices.yaml names them: `[core, gconv]`; by
    default those that are `on` there."""
    set_id: Literal["keep"] | None = None
    """`keep` leaves its programs' set-id bits, which let others act as their owner."""


PackageStepSpec = Annotated[
    Annotated[EmbeddedPackageStep, Tag("<type>")]
    | Annotated[AtomPackageStep, Tag("<atom>")]
    | Annotated[DebianPackageStep, Tag("<debian>")],
    schema.by_key(AtomPackageStep, DebianPackageStep, EmbeddedPackageStep),
]


class FromSpec(Model):
    """An image that lies below all that the container adds: exactly one of these."""

    oci: schema.Line | None = None
    """`oci:DIR`, a layout; `oci-archive:FILE`, one in a tar; `docker://HOST/NAME[:TAG][@DIGEST]` or
    `oci://HOST/NAME[:TAG]`, in a registry, where the lock pins the digest of its manifest."""
    docker_archive: schema.Line | None = None
    """A file that `docker save` wrote."""
    aci: schema.Line | None = None
    """An ACI that depends on no other."""
    container: schema.Line | None = None
    """The directory of another container, which is built before."""
    suite: schema.Line | None = None
    """`debian-12`: a root of Debian's own packages, which its scripts configure; with apt and
    dpkg."""
    stage: schema.Line | None = None
    """Another stage of the same recipe, a Dockerfile."""

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if len(self.model_fields_set) != 1:
            written = ", ".join(map(schema.spelled, sorted(self.model_fields_set))) or "none"
            message = f"expected exactly one image to begin with, found {written}"
            raise LeafError(message, "write `- from: {oci: oci:../base.oci}`")
        return self


class SyncSpec(Model):
    """Files of the project, or of another image, that enter the image."""

    src: schema.TextOrList[schema.Line]
    """A file or directory beneath the container's directory. Or a list of such, which go where a
    Dockerfile's COPY puts them: globs fit names (`*`, `?`, `[a-z]`), a file goes into a `dest` that
    is a directory, the content of a directory into `dest`. Or an `https://…` URL in such a list."""
    from_: FromSpec | None = None
    """The image that they are taken of, with the modes, owners, times and links that they have
    there; beside a list in `src`, whose paths are from its root."""
    dest: schema.ImagePath
    """Where it goes; with a trailing slash, into that directory."""
    recursive: schema.OnOff = False
    """Needed where `src` is a directory: its content goes to `dest`."""
    chmod: schema.Mode | None = None
    """Mode of files; without it 0755 for those with an x bit, else 0644."""
    dirmode: schema.Mode | None = None
    """Mode of the directories that are synced or, but for a list, made on the way, such as 1777;
    else 0755."""
    owner: schema.Line | None = None
    """`uid:gid` of files and new directories: numbers, or names of packages or `users`; without it
    0:0, and of another image or an archive what they have there."""
    exclude: tuple[schema.Line, ...] = ()
    """Globs over paths beneath `src` that stay out: `tmp`, `cache/**`, `*.bak`, `**/*.bak`."""
    ignore: tuple[schema.Line, ...] = ()
    """Patterns of a .dockerignore, over paths of the container's directory; beside a list."""
    extract: schema.OnOff = False
    """Whether a file that is a tar, compressed or not, goes into `dest` unpacked; beside a list."""
    parents: schema.OnOff = False
    """Whether each goes beneath `dest` with the directories of its path; beside a list."""
    sha256: schema.Sha256 | None = None
    """The SHA-256 of what is at the URL; without it the lock pins what is there."""
    template: schema.OnOff = False
    """Files are templates over the variables of this step and `packages`; text in UTF-8 only."""


class AppSpec(Model):
    """What runs, in the terms of no format."""

    exec: Command | None = None
    """The program, absolute, and its arguments, which may be any text; not beside `init`."""
    user: schema.Line = "0"
    """User name or uid."""
    group: schema.Line | None = None
    """Group name or gid; the user's own without it."""
    environment: dict[schema.VariableName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Its environment, word for word: nothing fills in a `$PATH`."""
    working_directory: schema.ImagePath = "/"
    """Where it starts."""
    ports: tuple[schema.Line, ...] = ()
    """`443`, `443/tcp`, or `https=443/tcp`."""
    volumes: tuple[schema.Line, ...] = ()
    """`/etc/nginx/tls`, `tls=/etc/nginx/tls`, with `:ro` where it is read-only."""
    stop_signal: schema.Line | None = None
    """The signal that asks it to stop, such as SIGQUIT."""


class HealthSpec(Model):
    """How an executor finds out whether the app works, by one of the first three. App Container
    cannot say it."""

    exec: Command | None = None
    """The program, absolute, and its arguments; 0 says that all is well."""
    script: schema.Text | None = None
    """Text for the image's shell instead; it is no template."""
    none: schema.OnOff = False
    """Nothing finds it out, whatever the image says that the container begins with."""
    interval: schema.Duration | None = None
    """Time between two runs; the executor's own (30s) without it."""
    timeout: schema.Duration | None = None
    """How long one run may take; the executor's own (30s) without it."""
    retries: schema.Count | None = None
    """Failures in a row that count; the executor's own (3) without it."""
    start: schema.Duration | None = None
    """Time after the start in which failures do not count."""


class ReadySpec(Model):
    """How a service tells that it can be used: by one of these."""

    exec: Command | None = None
    """A program that is asked until its status is 0, as root."""
    fd: schema.Count | None = None
    """A file descriptor, from 3, to which the service writes a line when it is ready."""
    timeout: schema.Duration = 60
    """How long that may take; then the container ends with 1."""


class ServiceSpec(Model):
    """One process of several."""

    exec: Command
    """The program, absolute, and its arguments; it stays in the foreground."""
    after: tuple[schema.Line, ...] = ()
    """Services that are up, and ready where they tell it, before this one starts."""
    user: schema.Line | None = None
    """`uid:gid`: numbers, or names of packages or `users`; root without it."""
    environment: dict[schema.VariableName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Beside that of the image (`env`), word for word."""
    working_directory: schema.ImagePath = "/"
    """Where it starts."""
    stop_signal: schema.Line | None = None
    """The signal that asks it to stop; SIGTERM without it."""
    stop_timeout: schema.Duration = 10
    """How long it may take to stop; then it is killed."""
    ready: ReadySpec | None = None
    """How it tells that it can be used; without it, that it runs is enough."""
    on_exit: Literal["restart", "stop"] = "restart"
    """What follows when it ends by itself: it is started again, or all services are stopped and
    the container ends with its status."""
    stop_on: tuple[schema.Count, ...] = ()
    """Statuses with which it cannot get better by starting again: after these, all services are
    stopped, whatever `on-exit` says."""


class InitSpec(Model):
    """Several processes, which an init starts in order and stops in the reverse order."""

    services: dict[schema.AccountName, ServiceSpec] = Field(min_length=1)
    """Each by its name."""


class DirectorySpec(Model):
    """A directory that no package and no synced file brings."""

    path: schema.ImagePath
    """Where it is; directories above it that are missing are made with 0755 and 0:0."""
    owner: schema.Line = "0:0"
    """`uid:gid`, numeric, or names that packages or `users` declare."""
    mode: schema.Mode = 0o755
    """Its mode, octal with a leading zero: 01777 for one that all may write to."""
    keep: schema.OnOff = False
    """Whether one that the image has already stays as it is."""


class LinkSpec(Model):
    """A symbolic link."""

    path: schema.ImagePath
    """Where it is; it replaces a file or link of the image, never a directory."""
    target: schema.Line
    """Its text: absolute within the image, or relative to the directory that it lies in."""


class TextSpec(Model):
    """A small file whose text is written here."""

    path: schema.ImagePath
    """Where it is; it replaces a file or link of the image, never a directory."""
    content: schema.MaybeEmpty
    """Its text, a template over `vars`."""
    mode: schema.Mode = 0o644
    """Its mode, octal with a leading zero."""
    owner: schema.Line = "0:0"
    """`uid:gid`: numbers, or names of packages or `users`."""


class ModeSpec(Model):
    """Another mode or owner for what the image has; links to it are followed."""

    path: schema.ImagePath
    """The file or directory; a file with several names changes under all of them."""
    mode: schema.Mode | None = None
    """Its mode, octal with a leading zero; kept without it."""
    owner: schema.Line | None = None
    """`uid:gid`: numbers, or names of packages or `users`; kept without it."""


class UrlSpec(Model):
    """A list of steps that somebody else keeps."""

    url: schema.Url
    """Where it is, `https://…`."""
    sha256: schema.Sha256
    """The SHA-256 of its bytes: any that have it will do, wherever they are."""


class RunMountSpec(Model):
    """What a command finds somewhere, and the image does not have."""

    type: Literal["bind", "cache", "tmpfs", "secret", "text"]
    """`bind`: files of the project or of another image. `cache`: a directory that is empty at
    first; with --cache-mounts, which is for work, what the last command left there. `tmpfs`:
    memory. `secret`: a secret. `text`: a file with this text."""
    dest: schema.ImagePath | None = None
    """Where it is; a secret is in /run/secrets/ID without it."""
    from_: FromSpec | None = None
    """The image that the files are of (bind, cache); the project without it."""
    src: schema.Line | None = None
    """Which file or directory (bind, cache)."""
    ignore: tuple[schema.Line, ...] = ()
    """Patterns of a .dockerignore (bind of the project)."""
    id: schema.Line | None = None
    """The secret; or what a cache is called that several commands have, its `dest` without it."""
    sharing: Literal["shared", "private", "locked"] = "shared"
    """Who may have a cache at the same time: one command at a time has it, whatever this says."""
    writable: schema.OnOff | None = None
    """Whether the command may write there; what it writes to a bind is thrown away."""
    required: schema.OnOff = False
    """Whether the step fails where the secret is not given."""
    env: schema.VariableName | None = None
    """A variable that has the secret, too."""
    mode: schema.Mode | None = None
    """The mode of a cache, a tmpfs, a text or a secret."""
    uid: schema.NumericId = 0
    """Whom a cache, a text or a secret belongs to."""
    gid: schema.NumericId = 0
    """Its group."""
    size: schema.Size | None = None
    """How large a tmpfs may become."""
    content: schema.MaybeEmpty | None = None
    """The text; it is no template."""


class RunSpec(Model):
    """A command over what is there; what it changes enters the image."""

    script: schema.Text | None = None
    """Text for `/bin/sh -e`, which ends at the first command that fails; it is no template."""
    exec: Command | None = None
    """A program and its arguments, instead; it is looked for in the PATH."""
    env: dict[schema.VariableName, schema.MaybeEmpty] = Field(default_factory=dict)
    """Its environment, beside what every command has: the image's own (`env`) is not for it."""
    network: schema.OnOff = False
    """Whether it has a way out, through slirp4netns, to neither this machine nor link-local
    addresses. Nothing pins what it fetches, and its layer is a task of this store alone."""
    as_app: schema.OnOff = False
    """Whether it sees the environment, user and working directory that the steps above say, and the
    base, as a Dockerfile's RUN does, and the image's own /tmp and /run; and of the environment that
    commands have otherwise only what keeps results the same."""
    ids: Literal["range", "one"] = "range"
    """Who can be whom inside: every user, or root alone, which needs nothing of the machine."""
    secrets: tuple[schema.SecretId, ...] = ()
    """Ids of what it finds in /run/secrets/ID, where only root may read it. The values are given
    when it runs (`--secret`, `secrets` of the configuration), and are nowhere in the image."""
    mounts: tuple[RunMountSpec, ...] = ()
    """What it finds mounted; no layer has it."""
    debs: tuple[schema.DebianName, ...] = ()
    """Debian packages that `apt-get install` finds without a network, with all that they depend on:
    by name, with `=version` where it matters."""


class ImageSpec(Model):
    """An image to emit."""

    type: Literal[
        "aci", "oci", "oci-archive", "docker-archive", "rootfs", "lxc", "squashfs", "nspawn"
    ]
    """Its format."""
    content: schema.Text | None = None
    """The raw manifest of the format, a template over `vars`, instead of what `app` gives."""
    compress: Literal["none", "gzip", "zstd", "xz"] | None = None
    """How layers (oci, oci-archive), blocks (squashfs) or the whole file are compressed."""
    split: schema.OnOff = False
    """An ACI for each package, in NAME.aci.d/, and NAME.aci, which depends on them (aci)."""


class UseSpec(Model):
    """Flags for the packages of this container."""

    flags: tuple[schema.Line, ...] = ()
    """For every package that declares them: `ipv6`, `-selinux`, `tls=openssl`."""
    packages: dict[schema.Line, tuple[schema.Line, ...]] = Field(default_factory=dict)
    """For one package: category/name -> flags."""


class StepSpec(Model):
    """One step: exactly one of these keys, and `with` beside `include`."""

    vars: dict[schema.Identifier, schema.MaybeEmpty] | None = None
    """Names for templates; `name`, `version`, `os`, `arch` and `author` name the container."""
    from_: FromSpec | None = None
    """An image that lies below all others; what it says of its start holds where the container says
    nothing."""
    package: PackageStepSpec | None = None
    """A package whose runtime closure enters the image."""
    sync: SyncSpec | None = None
    """Files of the project."""
    use: schema.ListOrMap[schema.Line, UseSpec] | None = None
    """Flags for the packages of this container."""
    toolchain: schema.Line | None = None
    """The set of .debs that all of it is built with, and whose suites Debian's packages are of:
    `toolchain/debian-13`. Without it, and where no package names one, `toolchain/debian-12`."""
    env: dict[schema.VariableName, schema.MaybeEmpty] | None = None
    """Environment of the app."""
    user: Annotated[Annotated[schema.Line, Tag(schema.SCALAR)], schema.BY_KIND] | None = None
    """User of the app."""
    users: dict[schema.AccountName, UserSpec] | None = None
    """Users of the image."""
    groups: dict[schema.AccountName, GroupSpec] | None = None
    """Groups of the image."""
    app: AppSpec | None = None
    """What runs."""
    init: InitSpec | None = None
    """What runs, where that is several processes; needs Debian's packages s6 and execline."""
    labels: dict[schema.LabelName, schema.MaybeEmpty] | None = None
    """Labels of the image's config. Those for version, title, authors, and for a container of one
    package its description, url and licenses, are there by themselves."""
    annotations: dict[schema.LabelName, schema.MaybeEmpty] | None = None
    """Annotations of the image's manifest; the same are there by themselves."""
    database: DatabaseSpec | None = None
    """A database, made at the first start, beside what the container runs or alone."""
    healthcheck: HealthSpec | None = None
    """How to find out whether the app works."""
    directories: tuple[DirectorySpec, ...] | None = None
    """Directories that no package brings."""
    symlinks: tuple[LinkSpec, ...] | None = None
    """Symbolic links."""
    texts: tuple[TextSpec, ...] | None = None
    """Small files whose text is written here."""
    modes: tuple[ModeSpec, ...] | None = None
    """Modes and owners of what the image has."""
    entrypoint: tuple[schema.MaybeEmpty, ...] | None = None
    """The program of the app, absolute, and its arguments; an `app` step is not needed for it. Over
    a base, or after a command, a name does that is found in the PATH; `[]` is none."""
    cmd: tuple[schema.MaybeEmpty, ...] | None = None
    """Arguments behind the entrypoint, in the place of which whoever starts the image may say
    others (OCI's Cmd); the command itself where there is no entrypoint."""
    shell: Command | None = None
    """What runs the commands of a Dockerfile that begins with the image: [/bin/bash, -c]."""
    onbuild: tuple[schema.Text, ...] | None = None
    """Instructions that a Dockerfile which begins with the image has first."""
    workdir: schema.ImagePath | None = None
    """Where the app starts."""
    ports: tuple[schema.Line, ...] | None = None
    """All ports of the app, as `app` writes them."""
    volumes: tuple[schema.Line, ...] | None = None
    """All volumes of the app, as `app` writes them."""
    stop_signal: schema.Line | None = None
    """The signal that asks the app to stop, such as SIGQUIT."""
    include: schema.TextOrMap[schema.Line, UrlSpec] | None = None
    """The steps of another list: a file, relative to this one, or a URL with its digest."""
    with_: dict[schema.Identifier, schema.MaybeEmpty] | None = None
    """Beside `include`: the parameters of the list, over what its own `vars` say."""
    run: RunSpec | None = None
    """A command whose difference is a layer."""
    test: ImageTestSpec | None = None
    """A test of the finished image; where it fails, nothing is emitted or published."""
    platforms: Annotated[tuple[schema.Line, ...], Field(min_length=1)] | None = None
    """All that it is built for, such as [linux/amd64, linux/arm64]: `os` and `arch` are then what
    is built for just now. An OCI image holds all of them; of other formats there is one for each.
    Without it: what `vars` say, else this machine's."""
    image: ImageSpec | None = None
    """An image to emit."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        keys = self.model_fields_set
        if "include" in keys:
            keys = keys - {"with_"}
        elif keys == {"with_"}:
            hint = "write both in one list item: `include: …` and below it `with: {…}`"
            raise LeafError("`with` stands beside an `include` that is not there", hint)
        if len(keys) != 1:
            written = ", ".join(sorted(map(schema.spelled, self.model_fields_set))) or "none"
            hint = "write each step as its own list item: `- sync: {...}`"
            raise LeafError(f"expected exactly one key in a step, found {written}", hint)
        return self


NAMES = ("name", "version", "os", "arch")
"""The variables that become parts of file names."""

LONGEST_NAME = 60
"""Bytes of each: NAME-VERSION-OS-ARCH.aci fits into the 255 of a file name."""


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """One step and where it was written.

    `content` is a raw manifest, rendered. Relative paths are of the directory `base`, which has the
    list, and lead to what is beneath `root`. `names` are the variables of a step with a template.
    `through` are the places of the `include` steps that led to it, the container's own first.
    `part_of` is the kind of the step that it is a part of, whose place it has: `database`.
    """

    spec: StepSpec
    node: Mapping
    content: str = ""
    base: Path = Path()
    root: Path = Path()
    names: Map[str, str] = field(default_factory=dict)
    through: tuple[str, ...] = ()
    part_of: str = ""

    @property
    def place(self) -> str:
        return str(self.node.place)

    @property
    def kind(self) -> str:
        """The key that it is written with."""
        return schema.spelled(min(self.spec.model_fields_set - {"with_"}))

    def variable(self, name: str) -> Node | None:
        """What it sets a variable to."""
        values = self.node.get("vars")
        return values.get(name) if isinstance(values, Mapping) else None


@dataclass(frozen=True, slots=True)
class Container:
    """`variables` are those of all `vars` steps; `NAMES` and `author` say what it is called.

    `pending`: some template asks for `packages`, which were not known when it was read.
    `platforms` are those of its `platforms` step, else none. `steps` are flat: those of an included
    list stand behind its `include`. `files` are the lists that were read, `pinned` the digests of
    those of URLs. `awaits_base`: its recipe is to be read again once it is known what the base
    says. `looked` are paths that decide what it is, whether they are there or not; `remarks` are
    for the user to see. `facts` are what its template asked for that may be another thing
    elsewhere.
    """

    directory: Path
    file: str
    variables: Map[str, str]
    steps: tuple[LoadedStep, ...]
    pending: bool = False
    platforms: tuple[Platform, ...] = ()
    files: tuple[Path, ...] = ()
    pinned: tuple[Digest, ...] = ()
    awaits_base: bool = False
    looked: tuple[Path, ...] = ()
    remarks: tuple[str, ...] = ()
    facts: Map[str, str] = field(default_factory=dict)
