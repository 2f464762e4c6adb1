"""A run that finds something in the store corrupt, or gone, has it made anew and goes on.

A blob that is not what its name says is set aside; then the store misses it, and the same run,
begun again, fetches or builds what it misses. Whatever is sound stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from buildit.digest import BuildKey, Digest
from buildit.events import Emitted, Event, Notice, Packaging, Processing, Reporter, Reused, Started
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan
from buildit.model.task import DebRef
from buildit.store.blobs import CorruptBlob
from buildit.store.cas import Store
from buildit.store.durable import Vanished

if TYPE_CHECKING:
    from buildit.commands.fetching import InputFetcher

_Made = TypeVar("_Made")

MOST_LOSSES = 3
"""How often something may vanish in one run: more is a store that is deleted on purpose."""


@dataclass(slots=True)
class _Once:
    """Reports on, but what a run says at its beginning only once, however often it begins."""

    report: Reporter
    again: bool = False
    _said: list[Event] = field(default_factory=list)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started | Processing | Reused | Notice | Packaging | Emitted):
            if self.again and event in self._said:
                return
            self._said.append(event)
        self.report(event)


def until_whole(run: Callable[[Reporter, frozenset[Digest]], _Made], report: Reporter) -> _Made:
    """What `run` makes; begun again where the store was not whole, each time with the digests of
    all blobs that were lost so far.

    Raises:
        CorruptBlob: the same blob is wrong again: the disk or the memory is at fault.
        Vanished: things vanish faster than they are made.
        BuilditError: what `run` raises.
    """
    once = _Once(report)
    lost: set[Digest] = set()
    vanished = 0
    while True:
        try:
            return run(once, frozenset(lost))
        except CorruptBlob as error:
            if error.digest in lost:
                raise
            lost.add(error.digest)
            say = f"{error.message}, and is fetched or built anew"
            once(Notice(say, warning=True))
        except Vanished as error:
            vanished += 1
            if vanished > MOST_LOSSES:
                raise
            once(Notice(f"{error}; it is made anew", warning=True))
        once.again = True


@contextmanager
def rechecking(
    plan: ContainerPlan, store: Store, done: Mapping[BuildKey, Artifact]
) -> Iterator[None]:
    """Where a blob turns out to be corrupt, look at all that is at hand (`done`) for the plan, so
    that one more beginning is enough; and say whose it is.

    Raises:
        CorruptBlob: as it came, with a name for people.
    """
    try:
        yield
    except CorruptBlob as error:
        for digest in _needed(done.values()):
            store.recheck(digest)
        name = _owner(plan, done.values(), error.digest)
        raise CorruptBlob(error.digest, name or error.what) from error


def _needed(done: Iterable[Artifact]) -> Iterator[Digest]:
    for artifact in done:
        yield artifact.record
        for output in artifact.outputs.values():
            yield from (output.diff_id, output.contents)
            yield from (form.digest for form in output.encodings)


def _owner(plan: ContainerPlan, done: Iterable[Artifact], digest: Digest) -> str:
    """What people call a blob; empty where the plan does not know it."""
    for artifact in done:
        label = f"{artifact.name}-{artifact.version}"
        for name, output in artifact.outputs.items():
            if digest in (output.diff_id, *(form.digest for form in output.encodings)):
                return f"the layer of {label} ({name})"
            if digest == output.contents:
                return f"the list of the files of {label} ({name})"
        if digest == artifact.record:
            return f"the record of {label}"
    for node in plan.tasks:
        for source in node.inputs.sources:
            if source.digest == digest:
                return f"{source.name} of {node.label}"
        if digest in node.inputs.blobs:
            return f"a patch or file of {node.label}"
    debs = _debs(plan)
    return debs[digest].path.rpartition("/")[2] if digest in debs else ""


def _debs(plan: ContainerPlan) -> dict[Digest, DebRef]:
    found = {deb.digest: deb for deb in plan.toolchain.debs}
    for node in plan.tasks:
        found |= {deb.digest: deb for deb in node.inputs.debs}
    return found


def refetch(
    plan: ContainerPlan, fetching: Callable[[], InputFetcher], lost: frozenset[Digest]
) -> None:
    """Fetch inputs of the plan that were corrupt: what is only published needs no build.

    Raises:
        BuilditError: one is served nowhere any more.
    """
    if lost:
        fetching().bring_again(lost, plan.tasks, _debs(plan).values())
