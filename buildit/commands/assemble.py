"""Layers of a container, in order: links, closures of its packages, accounts, synced files.

Nothing is packed here but the small layers of our own; packages bring theirs from the store.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import TypeVar

from buildit.archive.beneath import Root
from buildit.archive.contents import MERGED_LINKS, RUN_LINKS, TOPS, parse_contents
from buildit.commands import sync
from buildit.commands.changing import modes_task, symlinks_task
from buildit.commands.sync import EPOCH, Filler, Taken, some_paths
from buildit.digest import Digest, digest_bytes
from buildit.errors import BuildError, IntegrityError, RecipeError
from buildit.image.layertar import offsets
from buildit.image.merge import Member, MergedTree, Overlay, Rootfs, with_parents
from buildit.image.rules import account_problems
from buildit.image.services import check_init, init_layer
from buildit.make.layer import layer_task
from buildit.make.makers import kind_of
from buildit.model.accounts import (
    ACCOUNT_NAME,
    BASE_USERS,
    NOTHING,
    AlternativeLink,
    Declared,
    Group,
    User,
    group_id,
    united,
    user_id,
)
from buildit.model.artifact import RUNTIME, Artifact, Output
from buildit.model.image import App, Image, Layer, LayerKind
from buildit.model.plan import (
    About,
    ContainerPlan,
    DirectoriesStep,
    ImageStep,
    LayerFile,
    ModesStep,
    OutputRef,
    PackageStep,
    SymlinksStep,
    SyncStep,
    Task,
)
from buildit.model.services import Init
from buildit.model.tree import YEAR_1980, Entry, Kind, sort_key
from buildit.plan.closure import TaskOf, closure, views_of
from buildit.recipe.leaf import id_of
from buildit.store.cas import Store

PASSWD, GROUP = "etc/passwd", "etc/group"
_LARGEST_FILE = 1 << 20
Obtain = Callable[[Task], Artifact]


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
        if links:
            entries = with_parents(links, {}, Entry("", Kind.DIRECTORY, 0o755, EPOCH))
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
        if files:
            entries = account_entries(files, self.tree(), EPOCH)
            self.lay(layer_task("accounts", entries, files), "users and groups", entries)

    def add_init(self, init: Init) -> None:
        """One layer with the files that start and stop the services.

        Raises:
            RecipeError: the image lacks a program that they need, or has an init.
        """
        tree = self.tree()
        check_init(init, tree)
        made, texts = init_layer(init.services)
        new = Entry("", Kind.DIRECTORY, 0o755, EPOCH)
        entries = with_parents(made, tree, new, init.place)
        self.lay(
            layer_task("init", entries, texts, about=About(origin=init.place)), "init", entries
        )

    def sync(self, taken: Taken) -> None:
        """Add the layer of a sync step; the image is as new as the newest file in it.

        Raises:
            RecipeError, BuildError: it cannot lie there, or a file changed since it was read.
        """
        task, entries, remarks = sync.sync_task(taken, self.tree())
        self.lay(task, f"sync {taken.step.src}", entries)
        self.epoch = max(self.epoch, *(found.time for found in taken.nodes))
        self._links += [entry.path for entry in entries if entry.kind is Kind.SYMLINK]
        said = (*taken.remarks, *remarks)
        self.remarks += [f"sync {taken.step.src}: {remark}" for remark in said]

    def symlinks(self, step: SymlinksStep) -> None:
        """Add the layer of a step with links.

        Raises:
            RecipeError: one cannot lie there.
        """
        task, entries, replaced = symlinks_task(step, self.tree())
        self.lay(task, "symlinks", entries)
        self._links += [entry.path for entry in entries if entry.kind is Kind.SYMLINK]
        if replaced:
            self.remarks.append(
                f"symlinks: files of the image are replaced: {some_paths(replaced)}"
            )

    def modes(self, step: ModesStep) -> None:
        """Add the layer of a step that changes modes and owners.

        Raises:
            RecipeError: the image has no such path.
        """
        whole = self._whole()
        starts: dict[int, Mapping[str, int]] = {}

        def content(path: str, member: Member) -> LayerFile:
            number = member.layer
            layer = whole.layers[number]
            if number not in starts:
                starts[number] = offsets(whole.listings[number], layer)
            return LayerFile(path, layer.diff_id, layer.size, starts[number][member.source])

        task, entries = modes_task(step, whole.merged.tree, content)
        self.lay(task, "modes", entries)

    def remark_links(self) -> None:
        """Say of links of steps which lead nowhere in the whole image."""
        nowhere = list(sync.leading_nowhere(self._links, self.tree())) if self._links else []
        if nowhere:
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
    made, views = Stack(store, node, obtain), views_of((*plan.tasks, *plan.views))
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
                task, entries = sync.directories_task(step, made.tree())
                made.lay(task, "directories", entries)
            case SymlinksStep():
                made.symlinks(step)
            case ModesStep():
                made.modes(step)
            case SyncStep():
                made.sync(next(synced))
    if plan.init is not None:
        made.add_init(plan.init)
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


# -- accounts: who they are, and /etc/passwd and /etc/group, from fixed ids


@dataclass(frozen=True, slots=True)
class Ids:
    """The accounts that owners of files and the app may name.

    Where the image has packages of Debian's, other names have the ids that these always give them:
    they are noted in `borrowed`, and looked for when the packages are at hand."""

    users: Mapping[str, User] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    borrowed: set[tuple[str, str]] | None = None

    def user(self, text: str) -> tuple[int | None, int | None]:
        """uid and first gid of a user's name or number; root is 0 everywhere."""
        number = 0 if text == "root" else id_of(text)
        found = self.users.get(text)
        if found is None and number is None and self._borrows("user", text):
            return user_id(text), own_gid(text)
        return (found.uid, found.gid) if found else (number, number)

    def group(self, text: str) -> int | None:
        found = self.groups.get(text)
        number = 0 if text == "root" else id_of(text)
        if found is None and number is None and self._borrows("group", text):
            return group_id(text)
        return found.gid if found else number

    def _borrows(self, kind: str, name: str) -> bool:
        if self.borrowed is None or not re.fullmatch(ACCOUNT_NAME, name):
            return False
        self.borrowed.add((kind, name))
        return True

    def own_group(self, uid: int) -> int | None:
        """The first gid of the user with this number, where there is one."""
        own = {user.gid for user in self.users.values() if user.uid == uid}
        names = {name for kind, name in self.borrowed or () if kind == "user"}
        own |= {own_gid(name) for name in names if user_id(name) == uid}
        return min(own) if len(own) == 1 else 0 if uid == 0 else None

    def names(self) -> str:
        return ", ".join(sorted({*self.users, *self.groups})) or "none"

    def over(self, below: Ids) -> Ids:
        """These where a name is in both."""
        users, groups = {**below.users, **self.users}, {**below.groups, **self.groups}
        return Ids(users, groups, below.borrowed if self.borrowed is None else self.borrowed)


def own_gid(name: str) -> int:
    """The group that a package's user is taken to have: base-passwd's, or the one of its name."""
    return BASE_USERS[name].gid if name in BASE_USERS else group_id(name)


def check_borrowed(borrowed: Iterable[tuple[str, str]], found: Declared) -> None:
    """Refuse names that Debian's packages turned out not to declare, or otherwise.

    Raises:
        RecipeError: with what they declare.
    """
    users = {user.name: user for user in found.users}
    groups = {group.name for group in found.groups}
    for kind, name in sorted(borrowed):
        known = users if kind == "user" else groups
        if name not in known:
            message = f"the container names the {kind} {name!r}, whom none of its packages declares"
            hint = f"declare it in a `{kind}s` step; the packages have {', '.join(sorted(known))}"
            raise RecipeError(message, hint=hint if known else hint.partition(";")[0])
        if kind == "user" and users[name].gid != own_gid(name):
            message = f"the user {name!r} has the group {users[name].gid}, not one of its own"
            hint = f"write numbers: {users[name].uid} for the user, {users[name].gid} for the group"
            raise RecipeError(message, hint=hint)


_EVERYWHERE = (BASE_USERS["root"], BASE_USERS["nobody"])


def with_debians(
    users: list[tuple[str, User]], groups: list[tuple[str, Group]], found: Declared
) -> tuple[list[tuple[str, User]], list[tuple[str, Group]]]:
    """The accounts of packages and the container, with those that Debian's packages declare. What
    the others say of one with the same ids counts; root and nobody come with them."""
    own_users = {(user.name, user.uid, user.gid) for _, user in users}
    own_groups = {(group.name, group.gid) for _, group in groups}
    debian = "Debian's packages"
    gids = {group.gid for _, group in groups}
    if found:  # as every Debian system has them; no package asks for them
        base = [one for one in _EVERYWHERE if one.uid not in {user.uid for _, user in users}]
        users, groups = [*users], [*groups]
        users += [(debian, user) for user in base]
        groups += [
            (debian, Group(name, gid))
            for name, gid in (("root", 0), ("nogroup", 65534))
            if gid not in gids
        ]
    more_users = [
        (debian, user)
        for user in found.users
        if (user.name, user.uid, user.gid) not in own_users and user not in _EVERYWHERE
    ]
    more_groups = [
        (debian, group)
        for group in found.groups
        if (group.name, group.gid) not in own_groups and group.gid not in (0, 65534)
    ]
    return users + more_users, groups + more_groups


def app_with_ids(app: App, ids: Ids, places: Mapping[str, str]) -> App:
    """The app with numbers for its user and group, which every executor takes (Kubernetes'
    runAsNonRoot takes nothing else).

    `places` are where `user` and `group` were written.

    Raises:
        RecipeError: a name is none of the image's accounts; the app would start nowhere.
    """
    uid, _ = ids.user(app.user)
    gid = None if app.group is None else ids.group(app.group)
    asked = (("user", app.user, uid, ids.users), ("group", app.group, gid, ids.groups))
    for kind, name, found, known in asked:
        if name is None or found is not None or any(account_problems(name)):
            continue  # what is no name at all is told by the check of the app
        message = f"the app runs as {kind} {name!r}, which is no {kind} of the image"
        example = "{uid: 101, gid: 101}" if kind == "user" else "{gid: 101}"
        hint = f"declare it: `- {kind}s: {{{name}: {example}}}`, or in the recipe of its package; "
        hint += f"declared: {', '.join(sorted(known)) or 'none'}"
        raise RecipeError(message, place=places.get(kind), hint=hint)
    own = None if uid is None else ids.own_group(uid)
    user, group = app.user if uid is None else str(uid), app.group if gid is None else str(gid)
    return replace(app, user=user, group=group, own_group=None if own is None else str(own))


def synced_accounts(
    syncs: Iterable[tuple[Path, str, str, Filler | None]],
) -> tuple[Ids, list[Path]]:
    """The accounts of an /etc/passwd or /etc/group that a sync step brings, and the files that
    were looked for. `syncs` are, of each, the directory that the source is beneath, the source, the
    destination and what fills in its templates; the last one wins, as in the image.
    """
    rows: dict[str, list[list[str]]] = {PASSWD: [], GROUP: []}
    looked: list[Path] = []
    for project, src, dest, fill in syncs:
        for wanted in (PASSWD, GROUP):
            source = _source_of(src, dest, wanted)
            if source is None:
                continue
            looked.append(project / source)
            # The sync step says what is wrong with a file that cannot be read.
            wrong = (OSError, BuildError, IntegrityError, RecipeError)
            with suppress(*wrong), Root.open(project) as root:
                with root.open_file(source) as stream:
                    data = stream.read(_LARGEST_FILE)
                data = data if fill is None else fill(data, source)
                text = data.decode("utf-8", "replace")
                found = (line.split(":") for line in text.split("\n") if line[:1] not in ":#")
                rows[wanted] = list(found)
    users = {
        name: User(name, user, group, home, shell, comment)
        for name, _, uid, gid, comment, home, shell in (r for r in rows[PASSWD] if len(r) == 7)
        if (user := id_of(uid)) is not None and (group := id_of(gid)) is not None
    }
    groups = {
        name: Group(name, group, tuple(one for one in members.split(",") if one))
        for name, _, gid, members in (row for row in rows[GROUP] if len(row) == 4)
        if (group := id_of(gid)) is not None
    }
    return Ids(users, groups), looked


def _source_of(src: str, dest: str, wanted: str) -> str | None:
    """The file of the project that becomes `wanted`, if there is one."""
    source, target = posixpath.normpath(src), posixpath.normpath(dest).strip("/")
    target = "" if target == "." else target
    if target == wanted:
        return source
    if dest.endswith("/") and posixpath.join(target, posixpath.basename(source)) == wanted:
        return source
    if not target or wanted.startswith(f"{target}/"):
        return posixpath.normpath(posixpath.join(source, wanted[len(target) :].lstrip("/")))
    return None


def account_files(
    users: Iterable[tuple[str, User]], groups: Iterable[tuple[str, Group]]
) -> dict[str, bytes]:
    """The text of `etc/passwd` and `etc/group`, by id; each account comes with who declares it.

    Raises:
        RecipeError: two declarations of one name or id differ, or a user's group does not exist.
    """
    users, groups = tuple(users), tuple(groups)
    for owner, user in users:  # passwd(5): a field ends at a colon, an account with its line
        for what in ("comment", "home", "shell"):
            value: str = getattr(user, what)
            if ":" in value or not value.isprintable():
                where = f"the {what} of user {user.name!r} in {owner}"
                message = f"{where} cannot be in /etc/passwd: {value!r}"
                raise RecipeError(message, hint="leave out colons and line breaks")
    by_name = _united(users, "user", lambda user: user.uid)
    groups_by_name = _united(groups, "group", lambda group: group.gid)
    gids = {group.gid for group in groups_by_name.values()}
    for user in by_name.values():
        if user.gid not in gids:
            message = f"user {user.name!r} has gid {user.gid}, which no group declares"
            hint = f"declare it: groups: {{{user.name}: {{gid: {user.gid}}}}}"
            raise RecipeError(message, hint=hint)
    if not by_name and not groups_by_name:
        return {}
    by_uid = sorted(by_name.values(), key=lambda user: (user.uid, user.name))
    by_gid = sorted(groups_by_name.values(), key=lambda group: (group.gid, group.name))
    passwd = [f"{u.name}:x:{u.uid}:{u.gid}:{u.comment}:{u.home}:{u.shell}\n" for u in by_uid]
    group = [f"{g.name}:x:{g.gid}:{','.join(g.members)}\n" for g in by_gid]
    return {GROUP: "".join(group).encode(), PASSWD: "".join(passwd).encode()}


def account_entries(
    files: Mapping[str, bytes], tree: Mapping[str, Entry], epoch: int
) -> tuple[Entry, ...]:
    """The layer's entries over `tree`, the merged entries below, in order."""
    made = [
        Entry(path, Kind.FILE, 0o644, mtime=epoch, size=len(text), digest=digest_bytes(text))
        for path, text in files.items()
    ]
    return with_parents(made, tree, Entry("", Kind.DIRECTORY, 0o755, mtime=epoch))


_Account = TypeVar("_Account", User, Group)


def _united(
    declared: Iterable[tuple[str, _Account]], kind: str, number: Callable[[_Account], int]
) -> dict[str, _Account]:
    by_name: dict[str, tuple[str, _Account]] = {}
    by_id: dict[int, tuple[str, str]] = {}
    for owner, account in declared:
        first = by_name.setdefault(account.name, (owner, account))
        if first[1] != account:
            message = f"{kind} {account.name!r} is declared differently by {first[0]} and {owner}"
            raise RecipeError(message, hint="give both the same ids and paths")
        holder = by_id.setdefault(number(account), (owner, account.name))
        if holder[1] != account.name:
            message = f"{kind} id {number(account)} is {holder[1]!r} for {holder[0]} "
            message += f"and {account.name!r} for {owner}"
            raise RecipeError(message, hint="give one of them another id")
    return {name: account for name, (_, account) in by_name.items()}
