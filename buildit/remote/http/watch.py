"""Ends reads that are too slow to be worth waiting for; one thread watches all of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Watch:
    """Ends a socket's reads when fewer than `least` bytes came within `window` seconds."""

    def __init__(
        self, watchman: Watchman, cut: Callable[[], None], window: float, least: int
    ) -> None:
        self.received = 0
        self.stalled = False
        self.due = 0.0
        self._watchman = watchman
        self._cut = cut
        self._window = window
        self._least = least
        self._seen = 0

    def check(self, now: float) -> bool:
        """Whether to go on watching."""
        if self.received - self._seen < self._least:
            self.stalled = True
            self._cut()
            return False
        self._seen, self.due = self.received, now + self._window
        return True

    def __enter__(self) -> Watch:
        self.due = time.monotonic() + self._window
        self._watchman.add(self)
        return self

    def __exit__(self, *exc: object) -> None:
        self._watchman.remove(self)


class Watchman:
    """The thread of one transport, started for its first watch."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._watches: set[Watch] = set()
        self._next = float("inf")
        self._thread: threading.Thread | None = None
        self._closed = False

    def add(self, watch: Watch) -> None:
        with self._changed:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True, name="buildit-watch")
                self._thread.start()
            if watch.due < self._next:
                self._changed.notify()

    def remove(self, watch: Watch) -> None:
        with self._changed:
            self._watches.discard(watch)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                due = [watch for watch in self._watches if watch.due <= now]
                self._watches -= {watch for watch in due if not watch.check(now)}
                self._next = min((watch.due for watch in self._watches), default=float("inf"))
                left = self._next - now
                self._changed.wait(None if left == float("inf") else max(left, 0.01))
