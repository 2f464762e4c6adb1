"""A build by hand: before each step somebody says whether it runs, is skipped, or what is there is
looked at.

What was skipped is in no image: where something was, none is written and nothing is published.
Where nothing was, the images are those of a build, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING

from buildit.commands.assemble import Stack, stack
from buildit.commands.finished import test_tasks
from buildit.commands.realise import Tasks
from buildit.commands.stepping import enter_failed, enter_stack, step_said
from buildit.commands.sync import Taken
from buildit.digest import BuildKey
from buildit.errors import BuildError, BuilditError, RecipeError, UsageError
from buildit.events import Notice, Reporter
from buildit.model.artifact import Artifact
from buildit.model.image_test import ImageTest
from buildit.model.plan import ContainerPlan, FromStep, LayerStep, SyncStep, Task
from buildit.store.cas import Store
from buildit.store.names import find_failure

if TYPE_CHECKING:
    from buildit.commands.building import _Work


class StepAnswer(StrEnum):
    """What may become of a step."""

    RUN = "run"
    SKIP = "skip"
    SHELL = "shell"
    QUIT = "quit"


@dataclass(frozen=True, slots=True)
class StepQuestion:
    """A step that somebody is asked about: its number of `total`, what it is and where it was
    written, and what may be answered."""

    number: int
    total: int
    text: str
    answers: tuple[StepAnswer, ...]


AskStep = Callable[[StepQuestion], StepAnswer]


@dataclass(slots=True)
class StepWalk:
    """One walk over the steps of a plan. `taken` is what they take of the project; `bring` obtains
    the packages of a plan, `obtain` the artifact of a task. `kept` are the steps that ran, with
    what they take; `skipped` are the others so far, in words; `last` is what was obtained last."""

    plan: ContainerPlan
    taken: Sequence[Taken]
    tasks: Tasks
    store: Store
    bring: Callable[[ContainerPlan], None]
    obtain: Callable[[Task], Artifact]
    ask: AskStep
    report: Reporter
    kept: list[LayerStep] = field(default_factory=list)
    kept_taken: list[Taken] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    last: BuildKey | None = None

    def is_whole(self) -> bool:
        """Ask about each step and each test; whether all of them ran.

        Raises:
            BuilditError: something is wrong that is no fault of a step.
        """
        steps, tests = _numbers(self.plan)
        coming = iter(self.taken)
        for number, step in zip(steps, self.plan.steps, strict=True):
            takes = [next(coming)] if isinstance(step, SyncStep) else []
            must = isinstance(step, FromStep)
            if not self._settled(number, partial(self._lay, step, takes), must=must):
                return False
        for number, test in zip(tests, self.plan.tests, strict=True):
            if not self._settled(number, partial(self._test, test)):
                return False
        for told in self.skipped:
            self.report(Notice(f"skipped: {told}"))
        if self.skipped:
            self.report(Notice("a step was skipped: no image is written, nothing is published"))
        return not self.skipped

    def _settled(self, number: int, run: Callable[[], None], *, must: bool = False) -> bool:
        """Ask about a step until it ran or is skipped, which not all may be; whether the walk goes
        on."""
        said = step_said(self.plan, number)
        answers = [one for one in StepAnswer if not (must and one is StepAnswer.SKIP)]
        if not self.kept:
            answers.remove(StepAnswer.SHELL)  # there is nothing yet
        question = StepQuestion(
            number, len(self.plan.listed), said.partition(", ")[2], tuple(answers)
        )
        self.last = None
        while True:
            match self.ask(question):
                case StepAnswer.QUIT:
                    told = f"left before {said}: no image is written, nothing is published"
                    self.report(Notice(told))
                    return False
                case StepAnswer.SKIP:
                    self.skipped.append(said)
                    return True
                case StepAnswer.SHELL:
                    self._look(said)
                case StepAnswer.RUN:
                    if self._ran(run):
                        return True

    def _ran(self, run: Callable[[], None]) -> bool:
        """Whether a step could be run; what went wrong is told."""
        try:
            run()
        except (BuildError, RecipeError, UsageError) as error:
            self._tell(error)
            return False
        return True

    def _lay(self, step: LayerStep, takes: list[Taken]) -> None:
        plan = replace(self.plan, steps=(*self.kept, step))
        self.bring(plan)
        self._stack(plan, [*self.kept_taken, *takes])
        self.kept.append(step)
        self.kept_taken += takes

    def _test(self, test: ImageTest) -> None:
        plan = replace(self.plan, steps=tuple(self.kept), tests=(test,))
        made = self._stack(plan, self.kept_taken, whole=True)
        for task in test_tasks(plan, made.app(plan), made):
            self._obtained(task)

    def _stack(self, plan: ContainerPlan, taken: Sequence[Taken], *, whole: bool = False) -> Stack:
        """The layers of the steps of a plan; `whole` with what is made of all of them."""
        until = None if whole else len(plan.steps)
        return stack(plan, self.store, self.tasks.named, self._obtained, taken, until)

    def _obtained(self, task: Task) -> Artifact:
        self.last = task.key
        return self.obtain(task)

    def _look(self, said: str) -> None:
        """A shell in what there is before a step, or in what it left where it failed."""
        failure = None if self.last is None else find_failure(self.store, self.last)
        try:
            if failure is not None and enter_failed(failure, self.store, self.report) is not None:
                return
            self.report(Notice(f"this is the tree before {said}; what is written is thrown away"))
            plan = replace(self.plan, steps=tuple(self.kept))
            made = self._stack(plan, self.kept_taken)
            enter_stack(made, self.store, self.plan.name)
        except BuilditError as error:
            self._tell(error)

    def _tell(self, error: BuilditError) -> None:
        self.report(Notice(str(error), warning=True))
        for line in (*error.details[-_TOLD:], *filter(None, (error.hint,))):
            self.report(Notice(f"  {line}"))


_TOLD = 20
"""Lines of an error's details that are shown between two questions."""


def _numbers(plan: ContainerPlan) -> tuple[list[int], list[int]]:
    """The numbers, among the listed steps, of those that give layers, and of the tests."""
    steps: list[int] = []
    tests: list[int] = []
    for number, one in enumerate(plan.listed, 1):
        if len(steps) < len(plan.steps) and plan.steps[len(steps)].step == one.kind:
            steps.append(number)
        elif one.kind == "test":
            tests.append(number)
    return steps, tests


def walked(works: Sequence[_Work], ask: AskStep, report: Reporter) -> bool:
    """Whether all steps and tests of a container ran, each when `ask` said so.

    Raises:
        UsageError: it is for several platforms.
        BuilditError: as `StepWalk.is_whole`.
    """
    if len(works) > 1:
        names = ", ".join(work.plan.platform for work in works)
        message = f"--step walks one platform, and the container has {names}"
        raise UsageError(message, hint=f"name one: --platform {works[0].plan.platform}")
    work = works[0]
    work.check_secrets()

    def bring(plan: ContainerPlan) -> None:
        replace(work, prepared=replace(work.prepared, plan=plan)).obtain()

    taken, store = work.prepared.taken, work.run.store
    walk = StepWalk(work.plan, taken, work.tasks, store, bring, work.obtained, ask, report)
    return walk.is_whole()
