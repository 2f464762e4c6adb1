"""What a command on a container begins with: its options, its plan, its lock, its store opened."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from buildit.commands import stamp
from buildit.commands.run import Run, opened_run
from buildit.commands.sync import Taken, dated, own_of, take
from buildit.errors import BuilditError, Interrupted, UnsatisfiableError
from buildit.events import Notice, Reporter
from buildit.model.config import Config, config_from_plain
from buildit.model.plan import ContainerPlan, from_json, to_json
from buildit.store.cas import Store
from buildit.store.checked import CorruptBlob
from buildit.store.durable import Vanished
from buildit.store.layout import BLOBS

if TYPE_CHECKING:
    from buildit.commands.locking import Pins
    from buildit.commands.planning import PlannedContainer


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
    planned: PlannedContainer | None = None
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
    settings = config_from_plain(plain)
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


def _rows(planned: PlannedContainer, options: Options, started: int) -> tuple[list[Any], ...]:
    """The state of what planning read, unless something of it changed while it was read."""
    lock_file = options.directory / "buildit.lock"
    rows = stamp.record(path for path in planned.consulted if path != lock_file)
    moved = any(stamp.changed_since(seen, started) for _, seen, _ in rows)
    return () if moved else tuple(rows)


def discovered_places(prepared: Prepared, options: Options, report: Reporter) -> Config:
    """The settings with the places of `--discover`; these hold for one run and are never kept.

    Raises:
        UsageError: an option is wrong, or publishes where nothing can be published to.
    """
    if not options.discover:
        return prepared.settings
    from buildit.remote.discovery import with_discovered

    with opened(prepared.settings, options, report) as run:
        transport = None if options.offline else run.downloads.transport()
        configured = prepared.settings.repositories
        found = with_discovered(configured, options.discover, transport, report)
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
        stamp.record_anew(options.question("plan"), options.directory / "buildit.lock")


def keep_plan(prepared: Prepared, options: Options) -> None:
    """Leave a stamp, so that the next run need not plan while no file changes."""
    if not prepared.rows:
        return
    rows = [*prepared.rows, *stamp.record([options.directory / "buildit.lock"])]
    result = {"plan": to_json(prepared.plan), "settings": prepared.settings.plain()}
    stamp.write(options.question("plan"), rows, result)
