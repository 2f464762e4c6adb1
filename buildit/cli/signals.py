"""Ctrl-C, SIGTERM, SIGHUP, SIGQUIT: the first asks all to end in order, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
EXIT = 130
SHOW_CURSOR = b"\x1b[?25h\n"


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """The event that the first signal sets, while it raises KeyboardInterrupt in this thread.

    Call it from the main thread. A signal that is ignored (nohup, `&` in sh) stays without effect
    here, and builds begin with the usual disposition, as they do for everybody else.
    """
    stop = threading.Event()

    def asked(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal(2) calls
        if stop.is_set():
            _end()
        stop.set()
        raise KeyboardInterrupt

    before = {}
    for number in CAUGHT:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        before[number] = signal.signal(number, _unheard if ignored else asked)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _unheard(number: int, frame: FrameType | None) -> None:
    """Ignores a signal. Unlike SIG_IGN, a handler does not outlive an exec (signal(7))."""


def _end() -> None:
    """Leave without another word; builds die with this process (`build.launch`)."""
    if os.isatty(2):
        os.write(2, SHOW_CURSOR)
    os._exit(EXIT)
