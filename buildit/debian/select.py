"""From names to the closed set of exact .debs: of a toolchain, of the root in which a source
package is built, or of what .debs of one's own need at run time.

Depends and Pre-Depends are followed, Recommends are not, Essential implies nothing. The highest
version of all suites wins; of alternatives the first that can be had, one that is chosen already
before all. The order is apt's, so that the choices are mostly its own: what a package needs is
followed to its end before the next is looked at, alternatives after what leaves no choice. There is
no backtracking: a set that does not fit is an error with both chains.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from difflib import get_close_matches

from buildit.debian.packages import Candidate, Indices
from buildit.debian.relations import Groups, Relation, debian_key, parse_relations, reduced
from buildit.debian.sources import SourceCandidate
from buildit.digest import Digest
from buildit.errors import IntegrityError, UnsatisfiableError
from buildit.model.plan import DebRef

BUILD_ROOT = ("build-essential", "debhelper", "fakeroot")
"""What the root of every build has besides all that is `Essential: yes` (Policy 4.2)."""
_PRIORITIES = {"required": 0, "important": 1, "standard": 2, "optional": 3, "extra": 4}


_SCRIPTS_ONLY = """
    adduser apparmor cdebconf debconf debconf-2.0 dpkg init-system-helpers install-info lsb-base
    opensysusers runit-helper systemd-standalone-sysusers systemd-standalone-tmpfiles
    systemd-sysusers systemd-tmpfiles sysuser-helper sysvinit-utils ucf update-inetd
"""
SCRIPTS_ONLY = frozenset(_SCRIPTS_ONLY.split())
"""Packages that are in Depends for maintainer scripts and init systems. In an image no script of a
package runs, so it takes them only where somebody names them."""


def select(
    wanted: Iterable[str], index: Indices, ignoring: Collection[str] = ()
) -> tuple[DebRef, ...]:
    """The closed set of packages named `name` or `name=version`, sorted by name; relations to the
    names of `ignoring` are taken as met.

    Raises:
        UnsatisfiableError: a package is missing, cannot be had in the version needed, or conflicts
            with another; the chains say who wants it.
        IntegrityError: the index has a relation that cannot be read.
    """
    selection = _Selection(index, frozenset(ignoring))
    selection.request_all(wanted)
    selection.close()
    return selection.debs()


def select_build(
    source: SourceCandidate, profiles: Collection[str], extra: Iterable[str], index: Indices
) -> tuple[tuple[DebRef, ...], tuple[DebRef, ...]]:
    """The .debs of the root in which a source is built with these profiles: those that every build
    has, which depend on nothing but the index, and what this one needs beyond them, with `extra`
    (`name` or `name=version`). Both sorted by name; together they are closed.

    Raises:
        UnsatisfiableError: a relation of the source, or of what it needs, cannot be met; it and the
            chain down to it are said.
        IntegrityError: the index has a relation that cannot be read.
    """
    selection = _Selection(index)
    selection.request_all((*index.essential(), *BUILD_ROOT))
    selection.close()
    base = selection.debs()
    try:
        needs, against = (
            reduced(field, index.arch, profiles)
            for field in (source.build_depends, source.build_conflicts)
        )
    except ValueError as error:
        raise IntegrityError(str(error), place=source.place) from error
    try:
        selection.request_all(extra)
        selection.require(f"src:{source.name}", source.version, needs, against)
        selection.close()
        debs = selection.debs()
    except UnsatisfiableError as error:
        what = f"what its build needs cannot be had: {error.message}"
        place, hint, details = source.place, error.hint, error.details
        raise UnsatisfiableError(what, place=place, hint=hint, details=details) from error
    return base, tuple(deb for deb in debs if deb not in set(base))


def select_run(
    name: str, version: str, relations: Iterable[str], index: Indices, ignoring: Collection[str]
) -> tuple[DebRef, ...]:
    """The closed set of .debs for the run-time relations (texts of Depends and Pre-Depends) of a
    .deb of one's own, `name` in `version`; sorted by name. The names of `ignoring`, its siblings of
    the same build and what they provide, are there in whatever version they are built in, and never
    come from the index.

    Raises:
        UnsatisfiableError: as `select`.
        IntegrityError: a relation cannot be read.
    """
    selection = _Selection(index, frozenset(ignoring))
    try:
        needs = tuple(group for text in relations for group in parse_relations(text))
    except ValueError as error:
        raise IntegrityError(str(error), place=name) from error
    selection.require(name, version, needs, ())
    selection.close()
    return selection.debs()


def _request(text: str) -> tuple[str, str]:
    name, equals, version = text.partition("=")
    if not name or (equals and not version):
        raise UnsatisfiableError(f"not a Debian package: {text!r}", hint="write name or name=1.0")
    try:
        debian_key(version or "0")
    except ValueError as error:
        raise UnsatisfiableError(f"{name}: {error}", hint="write name or name=1.0") from error
    return name, version


class _Selection:
    """The set so far: what is chosen, who wanted it first, and whose relations are still open."""

    def __init__(self, index: Indices, ignoring: frozenset[str] = frozenset()) -> None:
        self.chosen: dict[str, Candidate] = {}
        self._index = index
        self._ignoring = ignoring
        self._wanted_by: dict[str, tuple[str, str]] = {}
        self._pinned: dict[str, str] = {}
        self._open: list[tuple[Candidate, Iterator[tuple[Relation, ...]]]] = []

    def request_all(self, wanted: Iterable[str]) -> None:
        for name, version in sorted(_request(text) for text in wanted):
            self._request(name, version)

    def _request(self, name: str, version: str) -> None:
        relation = Relation(name, "", "=" if version else "", version)
        if version:
            self._pinned[name] = version
        found = self._had(relation)
        if found is None:
            raise self._missing(relation, "")
        chosen = self.chosen.get(name)
        if version and chosen is not None and chosen.version != version:
            what = f"{relation} is asked for, but {name} {chosen.version} is chosen"
            raise self._unfit(what, "leave the version out, or name one alone", name)
        self._choose(found, "", str(relation))

    def require(self, name: str, version: str, needs: Groups, against: Groups) -> None:
        """What is built here, and is in no index, as if it were a package that is asked for."""
        depends, conflicts = (
            ", ".join(" | ".join(map(str, group)) for group in groups)
            for groups in (needs, against)
        )
        values = (name, version, self._index.arch, "", "", depends, "", conflicts, "", "")
        self._choose(Candidate(*values, 0, Digest(""), "", ""), "", name)

    def debs(self) -> tuple[DebRef, ...]:
        """What is chosen and in an index, by name."""
        return tuple(
            DebRef(one.name, one.version, one.arch, one.suite, one.path, one.size, one.digest)
            for _, one in sorted(self.chosen.items())
            if one.path
        )

    def close(self) -> None:
        """Choose until nothing is open, and see that it fits together."""
        self._open.reverse()
        while self._open:
            package, groups = self._open[-1]
            group = next(groups, None)
            if group is None:
                self._open.pop()
            elif not any(self._is_satisfied(relation) for relation in group):
                self._satisfy(group, package)  # what it chooses is followed next
        self._check_conflicts()

    def _check_conflicts(self) -> None:
        called: dict[str, list[Candidate]] = {}
        for name, package in sorted(self.chosen.items()):
            provided = _relations(package, package.provides)
            for also in {name, *(group[0].name for group in provided)}:
                called.setdefault(also, []).append(package)
        for name, package in sorted(self.chosen.items()):
            for group in _relations(package, package.conflicts, package.breaks):
                for other in called.get(group[0].name, ()):
                    if not self._hits(group[0], package, other):
                        continue
                    what = f"{name} {package.version} conflicts with {other.name} {other.version}"
                    hint = "leave one of them out, or pin another version with name=version"
                    raise self._unfit(what, hint, name, other.name)

    def _hits(self, relation: Relation, package: Candidate, other: Candidate) -> bool:
        """Whether a package conflicts with another by a relation of that one's name, or of one that
        it provides; nobody conflicts with what it provides itself (Policy 7.6.1)."""
        if not self._is_own(relation) or other.name == package.name:
            return False
        real = other.name == relation.name and relation.admits(other.version)
        return real or _provides(other, relation)

    def _is_own(self, relation: Relation) -> bool:
        """Whether it is about packages of the index's architecture; there are no others."""
        return relation.qualifier in ("", "any", self._index.arch)

    def _is_satisfied(self, relation: Relation) -> bool:
        if not self._is_own(relation):
            return False
        if relation.name in self._ignoring:
            return True
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
                what = f"{package.name} needs {text}, but {chosen.name} {chosen.version} is chosen"
                hint = "pin versions that fit together with name=version, or update the indices"
                raise self._unfit(what, hint, package.name, chosen.name)
        raise self._missing(group[0], package.name, text)

    def _had(self, relation: Relation) -> Candidate | None:
        if not self._is_own(relation):
            return None
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
        pinned = self._pinned.get(package.name, package.version)
        return pinned == package.version and package.name not in self._ignoring

    def _choose(self, package: Candidate, wanted_by: str, text: str) -> None:
        if package.name in self.chosen:
            return
        self.chosen[package.name] = package
        self._wanted_by[package.name] = (wanted_by, text)
        groups = _relations(package, package.pre_depends, package.depends)
        self._open.append((package, iter(sorted(groups, key=lambda group: len(group) > 1))))

    def _unfit(self, what: str, hint: str, *names: str) -> UnsatisfiableError:
        details = tuple(line for name in names for line in self._chain(name))
        return UnsatisfiableError(what, hint=hint, details=details)

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
            have = sorted({one.version for one in named}, key=debian_key)
            message = f"no suite has {text}; there is {', '.join(have)}"
            hint = f"write {relation.name}={have[-1]}, or leave the version out"
            if wanted_by:
                hint = "the suites do not fit together: is one missing in the apt sources?"
        else:
            message = f"no suite has a package {text}"
            near = get_close_matches(relation.name, self._nearby(relation.name), 1)
            hint = f"did you mean {near[0]}?" if near else "check the name and the suites"
        chain = (*self._chain(wanted_by), f"{wanted_by} needs {text}") if wanted_by else ()
        place = f"debian:{relation.name}"
        return UnsatisfiableError(message, place=place, hint=hint, details=chain)

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
