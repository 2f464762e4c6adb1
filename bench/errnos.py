"""Errors of system calls, injected into real runs (THREATS N5): `python -m bench.errnos [COUNT]`.

Each run of a small container in a copy of a warm store gets one error, by strace(1). What must
hold: an exit code of the table and never 70, no traceback, the same images where it is 0, a store
that verifies afterwards, and a next run that makes the same images. `COUNT` errors are drawn from
all combinations, seeded by `SEED`; without it all are tried. Prints the figures, and each breach.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
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


def buildit(store: Path, box: Path, *words: str, before: tuple[str, ...] = ()) -> tuple[int, str]:
    env = {**os.environ, "BUILDIT_STORE": str(store), "PYTHONDONTWRITEBYTECODE": "1"}
    argv = [*before, sys.executable, "-m", "buildit", *words]
    done = subprocess.run(argv, cwd=box, env=env, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def images(box: Path) -> dict[str, str]:
    return {
        str(path.relative_to(box)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted((box / "out").rglob("*"))
        if path.is_file() and ".partial" not in str(path)
    }


def main() -> int:
    """Try the errors; 1 where something did not hold."""
    combinations = list(itertools.product(CALLS, ERRNOS, NTHS))
    seed = os.environ.get("SEED", "0")
    random.Random(seed).shuffle(combinations)
    if sys.argv[1:]:
        combinations = combinations[: int(sys.argv[1])]
    with tempfile.TemporaryDirectory(prefix="buildit-errnos-") as name:
        root = Path(name)
        box = root / "box"
        (box / "tree/x/e").mkdir(parents=True)
        (box / "tree/x/e/pkg.yaml").write_text(RECIPE)
        (box / "container.yaml").write_text(BOX)
        (box / ".buildit-config.yaml").write_text("trees: [./tree]\nrepositories: []\n")
        warm = root / "warm"
        seeded = os.environ.get("BUILDIT_TEST_STORE")
        if seeded:
            subprocess.run(["cp", "-a", "--reflink=auto", seeded, warm], check=True)
        code, said = buildit(warm, box, ".")
        assert code == 0, said
        expected = images(box)
        return tried(root, box, warm, expected, combinations, seed)


def tried(
    root: Path,
    box: Path,
    warm: Path,
    expected: dict[str, str],
    combinations: list[tuple[str, str, int]],
    seed: str,
) -> int:
    counts: Counter[str] = Counter()
    store = root / "store"
    for call, error, nth in combinations:
        shutil.rmtree(store, ignore_errors=True)
        shutil.rmtree(box / "out", ignore_errors=True)
        # Trees are never written in place: links do. Blobs with more than one are a fault.
        subprocess.run(["cp", "-al", warm, store], check=True)
        shutil.rmtree(store / "blobs")
        subprocess.run(["cp", "-a", "--reflink=auto", warm / "blobs", store], check=True)
        for part in ("k", "r", "n", "cache", "leases", "locks"):
            shutil.rmtree(store / part, ignore_errors=True)
        inject: tuple[str, ...] = (
            "strace",
            "-f",
            "-qq",
            "-o",
            os.devnull,
            "-e",
            f"trace={call}",
            "-e",
        )
        inject = (*inject, f"inject={call}:error={error}:when={nth}")
        code, said = buildit(store, box, ".", "--offline", before=inject)
        what = f"{call} {error} {nth}"
        counts[f"exit {code}"] += 1
        if "importlib" in said:
            counts["hit the interpreter"] += 1
        elif code not in CODES or "Traceback" in said:
            counts["breaches"] += 1
            print(f"{what}: exit {code}: {said[-300:]}")
        if code == 0 and images(box) != expected:
            counts["wrong images"] += 1
            print(f"{what}: other images")
        code, said = buildit(store, box, "store", "verify")
        if code != 0:
            counts["stores not whole"] += 1
            print(f"{what}: store verify {code}: {said[-300:]}")
        shutil.rmtree(box / "out", ignore_errors=True)
        code, said = buildit(store, box, ".", "--offline")
        if code != 0 or images(box) != expected:
            counts["not healed"] += 1
            print(f"{what}: the next run {code}: {said[-300:]}")
    print(f"{len(combinations)} errors (seed {seed}):", dict(sorted(counts.items())))
    bad = ("breaches", "wrong images", "stores not whole", "not healed")
    return int(any(counts[one] for one in bad))


if __name__ == "__main__":
    sys.exit(main())
