"""What a container begins with: the image that its `from` step names, pinned, and what that says of
its start, which holds where the container says nothing, as for a Dockerfile's FROM.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Set
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.commands.choose import Choice, wrong_at
from buildit.commands.image_names import ImageNames
from buildit.commands.pins import Answer
from buildit.commands.run import Downloads, Options
from buildit.digest import Digest, digest_bytes
from buildit.errors import FetchError, RecipeError, UsageError
from buildit.model.config import OCI_SCHEME
from buildit.model.copying import CopyOrigin
from buildit.model.image import App, Inherited
from buildit.model.plan import DebRef, FromStep, ImageRef, Task
from buildit.model.recipe import RecipeOptions
from buildit.plan.evaluate import written_at
from buildit.recipe.container import Container, FromSpec, LoadedStep
from buildit.remote.registry.reference import DOCKER_SCHEME, Reference, parse_reference

if TYPE_CHECKING:
    from buildit.image.inheriting import BaseImage

CONTAINER, STAGE = "container", "stage"
_LOCAL = {"oci:": "oci", "oci-archive:": "oci", "docker-archive:": "docker-archive", "aci:": "aci"}
"""How an image on this machine is named where `oci` says it, as skopeo names it, and its kind."""


@dataclass(frozen=True, slots=True)
class Base:
    """`number` is the step's. `consulted` are files that decide what it is, `answers` the .debs of
    a suite, by who asks for them in the lock."""

    number: int
    step: FromStep
    task: Task
    image: ImageRef
    inherited: Inherited
    consulted: tuple[Path, ...] = ()
    answers: Mapping[str, Answer] = field(default_factory=dict)

    @property
    def pins(self) -> Mapping[str, Digest]:
        """What the lock says of it, where its .debs do not say it."""
        return {} if self.answers else {self.image.reference: self.image.digest}

    @property
    def debs(self) -> tuple[DebRef, ...]:
        """What it is made of, where that is known."""
        return tuple(deb for answer in self.answers.values() for deb in answer.debs)


@dataclass(frozen=True, slots=True)
class TakenImage:
    """An image that a step takes something of: the task of its layers, its pin, what it says of its
    start, and the files that decide what it is."""

    task: Task
    image: ImageRef
    inherited: Inherited
    consulted: tuple[Path, ...] = ()

    @property
    def origin(self) -> CopyOrigin:
        """How a step names it."""
        return CopyOrigin(self.task.key, tuple(self.task.outputs), self.image.reference)


@dataclass(frozen=True, slots=True)
class _Named:
    """An image as a step names it: at a path of this machine, or in a registry."""

    reference: str
    kind: str
    path: Path | None = None
    remote: Reference | None = None
    place: str = field(default="", compare=False)


def begun_with(choice: Choice, downloads: Downloads) -> Base | None:
    """The image that the container begins with, pinned; None where it begins with nothing.

    Raises:
        RecipeError: the step is not the first that adds to the image, there are two, or it names
            no image.
        FetchError: it is not pinned, and the registry cannot be asked.
        IntegrityError: it is not what its digests say, or for another platform.
    """
    container = choice.container
    found = _step_of(container)
    if found is None:
        return None
    number, step, spec = found
    if spec.suite is not None:
        return _suite(choice, number, step, spec.suite, downloads)
    taken = taken_image(choice, step, spec, downloads, "from")
    task, image = taken.task, taken.image
    made = FromStep(task.key, image.reference, tuple(task.outputs), image.place)
    return Base(number, made, task, image, taken.inherited, taken.consulted)


def taken_image(
    choice: Choice, step: LoadedStep, spec: FromSpec, downloads: Downloads, *at: str | int
) -> TakenImage:
    """The image that a step names at a path, pinned, with the task that takes its layers in.

    Raises:
        RecipeError, FetchError, IntegrityError: as `begun_with`.
        Unbuilt: it is a container, or a stage, which is not built.
    """
    from buildit.image.inheriting import find_base, told_of_base
    from buildit.make.from_image import from_task

    named = _named(step, spec, choice.images, *at)
    consulted: tuple[Path, ...] = ()
    if named.kind in (CONTAINER, STAGE):
        base, consulted = _other(choice, named, downloads)
    else:
        with told_of_base(named.reference, named.place):
            if named.path is None:
                base = _in_registry(choice, named, downloads)
            else:
                base = find_base(named.kind, named.path, str(choice.target))
                consulted = tuple(_documents(named.path, base))
    _check_platform(choice, named, base)
    path = "" if named.path is None else str(named.path)
    where = (path, str(choice.target), named.place)
    image = ImageRef(named.reference, named.kind, base.digest, *where)
    looked = (*consulted, *choice.images.looked)
    return TakenImage(from_task(image, base), image, base.inherited, looked)


_OVER_A_BASE = {"package", "sync", "directories", "symlinks", "texts", "modes", "run"}
"""The steps that add to an image."""


def _suite(choice: Choice, number: int, step: LoadedStep, name: str, downloads: Downloads) -> Base:
    """The root of a suite, which its packages' scripts configure before any other step."""
    from buildit.commands.suites import pin_suite
    from buildit.make.suite import configure_step, suite_image, suite_task

    place = written_at(step.node, "from", "suite")
    asker, answer = pin_suite(choice, name, place, downloads)
    image = suite_image(name, answer.debs, str(choice.target), place)
    task = suite_task(image, answer.debs)
    configure = configure_step(image)
    made = FromStep(task.key, image.reference, tuple(task.outputs), place, configure)
    return Base(number, made, task, image, Inherited(), answers={asker: answer})


def _step_of(container: Container) -> tuple[int, LoadedStep, FromSpec] | None:
    """The one `from` step, before whatever lies over it."""
    first: LoadedStep | None = None
    found: tuple[int, LoadedStep, FromSpec] | None = None
    for number, step in enumerate(container.steps):
        spec = step.spec
        if spec.from_ is not None:
            if found is not None:
                hint = f"the first is at {found[1].place}; keep one of them"
                raise wrong_at(step, "a container begins with one image", hint)
            if first is not None:
                hint = f"move it before the step at {first.place}"
                raise wrong_at(step, "`from` lies below all that the container adds", hint)
            found = number, step, spec.from_
        elif spec.model_fields_set & _OVER_A_BASE:
            first = first or step
    return found


def moved_base(base: Base, choice: Choice) -> Base:
    """The same base in a container that was read again, now that it is known what the base says."""
    found = _step_of(choice.container)
    assert found is not None  # noqa: S101 - `check_settled` saw the same step
    return replace(base, number=found[0])


def _named(step: LoadedStep, spec: FromSpec, images: ImageNames, *at: str | int) -> _Named:
    """Raises RecipeError where the text names no image."""
    if spec.suite is not None:
        hint = "let a container begin with it, and name that: {container: DIR}"
        raise wrong_at(step, "nothing can be taken of a suite", hint, *at, "suite")
    if spec.stage is not None:
        place = written_at(step.node, *at, STAGE)
        return _Named(f"{STAGE}:{spec.stage}", STAGE, step.base, place=place)
    if spec.container is not None:
        place, text = written_at(step.node, *at, CONTAINER), spec.container
        path = _path(step, text)
        return _Named(f"{CONTAINER}:{text}", CONTAINER, path, place=place)
    if spec.oci is None:
        kind = "aci" if spec.aci is not None else "docker-archive"
        place = written_at(step.node, *at, kind)
        text = (spec.aci or spec.docker_archive or "").removeprefix(f"{kind}:")
        return _Named(f"{kind}:{text}", kind, _path(step, text), place=place)
    place = written_at(step.node, *at, "oci")
    text = images.reference(spec.oci, place)
    if text.startswith((OCI_SCHEME, DOCKER_SCHEME)):
        try:
            remote = parse_reference(text)
        except UsageError as error:
            message = f"{text!r} names no image: {error.message}"
            raise RecipeError(message, place=place, hint=error.hint) from error
        return _Named(str(remote), "oci", None, remote, place)
    for scheme, kind in _LOCAL.items():
        if text.startswith(scheme) and len(text) > len(scheme):
            return _Named(text, kind, _path(step, text.removeprefix(scheme)), place=place)
    hint = "write oci:DIR, oci-archive:FILE or docker://HOST/NAME:TAG, as skopeo does"
    raise RecipeError(f"{text!r} names no image", place=place, hint=hint)


def _path(step: LoadedStep, text: str) -> Path:
    """Absolute, and as it is written: links on its way are followed when it is read."""
    return Path(os.path.abspath(step.base / text))


def _other(
    choice: Choice, named: _Named, downloads: Downloads
) -> tuple[BaseImage, tuple[Path, ...]]:
    """Another container, or another stage of the same recipe, as it was built for the same
    platform.

    Raises:
        RecipeError: it needs this one in turn.
        UsageError: there is none, or it is not for the platform.
        Unbuilt: it is not built.
    """
    from buildit.commands.container_base import container_base

    options, path = choice.options, named.path
    assert path is not None  # noqa: S101 - it is a directory of this machine
    shown = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path
    given = replace(options, use=(), push=False, until="", discover=())
    if named.kind == STAGE:
        recipe = options.recipe.of_stage(named.reference.removeprefix(f"{STAGE}:"))
        asked = replace(given, recipe=recipe)
    else:
        asked = replace(given, directory=shown, update=(), recipe=RecipeOptions())
    above, there = (*options.above, _identity(options)), _identity(asked)
    if there in above:
        circle = [*above[above.index(there) :], there]
        whose = "stages take" if named.kind == STAGE else "containers begin with"
        said = "of each other" if named.kind == STAGE else "each other"
        message = f"{whose} {said}: {' -> '.join(circle)}"
        hint = "let one of them begin with an image of its own"
        raise RecipeError(message, place=named.place, hint=hint)
    asked = replace(asked, platform=str(choice.target), above=above)
    try:
        return container_base(asked, downloads, named.place)
    except UsageError as error:  # of a directory, which nobody named on the command line
        error.details = (*error.details, f"the container begins with it at {named.place}")
        raise


def _identity(options: Options) -> str:
    """What tells containers apart that need each other."""
    stage = options.recipe.stage
    return os.path.realpath(options.directory) + (f" ({stage})" if stage else "")


def _documents(path: Path, base: BaseImage) -> Iterator[Path]:
    """The files that decide which image it is; its layers are named by their digests there."""
    if not path.is_dir():
        yield path
        return
    blobs = path / "blobs/sha256"
    yield from (path / "oci-layout", path / "index.json", blobs / base.digest, blobs / base.config)


def _check_platform(choice: Choice, named: _Named, base: BaseImage) -> None:
    wanted = str(choice.target)
    if base.platform != wanted:
        message = f"the base {named.reference} is for {base.platform}, the container for {wanted}"
        hint = "name a base for that platform, or build for the other one: `platforms`, --platform"
        raise RecipeError(message, place=named.place, hint=hint)


def _in_registry(choice: Choice, named: _Named, downloads: Downloads) -> BaseImage:
    at = named.remote
    assert at is not None  # noqa: S101 - it is no path
    moves = choice.options.moves(named.reference, named.reference.removeprefix(OCI_SCHEME))
    locked = {} if moves else choice.section.images
    return registry_image(at, locked, str(choice.target), named.place, downloads)


def registry_image(
    at: Reference, locked: Mapping[str, Digest], platform: str, place: str, downloads: Downloads
) -> BaseImage:
    """An image of a registry: by what is `locked` of its reference where that is at hand, else as
    the registry says. Its manifest and its config are in the store then.

    Raises:
        FetchError: it is not pinned, and the registry cannot be asked.
        IntegrityError: it is not what its digests say, or for another platform.
    """
    from buildit.image.inheriting import manifest_base
    from buildit.make.from_image import stored_layout, stored_manifest
    from buildit.remote.registry.images import find_image, remote_config, stored_image

    store, digest = downloads.store, locked.get(str(at))
    if digest is None or stored_image(at, digest, store) is None:
        if downloads.offline:
            hint = "run once without --offline; what is then in the store and the lock will do"
            message = "it is needed, and --offline forbids to ask for it"
            raise FetchError(message, place=place, hint=hint)
        from buildit.remote.registry.client import Registry
        from buildit.remote.web import WebTransport

        with closing(WebTransport()) as web:
            registry = Registry(web, at)
            try:
                image = find_image(registry, platform, {} if digest is None else locked)
            except FetchError as error:
                if digest is not None:
                    error.hint = "the lock has that digest; to take what the tag names now: "
                    error.hint += f"buildit lock --update {at}"
                raise
            config = remote_config(image, registry)
        digest = digest_bytes(image.manifest)
        store.pin([digest, image.config.digest])
        store.put_bytes(image.manifest)
        store.put_bytes(config)
    return manifest_base(stored_layout(store), stored_manifest(digest, store))


# -- what it says of the start


def inheriting(app: App, base: App, said: Set[str]) -> App:
    """The app over what the base says: its variables, ports and volumes are there as well, the
    later of one name counts; of the rest what the container does not say. `said` are the fields of
    `App` that it does."""
    environment = {**dict(base.environment), **dict(app.environment)}
    ports = {(one.number, one.protocol): one for one in (*base.ports, *app.ports)}
    volumes = {one.path: one for one in (*base.volumes, *app.volumes)}
    own_user = "user" in said
    # Docker's rule: who says an entrypoint leaves the arguments of the image below (moby,
    # builder/dockerfile/dispatchers.go, dispatchEntrypoint).
    own_arguments = "exec" in said or "arguments" in said
    return replace(
        app,
        exec=app.exec if "exec" in said else base.exec,
        arguments=app.arguments if own_arguments else base.arguments,
        user=app.user if own_user or not base.user else base.user,
        group=app.group if own_user or "group" in said else base.group,
        environment=tuple(environment.items()),
        working_directory=(
            app.working_directory if "working_directory" in said else base.working_directory
        ),
        ports=tuple(ports.values()),
        volumes=tuple(volumes.values()),
        stop_signal=app.stop_signal if "stop_signal" in said else base.stop_signal,
        health=app.health or base.health,
        interpreter=app.interpreter or base.interpreter,
    )


def inherited_labels(
    base: Inherited, own: tuple[tuple[str, str], ...], about: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    """The labels of a base below those of the container, without what this says of itself."""
    known = dict(about)
    kept = {name: value for name, value in base.labels if name not in known}
    return tuple({**kept, **dict(own)}.items())


def supposed(app: App) -> App:
    """The app for what can be checked without the base's files: programs have some absolute path,
    and accounts that only the base has some number."""
    health = app.health
    if health is not None and health.exec:
        health = replace(health, exec=_absolute(health.exec))
    user = app.user if app.user.isdecimal() else "0"
    group = app.group if app.group is None or app.group.isdecimal() else "0"
    own = app.own_group or "0"
    whole = app.with_program(_absolute(app.argv)[0]) if app.argv else app
    return replace(whole, health=health, user=user, group=group, own_group=own)


def _absolute(words: tuple[str, ...]) -> tuple[str, ...]:
    return (f"/{words[0].lstrip('/')}", *words[1:])
