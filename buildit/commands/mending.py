"""What is corrupt in the store, or gone, is made anew.

A run that finds something in the store corrupt, or gone, has it made anew and goes on: a blob that
is not what its name says is set aside; then the store misses it, and the same run, begun again,
fetches or builds what it misses. Whatever is sound stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from buildit.digest import Digest
from buildit.events import Emitted, Event, Notice, Packaging, Processing, Reporter, Reused, Started
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, DebRef
from buildit.store.blobs import CorruptBlob
from buildit.store.disk import Vanished

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


def made_blobs(artifacts: Iterable[Artifact]) -> dict[Digest, str]:
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


def input_blobs(plan: ContainerPlan) -> dict[Digest, str]:
    """What people call the blobs that a plan's tasks are made from."""
    found = {digest: deb.path.rpartition("/")[2] for digest, deb in every_deb(plan).items()}
    for node in plan.tasks:
        found |= dict.fromkeys(node.inputs.blobs, f"a patch or file of {node.label}")
        found |= {one.digest: f"{one.name} of {node.label}" for one in node.inputs.sources}
    return found


def every_deb(plan: ContainerPlan) -> dict[Digest, DebRef]:
    """The .debs that a plan names, by digest."""
    further = (deb for node in plan.tasks for deb in node.inputs.every_deb())
    return {deb.digest: deb for deb in (*plan.toolchain.debs, *further)}
