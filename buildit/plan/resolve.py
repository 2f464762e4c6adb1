"""Choose one version and one set of flags for each package that the roots need.

Versions come from the base, the lock and the newest match; there is no solver. A choice that a
later demand excludes is made anew under all demands seen, and where none is left, both chains are
named.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from buildit.errors import UnsatisfiableError
from buildit.model.atom import Atom
from buildit.model.use import Layer, assignment_text, unknown_flag_hint
from buildit.model.version import Version
from buildit.plan.evaluate import Evaluated, Package, Wanted, evaluate

ROUNDS = 200


class Packages(Protocol):
    """Where packages come from (`load.tree.Catalog`)."""

    def versions(self, name: str, place: str) -> tuple[Version, ...]: ...

    def package(self, name: str, version: Version, place: str) -> Package: ...


@dataclass(frozen=True, slots=True)
class Demand:
    """An atom that must hold, and the chain of packages that asks, outermost first."""

    atom: Atom
    chain: tuple[str, ...]
    place: str

    def __str__(self) -> str:
        return f"{' -> '.join((*self.chain, str(self.atom)))} ({self.place})"


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen packages in topological order, dependencies first, and who asked for each."""

    chosen: Mapping[str, Evaluated]
    demands: Mapping[str, tuple[Demand, ...]]


@dataclass(slots=True)
class _Round:
    """One walk from the roots with the versions chosen so far."""

    versions: dict[str, Version]
    chosen: dict[str, Evaluated] = field(default_factory=dict)
    demands: dict[str, list[Demand]] = field(default_factory=dict)


def resolve(
    roots: tuple[Demand, ...],
    packages: Packages,
    flags: Mapping[str, tuple[Layer, ...]],
    preferred: Mapping[str, str],
) -> Selection:
    """Select what `roots` need.

    `flags` maps a package's name to the layers that touch it (`""`: those for every package).
    `preferred` are the locked versions, taken as long as they satisfy.

    Raises:
        UnsatisfiableError: no version satisfies all demands, a flag that is asked for is not set,
            or packages depend on each other in a cycle.
        RecipeError: a recipe that was reached is wrong.
    """
    # A container has no flags of its own that `[x?]` or `[x=]` could speak of.
    roots = tuple(replace(d, atom=d.atom.settled({}, place=d.place)) for d in roots)
    versions: dict[str, Version] = {}
    for _ in range(ROUNDS):
        state = _Round(versions)
        if _walk(state, roots, packages, flags, preferred):
            _check_flags(state)
            order = _topological(state)
            return Selection(
                {name: state.chosen[name] for name in order},
                {name: tuple(demands) for name, demands in state.demands.items()},
            )
    raise UnsatisfiableError(
        "the demands of the packages keep excluding each other's versions",
        hint=f"name a version for one of: {', '.join(sorted(versions))}",
    )


def _walk(
    state: _Round,
    roots: tuple[Demand, ...],
    packages: Packages,
    flags: Mapping[str, tuple[Layer, ...]],
    preferred: Mapping[str, str],
) -> bool:
    """Visit everything; False where a version had to change and the walk must start again."""
    queue = deque(roots)
    while queue:
        demand = queue.popleft()
        name = demand.atom.name
        state.demands.setdefault(name, []).append(demand)
        before = state.versions.get(name)
        if before is None or not demand.atom.matches_version(name, before):
            version = _choose(name, state.demands[name], packages, preferred.get(name))
            state.versions[name] = version
            if name in state.chosen:
                return False
        if name in state.chosen:
            continue
        package = packages.package(name, state.versions[name], demand.place)
        layers = (*flags.get("", ()), *flags.get(name, ()))
        state.chosen[name] = evaluate(package, layers)
        queue.extend(_demands(state.chosen[name], demand.chain))
    return True


def _demands(evaluated: Evaluated, chain: tuple[str, ...]) -> Iterator[Demand]:
    name = evaluated.package.name
    for wanted in evaluated.wanted:
        if wanted.atom is not None:
            atom = wanted.atom.settled(evaluated.flags, place=wanted.place)
            yield Demand(atom, (*chain, name)[-12:], wanted.place)


def _choose(name: str, demands: list[Demand], packages: Packages, preferred: str | None) -> Version:
    known = packages.versions(name, demands[-1].place)
    fitting = [v for v in known if all(d.atom.matches_version(name, v) for d in demands)]
    if not fitting:
        raise UnsatisfiableError(
            f"no version of {name} is what every dependent asks for",
            place=demands[-1].place,
            hint=f"versions at hand: {', '.join(map(str, known))}",
            details=tuple(str(demand) for demand in demands if demand.atom.version),
        )
    locked = next((version for version in fitting if version.text == preferred), None)
    return locked or fitting[0]


def _check_flags(state: _Round) -> None:
    for name, demands in state.demands.items():
        for demand in demands:
            refusal = demand.atom.refusal(state.chosen[name].flags)
            if refusal is None:
                continue
            origins = tuple(
                f"{dep.flag}: {state.chosen[name].settings[dep.flag].origin}"
                for dep in demand.atom.use
                if dep.flag in state.chosen[name].settings
            )
            raise UnsatisfiableError(
                f"{name} is not as {demand.chain[-1] if demand.chain else 'the container'} "
                f"needs it: {refusal}",
                place=demand.place,
                hint=_remedy(name, demand.atom, state.chosen[name].settings),
                details=origins,
            )


def _remedy(name: str, atom: Atom, declared: Collection[str]) -> str:
    """What to write so that the package is as the atom asks."""
    foreign = [
        dep.flag
        for dep in (*atom.declared, *atom.use)
        if dep.flag not in declared and dep.default is None
    ]
    if foreign:
        return unknown_flag_hint(foreign[0], declared)
    wishes = [assignment_text(dep.flag, dep.wanted({}) or False) for dep in atom.use]
    listed = ", ".join(wish.removeprefix("+") for wish in wishes)
    return f"in container.yaml: - use: {{packages: {{{name}: [{listed}]}}}}"


def _topological(state: _Round) -> tuple[str, ...]:
    graph = {
        name: sorted({w.atom.name for w in evaluated.wanted if w.atom is not None})
        for name, evaluated in sorted(state.chosen.items())
    }
    try:
        return tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        cycle = list(reversed(error.args[1]))
        raise UnsatisfiableError(
            f"packages depend on each other in a cycle: {' -> '.join(cycle)}",
            place=_edge(state, cycle[0], cycle[1]),
            hint="remove one of these dependencies, or switch off the flag that brings it",
        ) from None


def _edge(state: _Round, dependent: str, dependency: str) -> str | None:
    wanted: tuple[Wanted, ...] = state.chosen[dependent].wanted
    return next((w.place for w in wanted if w.atom and w.atom.name == dependency), None)
