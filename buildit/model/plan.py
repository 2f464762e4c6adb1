"""The plan: every fact that the back half needs, as plain frozen data that JSON can carry.

The front half (files, YAML, templates, resolving) makes it; the back half (store, sandbox, images)
realises it and never looks at a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from buildit.digest import BuildKey, Digest
from buildit.model.image import App
from buildit.model.task import (
    About,
    DebRef,
    Dependency,
    Group,
    Inputs,
    PatchAbout,
    PatchRef,
    RunNeed,
    RunTime,
    Signature,
    SourceRef,
    Task,
    User,
    Waiver,
)

FORMAT = "3"


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
class PackageStep:
    """The runtime closure of a package enters the image here. `origin` as the user wrote it."""

    key: BuildKey
    origin: str


@dataclass(frozen=True, slots=True)
class SyncStep:
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


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory of a container: `path` without a leading slash, mode bits, numeric owner."""

    path: str
    mode: int
    uid: int
    gid: int
    place: str


@dataclass(frozen=True, slots=True)
class DirectoriesStep:
    """Directories that no package brings enter the image here."""

    directories: tuple[Directory, ...]
    place: str


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

    def task(self, key: BuildKey) -> Task:
        return next(task for task in self.tasks if task.key == key)


_KINDS = {PackageStep: "package", SyncStep: "sync", DirectoriesStep: "directories"}


def to_json(plan: ContainerPlan) -> str:
    """The plan as JSON text; `from_json` gives an equal plan back."""
    data = asdict(plan)
    data["format"] = FORMAT
    for step, written in zip(plan.steps, data["steps"], strict=True):
        written["step"] = _KINDS[type(step)]
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def from_json(text: str) -> ContainerPlan:
    """Read what `to_json` wrote.

    Raises:
        ValueError, KeyError, TypeError: the text is not such a plan, or of another format.
    """
    try:
        return _plan(json.loads(text))
    except (AttributeError, RecursionError) as error:
        raise ValueError(f"not a plan: {error}") from error


def _plan(data: dict[str, Any]) -> ContainerPlan:
    if data.pop("format") != FORMAT:
        raise ValueError("another plan format")
    data["toolchain"] = _toolchain(data["toolchain"])
    data["tasks"] = tuple(_task(task) for task in data["tasks"])
    data["steps"] = tuple(_step(step) for step in data["steps"])
    data["images"] = tuple(ImageStep(**image) for image in data["images"])
    data["app"] = App.from_plain(data["app"]) if data["app"] is not None else None
    data["users"], data["groups"] = _accounts(data)
    for name in ("about", "labels", "annotations"):
        data[name] = tuple((key, value) for key, value in data[name])
    data["remarks"] = tuple(data["remarks"])
    return ContainerPlan(**data)


def _toolchain(data: dict[str, Any]) -> Toolchain:
    data["debs"] = tuple(DebRef(**deb) for deb in data["debs"])
    data["run"] = {name: tuple(names) for name, names in data["run"].items()}
    return Toolchain(**data)


def _task(data: dict[str, Any]) -> Task:
    data["inputs"] = _inputs(data["inputs"])
    data["outputs"] = {name: _run_time(one) for name, one in data["outputs"].items()}
    about = data["about"]
    about["patches"] = tuple(
        PatchAbout(**{**patch, "fixes": tuple(patch["fixes"])}) for patch in about["patches"]
    )
    data["about"] = About(**about)
    return Task(**data)


def _inputs(data: dict[str, Any]) -> Inputs:
    return Inputs(
        tuple(Dependency(one["key"], tuple(one["outputs"])) for one in data["dependencies"]),
        tuple(_source(source) for source in data["sources"]),
        tuple(PatchRef(**patch) for patch in data["patches"]),
        tuple(DebRef(**deb) for deb in data["debs"]),
        tuple(data["blobs"]),
        tuple(Waiver(**waiver) for waiver in data["waivers"]),
    )


def _run_time(data: dict[str, Any]) -> RunTime:
    return RunTime(tuple(RunNeed(**need) for need in data["needs"]), *_accounts(data))


def _accounts(data: dict[str, Any]) -> tuple[tuple[User, ...], tuple[Group, ...]]:
    users = tuple(User(**user) for user in data["users"])
    groups = tuple(
        Group(group["name"], group["gid"], tuple(group["members"])) for group in data["groups"]
    )
    return users, groups


def _source(data: dict[str, Any]) -> SourceRef:
    signature = data["signature"]
    return SourceRef(
        data["name"],
        data["digest"],
        tuple(data["urls"]),
        Signature(tuple(signature["urls"]), tuple(signature["keys"])) if signature else None,
    )


def _step(data: dict[str, Any]) -> PackageStep | SyncStep | DirectoriesStep:
    kind = data.pop("step")
    if kind == "directories":
        made = tuple(Directory(**one) for one in data["directories"])
        return DirectoriesStep(made, data["place"])
    if kind == "package":
        return PackageStep(**data)
    return SyncStep(**{**data, "exclude": tuple(data["exclude"])})
