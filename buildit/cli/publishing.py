"""Push: every artifact of a plan to the directories that the configuration publishes to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import BuildKey
from buildit.errors import UsageError
from buildit.events import Notice, Reporter
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, Node, PackageStep
from buildit.pipeline.back import Realiser
from buildit.pipeline.network import Network
from buildit.pipeline.settings import Repository, Settings
from buildit.pipeline.story import Prepared
from buildit.pipeline.trust import Judge
from buildit.plan.closure import closure
from buildit.store.artifacts import lookup
from buildit.store.binhost import FileBinhost
from buildit.store.cas import Store


@dataclass(frozen=True, slots=True)
class Pushed:
    """What one repository got: counts of artifacts and of blobs that it did not have."""

    repository: str
    path: str
    artifacts: int
    blobs: int


def push(
    prepared: Prepared, store: Store, network: Network, report: Reporter
) -> tuple[Pushed, ...]:
    """Publish what the plan's images are made of, and what else of the plan is in the store.

    Raises:
        UsageError: no repository can be published to, or the container is not built.
        IntegrityError, StoreError: see `FileBinhost.push`.
    """
    settings = prepared.settings
    targets = [one for one in settings.repositories if one.upload]
    if not targets:
        raise UsageError(
            "no repository of the configuration is a directory to publish to",
            hint="in .buildit-config.yaml: repository: {name: local, upload-type: file, "
            "upload-path: DIR}",
        )
    keys = tuple(_keys(prepared.plan, settings, store, network))
    return tuple(_push_to(one, keys, settings, store, report) for one in targets)


def _keys(
    plan: ContainerPlan, settings: Settings, store: Store, network: Network
) -> Iterator[BuildKey]:
    """Members of the runtime closure, then tools and headers that the store has, each once."""

    def at_hand(node: Node) -> Artifact:
        artifact = lookup(store, node.key)
        if artifact is None:
            raise UsageError(
                f"{node.label} is not in the store",
                place=plan.directory,
                hint=f"build it first: buildit {plan.directory}",
            )
        return artifact

    realiser = Realiser(plan, settings, store, network.report, threading.Event(), network)
    roots = tuple(step.key for step in plan.steps if isinstance(step, PackageStep))
    members = closure(roots, realiser.node, at_hand).members
    others = (node.key for node in plan.nodes if lookup(store, node.key) is not None)
    yield from dict.fromkeys((*(key for key, _ in members), *others))


def _push_to(
    one: Repository,
    keys: tuple[BuildKey, ...],
    settings: Settings,
    store: Store,
    report: Reporter,
) -> Pushed:
    judge = Judge(settings, store, report)
    host = FileBinhost(Path(one.upload), judge.accepting(), one.unsigned, report)
    blobs = 0
    for key in keys:
        done = host.push(key, store)
        blobs += done.blobs
        for path in done.differs:
            report(
                Notice(
                    f"{one.name}: {path} differs from what was published before: the build is "
                    "not reproducible",
                    warning=True,
                )
            )
    return Pushed(one.name, one.upload, len(keys), blobs)
