"""The secrets of a container's `run` steps, looked for before anything is made: one that a step
will need is there, or that is said. A step whose layer is at hand needs none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from buildit.commands.assemble import stack
from buildit.commands.stepping import NotBuilt, at_hand
from buildit.commands.sync import Taken
from buildit.digest import BuildKey
from buildit.errors import UsageError
from buildit.make.makers import BuildPlace
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, RunStep, Task
from buildit.plan.closure import TaskOf
from buildit.remote.binhost.remotes import Remotes


def check_given(
    plan: ContainerPlan,
    node: TaskOf,
    place: BuildPlace,
    remotes: Remotes,
    taken: Sequence[Taken],
    known: Mapping[BuildKey, Artifact],
) -> None:
    """Raises UsageError where a step needs a secret that is not given, and is not at hand."""
    if (lacking := _first_missing(plan, place)) is None:
        return

    look = at_hand(place, remotes, lambda task: NotBuilt(task, Path(plan.directory)))

    def obtain(task: Task) -> Artifact:
        return known[task.key] if task.key in known else look(task)

    try:
        stack(plan, place.store, node, obtain, taken)
    except NotBuilt:
        raise lacking from None


def _first_missing(plan: ContainerPlan, place: BuildPlace) -> UsageError | None:
    for step in plan.steps:
        if not isinstance(step, RunStep):
            continue
        for name in step.secrets:
            try:
                place.secret(name)
            except UsageError as error:
                error.place = step.place
                return error
    return None
