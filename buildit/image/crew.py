"""A few threads that work off a list while the caller does something else.

`concurrent.futures` does it too, at 6 ms of imports that assembling an image can do without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Lock, Thread
from typing import Generic, Self, TypeVar

Result = TypeVar("Result")


class Crew(Generic[Result]):
    """Runs all works, in their order, on `size` threads; leaving the `with` block waits for them.

    Where the block or a work raises, works that have not begun never begin.
    """

    def __init__(self, works: Sequence[Callable[[], Result]], size: int) -> None:
        self._works = works
        self._next = 0
        self._done: dict[int, Result] = {}
        self._failure: BaseException | None = None
        self._lock = Lock()
        self._threads = [Thread(target=self._run) for _ in range(min(size, len(works)))]

    def __enter__(self) -> Self:
        for number, thread in enumerate(self._threads):
            try:
                thread.start()
            except RuntimeError:  # the machine has no more threads: those that run do it all
                del self._threads[number:]
                break
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            self._stop()
        for thread in self._threads:
            thread.join()

    def results(self) -> list[Result]:
        """Wait for all works; their results in the order of the works.

        Raises:
            BaseException: what the first work that failed raised.
        """
        for thread in self._threads:
            thread.join()
        self._run()  # what no thread took
        if self._failure is not None:
            raise self._failure
        return [self._done[number] for number in range(len(self._works))]

    def _run(self) -> None:
        while (number := self._take()) is not None:
            try:
                self._done[number] = self._works[number]()
            except BaseException as error:  # noqa: BLE001 - raised again by `results`
                self._failure = self._failure or error
                self._stop()

    def _take(self) -> int | None:
        with self._lock:
            number = self._next
            self._next += 1
        return number if number < len(self._works) else None

    def _stop(self) -> None:
        with self._lock:
            self._next = len(self._works)
