"""Layers of a container, in order: links, closures of its packages, accounts, synced files.

Nothing is packed here but the small layers of our own; packages bring theirs from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from buildit.archive.contents import parse_contents
from buildit.archive.merged import TOPS
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
from buildit.model.plan import ContainerPlan, ImageStep
from buildit.model.task import Group, OutputRef, Task, User
from buildit.model.tree import Entry, Kind, sort_key
from buildit.plan.closure import closure, views_of
from buildit.store.cas import Store

_PROGRAMS = "usr/bin"
Obtain = Callable[[Task], Artifact]
TaskOf = Callable[[BuildKey], Task]


@dataclass(slots=True)
class Stack:
    """The layers so far, bottom first."""

    store: Store
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

    def tree(self) -> dict[str, Entry]:
        """The merged entries by path, as a step on top finds them; listings are read here only,
        each once.

        Directories that no layer brings have the time `EPOCH`: what a step repeats of them does
        not change with the packages.
        """
        self._lay_all()
        return self._overlay.entries()

    def _lay_all(self) -> None:
        for layer in self.layers[len(self._overlay.layers) :]:
            self._overlay.lay(layer, self.listing(layer.contents))

    def rootfs(self) -> Rootfs:
        """The merged tree of all layers, as images have it.

        Raises:
            RecipeError: layers clash.
        """
        self._lay_all()
        return self._overlay.rootfs(self.epoch)

    def lay(self, task: Task, title: str, entries: Sequence[Entry], obtain: Obtain) -> None:
        """Add the layer of a task whose entries are known."""
        output = obtain(task).outputs[RUNTIME]
        layer = Layer(output.diff_id, output.size, title, output.contents, LayerKind.STEP)
        self.layers.append(layer)
        self._listings[layer.contents] = tuple(entries)

    def sync(self, taken: Taken, obtain: Obtain) -> None:
        """Add the layer of a sync step; the image is as new as the newest file in it.

        Raises:
            RecipeError, BuildError: it cannot lie there, or a file changed since it was read.
        """
        task, entries, remarks = sync_task(taken, self.tree())
        self.lay(task, f"sync {taken.step.src}", entries, obtain)
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
    made = Stack(store)
    views = views_of(plan.tasks)
    everything = closure(plan.roots, node, obtain, views)
    members = [node(key) for key, _ in everything.members]
    outputs = [(node(key), obtain(node(key)), name) for key, name in everything.members]
    _add_links(made, outputs, obtain)
    accounts_done = not plan.roots
    if accounts_done:
        _add_accounts(made, plan, members, obtain)
    synced = iter(taken)
    for step in plan.steps:
        for member in closure(step.roots, node, obtain, views).members:
            _add_member(made, member, obtain(node(member[0])))
        if step.roots and not accounts_done:
            _add_accounts(made, plan, members, obtain)
            accounts_done = True
        for wanted in step.makes:
            task, entries = directories_task(wanted, made.tree())
            made.lay(task, "directories", entries, obtain)
        for _, found in zip(step.takes, synced, strict=False):
            made.sync(found, obtain)
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
        output.diff_id, output.size, title, output.contents, LayerKind.PACKAGE, output.encodings
    )
    made.layers.append(layer)


def _add_links(made: Stack, members: list[tuple[Task, Artifact, str]], obtain: Obtain) -> None:
    """One layer below all others with the links that packages count on and none of them brings."""
    packages = [
        (kind_of(node).scripts, made.listing(output.contents))
        for node, artifact, name in members
        if (output := artifact.outputs.get(name)) is not None
    ]
    links = tuple(missing_links(packages))
    if links:
        entries = with_parents(links, {}, Entry("", Kind.DIRECTORY, 0o755, EPOCH))
        made.lay(layer_task("links", entries), "links of merged /usr", entries, obtain)


def _add_accounts(made: Stack, plan: ContainerPlan, nodes: list[Task], obtain: Obtain) -> None:
    """One layer with /etc/passwd and /etc/group, over the packages that declare the accounts."""
    users: list[tuple[str, User]] = [(n.name, user) for n in nodes for user in n.users()]
    groups: list[tuple[str, Group]] = [(n.name, group) for n in nodes for group in n.groups()]
    users += [("container.yaml", user) for user in plan.users]
    groups += [("container.yaml", group) for group in plan.groups]
    files = account_files(users, groups)
    if not files:
        return
    entries = account_entries(files, made.tree(), EPOCH)
    made.lay(layer_task("accounts", entries, files), "users and groups", entries, obtain)


def missing_links(packages: Sequence[tuple[bool, Sequence[Entry]]]) -> Iterator[Entry]:
    """The links for an image of these packages, in the order of layers.

    Each package says whether it is a .deb, and what it has. `/lib64` and its like are made where
    /usr has such a directory and no package has anything of that name; `/usr/bin/awk` and its like
    (`debian.fixups.ALTERNATIVES`) where a .deb has the program.
    """
    from buildit.debian.fixups import links

    paths = {entry.path for _, entries in packages for entry in entries}
    tops = {path.partition("/")[0] for path in paths}
    debs = {e.path for is_deb, entries in packages if is_deb for e in entries}
    present = {path for path in debs if path.startswith(f"{_PROGRAMS}/")}
    present |= set(_directories(packages)) & {f"usr/{top}" for top in TOPS}
    for link in sorted(links(present), key=sort_key):
        if link.path not in paths and link.path not in tops:
            yield link


def _directories(packages: Sequence[tuple[bool, Iterable[Entry]]]) -> Iterator[str]:
    """The directories of second rank that hold something, or are there as directories."""
    for _, entries in packages:
        for entry in entries:
            parts = entry.path.split("/", 2)
            if len(parts) == 3 or entry.kind is Kind.DIRECTORY:
                yield "/".join(parts[:2])
