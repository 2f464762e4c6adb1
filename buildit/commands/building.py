"""Build and publish a container: obtain its artifacts, stack their layers, emit its images.

A run that finds something in the store corrupt, or gone, has it made anew and goes on: a blob that
is not what its name says is set aside; then the store misses it, and the same run, begun again,
fetches or builds what it misses. Whatever is sound stays as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from buildit.commands.realise import Tasks, lay, obtain_all, place_of
from buildit.commands.run import Options, Prepared, Run, lock, prepare, run_of, write_lock
from buildit.commands.statement import image_statement, keep_image, kept_emission, last_identifier
from buildit.digest import BuildKey, Digest
from buildit.errors import IntegrityError, StoreError
from buildit.events import Emitted, Event, Notice, Packaging, Processing, Reporter, Reused, Started
from buildit.image.formats.oci import added
from buildit.image.formats.table import emit_all, format_of, output_name, start_of
from buildit.image.merge import Rootfs
from buildit.image.output import parts_of
from buildit.image.rendering import left_of
from buildit.image.rules import tag
from buildit.make.makers import BuildPlace, kind_of
from buildit.model.artifact import Artifact
from buildit.model.image import Emission, Image, image_digest
from buildit.model.plan import ContainerPlan, DebRef, Task
from buildit.model.platform import PLATFORMS
from buildit.model.services import Service
from buildit.store.blobs import CorruptBlob
from buildit.store.disk import Vanished
from buildit.trust.policy import unused

if TYPE_CHECKING:
    from buildit.commands.assemble import Stack
    from buildit.commands.fetching import InputFetcher
    from buildit.commands.publish import Published


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
    prepared = prepared.with_synced()
    lock(prepared, report)
    _check_rules(prepared, report)
    with _at_work(prepared, report, stop, lost) as work:
        publishes = _publishes(options)
        if publishes:
            from buildit.commands.publish import check_publishing

            check_publishing(plan, work.run.remotes)
        work.obtain()
        work.check_outputs()
        emissions = work.emit()
        if not options.use:
            work.keep_roots()
        if prepared.fresh:
            if not (options.use or options.locked):
                work.keep_outputs()
            # Last: a run that finds the plan kept does none of this again.
            prepared.keep_plan()
        if publishes:
            work.publish(emissions)
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
    if found and prepared.fresh:
        rules = ", ".join(repr(glob) for glob in found)
        report(Notice(f"trust: no package of this container fits the rule {rules}"))


def _publishes(options: Options) -> bool:
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

    prepared = prepare(options, report).with_synced()
    lock(prepared, report)
    with _at_work(prepared, report, stop, lost) as work:
        plan, remotes = prepared.plan, work.run.remotes
        targets(remotes)
        if lost:
            work.obtain()
        check_publishing(plan, remotes, built_keys(plan, work.tasks.named, remotes))
        work.obtain()
        return work.publish(work.emit())


@contextmanager
def _at_work(
    prepared: Prepared, report: Reporter, stop: threading.Event, lost: frozenset[Digest]
) -> Iterator[_Work]:
    """What a run works with. Where a blob turns out to be corrupt, all that is at hand for the plan
    is looked at, so that one more beginning is enough; and it is said whose it is.

    Raises:
        CorruptBlob: as it came, with a name for people.
    """
    plan = prepared.plan
    with run_of(prepared, report) as run:
        place = place_of(plan, run.store, run.config.limits, report, stop)
        work = _Work(prepared, run, Tasks(plan), place, lost)
        try:
            yield work
        except CorruptBlob as error:
            names = _made_blobs(work.done.values())
            for digest in names:
                run.store.recheck(digest)
            named = _input_blobs(plan) | names
            raise CorruptBlob(error.digest, named.get(error.digest, error.what)) from error


@dataclass(frozen=True, slots=True)
class _Work:
    """One container in one run: what was opened for it, its tasks, the blobs that turned out to be
    `lost`, and the artifacts at hand, which are `done`."""

    prepared: Prepared
    run: Run
    tasks: Tasks
    place: BuildPlace
    lost: frozenset[Digest]
    done: dict[BuildKey, Artifact] = field(default_factory=dict)

    def fetching(self) -> InputFetcher:
        from buildit.commands.fetching import InputFetcher

        run = self.run
        return InputFetcher(run.store, run.downloads, run.config.jobs)

    def obtain(self) -> None:
        """Obtain what the images are made of."""
        plan, remotes, jobs = self.prepared.plan, self.run.remotes, self.run.config.jobs
        obtain_all(self.tasks, plan, self.place, remotes, self.fetching, jobs, self.done)

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

    def emit(self) -> tuple[Emission, ...]:
        """Stack the layers and emit the images; the layers of its steps are found or made here."""
        from buildit.commands.assemble import image, stack

        def obtain(task: Task) -> Artifact:
            if task.key not in self.done:
                self.done[task.key] = lay(task, self.place, self.run.remotes.policy)
            return self.done[task.key]

        plan, report = self.prepared.plan, self.place.report
        made = stack(plan, self.run.store, self.tasks.named, obtain, self.prepared.taken)
        title = f"{plan.name}-{plan.version}"
        if not plan.images:
            report(Notice("the container has no image step: nothing is emitted", warning=True))
        images = [image(plan, step, tuple(made.layers), made.epoch) for step in plan.images]
        rootfs = made.rootfs() if images else None
        if rootfs is not None and made.layers:
            self._look_through(images, rootfs, made)
        for one in images:
            report(Packaging(title, one.format))
        emissions = self._emitted(images, rootfs)
        members = {member: self.tasks[member[0]] for member in made.members}
        openpgp = self.run.config.trust.keys.openpgp
        for one, emission in zip(images, emissions, strict=True):
            if format_of(one).signed and openpgp:
                from buildit.trust.openpgp import sign_aci

                for path in (emission.path, *parts_of(emission.path)):
                    if path.suffix == ".aci":
                        sign_aci(path, openpgp)
            keep_image(emission, image_digest(one), image_statement(plan, members, emission))
        if emissions:
            first = replace(emissions[0], notices=(*made.remarks, *emissions[0].notices))
            emissions = (first, *emissions[1:])
        for emission in emissions:
            for notice in emission.notices:
                report(Notice(notice))
            report(Emitted(title, emission.format, str(emission.path), emission.digest))
        return emissions

    def _look_through(self, images: Sequence[Image], rootfs: Rootfs, made: Stack) -> None:
        """Refuse images that would not start, before any is written; tell what else is missing.

        Raises:
            RecipeError: layers clash, or a program lacks its loader, interpreter or a library.
        """
        from buildit.commands import starting

        platform = PLATFORMS[self.prepared.plan.toolchain.platform]
        path = self.run.store.path
        tree = starting.image_tree(rootfs, path, platform)
        builds = {key for key, _ in made.members if kind_of(self.tasks[key]).builds}
        debs = [(self.done[key], name) for key, name in made.members if key not in builds]
        waived = starting.waived_needs([self.done[key] for key in builds])
        for one in images:
            start = start_of(one)
            if start.program is not None:
                seen = rootfs if not start.only else left_of(rootfs, start.only)
                left = tree if seen is rootfs else starting.image_tree(seen, path, platform)
                starting.check_starts(left, start.program, start.environment, waived, one.place)
        for service, program, known in programs_of(self.prepared.plan):
            who = f"the service {service.name}"
            starting.check_starts(tree, program, known, waived, service.place, who)
        for remark in starting.remarks(tree, debs):
            self.place.report(Notice(remark, warning=True))

    def _emitted(self, images: Sequence[Image], rootfs: Rootfs | None) -> tuple[Emission, ...]:
        """Emit the images, but for those that lie there, came from the same image and are
        untouched."""
        output, store = self.prepared.options.output, self.run.store
        paths = {one.format: output / output_name(one) for one in images}
        at_hand = {one.format: kept_emission(paths[one.format], one) for one in images}
        wanted = [one for one in images if at_hand[one.format] is None]
        if wanted:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                message = f"the output directory cannot be made: {error.strerror}"
                hint = "name another one with --output"
                raise StoreError(message, place=str(output), hint=hint) from error
            for one in wanted:
                # Before the image: a signature that lies there is of other bytes than are about to.
                path = paths[one.format]
                path.with_name(f"{path.name}.asc").unlink(missing_ok=True)
                if lost := added(path, tag(one.version), last_identifier(path)):
                    what = f"{path.name} is made anew, without {', '.join(lost)}"
                    self.place.report(Notice(what, warning=True))
            try:
                made = emit_all(wanted, store.path, output, rootfs)
            except CorruptBlob as error:
                store.recheck(error.digest)
                raise
            at_hand |= {emission.format: emission for emission in made}
        return tuple(found for one in images if (found := at_hand[one.format]) is not None)

    def keep_roots(self) -> None:
        """What this container needs is no garbage as long as its lock exists."""
        from buildit.store.upkeep import add_root

        plan = self.prepared.plan
        names: list[str] = [node.key for node in plan.tasks]
        names += self.done  # with the .debs that the image loads, which are not among the nodes
        names += [plan.toolchain.identity, *(deb.digest for deb in plan.toolchain.debs)]
        names += [source.digest for node in plan.tasks for source in node.inputs.sources]
        names += [deb.digest for node in plan.tasks for deb in node.inputs.every_deb()]
        if chroots := [node.inputs.chroot for node in plan.tasks if node.inputs.chroot]:
            from buildit.make.debian_root import root_names

            names += [root_names(chroot)[-1] for chroot in chroots]  # the base: all share it
        add_root(self.run.store, self.prepared.lock_path.parent.resolve() / "buildit.lock", names)

    def keep_outputs(self) -> None:
        """Note the outputs in the lock; a checkout that cannot be written is built all the same."""
        noted = self.prepared.pins.with_outputs(self.done)
        try:
            write_lock(self.prepared.options.directory, noted.changed())
        except StoreError as error:
            report = self.place.report
            report(Notice(f"the digests of the outputs are not noted: {error.message}"))

    def publish(self, emissions: Sequence[Emission]) -> tuple[Published, ...]:
        """Publish it, with inputs that were lost fetched once more."""
        from buildit.commands.publish import publish

        plan, run = self.prepared.plan, self.run
        if self.lost:  # what is only published needs no build
            self.fetching().bring_again(self.lost, plan.tasks, _debs(plan).values())
        openpgp = run.config.trust.keys.openpgp
        return publish(plan, self.tasks.named, run.remotes, openpgp, emissions)


def programs_of(plan: ContainerPlan) -> Iterator[tuple[Service, str, dict[str, str]]]:
    """What the services of a container start, and with what environment."""
    environment = dict(plan.app.environment) if plan.app is not None else {}
    for service in plan.init.services if plan.init is not None else ():
        known = {**environment, **dict(service.environment)}
        for words in (service.exec, service.ready.exec if service.ready is not None else ()):
            yield from ((service, word, known) for word in words[:1])


# -- what is corrupt in the store, or gone, is made anew

_Made = TypeVar("_Made")

MOST_LOSSES = 3
"""How often something may vanish in one run: more is a store that is deleted on purpose."""


def until_whole(run: Callable[[Reporter, frozenset[Digest]], _Made], report: Reporter) -> _Made:
    """What `run` makes; begun again where the store was not whole, each time with the digests of
    all blobs that were lost so far.

    Raises:
        CorruptBlob: the same blob is wrong again: the disk or the memory is at fault.
        Vanished: things vanish faster than they are made.
        BuilditError: what `run` raises.
    """
    lost: set[Digest] = set()
    vanished = 0
    said: list[Event] = []

    def once(event: Event) -> None:
        """Report on, but what a run says at its beginning only once, however often it begins."""
        if isinstance(event, Started | Processing | Reused | Notice | Packaging | Emitted):
            if (lost or vanished) and event in said:
                return
            said.append(event)
        report(event)

    while True:
        try:
            return run(once, frozenset(lost))
        except CorruptBlob as error:
            if error.digest in lost:
                raise
            lost.add(error.digest)
            once(Notice(f"{error.message}, and is fetched or built anew", warning=True))
        except Vanished as error:
            vanished += 1
            if vanished > MOST_LOSSES:
                raise
            once(Notice(f"{error}; it is made anew", warning=True))


def _made_blobs(artifacts: Iterable[Artifact]) -> dict[Digest, str]:
    """What people call the blobs of artifacts."""
    found: dict[Digest, str] = {}
    for artifact in artifacts:
        label = f"{artifact.name}-{artifact.version}"
        found[artifact.record] = f"the record of {label}"
        for name, output in artifact.outputs.items():
            found[output.contents] = f"the list of the files of {label} ({name})"
            digests = (output.diff_id, *(form.digest for form in output.encodings))
            found |= dict.fromkeys(digests, f"the layer of {label} ({name})")
    return found


def _input_blobs(plan: ContainerPlan) -> dict[Digest, str]:
    """What people call the blobs that a plan's tasks are made from."""
    found = {digest: deb.path.rpartition("/")[2] for digest, deb in _debs(plan).items()}
    for node in plan.tasks:
        found |= dict.fromkeys(node.inputs.blobs, f"a patch or file of {node.label}")
        found |= {one.digest: f"{one.name} of {node.label}" for one in node.inputs.sources}
    return found


def _debs(plan: ContainerPlan) -> dict[Digest, DebRef]:
    further = (deb for node in plan.tasks for deb in node.inputs.every_deb())
    return {deb.digest: deb for deb in (*plan.toolchain.debs, *further)}
