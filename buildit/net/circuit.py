"""A host that does not answer is asked once in a run, not once for every package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from buildit.net.transport import LocationError, Response, Transport

PATIENCE = 3
"""Failures in a row, of a host that can be talked to, after which it is left alone."""


class Circuit:
    """A transport of one host; once the host has failed, everything fails at once.

    Answers that it has not got something are no failures. `tell` is called once.
    """

    def __init__(self, inner: Transport, tell: Callable[[LocationError], None]) -> None:
        self._inner = inner
        self._tell = tell
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
        try:
            with self._inner.get(url, offset, cap) as response:
                yield response
        except LocationError as error:
            self.count(error)
            raise
        self._failures = 0

    def bulk(self, wanted: Sequence[tuple[str, int]]) -> Iterator[bytes | None]:
        """As the inner transport; nothing where it has no such way."""
        ask = getattr(self._inner, "bulk", None)
        return iter(()) if ask is None or self._broken is not None else ask(wanted)

    def count(self, error: LocationError) -> None:
        """Take note of a failure, however it was met."""
        with self._lock:
            if error.absent or error.wrong or self._broken is not None:
                return
            self._failures += 1
            if not error.unreachable and self._failures < PATIENCE:
                return
            self._broken = error
        self._tell(error)

    def close(self) -> None:
        self._inner.close()
