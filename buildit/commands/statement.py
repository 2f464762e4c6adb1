"""What an image is made of, for people and for bills of materials: the image's own statement.

Licences, homepages and what patches fix are read from today's recipes when the image is assembled.
They stand here, and in no package's statement nor key, where they would go stale.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from buildit.codec import to_plain
from buildit.commands import stamp
from buildit.digest import Digest, canonical, digest_bytes
from buildit.model.image import Emission, Image, image_digest
from buildit.model.plan import ContainerPlan, DebRef, OutputRef, Task
from buildit.model.sources import SourceRef

_FORMAT = "1"


def packages_about(tasks: Iterable[Task]) -> list[dict[str, object]]:
    """Of each task: name, version, key, description, homepage, license, its patches with what they
    fix and where upstream has them, and its sources with the places they are fetched from."""
    return [
        {
            "name": task.name,
            "version": task.version,
            "key": task.key,
            "description": task.about.description,
            "homepage": task.about.homepage,
            "license": task.about.license,
            "patches": to_plain(task.about.patches),
            "sources": [
                {"name": one.name, "sha256": one.digest, "places": places}
                for one, places in _fetched(task)
            ],
        }
        for task in tasks
    ]


def _fetched(task: Task) -> list[tuple[SourceRef | DebRef, list[str]]]:
    """What a task is made from, with the places of each."""
    sources = [(one, list(one.places)) for one in task.inputs.sources]
    return [*sources, *((deb, [deb.path]) for deb in task.inputs.debs[:1])]


def image_statement(
    plan: ContainerPlan, tasks: Mapping[OutputRef, Task], emission: Emission
) -> dict[str, object]:
    """The statement of an image; `tasks` are those whose outputs are in it, bottom first."""
    packages = packages_about(tasks.values())
    for (_, output), one in zip(tasks, packages, strict=True):
        one["output"] = output
    bases = [task.inputs.image for task in plan.tasks if task.inputs.image is not None]
    below = {"from": [{"reference": one.reference, "sha256": one.digest} for one in bases]}
    return {
        "format": _FORMAT,
        "image": {"format": emission.format, "digest": emission.digest},
        "name": plan.name,
        "version": plan.version,
        "platform": plan.platform,
        **(below if bases else {}),
        "packages": packages,
    }


def as_one(statements: Sequence[Mapping[str, Any]]) -> dict[str, object]:
    """The statement of an image that holds those for several platforms."""
    platforms = [one["platform"] for one in statements]
    inside = [
        {**one, "platform": each["platform"]} for each in statements for one in each["packages"]
    ]
    return {**statements[0], "platform": ",".join(platforms), "packages": inside}


def keep_image(emission: Emission, image: str, statement: Mapping[str, object]) -> None:
    """Keep of what image (its digest) an emission was made, and its statement, for as long as it
    lies there as it was made."""
    name = _question(emission.path)
    result = {
        "image": image,
        "digest": emission.digest,
        "identifier": emission.identifier,
        "notices": list(emission.notices),
        "statement": dict(statement),
    }
    before = stamp.read(name)
    if before is None:
        stamp.write(name, stamp.made(stamp.image_parts(emission.path)), result)
    elif before != result:
        stamp.renew(name, result)


def digest_of(images: Sequence[Image]) -> Digest:
    """What decides the bytes of an output of one image, or of several in one."""
    digests = [image_digest(image) for image in images]
    return digests[0] if len(digests) == 1 else digest_bytes(canonical(digests))


def kept_emission(path: Path, images: Sequence[Image]) -> Emission | None:
    """What lies at a path, where it was made of these images and is untouched."""
    kept = stamp.read(_question(path))
    if kept is None or kept.get("image") != digest_of(images):
        return None
    found = kept["digest"], kept["identifier"], tuple(kept["notices"])
    return Emission(path, images[0].format, *found)


def last_identifier(path: Path) -> str:
    """What was last emitted to a path, whatever lies there now; empty where nothing was."""
    return str(stamp.last(_question(path)).get("identifier", ""))


def kept_statement(path: Path) -> dict[str, object] | None:
    """The statement of an image at a path; None where it was not made here, or has changed."""
    found = (stamp.read(_question(path)) or {}).get("statement")
    return found if isinstance(found, dict) else None


def _question(path: Path) -> str:
    return stamp.name("image", os.path.abspath(path))
