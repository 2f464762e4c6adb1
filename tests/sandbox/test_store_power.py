"""Power loss: what was reported as committed is there when the disk comes back (THREATS H2)."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.check import verify
from tests.sandbox import store_workload
from tests.sandbox.test_store_crash import ENVIRONMENT

pytestmark = [
    pytest.mark.sandbox,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a loop device"),
    pytest.mark.skipif(shutil.which("mkfs.ext4") is None, reason="mkfs.ext4 is not installed"),
]

LOSSES = 15
SHUTDOWN = 0x8004587D
"""EXT4_IOC_SHUTDOWN; with flag 2 the journal is not flushed: unsynced writes are lost."""

COMMITTER = """
import sys
from pathlib import Path
from buildit.store.artifacts import commit
from buildit.store.cas import Store
from tests.sandbox.store_workload import build
with Store.open(Path(sys.argv[1])) as store:
    for number in range(10_000):
        name = f"package{sys.argv[2]}-{number}"
        with store.batch() as batch:  # now and then more than are synced one by one
            for part in range(number % 30):
                batch.put_bytes(f"{name} {part}".encode() * 500)
        commit(store, build(store, name, name))
        print(name, flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """An ext4 of its own at `tmp_path/disk`, from the image `tmp_path/image`."""
    image = tmp_path / "image"
    with image.open("wb") as stream:
        stream.truncate(96 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    place = tmp_path / "disk"
    place.mkdir()
    if not mounted(image, place):
        pytest.skip("no loop device here")
    place.chmod(0o755)
    yield place
    subprocess.run(["umount", str(place)], check=False)


def mounted(image: Path, place: Path) -> bool:
    command = ["mount", "-o", "loop", str(image), str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def lose_power(place: Path) -> None:
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", 2))
    finally:
        os.close(fd)


def committed_until_the_loss(place: Path, turn: int, seconds: float) -> list[str]:
    """Names that a committer reported before the power went."""
    command = [sys.executable, "-c", COMMITTER, str(place / "store"), str(turn)]
    with subprocess.Popen(
        command,
        env=ENVIRONMENT,
        cwd=store_workload.REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        assert child.stdout is not None
        first = child.stdout.readline()
        time.sleep(seconds)
        lose_power(place)
        child.kill()
        rest = child.stdout.read()
    return (first + rest).split()


def test_nothing_reported_is_lost(disk: Path) -> None:
    chance = random.Random(11)
    reported: list[str] = []
    for turn in range(LOSSES):
        reported += committed_until_the_loss(disk, turn, chance.uniform(0, 0.5))
        subprocess.run(["umount", str(disk)], check=True)
        assert mounted(disk.with_name("image"), disk)
        with Store.open(disk / "store") as store:
            store.lease()
            assert verify(store).faults == ()
            lost = [name for name in reported if lookup(store, store_workload.key(name)) is None]
            assert lost == [], f"lost in turn {turn}"
    assert len(reported) > LOSSES
