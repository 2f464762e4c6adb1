"""Arguments and options that several verbs share, and what a verb gets of them."""

from __future__ import annotations

import functools
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from buildit.cli.screen import PlainScreen
    from buildit.commands.story import Options

Verb = Callable[..., Any]
Decorator = Callable[[Any], Any]

PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True)
class Invocation:
    """One command line: its words, and the event that a signal sets."""

    argv: tuple[str, ...]
    stop: threading.Event


@dataclass(frozen=True, slots=True)
class Asked:
    """What a command line asks of one container."""

    options: Options
    as_json: bool

    def screen(self) -> AbstractContextManager[PlainScreen]:
        """The screen on stderr, for the length of the command."""
        from buildit.cli.screen import shown

        return shown(sys.stderr, as_json=self.as_json)


SHARED = ("directory", "use", "locked", "offline", "output", "jobs", "discover", "push")
"""The options that are fields of `pipeline.story.Options`."""

JSON = click.option(
    "--json", "as_json", is_flag=True, help="Results as JSON on stdout, progress as JSON on stderr."
)
USE = click.option(
    "--use",
    metavar="FLAG",
    multiple=True,
    help="A flag for every package: ipv6, -selinux, tls=openssl. May be repeated.",
)
LOCKED = click.option(
    "--locked", is_flag=True, help="Fail where buildit.lock would change; never write it."
)
OFFLINE = click.option("--offline", is_flag=True, help="Ask no other machine for anything.")
OUTPUT = click.option(
    "--output",
    metavar="DIR",
    type=PATH,
    default=Path("out"),
    show_default=True,
    help="Where the images go.",
)
JOBS = click.option(
    "--jobs",
    metavar="N",
    type=click.IntRange(min=1),
    default=None,
    help="Packages built at one time; as configured without it.",
)
DISCOVER = click.option(
    "--discover",
    metavar="HOST/PATH[,push=True]",
    multiple=True,
    help="Also take from the binhosts that this name leads to (App Container discovery); with "
    "push=True publish what was made to the configured repositories. file:///DIR and "
    "ssh://user@host/path name a binhost itself. May be repeated.",
)
PUSH = click.option(
    "--push", is_flag=True, help="Publish what was made to the configured repositories."
)
DIRECTORY = click.argument("directory", metavar="DIR", type=PATH)


def of_container(*further: Decorator) -> Callable[[Verb], Verb]:
    """A verb about a container: it is called with `Asked` and its own options.

    `further` are of `DIRECTORY`, `LOCKED`, `OFFLINE`, `OUTPUT`, `JOBS`, `DISCOVER` and `PUSH`,
    which become part of `Asked`; without `DIRECTORY` it is about the working directory.
    """

    def decorate(verb: Verb) -> Verb:
        @functools.wraps(verb)
        def called(*args: object, **given: Any) -> object:  # noqa: ANN401 - as click gives them
            from buildit.commands.story import Options

            words = {name: given.pop(name) for name in SHARED if name in given}
            said = {name: value for name, value in words.items() if value is not None}
            options = Options(**{"directory": Path(), **said})
            return verb(*args, Asked(options, given.pop("as_json")), **given)

        command: Verb = called
        for option in (JSON, *reversed(further)):
            command = option(command)
        return command

    return decorate
