"""A container that another one begins with: its layers, as its last build left them in the store.

Nothing is built here: what is not at hand is for a build of that container, which has a lock of its
own; a build of the one above makes it first (`building`).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from buildit.commands import stamp
from buildit.commands.assemble import stack
from buildit.commands.realise import Tasks, place_of
from buildit.commands.run import Downloads, Options, Prepared, Unbuilt, prepare
from buildit.commands.stepping import at_hand
from buildit.commands.sync import own_of, watched
from buildit.digest import canonical, digest_bytes
from buildit.errors import BuilditError
from buildit.image.inheriting import BaseImage, BaseLayer
from buildit.make.layer import layer_task
from buildit.model.config import Limits
from buildit.model.image import Inherited, inherited_digest
from buildit.model.plan import Task


def container_base(
    asked: Options, downloads: Downloads, place: str
) -> tuple[BaseImage, tuple[Path, ...]]:
    """The image that the container of `asked.directory` is, and the files that decide it.

    Raises:
        Unbuilt: it is not built as its files and its lock say.
        BuilditError: as `prepare`.
    """
    prepared = prepare(asked, downloads.report).with_synced()
    plan, store = prepared.plan, downloads.store
    pins = prepared.pins
    if moved := pins.moved():
        known = pins.platform in pins.lock.sections
        reason = f"its lock would change: {moved[0]}" if known else "it was never built"
        raise Unbuilt(asked, place, reason)
    tasks = Tasks(plan)
    where = place_of(plan, store, Limits(), downloads.report, threading.Event())

    def missing(task: Task) -> BuilditError:
        return Unbuilt(asked, place, f"{task.label} is not in the store")

    obtain = at_hand(where, downloads.remotes, missing)
    made = stack(plan, store, tasks.named, obtain, prepared.taken)
    restated = made.rootfs().restated
    if restated:  # as its own images have it on top
        made.lay(layer_task("directories", restated), "directories", restated)
    app = made.app(plan)
    inherited = Inherited(labels=plan.labels) if app is None else Inherited(app, plan.labels)
    config = inherited_digest(inherited)
    layers = tuple(BaseLayer("", one.diff_id, contents=one.contents) for one in made.layers)
    digest = digest_bytes(canonical([config, *(one.diff_id for one in layers)]))
    found = BaseImage(digest, config, layers, plan.platform, inherited)
    return found, tuple(_files(asked, prepared))


def _files(asked: Options, prepared: Prepared) -> Iterator[Path]:
    """All that decides what it is: what planning read, its lock, and what its sync steps take."""
    rows = prepared.rows or stamp.files_of(asked.question("plan")) or ()
    yield from (Path(row[0]) for row in rows)
    yield prepared.lock_path.absolute()
    plan = prepared.plan
    for step in plan.takes:
        yield from map(Path, watched(Path(plan.directory), step, own_of(plan, asked.output, step)))
