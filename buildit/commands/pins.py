"""What the lock pins beyond versions: toolchains, further .debs, patches at URLs.

The locked answer is taken wherever there is one; the network is asked only for what is new or may
move (`buildit lock --update`). Answers are values, which the lock is then written from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from buildit.commands.choose import Choice
from buildit.commands.inputs import LARGEST_INPUT, canonical_patch
from buildit.commands.run import Downloads
from buildit.debian.fixups import toolchain_identity
from buildit.digest import Digest, canonical, digest_bytes
from buildit.errors import FetchError, IntegrityError
from buildit.model.plan import Toolchain
from buildit.model.task import DebRef
from buildit.plan.evaluate import WantedPackage, WantedPatch
from buildit.plan.tasks import Pinned


@dataclass(frozen=True, slots=True)
class Answer:
    """The .debs that one request comes to. `request` is the digest of what was asked; `dates` are
    those of the indices that were read for it, by suite."""

    request: Digest
    debs: tuple[DebRef, ...]
    dates: Mapping[str, str] = field(default_factory=dict)


def pin_debs(choice: Choice, downloads: Downloads) -> tuple[Pinned, Mapping[str, Answer]]:
    """The exact .debs of the toolchain, and those of further Debian packages with all of their
    Depends; and each answer by who asked, for the lock.

    Raises:
        FetchError, IntegrityError, UnsatisfiableError: they had to be chosen and could not be.
    """
    name, debian = choice.toolchain, choice.chroot.debian
    answers = {name: _answer(choice, downloads, name, debian.packages, debian.suites)}
    locked = answers[name].debs
    run = {deb: tuple(names) for deb, names in debian.run.items()}
    toolchain = Toolchain(name, str(choice.target), toolchain_identity(locked), locked, run)
    known = {deb.name: deb for deb in toolchain.debs}
    for wanted in _wanted_debs(choice, known):
        answers[f"debian:{wanted}"] = _further(choice, downloads, wanted, known)
    debs = {asker: answer.debs for asker, answer in answers.items() if asker != name}
    return Pinned({name: toolchain}, debs), answers


def _wanted_debs(choice: Choice, known: Mapping[str, DebRef]) -> Iterable[str]:
    """Each Debian package whose Depends are to be known, once: those beyond the toolchain, and
    those that an image takes with their Depends."""
    needed = (wanted for one in choice.selection.chosen.values() for wanted in one.wanted)
    debs = [one for one in needed if one.atom is None] + [*choice.roots.debs.values()]
    return dict.fromkeys(one.debian for one in debs if _beyond(one, known))


def _beyond(wanted: WantedPackage, known: Mapping[str, DebRef]) -> bool:
    taken = wanted.role == "run" and wanted.depends
    return taken or wanted.debian.partition("=")[0] not in known


def _further(
    choice: Choice, downloads: Downloads, wanted: str, known: Mapping[str, DebRef]
) -> Answer:
    """A Debian package with all of its Depends, those that the toolchain has as it has them."""
    asker = f"debian:{wanted}"
    request = _digest((wanted, "depends", "", *sorted(known)))
    locked = _locked(choice, asker, request)
    # Not where the toolchain has moved on to other versions.
    if locked is not None and all(known.get(deb.name, deb) == deb for deb in locked):
        return Answer(request, locked)
    suites = tuple(sorted({deb.suite for deb in known.values()}))
    chosen, dates = _select(choice, downloads, (wanted,), suites)
    return Answer(request, tuple(known.get(deb.name, deb) for deb in chosen), dates)


def _answer(
    choice: Choice,
    downloads: Downloads,
    asker: str,
    packages: tuple[str, ...],
    suites: tuple[str, ...],
) -> Answer:
    request = _digest((*suites, "", *packages))
    locked = _locked(choice, asker, request)
    if locked is not None:
        return Answer(request, locked)
    return Answer(request, *_select(choice, downloads, packages, suites))


def _digest(request: tuple[str, ...]) -> Digest:
    return digest_bytes(canonical(list(request)))


def _locked(choice: Choice, asker: str, request: Digest) -> tuple[DebRef, ...] | None:
    """The locked answer, where the same was asked and it may not move."""
    section = choice.section
    if choice.options.moves("toolchain", asker) or section.requests.get(asker) != request:
        return None
    return section.debs.get(asker, ())


def _select(
    choice: Choice, downloads: Downloads, packages: Iterable[str], suites: tuple[str, ...]
) -> tuple[tuple[DebRef, ...], Mapping[str, str]]:
    from buildit.debian.select import select

    with downloads.debian().open_indices(suites, choice.target.debian) as indices:
        return select(packages, indices), dict(indices.dates)


def dates_of(choice: Choice, answers: Mapping[str, Answer]) -> Mapping[str, str]:
    """The dates of the indices that the .debs were chosen from, by suite."""
    suites = {deb.suite for answer in answers.values() for deb in answer.debs}
    dates = dict(choice.section.indices)
    for answer in answers.values():
        dates |= answer.dates
    return {suite: date for suite, date in dates.items() if suite in suites}


def pin_patch(
    choice: Choice, downloads: Downloads, package: str, patch: WantedPatch
) -> tuple[Digest, Digest | None]:
    """The canonical digest of a patch at a URL, and that of its bytes where they were read.

    Raises:
        FetchError: it is not pinned and cannot be fetched.
        IntegrityError: its canonical form is not the pinned one.
        RecipeError: it is no patch.
    """
    for locked in choice.section.patches:
        if (locked.package, locked.name) != (package, patch.written):
            continue
        moves = choice.options.moves(package, patch.written)
        if patch.spec.sha256 not in (None, locked.canonical) or moves:
            break
        return locked.canonical, locked.raw
    if patch.spec.sha256 is not None:
        return patch.spec.sha256, None
    raw, canonical = fetch_patch(downloads, patch)
    return downloads.store.put_bytes(canonical), digest_bytes(raw)


def fetch_patch(downloads: Downloads, patch: WantedPatch) -> tuple[bytes, bytes]:
    """A patch at a URL: its bytes and their canonical form.

    Raises:
        FetchError: no such patch.
        IntegrityError: another patch than the recipe pins.
        RecipeError: no patch at all.
    """
    from buildit.remote.fetch import Fetch

    want = Fetch(patch.written.rpartition("/")[2] or patch.written, (patch.written,))
    try:
        digest = downloads.fetcher().fetch(want)
    except FetchError as error:
        raise FetchError(
            f"the patch {patch.written} cannot be fetched",
            place=patch.place,
            hint="check its URL and the network; a local copy under patches/ needs neither",
            details=(error.message, *error.details),
        ) from error
    raw = downloads.store.read(digest)
    if len(raw) > LARGEST_INPUT:
        raise IntegrityError(f"{patch.written} has {len(raw)} bytes", place=patch.place)
    return raw, canonical_patch(raw, patch.written, patch)
