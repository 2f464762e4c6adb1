"""What a build would do and why, found by looking only: nothing is built, fetched or written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from buildit.commands.realise import LookedUp, agrees, look_around
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError
from buildit.make.makers import kind_of
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, DebRef, Task
from buildit.plan.nearness import told_differences
from buildit.remote.binhost.nearby import Nearby
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.names import latest_builds

_SHOWN = 3
CONSIDERED = 3
"""Of the latest builds; each look costs the sandboxed build of a small package some percent."""


class State(StrEnum):
    """Where the artifact of a package would come from."""

    STORE = "store"
    BINHOST = "binhost"
    BUILD = "build"
    UNPACK = "unpack"
    PERHAPS = "perhaps"
    """A .deb that is unpacked where a file of one beside it turns out to need it."""
    UNNEEDED = "unneeded"


@dataclass(frozen=True, slots=True)
class Outlook:
    """One package: `why` is the reason of a build, or the name of the binhost."""

    node: Task
    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class Lacking:
    """A file that would be fetched; its size in bytes is only known of a .deb."""

    name: str
    digest: Digest
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    packages: tuple[Outlook, ...]
    fetches: tuple[Lacking, ...]


def forecast(plan: ContainerPlan, store: Store, remotes: Remotes) -> Forecast:
    """Look around for every package of the plan, dependencies first.

    Of binhosts only statements are read, and judged as a build would.

    Raises:
        StoreError: the store cannot be read.
    """
    nodes = {node.key: node for node in plan.tasks}
    labels = {node.key: node.label for node in plan.tasks}
    binhosts: dict[BuildKey, str] = {}

    def find(node: Task, at_hand: Mapping[BuildKey, Artifact]) -> Artifact | None:
        def suits(artifact: Artifact) -> str | None:
            return None if agrees(artifact, at_hand) else "built against others"

        found = lookup(store, node.key, suits, remotes.policy.doubts)
        if found is not None:
            return found
        for host in remotes.binhosts():
            with suppress(BuilditError):
                for claim in host.claims(node.key):
                    if suits(claim.artifact) is None:
                        binhosts[node.key] = host.name
                        return claim.artifact
        return None

    state = look_around(nodes, plan.roots, find, LookedUp())
    missing = [node for node in plan.tasks if node.key in state.missing]
    perhaps = {d.digest for t in missing for d in t.inputs.debs if d.digest != t.subject}

    def outlook(node: Task) -> Outlook:
        if node.key in state.missing:
            if not kind_of(node).builds:
                return Outlook(node, State.UNPACK)
            return Outlook(node, State.BUILD, reason(node, store, labels))
        if node.key in binhosts:
            return Outlook(node, State.BINHOST, binhosts[node.key])
        if node.key in state.found:
            return Outlook(node, State.STORE)
        return Outlook(node, State.PERHAPS if node.subject in perhaps else State.UNNEEDED)

    return Forecast(tuple(map(outlook, plan.tasks)), tuple(_fetches(missing, plan, store)))


def _fetches(missing: list[Task], plan: ContainerPlan, store: Store) -> list[Lacking]:
    """As `commands.fetching` would: sources, patches at URLs, .debs, a toolchain to build in."""
    wanted: dict[Digest, Lacking] = {}
    debs: list[DebRef] = []
    for node in missing:
        wanted |= {one.digest: Lacking(one.name, one.digest) for one in node.inputs.sources}
        wanted |= {one.digest: Lacking(one.url, one.digest) for one in node.inputs.patches}
        debs += node.inputs.debs
    if missing and not store.trees.is_whole(store.root / "trees" / plan.toolchain.identity):
        debs += plan.toolchain.debs
    for deb in debs:
        wanted[deb.digest] = Lacking(deb.path.rpartition("/")[2], deb.digest, deb.size)
    return [lacking for digest, lacking in wanted.items() if not store.has(digest)]


def reason(node: Task, store: Store, labels: Mapping[BuildKey, str]) -> str:
    """`first build`, or what changed since the closest of the latest builds, most telling first.

    `labels` are the keys of the plan.
    """
    if not kind_of(node).builds:
        return "unpacked for the first time"
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
