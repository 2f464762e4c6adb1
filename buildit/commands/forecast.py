"""What a build would do and why, by looking only: nothing is built, fetched or written."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from buildit.archive.contents import parse_contents
from buildit.commands.realise import LookedUp, agrees, look_around, reason, unfit
from buildit.digest import BuildKey, Digest
from buildit.errors import BuilditError
from buildit.image.merge import LayerChange, MergedTree
from buildit.make.makers import AtHand, is_shared, kind_of
from buildit.model.artifact import Artifact
from buildit.model.plan import ContainerPlan, DebRef, Task
from buildit.model.tree import Kind
from buildit.plan.identity import DEBIAN, deb_view
from buildit.remote.binhost.remotes import Remotes
from buildit.store.artifacts import lookup
from buildit.store.cas import Store


class State(StrEnum):
    """Where the artifact of a package would come from."""

    STORE = "store"
    BINHOST = "binhost"
    BUILD = "build"
    UNPACK = "unpack"
    TAKE = "take"
    """An image that the container begins with, whose layers are taken in."""
    PERHAPS = "perhaps"
    """A .deb that is unpacked where a file of one beside it turns out to need it."""
    UNNEEDED = "unneeded"


@dataclass(frozen=True, slots=True)
class Outlook:
    """One package: `why` is the reason of a build, or the name of the binhost; `set_ids` are the
    files of a .deb that keeps these bits, or of a base, with their modes."""

    node: Task
    state: State
    why: str = ""
    set_ids: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Lacking:
    """A file that would be fetched; its size in bytes is only known of a .deb."""

    name: str
    digest: Digest
    size: int | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """`runs` are key and whether it is at hand of the steps that run, as far as they are known."""

    packages: tuple[Outlook, ...]
    fetches: tuple[Lacking, ...]
    runs: tuple[tuple[BuildKey, bool], ...] = ()


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
        found = lookup(store, node.key, partial(unfit, at_hand), remotes.policy.doubts)
        if found is not None:
            return found
        for host in remotes.binhosts() if is_shared(node) else ():
            with suppress(BuilditError):
                for claim in host.claims(node.key):
                    if agrees(claim.artifact, at_hand):
                        binhosts[node.key] = host.name
                        return claim.artifact
        return None

    state = look_around(nodes, plan.wanted, find, LookedUp())
    missing = [node for node in plan.tasks if node.key in state.missing]
    perhaps = {d.digest for t in missing for d in t.inputs.every_deb() if d.digest != t.subject}

    first = plan.begins_with
    below = None if first is None else first.key

    def outlook(node: Task) -> Outlook:
        if node.key in state.missing:
            if not kind_of(node).builds:
                return Outlook(node, State.UNPACK if node.inputs.image is None else State.TAKE)
            return Outlook(node, State.BUILD, reason(node, store, labels))
        if node.key in binhosts:
            return Outlook(node, State.BINHOST, binhosts[node.key])
        if node.key in state.found:
            is_copied = node.inputs.image is not None and node.key != below
            kept = () if is_copied else _set_ids(node, state.found, store)
            return Outlook(node, State.STORE, set_ids=kept)
        return Outlook(node, State.PERHAPS if node.subject in perhaps else State.UNNEEDED)

    return Forecast(tuple(map(outlook, plan.tasks)), tuple(_fetches(missing, plan, store)))


def _set_ids(node: Task, found: AtHand, store: Store) -> tuple[tuple[str, int], ...]:
    """Only where its package step says `set-id: keep` a .deb has any; a base has what it has."""
    if node.inputs.image is not None:
        merged = MergedTree()
        for one in found[node.key].outputs.values():
            merged.lay(LayerChange.of(parse_contents(store.read(one.contents))))
        inside = (merged.tree[path].entry for path in sorted(merged.tree))
        return tuple((e.path, e.mode) for e in inside if e.kind is Kind.FILE and e.mode & 0o6000)
    if node.kind != DEBIAN or not deb_view(node.record).keep_set_id:
        return ()
    outputs = found[node.key].outputs.values()
    every = (parse_contents(store.read(one.contents)) for one in outputs)
    files = (one for entries in every for one in entries if one.kind is Kind.FILE)
    return tuple((one.path, one.mode) for one in files if one.mode & 0o6000)


def _fetches(missing: list[Task], plan: ContainerPlan, store: Store) -> list[Lacking]:
    """As `commands.fetching` would: sources, patches at URLs, .debs, a toolchain to build in."""
    wanted: dict[Digest, Lacking] = {}
    debs: list[DebRef] = []
    for node in missing:
        wanted |= {one.digest: Lacking(one.name, one.digest) for one in node.inputs.sources}
        wanted |= {one.digest: Lacking(one.url, one.digest) for one in node.inputs.patches}
        debs += node.inputs.every_deb()
    made_in_it = [node for node in missing if node.inputs.image is None]
    if made_in_it and not store.trees.is_whole(store.root / "trees" / plan.toolchain.identity):
        debs += plan.toolchain.debs
    for deb in debs:
        wanted[deb.digest] = Lacking(deb.path.rpartition("/")[2], deb.digest, deb.size)
    return [lacking for digest, lacking in wanted.items() if not store.has(digest)]
