"""Verbs about the container in a directory: build, plan, lock, explain, use, push."""

from __future__ import annotations

import time
from dataclasses import replace

import click

from buildit.cli.options import (
    DIR,
    DISCOVER,
    JOBS,
    LOCKED,
    OFFLINE,
    OUTPUT,
    PUSH,
    USE,
    Invocation,
    Requested,
    of_container,
)
from buildit.cli.results import columns, give, say, say_json


@click.command("build")
@of_container(DIR, USE, OUTPUT, LOCKED, OFFLINE, JOBS, DISCOVER, PUSH)
@click.pass_obj
def build_verb(invocation: Invocation, asked: Requested) -> None:
    """Build the container in DIR; the paths of its images go to stdout."""
    from buildit.cli.emitted import images_plain
    from buildit.cli.remember import remember
    from buildit.commands import building

    started = time.time_ns()
    with asked.screen() as screen:
        emissions = building.build(asked.options, screen, invocation.stop)
    if asked.as_json:
        say_json({"images": images_plain(emissions)})
    else:
        say(str(emission.path) for emission in emissions)
        remember(invocation.argv, started, asked.options, emissions)


@click.command("plan", short_help="Say what a build of DIR would do, and why.")
@of_container(DIR, USE, LOCKED, OFFLINE, DISCOVER)
def plan_verb(asked: Requested) -> None:
    """Say what a build of DIR would do: packages, their keys, what is fetched. Builds nothing."""
    from buildit.cli.planned import plan_lines, plan_plain
    from buildit.cli.relocking import announce
    from buildit.commands import preparing
    from buildit.commands.forecast import forecast
    from buildit.events import Notice

    with asked.screen() as screen:
        prepared = preparing.with_synced(preparing.prepare(asked.options, screen))
        for remark in prepared.plan.remarks:
            screen(Notice(remark))
        announce(prepared, screen)
        with preparing.run_of(prepared, screen) as run:
            found = forecast(prepared.plan, run.store, run.remotes)
    give(
        prepared.plan,
        lambda plan: plan_lines(plan, found),
        lambda plan: plan_plain(plan, found),
        as_json=asked.as_json,
    )


@click.command("lock", short_help="Write DIR/buildit.lock; with --update, move what is remote.")
@of_container(USE, LOCKED, OFFLINE)
@click.argument("words", metavar="[DIR] [NAME...]", nargs=-1)
@click.option("--update", is_flag=True, help="Let NAMEs move; without a NAME, everything.")
def lock_verb(asked: Requested, words: tuple[str, ...], update: bool) -> None:
    """Write DIR/buildit.lock (DIR is `.` where it is left out).

    A NAME is a package (category/name), `toolchain`, or the URL of a patch.
    """
    from buildit.cli.relocking import relock

    with asked.screen() as screen:
        done = relock(asked.options, words, screen, update=update)
    give(done, lambda one: (str(one["lock"]),), dict, as_json=asked.as_json)


@click.command("explain", short_help="Show the merged recipe of PACKAGE, each value with its line.")
@of_container(DIR, USE)
@click.argument("package", required=False)
def explain_verb(asked: Requested, package: str | None) -> None:
    """Show the merged recipe of PACKAGE, each value with the line that it comes from.

    DIR is a container's, or has a pkg.yaml. Without PACKAGE: what DIR itself names. Beside the
    pkg.yaml of a tree, PACKAGE is a version.
    """
    from buildit.cli.merged import recipe_lines
    from buildit.cli.recipes import recipe_plain, recipes

    found = recipes(asked.options, package)
    if asked.as_json:
        say_json([recipe_plain(*one) for one in found])
        return
    for number, (one, demands) in enumerate(found):
        say((*([""] if number else []), f"# {one.name}-{one.version}, from {one.origin}"))
        say(f"# asked for: {demand}" for demand in demands)
        say(recipe_lines(one.node))


@click.command("use", short_help="List the flags of every package of DIR, and who set them.")
@of_container(DIR, USE)
def use_verb(asked: Requested) -> None:
    """List the flags of every package of DIR: value, who decided it, what it means."""
    from buildit.cli.recipes import chosen, flag_rows, flags_plain

    found = chosen(asked.options).selection.chosen.values()
    if asked.as_json:
        say_json([flags_plain(one) for one in found])
        return
    for one in found:
        say((f"{one.package.name}-{one.package.version}", *columns(flag_rows(one), "  ")))


@click.command("push", short_help="Publish the packages, the spec and the images of DIR.")
@of_container(DIR, USE, LOCKED, OUTPUT, OFFLINE, DISCOVER)
@click.pass_obj
def push_verb(invocation: Invocation, asked: Requested) -> None:
    """Publish the packages, the spec and the images of DIR; build it first."""
    from buildit.cli.publishing import pushed_lines, pushed_plain
    from buildit.commands import building

    with asked.screen() as screen:
        done = building.push(asked.options, screen, invocation.stop)
    give(done, pushed_lines, pushed_plain, as_json=asked.as_json)


@click.command("why", short_help="Say why packages of DIR would be built, not reused.")
@of_container(USE, LOCKED, OFFLINE, DISCOVER)
@click.argument("words", metavar="[DIR] [PACKAGE]", nargs=-1)
def why_verb(asked: Requested, words: tuple[str, ...]) -> None:
    """Say why packages of DIR (`.` where it is left out) would be built, or about PACKAGE.

    For each that no place has: the closest build in the local store and on binhosts that list
    names, and what differs (a flag, a patch, a dependency, the toolchain). Builds nothing.
    """
    from buildit.cli.whys import split_words, why_lines, why_plain, whys
    from buildit.commands import preparing

    directory, wanted = split_words(words)
    options = replace(asked.options, directory=directory)
    with asked.screen() as screen:
        prepared = preparing.prepare(options, screen)
        with preparing.run_of(prepared, screen) as run:
            found = whys(prepared, run.store, run.remotes, wanted)
    give(found, why_lines, why_plain, as_json=asked.as_json)
