"""Power losses on an ext4 of our own, in a mount namespace of our own (run by `unshare --mount`).

`python store_power_loss.py DIRECTORY LOSSES`. In the machine's namespace, whoever unshares it
meanwhile would hold the mount, and it would never really go away.
"""

from __future__ import annotations

import fcntl
import os
import random
import struct
import subprocess
import sys
import time
from pathlib import Path

from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.upkeep import check_store
from tests.sandbox import store_workload

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


def mount(image: Path, place: Path) -> None:
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)


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
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        if child.stdout is None or not (first := child.stdout.readline()):
            sys.exit("nothing was ever committed")
        time.sleep(seconds)
        lose_power(place)
        child.kill()
        rest = child.stdout.read()
    return (first + rest).split()


def lose_nothing(directory: Path, losses: int) -> None:
    """Lose power again and again; all that was ever reported must be there each time."""
    image, disk = directory / "image", directory / "disk"
    with image.open("wb") as stream:
        stream.truncate(256 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    disk.mkdir()
    mount(image, disk)
    disk.chmod(0o755)
    chance = random.Random(11)
    reported: list[str] = []
    for turn in range(losses):
        reported += committed_until_the_loss(disk, turn, chance.uniform(0, 0.5))
        subprocess.run(["umount", str(disk)], check=True)
        mount(image, disk)
        with Store.open(disk / "store") as store:
            store.lease()
            faults = check_store(store).faults
            lost = [name for name in reported if lookup(store, store_workload.key(name)) is None]
            if faults or lost:
                sys.exit(f"turn {turn}: lost {lost}, faults {faults}")
    sys.stdout.write(f"{len(reported)} kept\n")


if __name__ == "__main__":
    lose_nothing(Path(sys.argv[1]), int(sys.argv[2]))
