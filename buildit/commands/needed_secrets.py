"""The secrets of a container's `run` steps, looked for before anything is made: one that a step
will need is there, or that is said. A step whose layer is at hand needs none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from buildit.commands.assemble import stack
from buildit.commands.realise import lay
from buildit.commands.sync import Taken
from buildit.digest import BuildKey
from buildit.errors import UsageError
from buildit.make.makers import BuildPlace, kind_of
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, RunStep, Task
from buildit.plan.closure import TaskOf
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import Found, examine


class _NotAtHand(Exception):  # noqa: N818 - what was found out
    pass


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

    def obtain(task: Task) -> Artifact:
        if task.key in known:
            return known[task.key]
        found = examine(place.store, task.key, believed=remotes.policy.doubts)
        if isinstance(found, Found):
            return found.artifact
        kind = kind_of(task)
        if kind.shared or kind.builds or task.inputs.image is not None:
            raise _NotAtHand
        return lay(task, place, remotes)

    try:
        stack(plan, place.store, node, obtain, taken)
    except _NotAtHand:
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
