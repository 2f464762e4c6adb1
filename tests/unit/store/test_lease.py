from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from buildit.errors import Interrupted
from buildit.store.cas import Store
from buildit.store.disk import remove_tree
from buildit.store.locks import reclaim, running, start_time
from tests.unit.store.build import key, leftovers

pytestmark = pytest.mark.unit

HOLD = """
import sys, pathlib
from buildit.store.cas import Store
from buildit.digest import BuildKey
store = Store.open(pathlib.Path(sys.argv[1]))
work = store.scratch("build of it")
(work / "closed").mkdir(mode=0)
(work / "file").write_text("x")
(work / "file").chmod(0)
store.pin(["pinned"])
with store.key_lock(BuildKey(sys.argv[2])):
    print("ready", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store")


def holder(store: Store) -> subprocess.Popen[str]:
    """Another process with scratch space, a pin and a key's lock; it ends with its stdin."""
    command = [sys.executable, "-c", HOLD, str(store.root), key("nginx")]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_the_living_keep_and_the_dead_are_reclaimed(store: Store) -> None:
    child = holder(store)
    try:
        assert reclaim(store.root) == 0
        (lease,) = running(store.root)
        assert lease.pins == {"pinned"}
        assert abs(lease.since - time.time_ns()) < 60e9
        text = (store.root / "leases" / lease.name).read_text()
        assert f"pid {child.pid} start {start_time(child.pid)} " in text
        child.send_signal(signal.SIGSTOP)
        assert reclaim(store.root) == 0, "a stopped process is not a dead one"
    finally:
        end(child)
    assert running(store.root) == ()
    assert leftovers(store.root) != []
    assert reclaim(store.root) == 1
    assert leftovers(store.root) == []


def test_the_next_start_reclaims_by_itself(store: Store) -> None:
    end(holder(store))
    (store.root / "tmp" / "no-lease.x").touch()
    store.put_bytes(b"x")
    store.close()
    assert leftovers(store.root) == []


def test_a_key_is_built_by_one_at_a_time(store: Store) -> None:
    child = holder(store)
    told: list[str] = []
    entered = threading.Event()

    def wait() -> None:
        with store.key_lock(key("nginx"), told.append):
            entered.set()

    waiter = threading.Thread(target=wait)
    waiter.start()
    with store.key_lock(key("zlib"), told.append):  # another key does not wait
        assert not entered.wait(0.1)
    end(child)
    waiter.join(10)
    assert entered.is_set()
    assert len(told) == 1
    assert f"pid {child.pid} " in told[0]


def test_a_wait_for_a_key_can_be_ended(store: Store) -> None:
    child = holder(store)
    stop = threading.Event()
    # Set once the wait has begun.
    wait = store.key_lock(key("nginx"), lambda _: stop.set(), stop)
    with pytest.raises(Interrupted), wait:
        pytest.fail("the lock is held by another")
    end(child)
    with store.key_lock(key("nginx"), stop=threading.Event()):
        pass
    assert not (store.root / "locks" / f"key-{key('nginx')}").exists()


def test_a_key_lock_holds_between_threads_and_leaves_no_file(store: Store) -> None:
    inside = 0
    most = 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(20):
            with store.key_lock(key("nginx")):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert leftovers(store.root) == []


def test_an_error_inside_a_key_lock_releases_it(store: Store) -> None:
    with pytest.raises(OSError, match="mine"), store.key_lock(key("nginx")):
        raise OSError("mine")
    with store.key_lock(key("nginx")):
        pass


def test_a_forked_child_does_not_end_its_parents_lease(store: Store) -> None:
    work = store.scratch("build")
    child = os.fork()
    if child == 0:
        store.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert reclaim(store.root) == 0
    assert work.is_dir()


@pytest.mark.parametrize("name", ["../up", "a/b", "", "-x", "n\0l", "x" * 500, "é\udcff"])
def test_scratch_names_cannot_lead_elsewhere(store: Store, name: str) -> None:
    work = store.scratch(name)
    assert work.parent == store.root / "tmp"
    assert stat.S_IMODE(work.stat().st_mode) == 0o700
    assert store.scratch(name) != work


def test_remove_tree_takes_any_modes_and_depth(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    top = tmp_path / "top"
    deep = top
    deep.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(700):
        os.mkdir("d" * 20, dir_fd=fd)
        inner = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    (top / "link").symlink_to(outside)
    (top / "closed").mkdir()
    (top / "closed" / "in").touch()
    (top / "closed").chmod(0)
    (top / "read-only").mkdir()
    (top / "read-only" / "in").mkdir()
    (top / "read-only").chmod(0o555)
    os.mkfifo(top / "fifo")
    (top / os.fsdecode(b"\xff\n")).touch()
    top.chmod(0)
    remove_tree(top)
    assert not top.exists()
    assert (outside / "kept").exists()
    remove_tree(top)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away, or drop to a user")
def test_remove_tree_as_a_user_and_of_a_user(tmp_path: Path) -> None:
    for owner in (0, 65534):
        top = tmp_path / "place" / f"top{owner}"
        (top / "closed" / "inner").mkdir(parents=True)
        (top / "closed" / "inner" / "file").touch()
        for path in (tmp_path / "place", *(tmp_path / "place").rglob("*")):
            os.chown(path, 65534, 65534)
        (top / "closed" / "inner").chmod(0)
        (top / "closed").chmod(0)
        child = os.fork()
        if child == 0:
            if owner:
                os.chdir(tmp_path / "place")
                os.setgid(owner)
                os.setuid(owner)
            try:
                remove_tree(Path(top.name) if owner else top)
            except OSError:
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert not top.exists()
