"""Build a stack: its containers at once, each with its own lock, then what starts them."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from buildit.archive.streams import submit
from buildit.commands.building import BuiltParts, build_parts, planned_parts, publishes_of, push
from buildit.commands.mending import until_whole
from buildit.commands.realise import BuildPool
from buildit.commands.registry import container_part
from buildit.commands.run import Options, Prepared, opened
from buildit.commands.stack_images import StackImage, lock_images, pinned_images, prepared_image
from buildit.commands.stacks import StackPart, parts_of_stack
from buildit.digest import Digest
from buildit.errors import BuilditError, Interrupted, StoreError
from buildit.events import Notice, Reporter
from buildit.files import replacing
from buildit.model.config import Config, Oci
from buildit.model.image import Emission
from buildit.model.platform import build_platform
from buildit.model.recipe import RecipeOptions
from buildit.model.stack import ContainerStack
from buildit.recipe.config import load_config
from buildit.recipe.yaml.node import shown_place
from buildit.sandbox.spaces import own_children
from buildit.stack.compose import compose_files
from buildit.stack.databases import with_image_databases
from buildit.stack.kubernetes import kubernetes_files
from buildit.stack.pinned import ASKING_PROGRAMS, PinnedImage, PinnedStack, with_image_ports
from buildit.stack.quadlet import quadlet_files
from buildit.stack.readme import readme_text

_FOLDERS = ("files", "kubernetes", "quadlet")
"""Of an emitted stack: what is in them is ours, and goes where the stack no longer has it."""
IMAGES = "images"
_PROGRAMS = ("usr/bin", "bin", "usr/local/bin")


@dataclass(frozen=True, slots=True)
class BuiltStack:
    """A stack that was built: with the ports that its images say, the image of each member by its
    name, the directory that was emitted, and its files. `archives` of images are of `directory`."""

    stack: ContainerStack
    images: Mapping[str, PinnedImage]
    directory: Path
    files: tuple[Path, ...]
    built: Mapping[str, Emission] = field(default_factory=dict)
    """By member, what lies on this machine of those that are not a registry's."""

    @property
    def emissions(self) -> tuple[Emission, ...]:
        return tuple(dict.fromkeys(self.built.values()))

    def archive(self, member: str) -> Path | None:
        """What holds a member's image, to be loaded; None where it is in a registry."""
        name = self.images[member].archive
        return self.directory / name if name else None


def build_stack(
    stack: ContainerStack,
    options: Options,
    report: Reporter,
    stop: threading.Event,
    emitting: Reporter | None = None,
) -> BuiltStack:
    """Build all containers of a stack at once, and emit it into `options.output/NAME.stack`.
    `emitting` hears of what is emitted, `report` where it is None.

    Where one fails, the others are built to their end all the same, and nothing of the stack is
    emitted.

    Raises:
        BuilditError: of the first container that failed; it tells of the others.
    """
    output = options.output / f"{stack.name}.stack"
    settings = load_config(stack.directory).config
    registry = _registry(settings)
    form = "oci" if registry is not None else "docker-archive"
    parts = parts_of_stack(stack, replace(options, output=output / IMAGES), (form,))
    for remark in stack.remarks:
        report(Notice(remark))
    images = _images(stack, options, settings, report)
    lock_images(stack, images, options, report)
    made = _Building(stack, report, stop)
    planned = made.plan(parts)
    planned |= {
        one.member: (prepared_image(one, _image_options(one, stack, options, output), settings),)
        for one in images
        if one.remote is None
    }
    built = made.build(planned, options.jobs)
    if publishes_of(options):  # one after the other: what they share is sent once
        for part in parts:
            push(part.options, report, stop)
    found: dict[str, PinnedImage] = {}
    here: dict[str, Emission] = {}
    for part in parts:
        here |= dict.fromkeys(part.members, built[part.name].emissions[0])
        pinned = _pinned_image(planned[part.name][0], built[part.name], registry, output)
        found |= dict.fromkeys(part.members, pinned)
    for one in images:
        if one.remote is None:
            prepared = planned[one.member][0]
            here[one.member] = built[one.member].emissions[0]
            found[one.member] = _pinned_image(prepared, built[one.member], None, output)
        else:
            at = f"{one.remote.host}/{one.remote.name}@{one.remote.digest}"
            found[one.member] = PinnedImage(at, app=one.app)
    whole = with_image_databases(with_image_ports(stack, found), found)
    return _emit(PinnedStack(whole, found), output, emitting or report, here)


def lock_stack_images(stack: ContainerStack, options: Options, report: Reporter) -> tuple[str, ...]:
    """Write the lock of the images that a stack takes as they are; what moved, in words.

    Raises:
        BuilditError: see `pinned_images` and `lock_images`.
    """
    settings = load_config(stack.directory).config
    return lock_images(stack, _images(stack, options, settings, report), options, report)


def _images(
    stack: ContainerStack, options: Options, settings: Config, report: Reporter
) -> tuple[StackImage, ...]:
    if all(one.recipe is not None for one in stack.members):
        return ()
    platform = options.platform or str(build_platform(os.uname().machine))
    with opened(settings, options, report) as run:
        return pinned_images(stack, options, run.downloads, platform, settings.images)


def _image_options(
    one: StackImage, stack: ContainerStack, options: Options, output: Path
) -> Options:
    """As a stage beside the stack's file, so that its garbage root is its own."""
    recipe = RecipeOptions(stage=f"image of {one.member}")
    place = output / IMAGES / one.member
    return replace(options, directory=stack.directory, output=place, push=False, recipe=recipe)


def _registry(settings: Config) -> Oci | None:
    """The registry that images are pushed to, where one is configured."""
    uploads = (one.upload for one in settings.repositories)
    return next((one for one in uploads if isinstance(one, Oci)), None)


@dataclass(slots=True)
class _Building:
    """What is made for one stack, and what went wrong with it, by part."""

    stack: ContainerStack
    report: Reporter
    stop: threading.Event
    failed: dict[str, BuilditError] = field(default_factory=dict)

    def plan(self, parts: Sequence[StackPart]) -> dict[str, Sequence[Prepared]]:
        """The plans of all containers, with their locks written.

        Raises:
            BuilditError: of the first that has none; nothing is built then.
        """
        found: dict[str, Sequence[Prepared]] = {}
        for part in parts:
            try:
                found[part.name] = _planned(part.options, self.report, self.stop)
            except Interrupted:
                raise
            except BuilditError as error:
                self.failed[part.name] = error
        self._check(len(parts), "planned")
        return found

    def build(self, planned: Mapping[str, Sequence[Prepared]], jobs: int) -> dict[str, BuiltParts]:
        """Raises BuilditError where one fails, once all others are built."""
        if not planned:
            return {}
        first = next(iter(planned.values()))[0]
        pool = BuildPool(jobs or first.settings.jobs)
        built: dict[str, BuiltParts] = {}
        try:
            with own_children(), ThreadPoolExecutor(len(planned), "stack") as threads:
                works = {
                    name: submit(threads, partial(self._part, everything, pool))
                    for name, everything in planned.items()
                }
                for name, work in works.items():
                    try:
                        built[name] = work.result()
                    except Interrupted:
                        raise
                    except BuilditError as error:
                        self.failed[name] = error
        finally:
            pool.close()
        self._check(len(planned), "built")
        return built

    def _part(self, everything: Sequence[Prepared], pool: BuildPool) -> BuiltParts:
        waiting = [everything]
        options = everything[0].options

        def once(tell: Reporter, lost: frozenset[Digest]) -> BuiltParts:
            parts = waiting.pop() if waiting else planned_parts(options, tell, self.stop, lost)
            return build_parts(parts, tell, self.stop, lost, pool)

        return until_whole(once, self.report)

    def _check(self, count: int, what: str) -> None:
        if not self.failed:
            return
        (name, error), *others = self.failed.items()
        for other, wrong in others:
            self.report(Notice(f"{other}: {wrong.in_one_line()}", warning=True))
        told = f"{len(self.failed)} of {count} containers of {self.stack.name} could not be {what}"
        error.details = (*error.details, f"{told}: {', '.join(self.failed)}", f"this is of {name}")
        raise error


def _planned(options: Options, report: Reporter, stop: threading.Event) -> Sequence[Prepared]:
    return until_whole(lambda tell, lost: planned_parts(options, tell, stop, lost), report)


def _pinned_image(
    prepared: Prepared, built: BuiltParts, registry: Oci | None, output: Path
) -> PinnedImage:
    emission, image = built.emissions[0], built.images[0]
    rootfs = image.rootfs
    found: dict[str, str] = {}
    for name in ASKING_PROGRAMS if rootfs is not None else ():
        paths = (f"{folder}/{name}" for folder in _PROGRAMS)
        at = next((path for path in paths if rootfs is not None and rootfs.find(path)), None)
        found |= {} if at is None else {name: f"/{at}"}
    app = image.image.app
    if registry is not None:
        name = f"{registry.host}/{registry.name}/{container_part(prepared.plan.name)}"
        reference = f"{name}@{emission.identifier}"
        return PinnedImage(reference, "", app, found, prepared.plan.database)
    archive = os.path.relpath(emission.path, output)
    # a docker archive is known by its config, which is the ID that engines give it
    image_id = emission.identifier.removeprefix("sha256:")
    return PinnedImage(image_id, archive, app, found, prepared.plan.database)


def _emit(
    pinned: PinnedStack, output: Path, report: Reporter, built: Mapping[str, Emission]
) -> BuiltStack:
    """Write what starts the stack. What the stack no longer has goes.

    Raises:
        StoreError: it cannot be written.
    """
    texts = dict(compose_files(pinned))
    texts |= {f"quadlet/{name}": text for name, text in quadlet_files(pinned).items()}
    texts |= {f"kubernetes/{name}": text for name, text in kubernetes_files(pinned).items()}
    texts["README.md"] = readme_text(pinned)
    for remark in pinned.remarks:
        report(Notice(remark))
    paths = {output / name: text for name, text in texts.items()}
    try:
        for path, text in paths.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as stream:
                stream.write(text.encode())
        for folder in _FOLDERS:
            for path in sorted((output / folder).rglob("*"), reverse=True):
                if path.is_dir() and not path.is_symlink():
                    if not any(path.iterdir()):
                        path.rmdir()
                elif path not in paths:
                    path.unlink()
    except OSError as error:
        message = f"the stack cannot be written: {error.strerror}"
        hint = "name another directory with --output"
        raise StoreError(message, place=shown_place(output), hint=hint) from error
    report(Notice(f"the stack {pinned.stack.name} is in {output}: README.md says how to start it"))
    return BuiltStack(pinned.stack, pinned.images, output, tuple(paths), built)
