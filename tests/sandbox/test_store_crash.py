"""The store killed at each durability point and system call, on a full and on a failing disk."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from buildit.errors import StoreError
from buildit.store.cas import Store
from buildit.store.disk import POINTS, VARIABLE, remove_tree
from buildit.store.upkeep import check_store
from tests.sandbox import store_workload

pytestmark = pytest.mark.sandbox

WORKLOAD = Path(store_workload.__file__)
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": str(store_workload.REPOSITORY),
    "PYTHONDONTWRITEBYTECODE": "1",  # its files would be system calls of the first run only
}
SYSCALLS = (
    *("write", "pwrite64", "fsync", "fdatasync", "syncfs", "ftruncate", "utimensat", "flock"),
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "chmod", "fchmod", "fchmodat"),
)


@pytest.fixture
def place() -> Iterator[Path]:
    """In memory: a kill loses nothing that was written, so a disk would only be slower."""
    path = Path(tempfile.mkdtemp(prefix="buildit-test-", dir="/dev/shm"))
    yield path / "place"
    remove_tree(path)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    place = tmp_path_factory.mktemp("reference")
    store_workload.run(place / "store", place / "binhost")
    return state(place)


def state(place: Path) -> tuple[str, ...]:
    """All that lasts in store and binhost: names, and what statements and blobs say."""
    found = []
    for path in sorted(place.rglob("*")):
        name = str(path.relative_to(place))
        if path.is_file() and not path.is_symlink():
            # A mark names the boot, a seal the times of one unpacking, a root the place; a corrupt
            # object has a random name.
            own = re.search(r"trees/.*(ok|seal)$|/roots/", name)
            part = "" if own else path.read_bytes().hex()
            found.append(re.sub(r"roots/.*|(corrupt/.{64}).*", r"\1", name) + " " + part)
        elif path.is_symlink():
            found.append(name)
    return tuple(sorted(found))


def check_whole(place: Path, wanted: tuple[str, ...]) -> None:
    for name in ("store", "binhost"):
        with Store.open(place / name) as store:
            assert check_store(store).faults == ()
        assert os.listdir(place / name / "tmp") == []
        assert os.listdir(place / name / "leases") == []
        assert [lock for lock in os.listdir(place / name / "locks") if "-" in lock] == []
    assert state(place) == wanted


def run_with_fault(place: Path, fault: str) -> int:
    """The workload in a child with a fault: 0 if it ended, 1 if by a StoreError, -9 if killed."""
    child = os.fork()
    if child == 0:
        os.environ[VARIABLE] = fault
        try:
            store_workload.run(place / "store", place / "binhost")
        except StoreError as error:
            os._exit(1 if error.place and error.hint else 2)
        except BaseException:  # noqa: BLE001 the parent fails on this code
            os._exit(3)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def rounds(place: Path, point: str, effect: str) -> Iterator[int]:
    """Fault after fault, at the first, second, … time that the point is reached, until none is."""
    for nth in range(1, 10_000):
        remove_tree(place)
        place.mkdir()
        code = run_with_fault(place, f"{point}:{nth}:{effect}")
        if code == 0:
            return
        yield code


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point_it_ends_the_same(
    place: Path, point: str, wanted: tuple[str, ...]
) -> None:
    codes = []
    for code in rounds(place, point, "kill"):
        codes.append(code)
        store_workload.run(place / "store", place / "binhost")
        check_whole(place, wanted)
    assert set(codes) <= {-signal.SIGKILL}
    assert codes, f"{point} is never reached"


@pytest.mark.parametrize("effect", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("point", POINTS)
def test_a_failing_disk_is_one_clear_error(
    place: Path, point: str, effect: str, wanted: tuple[str, ...]
) -> None:
    for code in rounds(place, point, effect):
        assert code == 1
        store_workload.run(place / "store", place / "binhost")
        check_whole(place, wanted)


def strace(place: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["strace", "-f", "-qq", "-o", str(place / "trace"), *options]
    command += [sys.executable, str(WORKLOAD), str(place / "store"), "-", "small"]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def injected(place: Path, what: str) -> Iterator[subprocess.CompletedProcess[str]]:
    """The small workload once for each system call that changes something, with `what` there.

    The store is at `place/store` and must be as after an undisturbed run when the next is asked.
    """
    place.mkdir()
    done = strace(place, "-e", f"trace={','.join(SYSCALLS)}")
    if done.returncode != 0 and "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr}")
    assert done.returncode == 0, done.stderr
    reference = state(place / "store")
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", (place / "trace").read_text(), re.M))
    assert calls["fsync"] >= 5
    assert calls["rename"] >= 5
    for syscall, count in sorted(calls.items()):
        for nth in range(1, count + 1):
            remove_tree(place / "store")
            yield strace(place, "-e", f"inject={syscall}:{what}:when={nth}")
            with Store.open(place / "store") as store:
                store_workload.small(store)
                assert check_store(store).faults == ()
            assert state(place / "store") == reference, f"{what} at {syscall} {nth}"
            assert os.listdir(place / "store" / "tmp") == []
            assert os.listdir(place / "store" / "leases") == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_killed_at_every_system_call_that_changes_something(place: Path) -> None:
    for done in injected(place, "signal=KILL"):
        assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_every_system_call_that_changes_something_fails(place: Path) -> None:
    for done in injected(place, "error=EIO"):
        # 0: what failed was only cleaning up, and the next start does it.
        assert done.returncode in (0, store_workload.CLEAR_ERROR), done
        assert done.stderr == ""


FULL = """
import os, subprocess, sys
from pathlib import Path
from buildit.errors import StoreError
from buildit.store.cas import Store
from buildit.store.upkeep import check_store as verify
from buildit.store.upkeep import collect

root = Path(sys.argv[1])
store = Store.open(root)
kept = store.put_bytes(b"kept")
def fill():
    for number in range(100):
        with store.batch() as batch:
            for part in range(3):
                batch.put_bytes(os.urandom(300_000))
try:
    fill()
except StoreError as error:
    assert "No space left" in error.message, error
    assert "store gc" in error.hint, error.hint
else:
    raise SystemExit("it was never full")
assert os.listdir(root / "tmp") == [], "temporary files were left"
assert verify(store).faults == ()
store.close()
store = Store.open(root)
freed = collect(store, [kept])
assert len(freed.blobs) >= 20 and len(freed.blobs) % 3 == 0, "a batch is whole or absent"
store.put_bytes(b"room again")
store.close()
subprocess.run(["mount", "-o", "remount,ro", str(root.parent)], check=True)
store = Store.open(root)
assert store.read(kept) == b"kept"
try:
    store.put_bytes(b"more")
except StoreError as error:
    assert "Read-only" in error.message, error
else:
    raise SystemExit("it was writable")
print("all well")
"""


def test_a_full_and_a_read_only_disk(tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=8m,nr_inodes=400 tmpfs "$1" && exec "$2" -c "$3" "$1/store"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    probe = subprocess.run([*command[:4], "true"], check=False, capture_output=True, text=True)
    if probe.returncode != 0:
        pytest.skip(f"no user namespaces here: {probe.stderr}")
    command += [str(tmp_path), sys.executable, FULL]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "all well\n"), done.stderr
