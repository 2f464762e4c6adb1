"""`digest`: new sources as the lines of a recipe, and the rest as comments."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import click

from buildit.archive.source import OLDEST
from buildit.cli.options import JSON, own_store
from buildit.cli.screen import give, on_screen, printable
from buildit.codec import to_plain
from buildit.commands.fetching import Described, describe
from buildit.commands.run import opened_run
from buildit.model.words import name_of, yaml_word


def source_lines(found: Iterable[Described]) -> Iterator[str]:
    """A `sources:` that can be copied into a recipe."""
    yield "sources:"
    for one in found:
        yield from _entry(one)


def _source_plain(one: Described) -> dict[str, object]:
    inside = to_plain(one.inside) or dict.fromkeys(("kind", "members", "top", "newest"))
    return {
        "name": one.name,
        "url": one.url or None,
        "sha256": one.digest,
        "size": one.size,
        "unpack": one.inside is not None,
        "strip": _strip(one),
        **inside,
        "remarks": list(_remarks(one)),
    }


def _entry(one: Described) -> Iterator[str]:
    if one.url:
        yield f"  - url: {yaml_word(one.url)}"
    else:
        url = yaml_word(f"https://WHERE/{one.name}")
        yield f"  - url: {url}  # until it is right: in distfiles/"
    if one.url and not name_of(one.url):
        yield f"    name: {json.dumps(one.name)}"  # the digits of a digest are no number
    yield f"    sha256: {one.digest}"
    if one.inside is None:
        yield "    unpack: no"
    elif _strip(one) == 0 and not one.inside.kind.startswith("file"):
        yield "    strip: 0"
    yield f"    # {one.size} bytes; {', '.join(_facts(one))}"
    for remark in _remarks(one)[0 if one.inside else 1 :]:
        yield f"    # {printable(remark)}"


def _remarks(one: Described) -> tuple[str, ...]:
    return (
        *(one.inside.remarks if one.inside else (one.reason,)),
        *((one.doubt,) if one.doubt else ()),
    )


def _facts(one: Described) -> Iterator[str]:
    inside = one.inside
    if inside is None:
        yield f"cannot be unpacked: {printable(one.reason)}"
        return
    yield inside.kind
    if inside.kind.startswith("file"):
        return
    where = f"in {printable(inside.top)}/" if inside.top else "with no common top directory"
    yield f"{inside.members} member{'s' if inside.members != 1 else ''} {where}"
    if inside.newest > OLDEST:
        yield f"newest of {datetime.fromtimestamp(inside.newest, UTC):%Y-%m-%d}"


def _strip(one: Described) -> int:
    return 1 if one.inside is not None and one.inside.top else 0


@click.command("digest", short_help="Print a new source's digest, as a recipe has it.")
@click.argument("sources", metavar="URL|FILE...", nargs=-1, required=True)
@JSON
def digest_verb(sources: tuple[str, ...], as_json: bool) -> None:
    """Print the `sources:` of a recipe for new sources: digest and size, what they hold, and the
    `strip` that fits. What a URL gives is kept in the store, so that a build does not ask again.
    """
    with (
        on_screen(as_json=as_json) as screen,
        own_store(screen) as (opened, settings),
        opened_run(settings, opened, screen) as run,
    ):
        found = [describe(source, run.downloads) for source in sources]
    give(found, source_lines, lambda all_: [*map(_source_plain, all_)], as_json=as_json)
