"""The one choice: from a container's directory to the versions and flags of all its packages.

Every verb that reads a container comes through `choose`, so that they all see the same selection
and give the same errors. Nothing is fetched and nothing is written.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from buildit.commands.image_names import ImageNames
from buildit.commands.run import LOCK_FILE, Options, read_lock
from buildit.errors import RecipeError, UnsatisfiableError, UsageError
from buildit.files import is_beneath
from buildit.model.atom import Atom, parse_name
from buildit.model.globs import path_matcher
from buildit.model.image import Inherited
from buildit.model.listed import PackageFacts
from buildit.model.plan import DebView
from buildit.model.platform import Platform, build_platform, named_platform, platform
from buildit.model.use import FlagLayer, parse_assignment
from buildit.model.words import hint_of
from buildit.plan.debian_source import WantedDebianSource, wanted_source
from buildit.plan.evaluate import Evaluated, WantedPackage, written_at
from buildit.plan.lock import Lock, Section
from buildit.plan.resolve import Demand, Selection, resolve
from buildit.recipe.config import Loaded
from buildit.recipe.container import (
    AtomPackageStep,
    Container,
    DebianPackageStep,
    EmbeddedPackageStep,
    LoadedStep,
    UseSpec,
)
from buildit.recipe.lists import FetchList, check_settled, load_container, no_fetching
from buildit.recipe.package import DebianBase, ToolchainPackage
from buildit.recipe.packagefacts import KnownPackages
from buildit.recipe.slices import Slices, sliced
from buildit.recipe.trees import Catalog

_TOOLCHAINS = "toolchain/"
USUAL_TOOLCHAIN = f"{_TOOLCHAINS}debian-12"
"""What a container is made with that does not say it."""


def wrong_at(step: LoadedStep, message: str, hint: str, *path: str | int) -> RecipeError:
    """What is wrong with a step, or with what it has at a path, where that was written."""
    return RecipeError(message, place=written_at(step.node, *path), hint=hint)


@dataclass(frozen=True, slots=True)
class Roots:
    """What the package steps ask for, in step order; `debs` are those of Debian's, `sources` what
    is built of Debian's source packages, both by step."""

    demands: tuple[Demand, ...]
    names: Mapping[int, str]
    origins: Mapping[int, str]
    debs: Mapping[int, WantedPackage]
    sources: Mapping[int, WantedDebianSource]


@dataclass(frozen=True, slots=True)
class Choice:
    """A container and what is chosen for it. `lock` is as it lies there; `consulted` are all files
    that were looked at, whether they are there or not. `target` is what is built for, `here` this
    machine. `sliced` is what an image takes of Debian's
    packages that it does not name, where that is not all; `base` what the base says, where that
    decided how the recipe was read. `images` says what their names stand for."""

    options: Options
    container: Container
    target: Platform
    here: Platform
    roots: Roots
    selection: Selection
    toolchain: str
    chroot: ToolchainPackage
    lock: Lock
    consulted: tuple[Path, ...]
    sliced: Mapping[str, DebView] = field(default_factory=dict)
    base: Inherited | None = None
    images: ImageNames = field(default_factory=ImageNames)

    @property
    def section(self) -> Section:
        """What the lock has for this platform, or for another one that holds for it, too."""
        return self.lock.begun(self.options.recipe.section(str(self.target)))

    @property
    def emulates(self) -> bool:
        """Whether something is built for it whose programs this machine cannot run by itself."""
        return self.target != self.here and bool(self.selection.chosen or self.roots.sources)


def choose(
    options: Options, loaded: Loaded, fetch: FetchList = no_fetching, base: Inherited | None = None
) -> Choice:
    """Choose versions and flags for the container of `options.directory`, whose lists at URLs
    `fetch` gives; `base` is what the image says that it begins with, where that is known.

    Locked versions are taken as long as they satisfy and may not move.

    Raises:
        UsageError, RecipeError, UnsatisfiableError: the user's files or options are wrong, or ask
            for what cannot be.
    """
    directory = options.directory
    if not directory.is_dir():
        hint = "name the directory of a container: buildit containers/nginx-prod/"
        raise UsageError(f"{directory} is not a directory", hint=hint)
    here = build_platform(os.uname().machine)
    container = read_container(options, None, here, fetch, base)
    target = _target(container, here)
    catalog = Catalog((*loaded.config.trees, *shipped_trees()))
    slices = catalog.slices()
    roots = _roots(container, catalog, slices)
    lock = read_lock(directory)
    locked = lock.begun(options.recipe.section(str(target))).packages
    preferred = {one.name: one.version for one in locked if not options.moves(one.name)}
    flags = _outer_flags(options.use, loaded, container)
    selection = resolve(roots.demands, catalog, flags, preferred)
    if container.pending:
        first, known = container, KnownPackages(selected_facts(selection))
        container = read_container(options, known, here, fetch, base)
        check_settled(first, container)
    _check_use(options.use, container, selection.chosen)
    toolchain = _toolchain(container, roots, selection, catalog)
    chroot = catalog.toolchain(toolchain, container.file)
    own = (directory / LOCK_FILE, *container.looked, *container.files)
    consulted = (*own, *loaded.consulted, *catalog.consulted)
    views = {
        name: DebView(sliced=globs) for name in slices if (globs := sliced(slices, name, None, ""))
    }
    return Choice(
        options,
        container,
        target,
        here,
        roots,
        selection,
        toolchain,
        chroot,
        lock,
        consulted,
        views,
        base,
        ImageNames(dict(options.recipe.images), loaded.config.images),
    )


def read_container(
    options: Options,
    packages: KnownPackages | None,
    here: Platform,
    fetch: FetchList,
    base: Inherited | None = None,
) -> Container:
    """The container that the command line names, as `load_container`. What its lock says of facts
    counts before what they are now; a parameter that was given once moves by its name alone."""
    target = named_platform(options.platform) if options.platform else here
    locked, now = read_lock(options.directory).begun(str(target)).facts, facts_now()
    moves = {name for name in locked if name in options.update or (options.moves() and name in now)}
    kept = {name: value for name, value in locked.items() if name not in moves}
    facts = tuple({**now, **kept}.items())
    asked = (replace(options.recipe, facts=facts), base)
    return load_container(options.directory, packages, options.platform, here, fetch, *asked)


def facts_now() -> dict[str, str]:
    """What a template may ask of this machine and this day (UTC)."""
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "hostname": os.uname().nodename}


def selected_facts(selection: Selection) -> dict[str, PackageFacts]:
    """What templates may ask of the packages that were chosen, but for their digests."""
    return {
        name: PackageFacts(
            one.package.version,
            one.package.recipe.license or "",
            one.package.recipe.homepage or "",
            one.package.recipe.description or "",
            one.flags,
        )
        for name, one in selection.chosen.items()
    }


def _toolchain(container: Container, roots: Roots, selection: Selection, catalog: Catalog) -> str:
    """The one toolchain of a container: what its steps or its packages name, that of the suite
    which it begins with, else the usual one.

    Raises:
        RecipeError: no toolchain is of that suite.
        UnsatisfiableError: they name several.
    """
    steps = [(step.spec.toolchain, step.place) for step in container.steps]
    steps += ((_of_suite(step, catalog), step.place) for step in container.steps)
    chosen = (one.package for one in selection.chosen.values())
    recipes = ((one.recipe.toolchain, one.name) for one in chosen)
    bases = (one.base for one in roots.sources.values())
    sources = ((one.recipe.toolchain, one.origin) for one in bases)
    named = {name: who for name, who in (*recipes, *sources, *steps) if name is not None}
    if len(named) > 1:
        first, second, *_ = (f"{who} ({name})" for name, who in sorted(named.items()))
        message = f"one container, two toolchains: {first} and {second}"
        hint = "an image has one glibc: let all its packages name the same `toolchain:`"
        raise UnsatisfiableError(message, place=container.file, hint=hint)
    return next(iter(named), USUAL_TOOLCHAIN)


def _of_suite(step: LoadedStep, catalog: Catalog) -> str | None:
    """The toolchain whose suites the root of a suite is of; None where the step is no such base."""
    base = step.spec.from_
    if base is None or base.suite is None:
        return None
    named = f"{_TOOLCHAINS}{base.suite}"
    known = [one for one in catalog.names() if one.startswith(_TOOLCHAINS)]
    if named not in known:
        message = f"no suite is known as {base.suite!r}"
        hint = hint_of(base.suite, [one.removeprefix(_TOOLCHAINS) for one in known])
        raise wrong_at(step, message, hint, "from", "suite")
    return named


def shipped_trees() -> tuple[Path, ...]:
    """The packages that come with buildit: in an installed package, else in the checkout."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "_tree" / "pkgs", package.parent / "pkgs")
    return tuple(place for place in places if place.is_dir())[:1]


def _target(container: Container, here: Platform) -> Platform:
    names = container.variables
    return platform(names.get("os", here.os), names.get("arch", here.arch), place=container.file)


def _roots(container: Container, catalog: Catalog, slices: Slices) -> Roots:
    """What the package steps ask for.

    Raises:
        RecipeError: one is wrong, or two leave other files out of one Debian package.
    """
    demands: list[Demand] = []
    names: dict[int, str] = {}
    origins: dict[int, str] = {}
    debs: dict[int, WantedPackage] = {}
    sources: dict[int, WantedDebianSource] = {}
    first: dict[str, WantedPackage] = {}
    for number, step in enumerate(container.steps):
        match step.spec.package:
            case EmbeddedPackageStep(path=path, packages=packages):
                directory, path = _beneath(container, path, step)
                origins[number] = path
                if base := catalog.debian_base(directory, path):
                    sources[number] = _source(base, packages, sources.values(), step)
                    continue
                if packages:
                    message = f"{path} is no Debian source package, and has no binary packages"
                    hint = "leave `packages:` out"
                    raise wrong_at(step, message, hint, "package", "packages")
                atom = Atom(catalog.embed(directory, path, step.place).name)
            case AtomPackageStep(atom=text):
                atom = Atom.parse(text, place=step.place)
                origins[number] = text
            case DebianPackageStep() as spec:
                debs[number] = one = _deb(spec, step, slices)
                origins[number] = f"debian:{one.debian}"
                before = first.setdefault(spec.debian.partition("=")[0], one)
                if _as_set(before.view) != _as_set(one.view):
                    message = f"debian:{spec.debian} is asked for twice, and without other files"
                    hint = "give both the same `without`, `slices` and `set-id`; the first is at "
                    hint += before.place
                    raise wrong_at(step, message, hint)
                continue
            case _:
                continue
        demands.append(Demand(atom, (), step.place))
        names[number] = atom.name
    return Roots(tuple(demands), names, origins, debs, sources)


def _source(
    base: DebianBase,
    packages: tuple[str, ...],
    others: Iterable[WantedDebianSource],
    step: LoadedStep,
) -> WantedDebianSource:
    wanted = wanted_source(base, packages)
    if wanted.name in [other.name for other in others]:
        message = f"a second step takes the Debian source {wanted.name}"
        hint = "name all of its binary packages in one step: `packages: […]`"
        raise wrong_at(step, message, hint, "package")
    return wanted


def _as_set(view: DebView) -> tuple[object, ...]:
    return {*view.without}, {*view.sliced}, view.keep_set_id


def _deb(spec: DebianPackageStep, step: LoadedStep, slices: Slices) -> WantedPackage:
    name, equals, _ = spec.debian.partition("=")
    if equals and spec.version is not None:
        message = f"debian:{spec.debian} has a version already"
        raise wrong_at(step, message, "leave one of the two out", "package", "version")
    wanted = spec.debian if spec.version is None else f"{name}={spec.version}"
    for number, glob in enumerate(spec.without):
        path_matcher(glob, place=written_at(step.node, "package", "without", number))
    all_of_it = spec.closure == "depends"
    left_out = sliced(slices, name, spec.slices, step.place)
    view = DebView(spec.without, left_out, spec.set_id == "keep")
    return WantedPackage("run", None, wanted, step.place, all_of_it, view)


def _beneath(container: Container, path: str, step: LoadedStep) -> tuple[Path, str]:
    """The directory of a package beside the list of a step, and its path from the container's."""
    directory = Path(os.path.normpath(step.base / path))
    if not is_beneath(directory, step.root):
        whose = "the container's directory" if step.root == container.directory else step.root
        hint = "move it there, or make it a package of a tree: `package: {atom: …}`"
        raise wrong_at(step, f"{path!r} lies outside of {whose}", hint)
    here = step.base == container.directory
    return directory, path if here else os.path.relpath(directory, container.directory)


def _outer_flags(
    use: tuple[str, ...], loaded: Loaded, container: Container
) -> dict[str, tuple[FlagLayer, ...]]:
    """The layers that touch packages from outside, weakest first."""
    flags: dict[str, tuple[FlagLayer, ...]] = {"": loaded.config.use, **loaded.config.package_use}
    for step in container.steps:
        if step.spec.use is None:
            continue
        spec = _use_of(step)
        for name, texts in {"": spec.flags, **spec.packages}.items():
            if name:
                parse_name(name, place=step.place)
            assignments = tuple(parse_assignment(text, step.place) for text in texts)
            flags[name] = (*flags.get(name, ()), FlagLayer("container", assignments, not name))
    if use:
        place = "command line"
        assignments = tuple(parse_assignment(text, place) for text in use)
        flags[""] += (FlagLayer(place, assignments, every_package=True),)
    return flags


def _check_use(use: tuple[str, ...], container: Container, chosen: Mapping[str, Evaluated]) -> None:
    """Refuse a flag for every package that no package declares (it is misspelt), and flags for a
    package that the container does not have.

    Raises:
        UsageError, RecipeError: the flag is of the command line, of a `use` step.
    """
    declared = sorted({name for one in chosen.values() for name in one.settings})
    undeclared = "no package of this container declares the flag"
    for text in use:
        if (flag := parse_assignment(text, "command line").flag) not in declared:
            hint = hint_of(flag, declared)
            raise UsageError(f"--use {text}: {undeclared} {flag!r}", hint=hint)
    for step in container.steps:
        spec = _use_of(step)
        for name in spec.packages:
            if name not in chosen:
                message = f"flags for {name}, which this container does not have"
                hint = hint_of(name, sorted(chosen))
                raise wrong_at(step, message, hint, "use", "packages", name)
        for text in spec.flags:
            if (flag := parse_assignment(text, step.place).flag) not in declared:
                raise wrong_at(step, f"{undeclared} {flag!r}", hint_of(flag, declared))


def _use_of(step: LoadedStep) -> UseSpec:
    """The flags of a step, however they are written; none where it says nothing of them."""
    written = step.spec.use
    return written if isinstance(written, UseSpec) else UseSpec(flags=written or ())
