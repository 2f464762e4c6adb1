"""What a container begins with or takes files of, and which is to be built first: other containers,
and stages of its own recipe. Each is made once; those that do not need each other at the same time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from buildit.archive.streams import submit
from buildit.commands.run import Options, Prepared, Unbuilt, of_stage, prepare
from buildit.events import Notice, Reporter
from buildit.model.plan import RunStep
from buildit.model.words import counted, some
from buildit.sandbox.spaces import own_children

_Asked = tuple[Path, str, str]


def network_remark(steps: Iterable[RunStep]) -> Iterator[str]:
    """One line about all commands of a container that have a network."""
    places = [step.place for step in steps if step.network]
    if places:
        what = f"{counted(len(places), 'command')} with a network: nothing pins what is fetched, "
        yield f"{what}and the layers are tasks of this store alone ({some(places, 3)})"


class FirstBuilds:
    """What one build makes before the container that it is asked for. `make` builds one container
    or stage; `jobs` is how many at once, as many as the machine has processors where it is 0."""

    def __init__(self, make: Callable[[Options], None], jobs: int, report: Reporter) -> None:
        self._make, self._report = make, report
        self._jobs = jobs or os.cpu_count() or 1
        self._making: dict[_Asked, Future[None]] = {}
        self._lock = threading.Lock()

    def planned(self, options: Options) -> Prepared:
        """The plan of a container, once all that lies below it is built.

        Raises:
            BuilditError: as `prepare`, or as a build of one below.
        """
        made: set[_Asked] = set()
        while True:
            try:
                return prepare(options, self._report)
            except Unbuilt as error:
                lacking = {_name(one.asked): one for one in error.every()}
                if not made.isdisjoint(lacking):
                    raise
                made |= lacking.keys()
                self.build(lacking.values())

    def build(self, lacking: Iterable[Unbuilt]) -> None:
        """Build all of them, each once.

        Raises:
            BuilditError: of the first that fails, once the others have ended.
        """
        work = [partial(self._once, one) for one in lacking]
        if len(work) == 1:
            work[0]()
            return
        with own_children(), ThreadPoolExecutor(min(self._jobs, len(work)), "below") as threads:
            running = [submit(threads, one) for one in work]
        for one in running:
            one.result()

    def _once(self, one: Unbuilt) -> None:
        """Build it, or wait for who builds it: several may lack the same one."""
        mine: Future[None] = Future()
        with self._lock:
            other = self._making.setdefault(_name(one.asked), mine)
        if other is not mine:
            other.result()
            return
        stage = one.asked.recipe.stage
        what = f"the stage {stage}" if stage else str(one.asked.directory)
        self._report(Notice(f"{what} is built first: {one.reason}"))
        try:
            with of_stage(stage):
                self._make(one.asked)
        except BaseException as error:
            mine.set_exception(error)
            raise
        mine.set_result(None)


def _name(asked: Options) -> _Asked:
    return asked.directory, asked.recipe.stage, asked.platform
