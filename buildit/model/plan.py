"""The plan: every fact that the back half needs, as plain frozen data that JSON can carry.

The front half (files, YAML, templates, resolving) makes it; the back half (store, sandbox, images)
realises it and never looks at a recipe. It is made of tasks: a task is one kind of work, which a
build farm runs, the store caches and `plan` prints. Its key is the SHA-256 of its record, and its
maker (`make.makers`, by `kind`) reads nothing else of what can change the outputs. What is beside
the record is where the inputs are, what the outputs need at run time, and what people are told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from buildit.digest import BuildKey, Digest
from buildit.model.accounts import Group, User
from buildit.model.artifact import RUNTIME
from buildit.model.copying import CopyOrigin, FetchedFile, StepMount
from buildit.model.database import Database
from buildit.model.image import App
from buildit.model.image_test import ImageTest
from buildit.model.listed import ListedStep, PackageFacts, Saying
from buildit.model.services import Init
from buildit.model.sources import PatchRef, SourceRef

OutputRef = tuple[BuildKey, str]
"""An output of a task: the task's key and the output's name."""


@dataclass(frozen=True, slots=True)
class DebRef:
    """One exact .deb: `path` is below the archive's root (`pool/…`), `size` in bytes."""

    name: str
    version: str
    arch: str
    suite: str
    path: str
    size: int
    digest: Digest


@dataclass(frozen=True, slots=True)
class DebView:
    """What a task takes of a .deb: all of its files but those that globs of `without` match, each
    of which matches something, and of `sliced`, which may match nothing and where `!glob` says what
    stays; set-id bits where they are kept."""

    without: tuple[str, ...] = ()
    sliced: tuple[str, ...] = ()
    keep_set_id: bool = False


WHOLE = DebView()


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image that a container begins with.

    `reference` is as it is written; `kind` is `oci`, `docker-archive`, `aci`, `container`, `stage`
    or `suite`. `digest` pins it: that of the manifest, of a docker archive its config's, of an ACI
    the file's, of a container or stage one over its config and layers, of a suite one over its
    .debs. `path`
    is an absolute one of this machine, empty where the image is in a registry, or a suite's.
    `place` is where the step was written, for messages only.
    """

    reference: str
    kind: str
    digest: Digest
    path: str = ""
    platform: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Dependency:
    """A dependency as a task sees it: the outputs of another task that lie in its sysroot."""

    key: BuildKey
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings of a check that a package accepts on the paths of a glob, and why."""

    check: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class LayerFile:
    """The bytes of a file for `path`: those of a layer, whose tar has `layer_size` bytes, that
    begin at `start`."""

    path: str
    layer: Digest
    layer_size: int
    start: int


@dataclass(frozen=True, slots=True)
class LayerRef:
    """A layer of the store: the digest of its tar, and that of the blob which lists its entries."""

    diff_id: Digest
    contents: Digest


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a task is made from, all of it named by its record, but for the waivers.

    `dependencies` are nearest first. `debs` has the .deb that is unpacked first, and then those
    that were chosen with it. `blobs` are small inputs (patches, files, keys) that planning left in
    the store. `files` are of the project: the path in the layer, and the one in the project.
    `chroot` has the .debs of a root of its own, tree by tree, the lowest first; the needs of what
    is built there are looked for in `beside`, and then in the toolchain. `emulator` has the .deb
    with what runs its programs, where the machine that builds it cannot. `image` is what a base is.
    `below` are the layers that it runs over, the lowest first, or those of another container.
    """

    dependencies: tuple[Dependency, ...] = ()
    sources: tuple[SourceRef, ...] = ()
    patches: tuple[PatchRef, ...] = ()
    debs: tuple[DebRef, ...] = ()
    blobs: tuple[Digest, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    waivers: tuple[Waiver, ...] = ()
    chroot: tuple[tuple[DebRef, ...], ...] = ()
    beside: tuple[DebRef, ...] = ()
    emulator: tuple[DebRef, ...] = ()
    root: str = ""
    copies: tuple[LayerFile, ...] = ()
    image: ImageRef | None = None
    below: tuple[LayerRef, ...] = ()

    def every_deb(self) -> tuple[DebRef, ...]:
        """All .debs that it is made from, or that its needs are looked for in."""
        rooted = (deb for tree in self.chroot for deb in tree)
        return tuple(dict.fromkeys((*self.debs, *rooted, *self.beside, *self.emulator)))


@dataclass(frozen=True, slots=True)
class RunNeed:
    """An output that another one needs at run time although no file of it says so, and by what
    words people know it (`Depends`)."""

    key: BuildKey
    output: str
    why: str


@dataclass(frozen=True, slots=True)
class RunTime:
    """What an image that takes an output needs besides: further outputs, and accounts."""

    needs: tuple[RunNeed, ...] = ()
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True, slots=True)
class PatchAbout:
    """A patch as its recipe names it; `fixes` are names such as CVE-2023-44487, `upstream` is where
    upstream has it: a URL, `no` or `pending`."""

    name: str
    description: str = ""
    fixes: tuple[str, ...] = ()
    upstream: str = ""


@dataclass(frozen=True, slots=True)
class About:
    """What today's recipe says to people: it is in no record, no key and no statement of a task."""

    origin: str = ""
    description: str = ""
    homepage: str = ""
    license: str = ""
    patches: tuple[PatchAbout, ...] = ()

    def patch_names(self) -> tuple[str, ...]:
        return tuple(patch.name for patch in self.patches)


@dataclass(frozen=True, slots=True)
class Task:
    """Something to make: `record` is the canonical JSON text whose SHA-256 is `key`.

    `outputs` are those known before it is made, with what they need; a task may leave others.
    `subject` is what it is of, where several tasks can be of the same thing (a .deb, by its
    digest); of these, an image takes the one that is `partial`, which leaves something out. What
    `stays` is neither published nor taken from others, whatever its kind.
    """

    key: BuildKey
    kind: str
    name: str
    version: str
    record: str
    platform: str = ""
    inputs: Inputs = Inputs()
    outputs: Mapping[str, RunTime] = field(default_factory=dict)
    about: About = About()
    subject: Digest | None = None
    partial: bool = False
    stays: bool = False

    @property
    def label(self) -> str:
        image = self.inputs.image
        if self.inputs.below and image is None:  # a step, as its list has it
            return f"{self.kind} {self.about.description}"
        return f"{self.name}-{self.version}" if image is None else f"from {image.reference}"

    @property
    def directories(self) -> tuple[str, ...]:
        """The directories of this machine that it is built from: for work, never for release."""
        return tuple(source.path for source in self.inputs.sources if source.path)

    def run_needs(self) -> tuple[RunNeed, ...]:
        """Those of all its outputs."""
        return tuple(need for output in self.outputs.values() for need in output.needs)

    def users(self) -> tuple[User, ...]:
        """The users that any of its outputs declares."""
        return tuple(user for output in self.outputs.values() for user in output.users)

    def groups(self) -> tuple[Group, ...]:
        """The groups that any of its outputs declares."""
        return tuple(group for output in self.outputs.values() for group in output.groups)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """The root of every build: exact .debs, and what their programs only load with dlopen.

    `run` maps a .deb's name to the .debs that an image with it needs besides.
    """

    name: str
    platform: str
    identity: Digest
    debs: tuple[DebRef, ...]
    run: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunStep:
    """A command that runs over what is there; its difference enters the image here. `said` is how
    people know it. `environment` is what the step itself says, `ids` is `range` or `one`,
    `secrets` are ids. `debs` are what apt finds. `network` is whether it has a way out. `as_app`:
    it runs as `user` and `group`, names or numbers, in `directory`, and sees no other variables.
    `sources` are the files of its `mounts`, each laid by itself."""

    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]
    ids: str
    said: str
    place: str
    secrets: tuple[str, ...] = ()
    debs: tuple[DebRef, ...] = ()
    network: bool = False
    as_app: bool = False
    user: str = "0"
    group: str | None = None
    directory: str = "/"
    mounts: tuple[StepMount, ...] = ()
    sources: tuple[SyncStep, ...] = ()
    step: Literal["run"] = "run"


@dataclass(frozen=True, slots=True)
class FromStep:
    """The layers of another image lie below all others: `outputs`, bottom first, of its task. Over
    them runs what is to `configure` them, if anything."""

    key: BuildKey
    origin: str
    outputs: tuple[str, ...]
    place: str
    configure: RunStep | None = None
    step: Literal["from"] = "from"

    @property
    def roots(self) -> tuple[OutputRef, ...]:
        return tuple((self.key, output) for output in self.outputs)


@dataclass(frozen=True, slots=True)
class PackageStep:
    """Outputs of a task and all that they need at run time enter the image here. `origin` as the
    user wrote it."""

    key: BuildKey
    origin: str
    outputs: tuple[str, ...] = (RUNTIME,)
    step: Literal["package"] = "package"

    @property
    def roots(self) -> tuple[OutputRef, ...]:
        return tuple((self.key, output) for output in self.outputs)


@dataclass(frozen=True, slots=True)
class SyncStep:
    """Files of the project enter the image.

    `mode` and `dir_mode` (octal text, or empty) are for files and for directories; `exclude` are
    globs over what lies beneath `src`. With `names` files are templates over them, and over the
    plan's `packages`. `root` is the directory that `src` is beneath where that is not the
    container's. `owner`, where it is not empty, is `user:group` as the image at this step names
    them, and the numbers say nothing.

    `sources` are several, with globs, which lie as a Dockerfile's COPY lays them; `src` is then all
    of them for people. `ignore` are patterns of a .dockerignore. They are of an `origin`, or of a
    URL (`fetched`), where there is one; `keeps` is whether owners are as there.
    """

    src: str
    dest: str
    recursive: bool
    mode: str
    uid: int
    gid: int
    place: str
    dir_mode: str = ""
    exclude: tuple[str, ...] = ()
    names: Mapping[str, str] | None = None
    root: str = ""
    owner: str = ""
    sources: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    extract: bool = False
    parents: bool = False
    keeps: bool = False
    origin: CopyOrigin | None = None
    fetched: FetchedFile | None = None
    step: Literal["sync"] = "sync"

    @property
    def places(self) -> tuple[str, ...]:
        """What of the project is looked at: each source up to its first glob."""
        if self.fetched is not None or self.origin is not None:
            return ()
        return tuple(map(_before_globs, self.sources)) or (self.src,)


def _before_globs(path: str) -> str:
    parts = path.split("/")
    plain = [number for number, part in enumerate(parts) if {*"*?["} & {*part}]
    return "/".join(parts[: plain[0]] if plain else parts) or "."


@dataclass(frozen=True, slots=True)
class DirectoryToMake:
    """A directory of a container: `path` without a leading slash, mode bits, numeric owner;
    `owner` is as of `SyncStep`. `keeps`: one that the image has stays as it is."""

    path: str
    mode: int
    uid: int
    gid: int
    place: str
    owner: str = ""
    keeps: bool = False


@dataclass(frozen=True, slots=True)
class DirectoriesStep:
    """Directories that no package brings enter the image here."""

    directories: tuple[DirectoryToMake, ...]
    place: str
    step: Literal["directories"] = "directories"


@dataclass(frozen=True, slots=True)
class LinkToMake:
    """A symbolic link of a container: `path` without a leading slash."""

    path: str
    target: str
    place: str


@dataclass(frozen=True, slots=True)
class SymlinksStep:
    """Symbolic links enter the image here."""

    links: tuple[LinkToMake, ...]
    place: str
    step: Literal["symlinks"] = "symlinks"


@dataclass(frozen=True, slots=True)
class TextToWrite:
    """A file of a container whose text is in the recipe: `path` without a leading slash, mode bits,
    numeric owner; `owner` is as of `SyncStep`."""

    path: str
    content: str
    mode: int
    uid: int
    gid: int
    place: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class TextsStep:
    """Files with a text of the recipe enter the image here."""

    texts: tuple[TextToWrite, ...]
    place: str
    step: Literal["texts"] = "texts"


@dataclass(frozen=True, slots=True)
class ModeToSet:
    """What becomes of a path that the image has, without a leading slash: its mode bits and its
    owner, each None where it is kept; `owner` is as of `SyncStep`."""

    path: str
    mode: int | None
    uid: int | None
    gid: int | None
    place: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class ModesStep:
    """Modes and owners change here."""

    modes: tuple[ModeToSet, ...]
    place: str
    step: Literal["modes"] = "modes"


LayerStep = (
    FromStep
    | PackageStep
    | SyncStep
    | DirectoriesStep
    | SymlinksStep
    | TextsStep
    | ModesStep
    | RunStep
)
"""A step that gives layers."""


@dataclass(frozen=True, slots=True)
class ImageStep:
    """One image to emit; `content` is the rendered manifest of the user, else empty; `split` makes
    an image of each package."""

    format: str
    content: str
    compress: str
    place: str
    split: bool = False


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container, ready to realise. `tasks` are in topological order, dependencies first.

    `about` is what the container and its packages say of its images, by OCI's names; `labels` and
    `annotations` are the user's. `remarks` are for the user to see. `borrowed` are (user or group,
    name) that the container names and only Debian's packages can declare. `views` stand for .debs
    that the image does not take as a whole, if it reaches them. `app` runs `init` where there
    is one. `platforms` are all that the container names; this plan is for one of them. `packages`
    are the facts for templates of synced files, where there are some. `listed` are all steps, flat,
    and `said` all that they say of the images; `lists` are the files of included lists, `pinned`
    the digests of those of URLs. `tests` are of its finished images. `database` is the one that
    starts in it.
    """

    directory: str
    author: str
    name: str
    version: str
    os: str
    arch: str
    toolchain: Toolchain
    tasks: tuple[Task, ...]
    steps: tuple[LayerStep, ...]
    images: tuple[ImageStep, ...]
    app: App | None
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    about: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()
    borrowed: tuple[tuple[str, str], ...] = ()
    views: tuple[Task, ...] = ()
    init: Init | None = None
    platforms: tuple[str, ...] = ()
    packages: Mapping[str, PackageFacts] = field(default_factory=dict)
    listed: tuple[ListedStep, ...] = ()
    said: tuple[Saying, ...] = ()
    lists: tuple[str, ...] = ()
    pinned: tuple[Digest, ...] = ()
    tests: tuple[ImageTest, ...] = ()
    database: Database | None = None

    @property
    def platform(self) -> str:
        return f"{self.os}/{self.arch}"

    @property
    def label(self) -> str:
        title = f"{self.name}-{self.version}"
        return f"{self.author}/{title}" if self.author else title

    def _packages(self) -> Iterator[PackageStep]:
        return (step for step in self.steps if isinstance(step, PackageStep))

    @property
    def roots(self) -> tuple[OutputRef, ...]:
        """The outputs that the steps name, in their order."""
        return tuple(root for step in self._packages() for root in step.roots)

    @property
    def begins_with(self) -> FromStep | None:
        """The step whose layers lie below all others."""
        return next((step for step in self.steps if isinstance(step, FromStep)), None)

    @property
    def is_late(self) -> bool:
        """Whether only the layers say which programs and accounts the image has: a base or a
        command makes some of them, or they are copied."""
        copies = any(isinstance(step, SyncStep) and step.sources for step in self.steps)
        return copies or any(isinstance(step, FromStep | RunStep) for step in self.steps)

    def place_of(self, key: str) -> str | None:
        """Where what counts of a key, such as `user`, was written; None where it is nowhere."""
        return next((one.place for one in self.said if one.key == key and not one.later), None)

    @property
    def wanted(self) -> tuple[OutputRef, ...]:
        """The outputs that its images are made of: those of a base, of what files are copied of,
        and `roots`."""
        first = self.begins_with
        origins = (step.origin for step in self._synced())
        copied = {(one.key, name): None for one in origins if one for name in one.outputs}
        return (*(() if first is None else first.roots), *copied, *self.roots)

    @property
    def names(self) -> tuple[tuple[str, BuildKey], ...]:
        """The packages that the steps name, each with the words of the user, in their order."""
        return tuple((step.origin, step.key) for step in self._packages())

    @property
    def takes(self) -> tuple[SyncStep, ...]:
        """What the steps take that has its time from the lock, in their order."""
        return tuple(step for step in self._synced() if step.origin is None)

    def _synced(self) -> Iterator[SyncStep]:
        for step in self.steps:
            if isinstance(step, SyncStep):
                yield step
            elif isinstance(step, RunStep):
                yield from step.sources

    @property
    def commands(self) -> tuple[RunStep, ...]:
        """The steps that run commands, in their order."""
        return tuple(step for step in self.steps if isinstance(step, RunStep))

    def unreleased(self) -> tuple[str, ...]:
        """The tasks that are built from directories of this machine, and those that depend on them,
        in words."""
        found: dict[BuildKey, str] = {}
        for task in self.tasks:
            needs = (*(d.key for d in task.inputs.dependencies), *(n.key for n in task.run_needs()))
            through = next((key for key in needs if key in found), None)
            if task.directories:
                found[task.key] = f"{task.label} is built from {', '.join(task.directories)}"
            elif through is not None:
                found[task.key] = f"{task.label} depends on {self.task(through).label}"
        kept = [step.said for step in self.commands if any(one.kept for one in step.mounts)]
        return (*found.values(), *(f"run {said} had a cache of earlier runs" for said in kept))

    def task(self, key: BuildKey) -> Task:
        return next(task for task in self.tasks if task.key == key)
