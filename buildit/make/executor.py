"""Where tasks are made: threads of this machine today, and whatever else can give futures."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from buildit.archive.streams import submit
from buildit.make.makers import AtHand
from buildit.model.artifact import Artifact
from buildit.model.plan import Task


class Executor(Protocol):
    """Makes tasks whose dependencies are at hand."""

    def submit(self, task: Task, at_hand: AtHand) -> Future[Artifact]:
        """The artifact of a task, committed where it can be found; the future has what failed."""


@dataclass(slots=True)
class Threads:
    """At most `jobs` tasks at once, each in a thread; where the machine refuses one, the caller
    makes the task itself. Leaving it waits for those under way."""

    make: Callable[[Task, AtHand], Artifact]
    jobs: int
    _pool: ThreadPoolExecutor | None = None

    def submit(self, task: Task, at_hand: AtHand) -> Future[Artifact]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(1, self.jobs), thread_name_prefix="build")
        return submit(self._pool, partial(self.make, task, at_hand))

    def __enter__(self) -> Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()
