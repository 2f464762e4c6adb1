"""The front half: from a container's directory to its plan and its lock.

Files become frozen data, the lock and the network pin what is not pinned, pure functions do the
rest. Everything that was looked at is in `consulted`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.digest import BuildKey, canonical, digest_bytes
from buildit.errors import RecipeError, UnsatisfiableError
from buildit.load.config import Loaded
from buildit.load.container import Container, LoadedStep, load_container
from buildit.load.text import read_text
from buildit.load.tree import Catalog, shown
from buildit.model.atom import Atom
from buildit.model.container import (
    AtomPackageStep,
    DebianPackageStep,
    EmbeddedPackageStep,
    ImageSpec,
    SyncSpec,
    UseSpec,
)
from buildit.model.plan import (
    ContainerPlan,
    Group,
    ImageStep,
    Node,
    PackageStep,
    SyncStep,
    User,
)
from buildit.model.platform import Platform, build_platform, platform
from buildit.model.use import Assignment, Layer, parse_assignment
from buildit.pipeline.appstep import app_of
from buildit.pipeline.gather import Gatherer
from buildit.pipeline.pins import Pinner, wanted_debs
from buildit.pipeline.rules import RULES
from buildit.plan.evaluate import Wanted, wanted
from buildit.plan.lock import (
    Lock,
    LockedPackage,
    LockedPatch,
    LockedSource,
    Section,
    parse_lock,
)
from buildit.plan.nodes import Gathered, Pinned, nodes
from buildit.plan.resolve import Demand, Selection, resolve
from buildit.store.cas import Store

LOCK_FILE = "buildit.lock"
NO_TOOLCHAIN = "toolchain/debian-12"


@dataclass(frozen=True, slots=True)
class Request:
    """What the command line asks of the front half.

    `use` are flags for every package. `update` names what may move although it is locked
    (`("*",)`: everything; `toolchain`, a package or a patch's URL).
    """

    directory: Path
    use: tuple[str, ...] = ()
    update: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan, the lock before and the section that it would have now."""

    plan: ContainerPlan
    lock: Lock
    section: Section
    selection: Selection
    consulted: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class _Roots:
    """What the package steps ask for, in step order."""

    demands: tuple[Demand, ...]
    names: Mapping[int, str]
    origins: Mapping[int, str]


def make_plan(request: Request, loaded: Loaded, store: Store, pinner: Pinner) -> Planned:
    """Plan the container of `request.directory`.

    Raises:
        UsageError, RecipeError, UnsatisfiableError: the user's files are wrong or ask for what
            cannot be.
        FetchError, IntegrityError: something new had to be pinned, and could not be.
    """
    container = load_container(request.directory)
    target = _target(container)
    catalog = Catalog((*loaded.config.trees, *shipped_trees()))
    roots = _roots(container, catalog)
    lock, lock_path = read_lock(request.directory)
    section = lock.section(str(target))
    preferred = {p.name: p.version for p in section.packages if not _moves(request, p.name)}
    selection = resolve(roots.demands, catalog, _flags(request, loaded, container), preferred)
    pinner = replace(pinner, section=section, update=request.update)
    consulted = [lock_path, *catalog.consulted]
    gatherer = Gatherer(store, pinner.patch, consulted)
    gathered = {name: gatherer.gather(one) for name, one in selection.chosen.items()}
    asked = tuple(_asked(container))
    pinned = _pinned(container, selection, catalog, pinner, asked)
    made = nodes(selection, gathered, pinned, target, RULES, asked)
    plan = _plan(container, target, roots, pinned, made)
    new = _section(section, selection, gathered, made, pinner)
    consulted += [request.directory / "container.yaml", *loaded.consulted]
    return Planned(plan, lock, new, selection, tuple(dict.fromkeys(consulted)))


def shipped_trees() -> tuple[Path, ...]:
    """The packages that come with buildit: in an installed package, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "_tree" / "pkgs", package.parent / "pkgs")
    return tuple(place for place in places if place.is_dir())[:1]


def read_lock(directory: Path) -> tuple[Lock, Path]:
    """The lock beside a container, empty where there is none."""
    path = directory / LOCK_FILE
    if not os.path.lexists(path):
        return Lock(), path
    return parse_lock(read_text(path, shown(path)), shown(path)), path


def _moves(request: Request, name: str) -> bool:
    return "*" in request.update or name in request.update


def _target(container: Container) -> Platform:
    here = build_platform(os.uname().machine)
    names = container.variables
    target = platform(names.get("os", here.os), names.get("arch", here.arch))
    if target != here:
        raise UnsatisfiableError(
            f"the container is for {target}, this machine is {here}",
            place=container.file,
            hint=f"build it on a {target} machine, or set arch: {here.arch}",
        )
    return target


def _roots(container: Container, catalog: Catalog) -> _Roots:
    demands: list[Demand] = []
    names: dict[int, str] = {}
    origins: dict[int, str] = {}
    for number, step in enumerate(container.steps):
        match step.spec.package:
            case EmbeddedPackageStep(path=path):
                package = catalog.embed(_beneath(container, path, step), path)
                atom = Atom(package.name)
                origins[number] = path
            case AtomPackageStep(atom=text):
                atom = Atom.parse(text, place=step.place)
                origins[number] = text
            case DebianPackageStep(debian=text):
                origins[number] = f"debian:{text}"
                continue
            case _:
                continue
        demands.append(Demand(atom, (), step.place))
        names[number] = atom.name
    return _Roots(tuple(demands), names, origins)


def _beneath(container: Container, path: str, step: LoadedStep) -> Path:
    directory = Path(os.path.normpath(container.directory / path))
    if not directory.is_relative_to(os.path.normpath(container.directory)):
        raise RecipeError(
            f"{path!r} lies outside of the container's directory",
            place=step.place,
            hint="move it there, or make it a package of a tree: `package: {atom: …}`",
        )
    return directory


def _flags(request: Request, loaded: Loaded, container: Container) -> dict[str, tuple[Layer, ...]]:
    """The layers that touch packages from outside, weakest first."""
    flags: dict[str, tuple[Layer, ...]] = {"": loaded.config.use, **loaded.config.package_use}
    for step in container.steps:
        use = step.spec.use
        if use is None:
            continue
        spec = use if isinstance(use, UseSpec) else UseSpec(flags=use)
        flags[""] += (_layer("container", spec.flags, step.place, every_package=True),)
        for name, texts in spec.packages.items():
            layer = _layer("container", texts, step.place, every_package=False)
            flags[name] = (*flags.get(name, ()), layer)
    if request.use:
        flags[""] += (_layer("command line", request.use, "command line", every_package=True),)
    return flags


def _layer(name: str, texts: tuple[str, ...], place: str, *, every_package: bool) -> Layer:
    assignments: tuple[Assignment, ...] = tuple(parse_assignment(text, place) for text in texts)
    return Layer(name, assignments, every_package)


def _asked(container: Container) -> Iterator[Wanted]:
    """The Debian packages that the container names itself."""
    for step in container.steps:
        if isinstance(step.spec.package, DebianPackageStep):
            yield wanted("run", f"debian:{step.spec.package.debian}", step.place)


def _pinned(
    container: Container,
    selection: Selection,
    catalog: Catalog,
    pinner: Pinner,
    asked: tuple[Wanted, ...],
) -> Pinned:
    """The toolchain and further .debs, from the lock or chosen now."""
    named = {one.package.recipe.toolchain: one for one in selection.chosen.values()}
    if len(named) > 1:
        first, second, *_ = (f"{one.package.name} ({name})" for name, one in sorted(named.items()))
        raise UnsatisfiableError(
            f"one container, two toolchains: {first} and {second}",
            place=container.file,
            hint="an image has one glibc: let all its packages name the same `toolchain:`",
        )
    name = next(iter(named), NO_TOOLCHAIN)
    toolchains = {name: pinner.toolchain(name, catalog.toolchain(name, container.file))}
    debs = {
        f"debian:{one.debian}": pinner.debs(one, toolchain)
        for one, toolchain in wanted_debs(selection, asked, toolchains)
    }
    return Pinned(toolchains, debs)


def _plan(
    container: Container,
    target: Platform,
    roots: _Roots,
    pinned: Pinned,
    made: Mapping[BuildKey, Node],
) -> ContainerPlan:
    keys = {node.name: key for key, node in made.items()}
    toolchain = next(iter(pinned.toolchains.values()))
    steps: list[PackageStep | SyncStep] = []
    users, groups = _accounts(container)
    declared = [user for node in made.values() for user in node.users] + list(users)
    ids = {user.name: (user.uid, user.gid) for user in declared}
    for number, step in enumerate(container.steps):
        if number in roots.names:
            steps.append(PackageStep(keys[roots.names[number]], roots.origins[number]))
        elif isinstance(step.spec.package, DebianPackageStep):
            name = f"debian:{step.spec.package.debian.partition('=')[0]}"
            steps.append(PackageStep(keys[name], roots.origins[number]))
        elif step.spec.sync is not None:
            steps.append(_sync(step.spec.sync, step, ids))
    names = container.variables
    return ContainerPlan(
        directory=str(container.directory),
        author=names.get("author", ""),
        name=names["name"],
        version=names["version"],
        os=target.os,
        arch=names.get("arch", target.arch),
        toolchain=toolchain,
        nodes=tuple(made.values()),
        steps=tuple(steps),
        images=tuple(
            _image(step.spec.image, step) for step in container.steps if step.spec.image is not None
        ),
        app=app_of(container),
        users=users,
        groups=groups,
    )


def _accounts(container: Container) -> tuple[tuple[User, ...], tuple[Group, ...]]:
    users: list[User] = []
    groups: list[Group] = []
    for step in container.steps:
        for name, spec in (step.spec.users or {}).items():
            users.append(User(name, spec.uid, spec.gid, spec.home, spec.shell, spec.comment))
        for name, group in (step.spec.groups or {}).items():
            groups.append(Group(name, group.gid, group.members))
    return tuple(users), tuple(groups)


def _sync(spec: SyncSpec, step: LoadedStep, ids: Mapping[str, tuple[int, int]]) -> SyncStep:
    user, _, group = spec.owner.partition(":")
    mode = "" if spec.chmod is None else f"{spec.chmod:04o}"
    uid, own_gid = (int(user), int(user)) if user.isdigit() else ids.get(user, (-1, -1))
    gid = int(group) if group.isdigit() else ids.get(group, (0, -1))[1] if group else own_gid
    if uid < 0 or gid < 0:
        raise RecipeError(
            f"no package and no `users` step declares the owner {spec.owner!r}",
            place=step.place,
            hint=f"declared: {', '.join(sorted(ids)) or 'none'}; numbers do as well: 0:0",
        )
    return SyncStep(spec.src, spec.dest, spec.recursive, mode, uid, gid, step.place)


def _image(spec: ImageSpec, step: LoadedStep) -> ImageStep:
    return ImageStep(spec.type, step.content, spec.compress or "", step.place)


def _section(
    old: Section,
    selection: Selection,
    gathered: Mapping[str, Gathered],
    made: Mapping[BuildKey, Node],
    pinner: Pinner,
) -> Section:
    keys = {node.name: key for key, node in made.items()}
    packages, sources, patches = [], [], []
    for name, one in sorted(selection.chosen.items()):
        digest = digest_bytes(
            canonical(one.package.recipe.model_dump(mode="json", exclude_defaults=True))
        )
        version = one.package.version
        packages.append(LockedPackage(name, version, digest, keys[name], one.flag_texts()))
        node = made[keys[name]]
        sources += [LockedSource(name, source.digest, source.name) for source in node.sources]
        patches += [
            LockedPatch(name, canonical_digest, raw, patch.written)
            for patch, (canonical_digest, raw) in zip(
                one.patches, gathered[name].patches, strict=True
            )
        ]
    kept = {package.name for package in old.packages if keys.get(package.name) == package.key}
    return Section(
        debs=pinner.chosen_debs(),
        requests=pinner.chosen_requests(),
        indices=pinner.chosen_indices(),
        packages=tuple(packages),
        sources=tuple(sources),
        patches=tuple(patches),
        outputs={name: digest for name, digest in old.outputs.items() if name[0] in kept},
    )
