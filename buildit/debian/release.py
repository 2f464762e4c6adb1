"""The signed list of an archive's indices (InRelease): verified, checked, then read.

The rules are apt-secure(8)'s, narrowed: only the archive keys in `keys/` count, the suite must be
the one asked for, the time must fit, `Origin` must be Debian, and only SHA-256 is looked at.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from buildit.debian.sources_list import AptSource, Paragraph, paragraphs
from buildit.digest import Digest, is_hex64
from buildit.errors import IntegrityError, RecipeError
from buildit.remote.transport import LocationError, Transport, read_small
from buildit.trust.openpgp import verify_clearsigned

DEBIAN_ORIGIN = "Debian"
MAX_INRELEASE = 16 << 20
"""Largest InRelease in bytes; bookworm's has 150 kB."""
CLOCK_SLACK = 24 * 3600
"""Seconds that the archive's clock may be ahead of ours."""
_PATH = re.compile(r"[A-Za-z0-9+@][A-Za-z0-9+@._/-]*")


@dataclass(frozen=True, slots=True)
class IndexFile:
    """One index: digest and size in bytes."""

    digest: Digest
    size: int


@dataclass(frozen=True, slots=True)
class Release:
    """What a suite says of itself. Times in seconds since 1970. `files` by path below the suite."""

    origin: str
    suite: str
    codename: str
    date: int
    valid_until: int | None
    by_hash: bool
    components: tuple[str, ...]
    architectures: tuple[str, ...]
    files: Mapping[str, IndexFile]
    signers: tuple[str, ...] = ()


def archive_keys() -> tuple[bytes, ...]:
    """The OpenPGP keys of Debian's archive that buildit ships (`keys/README.md`)."""
    folder = Path(__file__).parent / "keys"
    return tuple(path.read_bytes() for path in sorted(folder.glob("*.asc")))


def fetch_release(
    source: AptSource, transport: Transport, keys: Sequence[bytes], now: int
) -> Release:
    """Fetch, verify and check the release of a source.

    Raises:
        FetchError: the archive does not serve it.
        IntegrityError: it is not signed by `keys`, is of another suite, outdated, or malformed.
    """
    url = inrelease_url(source)
    try:
        message = read_small(transport, url, MAX_INRELEASE)
    except LocationError as error:
        error.hint = error.hint or "check the network and the machine's apt sources"
        raise
    release = read_release(message, keys, url)
    check_release(release, source, now)
    return release


def inrelease_url(source: AptSource) -> str:
    return f"{source.uri}/dists/{source.suite}/InRelease"


def read_release(message: bytes, keys: Sequence[bytes], place: str) -> Release:
    """Verify an InRelease, then read what was verified.

    Raises:
        IntegrityError: a bad signature, or a malformed file.
    """
    try:
        signed = verify_clearsigned(message, keys)
        return _parse(signed.text, signed.fingerprints)
    except RecipeError as error:
        raise IntegrityError(f"malformed release file: {error.message}", place=place) from error
    except IntegrityError as error:
        raise IntegrityError(error.message, place=place, hint=error.hint) from error


def check_release(release: Release, source: AptSource, now: int) -> None:
    """Check a release against what was asked for, at the time `now`.

    Raises:
        IntegrityError: another suite, outdated, or from the future.
    """
    place = inrelease_url(source)
    if source.suite not in (release.suite, release.codename):
        reason = f"is of suite {release.codename!r} ({release.suite!r}), not of {source.suite!r}"
        raise IntegrityError(reason, place=place, hint="the mirror is broken: take another one")
    if source.check_date and release.date > now + CLOCK_SLACK:
        raise IntegrityError(
            f"was signed at {iso_time(release.date)}, which is in the future",
            place=place,
            hint="set this machine's clock",
        )
    if source.check_valid_until and release.valid_until is not None and now > release.valid_until:
        raise IntegrityError(
            f"is valid until {iso_time(release.valid_until)}, which has passed",
            place=place,
            hint="the mirror is out of date: take another one; for a snapshot, say "
            "Check-Valid-Until: no in its apt source",
        )


def iso_time(seconds: int) -> str:
    """`2026-05-16T09:30:11Z`"""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse(text: bytes, signers: tuple[str, ...]) -> Release:
    try:
        found = list(paragraphs(text.decode("utf-8"), "InRelease"))
    except UnicodeDecodeError as error:
        raise IntegrityError("malformed release file: not UTF-8") from error
    if len(found) != 1:
        raise IntegrityError(f"malformed release file: {len(found)} paragraphs")
    (fields,) = found
    return Release(
        origin=_value(fields, "origin"),
        suite=_value(fields, "suite"),
        codename=_value(fields, "codename"),
        date=_time(_required(fields, "date")),
        valid_until=_time(fields["valid-until"].value) if "valid-until" in fields else None,
        by_hash=_value(fields, "acquire-by-hash") == "yes",
        components=tuple(_value(fields, "components").split()),
        architectures=tuple(_value(fields, "architectures").split()),
        files=_files(_required(fields, "sha256")),
        signers=signers,
    )


def _value(fields: Paragraph, name: str) -> str:
    return fields[name].value if name in fields else ""


def _required(fields: Paragraph, name: str) -> str:
    if name not in fields:
        raise IntegrityError(f"malformed release file: no {name!r}")
    return fields[name].value


def _time(text: str) -> int:
    """`Sat, 11 Jul 2026 10:16:37 UTC`"""
    try:
        return int(parsedate_to_datetime(text.replace("UTC", "+0000")).timestamp())
    except (ValueError, OverflowError) as error:
        raise IntegrityError(f"malformed release file: not a time: {text!r}") from error


def _files(text: str) -> Mapping[str, IndexFile]:
    files: dict[str, IndexFile] = {}
    for line in text.split("\n"):
        if not line:
            continue
        words = line.split()
        if len(words) != 3 or not is_hex64(words[0]) or not words[1].isdecimal():
            raise IntegrityError(f"malformed release file: {line[:80]!r}")
        if ".." in words[2] or not _PATH.fullmatch(words[2]):
            raise IntegrityError(f"malformed release file: path {words[2][:80]!r}")
        files[words[2]] = IndexFile(Digest(words[0]), int(words[1]))
    return files
