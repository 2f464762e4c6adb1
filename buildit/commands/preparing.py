"""What a command on a container begins with: its plan, its lock, what its sync steps take."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from buildit.codec import from_plain, to_plain
from buildit.commands import stamp
from buildit.commands.locking import LOCK_FILE, Pins, read_lock, write_lock
from buildit.commands.run import Options, Run, opened
from buildit.commands.sync import Taken, dated, own_of, take
from buildit.errors import UnsatisfiableError
from buildit.events import Notice, Reporter
from buildit.model.config import Config
from buildit.model.plan import ContainerPlan
from buildit.store.layout import BLOBS


@dataclass(frozen=True, slots=True)
class Prepared:
    """A plan with what the back half needs; `fresh` where no stamp gave it.

    `pins` are the lock before and after. `rows` are the files that planning read as they were right
    after it, without the lock; empty where one of them changed meanwhile, and nothing may be kept.
    `taken` is what the sync steps take, in their order, after `with_synced`.
    """

    options: Options
    plan: ContainerPlan
    settings: Config
    pins: Pins
    fresh: bool = False
    rows: tuple[list[Any], ...] = ()
    taken: tuple[Taken, ...] = ()

    @property
    def lock_path(self) -> Path:
        return self.options.directory / LOCK_FILE


@contextmanager
def run_of(prepared: Prepared, report: Reporter) -> Iterator[Run]:
    """The store of a command and what reaches other machines, with the places of `--discover`:
    these hold for one run and are never kept.

    Raises:
        UsageError: an option is wrong, or publishes where nothing can be published to.
    """
    options, config = prepared.options, prepared.settings
    if options.discover:
        from buildit.remote.discovery import with_discovered

        with opened(config, options, report) as run:
            transport = None if options.offline else run.downloads.transport()
            found = with_discovered(config.repositories, options.discover, transport, report)
            config = replace(config, repositories=found)
    with opened(config, options, report) as run:
        yield run


def prepare(options: Options, report: Reporter) -> Prepared:
    """The plan of a container: from the stamp where no file changed, else made anew.

    Raises:
        BuilditError: the user's files are wrong, or something could not be pinned.
    """
    kept = None if options.update else stamp.read(options.question("plan"))
    if kept is not None:
        try:
            plan, settings = (
                from_plain(ContainerPlan, kept["plan"]),
                _settings(kept["settings"], options),
            )
        except (KeyError, TypeError, ValueError):
            pass  # a stamp is a cache: a foreign one is a miss
        else:
            if _has_inputs(plan, settings.store / BLOBS):
                before, _ = read_lock(options.directory)
                section = before.section(plan.platform)
                return Prepared(options, plan, settings, Pins(before, section, plan.platform))
    return _fresh(options, report)


def _has_inputs(plan: ContainerPlan, blobs: Path) -> bool:
    """Whether the store still has the patches and files that planning read into it.

    They may have been collected, or set aside as corrupt, since; a fetched patch is fetched again.
    """
    return all(
        (blobs / blob).is_file()
        for node in plan.tasks
        for blob in {*node.inputs.blobs} - {patch.digest for patch in node.inputs.patches}
    )


def _settings(plain: dict[str, Any], options: Options) -> Config:
    settings = from_plain(Config, plain)
    agent = os.environ.get("SSH_AUTH_SOCK", "")
    trust = replace(settings.trust, keys=replace(settings.trust.keys, agent=agent))
    return replace(settings, jobs=options.jobs or settings.jobs, trust=trust)


def _fresh(options: Options, report: Reporter) -> Prepared:
    from buildit.commands.planning import make_plan
    from buildit.recipe.config import load_config

    started = time.time_ns()
    loaded = load_config(options.directory)
    settings = loaded.config
    for remark in settings.remarks:
        report(Notice(remark, warning=True))
    with opened(settings, options, report) as run:
        made = make_plan(options, loaded, run.downloads)
    lock_file = options.directory / LOCK_FILE
    rows = stamp.record(path for path in made.consulted if path != lock_file)
    if any(stamp.changed_since(seen, started) for _, seen, _ in rows):
        rows = []  # something changed while it was read
    kept = _settings(settings.plain(), options)
    return Prepared(options, made.plan, kept, made.pins, fresh=True, rows=tuple(rows))


def with_synced(prepared: Prepared) -> Prepared:
    """With what the sync steps take, every file read once, and the lock that dates it.

    A file that the lock does not have has the time of now. Nothing is written.

    Raises:
        RecipeError: something cannot be synced.
    """
    plan, pins = prepared.plan, prepared.pins
    steps = plan.takes
    if not steps and not pins.section.synced:
        return prepared
    own = own_of(plan, prepared.options.output)
    found = [take(Path(plan.directory), step, own) for step in steps]
    taken, times = dated(found, pins.section.synced, int(time.time()))
    pins = replace(pins, section=replace(pins.section, synced=times))
    return replace(prepared, pins=pins, taken=taken)


def lock(prepared: Prepared, report: Reporter) -> None:
    """Write the lock where it changed, or refuse under `--locked`.

    It says what the files say: flags of the command line hold for one run and are never written.

    Raises:
        UnsatisfiableError: `--locked`, and something would move; the details say what.
        StoreError: the lock cannot be written.
    """
    options, pins = prepared.options, prepared.pins
    lines = pins.moved()
    if lines and options.locked:
        raise UnsatisfiableError(
            "the lock would change",
            place=str(prepared.lock_path),
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
    if not prepared.fresh and lines:  # only times of synced files: the plan is as it was
        stamp.record_anew(options.question("plan"), prepared.lock_path)


def keep_plan(prepared: Prepared) -> None:
    """Leave a stamp, so that the next run need not plan while no file changes."""
    if prepared.rows:
        rows = [*prepared.rows, *stamp.record([prepared.lock_path])]
        result = {"plan": to_plain(prepared.plan), "settings": prepared.settings.plain()}
        stamp.write(prepared.options.question("plan"), rows, result)
