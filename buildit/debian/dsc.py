"""A .dsc: what a Debian source package says of itself (dsc(5)). Its signature is
not checked: whose it is, the archive's index says."""

from __future__ import annotations

import re
from dataclasses import dataclass

from buildit.debian.apt import paragraphs
from buildit.debian.packages import DEB_NAME
from buildit.debian.relations import debian_key
from buildit.digest import Digest, is_hex64
from buildit.errors import RecipeError

_BEGIN, _SIGNATURE = "-----BEGIN PGP SIGNED MESSAGE-----", "-----BEGIN PGP SIGNATURE-----"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._~-]*")


@dataclass(frozen=True, slots=True)
class SourceControl:
    """`binaries` are the packages that it makes; `files` their SHA-256 by name."""

    name: str
    version: str
    format: str
    binaries: tuple[str, ...]
    files: dict[str, Digest]


def read_dsc(text: str, place: str) -> SourceControl:
    """What the text of a .dsc says, signed or not.

    Raises:
        RecipeError: it is none, or is cut off.
    """
    stanzas = [fields for _, fields in paragraphs(_unsigned(text, place), place)]
    hint = "a .dsc has one paragraph: Format, Source, Version, Checksums-Sha256"
    if len(stanzas) != 1:
        message = f"it has {len(stanzas)} paragraphs"
        raise RecipeError(f"this is no .dsc: {message}", place=place, hint=hint)
    fields = stanzas[0]
    lacking = [one for one in ("source", "version", "checksums-sha256") if not fields.get(one)]
    if lacking:
        message = f"this is no .dsc: it has no field {lacking[0].title()}"
        raise RecipeError(message, place=place, hint=hint)
    name, version = fields["source"], fields["version"]
    try:
        debian_key(version)
    except ValueError as error:
        raise RecipeError(f"the version {version[:60]!r} is malformed", place=place) from error
    if not DEB_NAME.fullmatch(name):
        raise RecipeError(f"the name {name[:60]!r} is malformed", place=place)
    listed = (one.strip() for one in fields.get("binary", "").split(","))
    binaries = tuple(one for one in listed if DEB_NAME.fullmatch(one))
    files = dict(_row(row, place) for row in fields["checksums-sha256"].split("\n") if row.strip())
    return SourceControl(name, version, fields.get("format", "1.0"), binaries, files)


def _row(row: str, place: str) -> tuple[str, Digest]:
    words = row.split()
    match words:
        case [digest, size, name] if is_hex64(digest) and size.isdigit():
            if _FILE_NAME.fullmatch(name):
                return name, Digest(digest)
        case _:
            pass
    raise RecipeError(f"not a file of a source: {row[:80]!r}", place=place, hint="DIGEST SIZE NAME")


def _unsigned(text: str, place: str) -> str:
    """The text inside of a signature (RFC 4880, 7), which must be whole."""
    if not text.lstrip().startswith(_BEGIN):
        return text
    _, _, rest = text.partition("\n\n")
    body, found, _ = rest.partition(_SIGNATURE)
    if not found:
        hint = "was the file cut off? compare it with where it is from"
        raise RecipeError("the signature of this .dsc never begins", place=place, hint=hint)
    return re.sub(r"(?m)^- ", "", body)
