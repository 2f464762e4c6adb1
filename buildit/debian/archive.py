"""Debian's archive through the machine's own apt sources (sources.list(5)): which archives, suites
and components there are, and their verified indices.

Only where to look is taken from apt's files, never whom to trust: `Signed-By` and `trusted` do not
count. What we cannot use (deb-src, flat archives, cdrom) is skipped and named, what is broken is an
error. Debian's control syntax (deb822(5)), in which newer sources and release files are written, is
read here: paragraphs of `Name: value` fields; strict.

`mirror://debian/…` means the sources whose signed release says `Origin: Debian`. A suite that the
machine does not use itself is looked for below the same places, so that a Debian 12 toolchain can
be chosen on a later Debian too.

An archive's signed list of indices (InRelease) is verified, checked, then read. The rules are
apt-secure(8)'s, narrowed: only the archive keys in `keys/` count, the suite must be the one asked
for, the time must fit, `Origin` must be Debian, and only SHA-256 is looked at.
"""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from buildit.archive.admit import Budget
from buildit.archive.compress import decompressed
from buildit.debian.packages import INDEX_FORMAT, Indices, PackageIndex, build_index
from buildit.digest import Digest, digest_bytes, is_hex64
from buildit.errors import FetchError, IntegrityError, RecipeError, UnsatisfiableError
from buildit.events import Reporter, silent
from buildit.remote.fetch import Fetch, Fetcher
from buildit.remote.transport import LocationError, Transport, hide_credentials, read_small
from buildit.trust.openpgp import verify_clearsigned

ETC_APT = Path("/etc/apt")
SCHEMES = ("https", "http", "file")

_FIELD = re.compile(r"([!-9;-~]+):[ \t]*(.*)")
_NAME = re.compile(r"[A-Za-z0-9_.-]+\.(list|sources)")  # apt reads no other names
_ONE_LINE = re.compile(
    r"(deb|deb-src)\s+(?:\[([^\]]*)\]\s*)?(\S+)\s+(\S+)((?:\s+[^\s#]+)*)\s*(?:#.*)?"
)
_SUITE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_CHECKS = re.compile(
    r"^\s*Acquire::(Check-Valid-Until|Check-Date)\s+\"?(false|no|0|off)\"?\s*;",
    re.MULTILINE | re.IGNORECASE,
)
_NO = ("no", "false", "0", "off", "without", "disable")


def paragraphs(text: str, place: str) -> Iterator[tuple[int, dict[str, str]]]:
    """All paragraphs: the line on which each begins, and its fields by lower-case name, as names
    are compared without case; further lines of a value are joined by newlines. Lines that begin
    with `#` are comments, as in sources files.

    Raises:
        RecipeError: a line that is no field, or a field given twice.
    """
    fields: dict[str, str] = {}
    lines: dict[str, int] = {}
    last = ""
    for number, line in enumerate([*text.split("\n"), ""], 1):
        line = line.rstrip("\r")
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield min(lines.values()), fields
            fields, lines, last = {}, {}, ""
        elif line[0] in " \t" and last:
            fields[last] += f"\n{line.strip()}"
        else:
            found, at = _FIELD.fullmatch(line), f"{place}:{number}:1"
            if found is None:
                raise RecipeError(f"not a field: {line[:60]!r}", place=at, hint="write Name: value")
            last = found[1].lower()
            if last in lines:
                what = f"field {found[1]!r} stands there twice, first on line {lines[last]}"
                raise RecipeError(what, place=at)
            fields[last], lines[last] = found[2].strip(), number


@dataclass(frozen=True, slots=True)
class AptSource:
    """One suite of one archive: indices lie below `uri`/dists/`suite`, packages below `uri`/pool.

    `uri` is without a slash at its end. The checks are off where the administrator switched them
    off for this source or all of apt.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    check_valid_until: bool = True
    check_date: bool = True


@dataclass(frozen=True, slots=True)
class MachineSources:
    """What the machine uses, and for each entry that we cannot use its place and why."""

    usable: tuple[AptSource, ...]
    skipped: tuple[str, ...]


_Entry = tuple[str, Mapping[str, str]]
"""Where an entry of either syntax stands, and its fields as deb822 has them."""


class _UnusableError(Exception):
    """An entry that apt can use and we cannot."""


def read_sources(etc_apt: Path = ETC_APT) -> MachineSources:
    """The sources in `sources.list` and `sources.list.d`, in apt's order, each once.

    Raises:
        RecipeError: a file has an entry that apt would refuse, or cannot be read.
    """
    off = _switched_off(etc_apt)
    usable: dict[AptSource, None] = {}
    skipped: list[str] = []
    for path in _files(etc_apt):
        text = _read(path)
        entries = _deb822(text, path) if path.suffix == ".sources" else _one_line(text, path)
        for place, fields in entries:
            try:
                usable |= dict.fromkeys(_sources(fields, off, place))
            except _UnusableError as reason:
                skipped.append(f"{place}: {reason}")
    return MachineSources(tuple(usable), tuple(skipped))


def _files(etc_apt: Path) -> tuple[Path, ...]:
    folder = etc_apt / "sources.list.d"
    further = sorted(folder.iterdir(), key=lambda path: path.name) if folder.is_dir() else []
    main = etc_apt / "sources.list"
    return (
        *((main,) if main.is_file() else ()),
        *(path for path in further if _NAME.fullmatch(path.name) and path.is_file()),
    )


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", place=str(path)) from error
    except UnicodeDecodeError as error:
        raise RecipeError("is not UTF-8 text", place=str(path)) from error


def _switched_off(etc_apt: Path) -> frozenset[str]:
    """Which of apt's checks of times the administrator switched off for all sources."""
    folder = etc_apt / "apt.conf.d"
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    found: set[str] = set()
    for path in (*paths, etc_apt / "apt.conf"):
        if path.is_file() and not path.name.startswith("."):
            text = path.read_bytes().decode("utf-8", "replace")
            found |= {match[1].lower() for match in _CHECKS.finditer(text)}
    return frozenset(found)


def _one_line(text: str, path: Path) -> Iterator[_Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        place = f"{path}:{number}:1"
        found = _ONE_LINE.fullmatch(line)
        if found is None:
            hint = "write: deb [options] URI suite component…"
            raise RecipeError("not an apt source", place=place, hint=hint)
        names = ("types", "uris", "suites", "components")
        kind, options, *values = found.groups()
        yield place, _options(options, place) | dict(zip(names, (kind, *values), strict=True))


def _options(text: str | None, place: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in (text or "").split():
        name, equals, value = word.partition("=")
        if not equals:
            raise RecipeError(f"option {word!r} has no value", place=place)
        options[name.lower()] = value
    return options


def _deb822(text: str, path: Path) -> Iterator[_Entry]:
    for line, fields in paragraphs(text, str(path)):
        place = f"{path}:{line}:1"
        if fields.get("enabled", "").lower() in _NO:
            continue
        if missing := [name for name in ("types", "uris", "suites") if name not in fields]:
            raise RecipeError(f"apt source without {missing[0]!r}", place=place)
        yield place, fields


def _sources(fields: Mapping[str, str], off: frozenset[str], place: str) -> Iterator[AptSource]:
    if "deb" not in fields["types"].split():
        raise _UnusableError("source packages only")
    components = tuple(fields.get("components", "").split())
    valid, date = (
        name not in off and " ".join(fields.get(name, "yes").split()).lower() not in _NO
        for name in ("check-valid-until", "check-date")
    )
    uris = [resolved for uri in fields["uris"].split() for resolved in _resolved(uri)]
    for uri in uris:
        for suite in fields["suites"].split():
            if suite.endswith("/"):
                raise _UnusableError(f"flat archive {uri} {suite}")
            if not _SUITE.fullmatch(suite) or ".." in suite or not components:
                raise RecipeError(f"suite {suite!r} without components", place=place)
            yield AptSource(uri, suite, components, valid and date, date)


def _resolved(uri: str) -> tuple[str, ...]:
    """The URI, or those of a `mirror+file:` list (apt-transport-mirror(1)), as cloud images use."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() == "mirror+file":
        try:
            lines = Path(re.sub("^/+", "/", rest)).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise _UnusableError(f"mirror list {uri} cannot be read: {error}") from error
        listed = (line.split()[0] for line in lines if line.strip() and line[0] != "#")
        return tuple(one for line in listed for one in _resolved(line))
    if scheme.lower() not in SCHEMES:
        raise _UnusableError(f"{hide_credentials(uri)} is neither https:, http: nor file:")
    return (uri.rstrip("/"),)


DEBIAN_ORIGIN = "Debian"
MAX_INRELEASE = 16 << 20
"""Largest InRelease in bytes; bookworm's has 150 kB."""
CLOCK_SLACK = 24 * 3600
"""Seconds that the archive's clock may be ahead of ours."""
_PATH = re.compile(r"[A-Za-z0-9+@][A-Za-z0-9+@._/-]*")
KEEP_SECONDS = 30 * 24 * 3600
"""How long a cached index stays after its last use."""
MAX_INDEX = 1 << 30
"""Largest plain Packages file in bytes; bookworm's has 47 MB."""
_FORMS = (".xz", ".gz", "")


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
    files: Mapping[str, IndexFile]


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
        return _parse(verify_clearsigned(message, keys).text)
    except IntegrityError as error:
        raise IntegrityError(error.message, place=place, hint=error.hint) from error
    except (RecipeError, ValueError) as error:
        reason = error.message if isinstance(error, RecipeError) else error
        raise IntegrityError(f"malformed release file: {reason}", place=place) from error


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
        reason = f"was signed at {iso_time(release.date)}, which is in the future"
        raise IntegrityError(reason, place=place, hint="set this machine's clock")
    if source.check_valid_until and release.valid_until is not None and now > release.valid_until:
        reason = f"is valid until {iso_time(release.valid_until)}, which has passed"
        way = "for a snapshot, say Check-Valid-Until: no in its apt source"
        hint = f"the mirror is out of date: take another one; {way}"
        raise IntegrityError(reason, place=place, hint=hint)


def iso_time(seconds: int) -> str:
    """`2026-05-16T09:30:11Z`"""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse(text: bytes) -> Release:
    """ValueError says what is malformed."""
    try:
        found = [fields for _, fields in paragraphs(text.decode("utf-8"), "InRelease")]
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    if len(found) != 1:
        raise ValueError(f"{len(found)} paragraphs")
    (fields,) = found
    for name in ("date", "sha256"):
        if name not in fields:
            raise ValueError(f"no {name!r}")
    return Release(
        origin=fields.get("origin", ""),
        suite=fields.get("suite", ""),
        codename=fields.get("codename", ""),
        date=_time(fields["date"]),
        valid_until=_time(fields["valid-until"]) if "valid-until" in fields else None,
        by_hash=fields.get("acquire-by-hash") == "yes",
        components=tuple(fields.get("components", "").split()),
        files=dict(_file(line) for line in fields["sha256"].split("\n") if line),
    )


def _time(text: str) -> int:
    """`Sat, 11 Jul 2026 10:16:37 UTC`"""
    try:
        return int(parsedate_to_datetime(text.replace("UTC", "+0000")).timestamp())
    except (ValueError, OverflowError) as error:
        raise ValueError(f"not a time: {text!r}") from error


def _file(line: str) -> tuple[str, IndexFile]:
    words = line.split()
    if len(words) != 3 or not is_hex64(words[0]) or not words[1].isdecimal():
        raise ValueError(f"{line[:80]!r}")
    digest, size, path = words
    if ".." in path or not _PATH.fullmatch(path):
        raise ValueError(f"path {path[:80]!r}")
    return path, IndexFile(Digest(digest), int(size))


class _Fetched:
    """A `BlobSink` in memory, for packed indices (10 MB), which are read once and thrown away."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}

    def has(self, digest: Digest) -> bool:
        return digest in self.blobs

    @contextmanager
    def ingest(self) -> Iterator[_Ingest]:
        yield _Ingest(self.blobs)


class _Ingest(io.BytesIO):
    def __init__(self, blobs: dict[Digest, bytes]) -> None:
        super().__init__()
        self._blobs = blobs

    def commit(self, expected: Digest | None = None) -> Digest:
        data = self.getvalue()
        digest = digest_bytes(data)
        if expected is not None and digest != expected:
            raise IntegrityError(f"expected sha256:{expected}, got sha256:{digest}")
        self._blobs[digest] = data
        return digest


@dataclass(frozen=True, slots=True)
class DebianArchive:
    """The archive as `sources` reach it; `keys` sign it; `now` in seconds since 1970.

    `cache` is a directory for indices, ours alone and safe to delete.
    """

    sources: Sequence[AptSource]
    transport: Transport
    cache: Path
    keys: Sequence[bytes]
    now: int
    reporter: Reporter = silent

    def bases(self) -> tuple[str, ...]:
        """The URIs of Debian's archive among the sources, in their order.

        Times are not checked: a digest pins whatever is fetched from there.

        Raises:
            FetchError: none of the sources is Debian's, or none answers.
        """
        found: dict[str, None] = {}
        reasons: list[str] = []
        for source in self.sources:
            if source.uri in found:
                continue
            try:
                url = inrelease_url(source)
                message = read_small(self.transport, url, MAX_INRELEASE)
                if read_release(message, self.keys, url).origin == DEBIAN_ORIGIN:
                    found[source.uri] = None
                else:
                    reasons.append(f"{url}: its origin is not Debian")
            except (FetchError, IntegrityError) as error:
                reasons.append(str(error))
        if not found:
            raise _no_source(reasons)
        return tuple(found)

    @contextmanager
    def open_indices(self, suites: Sequence[str], arch: str) -> Iterator[Indices]:
        """The package indices of some suites for one Debian architecture (`amd64`).

        Raises:
            FetchError: a suite, or one of its indices, is served by no source.
            IntegrityError: a signature, digest, suite, origin or time is wrong.
            StoreError: the cache cannot be written.
        """
        releases = [self._release(suite) for suite in suites]
        wanted = [
            _packages(source, release, component, arch)
            for source, release in releases
            for component in _components(source, release)
        ]
        self._bring([index for index in wanted if not self._cached(index).is_file()])
        with ExitStack() as stack:
            opened = []
            for index in wanted:
                path = self._cached(index)
                os.utime(path)
                opened.append(stack.enter_context(closing(PackageIndex(path, index.suite))))
            oldest = time.time() - KEEP_SECONDS
            for path in self.cache.glob("*.index"):
                if path.stat().st_mtime < oldest:
                    path.unlink(missing_ok=True)
            dates = {source.suite: iso_time(release.date) for source, release in releases}
            yield Indices(tuple(opened), dates)

    def _release(self, suite: str) -> tuple[AptSource, Release]:
        own = [source for source in self.sources if source.suite == suite]
        others = {
            source.uri: replace(source, suite=suite, components=("main",))
            for source in self.sources
            if all(source.uri != one.uri for one in own)
        }
        reasons: list[str] = []
        for source in (*own, *others.values()):
            try:
                release = fetch_release(source, self.transport, self.keys, self.now)
            except FetchError as error:
                reasons.append(str(error))
                continue
            except IntegrityError as error:
                if source in own:
                    raise  # what should be Debian's and does not verify is not passed over
                reasons.append(str(error))
                continue
            if release.origin == DEBIAN_ORIGIN:
                return source, release
            reasons.append(f"{inrelease_url(source)}: its origin is {release.origin!r}")
        raise _no_source(reasons, suite)

    def _cached(self, index: _Packages) -> Path:
        return self.cache / f"{index.digest}.{INDEX_FORMAT}.index"

    def _bring(self, missing: Sequence[_Packages]) -> None:
        """Fetch, verify and convert indices."""
        if not missing:
            return
        sink = _Fetched()
        fetcher = Fetcher(sink, self.transport, self.cache / "partial", reporter=self.reporter)
        fetcher.fetch_all([index.fetch for index in missing], 4)
        for index in missing:
            packed = io.BytesIO(sink.blobs.pop(index.digest))
            plain = decompressed(packed, Budget(total_bytes=MAX_INDEX), index.fetch.name)
            build_index(plain, self._cached(index), index.fetch.name, index.stated)


@dataclass(frozen=True, slots=True)
class _Packages:
    """One Packages file: its packed form, and the plain one's digest where the release has it."""

    suite: str
    fetch: Fetch
    digest: Digest
    stated: Digest | None


def _packages(source: AptSource, release: Release, component: str, arch: str) -> _Packages:
    name = f"{component}/binary-{arch}/Packages"
    base = f"{source.uri}/dists/{source.suite}"
    for form in _FORMS:
        file = release.files.get(name + form)
        if file is None:
            continue
        by_hash = f"{base}/{component}/binary-{arch}/by-hash/SHA256/{file.digest}"
        urls = ((by_hash,) if release.by_hash else ()) + (f"{base}/{name}{form}",)
        fetch = Fetch(f"{source.suite} {name}{form}", urls, file.digest, file.size)
        plain = release.files.get(name)
        return _Packages(source.suite, fetch, file.digest, plain.digest if plain else None)
    hint = "check the architecture"
    raise UnsatisfiableError(f"has no packages of {component} for {arch}", place=base, hint=hint)


def _components(source: AptSource, release: Release) -> tuple[str, ...]:
    """The source's components that the suite has; the security archive writes `updates/main`."""
    had = {component.rpartition("/")[2] for component in release.components}
    return tuple(component for component in source.components if component in had)


def _no_source(reasons: Sequence[str], suite: str = "") -> FetchError:
    what = f"has the suite {suite!r}" if suite else "is Debian's archive"
    hint = "add one: deb https://HOST/debian bookworm main, in /etc/apt/sources.list.d"
    details = tuple(reasons)
    return FetchError(f"no apt source of this machine {what}", hint=hint, details=details)
