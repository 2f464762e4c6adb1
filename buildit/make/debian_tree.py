"""The tree of a Debian source package: its directory, its changelog, and who holds a change. Pure.

Sources: Debian Policy 4.4 and 5.6.12, deb-changelog(5), deb-version(7).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from buildit.errors import BuildError
from buildit.patch.form import Patch

_HEAD = re.compile(r"(?P<source>\S+) \((?P<version>[^()\s]+)\) (?P<suites>[^;]+);")
_TRAILER = re.compile(r"^ -- .*>  (?P<date>\S.*)$", re.MULTILINE)
_MAINTAINER = "buildit <buildit@localhost>"
"""Never the user: names of people are in no key."""


def source_directory(name: str, version: str) -> str:
    """The directory that dpkg-source makes: `nginx-1.22.1` of 1.22.1-9 or 1:1.22.1-9."""
    upstream = version.partition(":")[2] or version
    return f"{name}-{upstream.rpartition('-')[0] or upstream}"


def changelog_entry(changelog: str, suffix: str) -> str:
    """The entry that goes before those of `changelog`: the same version with `suffix`, at the same
    time, so that SOURCE_DATE_EPOCH stays.

    Raises:
        BuildError: the changelog does not begin with an entry.
    """
    head, trailer = _HEAD.match(changelog.lstrip()), _TRAILER.search(changelog)
    if head is None or trailer is None:
        text = "debian/changelog does not begin with an entry as deb-changelog(5) has it"
        raise BuildError(text, hint='correct it by a patch, or write `version-suffix: ""`')
    return (
        f"{head['source']} ({head['version']}{suffix}) {head['suites']}; urgency=medium\n\n"
        f"  * Built with other patches or options.\n\n"
        f" -- {_MAINTAINER}  {trailer['date']}\n\n"
    )


def holder(patch: Patch, series: Mapping[str, bytes]) -> str:
    """Which of Debian's patches holds most of a change that is there already; "" where none holds
    half of its lines. `series` are their bytes by name."""
    wanted = _added(patch)
    shares = {name: _share(wanted, text) for name, text in series.items()}
    best = max(shares, key=lambda name: shares[name], default="")
    return best if best and shares[best] >= _HALF else ""


_HALF = 0.5
_CHANGED = re.compile(rb"^(?:---|\+\+\+) [^/\s]+/([^\t\r\n]+)", re.MULTILINE)
_LISTED = re.compile(rb"^ ([0-9a-f]{64}) \d+ (\S+)$", re.MULTILINE)


def changers(paths: Iterable[str], series: Mapping[str, bytes]) -> tuple[str, ...]:
    """Which of Debian's patches that are applied change one of these files, in their order."""
    files = {path.encode("utf-8", "surrogateescape") for path in paths}
    lines = (line.split() for line in series.get("series", b"").decode("utf-8").splitlines())
    names = [words[0] for words in lines if words and not words[0].startswith("#")]
    return tuple(one for one in names if files.intersection(_CHANGED.findall(series.get(one, b""))))


def dsc_misfit(dsc: bytes, files: Mapping[str, str]) -> str:
    """What a .dsc says of its files (dsc(5), Checksums-Sha256) that is not so; "" where it fits.
    `files` are those that the archive's index lists, digests by name."""
    for digest, written in _LISTED.findall(dsc):
        name = written.decode("utf-8", "replace")
        if name not in files:
            return f"names {name}, which the archive's index does not list"
        if files[name] != digest.decode():
            return f"names {name} with another digest than the archive's index"
    return ""


def _added(patch: Patch) -> frozenset[bytes]:
    """The changed lines of a patch that tell one change from another."""
    bodies = (hunk.body for file in patch.files for hunk in file.hunks)
    lines = (line for body in bodies for line in body.splitlines() if line[:1] in (b"+", b"-"))
    return frozenset(line.rstrip() for line in lines if line[1:].strip())


def _share(wanted: frozenset[bytes], text: bytes) -> float:
    lines = {line.rstrip() for line in text.splitlines()}
    return len(wanted & lines) / len(wanted) if wanted else 0.0
