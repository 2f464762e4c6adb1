"""`buildit verify`: read images back, independent of who wrote them, and compare their trees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from buildit.digest import Digest
from buildit.errors import BuilditError, UsageError
from buildit.image.formats.read_aci import read_aci
from buildit.image.formats.read_directory import read_directory
from buildit.image.formats.read_oci import read_oci
from buildit.image.reading import Reading
from buildit.model.tree import Entry

_FIELDS = ("kind", "mode", "uid", "gid", "size", "digest", "target", "mtime", "xattrs")


@dataclass(frozen=True, slots=True)
class Verified:
    """One image that was read.

    `root` is the root digest of its tree, None where the tree could not be read. `problems` are
    rules of its format that it breaks, and bytes that are not what they are named for.
    """

    path: Path
    format: str
    identifier: str
    root: Digest | None
    entries: int
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """`differences` are of each further image against the first, by path."""

    images: tuple[Verified, ...]
    differences: tuple[str, ...]

    def passed(self) -> bool:
        """Every image is valid, and all hold the same tree."""
        roots = {image.root for image in self.images}
        sound = not self.differences and not any(image.problems for image in self.images)
        return sound and len(roots) == 1 and None not in roots


def verify(paths: Sequence[Path]) -> Report:
    """Read OCI layouts, ACIs and unpacked directories to their last byte, and compare them.

    Raises:
        UsageError: no path is given, or one cannot be read.
    """
    if not paths:
        raise UsageError("nothing to verify", hint="buildit verify out/NAME.aci out/NAME.oci")
    readings = [_read(path) for path in paths]
    images = tuple(
        Verified(path, each.format, each.identifier, each.root(), each.count(), each.problems)
        for path, each in zip(paths, readings, strict=True)
    )
    differences = tuple(
        f"{paths[number]}: {line}"
        for number, reading in enumerate(readings)
        if images[number].root != images[0].root
        for line in _differences(readings[0], reading)
    )
    return Report(images, differences)


def _read(path: Path) -> Reading:
    try:
        if not path.is_dir():
            return read_aci(path)
        if (path / "oci-layout").exists():
            return read_oci(path)
        return read_directory(path)
    except OSError as error:
        raise UsageError(
            f"cannot be read: {error.strerror}",
            place=str(path),
            hint="name an .aci file, an OCI layout or an unpacked directory",
        ) from error
    except BuilditError as error:
        return Reading("directory", "", None, (error.message,))


def _differences(first: Reading, other: Reading) -> Iterator[str]:
    if first.entries is None or other.entries is None:
        return
    ours, theirs = first.by_path(), other.by_path()
    for path in sorted(ours.keys() | theirs.keys()):
        shown = path or "/"
        if path not in theirs:
            yield f"{shown!r} is missing"
        elif path not in ours:
            yield f"{shown!r} is only here"
        elif changed := _changed(ours[path], theirs[path]):
            yield f"{shown!r}: {changed}"


def _changed(ours: Entry, theirs: Entry) -> str:
    parts = []
    for name in _FIELDS:
        old, new = getattr(ours, name), getattr(theirs, name)
        if old != new:
            parts.append(f"{name} {_shown(name, new)} instead of {_shown(name, old)}")
    return ", ".join(parts)


def _shown(name: str, value: object) -> str:
    if name == "mode" and isinstance(value, int):
        return f"{value:04o}"
    return str(value)[:40]
