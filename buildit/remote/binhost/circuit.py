"""A host that does not answer is asked once in a run, not once for every package."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from buildit.remote.transport import LocationError, Response, Transport


@dataclass(frozen=True, slots=True)
class Patience:
    """How much of a host is borne: `failures` in a row, where it can be talked to; and `waited`
    seconds for its answers in all, where they take `slow` seconds and more on average."""

    failures: int = 3
    waited: float = 30.0
    slow: float = 3.0


class Circuit:
    """A transport of one host; once the host has failed, everything fails at once.

    Answers that it has not got something are no failures; answers that each come just before we
    would give up are, together. A host that never answered is waited for once. `tell` is called
    once.
    """

    def __init__(
        self,
        inner: Transport,
        tell: Callable[[LocationError], None],
        patience: Patience | None = None,
    ) -> None:
        self._inner = inner
        self._tell = tell
        self._patience = patience or Patience()
        self._waited = 0.0
        self._answers = 0
        self._lock = threading.Lock()
        self._failures = 0
        self._broken: LocationError | None = None

    @property
    def broken(self) -> LocationError | None:
        """Why the host is left alone; None while it is not."""
        return self._broken

    @contextmanager
    def get(self, url: str, offset: int, cap: int) -> Iterator[Response]:
        if self._broken is not None:
            raise LocationError(url, f"not asked again: {self._broken.reason}", unreachable=True)
        begun = time.monotonic()
        answered = False
        try:
            with self._inner.get(url, offset, cap) as response:
                answered = True
                self._note(url, time.monotonic() - begun, None)
                yield response
        except LocationError as error:
            if not answered:
                self._note(url, time.monotonic() - begun, None if error.absent else error)
            self.count(error)
            raise
        self._failures = 0

    def _note(self, url: str, seconds: float, failure: LocationError | None) -> None:
        """Take note of how long an answer, or a failure, was waited for. Over SSH one waits for
        one's turn, too: that is no fault of the host."""
        if not url.startswith("http"):
            return
        with self._lock:
            self._waited += seconds
            self._answers += failure is None
            slow = self._waited >= self._patience.slow * max(self._answers, 1)
            if not slow or (self._answers and self._waited < self._patience.waited):
                return
            average = self._waited / max(self._answers, 1)
            reason = f"too slow to be worth asking: {average:.0f} seconds for an answer"
            if failure is not None:
                reason = failure.reason
        self.count(LocationError(url, reason, unreachable=True))

    def count(self, error: LocationError) -> None:
        """Take note of a failure, however it was met."""
        with self._lock:
            if error.absent or error.wrong or self._broken is not None:
                return
            self._failures += 1
            if not error.unreachable and self._failures < self._patience.failures:
                return
            self._broken = error
        self._tell(error)

    def close(self) -> None:
        self._inner.close()
