"""The back half: artifacts for a plan's nodes, from the store, a binhost, or a build.

Standard library on the way where everything is at hand; the network and the sandbox are imported
where they are needed.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from buildit.commands.realise import agrees, realise
from buildit.digest import BuildKey
from buildit.errors import BuilditError, IntegrityError, Interrupted, StoreError
from buildit.events import (
    BuildFailed,
    Building,
    Built,
    Missing,
    Notice,
    Planned,
    Recalled,
    Reporter,
    Reused,
)
from buildit.make.makers import BuildPlace, kind_of, make_task
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.config import Config
from buildit.model.plan import ContainerPlan, Toolchain
from buildit.model.task import DebRef, OutputRef, Task
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import Found, examine
from buildit.store.attest import LOCAL
from buildit.store.cas import Store
from buildit.store.checked import CorruptBlob
from buildit.store.durable import Vanished
from buildit.trust.policy import Policy
from buildit.trust.votes import claim

if TYPE_CHECKING:
    from buildit.commands.supply import Supply
    from buildit.make.capture.debs import Debs
    from buildit.remote.binhost.binhost import Binhost

LOCAL_STORE = "the local store"


@dataclass(slots=True)
class Realiser:
    """Obtains the artifacts of one plan.

    `stop` ends builds under way.
    """

    plan: ContainerPlan
    settings: Config
    store: Store
    report: Reporter
    stop: threading.Event
    remotes: Remotes
    supply: Callable[[], Supply]
    done: dict[BuildKey, Artifact] = field(default_factory=dict)
    _nodes: dict[BuildKey, Task] = field(default_factory=dict)
    judge: Policy = field(init=False)
    _looked_for_strangers: bool = False
    _debs_lock: threading.Lock = field(default_factory=threading.Lock)
    _debs_read: Debs | None = None

    def __post_init__(self) -> None:
        self.judge = self.remotes.policy
        self._nodes = {node.key: node for node in self.plan.tasks}

    def node(self, key: BuildKey) -> Task:
        """A node of the plan, or a .deb of its toolchain."""
        if key not in self._nodes:
            toolchain = self.plan.toolchain
            for deb in toolchain.debs:
                node = _deb_node(deb, toolchain)
                self._nodes.setdefault(node.key, node)
        if key not in self._nodes:
            raise IntegrityError(
                f"an artifact names the provider {key[:12]}, which is not in the plan",
                hint="build it again: `buildit store verify`, then the same command",
            )
        return self._nodes[key]

    def realise(self, roots: tuple[OutputRef, ...]) -> None:
        """Obtain the roots and all that is needed on the way.

        Raises:
            BuilditError: something cannot be fetched or built.
        """
        self.store.pin([*self._nodes, *(key for key, _ in roots)])
        found = realise(
            self._nodes,
            roots,
            find=self.find,
            recall=self.recall,
            prepare=self.prepare,
            build=self.build,
            jobs=self.settings.jobs,
        )
        self.done.update(found)

    def obtain(self, node: Task) -> Artifact:
        """The artifact of one node that a closure reaches; .debs are unpacked here."""
        if node.key not in self.done:
            self._nodes.setdefault(node.key, node)
            if kind_of(node).shared:
                self.realise(((node.key, RUNTIME),))
            else:
                self.done[node.key] = self._laid(node)
        return self.done[node.key]

    def _laid(self, task: Task) -> Artifact:
        """The artifact of a task of this container alone: no binhost is asked, and nothing is said
        of it."""
        self.store.pin([task.key])
        found = examine(self.store, task.key, believed=self.judge.doubts)
        if isinstance(found, Found):
            return found.artifact
        artifact = make_task(task, {}, self._place())
        self.keep(artifact)
        return artifact

    def _place(self) -> BuildPlace:
        return BuildPlace(
            store=self.store,
            toolchain=self.plan.toolchain,
            debs=self._debs,
            limits=self.settings.limits,
            report=self.report,
            stop=self.stop,
            project=Path(self.plan.directory),
        )

    def find(self, node: Task, at_hand: Mapping[BuildKey, Artifact]) -> Artifact | None:
        """Look in the store, then on each binhost; the bytes are in the store afterwards."""

        def suits(artifact: Artifact) -> str | None:
            return None if agrees(artifact, at_hand) else "built against other dependencies"

        found = examine(self.store, node.key, suits, self.judge.doubts)
        if isinstance(found, Found):
            self.report(Reused(node.key, node.label, LOCAL_STORE))
            return found.artifact
        for host in self._binhosts():
            try:
                artifact = host.pull(node.key, self.store, suits)
            except (Interrupted, StoreError, CorruptBlob):
                raise  # that is no matter of the binhost's: a full disk is not a miss
            except BuilditError:
                continue  # the binhost said why
            if artifact is not None:
                self.judge.keep_agreement(artifact)
                self.report(Reused(node.key, node.label, f"'{host.name}'"))
                return artifact
        self.report(Missing(node.key, node.label))
        self._tell_of_strangers(node)
        return None

    def _tell_of_strangers(self, node: Task) -> None:
        """Say, once in a run, that a binhost has what is about to be built, by somebody else."""
        if self._looked_for_strangers or not kind_of(node).builds:
            return
        from buildit.remote.binhost.nearby import untrusted_builds

        self._looked_for_strangers = True
        for stranger in untrusted_builds(node, self._binhosts()):
            self.report(Notice(f"{node.label}: {stranger}", warning=True))

    def recall(self, node: Task, at_hand: Mapping[BuildKey, Artifact]) -> Artifact | None:
        """An artifact whose dependencies had other keys and the same bytes, said of this node's
        key (DESIGN 3, early cut-off); None where no place knows one, or not all are at hand."""
        if not node.inputs.dependencies:
            return None
        from buildit.remote.binhost.cutoff import Repetitions, recall

        sources = Repetitions(self.store, self._binhosts(), self.judge.doubts)
        found = recall(node, at_hand, sources, self.repeat)
        if found is None:
            return None
        artifact, origin = found
        self.report(Recalled(node.key, node.label, origin))
        return artifact

    def _binhosts(self) -> Iterator[Binhost]:
        """Those of the configuration, judged by what it says of each."""
        return self.remotes.binhosts()

    def prepare(self, nodes: tuple[Task, ...]) -> None:
        """Fetch what the builds of `nodes` need, all before the first begins."""
        builds = sum(kind_of(node).builds for node in nodes)
        unpacks = len(nodes) - builds
        self.report(Planned(len(self._nodes) - len(nodes), builds, unpacks))
        self.supply().bring(nodes, self.plan.toolchain)

    def build(self, node: Task, at_hand: Mapping[BuildKey, Artifact]) -> Artifact:
        """Build or unpack one node and commit it; runs in a thread of its own."""
        from buildit.commands.reasons import reason

        with self.store.key_lock(node.key, self._waiting(node), self.stop):
            again = examine(
                self.store,
                node.key,
                lambda a: None if agrees(a, at_hand) else "another",
                self.judge.doubts,
            )
            if isinstance(again, Found):
                return again.artifact
            recalled = self.recall(node, at_hand)
            if recalled is not None:
                return recalled
            labels = {key: other.label for key, other in self._nodes.items()}
            self.report(Building(node.key, node.label, reason(node, self.store, labels)))
            started = time.monotonic()
            try:
                artifact = make_task(node, at_hand, self._place())
                self.keep(artifact)
                self.judge.compare(artifact)
            except (Interrupted, CorruptBlob, Vanished):
                raise
            except BuilditError as error:
                self.report(BuildFailed(node.key, node.label, error.message))
                raise
            self.report(Built(node.key, node.label, time.monotonic() - started))
            return artifact

    def _debs(self) -> Debs:
        """What the .debs have, read once; the toolchain's tree is filled on first use."""
        from buildit.commands.rules import RULES
        from buildit.commands.supply import toolchain_owners
        from buildit.make.capture.debs import Debs

        with self._debs_lock:
            if self._debs_read is None:
                toolchain = self.plan.toolchain
                owners = toolchain_owners(toolchain, self.store, self.stop)
                self._debs_read = Debs(self.store, toolchain, owners, RULES)
            return self._debs_read

    def repeat(self, artifact: Artifact, found: Found) -> None:
        """Commit an artifact that says a found build of another key. What nobody signed must not
        become one's own by being repeated."""
        from buildit.store.artifacts import place_statement
        from buildit.store.attest import statement_bytes

        if not found.origin or found.builder != LOCAL:
            self.keep(artifact)
            return
        content = statement_bytes(artifact, LOCAL)
        place_statement(self.store, artifact, LOCAL, content, None, origin=found.origin)

    def keep(self, artifact: Artifact) -> None:
        """Commit an artifact under the user's own key, and say where it differs from before."""
        from buildit.store.artifacts import commit, read_statement

        signer = self.judge.signer()
        committed = commit(self.store, artifact, signer.builder, signer.sign)
        if committed.differs_from is not None:
            before, _ = read_statement(committed.differs_from, artifact.key)
            if claim(before) == claim(artifact):
                return
            self.report(
                Notice(
                    f"{artifact.name} is not reproducible: its outputs differ from those that "
                    f"{_whose(signer.builder)} built before",
                    warning=True,
                )
            )

    def _waiting(self, node: Task) -> Callable[[str], None]:
        def told(holder: str) -> None:
            # `pid 123 start 456`; nothing where the holder is just about to write it.
            pid = holder.split()[1:2]
            who = f"another buildit (pid {pid[0]})" if pid else "another buildit"
            self.report(Notice(f"{node.label}: waiting for {who}, which builds it"))

        return told


def _whose(builder: str) -> str:
    return "this machine" if builder == LOCAL else builder[:12]


def _deb_node(deb: DebRef, toolchain: Toolchain) -> Task:
    """The node of a toolchain's .deb; what makes keys is imported where one is needed."""
    from buildit.commands.rules import RULES
    from buildit.plan.tasks import deb_task

    return deb_task(deb, toolchain, (), RULES)
