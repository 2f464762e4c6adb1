"""What one session fetches and unpacks once: the toolchain's .debs, its tree, a lock of them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.integration.program import STRANGER, Program, install
from tests.integration.world import Project, make_project, sources
from tests.workers import made_once, worker

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

    def copied(self, root: Path) -> Seed:
        """The same with a first store, sources and a home of its own; the rest is only read."""
        first, distfiles, home = root / "first", root / "distfiles", root / "home"
        first.mkdir()
        home.mkdir()
        subprocess.run(["cp", "-al", self.distfiles, distfiles], check=True)
        for part in self.program.store.iterdir():
            links = ["-l"] if part.name == "trees" else []
            subprocess.run(["cp", "-a", *links, part, first], check=True)
        program = self.program.with_store(first).with_env(HOME=str(home))
        return replace(self, root=root, program=program, distfiles=distfiles)

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
    """Where several workers run the tests, one plants it and each has a copy."""
    with place("seed") as root:
        if worker() is None:
            yield plant(root)
            return
        common = tmp_path_factory.getbasetemp().parent / "seed"
        with made_once(common, lambda: plant(_new("first")), lambda made: _gone(made.root)) as made:
            yield made.copied(root)


@pytest.fixture
def here() -> Iterator[Path]:
    """A directory of one test that every user may enter, unlike pytest's own."""
    with place("test") as root:
        yield root


@contextmanager
def place(word: str) -> Iterator[Path]:
    """A directory with a name of its own, which is searched for afterwards."""
    root = _new(word)
    try:
        yield root
    finally:
        _gone(root)


def _new(word: str) -> Path:
    root = Path(f"/tmp/buildit-{word}-{os.getpid()}-{os.urandom(4).hex()}")
    root.mkdir(mode=0o755)
    root.chmod(0o755)
    return root


def _gone(root: Path) -> None:
    subprocess.run(["chmod", "-R", "u+rwX", root], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(root, ignore_errors=True)
