"""Obtain the artifacts that a plan's roots need: from the store, a binhost, or by building.

A found artifact is taken only if it was built against the dependency outputs that are at hand
(DESIGN §3, "Mixed closures"). A failed package does not discard its finished siblings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from buildit.digest import BuildKey
from buildit.model.artifact import Artifact
from buildit.model.task import OutputRef, RunNeed, Task

Find = Callable[[Task, Mapping[BuildKey, Artifact]], "Artifact | None"]
"""Look a node up, built against the dependencies at hand where they are known; None is a miss."""

Build = Callable[[Task, Mapping[BuildKey, Artifact]], Artifact]
"""Build a node from its dependencies' artifacts; raises where it cannot."""

Prepare = Callable[[tuple[Task, ...]], None]
"""Called once with all nodes about to be built, before the first: fetch what they need."""


@dataclass(slots=True)
class Survey:
    """What a look around found: artifacts at hand, and nodes that must be built."""

    found: dict[BuildKey, Artifact] = field(default_factory=dict)
    missing: set[BuildKey] = field(default_factory=set)


def survey(
    nodes: Mapping[BuildKey, Task], roots: tuple[OutputRef, ...], find: Find, survey_: Survey
) -> Survey:
    """Look up `roots` and whatever they need in turn, into `survey_`.

    A node that was found needs only what an image takes besides: what its files were seen to load,
    and its declared runtime dependencies. One that was not needs all that its build sees.
    """
    queue, seen = list(roots), set()
    while queue:
        key, output = queue.pop()
        if (key, output) in seen:
            continue
        seen.add((key, output))
        node = nodes[key]
        if key not in survey_.found and key not in survey_.missing:
            artifact = find(node, survey_.found)
            if artifact is None:
                survey_.missing.add(key)
            else:
                survey_.found[key] = artifact
        queue.extend((need.key, need.output) for need in declared_needs(node, output))
        if key in survey_.missing:
            queue.extend(
                (dep.key, name) for dep in node.inputs.dependencies for name in dep.outputs
            )
        else:
            queue.extend(one for one in _loaded(survey_.found[key], output) if one[0] in nodes)
    return survey_


def declared_needs(task: Task, output: str) -> tuple[RunNeed, ...]:
    """What an output needs at run time by the words of its recipe."""
    found = task.outputs.get(output)
    return found.needs if found else ()


def _loaded(artifact: Artifact, output: str) -> list[OutputRef]:
    """The outputs that one needs, as its build saw or declared it."""
    found = artifact.outputs.get(output)
    names = sorted({*found.providers.values(), *found.run}) if found else []
    return [(BuildKey(key), name) for key, _, name in (one.partition(":") for one in names) if key]


def agrees(artifact: Artifact, at_hand: Mapping[BuildKey, Artifact]) -> bool:
    """Whether the artifact was built against the dependency outputs that are at hand."""
    for key, outputs in artifact.resolved.items():
        dependency = at_hand.get(key)
        if dependency is None:
            continue
        for name, diff_id in outputs.items():
            output = dependency.outputs.get(name)
            if output is None or output.diff_id != diff_id:
                return False
    return True


def realise(
    nodes: Mapping[BuildKey, Task],
    roots: tuple[OutputRef, ...],
    *,
    find: Find,
    prepare: Prepare,
    build: Build,
    jobs: int,
    recall: Find = lambda _node, _at_hand: None,
) -> dict[BuildKey, Artifact]:
    """Artifacts of the roots and of all that was needed on the way, at most `jobs` built at once.

    What `find` does not know and whose dependencies are all at hand is looked for by `recall`:
    another key may have the same inputs (early cut-off).

    Raises:
        BuilditError: what `find`, `prepare` or the first failing `build` raised.
    """
    state = Survey()
    while True:
        survey(nodes, roots, find, state)
        stale = {key for key, artifact in state.found.items() if not agrees(artifact, state.found)}
        if not stale:
            if _recall_all(nodes, state, recall):
                continue  # what was found may need others than what was missing
            if not state.missing:
                return state.found
            ordered = tuple(node for key, node in nodes.items() if key in state.missing)
            prepare(ordered)
            _build_all(ordered, state, build, jobs)
            continue
        for key in stale:
            del state.found[key]
            # Another builder's statement may fit what is at hand; survey asks once more.
            other = find(nodes[key], state.found)
            if other is not None and agrees(other, state.found):
                state.found[key] = other
            else:
                state.missing.add(key)


def _recall_all(nodes: Mapping[BuildKey, Task], state: Survey, recall: Find) -> bool:
    """Recall what is missing, dependencies first; whether anything was found."""
    before = len(state.missing)
    for key, node in nodes.items():
        if key in state.missing and all(dep.key in state.found for dep in node.inputs.dependencies):
            artifact = recall(node, state.found)
            if artifact is not None:
                state.found[key] = artifact
                state.missing.discard(key)
    return len(state.missing) < before


def _build_all(ordered: tuple[Task, ...], state: Survey, build: Build, jobs: int) -> None:
    # Here: 8 ms that a run with nothing to build need not pay.
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
    from functools import partial
    from graphlib import TopologicalSorter

    from buildit.archive.workers import submit

    wanted = {node.key: node for node in ordered}
    sorter = TopologicalSorter(
        {
            key: [d.key for d in node.inputs.dependencies if d.key in wanted]
            for key, node in wanted.items()
        }
    )
    sorter.prepare()
    failure: BaseException | None = None
    with ThreadPoolExecutor(max_workers=max(1, jobs), thread_name_prefix="build") as pool:
        running: dict[Future[Artifact], BuildKey] = {}
        try:
            while sorter.is_active() or running:
                if failure is None:
                    for key in sorter.get_ready():
                        work = partial(build, wanted[key], dict(state.found))
                        running[submit(pool, work)] = key
                if not running:
                    break
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    key = running.pop(future)
                    error = future.exception()
                    if error is not None:
                        failure = failure or error
                        continue
                    state.found[key] = future.result()
                    state.missing.discard(key)
                    sorter.done(key)
        except BaseException:
            for future in running:
                future.cancel()
            raise
    if failure is not None:
        raise failure
