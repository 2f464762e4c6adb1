"""Names that formats allow: of output files, references, App Container identifiers. Pure."""

from __future__ import annotations

import re

from buildit.errors import RecipeError
from buildit.model.image import Architecture, Image, architecture

AC_IDENTIFIER = re.compile(r"[a-z0-9]+([-._~/][a-z0-9]+)*")
"""appc spec types.md, "AC Identifier Type"."""

AC_NAME = re.compile(r"[a-z0-9]+([-][a-z0-9]+)*")
"""appc spec types.md, "AC Name Type"."""

FILE_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~:@-]*")
_SEPARATOR = re.compile(r"[._]|__|-+")
NAME_MAX = 255
_TAG_MAX = 128


def machine(image: Image) -> Architecture:
    """The image's machine.

    Raises:
        RecipeError: nothing is called so.
    """
    try:
        return architecture(image.arch)
    except ValueError as error:
        raise RecipeError(
            str(error), place=image.place or None, hint="set `arch` in the container's `vars`"
        ) from error


def file_reference(text: str) -> str:
    """The text as a path component of a repository's name (distribution reference grammar):
    `Base-1.0+b1` gives `base-1.0_b1`. It begins and ends with a letter or digit.

    podman and buildah read the path of an OCI layout as a reference, and take no other characters.
    """
    runs = re.split(r"([^a-z0-9]+)", text.lower())
    kept = [run if at % 2 == 0 or _SEPARATOR.fullmatch(run) else "_" for at, run in enumerate(runs)]
    return "".join(kept).strip("._-")


def reference(image: Image) -> str:
    """A name for clients that load the image: `localhost/NAME:TAG`, as podman calls what comes
    from no registry; a name that begins with a host keeps it."""
    parts = [file_reference(part) for part in image.name.split("/")]
    name = "/".join(part for part in parts if part)
    host = len(parts) > 1 and "." in parts[0]
    return f"{name if host else f'localhost/{name}'}:{tag(image.version)}"


def tag(version: str) -> str:
    """The version as both a tag of registries and an OCI `ref.name` (annotations.md) allow it.

    Letters and digits stay, as does a lone `-`, `.`, `_` or a `--` between them; any other run of
    characters becomes `_`.
    """
    parts = re.split(r"([^A-Za-z0-9]+)", version)
    while parts and not re.fullmatch(r"[A-Za-z0-9]+", parts[0]):
        parts.pop(0)
    while parts and not re.fullmatch(r"[A-Za-z0-9]+", parts[-1]):
        parts.pop()
    joined = "".join(
        part if at % 2 == 0 or part in ("-", ".", "_", "--") else "_"
        for at, part in enumerate(parts)
    )
    return joined[:_TAG_MAX].rstrip("-._") or "latest"


def ac_identifier(foreign: str) -> str:
    """The nearest App Container identifier (appc spec types.md), for suggestions; may be empty."""
    words = re.split(r"([^a-z0-9]+)", foreign.lower())
    kept = [word if at % 2 == 0 else _separator(word) for at, word in enumerate(words)]
    return "".join(kept).strip("-._~/")


def _separator(run: str) -> str:
    allowed = [char for char in run if char in "-._~/"]
    return allowed[0] if len(run) == 1 and allowed else "/" if "/" in run else "-"


def ac_name(foreign: str) -> str:
    """The nearest App Container name (appc spec types.md): `/var/lib/x` gives `var-lib-x`."""
    return re.sub(r"[^a-z0-9]+", "-", foreign.lower()).strip("-")
