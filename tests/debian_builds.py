"""Real Debian source packages, chosen from this machine's apt sources and built in a store.

`python -m tests.debian_builds` has `buildit check` build those of `debian_builds.yaml`, in that
order, and compare them with Debian's own .debs; docs/debian-sources.md has what came of it. Names
choose some, `--minutes` says how long another is begun.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import yaml

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
from buildit.model.plan import About, DebRef, Inputs, PatchAbout, Task, Toolchain
from buildit.model.platform import PLATFORMS
from buildit.model.sources import SourceRef
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
_Debs = tuple[DebRef, ...]
_Choice = tuple[SourceCandidate, _Debs, _Debs, _Debs]
"""A source, the base and the rest of its chroot, and what its packages need."""


@dataclass(frozen=True, slots=True)
class DebianBuilds:
    """Chooses and builds sources of Debian 12 in one store."""

    store: Store
    archive: DebianArchive
    fetcher: Fetcher
    toolchain: Toolchain
    bases: tuple[str, ...]
    phases: list[str] = field(default_factory=list)
    _chosen: dict[tuple[str, str, tuple[str, ...]], _Choice] = field(default_factory=dict)

    def _choose(self, name: str, version: str, packages: Sequence[str]) -> _Choice:
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
        return source, tuple(base), tuple(further), tuple(found)

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
        asked = name, version, tuple(packages)
        if asked not in self._chosen:
            self._chosen[asked] = self._choose(*asked)
        source, base, further, found = self._chosen[asked]
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
            chroot=f"{identity.CHROOT}.{identity.MAINTAINER_RULES}",
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
        return tuple(f"{base}/{path}" for base in self.bases)

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
        fetcher = Fetcher(store, transport, cache / "partial")
        yield DebianBuilds(store, archive, fetcher, toolchain, archive.bases())


# -- the table


PAGE = Path(__file__).parents[1] / "docs" / "debian-sources.md"
_HOLE = "no place has"
_HEAD = """\
# Debian sources

Written by `python -m tests.debian_builds`: each source of `tests/debian_builds.yaml`, in the
version that is locked there, built by `buildit check debian:NAME=VERSION` as it is, without its
tests, and compared with Debian's own .debs bit for bit. The seconds are those of fetching, of
laying out the chroot and of the build; .debs and MB what was built.
"""


@dataclass(frozen=True, slots=True)
class Row:
    """What came of one source: `told` is what differs, or what its error is; `seconds` is 0 where
    it was in the store already."""

    name: str
    version: str
    told: str
    seconds: float = 0.0
    debs: int = 0
    same: int = 0
    size: int = 0

    @property
    def line(self) -> str:
        if not self.debs:
            return f"| {self.name} | {self.version} | {self.told} |"
        figures = f"{self.seconds:.0f} | {self.debs} | {self.size / 1e6:.1f}"
        told = f"{self.same} of {self.debs}: {self.told}" if self.told else "identical"
        return f"| {self.name} | {self.version} | {figures} | {told} |"


def checked_row(name: str, version: str, code: int, out: str, err: str) -> Row:
    """What `buildit check --json` said of a source."""
    if code:
        last = next((line for line in reversed(err.splitlines()) if '"error"' in line), "{}")
        said = json.loads(last)
        message, details = said.get("message", ""), said.get("details", ())
        if _HOLE in message:
            message = f"{_HOLE} {', '.join(path.rpartition('/')[2] for path in details)}"
        return Row(name, version, _one_line(message) or f"exit code {code}")
    found = json.loads(out)
    reasons: dict[str, list[str]] = {}
    for deb in found["debs"]:
        reasons.setdefault(deb["reason"], []).append(deb["name"])
    same = len(reasons.pop("identical", ()))
    told = "; ".join(f"{reason} ({', '.join(names)})" for reason, names in reasons.items())
    debs = len(found["debs"])
    return Row(name, version, _one_line(told), found["seconds"], debs, same, found["size"])


def _one_line(text: str) -> str:
    return " ".join(text.replace("|", "/").split())[:300]


def page(lines: Sequence[str]) -> str:
    """The page of these rows."""
    built = [line for line in lines if line.count("|") > 5]
    holes = [line for line in lines if _HOLE in line]
    failed = [line for line in lines if line not in built and line not in holes]
    whole = sum(line.endswith("| identical |") for line in built)
    parts = [
        _HEAD,
        f"{len(built)} were built, {whole} of them with every .deb identical to Debian's.\n",
        "| source | version | seconds | .debs | MB | like Debian's |\n|---|---|---|---|---|---|",
        *built,
    ]
    for title, rows in (
        ("Not built", failed),
        ("Holes: the index lists what no mirror has", holes),
    ):
        if rows:
            parts += [f"\n## {title}\n\n| source | version | said |\n|---|---|---|", *rows]
    return "\n".join(parts) + "\n"


def locked_versions() -> dict[str, str]:
    """The sources of the table with their versions, in its order."""
    text = Path(__file__).with_suffix(".yaml").read_text("utf-8")
    table: dict[str, str] = yaml.load(text, yaml.BaseLoader)  # 1.22 is no number
    return table


def main(argv: Sequence[str]) -> int:
    """Build the table, or some of it; 1 where a source that is there cannot be built."""
    parser = argparse.ArgumentParser(prog="python -m tests.debian_builds", description=__doc__)
    parser.add_argument("names", nargs="*", help="sources of the table; all without any")
    parser.add_argument("--buildit", default=f"{sys.executable} -m buildit")
    parser.add_argument("--minutes", type=float, default=float("inf"))
    asked = parser.parse_args(argv)
    table = locked_versions()
    end = time.monotonic() + asked.minutes * 60
    bad = False
    for name, version in table.items():
        if (asked.names and name not in asked.names) or time.monotonic() > end:
            continue
        words = [*asked.buildit.split(), "check", f"debian:{name}={version}", "--json"]
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        row = checked_row(name, version, done.returncode, done.stdout, done.stderr)
        sys.stdout.write(f"{row.line}\n")
        sys.stdout.flush()
        bad |= not row.debs and _HOLE not in row.told
        known = PAGE.read_text("utf-8").splitlines() if PAGE.exists() else []
        lines = {line.split(" | ")[0].removeprefix("| "): line for line in known if "| " in line}
        if row.debs and row.seconds < 1 and lines.get(name, "").count("|") > 5:
            row = replace(row, seconds=float(lines[name].split("|")[3]))  # when it was built
        lines[name] = row.line
        PAGE.write_text(page([lines[one] for one in table if one in lines]), "utf-8")
    return int(bad)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
