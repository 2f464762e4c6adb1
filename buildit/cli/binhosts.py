"""`trust` and `pages`: whose builds are taken from binhosts, and the pages of one made anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import click

from buildit.cli.options import JSON, own_store
from buildit.cli.screen import columns, give, printable
from buildit.events import silent
from buildit.recipe.config import own_signers_file
from buildit.site.pages import repage
from buildit.trust.signers import Added, Trusting, add_signer, trusting


def _trusting_lines(found: Trusting) -> Iterator[str]:
    if found.people:
        rows = [("builder", "SSH key", "whose", "from")]
        for one in found.people:
            source = f"{one.source} ({one.remark})" if one.remark else one.source
            rows.append((one.builder[:12], one.fingerprint, one.who, source))
        yield from columns(rows)
    else:
        yield "Nobody is trusted: what binhosts have is not used, and all is built here."
    for match, need in found.rules:
        yield printable(f"{match}: {need} of them must say the same")
    if found.people:
        yield "Otherwise one of them is enough." if found.rules else "One is enough."
    if found.seen:
        yield "Not trusted, and seen on a binhost:"
        yield from (f"  {one.fingerprint}  (builder {one.builder[:12]})" for one in found.seen)
        yield "To trust one whose fingerprint its owner told you: buildit trust add SHA256:…"


def _added_lines(done: Added) -> Iterator[str]:
    state = "is trusted now" if done.new else "was trusted already"
    yield printable(f"{done.who} {state}: {done.fingerprint}")
    yield printable(f"in {done.path}")


@click.group(
    "trust",
    invoke_without_command=True,
    short_help="Show whose builds are taken, and whose would be.",
)
@JSON
@click.pass_context
def trust_verb(context: click.Context, as_json: bool) -> None:
    """Show whose builds are taken from binhosts, and how many must agree."""
    if context.invoked_subcommand is not None:
        return
    with own_store() as (store, settings):
        found = trusting(settings.trust, store)
    give(found, _trusting_lines, as_json=as_json)


@trust_verb.command("add")
@click.argument("key", metavar="KEYFILE|FINGERPRINT")
@click.option("--as", "who", metavar="NAME", help="Whose key it is, such as ada@example.org.")
@JSON
def _add(key: str, who: str | None, as_json: bool) -> None:
    """Trust a builder: add the key to the allowed-signers file.

    KEYFILE is the builder's .pub file. FINGERPRINT (SHA256:…) is that of a key which signed what a
    binhost has: compare it with what its owner tells you by other means.
    """
    with own_store() as (store, settings):
        signers = Path(settings.trust.allowed_signers or own_signers_file(os.environ))
        done = add_signer(signers, store, key, who)
    give(done, _added_lines, as_json=as_json)


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
