"""Names that formats allow: of output files, references, App Container identifiers, accounts and
signals. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from buildit.errors import RecipeError
from buildit.model.image import Architecture, Image, architecture
from buildit.recipe.leaf import LARGEST_ID, id_of

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

    def fitting(run: re.Match[str]) -> str:
        return run[0] if _SEPARATOR.fullmatch(run[0]) else "_"

    return re.sub("[^a-z0-9]+", fitting, text.lower()).strip("._-")


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
    inner = re.sub("^[^A-Za-z0-9]+|[^A-Za-z0-9]+$", "", version)
    joined = re.sub("(?!(?:[-._]|--)[A-Za-z0-9])[^A-Za-z0-9]+", "_", inner)
    return joined[:_TAG_MAX].rstrip("-._") or "latest"


def ac_identifier(foreign: str) -> str:
    """The nearest App Container identifier (appc spec types.md), for suggestions; may be empty."""

    def fitting(run: re.Match[str]) -> str:
        if run[0] in ("-", ".", "_", "~", "/"):
            return run[0]
        return "/" if "/" in run[0] else "-"

    return re.sub("[^a-z0-9]+", fitting, foreign.lower()).strip("-._~/")


def ac_name(foreign: str) -> str:
    """The nearest App Container name (appc spec types.md): `/var/lib/x` gives `var-lib-x`."""
    return re.sub(r"[^a-z0-9]+", "-", foreign.lower()).strip("-")


_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\$?")


def account_problems(name: str) -> Iterator[str]:
    """What is wrong with the name or number of a user or group."""
    if _ACCOUNT.fullmatch(name) is None:
        yield f"{name!r} is neither a name nor a number"
    elif name.isdecimal() and id_of(name) is None:
        yield f"the id {name} is not from 0 to {LARGEST_ID}"


_NAMES = """
    HUP INT QUIT ILL TRAP ABRT IOT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CLD
    CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO POLL PWR SYS RTMIN RTMAX
"""
SIGNALS = frozenset(
    {f"SIG{name}" for name in _NAMES.split()}
    | {f"SIGRTMIN+{number}" for number in range(1, 16)}
    | {f"SIGRTMAX-{number}" for number in range(1, 15)}
)
"""The signals of Linux (signal(7)), as docker, podman and crun take them, beside numbers from 1 to
64; those beyond 34 differ between programs' threads only."""
_MOST = 64


def signal_problems(text: str) -> Iterator[str]:
    """What is wrong with a signal that is written as `SIGQUIT` or `3`."""
    if text in SIGNALS:
        return
    if text.isascii() and text.isdecimal() and not text.startswith("0"):
        if len(text) > 2 or int(text) > _MOST:
            yield f"{text} is not from 1 to {_MOST}"
        return
    upper = text.upper()
    meant = next((name for name in (upper, f"SIG{upper}") if name in SIGNALS), None)
    advice = f"write {meant}" if meant else "such as SIGTERM, SIGQUIT or SIGRTMIN+3"
    yield f"{text!r} is no signal of Linux; {advice}"
