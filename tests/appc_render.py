"""A renderer of App Container images, written from the specification alone (appc spec 0.8.11,
aci.md: "Dependency Matching", "pathWhitelist"; types.md: "Image ID"): it shares no code with the
emitter, and reads archives with Python's `tarfile`.

`render(ACI, others)` gives the tree that an executor would run: path -> what is there.
"""

from __future__ import annotations

import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.appc import image_id, plain_tar


@dataclass(frozen=True, slots=True)
class Node:
    """One path: `kind` is dir, file or link; `content` the SHA-256 of a file or the target of a
    link; `inode` tells names of one file from others."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime: int
    content: str
    xattrs: tuple[tuple[str, str], ...]
    inode: tuple[str, str]

    def said(self) -> tuple[object, ...]:
        return (*self.attributes(), self.content, self.xattrs)

    def attributes(self) -> tuple[object, ...]:
        return self.kind, self.mode, self.uid, self.gid, self.mtime


@dataclass(frozen=True, slots=True)
class Aci:
    """One image: its ID, its manifest and its own rootfs."""

    identifier: str
    manifest: Mapping[str, Any]
    rootfs: Mapping[str, Node]

    @classmethod
    def read(cls, path: Path) -> Aci:
        identifier = image_id(path)
        found: dict[str, Node] = {}
        manifest: dict[str, Any] = {}
        with tarfile.open(fileobj=io.BytesIO(plain_tar(path)), mode="r:") as archive:
            for member in archive:
                name = posixpath.normpath(member.name)
                if name == "manifest":
                    manifest = json.load(archive.extractfile(member))  # type: ignore[arg-type]
                elif name.startswith("rootfs/"):
                    name = name.removeprefix("rootfs/")
                    found[name] = _node(archive, member, found, identifier)
        return cls(identifier, manifest, found)


def _node(
    archive: tarfile.TarFile, member: tarfile.TarInfo, found: Mapping[str, Node], image: str
) -> Node:
    if member.islnk():
        return found[posixpath.normpath(member.linkname).removeprefix("rootfs/")]
    kinds = {tarfile.DIRTYPE: "dir", tarfile.REGTYPE: "file", tarfile.SYMTYPE: "link"}
    content = member.linkname if member.issym() else ""
    if member.isreg():
        content = hashlib.sha256(archive.extractfile(member).read()).hexdigest()  # type: ignore[union-attr]
    marks = sorted(one for one in member.pax_headers.items() if one[0].startswith("SCHILY.xattr."))
    who = (member.mode, member.uid, member.gid, int(member.mtime))
    return Node(kinds[member.type], *who, content, tuple(marks), (image, member.name))


def render(path: Path, others: Iterable[Path] = ()) -> dict[str, Node]:
    """The tree of an image and of all that it depends on, which are among `others`.

    Raises:
        LookupError: an image that it depends on is not there, or not the one that is meant.
    """
    known = [Aci.read(one) for one in others]
    tree: dict[str, Node] = {}
    _lay(Aci.read(path), known, None, tree)
    return tree


def _lay(image: Aci, known: list[Aci], allowed: set[str] | None, tree: dict[str, Node]) -> None:
    """Depth first, in the order of the list, the image's own files last. A whitelist holds for what
    the image brings and what it depends on."""
    if image.manifest.get("pathWhitelist"):
        own = {posixpath.normpath(one).lstrip("/") for one in image.manifest["pathWhitelist"]}
        allowed = own if allowed is None else allowed & own
    for wanted in image.manifest.get("dependencies", []):
        _lay(_match(wanted, known), known, allowed, tree)
    for name, node in image.rootfs.items():
        if allowed is None or name in allowed:
            _put(name, node, tree)


def _match(wanted: Mapping[str, Any], known: list[Aci]) -> Aci:
    labels = {each["name"]: each["value"] for each in wanted.get("labels", [])}
    for one in known:
        theirs = {each["name"]: each["value"] for each in one.manifest.get("labels", [])}
        same = one.manifest["name"] == wanted["imageName"] and labels.items() <= theirs.items()
        if same and one.identifier.startswith(wanted.get("imageID", "")):
            return one
    raise LookupError(f"{wanted['imageName']} {labels} {wanted.get('imageID')}")


def _put(name: str, node: Node, tree: dict[str, Node]) -> None:
    """A later image's path replaces what is there, followed by nobody."""
    above = name
    while above := posixpath.dirname(above):
        if above in tree and tree[above].kind != "dir":
            del tree[above]
    if node.kind != "dir":
        for beneath in [one for one in tree if one.startswith(f"{name}/")]:
            del tree[beneath]
    tree[name] = node


def same_files(tree: Mapping[str, Node]) -> set[frozenset[str]]:
    """The names of each file that has several."""
    inodes: dict[tuple[str, str], set[str]] = {}
    for name, node in tree.items():
        if node.kind == "file":
            inodes.setdefault(node.inode, set()).add(name)
    return {frozenset(names) for names in inodes.values() if len(names) > 1}
