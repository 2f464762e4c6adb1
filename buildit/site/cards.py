"""The card of a container that was built: every package and library inside, for its page."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from buildit.archive.contents import parse_contents
from buildit.digest import BuildKey, Digest
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.image import Emission
from buildit.model.plan import ContainerPlan
from buildit.model.task import Task
from buildit.model.tree import Kind
from buildit.plan.closure import closure, views_of
from buildit.site.card import Card, CardImage, CardPackage
from buildit.store.artifacts import lookup
from buildit.store.cas import Store

_LIBRARY = re.compile(r"(?:[^/]+/)*(lib[^/]*\.so(?:\.[0-9.]+)?|ld-linux[^/]*\.so\.[0-9]+)")


def card(
    plan: ContainerPlan,
    node: Callable[[BuildKey], Task],
    store: Store,
    emissions: Sequence[Emission] = (),
    flags: Mapping[str, tuple[str, ...]] | None = None,
) -> Card:
    """What is inside; `node` knows the .debs of the toolchain too, `flags` are those of each
    package of the plan, by its name.

    Raises:
        IntegrityError, StoreError: the listing of a layer is missing or corrupt.
    """

    def obtain(one: Task) -> Artifact:
        found = lookup(store, one.key)
        return found or Artifact(one.key, one.name, one.version, one.platform, {}, Digest(""))

    members = closure(plan.roots, node, obtain, views_of(plan.tasks)).members
    inside = list(dict.fromkeys(key for key, output in members if output == RUNTIME))
    others = [one.key for one in plan.tasks if one.key not in inside]
    known = flags or {}
    packages = [
        _package(node(key), obtain(node(key)), known, store, inside=key in inside)
        for key in (*inside, *others)
    ]
    return Card(
        name=plan.name,
        version=plan.version,
        os=plan.os,
        arch=plan.arch,
        author=plan.author,
        packages=tuple(packages),
        images=tuple(_image(emission) for emission in emissions),
    )


def _package(
    node: Task,
    artifact: Artifact,
    flags: Mapping[str, tuple[str, ...]],
    store: Store,
    *,
    inside: bool,
) -> CardPackage:
    runtime = artifact.outputs.get(RUNTIME)
    return CardPackage(
        key=node.key,
        name=node.name,
        version=node.version,
        flags=flags.get(node.name, ()),
        patches=node.about.patch_names(),
        inside=inside,
        size=runtime.size if runtime else 0,
        libraries=libraries(store.read(runtime.contents)) if runtime else (),
        notes=tuple(patch.description for patch in node.about.patches),
        description=node.about.description,
        deb=node.subject or "",
    )


def libraries(contents: bytes) -> tuple[str, ...]:
    """The names of the shared libraries that a layer has as files, sorted."""
    entries = (entry for entry in parse_contents(contents) if entry.kind is Kind.FILE)
    found = (_LIBRARY.fullmatch(entry.path) for entry in entries)
    return tuple(sorted({match[1] for match in found if match is not None}))


def _image(emission: Emission) -> CardImage:
    path = Path(emission.path)
    if path.is_dir():
        size = sum(part.stat().st_size for part in path.rglob("*") if part.is_file())
        return CardImage(path.name, emission.format, size, "", emission.identifier)
    size = path.stat().st_size
    return CardImage(path.name, emission.format, size, emission.digest, emission.identifier)


def flags_of(plan: ContainerPlan) -> dict[str, tuple[str, ...]]:
    """The effective flags of each package, as the container's lock has them; none without one."""
    from buildit.errors import RecipeError
    from buildit.plan.lock import parse_lock

    path = Path(plan.directory) / "buildit.lock"
    try:
        section = parse_lock(path.read_text("utf-8"), str(path)).section(plan.platform)
    except (OSError, UnicodeDecodeError, RecipeError):
        return {}
    return {package.name: package.flags for package in section.packages}
