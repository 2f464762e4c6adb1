"""`container.yaml`: an ordered list of steps, each a map with one key."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from buildit.recipe.leaf import LeafError
from buildit.recipe.package import GroupSpec, UserSpec
from buildit.recipe.schema import (
    BY_KIND,
    MAPPING,
    SCALAR,
    SEQUENCE,
    Account,
    Count,
    Duration,
    Flag,
    Identifier,
    ImagePath,
    LabelName,
    Line,
    MaybeEmpty,
    Mode,
    Model,
    Text,
    VariableName,
)


class EmbeddedPackageStep(Model):
    """A package whose pkg.yaml lies beside the container."""

    type: Literal["embedded"]
    """Says so."""
    path: Line
    """Its directory, such as ./pkgs/nginx."""


class AtomPackageStep(Model):
    """A package of the tree."""

    atom: Line
    """`category/name`, with version and flags where they matter."""


class DebianPackageStep(Model):
    """A Debian binary package, unpacked; none of its scripts runs."""

    debian: Line
    """Its name, with `=version` where it matters."""
    closure: Literal["depends", "files"] = "depends"
    """What comes with it: its Depends, or only what its files are seen to need."""
    without: tuple[Line, ...] = ()
    """Globs of its files that stay out of the image: `usr/bin/rrsync`, `usr/share/doc/**`."""


def _package_kind(value: object) -> str:
    keys = value if isinstance(value, dict) else {}
    # No tag may be a key: `model.typed` follows an error's location by keys.
    return next((f"<{key}>" for key in ("atom", "debian") if key in keys), "<embedded>")


PackageItem = EmbeddedPackageStep | AtomPackageStep | DebianPackageStep
PackageStepSpec = Annotated[
    Annotated[EmbeddedPackageStep, Tag("<embedded>")]
    | Annotated[AtomPackageStep, Tag("<atom>")]
    | Annotated[DebianPackageStep, Tag("<debian>")],
    Discriminator(_package_kind),
]


class SyncSpec(Model):
    """Files of the project that enter the image."""

    src: Line
    """A file or directory beneath the container's directory."""
    dest: ImagePath
    """Where it goes; with a trailing slash, into that directory."""
    recursive: Flag = False
    """Needed where `src` is a directory: its content goes to `dest`."""
    chmod: Mode | None = None
    """Mode of files; without it 0755 for those with an x bit, else 0644."""
    dirmode: Mode | None = None
    """Mode of the directories that are synced or made on the way, such as 1777, else 0755."""
    owner: Line = "0:0"
    """`uid:gid` of files and new directories: numbers, or names of packages or `users`."""
    exclude: tuple[Line, ...] = ()
    """Globs over paths beneath `src` that stay out: `tmp`, `cache/**`, `*.bak`, `**/*.bak`."""


PortItem = Line
VolumeItem = Line


class AppSpec(Model):
    """What runs, in the terms of no format."""

    exec: Annotated[tuple[MaybeEmpty, ...], Field(min_length=1)]
    """The program, absolute, and its arguments, which may be any text."""
    user: Line = "0"
    """User name or uid."""
    group: Line | None = None
    """Group name or gid; the user's own without it."""
    environment: dict[VariableName, MaybeEmpty] = Field(default_factory=dict)
    """Its environment, word for word: nothing fills in a `$PATH`."""
    working_directory: ImagePath = "/"
    """Where it starts."""
    ports: tuple[PortItem, ...] = ()
    """`443`, `443/tcp`, or `https=443/tcp`."""
    volumes: tuple[VolumeItem, ...] = ()
    """`/etc/nginx/tls`, `tls=/etc/nginx/tls`, with `:ro` where it is read-only."""
    stop_signal: Line | None = None
    """The signal that asks it to stop, such as SIGQUIT."""


class HealthSpec(Model):
    """How an executor finds out whether the app works. App Container cannot say it."""

    exec: Annotated[tuple[MaybeEmpty, ...], Field(min_length=1)]
    """The program, absolute, and its arguments; 0 says that all is well."""
    interval: Duration | None = None
    """Time between two runs; the executor's own (30s) without it."""
    timeout: Duration | None = None
    """How long one run may take; the executor's own (30s) without it."""
    retries: Count | None = None
    """Failures in a row that count; the executor's own (3) without it."""
    start: Duration | None = None
    """Time after the start in which failures do not count."""


class DirectorySpec(Model):
    """A directory that no package and no synced file brings."""

    path: ImagePath
    """Where it is; directories above it that are missing are made with 0755 and 0:0."""
    owner: Line = "0:0"
    """`uid:gid`, numeric, or names that packages or `users` declare."""
    mode: Mode = 0o755
    """Its mode, octal with a leading zero: 01777 for one that all may write to."""


class ImageSpec(Model):
    """An image to emit."""

    type: Literal["aci", "oci"]
    """Its format."""
    content: Text | None = None
    """The raw manifest of the format, a template over `vars`, instead of what `app` gives."""
    compress: Literal["none", "gzip", "zstd"] | None = None
    """How layers (oci) or the archive (aci) are compressed."""


class UseSpec(Model):
    """Flags for the packages of this container."""

    flags: tuple[Line, ...] = ()
    """For every package that declares them: `ipv6`, `-selinux`, `tls=openssl`."""
    packages: dict[Line, tuple[Line, ...]] = Field(default_factory=dict)
    """For one package: category/name -> flags."""


class StepSpec(Model):
    """One step: exactly one of these keys."""

    vars: dict[Identifier, MaybeEmpty] | None = None
    """Names for templates; `name`, `version`, `os`, `arch` and `author` name the container."""
    package: PackageStepSpec | None = None
    """A package whose runtime closure enters the image."""
    sync: SyncSpec | None = None
    """Files of the project."""
    use: (
        Annotated[
            Annotated[tuple[Line, ...], Tag(SEQUENCE)] | Annotated[UseSpec, Tag(MAPPING)], BY_KIND
        ]
        | None
    ) = None
    """Flags for the packages of this container."""
    env: dict[VariableName, MaybeEmpty] | None = None
    """Environment of the app."""
    user: Annotated[Annotated[Line, Tag(SCALAR)], BY_KIND] | None = None
    """User of the app."""
    users: dict[Account, UserSpec] | None = None
    """Users of the image."""
    groups: dict[Account, GroupSpec] | None = None
    """Groups of the image."""
    app: AppSpec | None = None
    """What runs."""
    labels: dict[LabelName, MaybeEmpty] | None = None
    """Labels of the image's config. Those for version, title, authors, and for a container of one
    package its description, url and licenses, are there by themselves."""
    annotations: dict[LabelName, MaybeEmpty] | None = None
    """Annotations of the image's manifest; the same are there by themselves."""
    healthcheck: HealthSpec | None = None
    """How to find out whether the app works."""
    directories: tuple[DirectorySpec, ...] | None = None
    """Directories that no package brings."""
    image: ImageSpec | None = None
    """An image to emit."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.model_fields_set) != 1:
            written = ", ".join(sorted(self.model_fields_set)) or "none"
            raise LeafError(
                f"expected exactly one key in a step, found {written}",
                "write each step as its own list item: `- sync: {...}`",
            )
        return self
