"""What an emitter of layers must know of the merged tree, without building all of it.

Of ten thousand paths a handful lie in more than one layer. Only those are laid over each other by
`image.rootfs`, whose rules stay the only ones; the rest is set arithmetic over the listings.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from buildit.archive.contents import FORMAT, parse_contents
from buildit.digest import canonical
from buildit.errors import IntegrityError, RecipeError
from buildit.image.rootfs import GENERATED, Rootfs, directories_above, merge, restated, topmost
from buildit.model.image import Layer
from buildit.model.tree import Entry, Kind

Row = Mapping[str, Any]
_DIRECTORY = Kind.DIRECTORY.value
_HARDLINK = Kind.HARDLINK.value


@dataclass(frozen=True, slots=True)
class Survey:
    """`restated` is as in `image.rootfs.Rootfs`, `rows` has the uppermost row of each path.

    Rows of hard links are those of the files that they name, with their own paths.
    """

    restated: tuple[Entry, ...]
    notices: tuple[str, ...]
    rows: Mapping[str, Row]

    def find(self, path: str) -> Entry | None:
        """The entry at a path of the merged tree; a hard link is the file that it names."""
        stated = next((entry for entry in self.restated if entry.path == path), None)
        row = self.rows.get(path)
        return _entries([row])[0] if row is not None and stated is None else stated


def survey(
    layers: Sequence[Layer],
    listings: Sequence[bytes],
    epoch: int,
    groups: Sequence[range] = (),
) -> Survey:
    """Find clashes, directories to restate and what a user should see; as `rootfs.merge` would.

    `listings` are the contents blobs of the layers, `groups` those that become one layer each.

    Raises:
        RecipeError: layers clash.
        IntegrityError: a listing is damaged.
    """
    rows = [_rows(listing, layer) for listing, layer in zip(listings, layers, strict=True)]
    uppermost = {row["path"]: row for listing in rows for row in _resolved(listing)}
    pairs = [[(row["path"], row["kind"] == _DIRECTORY) for row in each] for each in rows]
    shown = topmost(pairs)
    together = topmost([pair for number in each for pair in pairs[number]] for each in groups)
    shown |= {path: number for path, number in together.items() if number == GENERATED}
    contested = _contested(rows, uppermost)
    contested |= {path for path, number in shown.items() if number == GENERATED}
    contested |= directories_above(contested)
    if not contested:
        return Survey((), (), uppermost)
    parts = [_entries([row for row in each if row["path"] in contested]) for each in rows]
    rootfs = _merged(layers, rows, parts, epoch)
    wanted = {entry.path: entry for entry in rootfs.entries() if entry.path in contested}
    return Survey(restated(shown, parts, wanted), rootfs.notices, uppermost)


def _merged(
    layers: Sequence[Layer],
    rows: Sequence[Sequence[Row]],
    parts: Sequence[Sequence[Entry]],
    epoch: int,
) -> Rootfs:
    try:
        return merge(layers, parts, epoch)
    except RecipeError:
        return merge(layers, [_entries(each) for each in rows], epoch)  # names every owner


def _rows(listing: bytes, layer: Layer) -> list[Row]:
    try:
        value = json.loads(listing)
        if value["format"] != FORMAT:
            raise ValueError(f"format {value['format']!r} is not {FORMAT}")
        rows: list[Row] = value["entries"]
        places = {row["path"]: row["mode"] for row in rows}
        linked = {row["target"] for row in rows if row["kind"] == _HARDLINK}
        if not linked <= places.keys():
            raise ValueError("it lacks the file of a hard link")
        return rows
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"the contents of {layer.title} are damaged: {error}",
            place=layer.contents,
            hint="run `buildit store verify`; it sets damaged objects aside",
        ) from error


def _resolved(listing: Sequence[Row]) -> Iterable[Row]:
    """The rows of one layer, a hard link with all that its file has, as another file may come
    to lie at the path that it names."""
    if not any(row["kind"] == _HARDLINK for row in listing):
        return listing
    places = {row["path"]: row for row in listing}
    return [
        {**places[row["target"]], "path": row["path"]} if row["kind"] == _HARDLINK else row
        for row in listing
    ]


def _contested(rows: Sequence[Sequence[Row]], uppermost: Mapping[str, Row]) -> set[str]:
    """Paths that the merge must look at: what it says of all others is known without it.

    In several layers and not a directory everywhere; directories whose mode or owner differs;
    paths that differ only in case; paths beneath what is no directory.
    """
    leaves: set[str] = set()
    directories: set[str] = set()
    attributes: set[tuple[str, ...]] = set()
    contested: set[str] = set()
    for listing in rows:
        inner = [row for row in listing if row["kind"] == _DIRECTORY]
        outer = {row["path"] for row in listing if row["kind"] != _DIRECTORY}
        contested |= leaves & outer
        leaves |= outer
        directories |= {row["path"] for row in inner}
        attributes |= {
            (row["path"], row["mode"], row.get("uid", 0), row.get("gid", 0)) for row in inner
        }
    contested |= leaves & directories
    if len(attributes) > len(directories):
        contested |= _repeated((path, path) for path, *_ in attributes)
    orphans = _orphans(uppermost, directories)
    paths = uppermost.keys() | orphans
    if len({path.casefold() for path in paths}) < len(paths):
        contested |= _repeated((path.casefold(), path) for path in paths)
    return _with_targets(contested | orphans, rows)


def _repeated(pairs: Iterable[tuple[str, str]]) -> set[str]:
    """The values of keys that come more than once."""
    groups: dict[str, list[str]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return {value for group in groups.values() if len(group) > 1 for value in group}


def _orphans(uppermost: Mapping[str, Row], directories: set[str]) -> set[str]:
    """Paths whose parent no layer brings as a directory, and what lies at or above that parent."""
    parents = {path.rpartition("/")[0] for path in uppermost}
    missing = parents - directories - {""}
    if not missing:
        return set()
    found = {path for path in uppermost if path.rpartition("/")[0] in missing}
    for parent in missing:
        while parent:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def _with_targets(contested: set[str], rows: Sequence[Sequence[Row]]) -> set[str]:
    """And the files that contested hard links name, without which a link says nothing."""
    links = [row for listing in rows for row in listing if row["kind"] == _HARDLINK]
    while more := {row["target"] for row in links if row["path"] in contested} - contested:
        contested = contested | more
    return contested


def _entries(rows: Sequence[Row]) -> tuple[Entry, ...]:
    return parse_contents(canonical({"entries": rows, "format": FORMAT}))
