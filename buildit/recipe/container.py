"""`container.yaml`: an ordered list of steps, each a map with one key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from collections.abc import Mapping as Map
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, Tag, model_validator

from buildit.errors import RecipeError, UsageError
from buildit.model.platform import Platform, named_platform
from buildit.recipe import schema
from buildit.recipe.leaf import LeafError
from buildit.recipe.package import GroupSpec, UserSpec
from buildit.recipe.schema import Model, parse
from buildit.recipe.template.render import Variables, render_json, render_tree
from buildit.recipe.yaml.node import Mapping, Node, Scalar, Sequence, shown_place
from buildit.recipe.yaml.read import load_yaml


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


class SyncSpec(Model):
    """Files of the project that enter the image."""

    src: schema.Line
    """A file or directory beneath the container's directory."""
    dest: schema.ImagePath
    """Where it goes; with a trailing slash, into that directory."""
    recursive: schema.OnOff = False
    """Needed where `src` is a directory: its content goes to `dest`."""
    chmod: schema.Mode | None = None
    """Mode of files; without it 0755 for those with an x bit, else 0644."""
    dirmode: schema.Mode | None = None
    """Mode of the directories that are synced or made on the way, such as 1777, else 0755."""
    owner: schema.Line = "0:0"
    """`uid:gid` of files and new directories: numbers, or names of packages or `users`."""
    exclude: tuple[schema.Line, ...] = ()
    """Globs over paths beneath `src` that stay out: `tmp`, `cache/**`, `*.bak`, `**/*.bak`."""


Command = Annotated[tuple[schema.MaybeEmpty, ...], Field(min_length=1)]


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
    """How an executor finds out whether the app works. App Container cannot say it."""

    exec: Command
    """The program, absolute, and its arguments; 0 says that all is well."""
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
    """One step: exactly one of these keys."""

    vars: dict[schema.Identifier, schema.MaybeEmpty] | None = None
    """Names for templates; `name`, `version`, `os`, `arch` and `author` name the container."""
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
    healthcheck: HealthSpec | None = None
    """How to find out whether the app works."""
    directories: tuple[DirectorySpec, ...] | None = None
    """Directories that no package brings."""
    platforms: Annotated[tuple[schema.Line, ...], Field(min_length=1)] | None = None
    """All that it is built for, such as [linux/amd64, linux/arm64]: `os` and `arch` are then what
    is built for just now. An OCI image holds all of them; of other formats there is one for each.
    Without it: what `vars` say, else this machine's."""
    image: ImageSpec | None = None
    """An image to emit."""

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if len(self.model_fields_set) != 1:
            written = ", ".join(sorted(self.model_fields_set)) or "none"
            hint = "write each step as its own list item: `- sync: {...}`"
            raise LeafError(f"expected exactly one key in a step, found {written}", hint)
        return self


CONTAINER_FILE = "container.yaml"
NAMES = ("name", "version", "os", "arch")
"""The variables that become parts of file names."""

LONGEST_NAME = 60
"""Bytes of each: NAME-VERSION-OS-ARCH.aci fits into the 255 of a file name."""


@dataclass(frozen=True, slots=True)
class LoadedStep:
    """One step and where it was written. `content` is a raw manifest, rendered."""

    spec: StepSpec
    node: Mapping
    content: str = ""

    @property
    def place(self) -> str:
        return str(self.node.place)

    def variable(self, name: str) -> Node | None:
        """What it sets a variable to."""
        values = self.node.get("vars")
        return values.get(name) if isinstance(values, Mapping) else None


@dataclass(frozen=True, slots=True)
class Container:
    """`variables` are those of all `vars` steps; `NAMES` and `author` say what it is called.

    `pending`: some template asks for `packages`, which were not known when it was read.
    `platforms` are those of its `platforms` step, else none.
    """

    directory: Path
    file: str
    variables: Map[str, str]
    steps: tuple[LoadedStep, ...]
    pending: bool = False
    platforms: tuple[Platform, ...] = ()


_PACKAGES = "packages"
"""The variable that says what was chosen: `{{ packages['www-servers/nginx'].version }}`."""

SAID = ("version", "license", "homepage", "description")
"""What templates may ask of a package."""


class _Unknown(Map[str, Map[str, str]]):
    """`packages` before any was chosen: each there is, of version 0."""

    def __init__(self) -> None:
        self.asked = False

    def __getitem__(self, name: str) -> Map[str, str]:
        self.asked = True
        return dict.fromkeys(SAID, "0")

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        self.asked = True
        return iter(())

    def __len__(self) -> int:
        self.asked = True
        return 0


def load_container(
    directory: Path, packages: Map[str, Map[str, str]] | None = None, platform: str = ""
) -> Container:
    """Read the container of a directory for a platform: its first without one. `packages` are what
    was chosen, by category/name.

    Without them, templates that ask for a package get the version 0, and the container says so in
    `pending`: read it again when they are known, and see `check_settled`.

    Raises:
        UsageError: there is no container.yaml, or it is not for this platform.
        RecipeError: it is wrong; the place names the line.
    """
    path = directory / CONTAINER_FILE
    file = shown_place(path)
    if not path.exists():
        message = f"there is no {CONTAINER_FILE} in {shown_place(directory)}"
        hint = "name the directory of a container: buildit containers/nginx-prod/"
        raise UsageError(message, place=file, hint=hint)
    node = load_yaml(path)
    if not isinstance(node, Sequence):
        hint = "begin each step with a dash: `- vars: {name: web, version: 1.0}`"
        raise node.error("expected a list of steps", hint)
    unknown = _Unknown()
    names: Variables = {_PACKAGES: unknown if packages is None else packages}
    platforms = _platforms(node)
    variables = _platform_variables(platforms, platform, file)
    steps = []
    for item in node.items:
        step = _step(item, {**names, **variables})
        if (taken := step.variable(_PACKAGES)) is not None:
            message = f"{_PACKAGES!r} is what templates call the packages of the container"
            raise taken.error(message, "give the variable another name")
        _check_variables(step, platforms, variables)
        variables.update(step.spec.vars or {})
        steps.append(step)
    container = Container(directory, file, variables, tuple(steps), unknown.asked, platforms)
    _check_names(container, node)
    return container


def _platforms(node: Sequence) -> tuple[Platform, ...]:
    """What the `platforms` step names, each once; none where there is no such step.

    Raises:
        RecipeError: there are two such steps.
        UsageError: one cannot be built for, or is there twice.
    """
    steps = [one for one in node.items if isinstance(one, Mapping) and one.get("platforms")]
    if not steps:
        return ()
    if len(steps) > 1:
        message = "a second `platforms` step"
        raise steps[1].error(message, f"name all of them in the first, at {steps[0].place}")
    found: dict[Platform, str] = {}
    listed = steps[0].get("platforms")
    places = [str(one.place) for one in listed.items] if isinstance(listed, Sequence) else []
    for name, place in zip(parse(steps[0], StepSpec).platforms or (), places, strict=True):
        one = named_platform(name, place=place)
        if one in found:
            message = f"the platform {one} is there twice"
            raise RecipeError(message, place=place, hint=f"leave out one; first {found[one]!r}")
        found[one] = name
    return tuple(found)


def _platform_variables(platforms: tuple[Platform, ...], wanted: str, file: str) -> dict[str, str]:
    """`os` and `arch`, where the steps or the caller say what is built for.

    Raises:
        UsageError: the caller wants a platform that the container is not for.
    """
    one = named_platform(wanted, place="--platform") if wanted else next(iter(platforms), None)
    if platforms and one not in platforms:
        hint = f"its platforms: {', '.join(map(str, platforms))}"
        raise UsageError(f"the container is not for {one}", place=file, hint=hint)
    return {} if one is None else {"os": one.os, "arch": one.arch}


def _check_variables(
    step: LoadedStep, platforms: tuple[Platform, ...], variables: Map[str, str]
) -> None:
    """Raises RecipeError where `vars` contradict the platform that is built for."""
    for name in ("os", "arch"):
        value, said = (step.spec.vars or {}).get(name), variables.get(name)
        node = step.variable(name)
        if node is None or said is None or (value == said and not platforms):
            continue
        if platforms:
            message = f"`platforms` says the {name}"
            raise node.error(message, f"leave `{name}` out; templates may use it all the same")
        raise node.error(f"the container is for {value}, --platform for {said}", "leave out one")


def check_settled(first: Container, second: Container) -> None:
    """Refuse a container whose choice of packages depends on the packages that were chosen.

    Raises:
        RecipeError: a `package`, `use` or `toolchain` step, or the platform, is another one now.
    """
    message = f"{_PACKAGES!r} is not known before the packages are chosen"
    for before, after in zip(first.steps, second.steps, strict=True):
        was, now = before.spec, after.spec
        if (was.package, was.use, was.toolchain) != (now.package, now.use, now.toolchain):
            hint = "`package`, `use` and `toolchain` steps cannot ask for it; write the value out"
            raise after.node.error(message, hint)
    for name in ("os", "arch"):
        if first.variables.get(name) != second.variables.get(name):
            raise _where_set(name, second.steps).error(message, f"write the {name} out")


def _step(item: Node, variables: Variables) -> LoadedStep:
    if not isinstance(item, Mapping):
        raise item.error("expected a step with one key", "such as `- vars: {...}`")
    image, content = item.get("image"), ""
    raw = image.get("content") if isinstance(image, Mapping) else None
    if isinstance(image, Mapping) and isinstance(raw, Scalar):
        item = item.having("image", image.without("content"))
        content = json.dumps(render_json(raw, variables), ensure_ascii=False)
    rendered = _render_vars(item, variables)
    return LoadedStep(parse(rendered, StepSpec), rendered, content)


def _render_vars(item: Mapping, variables: Variables) -> Mapping:
    """The step with its templates filled in; each variable may use those before it."""
    values = item.get("vars")
    if not isinstance(values, Mapping):
        rendered = render_tree(item, variables)
        return rendered if isinstance(rendered, Mapping) else item
    known = dict(variables)
    for key, value in values.items:
        done = render_tree(value, known)
        values = values.having(key.text, done)
        if isinstance(done, Scalar):
            known[key.text] = done.text
    return item.having("vars", values)


def _check_names(container: Container, node: Sequence) -> None:
    for name in ("name", "version"):
        if not container.variables.get(name, "").strip():
            hint = "begin with: `- vars: {author: me, name: web, version: 1.0}`"
            raise node.error(f"the container has no {name}", hint)
    for name in NAMES:
        value = container.variables.get(name, "")
        # A name may be a path, as App Container discovery has it: example.com/httpd.
        parts = value.split("/") if name == "name" else [value]
        if (len(parts) > 1 and not all(parts)) or any(map(_unfit_for_a_file, parts)):
            raise _where_set(name, container.steps).error(
                f"{name} {value!r} cannot be part of a file name",
                f"leave out blanks, {'empty parts' if name == 'name' else 'slashes'} and a "
                f"leading dot or dash; take at most {LONGEST_NAME} bytes",
            )
    author = container.variables.get("author", "")
    if "/" in author or not author.isprintable():
        where = _where_set("author", container.steps)
        raise where.error(f"author {author!r} cannot be shown", "write one line without slashes")


def _unfit_for_a_file(value: str) -> bool:
    is_shown = value.isprintable() and not any(map(str.isspace, value))
    is_hidden, is_long = value.startswith((".", "-")), len(value.encode()) > LONGEST_NAME
    return "/" in value or is_hidden or is_long or not is_shown


def _where_set(name: str, steps: tuple[LoadedStep, ...]) -> Node:
    """Where a variable, which is set, got the value that it has."""
    found = (step.variable(name) for step in reversed(steps))
    return next(node for node in found if node is not None)
