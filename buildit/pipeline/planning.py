"""The steps of a container as the plan has them, typed, with every name resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from buildit.digest import BuildKey
from buildit.errors import RecipeError
from buildit.load.container import Container, LoadedStep
from buildit.model.container import DebianPackageStep, SyncSpec
from buildit.model.plan import (
    ContainerPlan,
    Group,
    ImageStep,
    Node,
    PackageStep,
    SyncStep,
    Toolchain,
    User,
)
from buildit.model.platform import Platform
from buildit.pipeline.appstep import app_of
from buildit.pipeline.asked import Roots
from buildit.plan.evaluate import place_of

LARGEST_ID = 2**32 - 2
"""2^32-1 is the kernel's "no id" (setresuid(2))."""


@dataclass(frozen=True, slots=True)
class Ids:
    """The accounts that owners of synced files may name."""

    users: Mapping[str, User]
    groups: Mapping[str, Group]

    def user(self, text: str) -> tuple[int | None, int | None]:
        """uid and first gid of a user's name or number."""
        number = _id(text)
        found = self.users.get(text)
        return (found.uid, found.gid) if found else (number, number)

    def group(self, text: str) -> int | None:
        found = self.groups.get(text)
        return found.gid if found else _id(text)

    def names(self) -> str:
        return ", ".join(sorted({*self.users, *self.groups})) or "none"


def _id(text: str) -> int | None:
    if not (text.isascii() and text.isdecimal()) or len(text) > 10:
        return None
    return int(text) if int(text) <= LARGEST_ID else None


def container_plan(
    container: Container,
    target: Platform,
    roots: Roots,
    toolchain: Toolchain,
    made: Mapping[BuildKey, Node],
) -> ContainerPlan:
    keys = {node.name: key for key, node in made.items()}
    steps: list[PackageStep | SyncStep] = []
    users, groups = _accounts(container)
    ids = Ids(
        {user.name: user for node in made.values() for user in node.users}
        | {user.name: user for user in users},
        {group.name: group for node in made.values() for group in node.groups}
        | {group.name: group for group in groups},
    )
    for number, step in enumerate(container.steps):
        if number in roots.names:
            steps.append(PackageStep(keys[roots.names[number]], roots.origins[number]))
        elif isinstance(step.spec.package, DebianPackageStep):
            name = f"debian:{step.spec.package.debian.partition('=')[0]}"
            steps.append(PackageStep(keys[name], roots.origins[number]))
        elif step.spec.sync is not None:
            steps.append(_sync(step.spec.sync, step, ids))
    names = container.variables
    return ContainerPlan(
        directory=str(container.directory),
        author=names.get("author", ""),
        name=names["name"],
        version=names["version"],
        os=target.os,
        arch=names.get("arch", target.arch),
        toolchain=toolchain,
        nodes=tuple(made.values()),
        steps=tuple(steps),
        images=_images(container),
        app=app_of(container),
        users=users,
        groups=groups,
    )


def _accounts(container: Container) -> tuple[tuple[User, ...], tuple[Group, ...]]:
    users: list[User] = []
    groups: list[Group] = []
    for step in container.steps:
        for name, spec in (step.spec.users or {}).items():
            users.append(User(name, spec.uid, spec.gid, spec.home, spec.shell, spec.comment))
        for name, group in (step.spec.groups or {}).items():
            groups.append(Group(name, group.gid, group.members))
    return tuple(users), tuple(groups)


def _sync(spec: SyncSpec, step: LoadedStep, ids: Ids) -> SyncStep:
    user, _, group = spec.owner.partition(":")
    mode = "" if spec.chmod is None else f"{spec.chmod:04o}"
    uid, own_gid = ids.user(user)
    gid = ids.group(group) if group else own_gid
    if uid is None or gid is None:
        raise RecipeError(
            f"no package and no `users` or `groups` step declares the owner {spec.owner!r}",
            place=place_of(step.node, "sync", "owner"),
            hint=f"declared: {ids.names()}; numbers do as well: 0:0",
        )
    return SyncStep(spec.src, spec.dest, spec.recursive, mode, uid, gid, step.place)


def _images(container: Container) -> tuple[ImageStep, ...]:
    images: dict[str, ImageStep] = {}
    for step in container.steps:
        spec = step.spec.image
        if spec is None:
            continue
        made = ImageStep(spec.type, step.content, spec.compress or "", step.place)
        first = images.setdefault(made.format, made)
        if first is not made:
            raise RecipeError(
                f"a second image of type {made.format} would have the same file name",
                place=made.place,
                hint=f"the first is at {first.place}; keep one of them",
            )
    return tuple(images.values())
