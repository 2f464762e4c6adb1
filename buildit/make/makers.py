"""The kinds of tasks: one row of the table and one module each; nothing else asks for a kind.

A record's `type` is the task's kind. What a maker leaves is an artifact under the task's key,
whatever the kind: it is stored, published, fetched and laid into images in the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from buildit.digest import BuildKey, Digest
from buildit.events import Notice, Reporter
from buildit.model.artifact import Artifact, Output
from buildit.model.config import Limits
from buildit.model.plan import Inputs, Task, Toolchain
from buildit.model.secret import not_given
from buildit.store.blobs import Batch
from buildit.store.cas import Store
from buildit.store.disk import store_error

if TYPE_CHECKING:
    from buildit.make.deb import Debs

AtHand = Mapping[BuildKey, Artifact]
"""The artifacts of a task's dependencies."""


@dataclass(frozen=True, slots=True)
class BuildPlace:
    """Where tasks of one plan are made. `debs` knows what the .debs around them have; `project` is
    the container's directory. `secret` gives the value of a secret by its id. `offline`: no
    command may have a network."""

    store: Store
    toolchain: Toolchain
    debs: Callable[[], Debs]
    limits: Limits
    report: Reporter
    stop: threading.Event
    project: Path
    secret: Callable[[str], bytes] = not_given
    offline: bool = False

    def warn(self, task: Task, lines: Iterable[object]) -> None:
        """Tell the user something of a task, line by line."""
        for line in lines:
            self.report(Notice(f"{task.label}: {line}", warning=True))


@dataclass(frozen=True, slots=True)
class Made:
    """What a maker left in the store, of which all became visible together. `epoch` is the latest
    time of a file in it, in seconds since 1970."""

    outputs: Mapping[str, Output]
    record: Digest
    epoch: int
    log: Digest | None = None


class Maker(Protocol):
    """A module of a kind."""

    @staticmethod
    def fetches(task: Task, toolchain: Toolchain) -> Inputs:
        """The sources, patches and .debs that must be in the store before it is made."""

    @staticmethod
    def make(task: Task, at_hand: AtHand, place: BuildPlace, work: Path) -> Made:
        """Make it in the empty directory `work`, its blobs in the store; `make_task` calls it."""


def is_shared(task: Task) -> bool:
    """Whether binhosts are asked for a task, and get it."""
    return kind_of(task).shared and not (task.stays or task.directories)


@dataclass(frozen=True, slots=True)
class TaskKind:
    """A row of the table.

    `module` is a `Maker`. `builds` says that programs run for it: it is told as a build, and
    explained by what changed since the last one. `scripts` says that its files count on links that
    the scripts of Debian's packages make. `shared` says that binhosts are asked for it.
    """

    module: str
    builds: bool = False
    scripts: bool = False
    shared: bool = True

    def maker(self) -> Maker:
        """Imported where something is made: a run that finds everything pays nothing for it."""
        return cast(Maker, import_module(self.module))


MAKERS: dict[str, TaskKind] = {
    "package": TaskKind("buildit.make.package", builds=True),
    "debian": TaskKind("buildit.make.deb", scripts=True),
    "debian-source": TaskKind("buildit.make.debian_source", builds=True, scripts=True),
    "run": TaskKind("buildit.make.run_step", builds=True),
    "test": TaskKind("buildit.make.image_test", builds=True, shared=False),
    **dict.fromkeys(
        ("sync", "accounts", "directories", "links", "init", "symlinks", "texts", "modes"),
        TaskKind("buildit.make.layer", shared=False),
    ),
    "from": TaskKind("buildit.make.from_image", shared=False),
    "suite": TaskKind("buildit.make.suite", shared=False),
}


def kind_of(task: Task) -> TaskKind:
    return MAKERS[task.kind]


def make_task(task: Task, at_hand: AtHand, place: BuildPlace) -> Artifact:
    """The artifact of a task, its blobs in the store; the caller commits it.

    Raises:
        BuildError: a phase or patch failed; log and tree are kept for `log` and `shell`.
        UnsatisfiableError: a file needs what no output provides.
        StoreError: the store's disk is nearly full, or a tree of it is damaged.
        Interrupted: `place.stop` was set.
    """
    work = place.store.scratch(f"build-{task.key[:16]}")
    try:
        made = kind_of(task).maker().make(task, at_hand, place, work)
    except OSError as error:
        raise store_error(error, work) from error
    finally:
        if work.exists():
            place.store.discard(work)
    inputs = task.inputs
    materials = [(source.name, source.digest) for source in inputs.sources]
    materials += [(f"input-{number}", blob) for number, blob in enumerate(inputs.blobs)]
    # beside a .deb that is unpacked lie those that were chosen with it
    debs = inputs.debs[:1] if kind_of(task).scripts else inputs.debs
    materials += [(deb.path.rpartition("/")[2], deb.digest) for deb in debs]
    materials += [(one.reference, one.digest) for one in (inputs.image,) if one is not None]
    return Artifact(
        key=task.key,
        name=task.name,
        version=task.version,
        platform=task.platform,
        outputs=made.outputs,
        record=made.record,
        log=made.log,
        resolved=resolved_outputs(task, at_hand),
        materials=tuple(materials),
        epoch=made.epoch,
    )


def put_record(task: Task, batch: Batch) -> Digest:
    """The record as a blob; its digest is the task's key."""
    return batch.put_bytes(task.record.encode())


def resolved_outputs(task: Task, at_hand: AtHand) -> dict[BuildKey, dict[str, Digest]]:
    """The dependency outputs that a task sees: key -> output -> diff_id."""
    found: dict[BuildKey, dict[str, Digest]] = {}
    for one in task.inputs.dependencies:
        outputs = at_hand[one.key].outputs
        found[one.key] = {name: outputs[name].diff_id for name in one.outputs if name in outputs}
    return found
