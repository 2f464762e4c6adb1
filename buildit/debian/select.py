"""From names to the closed set of exact .debs; pure.

Depends and Pre-Depends are followed, Recommends are not, Essential implies nothing. The highest
version of all suites wins; of alternatives the first that can be had, one that is chosen already
before all. There is no backtracking: a set that does not fit is an error with both chains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Protocol

from buildit.debian.packages import Candidate, Relation, debian_key, parse_relations
from buildit.errors import IntegrityError, UnsatisfiableError
from buildit.model.plan import DebRef

_PRIORITIES = {"required": 0, "important": 1, "standard": 2, "optional": 3, "extra": 4}


class Index(Protocol):
    """What can be chosen from."""

    def named(self, name: str) -> Sequence[Candidate]: ...

    def providing(self, name: str) -> Sequence[Candidate]: ...


def select(wanted: Iterable[str], index: Index) -> tuple[DebRef, ...]:
    """The closed set of packages named `name` or `name=version`, sorted by name.

    Raises:
        UnsatisfiableError: a package is missing, cannot be had in the version needed, or conflicts
            with another; the chains say who wants it.
        IntegrityError: the index has a relation that cannot be read.
    """
    selection = _Selection(index)
    for name, version in sorted(_request(text) for text in wanted):
        selection.request(name, version)
    selection.close()
    selection.check_conflicts()
    return tuple(_deb(selection.chosen[name]) for name in sorted(selection.chosen))


def _request(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not name or (equals and not version):
        raise UnsatisfiableError(f"not a Debian package: {text!r}", hint="write name or name=1.0")
    return name, version


def _deb(found: Candidate) -> DebRef:
    return DebRef(
        found.name, found.version, found.arch, found.suite, found.path, found.size, found.digest
    )


class _Selection:
    """The set so far: what is chosen, who wanted it first, and whose relations are still open."""

    def __init__(self, index: Index) -> None:
        self.chosen: dict[str, Candidate] = {}
        self._index = index
        self._wanted_by: dict[str, tuple[str, str]] = {}
        self._pinned: dict[str, str] = {}
        self._open: deque[Candidate] = deque()

    def request(self, name: str, version: str) -> None:
        relation = Relation(name, "", "=" if version else "", version)
        if version:
            self._pinned[name] = version
        found = self._had(relation)
        if found is None:
            raise self._missing(relation, "")
        self._choose(found, "", str(relation))

    def close(self) -> None:
        while self._open:
            package = self._open.popleft()
            for group in _relations(package, package.pre_depends, package.depends):
                if not any(self._is_satisfied(relation) for relation in group):
                    self._satisfy(group, package)

    def check_conflicts(self) -> None:
        for name in sorted(self.chosen):
            package = self.chosen[name]
            for group in _relations(package, package.conflicts, package.breaks):
                for other in self._hit(group[0], package):
                    raise UnsatisfiableError(
                        f"{name} {package.version} conflicts with {other.name} {other.version}",
                        details=(*self._chain(name), *self._chain(other.name)),
                        hint="leave one of them out, or pin another version with name=version",
                    )

    def _hit(self, relation: Relation, package: Candidate) -> Iterator[Candidate]:
        for other in self.chosen.values():
            real = other.name == relation.name and relation.admits(other.version)
            # Policy 7.6.1: nobody conflicts with what it provides itself
            if other.name != package.name and (real or _provides(other, relation)):
                yield other

    def _is_satisfied(self, relation: Relation) -> bool:
        real = self.chosen.get(relation.name)
        if real is not None and relation.admits(real.version):
            return True
        return any(
            self.chosen.get(found.name) == found and _provides(found, relation)
            for found in self._index.providing(relation.name)
        )

    def _satisfy(self, group: tuple[Relation, ...], package: Candidate) -> None:
        text = " | ".join(map(str, group))
        for relation in group:
            found = self._had(relation)
            if found is not None and found.name not in self.chosen:
                self._choose(found, package.name, text)
                return
        for relation in group:
            if relation.name in self.chosen:
                chosen = self.chosen[relation.name]
                raise UnsatisfiableError(
                    f"{package.name} needs {text}, but {chosen.name} {chosen.version} is chosen",
                    details=(*self._chain(package.name), *self._chain(chosen.name)),
                    hint="pin versions that fit together with name=version, or update the indices",
                )
        raise self._missing(group[0], package.name, text)

    def _had(self, relation: Relation) -> Candidate | None:
        best = self._best(self._index.named(relation.name), relation)
        return best or self._best_provider(relation)

    def _best(self, found: Sequence[Candidate], relation: Relation) -> Candidate | None:
        """The highest version; of equal ones the first."""
        fitting = [one for one in found if relation.admits(one.version) and self._free(one)]
        return max(fitting, key=lambda one: debian_key(one.version), default=None)

    def _best_provider(self, relation: Relation) -> Candidate | None:
        """What apt would take: the highest priority, then the first name; in its highest version.

        A name that the archive has only in older versions of its provider is not offered.
        """
        providers = {
            one.name: one
            for one in sorted(
                self._index.providing(relation.name), key=lambda one: debian_key(one.version)
            )
            if self._free(one) and _provides(one, relation)
        }
        newest = [
            one
            for one in providers.values()
            if (best := self._best(self._index.named(one.name), Relation(one.name))) is not None
            and best.version == one.version
        ]
        return min(
            newest, key=lambda one: (_PRIORITIES.get(one.priority, 5), one.name), default=None
        )

    def _free(self, package: Candidate) -> bool:
        return self._pinned.get(package.name, package.version) == package.version

    def _choose(self, package: Candidate, wanted_by: str, text: str) -> None:
        if package.name in self.chosen:
            return
        self.chosen[package.name] = package
        self._wanted_by[package.name] = (wanted_by, text)
        self._open.append(package)

    def _chain(self, name: str) -> tuple[str, ...]:
        """Who wants it, from what was asked for down to it."""
        lines: list[str] = []
        while name:
            parent, text = self._wanted_by[name]
            lines.append(f"{parent} needs {text}" if parent else f"{text} is asked for")
            name = parent
        return tuple(reversed(lines))

    def _missing(self, relation: Relation, wanted_by: str, text: str = "") -> UnsatisfiableError:
        named = self._index.named(relation.name)
        text = text or str(relation)
        if named:
            have = ", ".join(sorted({one.version for one in named}, key=debian_key))
            message = f"no suite has {text}; there is {have}"
        else:
            message = f"no suite has a package {text}"
        near = get_close_matches(relation.name, self._nearby(relation.name), 1)
        hint = f"did you mean {near[0]}?" if near else "check the name and the suites"
        chain = (*self._chain(wanted_by), f"{wanted_by} needs {text}") if wanted_by else ()
        return UnsatisfiableError(
            message, place=f"debian:{relation.name}", hint=hint, details=chain
        )

    def _nearby(self, name: str) -> tuple[str, ...]:
        """Names that a slip of the finger turns into `name`, as far as the index has them."""
        drops = (name[:at] + name[at + 1 :] for at in range(len(name)))
        swaps = (
            name[:at] + name[at + 1] + name[at] + name[at + 2 :] for at in range(len(name) - 1)
        )
        guesses = {*drops, *swaps, f"lib{name}", f"{name}-dev", name.replace("_", "-")}
        return tuple(guess for guess in sorted(guesses) if guess and self._index.named(guess))


def _relations(package: Candidate, *fields: str) -> Iterator[tuple[Relation, ...]]:
    try:
        for field in fields:
            yield from parse_relations(field)
    except ValueError as error:
        raise IntegrityError(str(error), place=f"debian:{package.name}") from error


def _provides(package: Candidate, relation: Relation) -> bool:
    provided = _relations(package, package.provides)
    return any(relation.admits_provided(group[0]) for group in provided)
