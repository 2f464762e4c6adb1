"""Work handed to a pool of threads that a machine may refuse to start.

Where no thread can be had (a limit on processes: clone(2) says EAGAIN), the caller does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from functools import partial
from threading import Event, Lock
from typing import TypeVar

from buildit.errors import Interrupted

_T = TypeVar("_T")


def submit(pool: ThreadPoolExecutor, work: Callable[[], _T]) -> Future[_T]:
    """As `pool.submit`; done here and now where the pool cannot get a thread. Once in any case:
    the pool keeps what it could not start a thread for, and another thread of it may take it.

    Raises:
        RuntimeError: the pool was shut down.
    """
    future: Future[_T] = Future()
    claimed = Lock()

    def task() -> None:
        if not claimed.acquire(blocking=False) or not future.set_running_or_notify_cancel():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - raised again in the caller that asks
            future.set_exception(error)
        else:
            future.set_result(result)

    try:
        inner = pool.submit(task)
    except RuntimeError as error:
        if "shutdown" in str(error):
            raise
        task()
    else:
        inner.add_done_callback(lambda done: future.cancel() if done.cancelled() else None)
    return future


def run_all(
    works: Sequence[Callable[[], _T]], threads: int, give_up: Callable[[], None] = lambda: None
) -> list[_T]:
    """Run all works on a few threads; their results in the order of the works.

    `give_up` ends those under way, when one failed or the user pressed Ctrl-C.

    Raises:
        BaseException: what the first work that failed raised; that it was interrupted is only what
            another failure led to. Works that have not begun by then never begin, and those that
            have are waited for.
    """
    if min(threads, len(works)) < 2:
        return [work() for work in works]
    failed = Event()

    def begun(work: Callable[[], _T]) -> _T:
        if failed.is_set():
            raise CancelledError
        try:
            return work()
        except BaseException:
            failed.set()
            give_up()
            raise

    with ThreadPoolExecutor(min(threads, len(works)), "buildit-worker") as pool:
        try:
            futures = [submit(pool, partial(begun, work)) for work in works]
            wait(futures)
        except BaseException:
            failed.set()
            give_up()
            raise
    errors = [error for one in futures if (error := one.exception())]
    for error in sorted(errors, key=lambda one: isinstance(one, Interrupted | CancelledError)):
        raise error
    return [one.result() for one in futures]
