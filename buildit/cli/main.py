"""The command line: parses, calls a verb, turns what went wrong into an exit code.

Ctrl-C, SIGTERM, SIGHUP, SIGQUIT: the first asks all to end in order, the second ends at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType

import click

from buildit.cli.options import Invocation
from buildit.cli.screen import PIPE_CLOSED, bug, fail, known_error, say, stuck, to_nowhere
from buildit.errors import Interrupted, UsageError
from buildit.model.recipe import STACK_NAMES, kind_of_name
from buildit.model.words import nearest

_EPILOG = (
    "`buildit DIR` is `buildit build DIR`. Results go to stdout, progress to stderr. Exit codes: "
    "0 done, 1 a build or the store failed, 2 a file or the command line is wrong, 3 flags or "
    "versions cannot be satisfied, 4 the network failed, 5 bytes are not what was promised, "
    "130 interrupted."
)

_VERBS = {
    verb: module
    for module, verbs in {
        "binhosts": "pages trust",
        "check": "check",
        "containers": "build push",
        "images": "ls pull verify",
        "imports": "import",
        "machine": "doctor store",
        "planned": "lock plan why",
        "recipes": "digest explain use",
        "running": "run",
        "schema": "schema",
        "show": "log shell show",
        "up": "down exec logs ps up",
    }.items()
    for verb in verbs.split()
}
"""Where each verb is: `<verb>_verb` in a module of `buildit.cli`, which no other verb imports."""


class Verbs(click.Group):
    """The verbs, each imported when it is asked for; a directory in the place of one is built."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click calls
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _VERBS and cmd_name not in self.commands:
            module = import_module(f"buildit.cli.{_VERBS[cmd_name]}")
            self.add_command(getattr(module, f"{cmd_name}_verb"))
        return super().get_command(ctx, cmd_name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            raise click.UsageError("name the directory of a container, or a command", ctx)
        own, first = ("--help", "--version"), args[0]
        if first not in own and first not in _VERBS:
            if not first.startswith("-") and not os.path.isdir(first) and not _is_recipe(first):
                raise click.UsageError(_unknown(first), ctx)
            args = ["build", *args]
        return super().parse_args(ctx, args)


def _is_recipe(word: str) -> bool:
    name = os.path.basename(word)
    return (kind_of_name(name) is not None or name in STACK_NAMES) and os.path.isfile(word)


def _unknown(word: str) -> str:
    meant = nearest(word, _VERBS)
    if not meant and os.path.isfile(word):
        above = os.path.dirname(word) or "."
        name = os.path.basename(word)
        told = f"{word!r} is a file; a container is a directory"
        return f"{told}: buildit {above}, or with this recipe: buildit {above} --file {name}"
    told = f"{word!r} is neither a command nor a directory"
    return f"{told}; did you mean {meant}?" if meant else told


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from importlib.metadata import distributions  # 40 ms, of which most is email

    known = (one.version for one in distributions(name="buildit"))
    click.echo(f"buildit, version {next(known, '(not installed)')}")
    ctx.exit()


@click.group(cls=Verbs, epilog=_EPILOG, context_settings={"max_content_width": 100})
@click.option(
    "--version",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_show_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Build containers from packages, and packages from source, reproducibly."""


_CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


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
    for number in _CAUGHT:
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
    """Leave without another word; builds die with this process (`sandbox.jail`)."""
    if os.isatty(2):
        os.write(2, b"\x1b[?25h\n")  # show the cursor
    os._exit(Interrupted.exit_code)


def run_argv(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code, having said everything.

    Call it from the main thread.
    """
    as_json = "--json" in argv
    try:
        with stopping() as stop:
            try:
                # Not cli.main(): it has its own ideas of interrupts, closed pipes and exit codes.
                invocation = Invocation(tuple(argv), stop)
                with cli.make_context("buildit", list(argv), obj=invocation) as context:
                    result = cli.invoke(context)
                code = result if isinstance(result, int) else 0
            except click.exceptions.Exit as done:
                code = done.exit_code
            say()
            return code
    except BrokenPipeError:
        to_nowhere(sys.stdout)  # its reader is gone: nothing more is written, even at Python's end
        return PIPE_CLOSED
    except click.ClickException as error:
        return fail(_usage(error), sys.stderr, as_json=as_json)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last place that can tell
        known = stuck(error) or known_error(error)
        if known is not None:
            return fail(known, sys.stderr, as_json=as_json)
        from buildit.commands.stamp import directory

        return bug(error, sys.stderr, directory().parent.parent / "logs" / "bugs", as_json=as_json)


def _usage(error: click.ClickException) -> UsageError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "buildit"
    return UsageError(" ".join(error.format_message().split()), hint=f"see `{path} --help`")
