"""Two builds of containers/nginx-prod, and what tests ask of their images."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.integration.program import CHECKOUT, STRANGER, Done, Program
from tests.integration.seeds import Seed, place
from tests.integration.shuffling import shuffled

NAME = "nginx-production-1.22.1-p1-linux-amd64"
TAG = "1.22.1-p1"
VARIABLE = "BUILDIT_TEST_DEMO_STORE"
"""A directory for the first build's store that is kept between sessions (for work on the tests)."""


@dataclass(frozen=True, slots=True)
class Demo:
    """A build of the demo: its directory, the program with its store, the images, the screen."""

    box: Path
    program: Program
    out: Path
    done: Done

    @property
    def aci(self) -> Path:
        return self.out / f"{NAME}.aci"

    @property
    def oci(self) -> Path:
        return self.out / f"{NAME}.oci"

    def debs(self) -> dict[str, str]:
        """Name and SHA-256 of the .debs that the lock pins."""
        lines = (self.box / "buildit.lock").read_text().splitlines()
        found = (line.split(" ") for line in lines if line.startswith("deb "))
        return {words[2]: words[8] for words in found}


def copied(target: Path, distfiles: Path) -> Path:
    """A clone of the demo's directory, with what need not be downloaded again beside it."""
    source = CHECKOUT / "containers/nginx-prod"
    leave = shutil.ignore_patterns("out", "distfiles", "buildit.lock")
    shutil.copytree(source, target, ignore=leave)
    (target / "distfiles").symlink_to(distfiles)
    return target


@pytest.fixture(scope="session")
def demo(seed: Seed) -> Iterator[Demo]:
    """As whoever runs the tests, plain."""
    with place("demo") as root:
        kept = os.environ.get(VARIABLE)
        program = seed.program.with_store(Path(kept) if kept else root / "store")
        box = copied(root / "nginx-prod", seed.distfiles)
        done = program.run(str(box), "--output", str(root / "out"), timeout=3000).good()
        for line in (box / "buildit.lock").read_text().splitlines():
            words = line.split(" ")
            if words[0] == "source":
                blob = program.store / "blobs/sha256" / words[2]
                shutil.copyfile(blob, seed.distfiles / words[3])
        yield Demo(box, program, root / "out", done)


@pytest.fixture(scope="session")
def second(seed: Seed, demo: Demo) -> Iterator[Demo]:
    """As an ordinary user, elsewhere, with all variations at once; only downloads are shared."""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    with place("other") as root, ExitStack() as stack:
        home = root / "some where" / "home of nobody"
        clone = copied(home / "clone/nginx-prod", seed.distfiles)
        shutil.copy(demo.box / "buildit.lock", clone)
        for path in clone.rglob("*"):
            if not path.is_symlink():
                path.chmod(0o700 if path.is_dir() or path.stat().st_mode & 0o100 else 0o600)
                os.utime(path, (1, 1))
        store = home / "cache"
        # The upstream signature was checked by the first build; mirrors serve it to nobody with
        # a clock that their certificates do not cover.
        kept = demo.program.store / "cache/signatures"
        shutil.copytree(kept, store / "cache/signatures")
        own = f"{STRANGER}:{STRANGER}"
        subprocess.run(["chown", "-R", "--no-dereference", own, str(root)], check=True)
        view = stack.enter_context(shuffled(clone, root / "view", everybody=True))
        program = seed.program.with_env(
            TZ="Pacific/Chatham",
            LC_ALL="de_DE.UTF-8",
            LANGUAGE="de",
            PYTHONHASHSEED="4711",
            CFLAGS="-O0",
            MAKEFLAGS="--silent",
        )
        program = program.with_store(store).started_by("faketime", "-f", "+10y")
        program = replace(program.as_stranger(home), umask=0o077)
        out = home / "out"
        done = program.run(str(view), "--output", str(out), "--jobs", "1", timeout=3000).good()
        yield Demo(clone, program, out, done)
