"""Faults on demand at the store's durability points: `BUILDIT_FAULT=point:n:kill|EIO|ENOSPC`.

Part of the product, so that crash safety is proved on every machine, with or without strace.
`n` counts from 1 how often this process reaches the point.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from itertools import product

from buildit.errors import UsageError

SUBJECTS = ("layout", "blob", "signature", "statement", "root")
"""What is written: see `durable.Disk`, whose every step is a point of each subject."""

STEPS = ("create", "write", "sync", "publish", "directory")

DERIVED = ("name", "mark")
"""What is not synced, since it can be derived again, or counts until the next boot only."""

POINTS = (
    *(f"{subject}-{step}" for subject, step in product(SUBJECTS, STEPS)),
    *(f"{subject}-{step}" for subject, step in product(DERIVED, ("create", "write", "publish"))),
    "lease-create",
    "tree-fill",
    "tree-publish",
    "failure-create",
    "failure-write",
    "failure-sync",
    "failure-move",
    "corrupt-move",
    "collect-remove",
)
VARIABLE = "BUILDIT_FAULT"


class Effect(StrEnum):
    KILL = "kill"
    EIO = "EIO"
    ENOSPC = "ENOSPC"


class Faults:
    """Counts the points that this store reaches, and fails at the one that was asked for."""

    __slots__ = ("_effect", "_lock", "_nth", "_point", "_seen")

    def __init__(self, point: str = "", nth: int = 0, effect: Effect = Effect.KILL) -> None:
        self._point = point
        self._nth = nth
        self._effect = effect
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    @classmethod
    def wanted(cls, environment: Mapping[str, str]) -> Faults:
        """The faults that `BUILDIT_FAULT` asks for; none where it is unset or empty.

        Raises:
            UsageError: the variable names no point, count or effect that exists.
        """
        text = environment.get(VARIABLE, "")
        if not text:
            return cls()
        point, nth, effect = (*text.split(":"), "", "")[:3]
        if (
            text.count(":") != 2
            or point not in POINTS
            or not (nth.isascii() and nth.isdigit() and int(nth) > 0)
            or effect not in tuple(Effect)
        ):
            raise UsageError(
                f"{VARIABLE}={text!r} is not POINT:N:kill|EIO|ENOSPC",
                place=VARIABLE,
                hint=f"points are: {' '.join(POINTS)}",
            )
        return cls(point, int(nth), Effect(effect))

    def reach(self, point: str) -> None:
        """Be at a point: returns, or dies by SIGKILL, or raises the OSError that was asked for."""
        if not self._point or point != self._point:
            return
        with self._lock:
            self._seen[point] += 1
            if self._seen[point] != self._nth:
                return
        if self._effect is Effect.KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        number = errno.EIO if self._effect is Effect.EIO else errno.ENOSPC
        raise OSError(number, os.strerror(number), point)
