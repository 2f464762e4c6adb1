"""The plan: every fact that the back half needs, as plain frozen data that JSON can carry.

The front half (files, YAML, templates, resolving) makes it; the back half (store, sandbox, images)
realises it and never looks at a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from buildit.digest import BuildKey, Digest
from buildit.model.artifact import RUNTIME
from buildit.model.image import App
from buildit.model.task import DebRef, Group, OutputRef, Task, User


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


class _Step:
    """What the steps of a container have in common: each gives some of these, and no code asks
    which step it is."""

    __slots__ = ()

    @property
    def names(self) -> tuple[tuple[str, BuildKey], ...]:
        """The task that it names, with the words of the user."""
        return ()

    @property
    def roots(self) -> tuple[OutputRef, ...]:
        """The outputs that enter the image, with all that they need at run time."""
        return ()

    @property
    def takes(self) -> tuple[SyncStep, ...]:
        """What it takes of the project."""
        return ()

    @property
    def makes(self) -> tuple[DirectoriesStep, ...]:
        """The directories that it makes in the image."""
        return ()


@dataclass(frozen=True, slots=True)
class PackageStep(_Step):
    """Outputs of a task and all that they need at run time enter the image here. `origin` as the
    user wrote it."""

    key: BuildKey
    origin: str
    outputs: tuple[str, ...] = (RUNTIME,)
    step: Literal["package"] = "package"

    @property
    def names(self) -> tuple[tuple[str, BuildKey], ...]:
        return ((self.origin, self.key),)

    @property
    def roots(self) -> tuple[OutputRef, ...]:
        return tuple((self.key, output) for output in self.outputs)


@dataclass(frozen=True, slots=True)
class SyncStep(_Step):
    """Files of the project enter the image.

    `mode` and `dir_mode` (octal text, or empty) are for files and for directories; `exclude` are
    globs over what lies beneath `src`.
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
    step: Literal["sync"] = "sync"

    @property
    def takes(self) -> tuple[SyncStep, ...]:
        return (self,)


@dataclass(frozen=True, slots=True)
class DirectoryToMake:
    """A directory of a container: `path` without a leading slash, mode bits, numeric owner."""

    path: str
    mode: int
    uid: int
    gid: int
    place: str


@dataclass(frozen=True, slots=True)
class DirectoriesStep(_Step):
    """Directories that no package brings enter the image here."""

    directories: tuple[DirectoryToMake, ...]
    place: str
    step: Literal["directories"] = "directories"

    @property
    def makes(self) -> tuple[DirectoriesStep, ...]:
        return (self,)


@dataclass(frozen=True, slots=True)
class ImageStep:
    """One image to emit; `content` is the rendered manifest of the user, else empty."""

    format: str
    content: str
    compress: str
    place: str


@dataclass(frozen=True, slots=True)
class ContainerPlan:
    """A container, ready to realise. `tasks` are in topological order, dependencies first.

    `about` is what the container and its packages say of its images, by OCI's names; `labels` and
    `annotations` are the user's. `remarks` are for the user to see.
    """

    directory: str
    author: str
    name: str
    version: str
    os: str
    arch: str
    toolchain: Toolchain
    tasks: tuple[Task, ...]
    steps: tuple[PackageStep | SyncStep | DirectoriesStep, ...]
    images: tuple[ImageStep, ...]
    app: App | None
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    about: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def platform(self) -> str:
        return f"{self.os}/{self.arch}"

    @property
    def label(self) -> str:
        title = f"{self.name}-{self.version}"
        return f"{self.author}/{title}" if self.author else title

    @property
    def roots(self) -> tuple[OutputRef, ...]:
        """The outputs that the steps name, in their order."""
        return tuple(root for step in self.steps for root in step.roots)

    @property
    def names(self) -> tuple[tuple[str, BuildKey], ...]:
        """The tasks that the steps name, each with the words of the user, in their order."""
        return tuple(named for step in self.steps for named in step.names)

    @property
    def takes(self) -> tuple[SyncStep, ...]:
        """What the steps take of the project, in their order."""
        return tuple(taken for step in self.steps for taken in step.takes)

    def task(self, key: BuildKey) -> Task:
        return next(task for task in self.tasks if task.key == key)
