"""Verbs about trust: who may have built what we take."""

from __future__ import annotations

from dataclasses import asdict

import click

from buildit.cli.options import JSON
from buildit.cli.results import give


@click.group(
    "trust",
    invoke_without_command=True,
    short_help="Show whose builds are taken, and whose would be.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Results as JSON on stdout, progress as JSON on stderr."
)
@click.pass_context
def trust_verb(context: click.Context, as_json: bool) -> None:
    """Show whose builds are taken from binhosts, and how many must agree."""
    if context.invoked_subcommand is not None:
        return
    from buildit.cli.builds import own_store
    from buildit.cli.trusting import trusting_lines
    from buildit.trust.signers import trusting

    with own_store() as (store, settings):
        found = trusting(settings.trust, store)
    give(found, trusting_lines, asdict, as_json=as_json)


@trust_verb.command("add")
@click.argument("key", metavar="KEYFILE|FINGERPRINT")
@click.option("--as", "who", metavar="NAME", help="Whose key it is, such as ada@example.org.")
@JSON
def _add(key: str, who: str | None, as_json: bool) -> None:
    """Trust a builder: add the key to the allowed-signers file.

    KEYFILE is the builder's .pub file. FINGERPRINT (SHA256:…) is that of a key which signed what a
    binhost has: compare it with what its owner tells you by other means.
    """
    from buildit.cli.builds import own_store
    from buildit.cli.trusting import added_lines
    from buildit.trust.signers import add_signer

    with own_store() as (store, settings):
        done = add_signer(settings.trust, store, key, who)
    give(done, added_lines, asdict, as_json=as_json)
