"""A new source before a recipe names it: its digest, its size and what it holds."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from buildit.archive.source import Inspected, inspect_source
from buildit.archive.tar.admit import Budget
from buildit.commands.run import Downloads
from buildit.digest import Digest, digest_file
from buildit.errors import BuilditError, FetchError, UsageError
from buildit.model.words import name_of, names_archive
from buildit.remote.fetch import LARGEST_DOWNLOAD, Fetch, plain_http

_URL = re.compile(r"(?:https?|mirror)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Described:
    """A source: `url` is "" for a file of this machine, `size` in bytes; `inside` is None where it
    cannot be unpacked, and `reason` says why. `doubt` is what speaks against its bytes."""

    name: str
    url: str
    digest: Digest
    size: int
    inside: Inspected | None
    reason: str = ""
    doubt: str = ""


def describe(source: str, downloads: Downloads) -> Described:
    """Look at a URL, which is fetched into the store, or at a file of this machine.

    Raises:
        UsageError: there is no such file.
        FetchError: the URL is not served; plain http is refused, as nothing says what is right.
    """
    if _URL.match(source):
        name = name_of(source)
        listed = source.lower().startswith("mirror:")
        want = Fetch(name or source, (source,), proves_itself=listed, largest=LARGEST_DOWNLOAD)
        try:
            digest = downloads.fetcher().fetch(want)
        except FetchError as error:
            error.hint = "download it in a way that you trust, then: buildit digest FILE"
            raise
        found = _described(downloads.store.path(digest), name or digest[:12], source, digest)
        return replace(found, doubt=_doubt(source, downloads) if listed else "")
    path = Path(source)
    if not path.is_file():
        raise UsageError(
            f"no such file: {source}", hint="name a file, or a URL: https://…, mirror://NAME/…"
        )
    return _described(path, path.name, "", digest_file(path))


def _doubt(source: str, downloads: Downloads) -> str:
    """The user chose the mirrors of a list, and machines' apt sources often are plain http."""
    bases = downloads.mirrors(source.partition("://")[2].partition("/")[0])
    plain = any(map(plain_http, bases))
    return "it may have come over plain http: compare the digest with upstream's" if plain else ""


def _described(path: Path, name: str, url: str, digest: Digest) -> Described:
    size = path.stat().st_size
    single = "" if names_archive(name) else name
    try:
        inside = inspect_source(path, place=name, single=single, budget=Budget())
    except BuilditError as error:
        return Described(name, url, digest, size, None, error.message)
    return Described(name, url, digest, size, inside)
