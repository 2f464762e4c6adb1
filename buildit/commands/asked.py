"""What a container asks for: its platform, its packages and the flags for them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from buildit.errors import RecipeError, UnsatisfiableError, UsageError
from buildit.model.atom import Atom, split_name
from buildit.model.nearest import advice
from buildit.model.pathglob import path_matcher
from buildit.model.platform import Platform, build_platform, platform
from buildit.model.use import Assignment, Layer, parse_assignment
from buildit.plan.evaluate import Evaluated, Wanted, place_of
from buildit.plan.resolve import Demand
from buildit.recipe.container import (
    AtomPackageStep,
    DebianPackageStep,
    EmbeddedPackageStep,
    UseSpec,
)
from buildit.recipe.read_config import Loaded
from buildit.recipe.read_container import Container, LoadedStep
from buildit.recipe.trees import Catalog


@dataclass(frozen=True, slots=True)
class Roots:
    """What the package steps ask for, in step order."""

    demands: tuple[Demand, ...]
    names: Mapping[int, str]
    origins: Mapping[int, str]


def target_of(container: Container) -> Platform:
    here = build_platform(os.uname().machine)
    names = container.variables
    target = platform(names.get("os", here.os), names.get("arch", here.arch), place=container.file)
    if target != here:
        raise UnsatisfiableError(
            f"the container is for {target}, this machine is {here}",
            place=container.file,
            hint=f"build it on a {target} machine, or set arch: {here.arch}",
        )
    return target


def package_roots(container: Container, catalog: Catalog) -> Roots:
    demands: list[Demand] = []
    names: dict[int, str] = {}
    origins: dict[int, str] = {}
    for number, step in enumerate(container.steps):
        match step.spec.package:
            case EmbeddedPackageStep(path=path):
                package = catalog.embed(_beneath(container, path, step), path, step.place)
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
    return Roots(tuple(demands), names, origins)


def _beneath(container: Container, path: str, step: LoadedStep) -> Path:
    directory = Path(os.path.normpath(container.directory / path))
    if not directory.is_relative_to(os.path.normpath(container.directory)):
        raise RecipeError(
            f"{path!r} lies outside of the container's directory",
            place=step.place,
            hint="move it there, or make it a package of a tree: `package: {atom: …}`",
        )
    return directory


def outer_flags(
    use: tuple[str, ...], loaded: Loaded, container: Container
) -> dict[str, tuple[Layer, ...]]:
    """The layers that touch packages from outside, weakest first."""
    flags: dict[str, tuple[Layer, ...]] = {"": loaded.config.use, **loaded.config.package_use}
    for step in container.steps:
        written = step.spec.use
        if written is None:
            continue
        spec = written if isinstance(written, UseSpec) else UseSpec(flags=written)
        flags[""] += (_layer("container", spec.flags, step.place, every_package=True),)
        for name, texts in spec.packages.items():
            split_name(name, place=step.place)
            layer = _layer("container", texts, step.place, every_package=False)
            flags[name] = (*flags.get(name, ()), layer)
    if use:
        flags[""] += (_layer("command line", use, "command line", every_package=True),)
    return flags


def _layer(name: str, texts: tuple[str, ...], place: str, *, every_package: bool) -> Layer:
    assignments: tuple[Assignment, ...] = tuple(parse_assignment(text, place) for text in texts)
    return Layer(name, assignments, every_package)


def asked_debs(container: Container) -> Mapping[int, Wanted]:
    """The Debian packages that the container names itself, by the number of the step.

    Raises:
        RecipeError: a glob is malformed, or two steps leave other files out of one package.
    """
    asked: dict[int, Wanted] = {}
    first: dict[str, Wanted] = {}
    for number, step in enumerate(container.steps):
        spec = step.spec.package
        if not isinstance(spec, DebianPackageStep):
            continue
        for at, glob in enumerate(spec.without):
            path_matcher(glob, place=place_of(step.node, "package", "without", at))
        one = Wanted("run", None, spec.debian, step.place, spec.closure == "depends", spec.without)
        before = first.setdefault(spec.debian.partition("=")[0], one)
        if sorted({*before.without}) != sorted({*one.without}):
            raise RecipeError(
                f"debian:{spec.debian} is asked for twice, and without other files",
                place=step.place,
                hint=f"give both the same `without`; the first is at {before.place}",
            )
        asked[number] = one
    return asked


def check_flags(
    use: tuple[str, ...], container: Container, chosen: Mapping[str, Evaluated]
) -> None:
    """Refuse a flag for every package that no package declares: it is misspelt.

    Raises:
        UsageError, RecipeError: the flag is of the command line, of a `use` step.
    """
    declared = sorted({name for one in chosen.values() for name in one.settings})
    for text in use:
        if (flag := parse_assignment(text, "command line").flag) not in declared:
            raise UsageError(
                f"--use {text}: no package of this container declares the flag {flag!r}",
                hint=advice(flag, declared),
            )
    for step in container.steps:
        written = step.spec.use
        texts = written.flags if isinstance(written, UseSpec) else written or ()
        for text in texts:
            if (flag := parse_assignment(text, step.place).flag) not in declared:
                raise RecipeError(
                    f"no package of this container declares the flag {flag!r}",
                    place=step.place,
                    hint=advice(flag, declared),
                )


def check_named(container: Container, chosen: Mapping[str, object]) -> None:
    """Refuse flags for a package that the container does not have.

    Raises:
        RecipeError: with the nearest name that it has.
    """
    for step in container.steps:
        spec = step.spec.use
        for name in spec.packages if isinstance(spec, UseSpec) else ():
            if name not in chosen:
                raise RecipeError(
                    f"flags for {name}, which this container does not have",
                    place=place_of(step.node, "use", "packages", name),
                    hint=advice(name, sorted(chosen)),
                )
