"""What the lock pins beyond versions: toolchains, further .debs, patches at URLs.

The locked answer is taken wherever there is one; the network is asked only for what is new or may
move (`buildit lock --update`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from buildit.commands.gather import canonical_patch
from buildit.commands.network import Network
from buildit.debian.identity import toolchain_identity
from buildit.digest import Digest, canonical, digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.model.plan import Toolchain
from buildit.model.platform import Platform
from buildit.model.task import DebRef
from buildit.plan.evaluate import Wanted, WantedPatch
from buildit.plan.lock import Section
from buildit.plan.resolve import Selection
from buildit.recipe.package import ToolchainPackage

PATCH_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Pinner:
    """Answers from `section`, else from the network; what it answered is collected for the lock.

    `update` names what may move: `*` for everything, `toolchain`, a package's name, a patch's URL.
    """

    network: Network
    target: Platform
    section: Section = field(default_factory=Section)
    update: tuple[str, ...] = ()
    _debs: dict[str, tuple[DebRef, ...]] = field(default_factory=dict)
    _requests: dict[str, Digest] = field(default_factory=dict)
    _dates: dict[str, str] = field(default_factory=dict)

    def chosen_debs(self) -> Mapping[str, tuple[DebRef, ...]]:
        return dict(self._debs)

    def chosen_requests(self) -> Mapping[str, Digest]:
        return dict(self._requests)

    def chosen_indices(self) -> Mapping[str, str]:
        """The dates of the indices that the .debs were chosen from."""
        suites = {deb.suite for debs in self._debs.values() for deb in debs}
        dates = {**self.section.indices, **self._dates}
        return {suite: date for suite, date in dates.items() if suite in suites}

    def toolchain(self, name: str, spec: ToolchainPackage) -> Toolchain:
        """The exact .debs of a toolchain.

        Raises:
            FetchError, IntegrityError, UnsatisfiableError: they had to be chosen and could not be.
        """
        request = (*spec.debian.suites, "", *spec.debian.packages)
        locked = self._locked(name, request)
        if locked is None:
            locked = self._select(spec.debian.packages, spec.debian.suites)
        self._keep(name, request, locked)
        run = {deb: tuple(names) for deb, names in spec.debian.run.items()}
        return Toolchain(name, str(self.target), toolchain_identity(locked), locked, run)

    def debs(self, wanted: Wanted, toolchain: Toolchain) -> tuple[DebRef, ...]:
        """A Debian package with all of its Depends, those that the toolchain has as it has them.

        Raises:
            as `toolchain`.
        """
        asker = f"debian:{wanted.debian}"
        known = {deb.name: deb for deb in toolchain.debs}
        request = (wanted.debian, "depends", "", *sorted(known))
        locked = self._locked(asker, request)
        if locked is not None and any(known.get(deb.name, deb) != deb for deb in locked):
            locked = None  # the toolchain has moved on to other versions
        if locked is None:
            suites = tuple(sorted({deb.suite for deb in toolchain.debs}))
            chosen = self._select((wanted.debian,), suites)
            locked = tuple(known.get(deb.name, deb) for deb in chosen)
        self._keep(asker, request, locked)
        return locked

    def _locked(self, asker: str, request: tuple[str, ...]) -> tuple[DebRef, ...] | None:
        """The locked answer, where the same was asked and it may not move."""
        if self._may_move("toolchain", asker):
            return None
        if self.section.requests.get(asker) != _request_digest(request):
            return None
        return self.section.debs.get(asker, ())

    def _keep(self, asker: str, request: tuple[str, ...], debs: tuple[DebRef, ...]) -> None:
        self._debs[asker] = debs
        self._requests[asker] = _request_digest(request)

    def patch(self, package: str, patch: WantedPatch) -> tuple[Digest, Digest | None]:
        """The canonical digest of a patch at a URL, and that of its bytes where they were read.

        Raises:
            FetchError: it is not pinned and cannot be fetched.
            IntegrityError: its canonical form is not the pinned one.
            RecipeError: it is no patch.
        """
        for locked in self.section.patches:
            if (locked.package, locked.name) != (package, patch.written):
                continue
            if patch.spec.sha256 not in (None, locked.canonical) or self._may_move(
                package, patch.written
            ):
                break
            return locked.canonical, locked.raw
        if patch.spec.sha256 is not None:
            return patch.spec.sha256, None
        raw, canonical = fetch_patch(self.network, patch)
        return self.network.store.put_bytes(canonical), digest_bytes(raw)

    def _may_move(self, *names: str) -> bool:
        return "*" in self.update or any(name in self.update for name in names)

    def _select(self, packages: Iterable[str], suites: tuple[str, ...]) -> tuple[DebRef, ...]:
        from buildit.debian.select import select

        with self.network.debian().open_indices(suites, self.target.debian) as indices:
            self._dates.update(indices.dates)
            return select(packages, indices.merged)


def _request_digest(request: tuple[str, ...]) -> Digest:
    return digest_bytes(canonical(list(request)))


def fetch_patch(network: Network, patch: WantedPatch) -> tuple[bytes, bytes]:
    """A patch at a URL: its bytes and their canonical form.

    Raises:
        FetchError: no such patch.
        IntegrityError: another patch than the recipe pins.
        RecipeError: no patch at all.
    """
    from buildit.remote.fetch import Fetch

    want = Fetch(patch.written.rpartition("/")[2] or patch.written, (patch.written,))
    try:
        digest = network.fetcher().fetch(want)
    except FetchError as error:
        raise FetchError(
            f"the patch {patch.written} cannot be fetched",
            place=patch.place,
            hint="check its URL and the network; a local copy under patches/ needs neither",
            details=(error.message, *error.details),
        ) from error
    raw = network.store.read(digest)
    if len(raw) > PATCH_LIMIT:
        raise IntegrityError(f"{patch.written} has {len(raw)} bytes", place=patch.place)
    return raw, canonical_patch(raw, patch.written, patch)


def wanted_debs(
    selection: Selection, asked: Iterable[Wanted], toolchains: Mapping[str, Toolchain]
) -> Iterator[tuple[Wanted, Toolchain]]:
    """Each Debian package whose Depends are to be known, once: those beyond the toolchain of
    the package that needs them, and those that an image takes with their Depends."""
    first = next(iter(toolchains.values()))
    seen: set[str] = set()
    needed = [
        (wanted, toolchains[one.package.recipe.toolchain])
        for one in selection.chosen.values()
        for wanted in one.wanted
        if wanted.atom is None
    ]
    for wanted, toolchain in (*needed, *((one, first) for one in asked)):
        own = {deb.name for deb in toolchain.debs}
        known = wanted.debian.partition("=")[0] in own
        taken = wanted.role == "run" and wanted.depends
        if (taken or not known) and wanted.debian not in seen:
            seen.add(wanted.debian)
            yield wanted, toolchain
