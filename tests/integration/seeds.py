"""What one session fetches and unpacks once: the toolchain's .debs, its tree, a lock of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.program import STRANGER, Program, install
from tests.integration.world import Project, make_project, sources

VARIABLE = "BUILDIT_TEST_STORE"
"""A directory for the first store that is kept between sessions; without it, a temporary one."""


_OF_PACKAGES = ("package", "source", "patch", "output")
"""Records of a lock that are about packages; the rest pins Debian, and dates synced files."""


@dataclass(frozen=True, slots=True)
class Seed:
    """`program` has the first store, `project` was built in it, `out` has its images.

    `distfiles` holds all sources and .debs by file name, `lock` pins the .debs only, `dates` are
    the lines of a lock that date the files which the project syncs.
    """

    root: Path
    program: Program
    project: Project
    out: Path
    distfiles: Path
    lock: str
    dates: str
    toolchain: str

    def new_project(self, root: Path) -> Project:
        return make_project(root, self.distfiles, self.lock + self.dates)

    def locked_project(self, root: Path) -> Project:
        """The project as it was built, with its whole lock."""
        return make_project(root, self.distfiles, self.project.lock.read_text())

    def new_store(self, root: Path) -> Path:
        """A store with nothing but the toolchain's tree, whose files it shares with the first."""
        store = root / "store"
        (store / "trees").mkdir(parents=True)
        for name in (self.toolchain, f"{self.toolchain}.ok", f"{self.toolchain}.seal"):
            source = self.program.store / "trees" / name
            subprocess.run(["cp", "-al", source, store / "trees"], check=True)
        return store

    def strangers_place(self, root: Path) -> Path:
        """A directory that belongs to an ordinary user."""
        root.mkdir(parents=True, exist_ok=True)
        os.chown(root, STRANGER, STRANGER)
        return root


def plant(root: Path) -> Seed:
    """Build the tiny world in a first store, from the mirror."""
    program = install(root / "program")
    kept = os.environ.get(VARIABLE)
    program = program.with_store(Path(kept) if kept else root / "first")
    distfiles = root / "distfiles"
    distfiles.mkdir()
    for name, data in sources().items():
        (distfiles / name).write_bytes(data)
    project = make_project(root / "project", distfiles)
    out = root / "images"
    program.run(str(project.box), "--output", str(out)).good()
    pins, dates = [], []
    for line in project.lock.read_text().splitlines():
        words = line.split(" ")
        if words[0] == "deb":
            blob = program.store / "blobs/sha256" / words[8]
            shutil.copyfile(blob, distfiles / os.path.basename(words[6]).replace("%3a", ":"))
        if words[0] == "synced":
            dates.append(f"{line}\n")
        elif words[0] not in _OF_PACKAGES:
            pins.append(line)
    planned = program.run("plan", str(project.box), "--json").good().out
    toolchain = json.loads(planned)["toolchain"]["identity"]
    return Seed(
        root, program, project, out, distfiles, "\n".join(pins) + "\n", "".join(dates), toolchain
    )


@pytest.fixture(scope="session")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seed]:
    with place("seed") as root:
        yield plant(root)


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory of one test that every user may enter, unlike pytest's own."""
    with place("test") as root:
        yield root


@contextmanager
def place(word: str) -> Iterator[Path]:
    """A directory with a name of its own, which is searched for afterwards."""
    root = Path(f"/tmp/buildit-{word}-{os.getpid()}-{os.urandom(4).hex()}")
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    try:
        yield root
    finally:
        subprocess.run(["chmod", "-R", "u+rwX", root], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(root, ignore_errors=True)
