"""Several processes of one container, which a small init starts and stops; no I/O here."""

from __future__ import annotations

from dataclasses import dataclass

INIT = "/usr/sbin/init"
"""What an image with services runs."""


@dataclass(frozen=True, slots=True)
class Ready:
    """How a service tells that it can be used: a program whose status 0 says so, which is asked
    until it does, or a line that the service writes to a file descriptor. `timeout` is in
    seconds."""

    exec: tuple[str, ...] = ()
    descriptor: int | None = None
    timeout: int = 60


@dataclass(frozen=True, slots=True)
class Service:
    """One process. `exec` starts with an absolute path; `environment` is added to the image's.

    `stop_signal` is such as SIGTERM, `stop_timeout` the seconds until SIGKILL. A service that ends
    by itself is started again, or, with `ends_all` or a status of `ends_on`, the container ends
    with its status. `owner`, where it is not empty, is `user` or `user:group` as the whole image
    names them, and the numbers say nothing; then the program may be without a path, too. `place` is
    where it was written.
    """

    name: str
    exec: tuple[str, ...]
    after: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0
    environment: tuple[tuple[str, str], ...] = ()
    working_directory: str = "/"
    stop_signal: str = "SIGTERM"
    stop_timeout: int = 10
    ready: Ready | None = None
    ends_all: bool = False
    ends_on: tuple[int, ...] = ()
    owner: str = ""
    place: str = ""


@dataclass(frozen=True, slots=True)
class Init:
    """The services of an image, in the order in which they start."""

    services: tuple[Service, ...]
    place: str


def in_order(services: tuple[Service, ...]) -> tuple[tuple[Service, ...], tuple[str, ...]]:
    """The services, each behind those that it is `after`, else as written; and where that cannot
    be, the names of a circle."""
    done: dict[str, Service] = {}
    waiting = {one.name: one for one in services}
    while waiting:
        free = next((one for one in waiting.values() if waiting.keys().isdisjoint(one.after)), None)
        if free is None:
            return (), _circle(waiting)
        done[free.name] = waiting.pop(free.name)
    return tuple(done.values()), ()


def _circle(waiting: dict[str, Service]) -> tuple[str, ...]:
    way = [next(iter(waiting))]
    while way.count(way[-1]) < 2:
        way.append(next(name for name in waiting[way[-1]].after if name in waiting))
    return tuple(way[way.index(way[-1]) :])
