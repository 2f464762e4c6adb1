"""Published ports: connections to sockets of the host, brought to a network of its own.

A socket keeps the network that it was made in: this process has those that listen on the host, and
is itself in the container's network, so what it connects is inside. It is TCP alone.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress

PATIENCE = 5.0
"""Seconds that answers get to arrive when the container has ended."""

_PIECE = 1 << 16
_ANSWERING = "answering"
_INSIDE = (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6))


def forward_ports(listeners: Sequence[tuple[socket.socket, int]]) -> int:
    """Serve until SIGTERM, then for as long as answers are on their way, `PATIENCE` at most; or
    until the parent dies. Signals are the parent's affair, and blocked."""
    for listener, port in listeners:
        threading.Thread(target=_serve, args=(listener, port), daemon=True).start()
    signal.sigwait((signal.SIGTERM,))
    end = time.monotonic() + PATIENCE
    for one in threading.enumerate():
        if one.name == _ANSWERING:
            one.join(max(0.0, end - time.monotonic()))
    return 0


def _serve(listener: socket.socket, port: int) -> None:
    while True:
        with suppress(OSError):
            outside, _ = listener.accept()
            threading.Thread(target=_joined, args=(outside, port), daemon=True).start()


def _joined(outside: socket.socket, port: int) -> None:
    with outside, suppress(OSError), connected(port) as inside:
        words = (inside, outside)
        back = threading.Thread(target=_copied_on, args=words, name=_ANSWERING, daemon=True)
        back.start()
        _copied_on(outside, inside)
        back.join()


def connected(port: int, timeout: float | None = None) -> socket.socket:
    """A connection to who listens on this network's loopback. Raises OSError where nobody does."""
    problem = OSError()
    for address, family in _INSIDE:
        one = socket.socket(family, socket.SOCK_STREAM)
        one.settimeout(timeout)
        try:
            one.connect((address, port))
        except OSError as error:
            one.close()
            problem = error
        else:
            return one
    raise problem


def _copied_on(source: socket.socket, target: socket.socket) -> None:
    """Until the source ends; then the target is told so."""
    with suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
