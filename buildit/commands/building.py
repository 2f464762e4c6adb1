"""Build and publish a container: obtain its artifacts, stack their layers, emit its images."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from buildit.commands.mending import every_deb, input_blobs, made_blobs, until_whole
from buildit.commands.realise import BuildPool, Tasks, lay, obtain_all, place_of
from buildit.commands.run import (
    Options,
    Prepared,
    Run,
    Unbuilt,
    check_rules,
    lock,
    prepare,
    prepared_each,
    run_of,
    write_sections,
)
from buildit.commands.statement import (
    as_one,
    digest_of,
    image_statement,
    keep_image,
    kept_emission,
    last_identifier,
)
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, StoreError, UsageError
from buildit.events import Emitted, Notice, Packaging, Processing, Reporter, Started
from buildit.image.formats.oci import added
from buildit.image.formats.table import emit_groups, format_of, output_name, start_of
from buildit.image.merge import Rootfs
from buildit.image.output import parts_of
from buildit.image.rendering import left_of
from buildit.image.rules import tag
from buildit.make.makers import BuildPlace, is_shared, kind_of
from buildit.model.artifact import Artifact
from buildit.model.image import Emission, Image
from buildit.model.plan import ContainerPlan, OutputRef, RunStep, Task
from buildit.model.platform import PLATFORMS
from buildit.plan.identity import RUN
from buildit.store.blobs import CorruptBlob

if TYPE_CHECKING:
    from buildit.commands.assemble import Stack
    from buildit.commands.fetching import InputFetcher
    from buildit.commands.publish import Published
    from buildit.commands.walking import AskStep


def build(
    options: Options, report: Reporter, stop: threading.Event, ask: AskStep | None = None
) -> tuple[Emission, ...]:
    """Build a container and emit its images into `options.output`; nothing is emitted where not
    all of its steps run, by what `ask` says.

    Raises:
        BuilditError: see each stage; the store stays whole, finished packages stay built.
    """
    return until_whole(
        lambda tell, lost: (
            build_parts(
                planned_parts(options, tell, stop, lost), tell, stop, lost, ask=ask
            ).emissions
        ),
        report,
    )


def planned_parts(
    options: Options, report: Reporter, stop: threading.Event, lost: frozenset[Digest]
) -> tuple[Prepared, ...]:
    """The plans of a container, one for each of its platforms, with their lock written.

    Raises:
        BuilditError: as `prepare`.
    """
    everything: list[Prepared] = []
    remarks: set[str] = set()
    for prepared in prepared_each(options, report, partial(_planned, stop=stop, lost=lost)):
        plan = prepared.plan
        if not everything:
            report(Started(plan.label))
        for origin, key in plan.names:
            report(Processing(origin, plan.platform, key))
        for remark in plan.remarks:
            if remark not in remarks:
                report(Notice(remark))
        remarks |= {*plan.remarks}
        everything.append(_locked(prepared, report))
        check_rules(prepared, report)
        _check_until(prepared)
    return tuple(everything)


def build_parts(
    everything: Sequence[Prepared],
    report: Reporter,
    stop: threading.Event,
    lost: frozenset[Digest],
    pool: BuildPool | None = None,
    ask: AskStep | None = None,
) -> BuiltParts:
    """Build what is planned and emit it. `pool` makes its tasks, where other containers are built
    at the same time; then nothing is published yet. `ask` is asked before each step.

    Raises:
        BuilditError: see each stage.
    """
    options = everything[0].options
    stacked: list[tuple[StackedImage, ...]] = []
    with _at_work(everything, report, stop, lost, pool) as works:
        publishes = publishes_of(options)
        if publishes:
            from buildit.commands.publish import check_publishing

            for work in works:
                check_publishing(work.plan, work.run.remotes)
        if ask is not None:
            from buildit.commands.walking import walked

            if not walked(works, ask, report):
                return BuiltParts((), ())
        obtain(works)
        if options.until:
            for work in works:
                work.build_until(options.until)
        else:
            stacked = [work.stacked() for work in works]
        emissions = emit(works, stacked)
        if not options.use:
            keep_roots(works)
        fresh = any(prepared.fresh for prepared in everything)
        if fresh and not (options.use or options.locked):
            keep_outputs(works)
        for prepared in everything if fresh else ():
            prepared.keep_plan()  # Last: a run that finds the plan kept does none of this again.
        if publishes and pool is None:
            for work in works:
                work.publish(work.own(emissions))
    return BuiltParts(emissions, tuple(one for each in stacked for one in each))


def _planned(
    options: Options, report: Reporter, stop: threading.Event, lost: frozenset[Digest]
) -> Prepared:
    """The plan of a container. What it begins with is built first, where it is not as its files and
    its lock say: its layers, which its tests look at, by its own lock.

    Raises:
        BuilditError: as `prepare`, or as a build of the one below.
    """
    try:
        return prepare(options, report)
    except Unbuilt:
        from buildit.commands.below import FirstBuilds, network_remark

    def make(asked: Options) -> None:
        prepared = _locked(below.planned(asked), report)
        for remark in network_remark(prepared.plan.commands):
            report(Notice(remark))
        with _at_work([prepared], report, stop, lost) as works:
            obtain(works)
            for work in works:
                work.stacked(starts=not asked.recipe.stage)
            keep_roots(works)
            if prepared.fresh:
                if not asked.locked:
                    keep_outputs(works)
                prepared.keep_plan()

    below = FirstBuilds(make, options.jobs, report)
    return below.planned(options)


def _locked(prepared: Prepared, report: Reporter) -> Prepared:
    """With what its sync steps take, and its lock written, or refused."""
    prepared = prepared.with_synced()
    lock(prepared, report)
    return prepared


def obtain(works: Sequence[_Work]) -> None:
    """Obtain what the images are made of: first what this machine must emulate, so that what it
    cannot do is said before anything is built."""
    for work in works:
        work.check_secrets()
    for work in sorted(works, key=_Work.emulates, reverse=True):
        work.obtain()
        work.check_outputs()


def keep_outputs(works: Sequence[_Work]) -> None:
    """Note the outputs in the lock; a checkout that cannot be written is built all the same."""
    options = works[0].prepared.options
    try:
        noted = [work.prepared.pins.with_outputs(work.done) for work in works]
        write_sections(
            options.directory, {pins.platform: pins.section for pins in noted}, noted[-1].lock
        )
    except StoreError as error:
        report = works[0].place.report
        report(Notice(f"the digests of the outputs are not noted: {error.message}"))


def keep_roots(works: Sequence[_Work]) -> None:
    """What this container needs is no garbage as long as its lock exists."""
    from buildit.store.upkeep import add_root

    directory = works[0].prepared.lock_path.parent.resolve()
    names = [name for work in works for name in work.roots()]
    stage = works[0].prepared.options.recipe.stage
    add_root(works[0].run.store, directory / "buildit.lock", names, stage)


def emit(
    works: Sequence[_Work], stacked: Sequence[tuple[StackedImage, ...]]
) -> tuple[Emission, ...]:
    """Emit the images of what was stacked for each platform: those of a format that holds several
    platforms together, the others each by itself."""
    if not stacked:
        return ()
    report = works[0].place.report
    for work in works:
        if not work.plan.images:
            report(Notice("the container has no image step: nothing is emitted", warning=True))
    groups: list[tuple[StackedImage, ...]] = []
    for alike in zip(*stacked, strict=True):
        together = len(alike) > 1 and format_of(alike[0].image).together is not None
        groups += [alike] if together else [(one,) for one in alike]
    plan, openpgp = works[0].plan, works[0].run.config.trust.keys.openpgp
    title = f"{plan.name}-{plan.version}"
    for group in groups:
        report(Packaging(title, group[0].image.format))
    emissions = works[0].emitted(groups)
    for group, emission in zip(groups, emissions, strict=True):
        if format_of(group[0].image).signed and openpgp:
            from buildit.trust.openpgp import sign_aci

            for path in (emission.path, *parts_of(emission.path)):
                if path.suffix == ".aci":
                    sign_aci(path, openpgp)
        said = [image_statement(one.work.plan, one.members, emission) for one in group]
        statement = said[0] if len(said) == 1 else as_one(said)
        keep_image(emission, digest_of([one.image for one in group]), statement)
    if emissions:
        remarks = dict.fromkeys(told for group in groups for one in group for told in one.remarks)
        first = replace(emissions[0], notices=(*remarks, *emissions[0].notices))
        emissions = (first, *emissions[1:])
    for emission in emissions:
        for notice in emission.notices:
            report(Notice(notice))
        report(Emitted(title, emission.format, str(emission.path), emission.digest))
    return emissions


def _check_until(prepared: Prepared) -> None:
    """Raises UsageError: there is no such step, or a part of a container is to be published."""
    options = prepared.options
    if options.until:
        from buildit.commands.stepping import find_step

        find_step(prepared.plan.listed, options.until)
        if publishes_of(options):
            message = "--until makes no image, so that there is nothing to publish"
            raise UsageError(message, hint="leave --push out, or build the whole container")


def publishes_of(options: Options) -> bool:
    """Whether what is made is to be published."""
    if options.push or not options.discover:
        return options.push
    from buildit.remote.discovery import publishes

    return publishes(options.discover)


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
    from buildit.commands.publish import built_keys, check_publishing, targets

    everything = [_locked(one, report) for one in prepared_each(options, report)]
    with _at_work(everything, report, stop, lost) as works:
        remotes = works[0].run.remotes
        targets(remotes)
        if lost:
            obtain(works)
        for work in works:
            keys = built_keys(work.plan, work.tasks.named, remotes)
            check_publishing(work.plan, remotes, keys)
        obtain(works)
        emissions = emit(works, [work.stacked() for work in works])
        return tuple(done for work in works for done in work.publish(work.own(emissions)))


@contextmanager
def _at_work(
    everything: Sequence[Prepared],
    report: Reporter,
    stop: threading.Event,
    lost: frozenset[Digest],
    pool: BuildPool | None = None,
) -> Iterator[tuple[_Work, ...]]:
    """What a run works with, for each platform. Where a blob turns out to be corrupt, all that is
    at hand for the plans is looked at, so that one more beginning is enough; and it is said whose
    it is.

    Raises:
        CorruptBlob: as it came, with a name for people.
    """
    with run_of(everything[0], report) as run:
        works = []
        for prepared in everything:
            plan = prepared.plan
            place = place_of(plan, run.store, run.config.limits, report, stop)
            secrets = prepared.options.secrets.over(run.config.secrets)
            place = replace(place, secret=secrets.value, offline=prepared.options.offline)
            works.append(_Work(prepared, run, Tasks(plan), place, lost, pool))
        try:
            yield tuple(works)
        except CorruptBlob as error:
            names = made_blobs(one for work in works for one in work.done.values())
            for digest in names:
                run.store.recheck(digest)
            named = {k: v for work in works for k, v in input_blobs(work.plan).items()} | names
            raise CorruptBlob(error.digest, named.get(error.digest, error.what)) from error


@dataclass(frozen=True, slots=True)
class _Work:
    """One container in one run, for one platform: what was opened for it, its tasks, the blobs that
    turned out to be `lost`, and the artifacts at hand, which are `done`; `steps` are the keys of
    those of its steps that others may take."""

    prepared: Prepared
    run: Run
    tasks: Tasks
    place: BuildPlace
    lost: frozenset[Digest]
    pool: BuildPool | None = None
    done: dict[BuildKey, Artifact] = field(default_factory=dict)
    steps: dict[BuildKey, None] = field(default_factory=dict)

    @property
    def plan(self) -> ContainerPlan:
        return self.prepared.plan

    def emulates(self) -> bool:
        return any(task.inputs.emulator for task in self.plan.tasks)

    def own(self, emissions: Sequence[Emission]) -> tuple[Emission, ...]:
        """Those of all emissions that hold an image for this platform."""
        from buildit.commands.assemble import image

        images = [image(self.plan, step) for step in self.plan.images]
        names = {output_name(one, several=several) for one in images for several in (False, True)}
        return tuple(one for one in emissions if one.path.name in names)

    def fetching(self) -> InputFetcher:
        from buildit.commands.fetching import InputFetcher

        run = self.run
        return InputFetcher(run.store, run.downloads, run.config.jobs)

    def obtain(self) -> None:
        """Obtain what the images are made of."""
        plan, remotes, jobs = self.prepared.plan, self.run.remotes, self.run.config.jobs
        brought = self.place, remotes, self.fetching, jobs
        obtain_all(self.tasks, plan, *brought, self.done, self.pool)

    def check_secrets(self) -> None:
        """Raises UsageError where a step will need a secret that is not given."""
        if any(isinstance(step, RunStep) and step.secrets for step in self.plan.steps):
            from buildit.commands.needed_secrets import check_given

            node, remotes, taken = self.tasks.named, self.run.remotes, self.prepared.taken
            asked, made = self.prepared.options, self.done
            until, anew = self._until(asked.until), asked.rebuild
            check_given(self.plan, node, self.place, remotes, taken, made, until, anew=anew)

    def _until(self, wanted: str) -> int | None:
        """How many of the plan's steps are laid up to a listed one; None where all are."""
        if not wanted:
            return None
        from buildit.commands.stepping import find_step, layers_until

        return layers_until(self.plan, find_step(self.plan.listed, wanted))

    def check_outputs(self) -> None:
        """Compare what is at hand with the bytes that the lock has for the same keys.

        Raises:
            IntegrityError: `--locked`, and they differ.
        """
        prepared = self.prepared
        lines = prepared.pins.differing(self.done) if prepared.fresh else ()
        if lines and prepared.options.locked:
            message = "a package is not reproducible: the lock has other bytes for the same key"
            place = str(prepared.lock_path)
            hint = "compare both (`buildit show`), or accept the new ones: build without --locked"
            raise IntegrityError(message, place=place, hint=hint, details=lines)
        for line in lines:
            self.place.report(Notice(f"not reproducible: {line}", warning=True))

    def stacked(self, *, starts: bool = True) -> tuple[StackedImage, ...]:
        """Stack the layers for all images; the layers of its steps are found or made here. A stage
        is no image that `starts`."""
        from buildit.commands.assemble import image
        from buildit.commands.settling import with_app

        plan = self.prepared.plan
        made = self._stack()
        images = [image(plan, step, tuple(made.layers), made.epoch) for step in plan.images]
        app = made.app(plan)
        images = [with_app(one, app) for one in images]
        rootfs = made.rootfs() if images else None
        if rootfs is not None and made.layers and starts:
            self._look_through(images, rootfs, made)
        if plan.tests:
            from buildit.commands.finished import test_tasks

            for task in test_tasks(plan, app, made):
                self.obtained(task)
        members = {member: self.tasks[member[0]] for member in made.members}
        told = tuple(made.remarks)
        return tuple(StackedImage(self, one, rootfs, members, told) for one in images)

    def _stack(self, until: int | None = None) -> Stack:
        from buildit.commands.assemble import stack

        node, taken = self.tasks.named, self.prepared.taken
        return stack(self.prepared.plan, self.run.store, node, self.obtained, taken, until)

    def obtained(self, task: Task) -> Artifact:
        def bring(task: Task) -> None:
            if task.inputs.debs:
                with self.pool.fetching if self.pool is not None else nullcontext():
                    self.fetching().bring((task,), self.plan.toolchain)

        if task.key not in self.done:
            self.done[task.key] = lay(task, self.place, self.run.remotes, bring)
            if self.prepared.options.rebuild and task.kind == RUN:
                from buildit.commands.stepping import check_again

                check_again(task, self.done[task.key], self.place)
        if is_shared(task) and task.key not in self.tasks:
            self.steps[task.key] = None
        return self.done[task.key]

    def build_until(self, wanted: str) -> None:
        """Make the layers of the steps up to one of them, and say so."""
        from buildit.commands.stepping import find_step, step_said

        plan, directory = self.prepared.plan, self.prepared.options.directory
        number = find_step(plan.listed, wanted)
        self._stack(self._until(wanted))
        said = f"built up to {step_said(plan, number)}, without an image"
        self.place.report(Notice(f"{said}; look at it: buildit shell {directory} --at {number}"))

    def _program_place(self) -> str | None:
        """Where the program that counts was written."""
        places = map(self.plan.place_of, ("entrypoint", "cmd"))
        return next((place for place in places if place), None)

    def _look_through(self, images: Sequence[Image], rootfs: Rootfs, made: Stack) -> None:
        """Refuse images that would not start, before any is written; tell what else is missing.

        Raises:
            RecipeError: layers clash, or a program lacks its loader, interpreter or a library.
        """
        from buildit.commands import starting

        platform = PLATFORMS[self.prepared.plan.toolchain.platform]
        tree = starting.image_tree(rootfs, made.contents(rootfs), platform)
        builds = {key for key, _ in made.members if kind_of(self.tasks[key]).builds}
        debs = [(self.done[key], name) for key, name in made.members if key not in builds]
        waived = starting.waived_needs([self.done[key] for key in builds])
        for one in images:
            start = start_of(replace(one, written=None))
            if start.program is not None:
                seen = rootfs if not start.only else left_of(rootfs, start.only)
                left = tree
                if seen is not rootfs:
                    left = starting.image_tree(seen, made.contents(seen), platform)
                said = None if one.content else self._program_place()
                place = said or one.place
                starting.check_starts(left, start.program, start.environment, waived, place)
        for service, program, known in starting.programs_of(self.prepared.plan, made.init):
            who = f"the service {service.name}"
            starting.check_starts(tree, program, known, waived, service.place, who)
        for remark in starting.remarks(tree, debs):
            self.place.report(Notice(remark, warning=True))

    def emitted(self, groups: Sequence[Sequence[StackedImage]]) -> tuple[Emission, ...]:
        """Emit the images of each group as one, but for those that lie there, came from the same
        images and are untouched."""
        output, store = self.prepared.options.output, self.run.store
        images = [[one.image for one in group] for group in groups]
        paths = [output / output_name(each[0], several=len(each) > 1) for each in images]
        at_hand = [kept_emission(*pair) for pair in zip(paths, images, strict=True)]
        wanted = [number for number, found in enumerate(at_hand) if found is None]
        if wanted:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"the output directory cannot be made: {error.strerror}"
                hint = "name another one with --output"
                raise StoreError(message, place=str(output), hint=hint) from error
            for number in wanted:
                # Before the image: a signature that lies there is of other bytes than are about to.
                path, one = paths[number], images[number][0]
                path.with_name(f"{path.name}.asc").unlink(missing_ok=True)
                if lost := added(path, tag(one.version), last_identifier(path)):
                    what = f"{path.name} is made anew, without {', '.join(lost)}"
                    self.place.report(Notice(what, warning=True))
            try:
                asked = [[(one.image, one.rootfs) for one in groups[number]] for number in wanted]
                made = emit_groups(asked, store.path, output)
            except CorruptBlob as error:
                store.recheck(error.digest)
                raise
            for number, emission in zip(wanted, made, strict=True):
                at_hand[number] = emission
        return tuple(found for found in at_hand if found is not None)

    def roots(self) -> list[str]:
        """What it needs of the store."""
        plan = self.prepared.plan
        names: list[str] = [node.key for node in plan.tasks]
        names += self.done  # with the .debs that the image loads, which are not among the nodes
        names += plan.pinned
        names += [plan.toolchain.identity, *(deb.digest for deb in plan.toolchain.debs)]
        names += [deb.digest for step in plan.commands for deb in step.debs]
        names += [source.digest for node in plan.tasks for source in node.inputs.sources]
        names += [deb.digest for node in plan.tasks for deb in node.inputs.every_deb()]
        names += [blob for node in plan.tasks if node.inputs.image for blob in node.inputs.blobs]
        if chroots := [node.inputs.chroot for node in plan.tasks if node.inputs.chroot]:
            from buildit.make.debian_root import root_names

            names += [root_names(chroot)[-1] for chroot in chroots]  # the base: all share it
        return names

    def publish(self, emissions: Sequence[Emission]) -> tuple[Published, ...]:
        """Publish it, with inputs that were lost fetched once more."""
        from buildit.commands.publish import publish

        plan, run = self.prepared.plan, self.run
        if self.lost:  # what is only published needs no build
            self.fetching().bring_again(self.lost, plan.tasks, every_deb(plan).values())
        openpgp = run.config.trust.keys.openpgp
        return publish(plan, self.tasks.named, run.remotes, openpgp, emissions, tuple(self.steps))


@dataclass(frozen=True, slots=True)
class StackedImage:
    """One image of one platform, ready to be written: whose it is, its merged tree, the tasks whose
    outputs are in it, bottom first, and remarks about all of it."""

    work: _Work
    image: Image
    rootfs: Rootfs | None
    members: Mapping[OutputRef, Task]
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BuiltParts:
    """What a build made: the emissions, and the images that they hold."""

    emissions: tuple[Emission, ...]
    images: tuple[StackedImage, ...]
