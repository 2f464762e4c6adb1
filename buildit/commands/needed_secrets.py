"""The secrets of a container's `run` steps, looked for before anything is made: one that a step
will need is there, or that is said. A step whose layer is at hand needs none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from buildit.commands.assemble import stack
from buildit.commands.stepping import NotBuilt, at_hand
from buildit.commands.sync import Taken
from buildit.digest import BuildKey
from buildit.errors import UsageError
from buildit.make.makers import BuildPlace
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, LayerStep, RunStep, Task
from buildit.plan.closure import TaskOf
from buildit.remote.binhost.remotes import Remotes


def check_given(
    plan: ContainerPlan,
    node: TaskOf,
    place: BuildPlace,
    remotes: Remotes,
    taken: Sequence[Taken],
    known: Mapping[BuildKey, Artifact],
    until: int | None = None,
    *,
    anew: bool = False,
) -> None:
    """Raises UsageError where a step needs a secret that is not given, and is not at hand, or run
    `anew` all the same; `until` is how many of the plan's steps are laid, all without it."""
    look = at_hand(place, remotes, lambda task: NotBuilt(task, Path(plan.directory)))

    def obtain(task: Task) -> Artifact:
        return known[task.key] if task.key in known else look(task)

    for number, lacking in _lacking(plan.steps[:until], place):
        if anew:
            raise lacking
        try:
            stack(plan, place.store, node, obtain, taken, number)
        except NotBuilt:
            raise lacking from None


def _lacking(steps: Sequence[LayerStep], place: BuildPlace) -> Iterator[tuple[int, UsageError]]:
    """The number, from 1, of each step that asks for what is not given, and what is to be said."""
    for number, step in enumerate(steps, 1):
        if not isinstance(step, RunStep):
            continue
        for name in step.secrets:
            try:
                place.secret(name)
            except UsageError as error:
                error.place = step.place
                yield number, error
                break
