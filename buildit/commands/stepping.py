"""The steps of a container one by one: which is meant, what of them is at hand, and a shell in the
tree that one leaves."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from buildit.archive.admit import shown
from buildit.archive.contents import contents_blob, parse_contents
from buildit.commands.assemble import Stack, stack
from buildit.commands.finished import test_tasks
from buildit.commands.realise import Tasks, lay, place_of
from buildit.commands.run import Options, Prepared, prepare, run_of
from buildit.commands.sync import Taken
from buildit.digest import BuildKey, Digest
from buildit.errors import BuildError, BuilditError, UsageError
from buildit.events import Notice, Reporter
from buildit.make.makers import BuildPlace, kind_of, make_task
from buildit.make.run_step import kept_step, trees_below
from buildit.make.run_task import STEP_ENVIRONMENT
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.image_test import ImageTest
from buildit.model.listed import ListedStep
from buildit.model.plan import ContainerPlan, RunStep, Task
from buildit.remote.binhost.remotes import Remotes
from buildit.sandbox.container import run_contained
from buildit.sandbox.owned import OwnedTrees
from buildit.sandbox.spaces import ids_for, one_id, own_name
from buildit.sandbox.step import room
from buildit.store.artifacts import Found, examine
from buildit.store.cas import Store
from buildit.store.names import FailedBuild, find_failure

# -- which step is meant


def find_step(listed: Sequence[ListedStep], wanted: str) -> int:
    """The number, from 1, of the step that somebody names: by its number, by FILE:LINE, or by its
    kind where there is one of it.

    Raises:
        UsageError: there is none, or there are several.
    """
    hint = "name its number, FILE:LINE or kind: `buildit plan DIR` lists them"
    if wanted.isdecimal():
        if not 1 <= int(wanted) <= len(listed):
            message = f"there is no step {wanted}: the container has {len(listed)}"
            raise UsageError(message, hint=hint)
        return int(wanted)
    by_place = [n for n, one in enumerate(listed, 1) if f"/{wanted}:" in f"/{one.place}:"]
    found = by_place or [n for n, one in enumerate(listed, 1) if one.kind == wanted]
    if not found:
        raise UsageError(f"no step is called {wanted!r}", hint=hint)
    if len(found) > 1:
        hint = f"say which by its number: {', '.join(map(str, found))}"
        raise UsageError(f"{len(found)} steps are called {wanted!r}", hint=hint)
    return found[0]


def layers_until(plan: ContainerPlan, number: int) -> int:
    """How many of the steps of a plan that give layers are among its first listed ones."""
    done = 0
    for one in plan.listed[:number]:
        if done < len(plan.steps) and plan.steps[done].step == one.kind:
            done += 1
    return done


def step_said(plan: ContainerPlan, number: int) -> str:
    """A listed step in words."""
    one = plan.listed[number - 1]
    return f"step {number}, {f'{one.kind} {one.text}'.rstrip()} ({one.place})"


# -- what of them is at hand


class NotBuilt(UsageError):  # noqa: N818 - what is so
    """A task is not in the store that something was to be looked at with."""

    def __init__(self, task: Task, directory: Path) -> None:
        message = f"{task.label} is not built as the files say now"
        hint = f"build it first: buildit build {directory}"
        super().__init__(message, place=task.about.origin or None, hint=hint)
        self.task = task


def at_hand(
    place: BuildPlace, remotes: Remotes, missing: Callable[[Task], BuilditError]
) -> Callable[[Task], Artifact]:
    """What obtains artifacts from the store alone; layers of a container's own files are laid anew,
    as no program runs for them, and for others `missing` says what is wrong."""

    def obtain(task: Task) -> Artifact:
        found = examine(place.store, task.key, believed=remotes.policy.doubts)
        if isinstance(found, Found):
            return found.artifact
        kind = kind_of(task)
        if kind.shared or kind.builds or task.inputs.image is not None:
            raise missing(task)
        return lay(task, place, remotes)

    return obtain


def run_keys(
    plan: ContainerPlan, store: Store, remotes: Remotes, taken: Sequence[Taken]
) -> tuple[tuple[BuildKey, bool], ...]:
    """Key and whether it is at hand of each step that runs, then of each test, as far as they can
    be known: what comes over a step that is not there has no key yet. Nothing is made."""
    found: list[tuple[BuildKey, bool]] = []
    places = {
        one.place for one in (*plan.steps, *plan.tests) if isinstance(one, RunStep | ImageTest)
    }

    def obtain(task: Task) -> Artifact:
        looked = examine(store, task.key, believed=remotes.policy.doubts)
        there = isinstance(looked, Found)
        if task.inputs.below and task.about.origin in places:  # a suite is configured, too
            found.append((task.key, there))
        if not isinstance(looked, Found):
            raise NotBuilt(task, Path(plan.directory))
        return looked.artifact

    with suppress(BuilditError):  # a build says what is wrong
        made = stack(plan, store, Tasks(plan).named, obtain, taken)
        for task in _tests(plan, made):
            with suppress(NotBuilt):
                obtain(task)
    return tuple(found)


def _tests(plan: ContainerPlan, made: Stack) -> Iterator[Task]:
    if plan.tests:
        yield from test_tasks(plan, made.app(plan), made)


# -- whether one leaves the same again


def check_again(task: Task, before: Artifact, place: BuildPlace) -> None:
    """Run a step whose layer is at hand once more, and compare.

    Raises:
        BuildError: it left something else; the details are the paths.
        BuilditError: it fails now.
    """
    again = make_task(task, {}, place).outputs[RUNTIME]
    first = before.outputs[RUNTIME]
    if again.diff_id == first.diff_id:
        place.report(Notice(f"{task.label}: run again, it left the same"))
        return
    sides = [
        {one.path: one for one in parse_contents(place.store.read(output.contents))}
        for output in (first, again)
    ]
    paths = sorted(sides[0].keys() | sides[1].keys())
    differing = [path for path in paths if sides[0].get(path) != sides[1].get(path)]
    lines = tuple(f"not reproducible: /{shown(path)}" for path in differing)
    hint = "let the step leave them out, or make them without the clock and chance"
    message = f"{task.label} leaves something else each time"
    raise BuildError(message, place=task.about.origin or None, hint=hint, details=lines)


# -- a shell in the tree of a step


def enter_step(options: Options, wanted: str | None, report: Reporter) -> int:
    """A shell in the tree that a step of a container leaves, the finished one without `wanted`; its
    exit status. What is written there is thrown away.

    Raises:
        NotBuilt: something is not in the store.
        UsageError: there is no such step.
        BuilditError: as `prepare`; or it cannot be laid down.
    """
    prepared = prepare(options, report).with_synced()
    plan = prepared.plan
    number = None if wanted is None else find_step(plan.listed, wanted)
    with run_of(prepared, report) as run:
        place = place_of(plan, run.store, run.config.limits, report, threading.Event())
        try:
            made = _stacked(prepared, place, run.remotes, number)
            failures = (
                find_failure(run.store, task.key)
                for task in (_tests(plan, made) if number is None else ())
            )
            if (failed := next(filter(None, failures), None)) is not None:
                status = enter_failed(failed, run.store, report)
                if status is not None:
                    return status
        except NotBuilt as error:
            failure = find_failure(run.store, error.task.key) if number is None else None
            status = None if failure is None else enter_failed(failure, run.store, report)
            if status is None:
                raise
            return status
        said = "the finished image" if number is None else step_said(plan, number)
        report(Notice(f"this is the tree of {said}; what is written here is thrown away"))
        label = plan.label if number is None else plan.listed[number - 1].place
        return enter_stack(made, run.store, plan.name, label)


def enter_stack(made: Stack, store: Store, title: str, label: str = "") -> int:
    """A shell in the tree of some layers; its exit status. What is written there is thrown away.

    Raises:
        BuilditError: a layer cannot be laid down, or there is no shell.
    """
    restated = contents_blob(made.restated()).decode()
    below = tuple(layer.diff_id for layer in made.layers)
    with _entered(store, "range", below, restated, label or title) as (owned, trees):
        return _shell(owned, trees, STEP_ENVIRONMENT, title)


def _stacked(prepared: Prepared, place: BuildPlace, remotes: Remotes, number: int | None) -> Stack:
    plan, directory = prepared.plan, prepared.options.directory
    obtain = at_hand(place, remotes, lambda task: NotBuilt(task, directory))
    until = None if number is None else layers_until(plan, number)
    node = Tasks(plan).named
    try:
        return stack(plan, place.store, node, obtain, prepared.taken, until)
    except NotBuilt as error:
        until_it = "" if number is None else f" --until {number}"
        error.hint = f"build it first: buildit build {directory}{until_it}"
        if find_failure(place.store, error.task.key) is not None:
            error.message = f"{error.task.label} failed"
            error.hint = f"see what it left: buildit shell {error.task.key[:12]}"
        raise


def enter_failed(failure: FailedBuild, store: Store, report: Reporter) -> int | None:
    """A shell in what a `run` step that failed left; its exit status. None where the failure is of
    something else. What is kept stays as it is.

    Raises:
        BuilditError: a layer below cannot be laid down.
    """
    kept = kept_step(failure)
    if kept is None:
        return None
    report(Notice(failure.message))
    report(Notice(f"this is what it left ({kept.upper}); what is written here is thrown away"))
    if kept.argv:
        report(Notice(f"it ran: {' '.join(kept.argv)}"))
    label = f"{failure.name}-{failure.version}"
    with _entered(store, kept.ids, kept.below, kept.restated, label) as (owned, trees):
        return _shell(owned, (kept.upper, *trees), kept.environment, label)


@contextmanager
def _entered(
    store: Store, wanted: str, below: Sequence[Digest], restated: str, label: str
) -> Iterator[tuple[OwnedTrees, tuple[Path, ...]]]:
    ids = one_id(0, 0) if wanted == "one" else ids_for(0, 0, own_name())
    owned = OwnedTrees.opened(store.cache("layers"), ids)
    with trees_below(owned, below, restated, label, store) as trees:
        yield owned, trees


def _shell(
    owned: OwnedTrees, trees: tuple[Path, ...], environment: Mapping[str, str], title: str
) -> int:
    bash = any(os.path.lexists(tree / "usr/bin/bash") for tree in trees)
    # its own start-up files would come from the image, and the prompt with them
    command = ("/bin/bash", "--norc", "--noprofile") if bash else ("/bin/sh",)
    prompt = {"PS1": f"[{title}] $PWD $ ", "TERM": os.environ.get("TERM", "dumb")}
    with owned.scratch() as layer:
        owned.make_layer(layer)
        one = room(owned.ids, trees, layer, command, {**environment, **prompt})
        return run_contained(one)
