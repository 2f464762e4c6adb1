"""Verbs about files and the machine: verify, schema, doctor."""

from __future__ import annotations

from pathlib import Path

import click

from buildit.cli.options import JSON, PATH
from buildit.cli.results import say, say_json


@click.command(short_help="Read images, and prove that they hold the same tree.")
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1)
@JSON
def verify(paths: tuple[Path, ...], as_json: bool) -> None:
    """Read images to their last byte, and prove that all of them hold the same tree.

    A PATH is an .aci file, an OCI layout, or an unpacked directory.
    """
    from buildit.cli.comparing import raise_for_report, report_lines, report_plain
    from buildit.image.verify import verify as compare

    found = compare(paths)
    if as_json:
        say_json(report_plain(found))
    else:
        say(report_lines(found))
    raise_for_report(found)


@click.command(short_help="Print the JSON Schema of a file, or of all.")
@click.argument(
    "name", type=click.Choice(("pkg", "container", "config", "formats")), required=False
)
@click.option("--output", metavar="DIR", type=PATH, help="Write NAME.schema.json files there.")
def schema(name: str | None, output: Path | None) -> None:
    """Print the JSON Schema of a file, or of all; `formats` is the same as a page to read."""
    from buildit.cli.formats import formats_page
    from buildit.cli.schemas import SCHEMAS, write_schemas

    if name == "formats":
        say((formats_page(),))
    elif output is not None:
        say(map(str, write_schemas(output, (name,) if name else tuple(SCHEMAS))))
    else:
        say_json(SCHEMAS[name]() if name else {one: make() for one, make in SCHEMAS.items()})


@click.command(short_help="Say whether this machine can build, and what to mend.")
@JSON
def doctor(as_json: bool) -> None:
    """Look at everything that builds need of this machine, with the remedy of what is wrong."""
    from buildit.cli.health import (
        finding_lines,
        findings_plain,
        own_store_place,
        raise_for_findings,
    )
    from buildit.sandbox.probe import probe

    found = probe(own_store_place())
    if as_json:
        say_json(findings_plain(found))
    else:
        say(finding_lines(found))
    raise_for_findings(found)


COMMANDS = (verify, schema, doctor)
