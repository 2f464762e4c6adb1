"""Layers of a container, in order: links, closures of its packages, accounts, synced files.

Nothing is packed here but the small layers of our own; packages bring theirs from the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from buildit.archive.contents import MERGED_LINKS, RUN_LINKS, TOPS, way
from buildit.commands import placing
from buildit.commands.accounts import (
    GROUP,
    PASSWD,
    Ids,
    account_entries,
    account_files,
    accounts_over,
    check_borrowed,
    numbered_owners,
    read_accounts,
    with_debians,
)
from buildit.commands.archives import archive_layer
from buildit.commands.changing import modes_task, symlinks_task, texts_task
from buildit.commands.copying import SourceTree, image_nodes
from buildit.commands.mountfiles import MOUNTED_FILE, mounted_path, text_mount_task
from buildit.commands.settling import program_of, settled_app
from buildit.commands.sync import EPOCH, Taken, some_paths
from buildit.digest import Digest
from buildit.errors import RecipeError, UsageError
from buildit.image.launch import LARGEST_ACCOUNTS, Accounts, Identity, Launch, identity_of
from buildit.image.layertar import Contents
from buildit.image.merge import Member, MergedTree, Overlay, Rootfs, with_parents
from buildit.image.services import check_init, init_layer
from buildit.make.layer import layer_task, opened_project
from buildit.make.listings import listings_of
from buildit.make.makers import kind_of
from buildit.make.run_task import run_task
from buildit.model.accounts import NOTHING, AlternativeLink, united
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.copying import MountedFiles
from buildit.model.image import App, Image, Layer, LayerKind
from buildit.model.plan import (
    About,
    ContainerPlan,
    DebRef,
    DirectoriesStep,
    FromStep,
    ImageStep,
    LayerFile,
    LayerRef,
    ModesStep,
    OutputRef,
    PackageStep,
    RunStep,
    SymlinksStep,
    SyncStep,
    Task,
    TextsStep,
)
from buildit.model.services import Init, Service
from buildit.model.tree import YEAR_1980, Entry, Kind, sort_key
from buildit.plan.closure import TaskOf, closure, views_of
from buildit.store.cas import Store

Obtain = Callable[[Task], Artifact]

_OFFSETS = "offsets"
"""Where a store keeps what is known of the layers of bases."""


@dataclass(slots=True)
class Stack:
    """The layers so far, bottom first; `node` knows the tasks, `obtain` gives their artifacts.
    `init` are the services, once their layer is there."""

    store: Store
    node: TaskOf
    obtain: Obtain
    project: str = ""
    layers: list[Layer] = field(default_factory=list)
    members: list[OutputRef] = field(default_factory=list)
    epoch: int = EPOCH
    remarks: list[str] = field(default_factory=list)
    init: Init | None = None
    _links: list[str] = field(default_factory=list)
    _overlay: Overlay = field(default_factory=lambda: Overlay(merged=MergedTree(EPOCH)))
    _listings: dict[Digest, tuple[Entry, ...]] = field(default_factory=dict)
    _below: dict[str, DebRef] = field(default_factory=dict)

    def listing(self, contents: Digest) -> tuple[Entry, ...]:
        """The entries that a blob of contents lists, each read once."""
        if contents not in self._listings:
            self._listings[contents] = listings_of(self.store).of(self.store, contents)
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

    def restated(self) -> tuple[Entry, ...]:
        """The directories that an overlay of the layers so far would show otherwise than `tree`.

        Raises:
            RecipeError: layers clash.
        """
        return self._whole().restated(EPOCH)

    def lay(self, task: Task, title: str, entries: Sequence[Entry]) -> None:
        """Add the layer of a task whose entries are known."""
        output = self.obtain(task).outputs[RUNTIME]
        layer = Layer(output.diff_id, output.size, title, output.contents, LayerKind.STEP)
        self.layers.append(layer)
        self._listings[layer.contents] = tuple(entries)

    def add_base(self, step: FromStep, platform: str) -> None:
        """The layers of the image that the container begins with, below all others.

        Raises:
            BuilditError: as `run`, where it is to be configured.
        """
        task = self.node(step.key)
        artifact = self.obtain(task)
        self._below = {deb.name: deb for deb in task.inputs.debs}
        self.epoch = max(self.epoch, artifact.epoch)
        for number, name in enumerate(step.outputs):
            one, title = artifact.outputs[name], f"{step.origin}, layer {number}"
            self.layers.append(Layer(one.diff_id, one.size, title, one.contents, LayerKind.FROM))
        if step.configure is not None:
            self.run(step.configure, platform)

    def over_base(self, members: Sequence[OutputRef], place: str | None = None) -> list[OutputRef]:
        """Those that are no .debs which the base is made of.

        Raises:
            RecipeError: the base has one of them in another version.
        """
        found = []
        for member in members:
            task = self.node(member[0])
            deb = next((one for one in task.inputs.debs if one.digest == task.subject), None)
            there = None if deb is None else self._below.get(deb.name)
            if deb is None or there is None:
                found.append(member)
            elif there.digest != deb.digest:
                message = f"the base has {there.name} {there.version}, and what is to lie over it "
                message += f"comes with {deb.version}"
                hint = "let both be chosen anew: buildit lock --update toolchain"
                raise RecipeError(message, place=place, hint=hint)
        return found

    def add_package(self, step: PackageStep, members: Sequence[OutputRef]) -> None:
        """The layers of what a step names and needs, but for what a Debian root below has."""
        found = self.over_base(members)
        for member in found:
            self.add_member(member)
        for root in step.roots if self._below else ():
            if root not in found:
                self.remarks.append(f"{step.origin}: the base has it already")
            elif self.node(root[0]).subject is not None:
                name = step.origin.removeprefix("debian:").partition("=")[0]
                say = f"{step.origin}: dpkg of the base does not know it, as it is only unpacked; "
                say += f"`run: {{script: apt-get install -y {name}, debs: [{name}]}}` installs it"
                self.remarks.append(say)

    def contents(self, tree: Rootfs | Overlay) -> Contents:
        """What opens the files of a tree of layers of the store."""
        return Contents(tree, self.store.path, self.store.cache(_OFFSETS))

    def text_of(self, path: str) -> str:
        """A file of the whole image so far, as text; empty where there is none.

        Raises:
            StoreError, IntegrityError: a layer is missing or damaged.
        """
        rootfs = self.rootfs()
        member = rootfs.tree.get(way(path, rootfs.find).end or "")
        if member is None or member.entry.kind is not Kind.FILE:
            return ""
        with closing(self.contents(rootfs).open(member)) as stream:
            return stream.read(LARGEST_ACCOUNTS).decode("utf-8", "replace")

    def accounts(self) -> Ids:
        """The users and groups of the whole image so far. Raises as `text_of`."""
        return read_accounts(self.text_of(PASSWD), self.text_of(GROUP))

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
            called = artifact.name if name == RUNTIME else f"{artifact.name}/{name}"
            whose = (called, artifact.version)
            layer = Layer(one.diff_id, one.size, title, one.contents, kind, one.encodings, *whose)
            self.layers.append(layer)

    def add_links(self, members: Sequence[OutputRef]) -> None:
        """One layer below all others with the links that packages count on and none of them
        brings."""
        nodes = [(self.node(key), name) for key, name in members]
        packages = [
            (kind_of(node).scripts, self.listing(output.contents))
            for node, name in nodes
            if (output := self.obtain(node).outputs.get(name)) is not None
        ]
        offered = [one for each in self._outputs(members) for one in each.declared.alternatives]
        links = tuple(missing_links(packages, offered))
        tree = self.tree() if self.layers else {}
        tops = {path.partition("/")[0] for path in tree}
        links = tuple(one for one in links if one.path not in tree and one.path not in tops)
        if links:
            entries = with_parents(links, tree, Entry("", Kind.DIRECTORY, 0o755, EPOCH))
            self.lay(layer_task("links", entries), "links of merged /usr", entries)

    def _outputs(self, members: Sequence[OutputRef]) -> Iterator[Output]:
        artifacts = ((self.obtain(self.node(key)), name) for key, name in members)
        return (one.outputs[name] for one, name in artifacts if name in one.outputs)

    def add_accounts(self, plan: ContainerPlan, members: Sequence[OutputRef]) -> None:
        """One layer with /etc/passwd and /etc/group, over the packages that declare the
        accounts."""
        nodes, ours = [self.node(key) for key, _ in members], "container.yaml"
        users = [(n.name, user) for n in nodes for user in n.users()]
        users += [(ours, user) for user in plan.users]
        groups = [(n.name, one) for n in nodes for one in n.groups()]
        groups += [(ours, group) for group in plan.groups]
        found = reduce(united, (one.declared for one in self._outputs(members)), NOTHING)
        check_borrowed(plan.borrowed, found)
        files = account_files(*with_debians(users, groups, found))
        if files and plan.begins_with is not None:
            below = {path: self.text_of(path) for path in (PASSWD, GROUP)}
            files = accounts_over(below, files, plan.begins_with.place)
        if files:
            entries = account_entries(files, self.tree(), EPOCH)
            self.lay(layer_task("accounts", entries, files), "users and groups", entries)

    def add_init(self, init: Init, app: App) -> None:
        """One layer with the files that start and stop the services; `app` is what runs them.

        Raises:
            RecipeError: the image lacks a program or an account that they need, or has an init.
        """
        tree = self.tree()
        services = (self._settled_service(one, app) for one in init.services)
        self.init = init = replace(init, services=tuple(services))
        check_init(init, tree)
        made, texts = init_layer(init.services)
        new = Entry("", Kind.DIRECTORY, 0o755, EPOCH)
        entries = with_parents(made, tree, new, init.place)
        self.lay(
            layer_task("init", entries, texts, about=About(origin=init.place)), "init", entries
        )

    def _settled_service(self, service: Service, app: App) -> Service:
        """With numbers for its account and a path for its program, where only the whole image has
        them."""
        if not service.owner:
            return service
        accounts = self.accounts()
        found = accounts.owner(service.owner)
        if found is None:
            message = f"{service.name} runs as {service.owner}, whom the image has not"
            hint = f"write a number; the image has {accounts.names()}"
            raise RecipeError(message, place=service.place, hint=hint)
        at = replace(app, working_directory=service.working_directory)
        program = program_of(service.exec, at, service.place, self.tree().get)
        return replace(service, exec=program, uid=found[0], gid=found[1], owner="")

    def sync(self, taken: Taken) -> None:
        """Add the layer of a sync step; the image is as new as the newest file in it.

        Raises:
            RecipeError, BuildError: it cannot lie there, or a file changed since it was read.
        """
        whole = self._unpacked(taken) if taken.step.extract else taken
        task, entries, remarks = placing.sync_task(whole, self.tree())
        self.lay(task, f"sync {taken.step.src}", entries)
        files = (one.mtime for one in entries if one.kind is Kind.FILE)
        self.epoch = max(self.epoch, *(found.time for found in taken.nodes), *files)
        self._links += [entry.path for entry in entries if entry.kind is Kind.SYMLINK]
        said = (*taken.remarks, *remarks)
        self.remarks += [f"sync {taken.step.src}: {remark}" for remark in said]

    def _unpacked(self, taken: Taken) -> Taken:
        """With the trees of archives in the place of those."""
        parts = [self._archive(one) if one.archive else one for one in taken.parts]
        return replace(parts[0], further=tuple(parts[1:]))

    def _archive(self, part: Taken) -> Taken:
        node, step = part.nodes[0], part.step
        assert node.digest is not None  # noqa: S101 - it is a file
        project = Path(step.root or self.project)
        with (
            opened_project(project, part.source, step.place) as root,
            root.open_file(node.source) as stream,
        ):
            layer = archive_layer(stream, node.digest, node.source, self.store)
        tree = self._image_tree([("archive", layer)], node.source)
        inner = replace(step, dest=f"{step.dest.rstrip('/')}/", sources=(".",), exclude=())
        return Taken(inner, tuple(tree.nodes(inner, ".")), source=".")

    def copy(self, step: SyncStep) -> None:
        """Add the layer of a step that takes files of another image.

        Raises:
            RecipeError: it has no such file, or one cannot lie there.
            BuilditError: as `obtain`.
        """
        self.sync(self._copied(step))

    def _copied(self, step: SyncStep) -> Taken:
        origin = step.origin
        assert origin is not None  # noqa: S101 - who calls looked
        outputs = self.obtain(self.node(origin.key)).outputs
        tree = self._image_tree([(one, outputs[one]) for one in origin.outputs], origin.reference)
        found = image_nodes(step, tree)
        parts = [Taken(step, tuple(nodes), source=path) for path, nodes in found]
        return replace(parts[0], further=tuple(parts[1:]))

    def _image_tree(self, outputs: Sequence[tuple[str, Output]], title: str) -> SourceTree:
        whole = Overlay(merged=MergedTree(EPOCH))
        for name, one in outputs:
            layer = Layer(one.diff_id, one.size, f"{title}, {name}", one.contents, LayerKind.FROM)
            whole.lay(layer, self.listing(one.contents))
        return SourceTree(whole, self.contents(whole), title)

    def symlinks(self, step: SymlinksStep) -> None:
        """Add the layer of a step with links.

        Raises:
            RecipeError: one cannot lie there.
        """
        self._placed("symlinks", *symlinks_task(step, self.tree()))

    def texts(self, step: TextsStep) -> None:
        """Add the layer of a step with files whose text it has.

        Raises:
            RecipeError: one cannot lie there.
        """
        self._placed("texts", *texts_task(step, self.tree()))

    def _placed(
        self, kind: str, task: Task, entries: Sequence[Entry], replaced: Sequence[str]
    ) -> None:
        self.lay(task, kind, entries)
        self._links += [entry.path for entry in entries if entry.kind is Kind.SYMLINK]
        if replaced:
            self.remarks.append(f"{kind}: files of the image are replaced: {some_paths(replaced)}")

    def modes(self, step: ModesStep) -> None:
        """Add the layer of a step that changes modes and owners.

        Raises:
            RecipeError: the image has no such path.
        """
        whole = self._whole()
        contents = self.contents(whole)

        def content(path: str, member: Member) -> LayerFile:
            layer = whole.layers[member.layer]
            return LayerFile(path, layer.diff_id, layer.size, contents.start(member))

        task, entries = modes_task(step, whole.merged.tree, content)
        self.lay(task, "modes", entries)

    def run(self, step: RunStep, platform: str, taken: Sequence[Taken] = ()) -> None:
        """Add the difference that a command leaves which runs over all layers so far. `taken` is
        what its mounts have of the project.

        Raises:
            RecipeError: the layers clash.
            BuilditError: it fails.
        """
        if step.debs and way("usr/bin/apt-get", self.tree().get).end not in self.tree():
            message = "`debs` are for apt, and no layer below has it"
            hint = "begin with a root that has: `- from: {suite: debian-12}`"
            raise RecipeError(message, place=step.place, hint=hint)
        restated = self.restated()
        below = [LayerRef(layer.diff_id, layer.contents) for layer in self.layers]
        who = self._identity(step) if step.as_app else None
        mounts = tuple(self._mounts(step, iter(taken)))
        task = run_task(step, below, restated, self.epoch, platform, who, mounts)
        output = self.obtain(task).outputs[RUNTIME]
        if self.listing(output.contents):  # a command may change nothing
            said = output.diff_id, output.size, f"run {step.said}", output.contents
            self.layers.append(Layer(*said, LayerKind.RUN))

    def _mounts(self, step: RunStep, taken: Iterator[Taken]) -> Iterator[MountedFiles]:
        """The mounts of a step, with the layers that have their files, each laid by itself."""
        parts = [next(taken) if one.origin is None else self._copied(one) for one in step.sources]
        for mount in step.mounts:
            if mount.kind == "text":
                task = text_mount_task(mount, step.place)
                layer, path = self.obtain(task).outputs[RUNTIME], MOUNTED_FILE
            elif mount.source < 0:
                yield MountedFiles(mount)
                continue
            else:
                part = parts[mount.source]
                task, _, _ = placing.sync_task(part, {})
                layer, path = self.obtain(task).outputs[RUNTIME], mounted_path(part)
            yield MountedFiles(mount, layer.diff_id, path)

    def _identity(self, step: RunStep) -> Identity:
        """Whom a step runs as, by the accounts of the image so far (what engines do with `USER`).

        Raises:
            RecipeError: there is no such account.
        """
        accounts = Accounts(self.text_of(PASSWD), self.text_of(GROUP))
        try:
            user = "0" if step.user in ("", "root") else step.user
            found = identity_of(Launch(user=user, group=step.group), accounts)
        except UsageError as error:
            raise RecipeError(error.message, place=step.place, hint=error.hint) from error
        if step.ids == "one" and (found.uid or found.gid):
            message = f"the step runs as {step.user}, and with `ids: one` only root is there"
            raise RecipeError(message, place=step.place, hint="say `ids: range`")
        return found

    def app(self, plan: ContainerPlan) -> App | None:
        """The app with absolute paths for its programs and numbers for its accounts, as the whole
        image has them (execvp(3), and what engines do with `User`).

        Raises:
            RecipeError: the image has no such program or account.
        """
        if plan.app is None or not plan.is_late:
            return plan.app
        return settled_app(plan.app, plan, self.tree().get, self.accounts())

    def remark_links(self) -> None:
        """Say of links of steps which lead nowhere in the whole image."""
        nowhere = list(placing.leading_nowhere(self._links, self.tree())) if self._links else []
        if nowhere:
            self.remarks.append(f"synced links lead nowhere in the image: {some_paths(nowhere)}")


def stack(
    plan: ContainerPlan,
    store: Store,
    node: TaskOf,
    obtain: Obtain,
    taken: Sequence[Taken] = (),
    until: int | None = None,
) -> Stack:
    """All layers of the container; the accounts lie over the first package, below all syncs.

    `taken` is of the sync steps, in their order. `until` is how many of the plan's steps are laid,
    all without it: what lies below them does not depend on it.

    Raises:
        RecipeError: layers clash, accounts contradict each other, or a sync is wrong.
        BuilditError: what `obtain` raises for a package that the closure reaches.
    """
    made = Stack(store, node, obtain, plan.directory)
    views = views_of((*plan.tasks, *plan.views))
    if plan.begins_with is not None:
        made.add_base(plan.begins_with, plan.platform)
    place = None if plan.begins_with is None else plan.begins_with.place
    members = made.over_base(closure(plan.roots, node, obtain, views).members, place)
    made.add_links(members)
    accounts_done = not plan.roots
    if accounts_done:
        made.add_accounts(plan, members)
    synced = iter(taken)
    for named in plan.steps[:until]:
        step = numbered_owners(named, made.accounts)
        match step:
            case FromStep():
                pass  # below the links already
            case PackageStep(roots=roots):
                made.add_package(step, closure(roots, node, obtain, views).members)
                if roots and not accounts_done:
                    made.add_accounts(plan, members)
                    accounts_done = True
            case DirectoriesStep():
                task, entries = placing.directories_task(step, made.tree())
                made.lay(task, "directories", entries)
            case SymlinksStep():
                made.symlinks(step)
            case TextsStep():
                made.texts(step)
            case ModesStep():
                made.modes(step)
            case SyncStep() if step.origin is not None:
                made.copy(step)
            case SyncStep():
                made.sync(next(synced).with_step(step))
            case RunStep():
                own = [next(synced) for one in step.sources if one.origin is None]
                made.run(step, plan.platform, own)
    if plan.init is not None and plan.app is not None and until is None:
        made.add_init(plan.init, plan.app)
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
        split=step.split,
    )


def missing_links(
    packages: Sequence[tuple[bool, Sequence[Entry]]], alternatives: Sequence[AlternativeLink] = ()
) -> Iterator[Entry]:
    """The links for an image of these packages, in the order of layers.

    Each package says whether it is a .deb, and what it has. `/lib64` and its like are made where
    /usr has such a directory and no package has anything of that name; of `alternatives` of one
    name the one with the highest priority of those that are there; `/var/run` where a .deb has
    something in /run (Debian Policy 9.1.4).
    """
    everything = [entry for _, entries in packages for entry in entries]
    paths = {entry.path for entry in everything}
    tops = {path.partition("/")[0] for path in paths}
    # Directories of second rank that are there as such, or have something in them.
    parts = ((entry.path.split("/", 2), entry.kind) for entry in everything)
    second = {"/".join(p[:2]) for p, kind in parts if len(p) == 3 or kind is Kind.DIRECTORY}
    merged = second & {f"usr/{top}" for top in TOPS}
    chosen: dict[str, AlternativeLink] = {}
    for one in sorted(alternatives, key=lambda x: (x.target in paths, x.priority, x.target)):
        chosen[one.link] = one
    made = {
        one.link: Entry(one.link, Kind.SYMLINK, 0o777, YEAR_1980, target=f"/{one.target}")
        for one in chosen.values()
    }
    in_run = (one.path for is_deb, entries in packages if is_deb for one in entries)
    if any(path.startswith("run/") for path in in_run):
        for path, target in RUN_LINKS.items():
            made[path] = Entry(path, Kind.SYMLINK, 0o777, YEAR_1980, target=target)
    for link in MERGED_LINKS:
        if link.target in merged:
            target = link.target
            made[link.path] = Entry(link.path, Kind.SYMLINK, 0o777, YEAR_1980, target=target)
    for link in sorted(made.values(), key=sort_key):
        if link.path not in paths and link.path not in tops:
            yield link
