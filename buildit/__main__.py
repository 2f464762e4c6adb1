"""`buildit` and `python -m buildit`: the way with nothing to do first, then the commands."""

from __future__ import annotations

import _signal as signal  # type: ignore[import-not-found]  # without enum, which takes longer than to press Ctrl-C
import gc
import io
import os
import sys

GARBAGE = 50_000
"""Objects between two looks for cycles: there are next to none, and each look costs milliseconds
while plans and listings are read."""


_BEGINNING = (1, 2, 3, 15)
"""SIGHUP, SIGINT, SIGQUIT and SIGTERM, which `cli.main` catches once it is there."""


def main() -> None:
    """Run the command line and exit with its code."""
    try:
        _catch()
        _open_streams()
        code = _run()
    except KeyboardInterrupt:
        _forgo()
        code = _interrupted()
    else:
        _forgo()
    _end_streams()
    sys.exit(code)


def _run() -> int:
    gc.set_threshold(GARBAGE)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Paths come out as the bytes that they are, whatever the locale says.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")

    from buildit.cli.quick import replay

    code = replay(sys.argv[1:])
    if code is None:
        from buildit.cli.main import run_argv

        code = run_argv(sys.argv[1:])
    return code


def _catch() -> None:
    """From the first moment on a signal is an interruption, not a traceback in some import. What
    is ignored (nohup, `&` in sh) stays so."""
    for number in _BEGINNING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _asked)


def _asked(number: int, frame: object) -> None:  # noqa: ARG001 - as signal(2) calls
    raise KeyboardInterrupt


def _forgo() -> None:
    """The work is done, or given up: what comes now changes nothing any more."""
    for number in _BEGINNING:
        signal.signal(number, signal.SIG_IGN)


def _interrupted() -> int:
    from buildit.cli.screen import fail
    from buildit.errors import Interrupted

    return fail(Interrupted("interrupted"), sys.stderr, as_json="--json" in sys.argv[1:])


def _open_streams() -> None:
    """A standard stream that is closed is /dev/null; else the next file to be opened would be it,
    and get what was meant for people."""
    for fd, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(fd)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            stream = os.fdopen(nowhere, mode, encoding="utf-8", closefd=False)
            setattr(sys, ("stdin", "stdout", "stderr")[fd], stream)


def _end_streams() -> None:
    """What a stream still holds and cannot get rid of changes no exit code (Python's is 120)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)


if __name__ == "__main__":
    main()
