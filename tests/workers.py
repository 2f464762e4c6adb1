"""Several workers of one run (pytest-xdist, `-n 2`): who runs what, in which order, sharing what.

A file's tests run in one worker, one after the other, as its fixtures expect; so do all of `e2e`,
which share two builds of the demo. Whatever is not a worker's own must stand two tests at once:
a test looks for its own processes, mounts and ports, never for all of the machine.
"""

from __future__ import annotations

import fcntl
import os
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

_T = TypeVar("_T")

ROOMS = ("e2e", "sandbox", "integration", "network", "golden", "unit")
"""Longest first, so that short files fill the end. `sandbox` needs no toolchain: one worker runs
that while another, for `e2e`, unpacks the toolchain which both use."""


_STACKS = ("tests/sandbox/test_stack_up.py", "tests/integration/test_databases.py")


def worker() -> str | None:
    """The name of this worker, `gw0`; None in a process that runs all tests by itself."""
    return os.environ.get("PYTEST_XDIST_WORKER")


def room_of(nodeid: str) -> str:
    """The directory below tests/: `e2e` of `tests/e2e/test_demo.py::test_x`."""
    parts = nodeid.partition("::")[0].split("/")
    return parts[1] if len(parts) > 2 and parts[0] == "tests" else ""


def unit_of_work(nodeid: str) -> str:
    """What one worker runs as a whole: a file, or a room whose files share what is dear. Stacks of
    podman's are in one: it has one server of names for all networks of the machine."""
    file = nodeid.partition("::")[0]
    return "tests/e2e" if room_of(nodeid) == "e2e" or file in _STACKS else file


def in_order(items: list[pytest.Item]) -> list[pytest.Item]:
    """The tests by room; within one as they were found."""
    places = {room: number for number, room in enumerate(ROOMS)}
    return sorted(items, key=lambda item: places.get(room_of(item.nodeid), -1))


def scheduler(config: pytest.Config, log: Any) -> Any:
    """pytest-xdist's own for files (`--dist loadscope`), with our units and our order."""
    from xdist.scheduler import LoadScopeScheduling

    class ByUnitOfWork(LoadScopeScheduling):  # type: ignore[misc]  # has no types
        def _split_scope(self, nodeid: str) -> str:
            return unit_of_work(nodeid)

    config.option.loadscopereorder = False
    return ByUnitOfWork(config, log)


@contextmanager
def made_once(common: Path, make: Callable[[], _T], remove: Callable[[_T], None]) -> Iterator[_T]:
    """What the first worker that needs it makes, and the last one that has it removes.

    `common` is a directory that the workers of one run name alike, and nobody else; what is made
    goes from one to the other by pickle.
    """
    common.mkdir(exist_ok=True)
    made = common / "made"
    with (common / "users").open("ab") as users, (common / "turn").open("ab") as turn:
        fcntl.flock(users, fcntl.LOCK_SH)
        with _locked(turn):
            if not made.exists():
                made.write_bytes(pickle.dumps(make()))
            thing: _T = pickle.loads(made.read_bytes())
        try:
            yield thing
        finally:
            with _locked(turn), suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                made.unlink()
                remove(thing)


@contextmanager
def _locked(file: IO[bytes]) -> Iterator[None]:
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)
