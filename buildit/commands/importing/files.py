"""`import FILE`: what kind of recipe a file is, and what imports it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from buildit.commands.importing.directory import ImportedContainer
from buildit.commands.importing.dsc import import_dsc
from buildit.commands.importing.ebuild import import_ebuild
from buildit.commands.importing.recipes import import_recipe
from buildit.commands.run import Options
from buildit.errors import UsageError
from buildit.events import Reporter
from buildit.files import NotRegularError, open_regular
from buildit.model.recipe import OWN_RECIPE, kind_of_name
from buildit.recipe.yaml.node import shown_place

FileImporter = Callable[[Path, Options, tuple[str, ...], Path | None, Reporter], ImportedContainer]

_KINDS = "a Dockerfile, a Flockport recipe, a manifest, NAME-VERSION.ebuild, or NAME_VERSION.dsc"


def importer_of_file(path: Path) -> FileImporter:
    """What imports a file, by its name.

    Raises:
        UsageError: there is no such file, or nothing imports it.
    """
    _check_text(path)
    if path.name.endswith(".ebuild"):
        return import_ebuild
    if path.name.endswith(".dsc"):
        return import_dsc
    if kind_of_name(path.name) not in (None, OWN_RECIPE):
        return import_recipe
    message = f"{shown_place(path)} is nothing that can be imported"
    raise UsageError(message, hint=f"what can be: {_KINDS}")


def _check_text(path: Path) -> None:
    """Raises UsageError where no file of text is at a path."""
    try:
        with open_regular(path, follow=True) as stream:
            head = stream.read(1 << 12)
    except NotRegularError:
        message = f"{shown_place(path)} is no file"
        raise UsageError(message, hint=f"name one: {_KINDS}") from None
    except OSError as error:
        message = f"{shown_place(path)} cannot be read: {error.strerror}"
        raise UsageError(message, hint=f"name a file: {_KINDS}") from error
    if b"\0" in head:
        message = f"{shown_place(path)} is no text"
        raise UsageError(message, hint=f"what can be imported: {_KINDS}")
