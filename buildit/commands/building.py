"""Build and publish a container: obtain its artifacts, stack their layers, emit its images."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.commands import stamp
from buildit.commands.mending import rechecking, refetch, until_whole
from buildit.commands.preparing import (
    Options,
    Prepared,
    discovered_places,
    keep_plan,
    lock,
    opened,
    prepare,
    with_synced,
)
from buildit.commands.realise import Tasks, lay, obtain_all, place_of
from buildit.commands.statement import image_statement, keep_statement
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, StoreError
from buildit.events import Emitted, Notice, Packaging, Processing, Reporter, Started
from buildit.image.added import added
from buildit.image.formats.table import emit_all, format_of, output_name
from buildit.image.merge import Rootfs
from buildit.image.names import tag
from buildit.make.makers import BuildPlace, TaskKind, kind_of
from buildit.model.artifact import Artifact
from buildit.model.config import Config
from buildit.model.image import Emission, Image, image_digest
from buildit.model.platform import PLATFORMS
from buildit.model.task import Task
from buildit.store.cas import Store
from buildit.store.checked import CorruptBlob
from buildit.trust.policy import Policy
from buildit.trust.votes import unused

if TYPE_CHECKING:
    from buildit.commands.assemble import Stack
    from buildit.commands.fetching import InputFetcher
    from buildit.commands.publish import Published
    from buildit.commands.run import Run
    from buildit.commands.starting import ImageTree

Done = dict[BuildKey, Artifact]
"""The artifacts at hand in one run."""


def _check_outputs(prepared: Prepared, done: Done, options: Options, report: Reporter) -> None:
    """Compare what is at hand with the bytes that the lock has for the same keys.

    Raises:
        IntegrityError: `--locked`, and they differ.
    """
    if prepared.planned is None or prepared.pins is None:
        return
    from buildit.commands.locking import differing

    lines = differing(prepared.pins.section, done)
    if lines and options.locked:
        raise IntegrityError(
            "a package is not reproducible: the lock has other bytes for the same key",
            place=str(options.directory / "buildit.lock"),
            hint="compare both (`buildit show`), or accept the new ones: build without --locked",
            details=lines,
        )
    for line in lines:
        report(Notice(f"not reproducible: {line}", warning=True))


def build(options: Options, report: Reporter, stop: threading.Event) -> tuple[Emission, ...]:
    """Build a container and emit its images into `options.output`.

    Raises:
        BuilditError: see each stage; the store stays whole, finished packages stay built.
    """
    return until_whole(lambda tell, lost: _build(options, tell, stop, lost), report)


def _build(
    options: Options, report: Reporter, stop: threading.Event, lost: frozenset[Digest]
) -> tuple[Emission, ...]:
    prepared = prepare(options, report)
    plan = prepared.plan
    report(Started(plan.label))
    for origin, key in plan.names:
        report(Processing(origin, plan.platform, key))
    for remark in plan.remarks:
        report(Notice(remark))
    prepared = with_synced(prepared, options)
    lock(prepared, options, report)
    _check_rules(prepared, report)
    settings = discovered_places(prepared, options, report)
    with opened(settings, options, report) as run:
        publishes = _publishes(options)
        if publishes:
            from buildit.commands.publish import check_before_build

            check_before_build(plan, run.remotes)
        done: Done = {}
        tasks, fetching = Tasks(plan), partial(_fetching, run, settings)
        place = place_of(plan, run.store, settings.limits, report, stop)
        with rechecking(plan, run.store, done):
            obtain_all(tasks, plan, place, run.remotes, fetching, settings.jobs, done)
            _check_outputs(prepared, done, options, report)
            made = _stack(prepared, tasks, place, run.remotes.policy, done)
            emissions = _emit(prepared, made, tasks, done, options.output, place)
            if not options.use:
                _keep_roots(prepared, run.store, done, options)
            if prepared.planned is not None:
                if not options.use:
                    _keep_outputs(prepared, done, options, report)
                # Last: a run that finds the plan kept does none of this again.
                keep_plan(prepared, options)
            if publishes:
                from buildit.commands.publish import publish

                refetch(plan, fetching, lost)
                openpgp = settings.trust.keys.openpgp
                publish(plan, tasks.named, run.remotes, openpgp, emissions)
    return emissions


def _check_rules(prepared: Prepared, report: Reporter) -> None:
    """Say, when a plan is new, which trust rules fit none of its packages.

    Raises:
        UsageError: one fits but for upper and lower case.
    """
    plan = prepared.plan
    names = [node.name for node in plan.tasks]
    names += [f"debian:{deb.name}" for deb in plan.toolchain.debs]
    found = unused(prepared.settings.trust.agreement, names)
    if found and prepared.planned is not None:
        rules = ", ".join(repr(glob) for glob in found)
        report(Notice(f"trust: no package of this container fits the rule {rules}"))


def push(options: Options, report: Reporter, stop: threading.Event) -> tuple[Published, ...]:
    """Publish a container that is built: its packages, its spec and its images. What turns out to
    be corrupt in the store on the way is fetched or built anew.

    Raises:
        UsageError: it is not built, or there is nowhere to publish to.
        FetchError, IntegrityError, StoreError: see `commands.publish`.
    """
    return until_whole(lambda tell, lost: _push(options, tell, stop, lost), report)


def _push(
    options: Options, report: Reporter, stop: threading.Event, lost: frozenset[Digest]
) -> tuple[Published, ...]:
    from buildit.commands.publish import built_keys, check_before_packaging, publish, targets

    prepared = with_synced(prepare(options, report), options)
    lock(prepared, options, report)
    settings = discovered_places(prepared, options, report)
    prepared = replace(prepared, settings=settings)
    with opened(settings, options, report) as run:
        done: Done = {}
        plan, remotes = prepared.plan, run.remotes
        targets(remotes)
        tasks, fetching = Tasks(plan), partial(_fetching, run, settings)
        place = place_of(plan, run.store, settings.limits, report, stop)
        with rechecking(plan, run.store, done):
            if lost:
                obtain_all(tasks, plan, place, remotes, fetching, settings.jobs, done)
                refetch(plan, fetching, lost)
            check_before_packaging(plan, built_keys(plan, tasks.named, remotes), remotes)
            obtain_all(tasks, plan, place, remotes, fetching, settings.jobs, done)
            made = _stack(prepared, tasks, place, run.remotes.policy, done)
            emissions = _emit(prepared, made, tasks, done, options.output, place)
            openpgp = settings.trust.keys.openpgp
            return publish(plan, tasks.named, remotes, openpgp, emissions)


def _fetching(run: Run, config: Config) -> InputFetcher:
    from buildit.commands.fetching import InputFetcher

    return InputFetcher(run.store, run.remotes, run.downloads, config.distfiles, config.jobs)


def _publishes(options: Options) -> bool:
    if options.push or not options.discover:
        return options.push
    from buildit.remote.discovery import publishes

    return publishes(options.discover)


def _stack(
    prepared: Prepared, tasks: Tasks, place: BuildPlace, policy: Policy, done: Done
) -> Stack:
    """The layers of the container; those of its steps are found or made here, and then in
    `done`."""
    from buildit.commands.assemble import stack

    def obtain(task: Task) -> Artifact:
        if task.key not in done:
            done[task.key] = lay(task, place, policy)
        return done[task.key]

    return stack(prepared.plan, place.store, tasks.named, obtain, prepared.taken)


def _emit(
    prepared: Prepared, made: Stack, tasks: Tasks, done: Done, output: Path, place: BuildPlace
) -> tuple[Emission, ...]:
    from buildit.commands.checking import image
    from buildit.commands.starting import image_tree

    plan, report, openpgp = prepared.plan, place.report, prepared.settings.trust.keys.openpgp
    title = f"{plan.name}-{plan.version}"
    if not plan.images:
        report(Notice("the container has no image step: nothing is emitted", warning=True))
    layers = tuple(made.layers)
    images = [image(plan, step, layers, made.epoch) for step in plan.images]
    rootfs = made.rootfs() if images else None
    if rootfs is not None and layers:
        platform = PLATFORMS[plan.toolchain.platform]
        tree = image_tree(rootfs, place.store.path, platform)
        inside = [(kind_of(tasks[key]), done[key], name) for key, name in made.members]
        _look_through(images, tree, inside, report)
    for one in images:
        report(Packaging(title, one.format))
    emissions = _emitted(images, rootfs, place.store, output, report)
    if emissions:
        first = replace(emissions[0], notices=(*made.remarks, *emissions[0].notices))
        emissions = (first, *emissions[1:])
    for one, emission in zip(images, emissions, strict=True):
        if format_of(one).signed and openpgp:
            from buildit.trust.openpgp import sign_aci

            sign_aci(emission.path, openpgp)
        members = {member: tasks[member[0]] for member in made.members}
        keep_statement(image_statement(plan, members, emission), emission)
        for notice in emission.notices:
            report(Notice(notice))
        report(Emitted(title, emission.format, str(emission.path), emission.digest))
    return emissions


def _look_through(
    images: Sequence[Image],
    tree: ImageTree,
    members: Sequence[tuple[TaskKind, Artifact, str]],
    report: Reporter,
) -> None:
    """Refuse images that would not start, before any is written; tell what else is missing.

    Raises:
        RecipeError: layers clash, or a program lacks its loader, interpreter or a library.
    """
    from buildit.commands import starting

    waived = starting.waived_needs([artifact for kind, artifact, _ in members if kind.builds])
    for one in images:
        started = starting.started_by(one)
        if started is not None:
            starting.check_starts(tree, *started, waived, one.place)
    debs = [(artifact, name) for kind, artifact, name in members if not kind.builds]
    for remark in starting.remarks(tree, debs):
        report(Notice(remark, warning=True))


def _emitted(
    images: Sequence[Image], rootfs: Rootfs | None, store: Store, output: Path, report: Reporter
) -> tuple[Emission, ...]:
    """Emit the images, but for those that lie there, came from the same image and are untouched."""
    at_hand = {one.format: kept for one in images if (kept := _kept(one, output)) is not None}
    wanted = [one for one in images if one.format not in at_hand]
    if not wanted:
        return tuple(at_hand[one.format] for one in images)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the output directory cannot be made: {error.strerror}",
            place=str(output),
            hint="name another one with --output",
        ) from error
    for one in wanted:
        # Before the image: a signature that lies there is of other bytes than are about to.
        path = output / output_name(one)
        path.with_name(f"{path.name}.asc").unlink(missing_ok=True)
        before = str(stamp.last(_question(path)).get("identifier", ""))
        if lost := added(path, tag(one.version), before):
            report(Notice(f"{path.name} is made anew, without {', '.join(lost)}", warning=True))
    try:
        made = emit_all(wanted, store.path, output, rootfs)
    except CorruptBlob as error:
        store.recheck(error.digest)
        raise
    for one, emission in zip(wanted, made, strict=True):
        result = {
            "image": image_digest(one),
            "digest": emission.digest,
            "identifier": emission.identifier,
            "notices": list(emission.notices),
        }
        parts = stamp.made(stamp.image_parts(emission.path))
        stamp.write(_question(emission.path), parts, result)
        at_hand[one.format] = emission
    return tuple(at_hand[one.format] for one in images)


def _question(path: Path) -> str:
    return stamp.name("image", os.path.abspath(path))


def _kept(wanted: Image, output: Path) -> Emission | None:
    path = output / output_name(wanted)
    kept = stamp.read(_question(path))
    if kept is None or kept.get("image") != image_digest(wanted):
        return None
    notices = tuple(kept["notices"])
    return Emission(path, wanted.format, kept["digest"], kept["identifier"], notices)


def _keep_outputs(prepared: Prepared, done: Done, options: Options, report: Reporter) -> None:
    """Note the outputs in the lock; a checkout that cannot be written is built all the same."""
    from buildit.commands.locking import with_outputs, write_lock

    pins = prepared.pins
    if options.locked or pins is None:
        return
    noted = replace(pins, section=with_outputs(pins.section, done))
    try:
        write_lock(options.directory, noted.changed())
    except StoreError as error:
        report(Notice(f"the digests of the outputs are not noted: {error.message}"))


def _keep_roots(prepared: Prepared, store: Store, done: Done, options: Options) -> None:
    """What this container needs is no garbage as long as its lock exists."""
    from buildit.store.collect import add_root

    plan = prepared.plan
    names: list[str] = [node.key for node in plan.tasks]
    names += done  # with the .debs that the image loads, which are not among the nodes
    names += [plan.toolchain.identity, *(deb.digest for deb in plan.toolchain.debs)]
    names += [source.digest for node in plan.tasks for source in node.inputs.sources]
    add_root(store, options.directory.resolve() / "buildit.lock", names)
