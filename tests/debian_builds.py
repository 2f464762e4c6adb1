"""Real Debian source packages, chosen from this machine's apt sources and built in a store."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from buildit.commands.fetching import toolchain_owners
from buildit.commands.rules import RULES
from buildit.debian.apt import read_sources
from buildit.debian.archive import DebianArchive, archive_keys
from buildit.debian.fixups import toolchain_identity
from buildit.debian.relations import debian_key
from buildit.debian.select import select, select_build, select_run
from buildit.debian.sources import SourceCandidate
from buildit.digest import Digest
from buildit.events import PhaseStarted, Reporter
from buildit.make.deb import Debs
from buildit.make.makers import BuildPlace, make_task
from buildit.model.artifact import Artifact
from buildit.model.config import Limits
from buildit.model.plan import About, DebRef, Inputs, PatchAbout, SourceRef, Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.patch.form import canonical_bytes
from buildit.patch.read import parse_patch
from buildit.plan import identity
from buildit.recipe.trees import Catalog
from buildit.remote.fetch import Fetch, Fetcher
from buildit.store.cas import Store
from tests.fakes import default_transport

SUITES = ("bookworm", "bookworm-updates", "bookworm-security")
_PKGS = Path(__file__).parents[1] / "pkgs"
_AMD64 = PLATFORMS["linux/amd64"]


@dataclass(frozen=True, slots=True)
class DebianBuilds:
    """Chooses and builds sources of Debian 12 in one store."""

    store: Store
    archive: DebianArchive
    fetcher: Fetcher
    toolchain: Toolchain
    phases: list[str] = field(default_factory=list)

    def task(
        self,
        name: str,
        version: str = "",
        *,
        patches: Mapping[str, bytes] | None = None,
        suffix: str = "",
        configure: tuple[str, ...] = (),
        options: tuple[str, ...] = ("noautodbgsym", "nocheck"),
        packages: Sequence[str] = (),
        chroot: Callable[[Sequence[DebRef]], Sequence[DebRef]] = lambda debs: debs,
    ) -> tuple[Task, SourceCandidate]:
        """The task of a source, all that it needs in the store; `packages` are looked at for what
        the outputs need, all where none is named. `chroot` changes what its base is."""
        with self.archive.open_sources(SUITES) as sources:
            source = sources.choose(name, version)
        with self.archive.open_indices(SUITES, "amd64") as indices:
            base, further = select_build(source, (), (), indices)
            made = source.made("amd64", ())
            texts = [
                text
                for package in packages or made
                for one in indices.named(package)[:1]
                for text in (one.pre_depends, one.depends)
            ]
            found = select_run(name, source.version, texts, indices, made)
        base = tuple(chroot(base))
        known = {deb.name for deb in self.toolchain.debs}
        beside = tuple(deb for deb in found if deb.name not in known)
        self.bring((*base, *further, *beside, *self.toolchain.debs))
        files = [Fetch(f.name, self.urls(f.path), f.digest, f.size) for f in source.files]
        self.fetcher.fetch_all([one for one in files if not self._has(one)], 4)
        parsed = [parse_patch(text, written, strip=1) for written, text in (patches or {}).items()]
        canonical = [self.store.put_bytes(canonical_bytes(one)) for one in parsed]
        record = identity.DebianSourceInputs(
            name=name,
            version=source.version,
            suffix=suffix,
            build_platform=_AMD64,
            target_platform=_AMD64,
            files=tuple(identity.NamedDigest(one.name, one.digest) for one in source.files),
            patches=tuple(identity.PatchInput(digest, 1) for digest in canonical),
            profiles=(),
            options=options,
            configure=configure,
            debs=tuple(sorted({deb.digest for deb in (*base, *further)})),
            beside=tuple(sorted(deb.digest for deb in beside)),
            toolchain=self.toolchain.identity,
            chroot=identity.CHROOT,
            rules=RULES,
        )
        text = identity.record_text(record.record())
        task = Task(
            key=identity.build_key(text),
            kind=identity.DEBIAN_SOURCE,
            name=f"debian-source:{name}",
            version=f"{source.version}{suffix}",
            record=text,
            platform=str(_AMD64),
            inputs=Inputs(
                sources=tuple(SourceRef(f.name, f.digest, self.urls(f.path)) for f in source.files),
                blobs=tuple(canonical),
                chroot=(base, further),
                beside=beside,
            ),
            about=About(patches=tuple(map(PatchAbout, patches or {}))),
        )
        return task, source

    def make(self, task: Task) -> Artifact:
        place = BuildPlace(
            self.store,
            self.toolchain,
            self._debs,
            Limits(),
            self._report,
            threading.Event(),
            Path(),
        )
        return make_task(task, {}, place)

    @property
    def _report(self) -> Reporter:
        def report(event: object) -> None:
            if isinstance(event, PhaseStarted):
                self.phases.append(event.phase)

        return report

    def _debs(self) -> Debs:
        owners = toolchain_owners(self.toolchain, self.store, threading.Event())
        return Debs(self.store, self.toolchain, owners, RULES)

    def theirs(self, name: str, version: str) -> Path:
        """The archive's own .deb of a package, or of the last rebuild of it."""
        with self.archive.open_indices(SUITES, "amd64") as indices:
            built = re.compile(re.escape(version) + r"(?:\+b\d+)?")
            found = [one for one in indices.named(name) if built.fullmatch(one.version)]
        last = max(found, key=lambda one: debian_key(one.version))
        path, size, digest = last.path, last.size, last.digest
        deb = DebRef(name, last.version, last.arch, last.suite, path, size, digest)
        self.bring([deb])
        return self.store.path(deb.digest)

    def bring(self, debs: Sequence[DebRef]) -> None:
        fetches = [
            Fetch(deb.path.rpartition("/")[2], self.urls(deb.path), deb.digest, deb.size)
            for deb in debs
        ]
        self.fetcher.fetch_all([one for one in fetches if not self._has(one)], 8)

    def urls(self, path: str) -> tuple[str, ...]:
        return tuple(f"{base}/{path}" for base in self.archive.bases())

    def _has(self, want: Fetch) -> bool:
        return want.digest is not None and self.store.has(Digest(want.digest))


@contextmanager
def debian_builds(store: Store, cache: Path) -> Iterator[DebianBuilds]:
    """What builds in a store; `cache` keeps indices."""
    with closing(default_transport()) as transport:
        sources = read_sources().usable
        archive = DebianArchive(sources, transport, cache, archive_keys(), int(time.time()))
        package = Catalog((_PKGS,)).toolchain("toolchain/debian-12", "test")
        with archive.open_indices(SUITES, "amd64") as indices:
            debs = select(package.debian.packages, indices)
        toolchain = Toolchain("toolchain/debian-12", str(_AMD64), toolchain_identity(debs), debs)
        yield DebianBuilds(store, archive, Fetcher(store, transport, cache / "partial"), toolchain)
