"""Obtain the artifacts that a plan's roots need: from the store, a binhost, or by making them.

A found artifact is taken only if it was built against the dependency outputs that are at hand
(DESIGN §3, "Mixed closures"). A failed package does not discard its finished siblings. Where
everything is at hand only the store is read; the network and the sandbox are imported where they
are needed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from buildit import events
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError, IntegrityError, Interrupted, StoreError
from buildit.make.makers import AtHand, BuildPlace, is_shared, kind_of, make_task
from buildit.model.artifact import Artifact
from buildit.model.config import Limits
from buildit.model.plan import ContainerPlan, OutputRef, Task, Toolchain
from buildit.plan.closure import runtime_needs, standing_for, views_of
from buildit.plan.identity import DEBIAN, former_deb_keys
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import Found, examine, lookup
from buildit.store.attest import LOCAL
from buildit.store.blobs import CorruptBlob
from buildit.store.cas import Store
from buildit.store.disk import Vanished
from buildit.trust.policy import Policy, claim

if TYPE_CHECKING:
    from concurrent.futures import Future

    from buildit.commands.fetching import InputFetcher
    from buildit.make.deb import Debs

LOCAL_STORE = "the local store"

Find = Callable[[Task, AtHand], "Artifact | None"]
"""Looks a task up, made with the dependencies at hand where they are known; None is a miss."""

Prepare = Callable[[tuple[Task, ...]], None]
"""Called with all tasks about to be made, before the first: fetch what they need."""

Submit = Callable[[Task, AtHand], "Future[Artifact]"]
"""Has a task made whose dependencies are at hand: threads of this machine today, and whatever else
can give futures. The artifact is committed where it can be found; the future has what failed."""

_NO_VIEWS: Mapping[Digest, BuildKey] = {}

_SHOWN = 3
CONSIDERED = 3
"""Of the latest builds; each look costs the sandboxed build of a small package some percent."""


class BuildPool:
    """Threads that several containers build with at once: a task that two of them need is made
    once, and what they need is fetched by one after the other, so that nothing is fetched twice."""

    def __init__(self, jobs: int) -> None:
        from concurrent.futures import ThreadPoolExecutor

        self._threads = ThreadPoolExecutor(max(1, jobs), "build")
        self._running: dict[BuildKey, Future[Artifact]] = {}
        self._lock = threading.Lock()
        self.fetching = threading.Lock()

    def submit(self, key: BuildKey, make: Callable[[], Artifact]) -> Future[Artifact]:
        """Have it made, or wait for the one who has it made."""
        from buildit.archive.streams import submit

        with self._lock:
            running = self._running.get(key)
            if running is None or running.done():
                running = self._running[key] = submit(self._threads, make)
            return running

    def close(self) -> None:
        self._threads.shutdown()


class Tasks(Mapping[BuildKey, Task]):
    """The tasks of a plan, in its order, and the .debs of its toolchain, once one is asked for.

    A .deb is also known by the keys that it had under earlier rules for its scripts: packages that
    were built then, and whose keys are the same today, name it so."""

    def __init__(self, plan: ContainerPlan) -> None:
        self._toolchain: Toolchain | None = plan.toolchain
        self._known = {task.key: task for task in (*plan.tasks, *plan.views)}
        self._former: dict[BuildKey, BuildKey] = {}

    def __getitem__(self, key: BuildKey) -> Task:
        if key not in self._known and self._toolchain is not None:
            from buildit.commands.rules import RULES
            from buildit.plan.closure import deb_task

            toolchain, self._toolchain = self._toolchain, None
            made = (deb_task(deb, toolchain, (), RULES) for deb in toolchain.debs)
            self._known = {**self._known, **{t.key: t for t in made if t.key not in self._known}}
            debs = (task for task in self._known.values() if task.kind == DEBIAN)
            self._former = {old: task.key for task in debs for old in former_deb_keys(task.record)}
        return self._known[self._former.get(key, key)]

    def __iter__(self) -> Iterator[BuildKey]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def named(self, key: BuildKey) -> Task:
        """A task that an artifact names.

        Raises:
            IntegrityError: it is neither in the plan nor of its toolchain.
        """
        if key not in self:
            message = f"an artifact names the provider {key[:12]}, which is not in the plan"
            hint = "build it again: `buildit store verify`, then the same command"
            raise IntegrityError(message, hint=hint)
        return self[key]


@dataclass(slots=True)
class LookedUp:
    """What a look around found: artifacts at hand, and nodes that must be built."""

    found: dict[BuildKey, Artifact] = field(default_factory=dict)
    missing: set[BuildKey] = field(default_factory=set)


def look_around(
    nodes: Mapping[BuildKey, Task],
    roots: tuple[OutputRef, ...],
    find: Find,
    look: LookedUp,
    views: Mapping[Digest, BuildKey] = _NO_VIEWS,
) -> LookedUp:
    """Look up `roots` and whatever they need in turn, into `look`.

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
        if key not in look.found and key not in look.missing:
            artifact = find(node, look.found)
            if artifact is None:
                look.missing.add(key)
            else:
                look.found[key] = artifact
        if key in look.found:
            needs = runtime_needs(node, output, look.found[key])
            queue += [(standing_for(nodes[k], views), name) for k, name in needs if k in nodes]
        else:
            declared = node.outputs[output].needs if output in node.outputs else ()
            queue += [(standing_for(nodes[need.key], views), need.output) for need in declared]
            queue += [(dep.key, name) for dep in node.inputs.dependencies for name in dep.outputs]
    return look


def agrees(artifact: Artifact, at_hand: Mapping[BuildKey, Artifact]) -> bool:
    """Whether the artifact was built against the dependency outputs that are at hand."""
    return all(
        (output := at_hand[key].outputs.get(name)) is not None and output.diff_id == diff_id
        for key, outputs in artifact.resolved.items()
        if key in at_hand
        for name, diff_id in outputs.items()
    )


def unfit(at_hand: AtHand, artifact: Artifact) -> str | None:
    """Why an artifact is not taken beside what is at hand; None where it is."""
    return None if agrees(artifact, at_hand) else "built against other dependencies"


def realise(
    nodes: Mapping[BuildKey, Task],
    roots: tuple[OutputRef, ...],
    find: Find,
    prepare: Prepare,
    submit: Submit,
    cut_off: Find = lambda _task, _at_hand: None,
    done: dict[BuildKey, Artifact] | None = None,
    views: Mapping[Digest, BuildKey] = _NO_VIEWS,
) -> dict[BuildKey, Artifact]:
    """Artifacts of the roots and of all that was needed on the way; `done` is what is at hand
    before, and grows by them. `views` is as in `plan.tasks`.

    What `find` does not know and whose dependencies are all at hand is looked for by `cut_off`:
    another key may have the same inputs (early cut-off).

    Raises:
        BuilditError: what `find`, `prepare` or the first failing `build` raised.
    """
    state = LookedUp({} if done is None else done)
    while True:
        look_around(nodes, roots, find, state, views)
        stale = {key for key, artifact in state.found.items() if not agrees(artifact, state.found)}
        for key in stale:
            del state.found[key]
            # Another builder's statement may fit what is at hand; the next look asks once more.
            other = find(nodes[key], state.found)
            if other is not None and agrees(other, state.found):
                state.found[key] = other
            else:
                state.missing.add(key)
        if stale or _cut_off_all(nodes, state, cut_off):
            continue  # what was found may need others than what was missing
        if not state.missing:
            return state.found
        ordered = tuple(node for key, node in nodes.items() if key in state.missing)
        prepare(ordered)
        _make_all(ordered, state, submit)


def _cut_off_all(nodes: Mapping[BuildKey, Task], state: LookedUp, cut_off: Find) -> bool:
    """Recall what is missing, dependencies first; whether anything was found."""
    before = len(state.missing)
    for key, node in nodes.items():
        if key in state.missing and all(dep.key in state.found for dep in node.inputs.dependencies):
            artifact = cut_off(node, state.found)
            if artifact is not None:
                state.found[key] = artifact
                state.missing.discard(key)
    return len(state.missing) < before


def _make_all(ordered: tuple[Task, ...], state: LookedUp, submit: Submit) -> None:
    # Here: 8 ms that a run with nothing to make need not pay.
    from concurrent.futures import FIRST_COMPLETED, wait
    from graphlib import TopologicalSorter

    wanted = {task.key: task for task in ordered}
    sorter: TopologicalSorter[BuildKey] = TopologicalSorter()
    for task in ordered:
        sorter.add(task.key, *(d.key for d in task.inputs.dependencies if d.key in wanted))
    sorter.prepare()
    failure: BaseException | None = None
    running: dict[Future[Artifact], BuildKey] = {}
    try:
        while sorter.is_active() or running:
            if failure is None:
                for key in sorter.get_ready():
                    running[submit(wanted[key], dict(state.found))] = key
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


# -- the effects: the store, binhosts, makers


def obtain_all(
    tasks: Tasks,
    plan: ContainerPlan,
    place: BuildPlace,
    remotes: Remotes,
    fetching: Callable[[], InputFetcher],
    jobs: int,
    done: dict[BuildKey, Artifact],
    shared: BuildPool | None = None,
) -> None:
    """Obtain what the plan's images are made of and what that needs on the way, into `done`. What
    is missing is made by the pool that is `shared` with others, else by `jobs` threads.

    Raises:
        BuilditError: something cannot be fetched or built.
    """
    ways = _Ways(place, remotes, {task.key: task.label for task in plan.tasks})
    pool = BuildPool(jobs) if shared is None else shared
    place.store.pin([*tasks, *(key for key, _ in plan.wanted)])

    def prepare(missing: tuple[Task, ...]) -> None:
        builds = sum(kind_of(task).builds for task in missing)
        reused = len(ways.labels) - sum(task.key in ways.labels for task in missing)
        place.report(events.Planned(reused, builds, len(missing) - builds))
        if any(task.inputs.emulator for task in missing):
            from buildit.make.emulator import check_emulation

            check_emulation(missing)
        with pool.fetching:
            fetching().bring(missing, plan.toolchain)

    def made(task: Task, at_hand: AtHand) -> Future[Artifact]:
        return pool.submit(task.key, partial(ways.make, task, at_hand))

    views = views_of((*plan.tasks, *plan.views))
    try:
        realise(tasks, plan.wanted, ways.find, prepare, made, ways.cut_off, done, views)
    finally:
        if shared is None:
            pool.close()


def place_of(
    plan: ContainerPlan,
    store: Store,
    limits: Limits,
    report: events.Reporter,
    stop: threading.Event,
) -> BuildPlace:
    """Where the tasks of a plan are made; what the .debs have is read once, where it is needed."""
    lock = threading.Lock()
    read: list[Debs] = []

    def debs() -> Debs:
        from buildit.commands.fetching import toolchain_owners
        from buildit.commands.rules import RULES
        from buildit.make.deb import Debs

        with lock:
            if not read:
                owners = toolchain_owners(plan.toolchain, store, stop)
                read.append(Debs(store, plan.toolchain, owners, RULES))
            return read[0]

    return BuildPlace(store, plan.toolchain, debs, limits, report, stop, Path(plan.directory))


def lay(
    task: Task, place: BuildPlace, remotes: Remotes, bring: Callable[[Task], None] = lambda _: None
) -> Artifact:
    """The artifact of a task of one container alone (its synced files, its accounts): found in the
    store by its key, or made, and nothing is said of it. Where programs run, which takes time, it
    is said, and binhosts are asked as for a package; what these need is to `bring` first.

    Raises:
        BuilditError: it cannot be made.
    """
    policy = remotes.policy
    place.store.pin([task.key])
    found = examine(place.store, task.key, believed=policy.doubts)
    if isinstance(found, Found):
        return found.artifact
    if kind_of(task).builds:
        ways = _Ways(place, remotes, {task.key: task.label})
        if is_shared(task) and (elsewhere := ways.find(task, {})) is not None:
            return elsewhere
        bring(task)
        return ways.make(task, {})
    artifact = make_task(task, {}, place)
    keep(artifact, place.store, policy, place.report)
    return artifact


@dataclass(slots=True)
class _Ways:
    """How one run comes by artifacts; `labels` are the keys of its plan."""

    place: BuildPlace
    remotes: Remotes
    labels: Mapping[BuildKey, str]
    _told: bool = False

    def find(self, task: Task, at_hand: AtHand) -> Artifact | None:
        """Find it in the store, then on each binhost; the bytes are in the store afterwards."""

        store, policy, report = self.place.store, self.remotes.policy, self.place.report
        suits = partial(unfit, at_hand)
        if task.key not in self.labels:
            store.pin([task.key])
        found = examine(store, task.key, suits, policy.doubts)
        if isinstance(found, Found):
            report(events.Reused(task.key, task.label, LOCAL_STORE))
            return found.artifact
        for host in self.remotes.binhosts() if is_shared(task) else ():
            try:
                artifact = host.pull(task.key, store, suits)
            except (Interrupted, StoreError, CorruptBlob):
                raise  # that is no matter of the binhost's: a full disk is not a miss
            except BuilditError:
                continue  # the binhost said why
            if artifact is not None:
                policy.keep_agreement(artifact)
                report(events.Reused(task.key, task.label, f"'{host.name}'"))
                return artifact
        report(events.Missing(task.key, task.label))
        if kind_of(task).builds and not self._told:
            from buildit.remote.binhost.nearby import untrusted_builds

            self._told = True
            for one in untrusted_builds(task, self.remotes.binhosts()):
                report(events.Notice(f"{task.label}: {one}", warning=True))
        return None

    def cut_off(self, task: Task, at_hand: AtHand) -> Artifact | None:
        """An artifact whose dependencies had other keys and the same bytes, said of this task's
        key (DESIGN 3, early cut-off); None where no place knows one, or not all are at hand."""
        if not task.inputs.dependencies or task.directories:
            return None
        from buildit.remote.binhost.nearby import Repetitions, cut_off

        binhosts = self.remotes.binhosts()
        sources = Repetitions(self.place.store, binhosts, self.remotes.policy.doubts)
        artifact, origin = cut_off(task, at_hand, sources, self._repeat) or (None, "")
        if artifact is not None:
            self.place.report(events.Recalled(task.key, task.label, origin))
        return artifact

    def _repeat(self, artifact: Artifact, found: Found) -> None:
        """Commit an artifact that says a found build of another key. What is not signed must not
        become the user's own by being repeated."""
        from buildit.store.artifacts import place_statement
        from buildit.store.attest import statement_bytes

        store = self.place.store
        if found.origin and found.builder == LOCAL:
            content = statement_bytes(artifact, LOCAL)
            place_statement(store, artifact, LOCAL, content, None, origin=found.origin)
        else:
            keep(artifact, store, self.remotes.policy, self.place.report)

    def make(self, task: Task, at_hand: AtHand) -> Artifact:
        """Make one task and commit it; runs in a thread of its own."""
        place, policy = self.place, self.remotes.policy
        store, report = place.store, place.report

        def waiting(holder: str) -> None:
            # `pid 123 start 456`; nothing where the holder is just about to write it.
            pid = holder.split()[1:2]
            if pid == [str(os.getpid())]:
                return  # another container of this run, which says so itself
            who = f"another buildit (pid {pid[0]})" if pid else "another buildit"
            report(events.Notice(f"{task.label}: waiting for {who}, which builds it"))

        with store.key_lock(task.key, waiting, place.stop):
            again = examine(store, task.key, partial(unfit, at_hand), policy.doubts)
            if isinstance(again, Found):
                return again.artifact
            found = self.cut_off(task, at_hand)
            if found is not None:
                return found
            report(events.Building(task.key, task.label, reason(task, store, self.labels)))
            started = time.monotonic()
            try:
                artifact = make_task(task, at_hand, place)
                keep(artifact, store, policy, report)
                policy.compare(artifact)
            except (Interrupted, CorruptBlob, Vanished):
                raise
            except BuilditError as error:
                report(events.BuildFailed(task.key, task.label, error.message))
                raise
            report(events.Built(task.key, task.label, time.monotonic() - started))
            return artifact


def keep(artifact: Artifact, store: Store, policy: Policy, report: events.Reporter) -> None:
    """Commit an artifact under the user's own key, and say where it differs from before."""
    from buildit.store.artifacts import commit, read_statement

    signer = policy.signer()
    committed = commit(store, artifact, signer.builder, signer.sign)
    if committed.differs_from is None:
        return
    before, _ = read_statement(committed.differs_from, artifact.key)
    if claim(before) != claim(artifact):
        whose = "this machine" if signer.builder == LOCAL else signer.builder[:12]
        what = f"its outputs differ from those that {whose} built before"
        report(events.Notice(f"{artifact.name} is not reproducible: {what}", warning=True))


def reason(node: Task, store: Store, labels: Mapping[BuildKey, str]) -> str:
    """`first build`, or what changed since the closest of the latest builds, most telling first.

    `labels` are the keys of the plan.
    """
    from buildit.plan.nearness import told_differences
    from buildit.remote.binhost.nearby import Nearby
    from buildit.store.names import latest_builds

    if not kind_of(node).builds:
        return f"{'unpacked' if node.inputs.image is None else 'taken in'} for the first time"
    label = Nearby(store, (), labels).label
    closest: tuple[str, ...] | None = None
    for entry in latest_builds(store, node.name, CONSIDERED):
        if entry.key == node.key:
            continue
        try:
            artifact = lookup(store, entry.key)
            if artifact is None:
                continue
            old = store.read(artifact.record).decode()
            found = told_differences(old, node.record, label, node.about.patch_names())
        except (BuilditError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if closest is None or len(found) < len(closest):
            closest = found
        if len(closest) == 1:
            break  # no other is closer
    if closest is None:
        return "first build"
    if not closest:
        return "its artifact is incomplete"
    rest = len(closest) - _SHOWN
    return ", ".join(closest[:_SHOWN]) + (f", and {rest} more" if rest > 0 else "")
