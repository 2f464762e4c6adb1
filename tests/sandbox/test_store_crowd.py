"""Many processes on one store: builders, readers and a collector, killed at random (THREATS H5)."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.model.artifact import RUNTIME
from buildit.store.artifacts import commit, lookup
from buildit.store.cas import Store
from buildit.store.disk import remove_tree
from buildit.store.upkeep import check_store, collect
from tests.sandbox.store_workload import build, key

pytestmark = pytest.mark.sandbox

CROWD = 6
SECONDS = 6.0
PACKAGES = tuple(f"package{number}" for number in range(8))


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="buildit-test-", dir="/dev/shm"))
    yield path / "store"
    remove_tree(path)


def use(store: Store, chance: random.Random) -> None:
    """Build or take a package; what was pinned and taken must stay whole while it is used."""
    name = chance.choice(PACKAGES)
    store.pin((key(name),))
    with store.key_lock(key(name)):
        artifact = lookup(store, key(name))
        if artifact is None:
            artifact = build(store, name, name)
            placed = commit(store, artifact)
            assert placed.differs_from is None
    for _ in range(5):
        assert lookup(store, key(name)) == artifact, f"{name} was taken away"
        store.read(artifact.outputs[RUNTIME].diff_id)
        tree = store.tree(artifact.outputs[RUNTIME].diff_id)
        assert (tree / "usr" / name).is_symlink(), f"half a tree of {name}"


def live(root: Path, seed: int) -> None:
    """One process's life: open, work, close, again and again, until it is killed."""
    chance = random.Random(seed)
    while True:
        with Store.open(root) as store:
            for _ in range(chance.randrange(1, 6)):
                if chance.random() < 0.15:
                    collect(store)
                else:
                    use(store, chance)


def born(root: Path, seed: int, log: Path) -> int:
    child = os.fork()
    if child == 0:
        try:
            live(root, seed)
        except BaseException:  # noqa: BLE001 the parent reads it
            log.write_text(traceback.format_exc())
        os._exit(1)
    return child


def test_a_crowd_with_random_deaths(root: Path) -> None:
    Store.open(root)
    chance = random.Random(42)
    logs = root.parent
    children = {born(root, seed, logs / f"log{seed}") for seed in range(CROWD)}
    end = time.monotonic() + SECONDS
    seed = CROWD
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.01, 0.1))
        child = chance.choice(sorted(children))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        children.remove(child)
        children.add(born(root, seed, logs / f"log{seed}"))
        seed += 1
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert [log.read_text() for log in sorted(logs.glob("log*"))] == []
    with Store.open(root) as store:
        store.lease()
        assert check_store(store).faults == ()
        for _ in PACKAGES:
            use(store, chance)
    assert os.listdir(root / "tmp") == os.listdir(root / "leases") == []
