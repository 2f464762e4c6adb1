"""The plan: every fact that the back half needs, as plain frozen data that JSON can carry.

The front half (files, YAML, templates, resolving) makes it; the back half (store, sandbox, images)
realises it and never looks at a recipe. One `Node` is one task of a build farm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from buildit.digest import BuildKey, Digest
from buildit.model.image import App

FORMAT = "2"


@dataclass(frozen=True, slots=True)
class Signature:
    """An upstream OpenPGP signature of a source: where it is, and blobs of the keys accepted."""

    urls: tuple[str, ...]
    keys: tuple[Digest, ...]


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A source archive: the name and places are for fetching, the digest is its identity."""

    name: str
    digest: Digest
    urls: tuple[str, ...]
    signature: Signature | None = None


@dataclass(frozen=True, slots=True)
class PatchRef:
    """A patch that lies at a URL: any bytes whose canonical form has `digest` will do."""

    url: str
    digest: Digest
    strip: int


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
class Dependency:
    """A dependency as the build sees it: the outputs that lie in its sysroot."""

    key: BuildKey
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class User:
    name: str
    uid: int
    gid: int
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    name: str
    gid: int
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Waiver:
    """Findings of a check that a package accepts on the paths of a glob, and why."""

    check: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Node:
    """One package of the plan.

    `record` is the canonical JSON text whose SHA-256 is `key`. `dependencies` are those whose
    outputs the build sees, nearest first; `run` those that an image needs although no file says so.
    `deb` is set where the package is a Debian binary package and is unpacked, not built; `beside`
    are the .debs chosen with it, `without` globs of what is left out of it. `patch_names` are the
    patches as the user wrote them, in order, and `patch_notes` their descriptions; those,
    `description`, `homepage` and `license` are for people alone.
    `blobs` are small inputs (patches, files) that the front half left in the store.
    """

    key: BuildKey
    name: str
    version: str
    record: str
    origin: str
    platform: str = ""
    sources: tuple[SourceRef, ...] = ()
    patch_names: tuple[str, ...] = ()
    remote_patches: tuple[PatchRef, ...] = ()
    dependencies: tuple[Dependency, ...] = ()
    run: tuple[BuildKey, ...] = ()
    deb: DebRef | None = None
    beside: tuple[DebRef, ...] = ()
    without: tuple[str, ...] = ()
    blobs: tuple[Digest, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    users: tuple[User, ...] = ()
    groups: tuple[Group, ...] = ()
    patch_notes: tuple[str, ...] = ()
    description: str = ""
    homepage: str = ""
    license: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}-{self.version}"


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
    """A container, ready to realise. `nodes` are in topological order, dependencies first.

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
    nodes: tuple[Node, ...]
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

    def node(self, key: BuildKey) -> Node:
        return next(node for node in self.nodes if node.key == key)


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
    data["nodes"] = tuple(_node(node) for node in data["nodes"])
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


def _node(data: dict[str, Any]) -> Node:
    data["sources"] = tuple(_source(source) for source in data["sources"])
    data["patch_names"] = tuple(data["patch_names"])
    data["patch_notes"] = tuple(data["patch_notes"])
    data["waivers"] = tuple(Waiver(**waiver) for waiver in data["waivers"])
    data["remote_patches"] = tuple(PatchRef(**patch) for patch in data["remote_patches"])
    data["dependencies"] = tuple(
        Dependency(dep["key"], tuple(dep["outputs"])) for dep in data["dependencies"]
    )
    data["run"] = tuple(data["run"])
    data["deb"] = DebRef(**data["deb"]) if data["deb"] is not None else None
    data["beside"] = tuple(DebRef(**deb) for deb in data["beside"])
    data["without"] = tuple(data["without"])
    data["blobs"] = tuple(data["blobs"])
    data["users"], data["groups"] = _accounts(data)
    return Node(**data)


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
