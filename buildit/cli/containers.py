"""`build` and `push`: what makes something of the container in a directory."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

from buildit.cli import options
from buildit.cli.options import DIR, DISCOVER, LOCKED, OFFLINE, OUTPUT, USE, Invocation, Requested
from buildit.cli.remember import remember
from buildit.cli.screen import give
from buildit.commands import building
from buildit.model.image import Emission
from buildit.model.words import size

if TYPE_CHECKING:  # a build that does not publish does without
    from buildit.commands.publish import Published


def _image_plain(one: Emission) -> dict[str, object]:
    return {
        "path": str(one.path),
        "format": one.format,
        "digest": f"sha256:{one.digest}",
        "identifier": one.identifier,
    }


@click.command("build")
@options.of_container(DIR, USE, OUTPUT, LOCKED, OFFLINE, options.JOBS, DISCOVER, options.PUSH)
@click.pass_obj
def build_verb(invocation: Invocation, asked: Requested) -> None:
    """Build the container in DIR; the paths of its images go to stdout."""
    started = time.time_ns()
    with asked.screen() as screen:
        emissions = building.build(asked.options, screen, invocation.stop)
    give(
        emissions,
        lambda found: (str(one.path) for one in found),
        lambda found: {"images": [_image_plain(one) for one in found]},
        as_json=asked.as_json,
    )
    if not asked.as_json:
        remember(invocation.argv, started, asked.options, emissions)


def _pushed_lines(done: Sequence[Published]) -> Iterator[str]:
    for one in done:
        yield (
            f"{one.path}  {one.artifacts} artifacts, {one.blobs} new blobs, {one.files} new files, "
            f"{size(one.sent)}"
        )


@click.command("push", short_help="Publish the packages, the spec and the images of DIR.")
@options.of_container(DIR, USE, LOCKED, OUTPUT, OFFLINE, DISCOVER)
@click.pass_obj
def push_verb(invocation: Invocation, asked: Requested) -> None:
    """Publish the packages, the spec and the images of DIR; build it first."""
    with asked.screen() as screen:
        done = building.push(asked.options, screen, invocation.stop)
    give(done, _pushed_lines, as_json=asked.as_json)
