"""App Container images (appc spec aci.md): one tar, `manifest` first, then the merged tree.

The tree is streamed from the layers of the store to the output; nothing is unpacked, and memory
does not grow with the image. `image.content` is a manifest, which takes the place of what would
derive from `app` and `vars`.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from buildit.archive.compress import GzipWriter
from buildit.archive.streams import Writable, write_all
from buildit.archive.tar.write import TarWriter
from buildit.digest import Digest, canonical
from buildit.errors import RecipeError
from buildit.image.appspec import check_app, port_name, volume_name
from buildit.image.copying import BlobPath
from buildit.image.documents import read_json, rfc3339
from buildit.image.formats.aci_rules import manifest_problems
from buildit.image.formats.table import Document, Format, LayerBlob, Plan, Start
from buildit.image.layertar import Contents, add_member
from buildit.image.merge import Rootfs
from buildit.image.names import AC_IDENTIFIER, ac_identifier, machine
from buildit.model.image import App, Architecture, Emission, Image, Volume
from buildit.model.tree import Entry, Kind

AC_VERSION = "0.8.11"
_OCI = "org.opencontainers.image."
_SAID = (f"{_OCI}title", f"{_OCI}version")
"""What the name and the label `version` of an ACI say already."""

_RESERVED = ("name", "version", "os", "arch")
_ANNOTATIONS = {
    f"{_OCI}authors": "authors",
    f"{_OCI}url": "homepage",
    f"{_OCI}documentation": "documentation",
    f"{_OCI}created": "created",
}
"""What App Container has its own annotation for."""


def _manifest(image: Image) -> dict[str, Any]:
    """The manifest as JSON data, every rule of the specification met.

    Raises:
        RecipeError: the app, the user's document, or what the container gives, breaks a rule; or
            the document says another platform than the container.
    """
    if image.app is not None:
        check_app(image.app, image.place)
    if not image.content:
        return _derived(image)
    document = read_json(image.content, image.place, "the ACI manifest")
    problems = (*manifest_problems(document), *_contradictions(document, image))
    if problems or not isinstance(document, dict):
        raise RecipeError(
            f"the ACI manifest is not valid: {problems[0]}",
            place=image.place or None,
            hint="correct `content` of this image step (appc spec aci.md), "
            "or leave it out: then `app` and `vars` decide",
            details=problems[1:],
        )
    return document


def _start(manifest: Document) -> Start:
    """Nothing of program and accounts where they may come from an image that this one depends on
    (appc spec aci.md, "Dependency Matching"); an account that is a path stands for the owner of
    that file."""
    app = manifest.get("app")
    if not isinstance(app, dict):
        return Start()
    start = app.get("workingDirectory")
    starts = [("working directory", start)] if start else []
    alone = not manifest.get("dependencies")
    accounts = [(kind, str(app[kind])) for kind in ("user", "group") if alone]
    return Start(
        str(app["exec"][0]) if alone else None,
        {one["name"]: one["value"] for one in app.get("environment", ())},
        (*starts, *(("volume", str(one["path"])) for one in app.get("mountPoints", ()))),
        tuple((kind, name) for kind, name in accounts if not name.startswith("/")),
    )


def _platform(image: Image) -> dict[str, str]:
    """Labels `os` and `arch`; none for a machine that App Container has no name for."""
    spelling = machine(image).appc
    return {"os": image.os, "arch": spelling} if spelling is not None else {}


def _contradictions(document: object, image: Image) -> Iterator[str]:
    """A label that tells an executor to run the image where its programs cannot run."""
    labels = document.get("labels") if isinstance(document, dict) else None
    if not isinstance(labels, list):
        return
    expected = _platform(image)
    for number, label in enumerate(labels):
        if isinstance(label, dict) and label.get("name") in expected:
            wanted = expected[label["name"]]
            if label.get("value") != wanted:
                yield (
                    f"labels[{number}]: {label['name']} is {label.get('value')!r}, "
                    f"but the container is built for {wanted!r}"
                )


def _derived(image: Image) -> dict[str, Any]:
    labels = {"version": image.version, **_platform(image)}
    labels |= {name: value for name, value in image.labels if _may_be_label(name)}
    manifest: dict[str, Any] = {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": image.name,
        "labels": _pairs(labels),
        "annotations": _pairs(_annotations(image)),
    }
    if image.app is not None:
        manifest["app"] = aci_app(image.app, image.place)
    problems = manifest_problems(manifest)
    if problems:
        near = ac_identifier(image.name)
        raise RecipeError(
            f"no valid ACI manifest follows from the container: {problems[0]}",
            place=image.place or None,
            hint=f"set `name: {near}` in `vars`" if near != image.name else "correct the container",
            details=problems[1:],
        )
    return manifest


def _annotations(image: Image) -> dict[str, str]:
    annotations = {"created": rfc3339(image.epoch)}
    if image.author:
        annotations["authors"] = image.author
    about = {name: value for name, value in image.about if name not in _SAID}
    written = {name: value for name, value in image.annotations if AC_IDENTIFIER.fullmatch(name)}
    return annotations | {
        _ANNOTATIONS.get(name, name): value for name, value in (about | written).items()
    }


def _may_be_label(name: str) -> bool:
    return name not in _RESERVED and AC_IDENTIFIER.fullmatch(name) is not None


def aci_app(app: App, place: str) -> dict[str, Any]:
    """The `app` of an ACI manifest (appc spec aci.md).

    Raises:
        RecipeError: no group is given and the user's own is not known: App Container wants one.
    """
    group = app.group if app.group is not None else app.own_group
    if group is None and app.user not in ("0", "root"):
        raise RecipeError(
            f"app: user {app.user!r} has no group, and App Container wants one",
            place=place or None,
            hint="add `group:` to `app` in container.yaml, or declare the user: "
            f"`- users: {{app: {{uid: {app.user if app.user.isdecimal() else 101}, gid: 101}}}}`",
        )
    spoken: dict[str, Any] = {
        "exec": list(app.exec),
        "user": app.user,
        "group": group if group is not None else "0",
        "workingDirectory": app.working_directory,
    }
    if app.environment:
        spoken["environment"] = [{"name": name, "value": value} for name, value in app.environment]
    if app.volumes:
        spoken["mountPoints"] = [_mount_point(volume) for volume in app.volumes]
    if app.ports:
        spoken["ports"] = [
            {"name": port_name(port), "protocol": port.protocol, "port": port.number}
            for port in app.ports
        ]
    return spoken


def _mount_point(volume: Volume) -> dict[str, Any]:
    point: dict[str, Any] = {"name": volume_name(volume), "path": volume.path}
    return {**point, "readOnly": True} if volume.read_only else point


def _unspoken(image: Image) -> Iterator[str]:
    """What the container says and an ACI cannot hold, one remark each."""
    if image.content:
        return
    for name, _ in image.labels:
        if not _may_be_label(name):
            why = "it is taken" if name in _RESERVED else "a-z, 0-9 and - . _ ~ / between them"
            yield f"the ACI has no label {name!r}: App Container allows other names ({why})"
    for name, _ in image.annotations:
        if AC_IDENTIFIER.fullmatch(name) is None:
            yield (
                f"the ACI has no annotation {name!r}: App Container allows a-z, 0-9 and "
                "- . _ ~ / between them"
            )
    if image.app is not None and image.app.health is not None:
        yield "the ACI has no healthcheck: App Container has none"
    if image.app is not None and image.app.stop_signal is not None:
        yield "the ACI has no stop signal: App Container has none"


def _pairs(members: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in members.items()]


def _plan(_: Image, manifest: Document, _layers: Sequence[LayerBlob] = ()) -> Plan:
    """The manifest; an ACI has no layers, and is named by all its bytes."""
    return Plan({"manifest": canonical(manifest)})


def _write(
    image: Image, manifest: Document, rootfs: Rootfs, blob: BlobPath, fresh: Path
) -> Emission:
    """Write the file.

    Raises:
        StoreError, IntegrityError: a blob of the store is missing or damaged.
        OSError: the file cannot be written.
    """
    plan = _plan(image, manifest)
    with fresh.open("xb") as file:
        stored = _Hashing(file, hashlib.sha256())
        plainly = ACI.codec(image) == "none"
        with nullcontext(stored) if plainly else GzipWriter(stored) as packed:
            plain = _Hashing(packed, hashlib.sha512())
            _write_tar(plain, plan, image.epoch, rootfs, Contents(rootfs, blob))
        os.fchmod(file.fileno(), 0o644)  # whatever the umask
    digest, image_id = Digest(stored.hash.hexdigest()), f"sha512-{plain.hash.hexdigest()}"
    return Emission(fresh, image.format, digest, image_id, rootfs.notices)


def _write_tar(out: Writable, plan: Plan, epoch: int, rootfs: Rootfs, contents: Contents) -> None:
    tar = TarWriter(out)
    for name, content in plan.documents.items():
        head = Entry(name, Kind.FILE, 0o644, mtime=epoch, size=len(content))
        tar.add_file(head, io.BytesIO(content))
    tar.add(Entry("rootfs", Kind.DIRECTORY, 0o755, mtime=epoch))
    for member in rootfs.members():
        entry = replace(member.entry, path=f"rootfs/{member.entry.path}")
        if entry.kind is Kind.HARDLINK:
            entry = replace(entry, target=f"rootfs/{entry.target}")
        add_member(tar, entry, member, contents)
    tar.finish()


class _Hashing:
    """Writes on while taking a digest of any algorithm; takes all bytes that it is given."""

    __slots__ = ("_out", "hash")

    def __init__(self, out: Writable, algorithm: hashlib._Hash) -> None:
        self._out = out
        self.hash = algorithm

    def write(self, chunk: bytes, /) -> int:
        self.hash.update(chunk)
        write_all(self._out, chunk)
        return len(chunk)


def _spelling(kind: Architecture) -> str:
    return kind.appc or kind.uname


ACI = Format(
    name="aci",
    title="an ACI",
    codecs=("gzip", "none"),
    spelling=_spelling,
    check=_manifest,
    start=_start,
    plan=_plan,
    write=_write,
    unspoken=_unspoken,
    only=": no App Container tool reads it",
    empty=True,
    signed=True,
    discovered=True,
)
