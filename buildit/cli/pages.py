"""`pages`: the pages of a binhost, made anew."""

from __future__ import annotations

import click

from buildit.cli.options import JSON, own_store
from buildit.cli.screen import give
from buildit.events import silent
from buildit.site.pages import repage


@click.command("pages", short_help="Make the pages of a binhost anew, from what lies there.")
@click.argument("what", metavar="DIR|REPOSITORY")
@click.option("--title", metavar="TEXT", default="", help="What the pages call the binhost.")
@click.option("--url", metavar="URL", default="", help="Where its root is served: https://…")
@JSON
def pages_verb(what: str, title: str, url: str, as_json: bool) -> None:
    """Make the pages of a binhost anew, from what lies there: after something was deleted, moved or
    mirrored. No container is needed, and nothing but views is written.
    """
    with own_store() as (opened, settings):
        done = repage(what, settings.repositories, settings.trust, opened, silent, title, url)
    give(done, lambda one: (f"{one.path}  {one.written} files written",), as_json=as_json)
