"""Verbs about what the store and binhosts have: show, log, shell, pages, and `store` itself."""

from __future__ import annotations

import sys

import click

from buildit.cli.options import JSON
from buildit.cli.results import say, say_json


@click.command()
@click.argument("build", metavar="KEY|NAME")
@click.option("--files", is_flag=True, help="List the files of every output.")
@click.option("--record", is_flag=True, help="Print the record that the key is the digest of.")
@JSON
def show(build: str, files: bool, record: bool, as_json: bool) -> None:
    """Show a build: outputs, their needs and who provides them.

    A build is named by its key, the first 8 digits of it or more, its HASH, its package's name
    (the newest one), or the path of its statement.
    """
    from buildit.cli import artifact_view as view
    from buildit.cli.lookup import own_store
    from buildit.cli.reading import found_build

    with own_store() as (store, _):
        found = found_build(store, build)
        if as_json:
            say_json(view.artifact_plain(found, store))
            return
        say(view.artifact_lines(found, store))
        say(view.file_lines(found, store) if files else ())
        say(view.record_lines(found, store) if record else ())


@click.command(short_help="Print the log of a build; without a name, of the last failure.")
@click.argument("build", metavar="[KEY|NAME]", required=False)
@JSON
def log(build: str | None, as_json: bool) -> None:
    """Print the log of a build, finished or failed; without a name that of the last failure."""
    from buildit.cli.lookup import own_store
    from buildit.cli.reading import build_log, log_text

    with own_store() as (store, _), build_log(store, build) as (title, stream):
        if as_json:
            say_json({"build": title, "log": stream.read().decode("utf-8", "replace")})
            return
        for chunk in log_text(stream, terminal=sys.stdout.isatty()):
            sys.stdout.write(chunk)


@click.command(short_help="Enter the tree of a failed build, in its sandbox.")
@click.argument("build", metavar="[KEY|NAME]", required=False)
def shell(build: str | None) -> int:
    """Enter the tree of a failed build, in its sandbox; without a name that of the last failure."""
    from buildit.cli.entering import enter
    from buildit.cli.lookup import failure_of, own_store
    from buildit.cli.reading import not_failed

    with own_store() as (store, settings):
        failure = failure_of(store, build)
        if failure is None:
            raise not_failed(build or "")
        return enter(failure, store, settings.limits)


@click.group(no_args_is_help=False)
def store() -> None:
    """Look after the local store."""


@store.command("list")
@JSON
def list_(as_json: bool) -> None:
    """List every build, and every failed build that is remembered."""
    from buildit.cli.housekeeping import listing, listing_lines
    from buildit.cli.lookup import own_store

    with own_store() as (opened, _):
        found = listing(opened)
    if as_json:
        say_json(found)
    else:
        say(listing_lines(found))


@store.command(short_help="Read every object; set aside what is corrupt.")
@JSON
def verify(as_json: bool) -> None:
    """Read every object; what is corrupt is set aside, to be fetched or built anew."""
    from buildit.cli.housekeeping import raise_for_faults, verified_lines, verified_plain
    from buildit.cli.lookup import own_store
    from buildit.store.check import check_store as check

    with own_store() as (opened, _):
        found = check(opened)
    if as_json:
        say_json(verified_plain(found))
    else:
        say(verified_lines(found))
    raise_for_faults(found)


@store.command()
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@JSON
def gc(dry_run: bool, as_json: bool) -> None:
    """Remove what no container's lock and no running buildit needs."""
    from buildit.cli.housekeeping import garbage_lines, garbage_plain, sweep
    from buildit.cli.lookup import own_store

    with own_store() as (opened, _):
        found = sweep(opened, dry_run=dry_run)
    if as_json:
        say_json(garbage_plain(found))
    else:
        say(garbage_lines(found, dry_run=dry_run))


@click.command(short_help="Make the pages of a binhost anew, from what lies there.")
@click.argument("what", metavar="DIR|REPOSITORY")
@click.option("--title", metavar="TEXT", default="", help="What the pages call the binhost.")
@click.option("--url", metavar="URL", default="", help="Where its root is served: https://…")
@JSON
def pages(what: str, title: str, url: str, as_json: bool) -> None:
    """Make the pages of a binhost anew, from what lies there: after something was deleted, moved or
    mirrored. No container is needed, and nothing but views is written.
    """
    from dataclasses import asdict

    from buildit.cli.lookup import own_store
    from buildit.events import silent
    from buildit.site.pages import repage

    with own_store() as (opened, settings):
        done = repage(what, settings.repositories, settings.trust, opened, silent, title, url)
    if as_json:
        say_json(asdict(done))
    else:
        say((f"{done.path}  {done.written} files written",))


@click.command(short_help="Print a new source's digest, as a recipe has it.")
@click.argument("sources", metavar="URL|FILE...", nargs=-1, required=True)
@JSON
def digest(sources: tuple[str, ...], as_json: bool) -> None:
    """Print the `sources:` of a recipe for new sources: digest and size, what they hold, and the
    `strip` that fits. What a URL gives is kept in the store, so that a build does not ask again.
    """
    from buildit.cli.lookup import own_store
    from buildit.cli.screen import shown
    from buildit.cli.sourced import source_lines, source_plain
    from buildit.commands.describing import describe
    from buildit.commands.run import opened_run

    with (
        shown(sys.stderr, as_json=as_json) as screen,
        own_store(screen) as (opened, settings),
        opened_run(settings, opened, screen) as run,
    ):
        found = [describe(source, run.downloads) for source in sources]
    if as_json:
        say_json([source_plain(one) for one in found])
    else:
        say(source_lines(found))


COMMANDS = (show, log, shell, store, pages, digest)
