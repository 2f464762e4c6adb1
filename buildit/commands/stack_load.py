"""The images of a stack that runs here: built as `buildit DIR` builds them, and handed to podman
without a registry, where it lacks them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from buildit.digest import Digest, parse_digest
from buildit.errors import IntegrityError, UsageError
from buildit.image.inheriting import find_base, inherited_of
from buildit.model.image import Inherited
from buildit.model.stack import StackMember
from buildit.podman.engine import Podman
from buildit.stack.local import LoadedImage, StackIdentity
from buildit.stack.pinned import PinnedImage, readiness_of


@dataclass(frozen=True, slots=True)
class BuiltMember:
    """The image of a member on this machine: `kind` is `oci` (a layout) or `docker-archive`."""

    path: Path
    kind: str


def loaded_image(podman: Podman, who: StackIdentity, name: str, built: BuiltMember) -> LoadedImage:
    """An image in podman's storage, which takes from what was built what it lacks.

    Raises:
        IntegrityError: that is damaged, or podman has another image of it.
        BuildError: podman fails.
    """
    base = find_base(built.kind, built.path, "")
    status, _, _ = podman.tried("image", "exists", base.config)
    if status:
        if built.kind == "oci":
            _pull_layout(podman, who, name, built.path)
        else:
            podman.run("load", "--quiet", "--input", str(built.path.absolute()))
        status, _, _ = podman.tried("image", "exists", base.config)
    if status:
        told = f"podman took another image from it than {base.config}"
        raise IntegrityError(told, place=str(built.path))
    return _known(base.config, base.inherited)


def _pull_layout(podman: Podman, who: StackIdentity, name: str, layout: Path) -> None:
    """podman calls an image by the path of its layout, which has to be of small letters: so it gets
    a link of the name that the image is to have."""
    with tempfile.TemporaryDirectory(prefix="buildit-up-") as work:
        named = Path(work, who.prefix)
        named.mkdir()
        (named / name).symlink_to(layout.absolute())
        podman.at(Path(work)).run("pull", "--quiet", f"oci:{who.prefix}/{name}")


def foreign_image(
    podman: Podman, member: StackMember, reference: str, *, offline: bool
) -> LoadedImage:
    """The image `HOST/NAME@sha256:…` of a member, which podman brings here where it lacks it.

    Raises:
        UsageError: it is not here, and no other machine is to be asked.
        BuildError: podman fails.
    """
    known = _inspected(podman, reference)
    if known is None:
        if offline:
            hint = f"run it once without --offline, or: podman pull {reference}"
            message = f"podman has no {member.image}, the image of {member.name!r}"
            raise UsageError(message, place=member.place, hint=hint)
        podman.run("pull", "--quiet", reference)
        known = _inspected(podman, reference)
    if known is None:
        raise IntegrityError(f"podman does not know what it pulled as {reference}")
    return known


def _inspected(podman: Podman, reference: str) -> LoadedImage | None:
    status, out, _ = podman.tried("image", "inspect", reference)
    if status:
        return None
    said: Mapping[str, Any] = json.loads(out)[0]
    health = said.get("HealthCheck") or said.get("Healthcheck")
    section = dict(said.get("Config") or {}) | ({"Healthcheck": health} if health else {})
    return _known(parse_digest(str(said["Id"]).removeprefix("sha256:")), inherited_of(section))


def _known(identifier: Digest, said: Inherited) -> LoadedImage:
    ready = readiness_of(StackMember("", ""), PinnedImage(identifier, app=said.app))
    ports = tuple(one.number for one in said.app.ports if one.protocol == "tcp")
    return LoadedImage(identifier, ready, ports)


def real_directory(path: Path) -> str:
    """What a stack is known by."""
    return os.path.realpath(path)
