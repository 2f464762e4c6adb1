"""The story of one command: plan a container, realise its packages, emit its images."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildit.commands import stamp
from buildit.commands.back import Realiser
from buildit.commands.mending import rechecking, refetch, until_whole
from buildit.commands.run import Run, opened_run
from buildit.commands.synced import Taken, dated, own_of, take
from buildit.digest import Digest
from buildit.errors import (
    BuilditError,
    IntegrityError,
    Interrupted,
    StoreError,
    UnsatisfiableError,
)
from buildit.events import Emitted, Notice, Packaging, Processing, Reporter, Started
from buildit.image.added import added
from buildit.image.formats.table import emit_all, format_of, output_name
from buildit.image.merge import Rootfs
from buildit.image.names import tag
from buildit.make.makers import kind_of
from buildit.model.config import Config, from_plain
from buildit.model.image import Emission, Image, image_digest
from buildit.model.plan import ContainerPlan, from_json, to_json
from buildit.model.platform import PLATFORMS
from buildit.store.cas import Store
from buildit.store.checked import CorruptBlob
from buildit.store.durable import Vanished
from buildit.store.layout import BLOBS
from buildit.trust.votes import unused

if TYPE_CHECKING:
    from buildit.commands.assemble import Stack
    from buildit.commands.locking import Pins
    from buildit.commands.planning import Planned
    from buildit.commands.publish import Published
    from buildit.commands.supply import Supply


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says of one container.

    `use` are flags for every package, `update` what may move although it is locked, `jobs` 0 means
    as configured. `locked` refuses a lock that would change. `discover` names further places,
    and `push` publishes what was made.
    """

    directory: Path
    output: Path = Path("out")
    use: tuple[str, ...] = ()
    update: tuple[str, ...] = ()
    jobs: int = 0
    locked: bool = False
    offline: bool = False
    discover: tuple[str, ...] = ()
    push: bool = False

    def question(self, verb: str) -> str:
        """The name of the stamp of this command."""
        return stamp.question(
            verb,
            os.path.abspath(self.directory),
            os.path.abspath(self.output),
            *self.use,
            "|",
            *self.update,
            str(self.locked),
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with what the back half needs; `planned` is None where a stamp gave the plan.

    `rows` are the files that planning read as they were right after it, without the lock; empty
    where one of them changed meanwhile, and nothing may be kept. `pins` are the lock before
    and after, None where a stamp gave the plan; `taken` is what the sync steps take, in their
    order. Both are whole after `with_synced`.
    """

    plan: ContainerPlan
    settings: Config
    planned: Planned | None = None
    rows: tuple[list[Any], ...] = ()
    pins: Pins | None = None
    taken: tuple[Taken, ...] = ()


@contextmanager
def opened(settings: Config, options: Options, report: Reporter) -> Iterator[Run]:
    """The store of a command, and what reaches other machines."""
    with Store.open(settings.store) as store:
        store.tell = lambda text: report(Notice(text, warning=True))
        try:
            with opened_run(settings, store, report, offline=options.offline) as run:
                yield run
        except (BuilditError, OSError) as error:
            known = isinstance(error, Interrupted | CorruptBlob | Vanished)
            if not known and store.lost():
                raise Vanished(
                    f"a part of the store was deleted while it was used ({error})",
                    place=str(settings.store),
                    hint="run the same command again: what is missing is made anew",
                ) from error
            raise


def prepare(options: Options, report: Reporter) -> Prepared:
    """The plan of a container: from the stamp where no file changed, else made anew.

    Raises:
        BuilditError: the user's files are wrong, or something could not be pinned.
    """
    kept = None if options.update else stamp.read(options.question("plan"))
    if kept is not None:
        try:
            prepared = Prepared(from_json(kept["plan"]), _settings(kept["settings"], options))
        except (KeyError, TypeError, ValueError):
            pass  # a stamp is a cache: a foreign one is a miss
        else:
            if _has_inputs(prepared):
                return prepared
    return _fresh(options, report)


def _has_inputs(prepared: Prepared) -> bool:
    """Whether the store still has the patches and files that planning read into it.

    They may have been collected, or set aside as corrupt, since; a fetched patch is fetched again.
    """
    blobs = prepared.settings.store / BLOBS
    return all(
        (blobs / blob).is_file()
        for node in prepared.plan.tasks
        for blob in {*node.inputs.blobs} - {patch.digest for patch in node.inputs.patches}
    )


def _settings(plain: dict[str, Any], options: Options) -> Config:
    settings = from_plain(plain)
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    keys = replace(settings.trust.keys, agent=agent)
    trust = replace(settings.trust, keys=keys)
    return replace(settings, jobs=options.jobs or settings.jobs, trust=trust)


def _fresh(options: Options, report: Reporter) -> Prepared:
    from buildit.commands.choose import Request
    from buildit.commands.locking import Pins
    from buildit.commands.planning import make_plan
    from buildit.recipe.config import load_config

    directory = options.directory
    started = time.time_ns()
    loaded = load_config(directory)
    settings = loaded.config
    for remark in settings.remarks:
        report(Notice(remark, warning=True))
    with opened(settings, options, report) as run:
        request = Request(directory, options.use, options.update)
        planned = make_plan(request, loaded, run.downloads)
    rows = _rows(planned, options, started)
    pins = Pins(planned.lock, planned.section, planned.plan.platform)
    return Prepared(planned.plan, _settings(settings.plain(), options), planned, rows, pins)


def _rows(planned: Planned, options: Options, started: int) -> tuple[list[Any], ...]:
    """The state of what planning read, unless something of it changed while it was read."""
    lock_file = options.directory / "buildit.lock"
    rows = stamp.record(path for path in planned.consulted if path != lock_file)
    moved = any(stamp.changed_since(seen, started) for _, seen, _ in rows)
    return () if moved else tuple(rows)


def located(prepared: Prepared, options: Options, report: Reporter) -> Config:
    """The settings with the places of `--discover`; these hold for one run and are never kept.

    Raises:
        UsageError: an option is wrong, or publishes where nothing can be published to.
    """
    if not options.discover:
        return prepared.settings
    from buildit.remote.discovering import located as with_places

    with opened(prepared.settings, options, report) as run:
        transport = None if options.offline else run.downloads.transport()
        configured = prepared.settings.repositories
        found = with_places(configured, options.discover, transport, report)
        return replace(prepared.settings, repositories=found)


def with_synced(prepared: Prepared, options: Options) -> Prepared:
    """With what the sync steps take, every file read once, and the lock that dates it.

    A file that the lock does not have has the time of now. Nothing is written.

    Raises:
        RecipeError: something cannot be synced, or the lock is none.
    """
    from buildit.commands.locking import Pins, read_lock

    plan, pins = prepared.plan, prepared.pins
    if pins is None:
        before, _ = read_lock(options.directory)
        pins = Pins(before, before.section(plan.platform), plan.platform)
    steps = plan.takes
    if not steps and not pins.section.synced:
        return replace(prepared, pins=pins)
    own = own_of(plan, options.output)
    found = [take(Path(plan.directory), step, own) for step in steps]
    taken, times = dated(found, pins.section.synced, int(time.time()))
    pins = replace(pins, section=replace(pins.section, synced=times))
    return replace(prepared, pins=pins, taken=taken)


def lock(prepared: Prepared, options: Options, report: Reporter) -> None:
    """Write the lock where it changed, or refuse under `--locked`.

    It says what the files say: flags of the command line hold for one run and are never written.

    Raises:
        UnsatisfiableError: `--locked`, and something would move; the details say what.
        StoreError: the lock cannot be written.
    """
    pins = prepared.pins
    if pins is None:
        return
    from buildit.commands.locking import write_lock

    lines = pins.moved()
    if lines and options.locked:
        raise UnsatisfiableError(
            "the lock would change",
            place=str(options.directory / "buildit.lock"),
            hint="if that is right: `buildit lock`, then commit buildit.lock",
            details=lines,
        )
    if options.use and lines:
        report(Notice("buildit.lock stays as it is: --use holds for this run"))
        return
    if pins.platform in pins.lock.sections:
        for line in lines:
            report(Notice(f"lock: {line}"))
    if options.locked or options.use:
        return
    write_lock(options.directory, pins.changed())
    if prepared.planned is None and lines:  # only times of synced files: the plan is as it was
        stamp.refresh(options.question("plan"), options.directory / "buildit.lock")


def _check_outputs(
    prepared: Prepared, realiser: Realiser, options: Options, report: Reporter
) -> None:
    """Compare what is at hand with the bytes that the lock has for the same keys.

    Raises:
        IntegrityError: `--locked`, and they differ.
    """
    if prepared.planned is None or prepared.pins is None:
        return
    from buildit.commands.locking import differing

    lines = differing(prepared.pins.section, realiser.done)
    if lines and options.locked:
        raise IntegrityError(
            "a package is not reproducible: the lock has other bytes for the same key",
            place=str(options.directory / "buildit.lock"),
            hint="compare both (`buildit show`), or accept the new ones: build without --locked",
            details=lines,
        )
    for line in lines:
        report(Notice(f"not reproducible: {line}", warning=True))


def _keep_plan(prepared: Prepared, options: Options) -> None:
    if not prepared.rows:
        return
    rows = [*prepared.rows, *stamp.record([options.directory / "buildit.lock"])]
    result = {"plan": to_json(prepared.plan), "settings": prepared.settings.plain()}
    stamp.write(options.question("plan"), rows, result)


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
    settings = located(prepared, options, report)
    with opened(settings, options, report) as run:
        publishes = _publishes(options)
        if publishes:
            from buildit.commands.publish import check_before_build

            check_before_build(plan, run.remotes)
        supply = partial(_supply, run, settings)
        realiser = Realiser(plan, settings, run.store, report, stop, run.remotes, supply)
        with rechecking(realiser):
            realiser.realise(plan.roots)
            _check_outputs(prepared, realiser, options, report)
            emissions = _emit(prepared, realiser, options.output, report)
            if prepared.planned is not None:
                if not options.use:
                    _keep_outputs(prepared, realiser, options)
                    _keep_roots(realiser, options)
                # Last: a run that finds the plan kept does none of this again.
                _keep_plan(prepared, options)
            if publishes:
                from buildit.commands.publish import publish

                refetch(plan, supply, lost)
                openpgp = settings.trust.keys.openpgp
                publish(plan, realiser.node, run.remotes, openpgp, emissions)
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
        FetchError, IntegrityError, StoreError: see `pipeline.publish`.
    """
    return until_whole(lambda tell, lost: _push(options, tell, stop, lost), report)


def _push(
    options: Options, report: Reporter, stop: threading.Event, lost: frozenset[Digest]
) -> tuple[Published, ...]:
    from buildit.commands.publish import built_keys, check_before_packaging, publish, targets

    prepared = with_synced(prepare(options, report), options)
    lock(prepared, options, report)
    settings = located(prepared, options, report)
    prepared = replace(prepared, settings=settings)
    with opened(settings, options, report) as run:
        remotes, plan = run.remotes, prepared.plan
        targets(remotes)
        supply = partial(_supply, run, settings)
        realiser = Realiser(plan, settings, run.store, report, stop, remotes, supply)
        with rechecking(realiser):
            if lost:
                realiser.realise(plan.roots)
                refetch(plan, supply, lost)
            check_before_packaging(plan, built_keys(plan, realiser.node, remotes), remotes)
            emissions = _emit(prepared, realiser, options.output, report)
            openpgp = settings.trust.keys.openpgp
            return publish(plan, realiser.node, remotes, openpgp, emissions)


def _supply(run: Run, config: Config) -> Supply:
    from buildit.commands.supply import Supply

    return Supply(run.store, run.remotes, run.downloads, config.distfiles, config.jobs)


def _publishes(options: Options) -> bool:
    if options.push or not options.discover:
        return options.push
    from buildit.remote.discovering import publishes

    return publishes(options.discover)


def _emit(
    prepared: Prepared, realiser: Realiser, output: Path, report: Reporter
) -> tuple[Emission, ...]:
    from buildit.commands.assemble import stack
    from buildit.commands.checking import image

    plan = prepared.plan
    made = stack(plan, realiser.store, realiser.node, realiser.obtain, prepared.taken)
    title = f"{plan.name}-{plan.version}"
    if not plan.images:
        report(Notice("the container has no image step: nothing is emitted", warning=True))
    layers = tuple(made.layers)
    images = [image(plan, step, layers, made.epoch) for step in plan.images]
    rootfs = made.rootfs() if images else None
    if rootfs is not None and layers:
        _look_through(images, rootfs, made, realiser, report)
    for one in images:
        report(Packaging(title, one.format))
    emissions = _emitted(images, rootfs, realiser.store, output, report)
    if emissions:
        first = replace(emissions[0], notices=(*made.remarks, *emissions[0].notices))
        emissions = (first, *emissions[1:])
    for one, emission in zip(images, emissions, strict=True):
        if format_of(one).signed and realiser.settings.trust.keys.openpgp:
            from buildit.trust.openpgp import sign_aci

            sign_aci(emission.path, realiser.settings.trust.keys.openpgp)
        for notice in emission.notices:
            report(Notice(notice))
        report(Emitted(title, emission.format, str(emission.path), emission.digest))
    return emissions


def _look_through(
    images: Sequence[Image], rootfs: Rootfs, made: Stack, realiser: Realiser, report: Reporter
) -> None:
    """Refuse images that would not start, before any is written; tell what else is missing.

    Raises:
        RecipeError: layers clash, or a program lacks its loader, interpreter or a library.
    """
    from buildit.commands import starting

    platform = PLATFORMS[realiser.plan.toolchain.platform]
    tree = starting.image_tree(rootfs, realiser.store.path, platform)
    nodes = [realiser.node(key) for key, _ in made.members]
    waived = starting.waived_needs(
        [realiser.obtain(node) for node in nodes if kind_of(node).builds]
    )
    for one in images:
        started = starting.started_by(one)
        if started is not None:
            starting.check_starts(tree, *started, waived, one.place)
    debs = [
        (realiser.obtain(node), name)
        for node, (_, name) in zip(nodes, made.members, strict=True)
        if not kind_of(node).builds
    ]
    for remark in starting.remarks(tree, debs):
        report(Notice(remark, warning=True))


def _emitted(
    images: Sequence[Image],
    rootfs: Rootfs | None,
    store: Store,
    output: Path,
    report: Reporter,
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


def _keep_outputs(prepared: Prepared, realiser: Realiser, options: Options) -> None:
    """Note the outputs in the lock; a checkout that cannot be written is built all the same."""
    from buildit.commands.locking import with_outputs, write_lock

    pins = prepared.pins
    if options.locked or pins is None:
        return
    noted = replace(pins, section=with_outputs(pins.section, realiser.done))
    try:
        write_lock(options.directory, noted.changed())
    except StoreError as error:
        realiser.report(Notice(f"the digests of the outputs are not noted: {error.message}"))


def _keep_roots(realiser: Realiser, options: Options) -> None:
    """What this container needs is no garbage as long as its lock exists."""
    from buildit.store.collect import add_root

    plan = realiser.plan
    names: list[str] = [node.key for node in plan.tasks]
    names += realiser.done  # with the .debs that the image loads, which are not among the nodes
    names += [plan.toolchain.identity, *(deb.digest for deb in plan.toolchain.debs)]
    names += [source.digest for node in plan.tasks for source in node.inputs.sources]
    add_root(realiser.store, options.directory.resolve() / "buildit.lock", names)
