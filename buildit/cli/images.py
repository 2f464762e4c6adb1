"""`ls`, `verify` and `pull`: what images hold, in files or in a registry, whether they hold the
same tree, and how they come from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFREG, filemode
from typing import TYPE_CHECKING, TypeVar

import click

from buildit.cli.options import JSON, PATH, own_store
from buildit.cli.screen import columns, give, on_screen, printable
from buildit.codec import to_plain
from buildit.commands.statement import kept_statement
from buildit.errors import IntegrityError, UsageError
from buildit.image.output import parts_beside
from buildit.image.reading import Reading
from buildit.image.verify import Report, compared, read_each, read_image
from buildit.model.platform import spelled_platform
from buildit.model.tree import Kind
from buildit.model.words import counted, size

if TYPE_CHECKING:
    from buildit.commands.pull import PulledImage
    from buildit.events import Reporter
    from buildit.remote.registry.client import Registry
    from buildit.store.cas import Store

_T = TypeVar("_T")


def _spelled(_context: click.Context, _option: click.Parameter, name: str) -> str:
    return spelled_platform(name, place="--platform") if name else ""


PLATFORM = click.option(
    "--platform",
    metavar="OS/ARCH",
    default="",
    show_default="this machine's",
    callback=_spelled,
    help="Which image, where there is one for each of several platforms.",
)
_TYPES = {Kind.DIRECTORY: S_IFDIR, Kind.SYMLINK: S_IFLNK}


def report_lines(found: Report) -> tuple[str, ...]:
    """A row for each image, its problems below the table; equal trees are said to be so."""
    rows = [("image", "format", "entries", "tree")]
    paths = [one.path for one in found.images]
    for image in found.images:
        tree = f"sha256:{image.root}" if image.root else "unreadable"
        of = f" ({image.platform})" if paths.count(image.path) > 1 else ""
        rows.append((f"{image.path}{of}", image.format, str(image.entries), tree))
    problems = [f"{image.path}: {each}" for image in found.images for each in image.problems]
    several = " for each platform" if len(found.images) > len({*paths}) else ""
    same = (
        (f"All hold the same tree{several}.",) if found.passed() and len(found.images) > 1 else ()
    )
    return (*columns(rows), *map(printable, problems), *same)


def report_plain(found: Report) -> dict[str, object]:
    images = [
        {**to_plain(one), "statement": kept_statement(Path(one.path))} for one in found.images
    ]
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
        raise IntegrityError(told, place=first.path, hint=hint, details=found.differences)
    count = counted(sum(len(image.problems) for image in found.images), "problem")
    hint = "build them again: what they are made from is in the store"
    raise IntegrityError(f"not all images are what they should be: {count}", hint=hint)


def _at_registry(
    named: str, *, as_json: bool, work: Callable[[Registry, Store, Reporter], _T]
) -> _T:
    """What `work` makes of a reference, with the store and a screen."""
    from buildit.remote.registry.client import Registry
    from buildit.remote.registry.reference import parse_reference
    from buildit.remote.web import WebTransport

    at = parse_reference(named)
    with (
        on_screen(as_json=as_json) as screen,
        own_store(screen) as (store, _),
        closing(WebTransport()) as web,
    ):
        return work(Registry(web, at), store, screen)


def _read(named: str, platform: str, *, as_json: bool) -> Reading:
    """An image at a path or in a registry."""
    if "://" not in named:
        found = read_image(Path(named), platform)
        if platform and not found.format.startswith("oci"):
            hint = "leave --platform out: it chooses in an OCI image for several platforms"
            raise UsageError("the image is for one platform", place=named, hint=hint)
        return found
    from buildit.commands.pull import read_remote

    return _at_registry(
        named,
        as_json=as_json,
        work=lambda registry, store, report: read_remote(registry, platform, store, report),
    )


@click.command("verify", short_help="Read images, and prove that they hold the same tree.")
@click.argument("paths", metavar="PATH|oci://HOST/NAME[:TAG]...", nargs=-1)
@PLATFORM
@JSON
def verify_verb(paths: tuple[str, ...], platform: str, as_json: bool) -> None:
    """Read images to their last byte, and prove that all of them hold the same tree.

    A PATH is an image of any format, or an unpacked directory; oci://HOST/NAME[:TAG] is one in a
    registry.
    """
    # `verify out/*` names the images beside a split one, too, which are read with it
    parts = {parts_beside(Path(name)) for name in paths}
    found = compared(
        [
            (name, one)
            for name in paths
            if Path(name) not in parts
            for one in (
                (_read(name, platform, as_json=as_json),)
                if platform or "://" in name
                else read_each(Path(name))
            )
        ]
    )
    give(found, report_lines, report_plain, as_json=as_json)
    raise_for_report(found)


@click.command("pull", short_help="Bring an image from a registry, its digests as they are.")
@click.argument("image", metavar="oci://HOST/NAME[:TAG]")
@click.option(
    "--output",
    metavar="DIR",
    type=PATH,
    default=Path("out"),
    show_default=True,
    help="Where the image goes, as NAME-TAG-OS-ARCH.oci.",
)
@PLATFORM
@JSON
def pull_verb(image: str, output: Path, platform: str, as_json: bool) -> None:
    """Bring an image from a registry, as an OCI layout of the very bytes that lie there.

    Blobs that `ls` or `verify` read are in the store and do not travel again.
    """
    from buildit.commands.pull import pull_image

    done = _at_registry(
        image,
        as_json=as_json,
        work=lambda registry, store, report: pull_image(registry, platform, store, output, report),
    )
    give(done, _pulled_lines, as_json=as_json)


def _pulled_lines(done: PulledImage) -> Iterator[str]:
    new = f"{counted(done.blobs, 'new blob')}, {size(done.received)}"
    yield f"{done.path}  {done.reference}, {done.platform}, {new}"


def entry_lines(found: Reading) -> Iterator[str]:
    """A line for each path, as `tar -tv` has them, times in UTC."""
    entries = {entry.path: entry for entry in found.entries or ()}
    rows = []
    for path, entry in entries.items():
        one = entries[entry.target] if entry.kind is Kind.HARDLINK else entry
        mode = filemode(_TYPES.get(one.kind, S_IFREG) | one.mode)
        arrow = {Kind.SYMLINK: " -> ", Kind.HARDLINK: " link to /"}.get(entry.kind, "")
        name = printable(f"/{path}{arrow}{entry.target if arrow else ''}")
        owners, size, time = f"{one.uid}:{one.gid}", f"{one.size:>10}", _time(one.mtime)
        rows.append((mode, owners, size, time, name))
    yield from columns(rows)


def _time(mtime: int) -> str:
    """In UTC; as a number where no calendar has it."""
    try:
        return datetime.fromtimestamp(mtime, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return str(mtime)


def entries_plain(found: Reading) -> dict[str, object]:
    entries = [
        {**to_plain(replace(one, xattrs={})), "xattrs": sorted(one.xattrs)}
        for one in found.entries or ()
    ]
    return {"format": found.format, "identifier": found.identifier, "entries": entries}


@click.command("ls", short_help="List what an image holds.")
@click.argument("image", metavar="IMAGE|oci://HOST/NAME[:TAG]")
@PLATFORM
@JSON
def ls_verb(image: str, platform: str, as_json: bool) -> None:
    """List every path of an image of any format, with mode, owner, size and time.

    All of it is read, and what `verify` finds wrong is told.
    """
    found = _read(image, platform, as_json=as_json)
    if found.entries is not None:
        give(found, entry_lines, entries_plain, as_json=as_json)
    if found.problems:
        first, *more = found.problems
        hint = "build it again: what it is made from is in the store"
        raise IntegrityError(first, place=image, hint=hint, details=tuple(more))
