"""Errors of system calls, injected into real runs (THREATS N5): `python -m bench.errnos [COUNT]`.

Each run of a small container, in a copy of a warm store, gets one error by strace(1): a build, or a
push to a directory. What must hold: an exit code of the table and never 70, no traceback, the same
images where it is 0, a store that verifies afterwards, blobs at the binhost that are what their
names say, and a next run that does all of it. `COUNT` errors are drawn from all combinations,
seeded by `SEED`; without it all are tried. Prints the figures, and each breach.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

CALLS = (
    *("openat", "write", "fsync", "fdatasync", "rename", "linkat", "mkdir", "unlink"),
    *("getdents64", "fchmod", "clone3", "newfstatat", "read", "copy_file_range", "flock", "ioctl"),
)
ERRNOS = ("EIO", "ENOSPC", "EDQUOT", "EROFS", "EINTR", "EAGAIN", "EMFILE")
NTHS = (1, 2, 3, 5, 8, 13, 21, 34)
CODES = (0, 1, 2, 3, 4, 5, 130)
RECIPE = """\
description: a
license: MIT
versions: {1.0: {}}
style: custom
steps: {install: mkdir -p $DESTDIR/usr; echo 1 > $DESTDIR/usr/x}
"""
BOX = "- vars: {author: a, name: e, version: 1}\n- package: {atom: x/e}\n- image: {type: oci}\n"


STOPPED = """\
import hashlib, os, runpy, signal  # hashlib logs what it cannot load, and goes on
os.kill(os.getpid(), signal.SIGSTOP)
runpy.run_module("buildit", run_name="__main__", alter_sys=True)
"""
"""The program as `-m buildit` runs it, after a stop in which strace attaches: the errors are for
buildit's own calls, and the interpreter has started without them."""

BUILD, PUSH = "build", "push"
BAD = ("breaches", "wrong images", "wrong blobs", "stores not whole", "not healed")


@dataclass(frozen=True, slots=True)
class World:
    """A container's directory `box`, a `warm` store that has built it, its images, and places."""

    root: Path
    box: Path
    warm: Path
    expected: dict[str, str]

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def binhost(self) -> Path:
        return self.root / "binhost"

    def run(self, *words: str, store: Path | None = None) -> tuple[int, str]:
        """buildit's exit code, and what it said."""
        argv = [sys.executable, "-m", "buildit", *words]
        env = self._environment(store or self.store)
        done = subprocess.run(
            argv, cwd=self.box, env=env, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stderr

    def run_with(self, error: Sequence[str], *words: str) -> tuple[int, str]:
        """As `run`, under strace with the arguments `error`."""
        with tempfile.TemporaryFile("w+") as said:
            run = subprocess.Popen(
                [sys.executable, "-c", STOPPED, *words],
                cwd=self.box,
                env=self._environment(self.store),
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            os.waitid(os.P_PID, run.pid, os.WSTOPPED)
            argv = ["strace", "-f", "-o", os.devnull, *error, "-p", str(run.pid)]
            tracer = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
            assert tracer.stderr is not None
            attached = tracer.stderr.readline()
            assert "attached" in attached, attached
            run.send_signal(signal.SIGCONT)
            tracer.communicate()
            code = run.wait()
            said.seek(0)
            return code, said.read()

    def _environment(self, store: Path) -> dict[str, str]:
        return {
            **os.environ,
            "BUILDIT_STORE": str(store),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        }

    def images(self) -> dict[str, str]:
        """SHA-256 of each file of the images."""
        return {
            str(path.relative_to(self.box)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((self.box / "out").rglob("*"))
            if path.is_file() and ".partial" not in str(path)
        }

    def wrong_blobs(self) -> list[Path]:
        """Blobs of the binhost that are not what their names say."""
        blobs = self.binhost.glob("blobs/sha256/*")
        return [
            path
            for path in blobs
            if len(path.name) == 64 and hashlib.sha256(path.read_bytes()).hexdigest() != path.name
        ]

    def renew(self, kind: str) -> None:
        """A store as before the run: for a build without its artifact, for a push with it."""
        for path in (self.store, self.box / "out", self.binhost):
            shutil.rmtree(path, ignore_errors=True)
        # Trees are never written in place: links do. Blobs with more than one are a fault.
        subprocess.run(["cp", "-al", self.warm, self.store], check=True)
        shutil.rmtree(self.store / "blobs")
        subprocess.run(["cp", "-a", "--reflink=auto", self.warm / "blobs", self.store], check=True)
        for part in ("k", "r", "n", "cache", "leases", "locks"):
            if kind == BUILD or part not in ("k", "r"):
                shutil.rmtree(self.store / part, ignore_errors=True)
            elif (self.store / part).is_dir():
                shutil.rmtree(self.store / part)
                subprocess.run(["cp", "-a", self.warm / part, self.store], check=True)


def main() -> int:
    """Try the errors; 1 where something did not hold."""
    combinations = list(itertools.product((BUILD, PUSH), CALLS, ERRNOS, NTHS))
    seed = os.environ.get("SEED", "0")
    random.Random(seed).shuffle(combinations)
    if sys.argv[1:]:
        combinations = combinations[: int(sys.argv[1])]
    with tempfile.TemporaryDirectory(prefix="buildit-errnos-") as name:
        world = made(Path(name), os.environ.get("BUILDIT_TEST_STORE"))
        counts: Counter[str] = Counter()
        for combination in combinations:
            for finding in tried(world, *combination):
                kind = finding.partition(": ")[0]
                counts[kind] += 1
                if kind in BAD:
                    print(*combination, finding)
        print(f"{len(combinations)} errors (seed {seed}):", dict(sorted(counts.items())))
        return int(any(counts[one] for one in BAD))


def made(root: Path, seeded: str | None) -> World:
    """The world, its container built once; `seeded` is a store with a toolchain to begin with."""
    box = root / "box"
    (box / "tree/x/e").mkdir(parents=True)
    (box / "tree/x/e/pkg.yaml").write_text(RECIPE)
    (box / "container.yaml").write_text(BOX)
    place = root / "binhost"
    (box / ".buildit-config.yaml").write_text(
        f"trees: [./tree]\nrepository:\n  name: here\n  upload-type: file\n  upload-path: {place}\n"
        f"  download-type: file\n  download-path: {place}\n  unsigned: on\n"
    )
    lock = os.environ.get("BUILDIT_TEST_LOCK")
    if lock:
        shutil.copy(lock, box / "buildit.lock")
    world = World(root, box, root / "warm", {})
    if seeded:
        subprocess.run(["cp", "-a", "--reflink=auto", seeded, world.warm], check=True)
    code, said = world.run(".", store=world.warm)
    assert code == 0, said
    return replace(world, expected=world.images())


def tried(world: World, kind: str, call: str, error: str, nth: int) -> Iterator[str]:
    """One error; each finding as `KIND: text`, the exit code among them."""
    world.renew(kind)
    words = (".", "--offline") if kind == BUILD else ("push", ".")
    inject = ("-e", f"trace={call}", "-e", f"inject={call}:error={error}:when={nth}")
    code, said = world.run_with(inject, *words)
    yield f"exit {code}"
    if "importlib" in said:
        yield "hit an import"
    elif code not in CODES or "Traceback" in said:
        yield f"breaches: exit {code}: {said[-300:]}"
    if kind == BUILD and code == 0 and world.images() != world.expected:
        yield "wrong images: other images"
    if wrong := world.wrong_blobs():
        yield f"wrong blobs: {wrong[0].name}"
    code, said = world.run("store", "verify")
    if code != 0:
        yield f"stores not whole: store verify {code}: {said[-300:]}"
    if kind == BUILD:
        shutil.rmtree(world.box / "out", ignore_errors=True)
    code, said = world.run(*words)
    healed = world.images() == world.expected if kind == BUILD else not world.wrong_blobs()
    if code != 0 or not healed:
        yield f"not healed: the next run {code}: {said[-300:]}"


if __name__ == "__main__":
    sys.exit(main())
