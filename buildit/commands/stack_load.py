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
from buildit.model.stack import Readiness, StackMember
from buildit.stack.engine import Podman
from buildit.stack.local import LoadedImage, StackIdentity

_MISSING = 125
"""podman's own status for what went wrong: `image inspect` of one that is not there."""


@dataclass(frozen=True, slots=True)
class BuiltMember:
    """An OCI layout of a member, and the platform of its image: `linux/amd64`."""

    layout: Path
    platform: str


def loaded_image(podman: Podman, who: StackIdentity, name: str, built: BuiltMember) -> LoadedImage:
    """An image in podman's storage, which takes from the layout what it lacks.

    Raises:
        IntegrityError: the layout is damaged, or podman has another image of it.
        BuildError: podman fails.
    """
    base = find_base("oci", built.layout, built.platform)
    status, _, _ = podman.tried("image", "exists", base.config)
    if status:
        _pull_layout(podman, who, name, built.layout, base.config)
    return _known(base.config, base.inherited)


def _pull_layout(
    podman: Podman, who: StackIdentity, name: str, layout: Path, expected: str
) -> None:
    """podman calls an image by the path of its layout, which has to be of small letters: so it gets
    a link of the name that the image is to have."""
    with tempfile.TemporaryDirectory(prefix="buildit-up-") as work:
        named = Path(work, who.prefix)
        named.mkdir()
        (named / name).symlink_to(layout.absolute())
        taken = podman.at(Path(work)).run("pull", "--quiet", f"oci:{who.prefix}/{name}")
    if taken.split()[-1:] != [expected]:
        told = f"podman took {taken.strip() or 'nothing'} from it, not the image {expected}"
        raise IntegrityError(told, place=str(layout))


def foreign_image(podman: Podman, member: StackMember, *, offline: bool) -> LoadedImage:
    """The image that a member names, which podman brings here where it lacks it.

    Raises:
        UsageError: it is not here, and no other machine is to be asked.
        BuildError: podman fails.
    """
    reference = member.image.removeprefix("docker://")
    known = _inspected(podman, reference)
    if known is None:
        if offline:
            hint = f"run it once without --offline, or: podman pull {reference}"
            message = f"the image {member.image} of {member.name!r} is not here"
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
    health = said.app.health
    ready = None
    if health is not None:
        # as docker counts where an image does not say it (moby, daemon/health.go)
        ready = Readiness(
            exec=health.exec,
            interval=health.interval or 30,
            timeout=health.timeout or 30,
            retries=health.retries or 3,
            start=health.start or 0,
        )
    ports = tuple(one.number for one in said.app.ports if one.protocol == "tcp")
    return LoadedImage(identifier, ready, ports)


def real_directory(path: Path) -> str:
    """What a stack is known by."""
    return os.path.realpath(path)
