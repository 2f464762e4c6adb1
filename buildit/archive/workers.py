"""Work handed to a pool of threads that a machine may refuse to start.

Where no thread can be had (a limit on processes: clone(2) says EAGAIN), the caller does the work.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import TypeVar

Result = TypeVar("Result")


def submit(pool: ThreadPoolExecutor, work: Callable[[], Result]) -> Future[Result]:
    """As `pool.submit`; done here and now where the pool cannot get a thread. Once in any case:
    the pool keeps what it could not start a thread for, and another thread of it may take it.

    Raises:
        RuntimeError: the pool was shut down.
    """
    future: Future[Result] = Future()
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
