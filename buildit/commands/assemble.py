"""Layers of a container, in order: links, closures of its packages, accounts, synced files.

Nothing is packed here but the small layers of our own; packages bring theirs from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from buildit.archive.contents import TOPS, parse_contents
from buildit.commands.accounts import account_entries, account_files
from buildit.commands.sync import (
    EPOCH,
    Taken,
    directories_task,
    leading_nowhere,
    some_paths,
    sync_task,
)
from buildit.digest import BuildKey, Digest
from buildit.image.merge import MergedTree, Overlay, Rootfs, with_parents
from buildit.make.layer import layer_task
from buildit.make.makers import kind_of
from buildit.model.artifact import RUNTIME, Artifact
from buildit.model.image import Image, Layer, LayerKind
from buildit.model.plan import (
    ContainerPlan,
    DirectoriesStep,
    ImageStep,
    OutputRef,
    PackageStep,
    SyncStep,
    Task,
)
from buildit.model.tree import Entry, Kind, sort_key
from buildit.plan.closure import closure, views_of
from buildit.store.cas import Store

_PROGRAMS = "usr/bin"
Obtain = Callable[[Task], Artifact]
TaskOf = Callable[[BuildKey], Task]


@dataclass(slots=True)
class Stack:
    """The layers so far, bottom first; `node` knows the tasks, `obtain` gives their artifacts."""

    store: Store
    node: TaskOf
    obtain: Obtain
    layers: list[Layer] = field(default_factory=list)
    members: list[OutputRef] = field(default_factory=list)
    epoch: int = EPOCH
    remarks: list[str] = field(default_factory=list)
    _links: list[str] = field(default_factory=list)
    _overlay: Overlay = field(default_factory=lambda: Overlay(merged=MergedTree(EPOCH)))
    _listings: dict[Digest, tuple[Entry, ...]] = field(default_factory=dict)

    def listing(self, contents: Digest) -> tuple[Entry, ...]:
        """The entries that a blob of contents lists, each read once."""
        if contents not in self._listings:
            self._listings[contents] = parse_contents(self.store.read(contents))
        return self._listings[contents]

    def _whole(self) -> Overlay:
        for layer in self.layers[len(self._overlay.layers) :]:
            self._overlay.lay(layer, self.listing(layer.contents))
        return self._overlay

    def tree(self) -> dict[str, Entry]:
        """The merged entries by path, as a step on top finds them; listings are read here only,
        each once.

        Directories that no layer brings have the time `EPOCH`: what a step repeats of them does
        not change with the packages.
        """
        return self._whole().entries()

    def rootfs(self) -> Rootfs:
        """The merged tree of all layers, as images have it.

        Raises:
            RecipeError: layers clash.
        """
        return self._whole().rootfs(self.epoch)

    def lay(self, task: Task, title: str, entries: Sequence[Entry]) -> None:
        """Add the layer of a task whose entries are known."""
        output = self.obtain(task).outputs[RUNTIME]
        layer = Layer(output.diff_id, output.size, title, output.contents, LayerKind.STEP)
        self.layers.append(layer)
        self._listings[layer.contents] = tuple(entries)

    def add_member(self, member: OutputRef) -> None:
        """The layer of an output, once; one .deb may be the node of several that ask for it."""
        if member in self.members:
            return
        self.members.append(member)
        artifact, name = self.obtain(self.node(member[0])), member[1]
        self.epoch = max(self.epoch, artifact.epoch)
        one = artifact.outputs.get(name)
        if one is not None and all(one.diff_id != layer.diff_id for layer in self.layers):
            title, kind = f"{artifact.name}-{artifact.version} ({name})", LayerKind.PACKAGE
            self.layers.append(
                Layer(one.diff_id, one.size, title, one.contents, kind, one.encodings)
            )

    def add_links(self, members: Sequence[OutputRef]) -> None:
        """One layer below all others with the links that packages count on and none of them
        brings."""
        nodes = [(self.node(key), name) for key, name in members]
        packages = [
            (kind_of(node).scripts, self.listing(output.contents))
            for node, name in nodes
            if (output := self.obtain(node).outputs.get(name)) is not None
        ]
        links = tuple(missing_links(packages))
        if links:
            entries = with_parents(links, {}, Entry("", Kind.DIRECTORY, 0o755, EPOCH))
            self.lay(layer_task("links", entries), "links of merged /usr", entries)

    def add_accounts(self, plan: ContainerPlan, members: Sequence[OutputRef]) -> None:
        """One layer with /etc/passwd and /etc/group, over the packages that declare the
        accounts."""
        nodes, ours = [self.node(key) for key, _ in members], "container.yaml"
        files = account_files(
            [(n.name, user) for n in nodes for user in n.users()] + [(ours, u) for u in plan.users],
            [(n.name, one) for n in nodes for one in n.groups()] + [(ours, g) for g in plan.groups],
        )
        if files:
            entries = account_entries(files, self.tree(), EPOCH)
            self.lay(layer_task("accounts", entries, files), "users and groups", entries)

    def sync(self, taken: Taken) -> None:
        """Add the layer of a sync step; the image is as new as the newest file in it.

        Raises:
            RecipeError, BuildError: it cannot lie there, or a file changed since it was read.
        """
        task, entries, remarks = sync_task(taken, self.tree())
        self.lay(task, f"sync {taken.step.src}", entries)
        self.epoch = max(self.epoch, *(found.time for found in taken.nodes))
        self._links += [entry.path for entry in entries if entry.kind is Kind.SYMLINK]
        said = (*taken.remarks, *remarks)
        self.remarks += [f"sync {taken.step.src}: {remark}" for remark in said]

    def remark_links(self) -> None:
        """Say of synced links which lead nowhere in the whole image."""
        if self._links and (nowhere := list(leading_nowhere(self._links, self.tree()))):
            self.remarks.append(f"synced links lead nowhere in the image: {some_paths(nowhere)}")


def stack(
    plan: ContainerPlan, store: Store, node: TaskOf, obtain: Obtain, taken: Sequence[Taken] = ()
) -> Stack:
    """All layers of the container; the accounts lie over the first package, below all syncs.

    `taken` is of the sync steps, in their order.

    Raises:
        RecipeError: layers clash, accounts contradict each other, or a sync is wrong.
        BuilditError: what `obtain` raises for a package that the closure reaches.
    """
    made, views = Stack(store, node, obtain), views_of(plan.tasks)
    members = closure(plan.roots, node, obtain, views).members
    made.add_links(members)
    accounts_done = not plan.roots
    if accounts_done:
        made.add_accounts(plan, members)
    synced = iter(taken)
    for step in plan.steps:
        match step:
            case PackageStep(roots=roots):
                for member in closure(roots, node, obtain, views).members:
                    made.add_member(member)
                if roots and not accounts_done:
                    made.add_accounts(plan, members)
                    accounts_done = True
            case DirectoriesStep():
                task, entries = directories_task(step, made.tree())
                made.lay(task, "directories", entries)
            case SyncStep():
                made.sync(next(synced))
    made.remark_links()
    return made


def image(
    plan: ContainerPlan, step: ImageStep, layers: tuple[Layer, ...] = (), epoch: int = EPOCH
) -> Image:
    """What the emitter of `step.format` writes down."""
    return Image(
        name=plan.name,
        version=plan.version,
        os=plan.os,
        arch=plan.arch,
        layers=layers,
        epoch=epoch,
        format=step.format,
        app=plan.app,
        author=plan.author,
        about=plan.about,
        labels=plan.labels,
        annotations=plan.annotations,
        compress=step.compress,
        content=step.content,
        place=step.place,
    )


def missing_links(packages: Sequence[tuple[bool, Sequence[Entry]]]) -> Iterator[Entry]:
    """The links for an image of these packages, in the order of layers.

    Each package says whether it is a .deb, and what it has. `/lib64` and its like are made where
    /usr has such a directory and no package has anything of that name; `/usr/bin/awk` and its like
    (`debian.fixups.ALTERNATIVES`) where a .deb has the program.
    """
    from buildit.debian.fixups import links

    everything = [entry for _, entries in packages for entry in entries]
    paths = {entry.path for entry in everything}
    tops = {path.partition("/")[0] for path in paths}
    present = {
        entry.path
        for is_deb, entries in packages
        if is_deb
        for entry in entries
        if entry.path.startswith(f"{_PROGRAMS}/")
    }
    # Directories of second rank that are there as such, or have something in them.
    parts = ((entry.path.split("/", 2), entry.kind) for entry in everything)
    second = {"/".join(p[:2]) for p, kind in parts if len(p) == 3 or kind is Kind.DIRECTORY}
    present |= second & {f"usr/{top}" for top in TOPS}
    for link in sorted(links(present), key=sort_key):
        if link.path not in paths and link.path not in tops:
            yield link
