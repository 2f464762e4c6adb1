"""Checks of an image that need no package: its name, manifest or config, app, and accounts. Pure.

A plan that passes can only fail for what the packages hold.
"""

from __future__ import annotations

from dataclasses import replace

from buildit.commands.accounts import Ids
from buildit.commands.sync import EPOCH
from buildit.errors import RecipeError
from buildit.image.formats.table import check, format_of
from buildit.model.image import Image, Layer
from buildit.model.plan import ContainerPlan, ImageStep


def image(
    plan: ContainerPlan, step: ImageStep, layers: tuple[Layer, ...] = (), epoch: int = EPOCH
) -> Image:
    """What the emitter of `step.format` writes down."""
    return Image(
        name=plan.name,
        version=plan.version,
        os=plan.os,
        arch=plan.arch,
        layers=layers,
        epoch=epoch,
        format=step.format,
        app=plan.app,
        author=plan.author,
        about=plan.about,
        labels=plan.labels,
        annotations=plan.annotations,
        compress=step.compress,
        content=step.content,
        place=step.place,
    )


def check_images(plan: ContainerPlan, synced: Ids) -> ContainerPlan:
    """The plan, with remarks about what a format cannot hold.

    Raises:
        RecipeError: an image would break a rule of its format, or run as an account that neither
            a package, nor the container, nor a synced file (`synced`) declares.
    """
    declared = Ids(
        {user.name: user for node in plan.tasks for user in node.users()}
        | {user.name: user for user in plan.users},
        {group.name: group for node in plan.tasks for group in node.groups()}
        | {group.name: group for group in plan.groups},
    )
    ids = synced.over(declared)
    remarks = list(plan.remarks)
    for step in plan.images:
        wanted = image(plan, step)
        form = format_of(wanted)
        for kind, name in form.start(check(wanted)).accounts:
            known = ids.user(name)[0] if kind == "user" else ids.group(name)
            if known is None:
                raise RecipeError(
                    f"`content` runs as {kind} {name!r}, which is no {kind} of the image",
                    place=step.place,
                    hint=f"declare it in a `{kind}s` step, or write its number; "
                    f"declared: {ids.names()}",
                )
        remarks += form.unspoken(wanted)
    return replace(plan, remarks=tuple(dict.fromkeys(remarks)))
