"""The directory of a run: one store, containers with their trees, and how buildit is called."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.graphs import config
from bench.timing import Run, Sample, process

CHECKOUT = Path(__file__).resolve().parent.parent
DEMO = CHECKOUT / "containers" / "nginx-prod"
LOCK = "buildit.lock"

SCRIPT = "import sys; from buildit.__main__ import main; sys.exit(main())"
"""What the `buildit` command that pip installs does."""


@dataclass(frozen=True, slots=True)
class Room:
    """`root` is kept between runs: its store has the toolchain and nginx's dependencies.

    `binhost` is a store or binhost to take from before anything is fetched or built; may be empty.
    `program` is the command that is measured, this checkout's `buildit` or another.
    `salt` is new for each run, and makes packages new that must not have been built before.
    """

    root: Path
    binhost: str
    salt: str
    program: tuple[str, ...] = (sys.executable, "-c", SCRIPT)

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def demo(self) -> Path:
        return self.root / "demo"

    def environment(self) -> dict[str, str]:
        plain = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONUNBUFFERED": ""}  # as an installed one runs
        return {"BUILDIT_STORE": str(self.store), "PYTHONPATH": str(CHECKOUT), **plain}

    def log(self, name: str) -> Path:
        path = self.root / "logs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def place(self, name: str, files: Mapping[str, str]) -> Path:
        """A fresh container directory with these files, the configuration and a lock that pins
        the demo's toolchain, so that all builds share one and none asks the network."""
        directory = self.root / name
        shutil.rmtree(directory, ignore_errors=True)
        lock = pinned_lock(self.demo / "container" / LOCK)
        settings = {".buildit-config.yaml": config(str(self.store), self.binhost), LOCK: lock}
        for path, text in {**settings, **files}.items():
            target = directory / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        return directory

    def buildit(self, directory: Path) -> Run:
        """Build the container of `directory` into `directory/out`, as a process of its own."""

        def run() -> Sample:
            log = self.log(f"{directory.name}.log")
            return process(self.argv(directory), cwd=self.root, log=log, env=self.environment())

        return run

    def argv(self, directory: Path) -> list[str]:
        """The command line that builds the container of `directory`."""
        return [*self.program, str(directory), "--output", str(directory / "out")]

    def prepare(self) -> None:
        """Fetch, unpack the toolchain and build the demo once; later runs find it done."""
        target = self.demo / "container"
        if not target.exists():
            self.root.mkdir(parents=True, exist_ok=True)
            shutil.copytree(DEMO, target)
            settings = config(str(self.store), self.binhost)
            (self.demo / ".buildit-config.yaml").write_text(settings)
        self.root.chmod(0o755)  # builds started by root run as another user
        self.buildit(target)()


def pinned_lock(lock: Path) -> str:
    """The lines of a lock that pin the toolchain."""
    kept = ("#", "buildit-lock ", "[", "deb ", "index ", "request ")
    return "".join(
        line for line in lock.read_text().splitlines(keepends=True) if line.startswith(kept)
    )


def clear(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
