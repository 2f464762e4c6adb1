"""Dockerfiles with what lies beside them, built by buildit and by buildah over one base, and what
both images are: as Python's tarfile and json read them.

A file `dockerfiles/NAME.case` has a line `options: …` for both command lines, and files:

    === path/of/file mode=755           a file; its lines follow
    === path/of/link -> target          a link
    === name.tar.gz tar                 an archive: `path MODE [UID:GID] text`, `dir/ MODE`,
                                        `link -> target`, `name => the file that it is another of`
    === Dockerfile.buildah              what buildah gets in the place of the Dockerfile
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shlex
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CASES = Path(__file__).parent / "dockerfiles"
TIME = 1_600_000_000
_HEAD = re.compile(r"=== (\S(?:.*?\S)?)(?: (tar)| -> (\S+)| mode=([0-7]+))?")
_MEMBER = re.compile(r"(\S+) ([0-7]{3,4})(?: (\d+):(\d+))?(?: (.*))?")


@dataclass
class Part:
    """One file of a case, as it is written."""

    path: str
    kind: str = "file"
    mode: int = 0o644
    target: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(f"{line}\n" for line in self.lines)


@dataclass(frozen=True)
class Case:
    name: str
    options: tuple[str, ...]
    parts: tuple[Part, ...]

    def lay(self, directory: Path) -> Path:
        """Write its files."""
        for part in self.parts:
            path = directory / part.path
            path.parent.mkdir(parents=True, exist_ok=True)
            if part.kind == "link":
                path.symlink_to(part.target)
            elif part.kind == "tar":
                path.write_bytes(_archive(part))
            else:
                path.write_text(part.text)
                path.chmod(part.mode)
        return directory


def read_case(path: Path) -> Case:
    """A case by its file."""
    options: tuple[str, ...] = ()
    parts: list[Part] = []
    for line in path.read_text().splitlines():
        head = _HEAD.fullmatch(line)
        if head:
            name, is_tar, target, mode = head.groups()
            kind = "tar" if is_tar else "link" if target else "file"
            parts.append(Part(name, kind, int(mode or "644", 8), target or ""))
        elif parts:
            parts[-1].lines.append(line)
        else:
            options = tuple(shlex.split(line.removeprefix("options:")))
    return Case(path.stem, options, tuple(parts))


def all_cases() -> list[Case]:
    return [read_case(path) for path in sorted(CASES.glob("*.case"))]


def _archive(part: Part) -> bytes:
    """The tar that a part says, compressed as its name says."""
    out = io.BytesIO()
    packing = part.path.rpartition(".tar")[2].removeprefix(".")
    with tarfile.open(fileobj=out, mode=f"w:{packing}") as tar:  # type: ignore[call-overload]
        for line in part.lines:
            made, content = _member(line)
            made.mtime = TIME
            tar.addfile(made, io.BytesIO(content))
    return out.getvalue()


def _member(line: str) -> tuple[tarfile.TarInfo, bytes]:
    for sign, kind in (("->", tarfile.SYMTYPE), ("=>", tarfile.LNKTYPE)):
        name, is_link, target = line.partition(f" {sign} ")
        if is_link:
            made = tarfile.TarInfo(name)
            made.type, made.linkname = kind, target  # with 0644, as the file has in the cases
            return made, b""
    match = _MEMBER.fullmatch(line)
    assert match is not None, line
    name, mode, uid, gid, text = match.groups()
    made = tarfile.TarInfo(name.rstrip("/"))
    made.mode, made.uid, made.gid = int(mode, 8), int(uid or 0), int(gid or 0)
    content = (text or "").encode()
    if name.endswith("/"):
        made.type = tarfile.DIRTYPE
    else:
        made.size = len(content)
    return made, content


# -- images


@dataclass(frozen=True)
class Seen:
    """A path of an image: what it is, its mode (0 of a link), owner, and the digest of its content
    or the target of a link. `inode` is the first name of a file with several, `text` what
    is in a small one that says who is who."""

    kind: str
    mode: int
    owner: tuple[int, int]
    content: str = ""
    inode: str = ""
    text: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class ReadImage:
    """The merged tree of an image, its config, and the numbers of its users and groups by name."""

    tree: dict[str, Seen]
    config: dict[str, Any]

    @property
    def numbers(self) -> dict[str, dict[str, str]]:
        found = {}
        for name in ("passwd", "group"):
            seen = self.tree.get(f"etc/{name}")
            lines = seen.text.splitlines() if seen else ()
            found[name] = {row[0]: row[2] for row in (line.split(":") for line in lines)}
        return found


_KINDS = {tarfile.DIRTYPE: "directory", tarfile.SYMTYPE: "link", tarfile.FIFOTYPE: "fifo"}


def read_image(blobs: list[Path], config: Path) -> ReadImage:
    """An image of its layers, bottom first (plain or gzip), and its config."""
    tree: dict[str, Seen] = {}
    for blob in blobs:
        over(tree, layer_of(blob))
    return ReadImage(tree, json.loads(config.read_text()))


@dataclass(frozen=True)
class OneLayer:
    """What a layer brings, by path, what it takes away, and the directories that it makes anew."""

    brings: dict[str, Seen]
    removes: tuple[str, ...]
    opaque: tuple[str, ...]


def over(tree: dict[str, Seen], layer: OneLayer) -> None:
    """Lay a layer over a tree."""
    for path in layer.removes:
        _remove(tree, path)
    for path in layer.opaque:
        _remove(tree, path, inside=True)
    for path, seen in layer.brings.items():
        if seen.kind != "directory":
            _remove(tree, path)
        tree[path] = seen


def _remove(tree: dict[str, Seen], path: str, inside: bool = False) -> None:
    there = tree.get(path)
    if there is not None and not inside:
        del tree[path]
    if there is not None and there.kind == "directory":
        for one in [one for one in tree if one.startswith(f"{path}/")]:
            del tree[one]


_LAYERS: dict[str, OneLayer] = {}


def layer_of(blob: Path) -> OneLayer:
    """The layer that a tar is, whose name is its digest; each is read once."""
    if blob.name not in _LAYERS:
        _LAYERS[blob.name] = _read_layer(blob)
    return _LAYERS[blob.name]


def _read_layer(blob: Path) -> OneLayer:
    found: dict[str, Seen] = {}
    removes, opaque = [], []
    with tarfile.open(blob, mode="r:*") as tar:
        for one in tar:
            path = os.path.normpath(one.name).strip("/")
            parent, name = os.path.split(path)
            if name == ".wh..wh..opq":
                opaque.append(parent)
            elif name.startswith(".wh."):
                removes.append(os.path.join(parent, name[4:]))
            elif path != ".":
                found[path] = _seen(tar, one, path, found)
    return OneLayer(found, tuple(removes), tuple(opaque))


def _seen(tar: tarfile.TarFile, one: tarfile.TarInfo, path: str, found: dict[str, Seen]) -> Seen:
    owner = one.uid, one.gid
    if one.isreg():
        content = tar.extractfile(one)
        assert content is not None
        return _file(path, one.mode & 0o7777, owner, content.read(), path)
    if one.islnk():
        return found[os.path.normpath(one.linkname).strip("/")]
    kind = _KINDS.get(one.type, "device")
    mode = 0 if one.issym() else one.mode & 0o7777
    return Seen(kind, mode, owner, one.linkname if one.issym() else "")


def _file(path: str, mode: int, owner: tuple[int, int], content: bytes, inode: str) -> Seen:
    text = content.decode() if path in ("etc/passwd", "etc/group") else ""
    return Seen("file", mode, owner, hashlib.sha256(content).hexdigest(), inode, text)


def layer_at(root: Path) -> OneLayer:
    """The layer that the upper directory of an overlay file system is."""
    found: dict[str, Seen] = {}
    removes, opaque = [], []
    first: dict[int, str] = {}
    pending = [root]
    while pending:
        here = pending.pop()
        for entry in sorted(os.scandir(here), key=lambda one: one.name):
            path, status = os.path.relpath(entry.path, root), entry.stat(follow_symlinks=False)
            owner, mode = (status.st_uid, status.st_gid), stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                pending.append(Path(entry.path))
                found[path] = Seen("directory", mode, owner)
                if "trusted.overlay.opaque" in os.listxattr(entry.path):
                    opaque.append(path)
            elif stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
                removes.append(path)
            elif stat.S_ISLNK(status.st_mode):
                found[path] = Seen("link", 0, owner, os.readlink(entry.path))
            elif stat.S_ISREG(status.st_mode):
                inode = first.setdefault(status.st_ino, path)
                found[path] = _file(path, mode, owner, Path(entry.path).read_bytes(), inode)
            else:
                found[path] = Seen("other", mode, owner)
    return OneLayer(found, tuple(removes), tuple(opaque))


def read_layout(layout: Path) -> ReadImage:
    """The only image of an OCI layout."""
    (described,) = json.loads((layout / "index.json").read_text())["manifests"]

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    manifest = json.loads(blob(described["digest"]).read_text())
    blobs = [blob(one["digest"]) for one in manifest["layers"]]
    return read_image(blobs, blob(manifest["config"]["digest"]))


@dataclass(frozen=True)
class Buildah:
    """buildah as root with a storage of its own, in which `base` is an image."""

    root: Path

    @property
    def argv(self) -> list[str]:
        own = ["--root", str(self.root / "root"), "--runroot", str(self.root / "run")]
        return ["buildah", *own, "--storage-driver", "overlay"]

    def run(self, *words: str, cwd: Path | None = None) -> str:
        done = subprocess.run(
            [*self.argv, *words], cwd=cwd, capture_output=True, text=True, check=False, timeout=600
        )
        assert done.returncode == 0, f"{words}: {done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def have(self, layout: Path) -> None:
        """Bring an image in, as `base`."""
        storage = f"[overlay@{self.root / 'root'}+{self.root / 'run'}]"
        copy = ["skopeo", "copy", "--quiet", "--insecure-policy", f"oci:{layout}"]
        subprocess.run([*copy, f"containers-storage:{storage}localhost/base:latest"], check=True)

    def build(self, case: Case, context: Path, base: ReadImage) -> ReadImage:
        """The image of a case over `base`."""
        own = any(part.path == "Dockerfile.buildah" for part in case.parts)
        words = ["--file", str(context / ("Dockerfile.buildah" if own else "Dockerfile"))]
        words += ["--isolation", "chroot", "--format", "docker", "--pull-never", "--quiet"]
        self.run("bud", *words, "--tag", case.name, *case.options, str(context), cwd=context)
        told = json.loads(self.run("inspect", "--type", "image", f"localhost/{case.name}"))
        return ReadImage(self._tree(case.name, base), told["Docker"])

    def _tree(self, name: str, base: ReadImage) -> dict[str, Seen]:
        """The tree of an image: the layers over the base's, which stays as it is read."""
        images = json.loads((self.root / "root/overlay-images/images.json").read_text())
        tops = {one: each["layer"] for each in images for one in each.get("names") or ()}
        layers = json.loads((self.root / "root/overlay-layers/layers.json").read_text())
        below = {one["id"]: one.get("parent", "") for one in layers}
        chain, at = [], tops[f"localhost/{name}:latest"]
        while at and at != tops["localhost/base:latest"]:
            chain.append(at)
            at = below[at]
        tree = dict(base.tree) if at else {}
        for one in reversed(chain):
            over(tree, layer_at(self.root / "root/overlay" / one / "diff"))
        return tree


# -- what is the same


SECTION = (
    *("Env", "Cmd", "Entrypoint", "WorkingDir", "User", "ExposedPorts", "Volumes"),
    *("StopSignal", "Healthcheck", "Shell", "OnBuild", "Labels"),
)

ENGINES_OWN = ("dev", "proc", "sys", "run", "tmp")
"""What engines mount something over while a command runs, or themselves make."""

NAMES_OF_MACHINES = ("etc/hosts", "etc/hostname", "etc/resolv.conf")
"""What an engine mounts for a command and leaves empty in the layer."""

LEFT_OUT = re.compile(
    r"var/log/(?:dpkg|alternatives|bootstrap)\.log|var/log/apt(?:/.*)?|var/cache/ldconfig/aux-cache"
    r"|var/cache/apt/.+|var/lib/apt/lists/.+|etc/\.pwd\.lock"
    r"|etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-"
)
"""What a `run` step leaves out, for it differs each time (docs/containers.md)."""

DATED = ("etc/shadow",)
"""What has the day in it."""

LABELS = ("io.buildah.version", "org.opencontainers.image.")
"""Labels that a builder adds by itself."""


def differences(case: Case, ours: ReadImage, theirs: ReadImage) -> list[str]:
    """What is not the same, but for what is stated above."""
    return [*_tree_differences(ours, theirs), *_config_differences(ours, theirs)]


def _tree_differences(ours: ReadImage, theirs: ReadImage) -> Iterator[str]:
    volumes = {one.strip("/") for one in theirs.config["config"].get("Volumes") or {}}
    for path in sorted({*ours.tree, *theirs.tree}):
        one, other = ours.tree.get(path), theirs.tree.get(path)
        if one == other or LEFT_OUT.fullmatch(path) or path in NAMES_OF_MACHINES:
            continue
        top = path.split("/")[0]
        if top in ENGINES_OWN and (one is None or path == top):
            continue
        if one is None and other is not None:
            is_made = any(f"{volume}/".startswith(f"{path}/") for volume in volumes)
            if is_made and other.kind == "directory":
                continue
            yield f"{path}: only buildah has it: {_told(other)}"
        elif other is None and one is not None:
            yield f"{path}: only buildit has it: {_told(one)}"
        elif one is not None and other is not None and path not in DATED:
            told = [f"{what} {a} / {b}" for what, a, b in _parts(one, other) if a != b]
            if told:
                yield f"{path}: {', '.join(told)}"


def _parts(one: Seen, other: Seen) -> Iterator[tuple[str, object, object]]:
    yield "kind", one.kind, other.kind
    yield "mode", f"{one.mode:04o}", f"{other.mode:04o}"
    yield "owner", one.owner, other.owner
    yield "content", one.content[:12], other.content[:12]
    yield "inode", one.inode, other.inode


def _told(seen: Seen) -> str:
    return f"{seen.kind} {seen.mode:04o} {seen.owner}"


def _config_differences(ours: ReadImage, theirs: ReadImage) -> Iterator[str]:
    for key in ("os", "architecture", "author"):
        one, other = ours.config.get(key) or "", theirs.config.get(key) or ""
        if one != other:
            yield f"{key}: {one!r} / {other!r}"
    for key in SECTION:
        mine, their = _said(key, ours), _said(key, theirs)
        if mine != their:
            yield f"config.{key}: {mine!r} / {their!r}"


def _said(key: str, image: ReadImage) -> object:
    """A key of a config, in one spelling of what means nothing; users and groups as numbers."""
    found = image.config["config"].get(key)
    if key == "User":
        user, _, group = (found or "0").partition(":")
        number = image.numbers["passwd"].get(user, user)
        return f"{number}:{image.numbers['group'].get(group, group)}".rstrip(":")
    if key == "Env":
        return sorted(found or [])
    if key == "Labels":
        return {k: v for k, v in (found or {}).items() if not k.startswith(LABELS)}
    if key == "WorkingDir":
        return found or "/"
    if key == "Healthcheck":
        return {name: value for name, value in (found or {}).items() if value}
    return found or None
