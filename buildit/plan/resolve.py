"""Choose one version and one set of flags for each package that the roots need.

resolvelib searches: a choice that a later demand excludes is undone, and what can be had is had.
Candidates are the locked version, then the newest first. Demands are looked at in an order of their
own (by name, then text, then place), never in the order in which they were written, so that the
order of lines decides nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from typing import Protocol

from resolvelib import AbstractProvider, BaseReporter, ResolutionImpossible
from resolvelib.resolvers import Resolution
from resolvelib.structs import RequirementInformation

from buildit.errors import UnsatisfiableError
from buildit.model.atom import Atom, Version
from buildit.model.use import FlagLayer, assignment_text, unknown_flag_hint
from buildit.plan.evaluate import Evaluated, evaluate
from buildit.recipe.package import Package

_ROUNDS = 100_000
"""Pins that the search may try: beyond any tree of people, and an end all the same."""

_STEPS = 20_000
"""Choices that are tried one by one where the search gave up."""

_DEEPEST = 400
"""Packages of a choice that is tried so: each is a call within the one before."""

_CYCLES = 64
"""Ways out of a cycle that are tried."""

_CHANGES = 16
"""Demands that are left out, one at a time, in search of a change that would do."""


class Packages(Protocol):
    """Where packages come from (`recipe.trees.Catalog`)."""

    def versions(self, name: str, place: str) -> tuple[Version, ...]: ...

    def package(self, name: str, version: Version, place: str) -> Package: ...


@dataclass(frozen=True, slots=True)
class Demand:
    """An atom that must hold, and the chain of packages that asks, outermost first."""

    atom: Atom
    chain: tuple[str, ...]
    place: str

    @property
    def name(self) -> str:
        return self.atom.name

    def __str__(self) -> str:
        return f"{' -> '.join((*self.chain, str(self.atom)))} ({self.place})"

    @property
    def order(self) -> tuple[str, str, tuple[str, ...], str]:
        """What demands are sorted by."""
        return (self.name, str(self.atom), self.chain, self.place)


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen packages in topological order, dependencies first, and who asked for each."""

    chosen: Mapping[str, Evaluated]
    demands: Mapping[str, tuple[Demand, ...]]


def resolve(
    roots: tuple[Demand, ...],
    packages: Packages,
    flags: Mapping[str, tuple[FlagLayer, ...]],
    preferred: Mapping[str, str],
) -> Selection:
    """Select what `roots` need; the answer does not depend on the order of any demands.

    `flags` maps a package's name to the layers that touch it (`""`: those for every package).
    `preferred` are the locked versions, taken as long as they satisfy. No package of the answer
    could be newer while all others stay as they are.

    Raises:
        UnsatisfiableError: no choice satisfies all demands. Where leaving one of them out would do,
            the hint says which, and what then is chosen.
        RecipeError: a recipe that was reached is wrong.
    """
    # A container has no flags of its own that `[x?]` or `[x=]` could speak of.
    settled = (replace(d, atom=d.atom.settled({}, place=d.place)) for d in roots)
    asked = tuple(sorted(settled, key=lambda demand: demand.order))
    offer = _Offer(packages, flags, preferred)
    return _straight(asked, offer) or _newest(asked, offer, _searched(asked, offer))


@dataclass(slots=True)
class _Offer:
    """What there is, each evaluated once.

    `without` are choices that led into a cycle; `unminded` is a demand that is left out to see
    whether all else would fit.
    """

    packages: Packages
    flags: Mapping[str, tuple[FlagLayer, ...]]
    preferred: Mapping[str, str]
    without: frozenset[tuple[str, Version]] = frozenset()
    unminded: Demand | None = None
    known: dict[tuple[str, Version], Evaluated] = field(default_factory=dict)

    def versions(self, name: str, place: str) -> list[Version]:
        """The locked version, then the others, newest first."""
        found = [v for v in self.packages.versions(name, place) if (name, v) not in self.without]
        return sorted(found, key=lambda version: version.text != self.preferred.get(name))

    def evaluated(self, name: str, version: Version, place: str) -> Evaluated:
        if (name, version) not in self.known:
            package = self.packages.package(name, version, place)
            layers = (*self.flags.get("", ()), *self.flags.get(name, ()))
            self.known[name, version] = evaluate(package, layers)
        return self.known[name, version]

    def satisfies(self, demand: Demand, version: Version) -> bool:
        name = demand.name
        if self.unminded is not None and demand.order == self.unminded.order:
            return True
        if not demand.atom.matches_version(name, version):
            return False
        if not demand.atom.use:
            return True
        return demand.atom.refusal(self.evaluated(name, version, demand.place).flags) is None

    def fitting(self, name: str, demands: Sequence[Demand]) -> Iterator[Version]:
        for version in self.versions(name, demands[-1].place):
            if all(self.satisfies(demand, version) for demand in demands):
                yield version


def _by_name(demands: Iterable[Demand]) -> dict[str, list[Demand]]:
    found: dict[str, list[Demand]] = {}
    for demand in demands:
        found.setdefault(demand.name, []).append(demand)
    return found


def _demands(evaluated: Evaluated, chain: tuple[str, ...]) -> tuple[Demand, ...]:
    # A chain is for people: of a very long one its last links say enough.
    chain = (*chain, evaluated.package.name)[-12:]
    found = (
        Demand(wanted.atom.settled(evaluated.flags, place=wanted.place), chain, wanted.place)
        for wanted in evaluated.wanted
        if wanted.atom is not None
    )
    return tuple(sorted(found, key=lambda demand: demand.order))


def _answer(
    roots: tuple[Demand, ...], offer: _Offer, choose: Callable[[str, Demand], Version | None]
) -> Selection | None:
    """What the roots reach where `choose` gives the version of each name when it is first met;
    None where a version is missing, or is not what something asks for.

    Raises:
        CycleError: the packages depend on each other.
    """
    versions: dict[str, Version] = {}
    chosen: dict[str, Evaluated] = {}
    queue = list(roots)
    for demand in queue:  # which grows
        name = demand.name
        if name not in versions:
            version = choose(name, demand)
            if version is None:
                return None
            versions[name] = version
            chosen[name] = offer.evaluated(name, version, demand.place)
            queue.extend(_demands(chosen[name], demand.chain))
        if not offer.satisfies(demand, versions[name]):
            return None
    graph = {
        name: sorted({w.atom.name for w in evaluated.wanted if w.atom is not None})
        for name, evaluated in sorted(chosen.items())
    }
    return Selection(
        {name: chosen[name] for name in TopologicalSorter(graph).static_order()},
        {name: tuple(each) for name, each in _by_name(queue).items()},
    )


def _straight(roots: tuple[Demand, ...], offer: _Offer) -> Selection | None:
    """The answer where no choice has to be undone, in one walk: nearly always."""
    first = _by_name(roots)

    def choose(name: str, demand: Demand) -> Version | None:
        return next(offer.fitting(name, first.get(name, [demand])), None)

    with suppress(CycleError):
        return _answer(roots, offer, choose)
    return None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A choice; `chain` is who asked for it first, for people."""

    name: str
    version: Version
    chain: tuple[str, ...] = field(compare=False)
    place: str = field(compare=False)


Causes = Collection[RequirementInformation[Demand, _Candidate]]


class _Provider(AbstractProvider[Demand, _Candidate, str]):
    """What resolvelib asks; no answer depends on the order in which things were written."""

    def __init__(self, offer: _Offer) -> None:
        self._offer = offer

    def identify(self, requirement_or_candidate: Demand | _Candidate) -> str:
        return requirement_or_candidate.name

    def get_preference(
        self,
        identifier: str,
        resolutions: Mapping[str, _Candidate],  # noqa: ARG002 - resolvelib's signature
        candidates: Mapping[str, Iterator[_Candidate]],  # noqa: ARG002
        information: Mapping[str, Iterator[RequirementInformation[Demand, _Candidate]]],
        backtrack_causes: Causes,
    ) -> tuple[bool, int, str]:
        """What a conflict was about first, then what is nearest to the container, then by name."""
        causes = {cause.requirement.name for cause in backtrack_causes}
        depths = (len(each.requirement.chain) for each in information[identifier])
        return (identifier not in causes, min(depths, default=0), identifier)

    def find_matches(
        self,
        identifier: str,
        requirements: Mapping[str, Iterator[Demand]],
        incompatibilities: Mapping[str, Iterator[_Candidate]],
    ) -> Iterable[_Candidate]:
        demands = sorted(requirements[identifier], key=lambda demand: demand.order)
        if not demands:  # who asked for it was undone; resolvelib still looks
            return ()
        refused = {candidate.version for candidate in incompatibilities[identifier]}
        chain, place = demands[0].chain, demands[0].place
        return [
            _Candidate(identifier, version, chain, place)
            for version in self._offer.fitting(identifier, demands)
            if version not in refused
        ]

    def is_satisfied_by(self, requirement: Demand, candidate: _Candidate) -> bool:
        return self._offer.satisfies(requirement, candidate.version)

    def get_dependencies(self, candidate: _Candidate) -> Iterable[Demand]:
        evaluated = self._offer.evaluated(candidate.name, candidate.version, candidate.place)
        return _demands(evaluated, candidate.chain)


def _solved(roots: tuple[Demand, ...], offer: _Offer) -> dict[str, Version]:
    """One choice for all that the search met, cycles and what is no longer needed among them.

    Not `Resolver`: what it does after the search, to leave out what no root reaches, does not end
    where such a rest has a cycle (resolvelib 1.2.1, `_has_route_to_root`); `_answer` does that. And
    the search gives up now and then where there is an answer (`_backjump` forgets who forced a
    choice that it made anew: one of 8 000 small universes), so all is tried before it is believed.

    Raises:
        ResolutionImpossible: there is none.
    """
    reporter: BaseReporter[Demand, _Candidate, str] = BaseReporter()
    try:
        state = Resolution(_Provider(offer), reporter).resolve(roots, max_rounds=_ROUNDS)
    except ResolutionImpossible:
        found = _tried(roots, offer)
        if found is None:
            raise
        return found
    return {name: candidate.version for name, candidate in state.mapping.items()}


def _tried(roots: tuple[Demand, ...], offer: _Offer) -> dict[str, Version] | None:
    """Every choice in turn, for at most `STEPS`; None where none was found."""
    left = _STEPS

    def search(
        chosen: dict[str, Version], demands: dict[str, list[Demand]]
    ) -> dict[str, Version] | None:
        nonlocal left
        open_ = [name for name in demands if name not in chosen]
        if not open_:
            return chosen
        name = min(open_, key=lambda one: (len(demands[one][0].chain), one))
        asked = demands[name][0]
        for version in offer.fitting(name, demands[name]):
            left -= 1
            if left < 0 or len(chosen) == _DEEPEST:
                return None
            wanted = _demands(offer.evaluated(name, version, asked.place), asked.chain)
            tried = {**chosen, name: version}
            if all(offer.satisfies(w, tried[w.atom.name]) for w in wanted if w.atom.name in tried):
                known = (each for named in demands.values() for each in named)
                found = search(tried, _by_name((*known, *wanted)))
                if found is not None:
                    return found
        return None

    return search({}, _by_name(roots))


def _searched(roots: tuple[Demand, ...], offer: _Offer) -> Selection:
    """The first answer of the search that has no cycle."""
    pending: deque[frozenset[tuple[str, Version]]] = deque([frozenset()])
    seen = {frozenset[tuple[str, Version]]()}
    cycle: UnsatisfiableError | None = None
    for _ in range(_CYCLES):
        if not pending:
            break
        without = pending.popleft()
        here = replace(offer, without=without)
        try:
            versions = _solved(roots, here)
        except ResolutionImpossible as impossible:
            if cycle is None:
                raise _impossible(roots, here, impossible.causes) from None
            continue
        try:
            found = _answer(roots, offer, lambda name, _: versions[name])  # noqa: B023 - used here
            assert found is not None  # noqa: S101 - the search satisfies every demand
            return found
        except CycleError as error:
            names = list(reversed(error.args[1]))
            cycle = cycle or _cycle(names, offer, versions)
            for name in sorted(set(names)):
                further = without | {(name, versions[name])}
                if further not in seen:
                    seen.add(further)
                    pending.append(further)
    assert cycle is not None  # noqa: S101 - the first try either returned or met a cycle
    raise cycle


def _newest(roots: tuple[Demand, ...], offer: _Offer, found: Selection) -> Selection:
    """`found` with each package as new as it can be while the others stay as they are.

    A search that went back may have left something older for a reason that is gone.
    """
    changed = True
    while changed:
        changed = False
        for name in sorted(found.chosen):
            if name not in found.chosen:  # a newer one of another package does without it
                continue
            versions = {one: Version.parse(e.package.version) for one, e in found.chosen.items()}
            for version in offer.fitting(name, found.demands[name]):
                if version == versions[name]:
                    break
                tried = {**versions, name: version}
                with suppress(CycleError):
                    better = _answer(roots, offer, lambda one, _: tried.get(one))  # noqa: B023
                    if better is not None:
                        found, changed = better, True
                        break
    return found


def _impossible(roots: tuple[Demand, ...], offer: _Offer, causes: Causes) -> UnsatisfiableError:
    """The conflict that the search ended with, and a change that was tried and would do.

    Where one package cannot be what is asked of it, that is said; a search that went back may end
    with demands on several, each of which could be met alone.
    """
    demands = sorted({cause.requirement for cause in causes}, key=lambda demand: demand.order)
    change = _change(roots, offer, demands)
    by_name = _by_name(demands)
    for name, asked in by_name.items():
        known = offer.versions(name, asked[-1].place)
        named = [v for v in known if all(d.atom.matches_version(name, v) for d in asked)]
        if not named:
            at_hand = f"versions at hand: {', '.join(map(str, known))}"
            hint = f"{change}; {at_hand}" if change else at_hand
            details = tuple(str(demand) for demand in asked if demand.atom.version)
            what = f"no version of {name} is what every dependent asks for"
            return UnsatisfiableError(what, place=asked[-1].place, hint=hint, details=details)
        if next(offer.fitting(name, asked), None) is None:
            return _unset(asked, offer.evaluated(name, named[0], asked[0].place), change)
    what = f"the demands on {' and '.join(by_name)} exclude each other"
    hint, details = change or "loosen one of the demands", tuple(map(str, demands))
    return UnsatisfiableError(what, place=demands[-1].place, hint=hint, details=details)


def _change(roots: tuple[Demand, ...], offer: _Offer, causes: Collection[Demand]) -> str:
    """The first demand without whose version all would fit, and what then is chosen."""
    for cause in sorted(set(causes), key=lambda demand: demand.order)[:_CHANGES]:
        if cause.atom.version is None:
            continue
        try:
            versions = _solved(roots, replace(offer, unminded=cause))
        except ResolutionImpossible:
            continue
        name = cause.name
        return f"without {cause.atom} ({cause.place}), {name}-{versions[name]} fits"
    return ""


def _unset(demands: Sequence[Demand], evaluated: Evaluated, change: str) -> UnsatisfiableError:
    """The error of a flag that is not as it is asked for."""
    flags, settings = evaluated.flags, evaluated.settings
    demand = next(one for one in demands if one.atom.refusal(flags) is not None)
    name, asker = demand.name, ("the container", *demand.chain)[-1]
    remedy = _remedy(name, demand.atom, settings)
    asked = [dep.flag for dep in demand.atom.use if dep.flag in settings]
    details = tuple(f"{flag}: {settings[flag].origin}" for flag in asked)
    hint = f"{remedy}; or {change}" if change else remedy
    what = f"{name} is not as {asker} needs it: {demand.atom.refusal(flags)}"
    return UnsatisfiableError(what, place=demand.place, hint=hint, details=details)


def _remedy(name: str, atom: Atom, declared: Collection[str]) -> str:
    """What to write so that the package is as the atom asks."""
    named = [dep.flag for dep in (*atom.declared, *atom.use) if dep.default is None]
    if foreign := [flag for flag in named if flag not in declared]:
        return unknown_flag_hint(foreign[0], declared)
    wishes = [assignment_text(dep.flag, dep.wanted({}) or False) for dep in atom.use]
    listed = ", ".join(wish.removeprefix("+") for wish in wishes)
    return f"in container.yaml: - use: {{packages: {{{name}: [{listed}]}}}}"


def _cycle(
    names: Sequence[str], offer: _Offer, versions: Mapping[str, Version]
) -> UnsatisfiableError:
    wanted = offer.known[names[0], versions[names[0]]].wanted
    place = next((w.place for w in wanted if w.atom and w.atom.name == names[1]), None)
    hint = "remove one of these dependencies, or switch off the flag that brings it"
    what = f"packages depend on each other in a cycle: {' -> '.join(names)}"
    return UnsatisfiableError(what, place=place, hint=hint)
