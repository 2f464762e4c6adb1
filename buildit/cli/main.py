"""The command line: parses, calls a verb, turns what went wrong into an exit code."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence

import click

from buildit.cli import container_verbs, machine_verbs, store_verbs, trust_verbs
from buildit.cli.failing import bug, closed_pipe, explained, fail, stuck
from buildit.cli.options import Invocation
from buildit.cli.quick import VERBS
from buildit.cli.results import finish
from buildit.cli.signals import stopping
from buildit.errors import UsageError

EPILOG = (
    "`buildit DIR` is `buildit build DIR`. Results go to stdout, progress to stderr. Exit codes: "
    "0 done, 1 a build or the store failed, 2 a file or the command line is wrong, 3 flags or "
    "versions cannot be satisfied, 4 the network failed, 5 bytes are not what was promised, "
    "130 interrupted."
)


class Verbs(click.Group):
    """The verbs; a directory in the place of one is built."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args:
            raise click.UsageError("name the directory of a container, or a command", ctx)
        own, first = ("--help", "--version"), args[0]
        if first not in own and first not in VERBS:
            if not first.startswith("-") and not os.path.isdir(first):
                raise click.UsageError(_unknown(first), ctx)
            args = ["build", *args]
        return super().parse_args(ctx, args)


def _unknown(word: str) -> str:
    near = difflib.get_close_matches(word, sorted(VERBS), 1)
    guess = f"; did you mean {near[0]}?" if near else ""
    above = os.path.dirname(word) or "."
    if not near and os.path.isfile(word):
        return f"{word!r} is a file; a container is a directory: buildit {above}"
    return f"{word!r} is neither a command nor a directory{guess}"


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version  # 40 ms, of which most is email

    try:
        number = version("buildit")
    except PackageNotFoundError:
        number = "(not installed)"
    click.echo(f"buildit, version {number}")
    ctx.exit()


@click.group(cls=Verbs, epilog=EPILOG, context_settings={"max_content_width": 100})
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


for _verb in (
    *container_verbs.COMMANDS,
    *store_verbs.COMMANDS,
    *trust_verbs.COMMANDS,
    *machine_verbs.COMMANDS,
):
    cli.add_command(_verb)


def run(argv: Sequence[str]) -> int:
    """Run one command line; returns its exit code, having said everything.

    Call it from the main thread.
    """
    as_json = "--json" in argv
    try:
        with stopping() as stop:
            try:
                code = _invoke(argv, Invocation(tuple(argv), stop))
            except click.exceptions.Exit as done:
                code = done.exit_code
            finish()
            return code
    except BrokenPipeError:
        return closed_pipe()
    except click.ClickException as error:
        return fail(_usage(error), sys.stderr, as_json=as_json)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the last place that can tell
        known = stuck(error) or explained(error)
        if known is not None:
            return fail(known, sys.stderr, as_json=as_json)
        from buildit.commands.stamp import directory

        return bug(error, sys.stderr, directory().parent.parent / "logs" / "bugs", as_json=as_json)


def _invoke(argv: Sequence[str], invocation: Invocation) -> int:
    # Not cli.main(): it has its own ideas of interrupts, closed pipes and exit codes.
    with cli.make_context("buildit", list(argv), obj=invocation) as ctx:
        result = cli.invoke(ctx)
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> UsageError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    path = context.command_path if context is not None else "buildit"
    return UsageError(" ".join(error.format_message().split()), hint=f"see `{path} --help`")
