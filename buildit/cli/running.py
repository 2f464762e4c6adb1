"""`run`: an image in the sandbox, on this terminal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from buildit.cli.options import PATH
from buildit.cli.screen import printable
from buildit.commands.run_image import PublishedPort, RunOptions, run_image
from buildit.errors import UsageError
from buildit.sandbox.container import Mounted

LOOPBACK = "127.0.0.1"
_PORTS = re.compile(
    r"(?:(?P<address>[0-9.]+|\[[0-9A-Fa-f:.]+\]):)?(?P<outside>[0-9]+):(?P<inside>[0-9]+)(?:/tcp)?"
)


def volume_of(text: str) -> Mounted:
    """`SRC:DEST[:ro]`; SRC is there, DEST is absolute.

    Raises:
        UsageError: it is not so.
    """
    hint = "--volume SRC:DEST[:ro], DEST absolute and without `..`"
    source, _, rest = text.partition(":")
    dest, _, how = rest.partition(":")
    plain = dest.startswith("/") and dest.strip("/") and ".." not in dest.split("/")
    if not source or not plain or how not in ("", "ro", "rw"):
        raise UsageError(f"not a volume: {text!r}", hint=hint)
    path = Path(source).absolute()
    if not (path.is_dir() or path.exists()):
        raise UsageError("there is nothing to mount", place=str(path), hint=hint)
    return Mounted(path, os.path.normpath(dest), how == "ro")


def port_of(text: str) -> PublishedPort:
    """`[IP:]HOST:CONTAINER`, on this machine alone where no IP is named.

    Raises:
        UsageError: it is not so, or no TCP port.
    """
    found = _PORTS.fullmatch(text)
    numbers = (int(found["outside"]), int(found["inside"])) if found else ()
    if found is None or not all(0 < one < 1 << 16 for one in numbers):
        hint = (
            "--publish [IP:]HOST:CONTAINER, two TCP ports: 8080:80, 0.0.0.0:8080:80, [::1]:8080:80"
        )
        raise UsageError(f"no ports to publish: {text!r}", hint=hint)
    return PublishedPort((found["address"] or LOOPBACK).strip("[]"), *numbers)


def variables_of(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """`NAME=VALUE`, or `NAME` for the caller's value; the image's own stays where the caller has
    none.

    Raises:
        UsageError: a name is empty.
    """
    for text in texts:
        name, sign, value = text.partition("=")
        if not name:
            raise UsageError(f"not a variable: {text!r}", hint="--env NAME=VALUE, or --env NAME")
        if sign or name in os.environ:
            yield name, value if sign else os.environ[name]


@click.command("run", short_help="Run an image in the sandbox, without an engine.")
@click.argument("image")
@click.argument("command", metavar="[-- CMD...]", nargs=-1)
@click.option(
    "--layer",
    metavar="DIR",
    type=PATH,
    help="Keep what is written in DIR/upper, for a next run; thrown away without it.",
)
@click.option("--volume", metavar="SRC:DEST[:ro]", multiple=True, help="Show a path of the host.")
@click.option(
    "--publish",
    metavar="[IP:]HOST:CONTAINER",
    multiple=True,
    help="Lead a TCP port of the host inside; on 127.0.0.1 where no IP is named.",
)
@click.option(
    "--network",
    type=click.Choice(("none", "user", "host")),
    default="none",
    show_default=True,
    help="none: one of its own, that only --publish leads into; user: with a way out besides, to "
    "neither the host nor link-local addresses; host: the host's.",
)
@click.option(
    "--env", metavar="NAME[=VALUE]", multiple=True, help="Set a variable, or take the caller's."
)
@click.option("--user", metavar="USER[:GROUP]", help="Run as another user: a name or a number.")
@click.option("--workdir", metavar="DIR", help="Start in another directory.")
def run_verb(
    image: str,
    command: tuple[str, ...],
    *,
    layer: Path | None,
    volume: tuple[str, ...],
    publish: tuple[str, ...],
    network: str,
    env: tuple[str, ...],
    user: str | None,
    workdir: str | None,
) -> int:
    """Run an image of any format, or an unpacked directory, as its app says; CMD runs in its place.

    The exit status is the command's, 128 and its number where a signal ended it. Signals are passed
    on. The image stays untouched.
    """
    if "://" in image:
        hint = f"bring it here first: buildit pull {image}"
        raise UsageError("an image is run that lies on this machine", place=image, hint=hint)
    if workdir is not None and not workdir.startswith("/"):
        raise UsageError(f"not absolute: {workdir!r}", hint="--workdir /DIR")
    if network == "host" and publish:
        hint = "leave --publish out: ports of the host's network are open as they are"
        raise UsageError("--publish leads into a network of its own, not the host's", hint=hint)
    terminal = os.environ.get("TERM", "") if os.isatty(0) else ""
    options = RunOptions(
        Path(image),
        command,
        layer,
        tuple(map(volume_of, volume)),
        tuple(map(port_of, publish)),
        dict(variables_of(env)),
        user,
        workdir,
        network == "host",
        terminal,
        network == "user",
    )
    return run_image(options, lambda text: click.echo(printable(f"note: {text}"), err=True))
