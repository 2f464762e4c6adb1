"""`check`: whether the build of a Debian source gives Debian's own bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from buildit.cli.options import JSON, Invocation
from buildit.cli.screen import columns, give, on_screen, printable
from buildit.codec import to_plain
from buildit.commands.check_source import CheckedSource, check_source
from buildit.commands.choose import USUAL_TOOLCHAIN
from buildit.commands.run import opened_run
from buildit.errors import UsageError
from buildit.make.debian_compare import Reason
from buildit.recipe.config import load_config
from buildit.store.cas import Store

_SHOWN = 6


def _lines(found: CheckedSource) -> Iterator[str]:
    yield f"{found.name}-{found.version}"
    rows = columns([(one.name, one.reason.value, one.told) for one in found.debs], "  ")
    for line, one in zip(rows, found.debs, strict=True):
        yield line
        yield from (printable(f"    {path}") for path in one.paths[:_SHOWN])
        if len(one.paths) > _SHOWN:
            yield f"    and {len(one.paths) - _SHOWN} more"
    same = sum(one.reason is Reason.NONE for one in found.debs)
    yield f"{same} of {len(found.debs)} identical to Debian's"


@click.command("check", short_help="Compare the build of a Debian source with Debian's .debs.")
@click.argument("source", metavar="debian:NAME[=VERSION]")
@click.option(
    "--toolchain",
    metavar="NAME",
    default=USUAL_TOOLCHAIN,
    help="Says which release of Debian: toolchain/debian-13.",
)
@JSON
@click.pass_obj
def check_verb(invocation: Invocation, source: str, toolchain: str, as_json: bool) -> None:
    """Build a Debian source package as it is, and compare with Debian's own .debs, bit for bit.

    Where one differs, the reason is named, and what differs.
    """
    if not source.startswith("debian:"):
        hint = "write buildit check debian:jq"
        raise UsageError(f"{source} is no Debian source package", hint=hint)
    loaded = load_config(Path())
    with (
        on_screen(as_json=as_json) as screen,
        Store.open(loaded.config.store) as store,
        opened_run(loaded.config, store, screen) as run,
    ):
        found = check_source(source, toolchain, loaded, run, screen, invocation.stop)
    give(found, _lines, to_plain, as_json=as_json)
