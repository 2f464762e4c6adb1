"""`import`: what is not a container of ours as a container directory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from buildit.cli import options
from buildit.cli.options import OFFLINE, PATH, Requested
from buildit.cli.screen import give, printable
from buildit.commands.importing.directory import ImportedContainer
from buildit.errors import UsageError
from buildit.events import Notice
from buildit.image.formats.table import FORMATS
from buildit.model.words import guess
from buildit.recipe.yaml.node import shown_place

if TYPE_CHECKING:
    from buildit.commands.run import Options
    from buildit.events import Reporter

    Importer = Callable[[Options, tuple[str, ...], Path | None, Reporter], ImportedContainer]

IMPORTED_AS = ("aci",)
"""The formats of a container of Debian's packages, where the command line says none."""


def _importer(what: str | None, suite: str | None) -> Importer:
    """What imports it, by what it is.

    Raises:
        UsageError: it is nothing that can be imported.
    """
    if (what is None) == (suite is None):
        message = "name one thing to import"
        hint = "write a file, debian:NAME[,NAME…], or --suite debian-12"
        raise UsageError(message, hint=hint)
    from buildit.commands.importing import debian, files

    if suite is not None:
        return lambda options, images, *rest: debian.import_suite(
            suite, options, images or IMPORTED_AS, *rest
        )
    word = what or ""
    if word.startswith(debian.NAMES_DEBIAN):
        return lambda options, images, *rest: debian.import_debian(
            word, options, images or IMPORTED_AS, *rest
        )
    if not os.path.lexists(word) and not os.path.dirname(word) and "." not in word:
        message = f"{word!r} is nothing that can be imported"
        raise UsageError(message, hint=f"a Debian package is written debian:{word}")
    importer = files.importer_of_file(Path(word))
    return lambda *asked: importer(Path(word), *asked)


def _formats(words: tuple[str, ...]) -> tuple[str, ...]:
    """The formats of `--image TYPE[,TYPE]`; none where that says none.

    Raises:
        UsageError: there is no such format.
    """
    found = dict.fromkeys(one.strip() for word in words for one in word.split(","))
    for one in found:
        if one not in FORMATS:
            hint = f"{guess(one, FORMATS)}formats: {', '.join(FORMATS)}"
            raise UsageError(f"there is no image format {one!r}", place="--image", hint=hint)
    return tuple(found)


def _imported_lines(found: ImportedContainer) -> Iterator[str]:
    yield printable(shown_place(found.directory))


@click.command(
    "import", short_help="Make a container of a recipe of another kind, or Debian's packages."
)
@options.of_container(OFFLINE, has_recipe=False)
@click.argument("what", metavar="[FILE|debian:NAME[,NAME…]]", required=False)
@click.option(
    "--suite",
    metavar="SUITE",
    help="Debian's own root instead, as debootstrap makes it: debian-12.",
)
@click.option(
    "--output",
    "into",
    metavar="DIR",
    type=PATH,
    help="The directory; by default the name, or where the recipe lies.",
)
@click.option(
    "--image",
    "images",
    metavar="TYPE[,TYPE]",
    multiple=True,
    help="Formats of the image: oci, aci, lxc, rootfs … May be repeated.",
)
def import_verb(
    asked: Requested,
    what: str | None,
    suite: str | None,
    into: Path | None,
    images: tuple[str, ...],
) -> None:
    """Make a container directory, ready to build; its path goes to stdout.

    FILE is a Dockerfile, a Flockport recipe, a manifest, NAME-VERSION.ebuild or NAME_VERSION.dsc:
    it is read, never run, and what was not understood is told and stays as a comment.

    debian:NAME[=VERSION][,NAME…] is these packages with all that they depend on, and the program of
    the first that has an obvious one. --suite is Debian's own root. buildit.lock has the exact
    packages. What is there already is never written over.
    """
    importer, formats = _importer(what, suite), _formats(images)
    with asked.screen() as screen:
        found = importer(asked.options, formats, into, screen)
        for remark in found.remarks:
            screen(Notice(remark, warning=True))
        screen(Notice(f"build it: buildit {shown_place(found.directory)}"))
    give(found, _imported_lines, as_json=asked.as_json)
