"""From what is chosen for a container to its plan and its lock.

The lock and the network pin what is not pinned, local files go into the store, and pure functions
do the rest: the steps of the plan are typed, with every name resolved.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from buildit.commands.accounts import Ids, account_files, app_with_ids, synced_accounts
from buildit.commands.assemble import image
from buildit.commands.bases import Base, begun_with, inherited_labels, moved_base, supposed
from buildit.commands.below import network_remark
from buildit.commands.choose import Choice, choose, wrong_at
from buildit.commands.copies import Copies, copies_of
from buildit.commands.debian_source import pin_source
from buildit.commands.including import fetched_lists, pinned_facts, read_again
from buildit.commands.layersteps import small_step, source_of
from buildit.commands.pins import Answer, dates_of, local_inputs, local_patches, pin_debs
from buildit.commands.rules import RULES
from buildit.commands.run import Downloads, Options, Pins
from buildit.commands.running import app_of, app_remarks, app_so_far, init_of, is_late, places_of
from buildit.commands.said import listed_steps, sayings
from buildit.commands.sources import locked_commits
from buildit.commands.suites import check_steps, with_debs
from buildit.commands.templated import filling
from buildit.commands.testing import image_tests
from buildit.digest import BuildKey, canonical, digest_bytes
from buildit.errors import RecipeError
from buildit.image.formats.table import check, format_of
from buildit.model.accounts import Group, User
from buildit.model.database import Database
from buildit.model.image import App, Inherited
from buildit.model.listed import PackageFacts
from buildit.model.plan import (
    About,
    ContainerPlan,
    ImageStep,
    LayerStep,
    PackageStep,
    RunStep,
    Task,
    Toolchain,
)
from buildit.plan.debian_source import check_siblings
from buildit.plan.lock import LockedCommit, LockedPackage, LockedPatch, LockedSource, Section
from buildit.plan.tasks import LocalInputs, named_deb_task, sliced_tasks, tasks
from buildit.recipe.config import Loaded
from buildit.recipe.container import Container
from buildit.recipe.packagefacts import KnownPackages


@dataclass(frozen=True, slots=True)
class PlannedContainer:
    """The plan, the lock before and after, and all files that were looked at."""

    plan: ContainerPlan
    pins: Pins
    consulted: tuple[Path, ...]


def make_plan(options: Options, loaded: Loaded, downloads: Downloads) -> PlannedContainer:
    """Plan the container of `options.directory`; its own files are then in the store.

    Raises:
        UsageError, RecipeError, UnsatisfiableError: as `choose`.
        FetchError, IntegrityError: something new had to be pinned, and could not be.
    """
    choice = choose(options, loaded, fetched_lists(downloads))
    check_steps(choice)
    base = begun_with(choice, downloads)
    if base is not None and choice.container.awaits_base:
        choice = choose(options, loaded, fetched_lists(downloads), base.inherited)
        base = moved_base(base, choice)
    copies = copies_of(choice, downloads)
    chosen, debs = choice.selection.chosen, choice.roots.debs
    consulted: list[Path] = [*choice.consulted, *(() if base is None else base.consulted)]
    consulted += (path for one in copies.images.values() for path in one.consulted)
    inputs = {}
    for name, one in chosen.items():
        inputs[name], looked = local_inputs(choice, one, downloads)
        consulted += looked
    pinned, answers = pin_debs(choice, downloads)
    toolchain = pinned.toolchain
    sources = []
    for wanted in choice.roots.sources.values():
        kept, further = pin_source(choice, wanted, downloads, toolchain)
        answers = {**answers, **further}
        patches, read = local_patches(choice, wanted.asker, wanted.patches, downloads)
        consulted += read
        inputs[wanted.asker] = LocalInputs(patches)
        sources.append((wanted, kept, tuple(digest for digest, _ in patches)))
    asked = tuple(debs.values())
    made = tasks(choice.selection, inputs, pinned, choice.target, RULES, asked, sources)
    named = {n: named_deb_task(one, pinned, toolchain, RULES) for n, one in debs.items()}
    places = [(one.place, named[number].inputs.debs[0]) for number, one in debs.items()]
    check_siblings(choice.roots.sources.values(), places)
    keys = {number: task.key for number, task in named.items()}
    facts = pinned_facts(choice, (*made.values(), *named.values()))
    if choice.container.pending:
        choice = read_again(choice, KnownPackages(facts, pinned=True), fetched_lists(downloads))
    synced, opened = _synced_accounts(choice.container, facts)
    plan = container_plan(choice, toolchain, made, synced, keys, facts, base, copies)
    below = None if base is None else base.answers
    plan, answers = with_debs(check_images(plan, synced), choice, answers, below, downloads)
    section = _section(choice, inputs, made, answers)
    images = {**copies.pins, **({} if base is None else base.pins)}
    section = replace(section, images=images, files=copies.pinned)
    pins = Pins(choice.lock, section, options.recipe.section(plan.platform))
    return PlannedContainer(plan, pins, tuple(dict.fromkeys((*consulted, *opened))))


_NO_COPIES = Copies()


def container_plan(
    choice: Choice,
    toolchain: Toolchain,
    made: Mapping[BuildKey, Task],
    synced: Ids,
    debs: Mapping[int, BuildKey],
    facts: Mapping[str, PackageFacts],
    base: Base | None = None,
    copies: Copies = _NO_COPIES,
) -> ContainerPlan:
    """The plan of a container; `synced` are the accounts that its sync steps bring, `debs` the
    keys of the Debian packages that it names, by step, `facts` what templates may ask of packages,
    `base` what it begins with, `copies` what it takes of elsewhere.

    Raises:
        RecipeError: an owner, the app or an account is wrong.
    """
    container, roots, target = choice.container, choice.roots, choice.target
    names, platforms = container.variables, tuple(map(str, container.platforms))
    keys = {node.name: key for key, node in made.items()}
    users, groups = _accounts(container)
    borrowed: set[tuple[str, str]] | None = set() if debs or roots.sources else None
    ids = replace(_declared(made.values(), users, groups), borrowed=borrowed)
    owners = ids.over(synced)
    named = (*roots.names.values(), *(one.asker for one in roots.sources.values()))
    reached = [keys[name] for name in named]
    _check_accounts(container, reached, made, users, groups)
    inherited = None if base is None else base.inherited
    app = _app(container, base, synced.over(ids))
    said = tuple(_about(container, [made[key] for key in reached]))
    return ContainerPlan(
        directory=str(container.directory),
        author=names.get("author", ""),
        name=names["name"],
        version=names["version"],
        os=target.os,
        arch=names.get("arch", target.arch),
        toolchain=toolchain,
        tasks=_every_task(base, copies, made.values()),
        views=sliced_tasks(made.values(), toolchain, choice.sliced, RULES),
        steps=tuple(_layer_steps(choice, keys, made, debs, owners, base, copies)),
        images=_images(container),
        tests=image_tests(container, app),
        database=_database(container),
        app=app,
        init=init_of(container, owners, inherited),
        users=users,
        groups=groups,
        about=said,
        labels=_labels(container, inherited, said),
        annotations=_said(container, "annotations"),
        remarks=_remarks(container, app),
        borrowed=tuple(sorted(borrowed or ())),
        platforms=platforms,
        packages=facts if _has_templates(container) else {},
        listed=listed_steps(container),
        said=sayings(container),
        lists=tuple(map(str, container.files)),
        pinned=(*container.pinned, *copies.pinned.values()),
    )


def _app(container: Container, base: Base | None, ids: Ids) -> App | None:
    """Raises RecipeError: it is wrong, or runs as nobody that is known."""
    app = app_of(container, None if base is None else base.inherited)
    if app is None or is_late(container):
        return app
    return app_with_ids(app, ids, places_of(container))


def _labels(
    container: Container, base: Inherited | None, about: tuple[tuple[str, str], ...]
) -> tuple[tuple[str, str], ...]:
    labels = _said(container, "labels")
    return labels if base is None else inherited_labels(base, labels, about)


def _every_task(base: Base | None, copies: Copies, made: Iterable[Task]) -> tuple[Task, ...]:
    first = () if base is None else (base.task,)
    return tuple({one.key: one for one in (*first, *copies.tasks, *made)}.values())


def _remarks(container: Container, app: App | None) -> tuple[str, ...]:
    return (*container.remarks, *(() if app is None else app_remarks(app)))


def _database(container: Container) -> Database | None:
    """The one that starts in the container, not one that it finds elsewhere."""
    specs = (step.spec.database for step in container.steps)
    return next((one.database for one in specs if one is not None and one.host is None), None)


def _has_templates(container: Container) -> bool:
    return any(step.spec.sync and step.spec.sync.template for step in container.steps)


def _layer_steps(
    choice: Choice,
    keys: Mapping[str, BuildKey],
    made: Mapping[BuildKey, Task],
    debs: Mapping[int, BuildKey],
    owners: Ids,
    base: Base | None,
    copies: Copies,
) -> Iterator[LayerStep]:
    """The steps that give layers; `keys` are by the names of tasks."""
    roots, project = choice.roots, choice.container.directory
    below = replace(owners, late=True)  # those of the image once a base or a command made some
    steps, said = choice.container.steps, None if base is None else base.inherited
    for number, step in enumerate(steps):
        above = steps[:number]
        if base is not None and number == base.number:
            owners = below
            yield base.step
        elif number in roots.names:
            yield PackageStep(keys[roots.names[number]], roots.origins[number])
        elif number in roots.sources:
            key = keys[roots.sources[number].asker]
            yield PackageStep(key, roots.origins[number], tuple(made[key].outputs))
        elif number in debs:
            yield PackageStep(debs[number], roots.origins[number])
        elif small := small_step(
            step,
            project,
            owners,
            partial(app_so_far, above, said),
            copies,
            kept=choice.options.cache_mounts,
        ):
            owners = below if isinstance(small, RunStep) else owners
            yield small


def _synced_accounts(
    container: Container, facts: Mapping[str, PackageFacts]
) -> tuple[Ids, list[Path]]:
    """The accounts that sync steps bring, and the files that were looked for."""
    found = []
    for step in container.steps:
        spec = step.spec.sync
        if spec is not None and isinstance(spec.src, str):
            src, root = source_of(spec.src, step, container.directory)
            directory = Path(root) if root else container.directory
            fill = filling(step.names, facts) if spec.template else None
            found.append((directory, src, spec.dest, fill))
    return synced_accounts(found)


def _declared(tasks: Collection[Task], users: Iterable[User], groups: Iterable[Group]) -> Ids:
    """The accounts of packages, and over them those of the container."""
    every_user = [*(user for one in tasks for user in one.users()), *users]
    every_group = [*(group for one in tasks for group in one.groups()), *groups]
    return Ids({user.name: user for user in every_user}, {one.name: one for one in every_group})


def check_images(plan: ContainerPlan, synced: Ids) -> ContainerPlan:
    """The plan, with remarks about what a format cannot hold.

    Raises:
        RecipeError: an image would break a rule of its format, or run as an account that neither
            a package, nor the container, nor a synced file (`synced`) declares.
    """
    ids = synced.over(_declared(plan.tasks, plan.users, plan.groups))
    remarks = [f"not for release: {told}" for told in plan.unreleased()]
    remarks += [*plan.remarks, *network_remark(plan.commands)]
    late, app = plan.is_late, plan.app
    if late and app is not None:  # what files of layers decide is looked at over them
        app = supposed(app)
    for step in plan.images:
        wanted = replace(image(plan, step), app=app)
        form = format_of(wanted)
        for kind, name in form.start(check(wanted)).accounts:
            known = ids.user(name)[0] if kind == "user" else ids.group(name)
            if known is None and not late:
                message = f"`content` runs as {kind} {name!r}, which is no {kind} of the image"
                hint = f"declare it in a `{kind}s` step, or write its number; declared: "
                raise RecipeError(message, place=step.place, hint=f"{hint}{ids.names()}")
        remarks += form.unspoken(wanted)
    return replace(plan, remarks=tuple(dict.fromkeys(remarks)))


def _section(
    choice: Choice,
    inputs: Mapping[str, LocalInputs],
    made: Mapping[BuildKey, Task],
    answers: Mapping[str, Answer],
) -> Section:
    """What the lock will say of this platform."""
    old, nodes = choice.section, {node.name: node for node in made.values()}
    packages, sources, patches = [], [], []
    commits: list[LockedCommit] = []
    for name, one in sorted(choice.selection.chosen.items()):
        recipe = one.package.recipe.model_dump(mode="json", exclude_defaults=True)
        digest = digest_bytes(canonical(recipe))
        node, version = nodes[name], one.package.version
        packages.append(LockedPackage(name, version, digest, node.key, one.flag_texts()))
        archives = (each for each in node.inputs.sources if not each.path)
        sources += [LockedSource(name, each.digest, each.name) for each in archives]
        commits += locked_commits(name, node.inputs.sources)
        digests = zip(one.patches, inputs[name].patches, strict=True)
        patches += [LockedPatch(name, *pair, patch.written) for patch, pair in digests]
    for wanted in choice.roots.sources.values():
        name, node = wanted.asker, nodes[wanted.asker]
        digest = digest_bytes(
            canonical(wanted.base.recipe.model_dump(mode="json", exclude_defaults=True))
        )
        packages.append(LockedPackage(name, node.version, digest, node.key))
        digests = zip(wanted.patches, inputs[name].patches, strict=True)
        patches += [LockedPatch(name, *pair, patch.written) for patch, pair in digests]
    keys = {node.key for node in nodes.values()}
    kept = {package.name for package in old.packages if package.key in keys}
    return Section(
        debs={asker: answer.debs for asker, answer in answers.items()},
        requests={asker: answer.request for asker, answer in answers.items()},
        indices=dates_of(choice, answers),
        packages=tuple(packages),
        sources=tuple(sources),
        commits=tuple(commits),
        patches=tuple(patches),
        outputs={name: digest for name, digest in old.outputs.items() if name[0] in kept},
        synced=old.synced,
        facts=choice.container.facts,
    )


_OCI = "org.opencontainers.image."


def _about(container: Container, packages: list[Task]) -> Iterator[tuple[str, str]]:
    """What is known without asking: never the clock, the host or a revision that nobody gave."""
    names = container.variables
    yield f"{_OCI}title", names["name"]
    yield f"{_OCI}version", names["version"]
    only = packages[0].about if len(packages) == 1 else About()
    further = {"authors": names.get("author"), "description": only.description}
    further |= {"licenses": only.license, "url": only.homepage}
    yield from ((_OCI + name, value) for name, value in further.items() if value)


def _said(container: Container, key: str) -> tuple[tuple[str, str], ...]:
    """The labels or annotations of all steps, the later of one name wins."""
    found: dict[str, str] = {}
    for step in container.steps:
        found |= getattr(step.spec, key) or {}
    return tuple(found.items())


def _check_accounts(
    container: Container,
    roots: list[BuildKey],
    made: Mapping[BuildKey, Task],
    users: tuple[User, ...],
    groups: tuple[Group, ...],
) -> None:
    """Refuse accounts that contradict each other before anything is built: those of the container,
    of its packages and of what these need to run. What only the files reveal comes later.

    Raises:
        RecipeError: with the place of the container's own step, where it has part in it.
    """
    reached = dict.fromkeys(roots)
    queue = list(reached)
    for key in queue:
        further = [n.key for n in made[key].run_needs() if n.key in made and n.key not in reached]
        reached |= dict.fromkeys(further)
        queue += further
    nodes = [made[key] for key in reached]
    ours = container.file
    known = {group.gid for node in made.values() for group in node.groups()}
    declared = {group.gid for group in groups} | known
    for step in container.steps:
        for name, spec in (step.spec.users or {}).items():
            if spec.gid not in declared:
                message = f"user {name!r} has gid {spec.gid}, which no group declares"
                hint = f"declare it: `- groups: {{{name}: {{gid: {spec.gid}}}}}`"
                raise wrong_at(step, message, hint, "users", name, "gid")
    try:
        account_files(
            [(n.name, u) for n in nodes for u in n.users()] + [(ours, user) for user in users],
            [(n.name, g) for n in made.values() for g in n.groups()] + [(ours, g) for g in groups],
        )
    except RecipeError as error:
        last = [s for s in container.steps if s.spec.users or s.spec.groups]
        error.place = last[-1].place if last else container.file
        raise


def _accounts(container: Container) -> tuple[tuple[User, ...], tuple[Group, ...]]:
    users = (one for step in container.steps for one in (step.spec.users or {}).items())
    groups = (one for step in container.steps for one in (step.spec.groups or {}).items())
    made = (User(name, one.uid, one.gid, one.home, one.shell, one.comment) for name, one in users)
    return tuple(made), tuple(Group(name, one.gid, one.members) for name, one in groups)


def _images(container: Container) -> tuple[ImageStep, ...]:
    images: dict[str, ImageStep] = {}
    for step in container.steps:
        spec = step.spec.image
        if spec is None:
            continue
        made = ImageStep(spec.type, step.content, spec.compress or "", step.place, spec.split)
        first = images.setdefault(made.format, made)
        if first is not made:
            message = f"a second image of type {made.format} would have the same file name"
            raise wrong_at(step, message, f"the first is at {first.place}; keep one of them")
    return tuple(images.values())
