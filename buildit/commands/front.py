"""The front half: from a container's directory to its plan and its lock.

Files become frozen data, the lock and the network pin what is not pinned, pure functions do the
rest. Everything that was looked at is in `consulted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.commands.accounts import synced_accounts
from buildit.commands.asked import (
    asked_debs,
    check_flags,
    check_named,
    outer_flags,
    package_roots,
    target_of,
)
from buildit.commands.checking import check_images
from buildit.commands.gather import Gatherer
from buildit.commands.locking import read_lock
from buildit.commands.pins import Pinner, wanted_debs
from buildit.commands.planning import container_plan
from buildit.commands.rules import RULES
from buildit.digest import BuildKey, canonical, digest_bytes
from buildit.errors import UnsatisfiableError
from buildit.model.plan import ContainerPlan
from buildit.model.task import Task
from buildit.plan.evaluate import Wanted
from buildit.plan.lock import (
    Lock,
    LockedPackage,
    LockedPatch,
    LockedSource,
    Section,
)
from buildit.plan.resolve import Selection, resolve
from buildit.plan.tasks import Gathered, Pinned, asked_task, tasks
from buildit.recipe.read_config import Loaded
from buildit.recipe.read_container import Container, check_settled, load_container
from buildit.recipe.trees import Catalog
from buildit.store.cas import Store

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


def make_plan(request: Request, loaded: Loaded, store: Store, pinner: Pinner) -> Planned:
    """Plan the container of `request.directory`.

    Raises:
        UsageError, RecipeError, UnsatisfiableError: the user's files are wrong or ask for what
            cannot be.
        FetchError, IntegrityError: something new had to be pinned, and could not be.
    """
    container = load_container(request.directory)
    target = target_of(container)
    catalog = Catalog((*loaded.config.trees, *shipped_trees()))
    roots = package_roots(container, catalog)
    lock, lock_path = read_lock(request.directory)
    section = lock.section(str(target))
    preferred = {p.name: p.version for p in section.packages if not _moves(request, p.name)}
    selection = resolve(
        roots.demands, catalog, outer_flags(request.use, loaded, container), preferred
    )
    if container.pending:
        first, container = container, load_container(request.directory, _said(selection))
        check_settled(first, container)
    check_named(container, selection.chosen)
    check_flags(request.use, container, selection.chosen)
    pinner = replace(pinner, section=section, update=request.update)
    consulted = [lock_path]
    gatherer = Gatherer(store, pinner.patch, consulted)
    gathered = {name: gatherer.gather(one) for name, one in selection.chosen.items()}
    asked = asked_debs(container)
    pinned = _pinned(container, selection, catalog, pinner, tuple(asked.values()))
    made = tasks(selection, gathered, pinned, target, RULES, tuple(asked.values()))
    toolchain = next(iter(pinned.toolchains.values()))
    syncs = [(s.spec.sync.src, s.spec.sync.dest) for s in container.steps if s.spec.sync]
    synced, looked = synced_accounts(request.directory, syncs)
    consulted += looked
    debs = {number: asked_task(one, pinned, toolchain, RULES).key for number, one in asked.items()}
    plan = container_plan(container, target, roots, toolchain, made, synced, debs)
    plan = check_images(plan, synced)
    new = _section(section, selection, gathered, made, pinner)
    consulted += [request.directory / "container.yaml", *loaded.consulted, *catalog.consulted]
    return Planned(plan, lock, new, selection, tuple(dict.fromkeys(consulted)))


def _said(selection: Selection) -> dict[str, dict[str, str]]:
    """What templates may ask of the packages that were chosen."""
    return {
        name: {
            "version": one.package.version,
            "license": one.package.recipe.license or "",
            "homepage": one.package.recipe.homepage or "",
            "description": one.package.recipe.description or "",
        }
        for name, one in selection.chosen.items()
    }


def shipped_trees() -> tuple[Path, ...]:
    """The packages that come with buildit: in an installed package, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "_tree" / "pkgs", package.parent / "pkgs")
    return tuple(place for place in places if place.is_dir())[:1]


def _moves(request: Request, name: str) -> bool:
    return "*" in request.update or name in request.update


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


def _section(
    old: Section,
    selection: Selection,
    gathered: Mapping[str, Gathered],
    made: Mapping[BuildKey, Task],
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
        sources += [
            LockedSource(name, source.digest, source.name) for source in node.inputs.sources
        ]
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
        synced=old.synced,
    )
