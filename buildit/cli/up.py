"""`up`, `down`, `logs`, `ps`, `exec`: a stack, or one container, under podman on this machine."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TextIO

import click

from buildit.cli import options
from buildit.cli.options import (
    DISCOVER,
    JOBS,
    JSON,
    LOCKED,
    OFFLINE,
    OUTPUT,
    PATH,
    SECRET,
    USE,
    Invocation,
    Requested,
)
from buildit.cli.screen import JsonScreen, PlainScreen, columns, give, printable
from buildit.commands.stack_down import Removed, down
from buildit.commands.stack_load import real_directory
from buildit.commands.stack_look import LogFollower, chosen, lines_since
from buildit.commands.stack_run import UpOptions, stack_to_run, up
from buildit.errors import Interrupted, UsageError
from buildit.model.words import counted
from buildit.podman.engine import Podman, opened_engine
from buildit.podman.lifeline import StackLock, stack_lock, watched_by
from buildit.podman.loglines import LogLine, since_of
from buildit.stack.converge import KnownContainer
from buildit.stack.local import KnownPort

_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # of ECMA-48; red is for errors
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_POLL = 0.05

STACK_DIR = click.argument("directory", metavar="[DIR]", default=".", type=PATH)


class LinePrinter:
    """Writes lines of containers, each behind the container's name; that has a colour on a
    terminal. A stream that nobody reads any more is told of by `unheard`."""

    def __init__(self, stream: TextIO, *, as_json: bool) -> None:
        self._stream = stream
        self._json = as_json
        plain = os.environ.get("TERM", "dumb") == "dumb" or bool(os.environ.get("NO_COLOR"))
        self._coloured = stream.isatty() and not plain
        self._known: dict[str, int] = {}
        self._width = 0
        self._unheard = False

    def widen(self, names: Sequence[str]) -> None:
        self._width = max([self._width, *map(len, names)])

    def unheard(self) -> bool:
        return self._unheard

    def __call__(self, line: LogLine) -> None:
        if self._unheard:
            return
        try:
            self._stream.write(f"{self._written(line)}\n")
            self._stream.flush()
        except (OSError, ValueError):
            self._unheard = True

    def _written(self, line: LogLine) -> str:
        if self._json:
            return json.dumps({"event": "line", **asdict(line)})
        self.widen([line.container])
        name = line.container.ljust(self._width)
        if self._coloured:
            code = self._known.setdefault(line.container, len(self._known)) % len(_COLOURS)
            return f"\x1b[{_COLOURS[code]}m{name} |\x1b[0m {printable(line.text)}"
        return f"{name} | {printable(line.text)}"


@contextmanager
def hurrying() -> Iterator[threading.Event]:
    """While the stack is taken down, the next signal asks that it be at once; one more leaves the
    rest to who watches."""
    hurry = threading.Event()

    def heard(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - as signal(2) calls
        if hurry.is_set():
            os._exit(Interrupted.exit_code)
        hurry.set()

    before = {number: signal.signal(number, heard) for number in _SIGNALS}
    try:
        yield hurry
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@click.command("up", short_help="Run the stack of DIR, or its container, under podman.")
@options.of_container(
    *(STACK_DIR, USE, OUTPUT, LOCKED, OFFLINE, JOBS, DISCOVER, SECRET),
    click.option("-d", "--detach", is_flag=True, help="Leave it running once all are started."),
    click.option("--wait", is_flag=True, help="Leave it running once all are ready."),
    click.option("--test", is_flag=True, help="Make its tests, then take it down."),
)
@click.pass_obj
def up_verb(invocation: Invocation, asked: Requested, detach: bool, wait: bool, test: bool) -> None:
    """Build what is not built of the stack in DIR, and run it under podman until Ctrl-C.

    Lines of its containers go to stdout. A second Ctrl-C kills what has not ended. Volumes stay.
    """
    with asked.screen() as screen:
        run = stack_to_run(asked.options, screen, invocation.stop, os.environ)
    report = JsonScreen(sys.stderr) if asked.as_json else PlainScreen(sys.stderr)
    printer = LinePrinter(sys.stdout, as_json=asked.as_json)
    up(run, UpOptions(detach, wait, test), report, printer, hurrying, printer.unheard)
    if printer.unheard():
        raise BrokenPipeError


def _removed_lines(done: Removed) -> Iterator[str]:
    counts = (
        (len(done.containers), "container"),
        (done.networks, "network"),
        (done.secrets, "secret"),
        (done.volumes, "volume"),
    )
    parts = ", ".join(counted(count, what) for count, what in counts if count)
    yield f"removed: {parts}" if parts else "nothing of it was there"
    if done.volumes_kept:
        yield f"kept: {counted(done.volumes_kept, 'volume')} (buildit down --volumes)"


@click.command("down", short_help="Take the stack of DIR down.")
@STACK_DIR
@click.option("--volumes", is_flag=True, help="Its volumes, too, and the secrets drawn for them.")
@JSON
def down_verb(directory: Path, volumes: bool, as_json: bool) -> None:
    """End and remove the containers, networks and secrets of the stack of DIR, whether its files
    are there or not. With Ctrl-C nothing gets time to end."""
    environ = dict(os.environ)
    watched = watched_by(environ)
    place = real_directory(directory)
    report = JsonScreen(sys.stderr) if as_json else PlainScreen(sys.stderr)
    with hurrying() as hurry, stack_lock(place) as own:
        lock = own
        if watched is not None:
            lock = StackLock(watched.fd)
            if watched.hurry:
                hurry.set()
        done = down(
            place,
            lock,
            report,
            hurry,
            volumes=volumes,
            was_watcher=watched is not None,
            environ=environ,
        )
    give(done, _removed_lines, asdict, as_json=as_json)


def _named(
    podman: Podman, words: Sequence[str]
) -> tuple[str, tuple[KnownContainer, ...], list[str]]:
    """The directory that a verb's words begin with, else the working directory; its containers; the
    other words. What is a directory, and a container of the stack in the working directory, is the
    latter, unless a stack of its own runs there.

    Raises:
        UsageError: no stack runs there.
    """
    rest = list(words)
    if rest and Path(rest[0]).is_dir():
        own = podman.state(real_directory(Path(rest[0]))).containers
        if own:
            return rest[0], own, rest[1:]
    here = podman.state(real_directory(Path())).containers
    if here:
        return ".", here, rest
    shown = rest[0] if rest else "."
    hint = "bring it up: buildit up DIR (what a build wrote is shown by `buildit log`)"
    raise UsageError("no container of a stack is here", place=shown, hint=hint)


@click.command("logs", short_help="Show what the containers of a stack have written.")
@click.argument("words", metavar="[DIR] [NAME...]", nargs=-1)
@click.option("-f", "--follow", is_flag=True, help="Go on with what they write from now on.")
@click.option("--since", metavar="TIME", help="Since 90s, 1h30m, or 2030-01-31T10:00:00Z.")
@JSON
def logs_verb(words: tuple[str, ...], follow: bool, since: str | None, as_json: bool) -> None:
    """Show the lines of the stack's containers that are named, all of them without a name.

    What builds have written is shown by `buildit log`.
    """
    podman = opened_engine(os.environ)
    start = since_of(since, time.time()) if since else 0.0
    _, containers, names = _named(podman, words)
    wanted = chosen(containers, names)
    printer = LinePrinter(sys.stdout, as_json=as_json)
    printer.widen([one.shown for one in wanted])
    follower = LogFollower(printer)
    if follow:
        _follow(wanted, follower, printer, start)
    else:
        for line in lines_since(wanted, start):
            printer(line)
    if printer.unheard():
        raise BrokenPipeError


def _follow(
    wanted: Sequence[KnownContainer], follower: LogFollower, printer: LinePrinter, start: float
) -> None:
    """Until all containers are gone; Ctrl-C is the way to end it."""
    follower.begin(start)
    for one in wanted:
        follower.attach(one)
    try:
        while not printer.unheard():
            time.sleep(_POLL)
            if all(not Path(one.log).exists() for one in wanted):
                return
    finally:
        follower.end()


def _port(one: KnownPort) -> str:
    return f"{one.address or '*'}:{one.outside}->{one.inside}/{one.protocol}"


def _state(one: KnownContainer) -> str:
    told = f"{one.state} ({one.status})" if one.state == "exited" else one.state
    return f"{told}, started again {counted(one.restarts, 'time')}" if one.restarts else told


def _ps_lines(found: Sequence[KnownContainer]) -> tuple[str, ...]:
    rows = [
        (one.shown, _state(one), " ".join(map(_port, one.ports)), one.identifier[:12])
        for one in found
    ]
    return columns([("NAME", "STATE", "PORTS", "CONTAINER"), *rows]) if rows else ()


def _ps_plain(found: Sequence[KnownContainer]) -> list[dict[str, object]]:
    keys = ("member", "state", "status", "restarts", "started", "identifier", "image", "stack")
    return [
        {
            "name": one.shown,
            **{key: getattr(one, key) for key in keys},
            "addresses": dict(one.networks),
            "ports": [asdict(port) for port in one.ports],
        }
        for one in found
    ]


@click.command("ps", short_help="List the containers of a stack.")
@STACK_DIR
@JSON
def ps_verb(directory: Path, as_json: bool) -> None:
    """List the containers of the stack of DIR that podman has."""
    found = opened_engine(os.environ).state(real_directory(directory)).containers
    give(found, _ps_lines, _ps_plain, as_json=as_json)


@click.command(
    "exec",
    short_help="Run a command in a container of a stack.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", metavar="[DIR] NAME CMD...", nargs=-1)
def exec_verb(words: tuple[str, ...]) -> None:
    """Run CMD in the container NAME of the stack of DIR, on this terminal; its status is that of
    the command."""
    podman = opened_engine(os.environ)
    _, containers, rest = _named(podman, words)
    if len(rest) < 2:
        hint = "buildit exec [DIR] NAME CMD..., such as: buildit exec shop db /bin/sh"
        raise UsageError("no container and command are named", hint=hint)
    one = chosen(containers, rest[:1])[0]
    if not one.is_live:
        raise UsageError(f"{one.shown} does not run: {_state(one)}", hint="buildit up starts it")
    on_terminal = os.isatty(0) and os.isatty(1)
    how = "--interactive", *(("--tty",) if on_terminal else ())
    podman.replaced_by("exec", *how, one.identifier, *rest[1:])
