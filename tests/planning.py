"""A checkout in a directory, with a toolchain that needs no network, and its plan."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import Literal

from buildit.commands.planning import PlannedContainer, make_plan
from buildit.commands.run import LOCK_FILE, Options, opened_run
from buildit.digest import Digest, canonical, digest_bytes
from buildit.events import silent
from buildit.model.config import Config
from buildit.model.plan import DebRef
from buildit.model.platform import build_platform
from buildit.plan.lock import Lock, Section, format_lock
from buildit.recipe.config import Loaded
from buildit.store.cas import Store

PLATFORM = build_platform(os.uname().machine)

TOOLCHAIN = """\
style: toolchain
debian:
  suites: [bookworm]
  packages: [libc6, gcc]
  run: {libc6: [libgcc-s1]}
"""


def deb(name: str, version: str = "1.0-1", asked: str = "") -> DebRef:
    """A .deb whose digest follows from its name and version."""
    path = f"pool/main/{name[0]}/{name}/{name}_{version}_{PLATFORM.debian}.deb"
    digest = digest_bytes(f"{asked}{name}={version}".encode())
    return DebRef(name, version, PLATFORM.debian, "bookworm", path, 1000, digest)


def locked(
    how: Literal["run", "depends"] = "run",
    toolchain: tuple[DebRef, ...] = (deb("gcc"), deb("libc6"), deb("libgcc-s1")),
    **further: tuple[DebRef, ...],
) -> Section:
    """A section with a toolchain, and for each .deb that is asked for it with its Depends: by an
    image alone (`run`), or by a build."""
    known = sorted(one.name for one in toolchain)
    requests = {f"debian:{name}": _request(name, how, "", *known) for name in further}
    requests["toolchain/debian-12"] = _request("bookworm", "", "libc6", "gcc")
    debs = {f"debian:{name}": listed for name, listed in further.items()}
    debs["toolchain/debian-12"] = toolchain
    return Section(debs, requests, {"bookworm": "2026-05-16T09:30:11Z"})


def _request(*words: str) -> Digest:
    return digest_bytes(canonical(list(words)))


LOCKED = locked()


@dataclass(frozen=True, slots=True)
class Checkout:
    """`root` holds pkgs/ and container/; the store lies beside them."""

    root: Path

    @property
    def container(self) -> Path:
        return self.root / "container"

    def write(self, path: str, text: str | bytes) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else dedent(text).encode())

    def lock(self, section: Section = LOCKED) -> None:
        self.write(
            f"container/{LOCK_FILE}", format_lock(Lock().with_section(str(PLATFORM), section))
        )

    def plan(self, use: tuple[str, ...] = (), update: tuple[str, ...] = ()) -> PlannedContainer:
        """Plan the container without a network."""
        config = Config(self.root / "store", 1, (self.root / "pkgs",))
        with Store.open(config.store) as store:
            options = Options(self.container, use=use, update=update)
            with opened_run(config, store, silent, offline=True) as run:
                return make_plan(options, Loaded(config, ()), run.downloads)

    def key(self, name: str, use: tuple[str, ...] = ()) -> str:
        nodes = self.plan(use).plan.tasks
        return next(node.key for node in nodes if node.name == name)


def checkout(root: Path) -> Checkout:
    """A checkout with nothing but the locked toolchain."""
    made = Checkout(root)
    made.write("pkgs/toolchain/debian-12/pkg.yaml", TOOLCHAIN)
    made.lock()
    return made
