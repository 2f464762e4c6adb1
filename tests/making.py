"""Tasks made without a container: what a build sees, and where a maker works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from buildit.digest import BuildKey, Digest
from buildit.events import silent
from buildit.make.makers import BuildPlace, kind_of, make_task
from buildit.model.artifact import Artifact
from buildit.model.config import Limits
from buildit.model.plan import Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.plan.identity import BuildInputs, Rules
from buildit.store.cas import Store

_AMD64 = PLATFORMS["linux/amd64"]
_NOTHING = BuildInputs(
    name="x/app",
    version="1",
    build_platform=_AMD64,
    target_platform=_AMD64,
    sources=(),
    patches=(),
    files=(),
    steps=(),
    environment={},
    file_rules=(),
    outputs=(),
    strip=True,
    toolchain=Digest("0" * 64),
    dependencies=(),
    rules=Rules("1", "1", "1", "1", "1", "1"),
)


def inputs(**more: object) -> BuildInputs:
    """The inputs of a build that has only those given."""
    return replace(_NOTHING, **more)  # type: ignore[arg-type]


def place(store: Store, project: Path) -> BuildPlace:
    """Where tasks that need no toolchain are made."""

    def debs() -> object:
        raise AssertionError("no .deb is asked for")

    toolchain = Toolchain("toolchain/none", str(_AMD64), Digest("0" * 64), ())
    return BuildPlace(
        store,
        toolchain,
        debs,  # type: ignore[arg-type]
        Limits(),
        silent,
        threading.Event(),
        project,
    )


def making(
    store: Store, project: Path, at_hand: Mapping[BuildKey, Artifact]
) -> Callable[[Task], Artifact]:
    """What is at hand, and the layers of steps made."""

    def obtain(task: Task) -> Artifact:
        if kind_of(task).shared:
            return at_hand[task.key]
        return make_task(task, {}, place(store, project))

    return obtain
