"""Work handed to a pool of threads that a machine may refuse to start.

Where no thread can be had (a limit on processes: clone(2) says EAGAIN), the caller does the work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from threading import Event, Lock
from typing import TypeVar

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


def run_all(works: Sequence[Callable[[], _T]], threads: int) -> list[_T]:
    """Run all works on a few threads; their results in the order of the works.

    Raises:
        BaseException: what the first work that failed raised; works that have not begun by then
            never begin, and those that have are waited for.
    """
    failed = Event()

    def begun(work: Callable[[], _T]) -> _T:
        if failed.is_set():
            raise CancelledError
        try:
            return work()
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(threads) as pool:
        futures = [submit(pool, partial(begun, work)) for work in works]
        try:
            for future in futures:
                # One that was taken up first may look at `failed` last.
                with suppress(CancelledError):
                    future.result()
            return [future.result() for future in futures]
        finally:
            failed.set()
            pool.shutdown(wait=False, cancel_futures=True)
