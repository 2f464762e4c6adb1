"""What the lock pins of Debian source packages: the source's files, the .debs of its chroot, and
those that its outputs need at run time.

Every file of a source is asked for before anything is resolved: an index may promise more than a
mirror has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from buildit.commands.choose import Choice
from buildit.commands.pins import Answer, locked_answer, request_digest
from buildit.commands.run import Downloads
from buildit.digest import Digest
from buildit.errors import FetchError, UnsatisfiableError
from buildit.model.plan import DebRef, Toolchain
from buildit.model.words import hint_of
from buildit.plan.debian_source import PinnedDebianSource, WantedDebianSource, check_profiles

if TYPE_CHECKING:
    from buildit.debian.packages import Candidate, Indices
    from buildit.debian.sources import SourceCandidate, SourceFile

SOURCE = "source"
"""The architecture of a source's files in the lock (dpkg-architecture(1) calls it so, too)."""
_NOT_OBVIOUS = ("-dbg", "-dev", "-doc")
_PARTS = ("base", "build", "run")


def pin_source(
    choice: Choice, wanted: WantedDebianSource, downloads: Downloads, toolchain: Toolchain
) -> tuple[PinnedDebianSource, Mapping[str, Answer]]:
    """What is locked for a Debian source where the same was asked, else what the archive has; and
    each answer by who asked, for the lock.

    Raises:
        UnsatisfiableError: the archive lacks the source, the version, a file of it, a package of
            its name, or what it needs.
        RecipeError: the source does not declare a profile.
        FetchError, IntegrityError: the archive's indices cannot be had.
    """
    asked = _Asked(choice, wanted, toolchain)
    answers = asked.locked()
    if answers is None:
        answers = asked.chosen(downloads)
    prefix = f"{wanted.asker}/"
    files = answers[wanted.asker].debs
    run = {
        asker.removeprefix(prefix): answer.debs
        for asker, answer in answers.items()
        if asker.startswith(prefix)
    }
    base, further, beside = (answers[asked.chroot(part)].debs for part in _PARTS)
    return PinnedDebianSource(files[0].version, files, base, further, run, beside), answers


@dataclass(frozen=True, slots=True)
class _Asked:
    """One source package of a container, and its questions to the archive."""

    choice: Choice
    wanted: WantedDebianSource
    toolchain: Toolchain

    def chroot(self, part: str) -> str:
        """Who asks for a part of the chroot, or for all that its packages need to run."""
        return f"chroot:{self.wanted.name}/{part}"

    def source_request(self) -> Digest:
        return request_digest((self.wanted.name, self.wanted.base.version, *self._suites))

    def chroot_request(self, dsc: Digest) -> Digest:
        wanted = self.wanted
        return request_digest((dsc, *self._suites, "", *wanted.profiles, "", *wanted.build))

    def run_request(self, dsc: Digest, package: str) -> Digest:
        how = "named" if self.wanted.named else "".join(self.wanted.packages) or "obvious"
        return request_digest((self.beside_request(dsc), package, how))

    def beside_request(self, dsc: Digest) -> Digest:
        unusual = (one for one in self.wanted.named if one.endswith(_NOT_OBVIOUS))
        known = sorted(deb.name for deb in self.toolchain.debs)
        asked = (*self.wanted.profiles, "", *self.wanted.run, "", *unusual, "")
        return request_digest((dsc, *asked, *known))

    @property
    def _suites(self) -> tuple[str, ...]:
        return self.choice.chroot.debian.suites

    def _files(self) -> tuple[DebRef, ...]:
        """The locked files, the .dsc first, as long as they may not move."""
        asker, section = self.wanted.asker, self.choice.section
        moves = self.choice.options.moves(asker)
        if moves or section.requests.get(asker) != self.source_request():
            return ()
        return _dsc_first(section.debs.get(asker, ()))

    def locked(self) -> dict[str, Answer] | None:
        """The locked answers, where all of them are there and may stay."""
        wanted, section, files = self.wanted, self.choice.section, self._files()
        if not files:
            return None
        dsc = files[0].digest
        requests = {self.chroot(part): self.chroot_request(dsc) for part in ("base", "build")}
        requests[self.chroot("run")] = self.beside_request(dsc)
        prefix = f"{wanted.asker}/"
        packages = wanted.named or tuple(
            package
            for asker, request in section.requests.items()
            if asker.startswith(prefix)
            and request == self.run_request(dsc, package := asker.removeprefix(prefix))
        )
        if not packages:
            return None
        requests |= {f"{prefix}{package}": self.run_request(dsc, package) for package in packages}
        answers = {wanted.asker: Answer(self.source_request(), files)}
        for asker, request in requests.items():
            debs = self._locked(asker, request)
            runs = asker not in (self.chroot("base"), self.chroot("build"))
            if debs is None or (runs and self._outdated(debs)):
                return None
            answers[asker] = Answer(request, debs)
        return answers

    def _locked(self, asker: str, request: Digest) -> tuple[DebRef, ...] | None:
        """Of all that is asked only the base always has rows."""
        base = self.chroot("base")
        return locked_answer(self.choice, asker, request, empty=asker != base)

    def _outdated(self, debs: Iterable[DebRef]) -> bool:
        """Whether the toolchain has moved on to other versions of some."""
        known = {deb.name: deb for deb in self.toolchain.debs}
        return any(known.get(deb.name, deb) != deb for deb in debs)

    def chosen(self, downloads: Downloads) -> dict[str, Answer]:
        """What the archive has."""
        from buildit.debian.select import select_build
        from buildit.debian.sources import declared_profiles

        wanted, arch = self.wanted, self.choice.target.debian
        archive = downloads.debian()
        with archive.open_sources(self._suites) as sources:
            try:
                source = sources.choose(wanted.name, self._version())
                check_profiles(wanted, declared_profiles(source))
                sources.check_files(source, lambda file: is_had(file, source.suite, downloads))
            except (FetchError, UnsatisfiableError) as error:
                error.place = wanted.place
                raise
            dates = dict(sources.dates)
        files = tuple(_file(one, source) for one in source.files)
        dsc = files[0].digest
        answers = {wanted.asker: Answer(self.source_request(), files, dates)}
        made = source.made(arch, wanted.profiles)
        with archive.open_indices(self._suites, arch) as indices:
            dates = dict(indices.dates)
            try:
                answers |= self._chroot_of(
                    dsc, lambda: select_build(source, wanted.profiles, wanted.build, indices), dates
                )
                answers |= self._running(dsc, source, made, indices)
            except UnsatisfiableError as error:
                if error.place != wanted.place:
                    error.message = f"{error.place}: {error.message}"
                error.place = wanted.place
                raise
        return answers

    def _running(
        self, dsc: Digest, source: SourceCandidate, made: tuple[str, ...], indices: Indices
    ) -> dict[str, Answer]:
        """What the packages of a source need to run: each that is taken, and all together.

        Raises:
            UnsatisfiableError: one that is taken is none of the source's, or cannot be had.
        """
        from buildit.debian.select import select_run

        wanted, known = self.wanted, {deb.name: deb for deb in self.toolchain.debs}
        usual = tuple(one for one in made if not one.endswith(_NOT_OBVIOUS))
        taken = wanted.named or (usual if wanted.packages else (self._obvious(made),))
        if unknown := [one for one in taken if one not in made]:
            message = f"the Debian source {source.name} makes no package {unknown[0]!r}"
            hint = hint_of(unknown[0], made)
            raise UnsatisfiableError(message, place=wanted.place, hint=hint)
        answers: dict[str, Answer] = {}
        beside: dict[str, DebRef] = {}
        for package in sorted({*usual, *taken}):
            texts, own = _runs_with(package, made, source, indices)
            relations = (*texts, *map(_relation, wanted.run))
            try:
                found = select_run(package, source.version, relations, indices, own)
            except UnsatisfiableError:
                if package in taken:
                    raise
                continue  # nobody takes it
            debs = tuple(known.get(deb.name, deb) for deb in found)
            beside |= {deb.name: deb for deb in debs}
            if package in taken:
                request = self.run_request(dsc, package)
                answers[f"{wanted.asker}/{package}"] = Answer(request, debs, indices.dates)
        every = tuple(beside[name] for name in sorted(beside))
        request = self.beside_request(dsc)
        return answers | {self.chroot("run"): Answer(request, every, indices.dates)}

    def _chroot_of(
        self,
        dsc: Digest,
        choose: Callable[[], tuple[tuple[DebRef, ...], tuple[DebRef, ...]]],
        dates: Mapping[str, str],
    ) -> dict[str, Answer]:
        """The .debs of the chroot: what is locked for the same Build-Depends stays."""
        askers, request = (self.chroot("base"), self.chroot("build")), self.chroot_request(dsc)
        moves = self.choice.options.moves(self.wanted.asker)
        locked = [None if moves else self._locked(one, request) for one in askers]
        if None in locked:
            locked = list(choose())
        pairs = zip(askers, locked, strict=True)
        return {asker: Answer(request, debs or (), dates) for asker, debs in pairs}

    def _version(self) -> str:
        """The version that the user names, else the locked one as long as it may not move."""
        files = self._files()
        return self.wanted.base.version or (files[0].version if files else "")

    def _obvious(self, made: tuple[str, ...]) -> str:
        """The package that is meant where none is named.

        Raises:
            UnsatisfiableError: there are several, none of the source's name.
        """
        if self.wanted.name in made:
            return self.wanted.name
        usual = [one for one in made if not one.endswith(_NOT_OBVIOUS)]
        if len(usual) == 1:
            return usual[0]
        message = f"the Debian source {self.wanted.name} makes {len(made)} packages"
        hint = f"name those that the image takes, `packages: […]`: {', '.join(made)}"
        raise UnsatisfiableError(message, place=self.wanted.place, hint=hint)


def _dsc_first(files: Iterable[DebRef]) -> tuple[DebRef, ...]:
    """The lock sorts them by name."""
    return tuple(sorted(files, key=lambda file: (not file.name.endswith(".dsc"), file.name)))


def _file(file: SourceFile, source: SourceCandidate) -> DebRef:
    version, suite = source.version, source.suite
    return DebRef(file.name, version, SOURCE, suite, file.path, file.size, file.digest)


def is_had(file: SourceFile, suite: str, downloads: Downloads) -> bool:
    """Whether the store, `distfiles/`, a binhost or a mirror has a file of a source of
    a suite.

    Raises:
        FetchError: none has it, and a mirror could not be asked.
    """
    from buildit.debian.archive import is_served

    if downloads.store.has(file.digest):
        return True
    earlier, asked = downloads.earlier((file.name, file.digest), file.digest), downloads.transport()
    with suppress(FetchError):  # a binhost that cannot be asked is left out, which is said
        if is_served(asked, earlier, file.size):
            return True
    bases = (*downloads.suite_bases(suite), *downloads.mirrors("debian"))
    urls = (f"{base}/{file.path}" for base in dict.fromkeys(bases))
    return is_served(asked, urls, file.size)


def _runs_with(
    package: str, made: tuple[str, ...], source: SourceCandidate, indices: Indices
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The Depends, as the archive has them, of a package and of those of the same source that it
    depends on; and all names that the source's own packages are known by.

    What is built depends on the same, but for what patches and profiles change; where its files
    need more, the maker says so.
    """
    from buildit.debian.relations import parse_relations

    def stanza(name: str) -> tuple[Candidate, ...]:
        found = indices.named(name)
        return tuple(one for one in found if one.version == source.version)[:1] or found[:1]

    texts: list[str] = []
    queue = [package]
    for name in queue:
        fields = [t for one in stanza(name) for t in (one.pre_depends, one.depends) if t]
        texts += fields
        groups = (group for text in fields for group in parse_relations(text))
        names = (relation.name for group in groups for relation in group)
        queue += [one for one in dict.fromkeys(names) if one in made and one not in queue]
    provided = (
        group[0].name
        for name in made
        for one in stanza(name)
        for group in parse_relations(one.provides)
    )
    return tuple(texts), (*made, *provided)


def _relation(name: str) -> str:
    """`name=version` as a relation of Debian's."""
    name, _, version = name.partition("=")
    return f"{name} (= {version})" if version else name
