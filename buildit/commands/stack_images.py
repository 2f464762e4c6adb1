"""Images that a stack takes as they are: pinned in the `buildit.lock` beside its file, in a section
of their own, those of registries by name and digest, those of this machine's files brought into the
store, so that an engine can load them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.bases import registry_image
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
from buildit.remote.registry.reference import DOCKER_SCHEME, Reference, parse_reference

_LOCAL = {"oci:": "oci", "oci-archive:": "oci", "docker-archive:": "docker-archive"}
_HOST_FIRST = re.compile(r"(?:localhost|[^/]*[.:][^/]*)/.+")


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
    stack: ContainerStack, options: Options, downloads: Downloads, platform: str
) -> tuple[StackImage, ...]:
    """The images of the members that are not built, for a platform where they say none.

    Raises:
        RecipeError: one is named so that nothing is meant.
        FetchError: it is not pinned, and the registry cannot be asked.
        IntegrityError: it is not what its digests say, or for another platform.
    """
    lock = read_lock(stack.directory)
    found = []
    for member in stack.members:
        if member.recipe is None:
            wanted = member.platform or platform
            locked = lock.section(section_name(wanted)).images
            found.append(_pinned(member, stack, wanted, locked, options, downloads))
    return tuple(found)


def section_name(platform: str) -> str:
    """The section of the lock that pins the images of a stack: a container may lie beside it."""
    return f"{platform} stack"


def _pinned(
    member: StackMember,
    stack: ContainerStack,
    platform: str,
    locked: Mapping[str, Digest],
    options: Options,
    downloads: Downloads,
) -> StackImage:
    text, place = dict(options.recipe.images).get(member.image, member.image), member.place
    for scheme, kind in _LOCAL.items():
        if text.startswith(scheme) and "://" not in text:
            path = Path(os.path.normpath(stack.directory / text.removeprefix(scheme)))
            with told_of_base(text, place):
                base = find_base(kind, path, platform)
            image = ImageRef(text, kind, base.digest, str(path), platform, place)
            return StackImage(member.name, image, base)
    at = _registry_name(text, place)
    reference = str(at)
    moves = options.moves(reference, text, reference.removeprefix("oci://"))
    with told_of_base(text, place):
        base = registry_image(at, {} if moves else locked, platform, place, downloads)
    image = ImageRef(reference, "oci", base.digest, "", platform, place)
    return StackImage(member.name, image, base, at.by_digest(oci_digest(base.digest)))


def _registry_name(text: str, place: str) -> Reference:
    """Raises RecipeError where a text names no image of a registry."""
    full = text
    if "://" not in text and _HOST_FIRST.fullmatch(text):
        full = f"{DOCKER_SCHEME}{text}"
    if "://" not in full:
        message = f"{text!r} is a short name, and nothing says of which registry"
        hint = f"write docker://HOST/{text}, or say it: --build-context {text}=docker://HOST/NAME"
        raise RecipeError(message, place=place, hint=hint)
    try:
        return parse_reference(full)
    except UsageError as error:
        message = f"{text!r} names no image: {error.message}"
        raise RecipeError(message, place=place, hint=error.hint) from error


def lock_images(
    stack: ContainerStack, images: Sequence[StackImage], options: Options, report: Reporter
) -> None:
    """Write what is pinned into the lock beside the stack's file, or refuse under `--locked`.

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
        return
    kept = {name: one for name, one in lock.sections.items() if name not in own}
    write_lock(stack.directory, replace(lock, sections={**kept, **sections}))


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
