"""The signals of Linux by name and number, as container runtimes take them. Pure.

signal(7); numbers beyond 34 differ between programs' threads only. Runtimes (docker, podman, crun)
take numbers from 1 to 64 and these names, SIGRTMIN+n and SIGRTMAX-n included.
"""

from __future__ import annotations

_NAMES = """
    HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD
    CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS RTMIN RTMAX
"""
SIGNALS = frozenset(
    {f"SIG{name}" for name in _NAMES.split()}
    | {f"SIGRTMIN+{number}" for number in range(1, 16)}
    | {f"SIGRTMAX-{number}" for number in range(1, 15)}
)
_MOST = 64


def signal_problem(text: str) -> str | None:
    """What is wrong with a signal that is written as `SIGQUIT` or `3`; None where nothing is."""
    if text in SIGNALS:
        return None
    if text.isascii() and text.isdecimal() and not text.startswith("0"):
        return None if len(text) < 3 and int(text) <= _MOST else f"{text} is not from 1 to {_MOST}"
    upper = text.upper()
    meant = next((name for name in (upper, f"SIG{upper}") if name in SIGNALS), None)
    advice = f"write {meant}" if meant else "such as SIGTERM, SIGQUIT or SIGRTMIN+3"
    return f"{text!r} is no signal of Linux; {advice}"
