"""Images that a stack takes as they are: pinned in the `buildit.lock` beside its file, in a section
of their own, those of registries by name and digest, those of this machine's files brought into the
store, so that an engine can load them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.bases import registry_image
from buildit.commands.image_names import ImageNames
from buildit.commands.run import (
    LOCK_FILE,
    Downloads,
    Options,
    Pins,
    Prepared,
    read_lock,
    write_lock,
)
from buildit.digest import Digest, digest_bytes, oci_digest
from buildit.errors import RecipeError, UnsatisfiableError, UsageError
from buildit.events import Notice, Reporter
from buildit.image.inheriting import BaseImage, find_base, told_of_base
from buildit.make.from_image import from_task
from buildit.model.config import Config
from buildit.model.image import App
from buildit.model.plan import ContainerPlan, FromStep, ImageRef, ImageStep, Toolchain
from buildit.model.stack import ContainerStack, StackMember
from buildit.plan.lock import Section
from buildit.remote.registry.reference import Reference, parse_reference

_LOCAL = {"oci:": "oci", "oci-archive:": "oci", "docker-archive:": "docker-archive"}


@dataclass(frozen=True, slots=True)
class StackImage:
    """The image that a member takes as it is, pinned: `remote` names it by its digest, or `image`
    is a file or directory of this machine."""

    member: str
    image: ImageRef
    base: BaseImage
    remote: Reference | None = None

    @property
    def app(self) -> App:
        return self.base.inherited.app


def pinned_images(
    stack: ContainerStack,
    options: Options,
    downloads: Downloads,
    platform: str,
    own: Mapping[str, str],
) -> tuple[StackImage, ...]:
    """The images of the members that are not built, for a platform where they say none; `own` is
    what the configuration says of their names.

    Raises:
        RecipeError: one is named so that nothing is meant.
        FetchError: it is not pinned, and the registry cannot be asked.
        IntegrityError: it is not what its digests say, or for another platform.
    """
    lock = read_lock(stack.directory)
    names = ImageNames(dict(options.recipe.images), own)
    found = []
    for member in stack.members:
        if member.recipe is None:
            wanted = member.platform or platform
            locked = lock.section(section_name(wanted)).images
            found.append(_pinned(member, stack, wanted, locked, options, downloads, names))
    return tuple(found)


def section_name(platform: str) -> str:
    """The section of the lock that pins the images of a stack: a container may lie beside it, and
    its stages, whose names have no blank."""
    return f"{platform} stack images"


def _pinned(
    member: StackMember,
    stack: ContainerStack,
    platform: str,
    locked: Mapping[str, Digest],
    options: Options,
    downloads: Downloads,
    names: ImageNames,
) -> StackImage:
    place = member.place
    text = dict(options.recipe.images).get(member.image, member.image)
    for scheme, kind in _LOCAL.items():
        if text.startswith(scheme) and "://" not in text:
            path = Path(os.path.normpath(stack.directory / text.removeprefix(scheme)))
            with told_of_base(text, place):
                base = find_base(kind, path, platform)
            image = ImageRef(text, kind, base.digest, str(path), platform, place)
            return StackImage(member.name, image, base)
    at = _registry_name(names.reference(text, place), place)
    reference = str(at)
    moves = options.moves(reference, text, reference.removeprefix("oci://"))
    with told_of_base(text, place):
        base = registry_image(at, {} if moves else locked, platform, place, downloads)
    image = ImageRef(reference, "oci", base.digest, "", platform, place)
    return StackImage(member.name, image, base, at.by_digest(oci_digest(base.digest)))


def _registry_name(text: str, place: str) -> Reference:
    """Raises RecipeError where a text names no image of a registry."""
    try:
        return parse_reference(text)
    except UsageError as error:
        message = f"{text!r} names no image: {error.message}"
        raise RecipeError(message, place=place, hint=error.hint) from error


def lock_images(
    stack: ContainerStack, images: Sequence[StackImage], options: Options, report: Reporter
) -> tuple[str, ...]:
    """Write what is pinned into the lock beside the stack's file, or refuse under `--locked`; what
    moved, in words.

    Raises:
        UnsatisfiableError: `--locked`, and something would move.
        StoreError: the lock cannot be written.
    """
    lock = read_lock(stack.directory)
    platforms = dict.fromkeys(one.image.platform for one in images)
    own = [name for name in lock.sections if name.endswith(section_name(""))]
    sections: dict[str, Section] = {}
    for platform in platforms:
        pins = {one.image.reference: one.image.digest for one in images}
        sections[section_name(platform)] = Section(images=pins)
    told: list[str] = []
    for name in dict.fromkeys((*own, *sections)):
        told += Pins(lock, sections.get(name, Section()), name).moved()
    if told and options.locked:
        place, hint = str(stack.directory / LOCK_FILE), "if that is right: `buildit lock`"
        raise UnsatisfiableError("the lock would change", place=place, hint=hint, details=(*told,))
    if own:
        for line in told:
            report(Notice(f"lock: {line}"))
    if options.locked or not told:
        return ()
    kept = {name: one for name, one in lock.sections.items() if name not in own}
    write_lock(stack.directory, replace(lock, sections={**kept, **sections}))
    return tuple(told)


def prepared_image(one: StackImage, options: Options, settings: Config) -> Prepared:
    """What a build of an image of this machine's files is made of: its layers and nothing else."""
    image, app = one.image, one.app
    system, _, machine = image.platform.partition("/")
    task = from_task(image, one.base)
    toolchain = Toolchain("none", image.platform, digest_bytes(b""), ())
    plan = ContainerPlan(
        directory=str(options.directory),
        author="",
        name=one.member.lower(),
        version=image.digest[:12],
        os=system,
        arch=machine,
        toolchain=toolchain,
        tasks=(task,),
        steps=(FromStep(task.key, image.reference, tuple(task.outputs), image.place),),
        images=(ImageStep("docker-archive", "", "", image.place),),
        app=replace(app, user=app.user or "0") if app.exec or app.arguments else None,
        labels=one.base.inherited.labels,
        platforms=(image.platform,),
    )
    lock = read_lock(options.directory)
    name = section_name(image.platform)
    return Prepared(options, plan, settings, Pins(lock, lock.section(name), name))
