"""`ls` and `verify`: what images hold, and whether they hold the same tree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG, filemode

import click

from buildit.cli.options import JSON, PATH
from buildit.cli.screen import columns, give, printable
from buildit.codec import to_plain
from buildit.commands.statement import kept_statement
from buildit.errors import IntegrityError
from buildit.image.reading import Reading
from buildit.image.verify import Report, read_image
from buildit.image.verify import verify as compare
from buildit.model.tree import Kind
from buildit.model.words import counted

_TYPES = {Kind.DIRECTORY: S_IFDIR, Kind.SYMLINK: S_IFLNK}


def report_lines(found: Report) -> tuple[str, ...]:
    """A row for each image, its problems below the table; equal trees are said to be so."""
    rows = [("image", "format", "entries", "tree")]
    for image in found.images:
        tree = f"sha256:{image.root}" if image.root else "unreadable"
        rows.append((str(image.path), image.format, str(image.entries), tree))
    problems = [f"{image.path}: {each}" for image in found.images for each in image.problems]
    same = ("All hold the same tree.",) if found.passed() and len(found.images) > 1 else ()
    return (*columns(rows), *map(printable, problems), *same)


def report_plain(found: Report) -> dict[str, object]:
    images = [{**to_plain(one), "statement": kept_statement(one.path)} for one in found.images]
    return {"passed": found.passed(), "images": images, "differences": found.differences}


def raise_for_report(found: Report) -> None:
    """Fail where an image is not valid or the trees differ.

    Raises:
        IntegrityError: so it is; the details are the differences.
    """
    if found.passed():
        return
    if found.differences:
        told = f"the images hold different trees: {len(found.differences)} differences"
        hint, first = "each line says how the other image differs from this one", found.images[0]
        raise IntegrityError(told, place=str(first.path), hint=hint, details=found.differences)
    count = counted(sum(len(image.problems) for image in found.images), "problem")
    hint = "build them again: what they are made from is in the store"
    raise IntegrityError(f"not all images are what they should be: {count}", hint=hint)


@click.command("verify", short_help="Read images, and prove that they hold the same tree.")
@click.argument("paths", metavar="PATH...", type=PATH, nargs=-1)
@JSON
def verify_verb(paths: tuple[Path, ...], as_json: bool) -> None:
    """Read images to their last byte, and prove that all of them hold the same tree.

    A PATH is an image of any format, or an unpacked directory.
    """
    found = compare(paths)
    give(found, report_lines, report_plain, as_json=as_json)
    raise_for_report(found)


def entry_lines(found: Reading) -> Iterator[str]:
    """A line for each path, as `tar -tv` has them, times in UTC."""
    entries = {entry.path: entry for entry in found.entries or ()}
    rows = []
    for path, entry in entries.items():
        one = entries[entry.target] if entry.kind is Kind.HARDLINK else entry
        mode = filemode(_TYPES.get(one.kind, S_IFREG) | one.mode)
        time = datetime.fromtimestamp(one.mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")
        arrow = {Kind.SYMLINK: " -> ", Kind.HARDLINK: " link to /"}.get(entry.kind, "")
        name = printable(f"/{path}{arrow}{entry.target if arrow else ''}")
        rows.append((mode, f"{one.uid}:{one.gid}", f"{one.size:>10}", time, name))
    yield from columns(rows)


def entries_plain(found: Reading) -> dict[str, object]:
    entries = [
        {**to_plain(replace(one, xattrs={})), "xattrs": sorted(one.xattrs)}
        for one in found.entries or ()
    ]
    return {"format": found.format, "identifier": found.identifier, "entries": entries}


@click.command("ls", short_help="List what an image holds.")
@click.argument("image", type=PATH)
@JSON
def ls_verb(image: Path, as_json: bool) -> None:
    """List every path of an image of any format, with mode, owner, size and time.

    All of it is read, and what `verify` finds wrong is told.
    """
    found = read_image(image)
    if found.entries is not None:
        give(found, entry_lines, entries_plain, as_json=as_json)
    if found.problems:
        first, *more = found.problems
        hint = "build it again: what it is made from is in the store"
        raise IntegrityError(first, place=str(image), hint=hint, details=tuple(more))
