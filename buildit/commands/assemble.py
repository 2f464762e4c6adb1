"""Layers of a container, in order: links, closures of its packages, accounts, synced files.

Nothing is packed here but the small layers of our own; packages bring theirs from the store.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from buildit.archive.contents import parse_contents
from buildit.commands.accounts import account_entries, account_files
from buildit.commands.baselinks import missing_links
from buildit.commands.directories import directories_layer
from buildit.commands.steplayer import step_layer
from buildit.commands.sync import leading_nowhere, sync_layer
from buildit.commands.synced import EPOCH, Taken, some_paths
from buildit.digest import BuildKey, Digest
from buildit.image.parents import with_parents
from buildit.image.rootfs import Overlay
from buildit.model.artifact import Artifact
from buildit.model.image import Layer, LayerKind
from buildit.model.plan import ContainerPlan, DirectoriesStep, PackageStep
from buildit.model.task import Group, OutputRef, Task, User
from buildit.model.tree import Entry, Kind
from buildit.plan.closure import closure, views_of
from buildit.plan.identity import DEBIAN
from buildit.store.cas import Store

Obtain = Callable[[Task], Artifact]
NodeOf = Callable[[BuildKey], Task]


@dataclass(slots=True)
class Stack:
    """The layers so far, bottom first."""

    store: Store
    layers: list[Layer] = field(default_factory=list)
    members: list[OutputRef] = field(default_factory=list)
    epoch: int = EPOCH
    remarks: list[str] = field(default_factory=list)
    _links: list[str] = field(default_factory=list)
    _overlay: Overlay = field(default_factory=Overlay)
    _listings: dict[Digest, tuple[Entry, ...]] = field(default_factory=dict)

    def listing(self, contents: Digest) -> tuple[Entry, ...]:
        """The entries that a blob of contents lists, each read once."""
        if contents not in self._listings:
            self._listings[contents] = parse_contents(self.store.read(contents))
        return self._listings[contents]

    def tree(self) -> dict[str, Entry]:
        """The merged entries by path, as a step on top finds them; listings are read here only,
        each once.

        Directories that no layer brings have the time `EPOCH`: what a step repeats of them does
        not change with the packages.
        """
        for layer in self.layers[len(self._overlay.layers) :]:
            listing = self.listing(layer.contents)
            self._overlay.lay(layer, listing)
            self._overlay.complete([entry.path for entry in listing], EPOCH)
        return self._overlay.entries()

    def sync(self, project: Path, taken: Taken) -> None:
        """Add the layer of a sync step; the image is as new as the newest file in it.

        Raises:
            RecipeError, BuildError: see `pipeline.sync.sync_layer`.
        """
        layer, entries, remarks = sync_layer(project, taken, self.tree(), self.store)
        self.layers.append(layer)
        self._listings[layer.contents] = entries  # as it was written a moment ago
        self.epoch = max(self.epoch, *(found.time for found in taken.nodes))
        self._links += [entry.path for entry in entries if entry.kind is Kind.SYMLINK]
        said = (*taken.remarks, *remarks)
        self.remarks += [f"sync {taken.step.src}: {remark}" for remark in said]

    def remark_links(self) -> None:
        """Say of synced links which lead nowhere in the whole image."""
        if self._links and (nowhere := list(leading_nowhere(self._links, self.tree()))):
            self.remarks.append(f"synced links lead nowhere in the image: {some_paths(nowhere)}")


def stack(
    plan: ContainerPlan, store: Store, node: NodeOf, obtain: Obtain, taken: Sequence[Taken] = ()
) -> Stack:
    """All layers of the container; the accounts lie over the first package, below all syncs.

    `taken` is of the sync steps, in their order.

    Raises:
        RecipeError: layers clash, accounts contradict each other, or a sync is wrong.
        BuilditError: what `obtain` raises for a package that the closure reaches.
    """
    made = Stack(store)
    views = views_of(plan.tasks)
    roots = tuple(step.key for step in plan.steps if isinstance(step, PackageStep))
    everything = closure(roots, node, obtain, views)
    members = [node(key) for key, _ in everything.members]
    _add_links(made, [(node(key), obtain(node(key)), name) for key, name in everything.members])
    accounts_done = not roots
    if accounts_done:
        _add_accounts(made, plan, members, store)
    synced = iter(taken)
    for step in plan.steps:
        if isinstance(step, PackageStep):
            for member in closure((step.key,), node, obtain, views).members:
                _add_member(made, member, obtain(node(member[0])))
            if not accounts_done:
                _add_accounts(made, plan, members, store)
                accounts_done = True
        elif isinstance(step, DirectoriesStep):
            made.layers.append(directories_layer(step, made.tree(), store))
        else:
            made.sync(Path(plan.directory), next(synced))
    made.remark_links()
    return made


def _add_member(made: Stack, member: OutputRef, artifact: Artifact) -> None:
    """The layer of an output, once; one .deb may be the node of several that ask for it."""
    if member in made.members:
        return
    made.members.append(member)
    made.epoch = max(made.epoch, artifact.epoch)
    name = member[1]
    output = artifact.outputs.get(name)
    if output is None or any(output.diff_id == layer.diff_id for layer in made.layers):
        return
    title = f"{artifact.name}-{artifact.version} ({name})"
    layer = Layer(
        output.diff_id,
        output.size,
        title,
        output.contents,
        LayerKind.PACKAGE,
        output.encodings,
    )
    made.layers.append(layer)


def _add_links(made: Stack, members: list[tuple[Task, Artifact, str]]) -> None:
    """One layer below all others with the links that packages count on and none of them brings."""
    packages = [
        (node.kind == DEBIAN, made.listing(output.contents))
        for node, artifact, name in members
        if (output := artifact.outputs.get(name)) is not None
    ]
    links = tuple(missing_links(packages))
    if links:
        entries = with_parents(links, {}, Entry("", Kind.DIRECTORY, 0o755, EPOCH))
        layer, _ = step_layer(made.store, entries, lambda _: io.BytesIO(), "links of merged /usr")
        made.layers.append(layer)


def _add_accounts(made: Stack, plan: ContainerPlan, nodes: list[Task], store: Store) -> None:
    """One layer with /etc/passwd and /etc/group, over the packages that declare the accounts."""
    users: list[tuple[str, User]] = [(n.name, user) for n in nodes for user in n.users()]
    groups: list[tuple[str, Group]] = [(n.name, group) for n in nodes for group in n.groups()]
    users += [("container.yaml", user) for user in plan.users]
    groups += [("container.yaml", group) for group in plan.groups]
    files = account_files(users, groups)
    if not files:
        return
    entries = account_entries(files, made.tree(), EPOCH)
    layer, _ = step_layer(
        store, entries, lambda entry: io.BytesIO(files[entry.path]), "users and groups"
    )
    made.layers.append(layer)


def why_text(
    why: Mapping[OutputRef, tuple[OutputRef, str]], member: OutputRef, node: NodeOf
) -> str:
    """Why a member is in the closure: `nginx -> libssl.so.3 -> openssl`, root first."""
    words = [node(member[0]).name]
    while member in why:
        member, need = why[member]
        words[:0] = [node(member[0]).name, need.partition(":")[2] or need]
    return " -> ".join(words)
