"""`schema`: the JSON Schemas of what people write, and the page of them."""

from __future__ import annotations

from pathlib import Path

import click

from buildit.cli.formats import formats_page
from buildit.cli.options import PATH
from buildit.cli.results import say, say_json
from buildit.cli.schemas import SCHEMAS, write_schemas


@click.command("schema", short_help="Print the JSON Schema of a file, or of all.")
@click.argument(
    "name", type=click.Choice(("pkg", "container", "config", "formats")), required=False
)
@click.option("--output", metavar="DIR", type=PATH, help="Write NAME.schema.json files there.")
def schema_verb(name: str | None, output: Path | None) -> None:
    """Print the JSON Schema of a file, or of all; `formats` is the same as a page to read."""
    if name == "formats":
        say((formats_page(),))
    elif output is not None:
        say(map(str, write_schemas(output, (name,) if name else tuple(SCHEMAS))))
    else:
        say_json(SCHEMAS[name]() if name else {one: make() for one, make in SCHEMAS.items()})
