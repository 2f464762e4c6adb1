"""Everything that makers need, into the store before the first begins: sources, .debs, patches;
and a new source before a recipe names it.

Order of places: the store, `distfiles/`, binhosts, then URLs and mirrors.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.unpack import Inspected, inspect_source
from buildit.commands.run import Downloads
from buildit.commands.sources import bring_commit
from buildit.digest import Digest, digest_bytes, digest_file
from buildit.errors import BuilditError, FetchError, IntegrityError, UsageError
from buildit.events import Notice
from buildit.make.makers import kind_of
from buildit.model.plan import DebRef, ImageRef, Task, Toolchain
from buildit.model.sources import PatchRef, SourceRef
from buildit.model.tree import Entry
from buildit.model.words import name_of, names_archive
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch
from buildit.remote.fetch import LARGEST_DOWNLOAD, Fetch, plain_http
from buildit.store.cas import Store

_URL = re.compile(r"(?:https?|mirror)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class InputFetcher:
    """Brings what nodes need into the store."""

    store: Store
    downloads: Downloads
    jobs: int = 1

    def bring(self, nodes: tuple[Task, ...], toolchain: Toolchain) -> None:
        """Fetch all that the builds of `nodes` need and the store lacks.

        Raises:
            FetchError: something is served nowhere.
            IntegrityError: every place serves other bytes, or a signature does not hold.
        """
        tree = self.store.root / "trees" / toolchain.identity
        sound = self.store.trees.is_sound(tree)
        unpacked = {deb.digest for deb in toolchain.debs} if sound else ()
        fetches = [kind_of(task).maker().fetches(task, toolchain) for task in nodes]
        every = {deb.digest: deb for one in fetches for deb in one.debs}
        debs = [deb for digest, deb in every.items() if digest not in unpacked]
        debs += [deb for task in nodes for deb in task.inputs.debs]
        missing = self._missing([one for node in nodes for one in node.inputs.sources], debs)
        fetched = [want for want in missing if want.name.endswith(".deb")]
        if fetched:  # one line for what would be a hundred
            size = sum(want.size or 0 for want in fetched)
            text = f"Fetching {len(fetched)} Debian packages ({size / 1e6:.0f} MB)."
            self.downloads.report(Notice(text))
        self._fetch(missing, nodes)
        self._fetch_commits(one for node in nodes for one in node.inputs.sources)
        for node in nodes:
            for source in node.inputs.sources:
                self._check_signature(source, node.label)
        for node in nodes:
            for patch in node.inputs.patches:
                self._patch(patch)
        for one in fetches:
            if one.image is not None:
                self._image(one.image)

    def _image(self, image: ImageRef) -> None:
        """The manifest, config and layers of an image in a registry, by the digest that pins it.

        Raises:
            FetchError: it is not served, or --offline forbids to ask for it.
            IntegrityError: other bytes are.
        """
        from buildit.remote.registry.client import Registry
        from buildit.remote.registry.images import bring_stored, find_image, stored_image
        from buildit.remote.registry.reference import parse_reference
        from buildit.remote.web import WebTransport

        at = parse_reference(image.reference)
        found = stored_image(at, image.digest, self.store)
        if found is not None and all(self.store.has(one.digest) for one in found.blobs):
            return
        if self.downloads.offline:
            hint = "run once without --offline"
            message = f"the layers of {at} are needed, and --offline forbids to fetch them"
            raise FetchError(message, place=image.place, hint=hint)
        with closing(WebTransport()) as web:
            registry = Registry(web, at)
            pinned = {image.reference: image.digest}
            found = found or find_image(registry, image.platform, pinned)
            bring_stored(found, registry, self.store, self.downloads.report)

    def bring_again(
        self, lost: frozenset[Digest], nodes: tuple[Task, ...], debs: Iterable[DebRef]
    ) -> None:
        """Fetch those sources, .debs and patches whose blobs were lost.

        Raises:
            FetchError: something is served nowhere.
            IntegrityError: every place serves other bytes.
        """
        sources = [one for node in nodes for one in node.inputs.sources if one.digest in lost]
        self._fetch(self._missing(sources, [deb for deb in debs if deb.digest in lost]), nodes)
        self._fetch_commits(sources)
        for node in nodes:
            for patch in node.inputs.patches:
                if patch.digest in lost:
                    self._patch(patch)

    def _missing(self, sources: Iterable[SourceRef], debs: Iterable[DebRef]) -> list[Fetch]:
        """What of these the store lacks, each once, and where it is looked for."""

        def lacks(digest: Digest) -> bool:
            return bool(digest) and not self.store.has(digest)

        archives = (one for one in sources if not (one.git or one.path) and lacks(one.digest))
        wants = {one.digest: self._source(one) for one in archives}
        wants |= {deb.digest: self._deb(deb) for deb in debs if lacks(deb.digest)}
        return list(wants.values())

    def _fetch(self, missing: list[Fetch], nodes: Iterable[Task]) -> None:
        if not missing:
            return
        try:
            self.downloads.fetcher().fetch_all(missing, max(4, self.jobs))
        except (FetchError, IntegrityError) as error:
            # `v1.0.tar.gz` may be several packages' source
            sought = (n.label for n in nodes for s in n.inputs.sources if s.name == error.place)
            if labels := ", ".join(dict.fromkeys(sought)):
                error.place = f"{labels}: {error.place}"
                raise
            debs = {want.name for want in missing if want.name.endswith(".deb")}
            if isinstance(error, FetchError) and error.place in debs:
                gone = f"the locked {error.place} is gone from every mirror"
                hint = "take a newer one: `buildit lock --update toolchain`, then build again"
                place, details = error.place, error.details
                raise FetchError(gone, place=place, hint=hint, details=details) from error
            raise

    def _source(self, source: SourceRef) -> Fetch:
        urls = self.downloads.earlier((source.name, source.digest), source.digest)
        urls += () if source.git else source.urls
        return Fetch(source.name, urls, source.digest, None)

    def _deb(self, deb: DebRef) -> Fetch:
        name = deb.path.rpartition("/")[2]
        likely = tuple(f"{base}/{deb.path}" for base in self.downloads.suite_bases(deb.suite))
        urls = (
            *self.downloads.earlier((name,), deb.digest),
            *likely,
            f"mirror://debian/{deb.path}",
        )
        return Fetch(name, urls, deb.digest, deb.size)

    def _fetch_commits(self, sources: Iterable[SourceRef]) -> None:
        """The tars of git sources: from where all sources may be, else made by git."""
        for source in sources:
            if source.git is None or self.store.has(source.digest):
                continue
            if not self._found_near(source.name, self._source(source).urls, source.digest):
                bring_commit(self.downloads, source)

    def _found_near(self, name: str, places: tuple[str, ...], digest: Digest) -> bool:
        """Whether one of the first places has it: one that does not is no error."""
        with suppress(FetchError, IntegrityError):
            return bool(places and self.downloads.fetcher().fetch(Fetch(name, places, digest)))
        return False

    def _patch(self, patch: PatchRef) -> None:
        if self.store.has(patch.digest):
            return
        if self._found_near(patch.url, self.downloads.earlier((), patch.digest), patch.digest):
            return
        fetched = self.downloads.fetcher().fetch(Fetch(patch.url, (patch.url,), proves_itself=True))
        parsed = parse_patch(self.store.read(fetched), patch.url, strip=patch.strip)
        canonical = canonical_bytes(parsed)
        got = digest_bytes(canonical)
        if got != patch.digest:
            message = f"{patch.url} is not the patch that is locked"
            hint = "compare it; if it is right: `buildit lock --update`"
            details = (f"expected canonical sha256:{patch.digest}", f"got sha256:{got}")
            raise IntegrityError(message, place=patch.url, hint=hint, details=details)
        self.store.put_bytes(canonical)

    def _check_signature(self, source: SourceRef, label: str) -> None:
        """Check the upstream signature once; a good one is remembered by what it was over."""
        signature = source.signature
        if signature is None:
            return
        keys = [self.store.read(key) for key in signature.keys]
        stamp = digest_bytes("\n".join((source.digest, *signature.keys)).encode())
        good = self.store.cache("signatures") / stamp
        if good.exists():
            return
        from buildit.trust.openpgp import verify_detached

        names = dict.fromkeys(url.rpartition("/")[2] for url in signature.urls)
        urls = (*self.downloads.near(names), *signature.urls)
        want = Fetch(f"{source.name}.asc", urls, proves_itself=True)
        armored = self.store.read(self.downloads.fetcher().fetch(want))
        try:
            verify_detached(self.store.sound(source.digest), armored, keys)
        except IntegrityError as error:
            what = f"the upstream signature of {source.name} does not hold: {error.message}"
            place = f"{label}: {source.name}"
            hint = "do not build it; compare the source and the keys with upstream's"
            raise IntegrityError(what, place=place, hint=hint, details=error.details) from error
        good.touch()


def toolchain_owners(
    toolchain: Toolchain, store: Store, stop: threading.Event
) -> Mapping[str, tuple[str, Entry]]:
    """What each .deb of a toolchain has, by path; its tree is filled on first use.

    Raises:
        IntegrityError: a .deb is damaged, or two of them have the same file.
        StoreError: a .deb is missing, or the disk is full.
        Interrupted: `stop` was set.
    """
    from buildit.debian.toolchain import fill, read_owners

    def make(directory: Path) -> None:
        fill(directory, toolchain, store.sound, stop)

    return read_owners(store.named_tree(toolchain.identity, make))


# -- a new source: its digest, its size and what it holds


@dataclass(frozen=True, slots=True)
class Described:
    """A source: `url` is "" for a file of this machine, `size` in bytes; `inside` is None where it
    cannot be unpacked, and `reason` says why. `doubt` is what speaks against its bytes."""

    name: str
    url: str
    digest: Digest
    size: int
    inside: Inspected | None
    reason: str = ""
    doubt: str = ""


def describe(source: str, downloads: Downloads) -> Described:
    """Look at a URL, which is fetched into the store, or at a file of this machine.

    Raises:
        UsageError: there is no such file.
        FetchError: the URL is not served; plain http is refused, as nothing says what is right.
    """
    if not _URL.match(source):
        path = Path(source)
        if not path.is_file():
            hint = "name a file, or a URL: https://…, mirror://NAME/…"
            raise UsageError(f"no such file: {source}", hint=hint)
        return _described(path, path.name, "", digest_file(path))
    name, doubt = name_of(source), ""
    listed = source.lower().startswith("mirror:")
    want = Fetch(name or source, (source,), proves_itself=listed, largest=LARGEST_DOWNLOAD)
    try:
        digest = downloads.fetcher().fetch(want)
    except FetchError as error:
        error.hint = "download it in a way that you trust, then: buildit digest FILE"
        raise
    if listed:  # the user chose these mirrors, and machines' apt sources often are plain http
        bases = downloads.mirrors(source.partition("://")[2].partition("/")[0])
        if any(map(plain_http, bases)):
            doubt = "it may have come over plain http: compare the digest with upstream's"
    return _described(downloads.store.path(digest), name or digest[:12], source, digest, doubt)


def _described(path: Path, name: str, url: str, digest: Digest, doubt: str = "") -> Described:
    size, inside, reason = path.stat().st_size, None, ""
    single = "" if names_archive(name) else name
    try:
        inside = inspect_source(path, place=name, single=single, budget=Budget())
    except BuilditError as error:
        reason = error.message
    return Described(name, url, digest, size, inside, reason, doubt)
