"""The merged tree of an image: ordered layers laid over each other, every clash named. Pure.

Two packages never own one path, unless what they put there is the same. A step (sync, users) may
replace a file or a link, never a directory by a file or the reverse, and never one of the links
that merge `/lib` and its like into `/usr`. So the tree does not depend on the order of packages.

A directory has the attributes that the last layer with an entry for it gives, but that a package's
plain `0755 0:0` never takes what was declared below (1777 of `tmp`). Engines with an overlay file
system see something else: there the topmost layer that holds anything beneath a directory decides,
by defaults where it has no entry (overlayfs, "Merged directories"). `Rootfs.restated` are the
directories where that differs: written once more on top, all see one tree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildit.archive.merged import TOP_LINKS
from buildit.digest import Digest
from buildit.errors import IntegrityError, RecipeError
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry, Kind, sort_key

GENERATED = -1
"""The layer number of directories that no layer brings but some path needs."""

SHOWN = 20


@dataclass(frozen=True, slots=True)
class Member:
    """One path of the merged tree.

    `layer` is the number of the layer that brings it, or `GENERATED`. `source` is the path whose
    bytes in that layer's tar are the content; it differs from the entry's own path where a hard
    link outlives the file that it pointed to.
    """

    entry: Entry
    layer: int
    source: str


@dataclass(frozen=True, slots=True)
class Rootfs:
    """Members in `sort_key` order, and remarks that a user should see but need not act on.

    `restated` are the directories whose attributes the uppermost layer that has them, or something
    beneath them, does not give; those that no layer brings are among them.
    """

    members: tuple[Member, ...]
    notices: tuple[str, ...]
    restated: tuple[Entry, ...] = ()

    def entries(self) -> tuple[Entry, ...]:
        return tuple(member.entry for member in self.members)

    def finder(self) -> Callable[[str], Entry | None]:
        """What gives the entry at a path; a hard link is the file that it names."""
        places = {member.entry.path: member.entry for member in self.members}

        def find(path: str) -> Entry | None:
            entry = places.get(path)
            if entry is not None and entry.kind is Kind.HARDLINK:
                return places[entry.target]
            return entry

        return find


Tree = dict[str, Member]


def merge(layers: Sequence[Layer], listings: Sequence[Sequence[Entry]], epoch: int) -> Rootfs:
    """Lay the layers over each other, bottom first, and complete the directories.

    `listings` are the entries of each layer. A directory that some path needs and no layer brings
    is generated: 0755, 0:0, `epoch`. Where packages share the same file, the later layer's
    mtime and hard links count, as they do in every reader of OCI layers.

    Raises:
        RecipeError: layers clash; all clashes are in the details, by path.
        IntegrityError: a listing contradicts itself.
    """
    overlay = _overlaid(layers, listings)
    tree = overlay.tree
    overlay.complete(list(tree), epoch)
    if overlay.clashes:
        raise _clash_error(overlay.clashes, layers, listings)
    members = _with_links(tree)
    shown = topmost(
        [(entry.path, entry.kind is Kind.DIRECTORY) for entry in listing] for listing in listings
    )
    entries = {path: member.entry for path, member in tree.items()}
    notices = (*overlay.told(), *_case_notice(tree))
    return Rootfs(members, notices, restated(shown, listings, entries))


def merge_group(layers: Sequence[Layer], listings: Sequence[Sequence[Entry]]) -> Rootfs:
    """Lay neighbouring layers of an image that merges without a clash into one, adding nothing.

    Member.layer counts within the group.
    """
    overlay = _overlaid(layers, listings)
    if overlay.clashes:
        raise _clash_error(overlay.clashes, layers, listings)
    return Rootfs(_with_links(overlay.tree), overlay.told())


@dataclass(slots=True)
class Overlay:
    """A tree that grows layer by layer. `clashes` are paths; `notices` are by path."""

    layers: list[Layer] = field(default_factory=list)
    tree: Tree = field(default_factory=dict)
    clashes: set[str] = field(default_factory=set)
    notices: dict[str, str] = field(default_factory=dict)

    def lay(self, layer: Layer, listing: Sequence[Entry]) -> None:
        """Lay one more layer over the tree.

        Raises:
            IntegrityError: the listing contradicts itself.
        """
        number = len(self.layers)
        self.layers.append(layer)
        for member in _members(listing, number):
            path = member.entry.path
            lower = self.tree.get(path)
            if lower is not None and lower.layer == GENERATED:
                if member.entry.kind is not Kind.DIRECTORY:
                    self.clashes.add(path)
            elif lower is not None:
                below = self.layers[lower.layer]
                if _clash(lower, below, member, layer):
                    self.clashes.add(path)
                    self.notices.pop(path, None)
                elif member.entry.kind is Kind.DIRECTORY:
                    member = self._directory(lower, member, layer)
            self.tree[path] = member

    def _directory(self, lower: Member, upper: Member, above: Layer) -> Member:
        """Which of two entries of a directory counts; they may agree but for the time."""
        old, new = attributes(lower.entry), attributes(upper.entry)
        if above.kind is not LayerKind.PACKAGE or old == new:
            return upper
        counts = lower if new == PLAIN else upper
        texts = [f"{each.mode:04o} {each.uid}:{each.gid}" for each in (lower.entry, upper.entry)]
        path, title = upper.entry.path, self.layers[lower.layer].title
        self.notices[path] = (
            f"directory {path!r} is {texts[0]} in {title} and {texts[1]} in {above.title}: "
            f"{texts[0] if counts is lower else texts[1]} counts"
        )
        return counts

    def complete(self, paths: Iterable[str], epoch: int) -> None:
        """Generate the missing parents of paths; what is there and no directory is a clash."""
        for parent in directories_above(paths):
            there = self.tree.get(parent)
            if there is None:
                entry = Entry(parent, Kind.DIRECTORY, 0o755, mtime=epoch)
                self.tree[parent] = Member(entry, GENERATED, parent)
            elif there.entry.kind is not Kind.DIRECTORY:
                self.clashes.add(parent)

    def told(self) -> tuple[str, ...]:
        """The notices in the order of their paths."""
        return tuple(self.notices[path] for path in sorted(self.notices))

    def entries(self) -> dict[str, Entry]:
        """The entries by path, hard links as the files that they name."""
        return {path: member.entry for path, member in self.tree.items()}


def attributes(entry: Entry) -> tuple[object, ...]:
    """All that a directory has but its time."""
    return entry.mode, entry.uid, entry.gid, tuple(sorted(entry.xattrs.items()))


PLAIN = (0o755, 0, 0, ())
"""The `attributes` of a directory about which its package says nothing."""


def restated(
    shown: Mapping[str, int], listings: Sequence[Sequence[Entry]], tree: Mapping[str, Entry]
) -> tuple[Entry, ...]:
    """The directories of `tree` that an overlay of the layers shows otherwise, in order.

    `shown` is what `topmost` says of the layers, `listings` have their directories.
    """
    stated = {
        entry.path
        for number, listing in enumerate(listings)
        for entry in listing
        if shown.get(entry.path) == number and tree.get(entry.path) == entry
    }
    missing = {path for path in shown if path not in stated and path in tree}
    missing |= directories_above(missing)  # that layer has no gaps of its own
    return tuple(sorted((tree[path] for path in missing), key=sort_key))


def directories_above(paths: Iterable[str]) -> set[str]:
    """The directories above paths, without the root."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def topmost(listings: Iterable[Sequence[tuple[str, bool]]]) -> dict[str, int]:
    """The number of the uppermost layer that has each directory, by an entry or by something
    beneath it.

    Each layer is given as (path, whether it is a directory), bottom first. It is -1 where that
    layer does not settle the directory: it has no entry for it, and an overlay file system shows
    defaults; or none for a directory in it, which unpackers (GNU tar, umoci) make when they have
    set the time of this one.
    """
    found: dict[str, int] = {}
    for number, listing in enumerate(listings):
        own = {path for path, directory in listing if directory}
        missing = directories_above(path for path, _ in listing) - own
        found.update(dict.fromkeys(own, number))
        found.update(dict.fromkeys(missing, GENERATED))
        found.update(dict.fromkeys({path.rpartition("/")[0] for path in missing} - {""}, GENERATED))
    return found


def _overlaid(layers: Sequence[Layer], listings: Sequence[Sequence[Entry]]) -> Overlay:
    overlay = Overlay()
    for layer, listing in zip(layers, listings, strict=True):
        overlay.lay(layer, listing)
    return overlay


def _members(listing: Sequence[Entry], number: int) -> Iterator[Member]:
    """The entries of one layer; a hard link becomes a file that names its source."""
    files: dict[str, Entry] = {}
    for entry in listing:
        if entry.kind is Kind.FILE:
            files[entry.path] = entry
            yield Member(entry, number, entry.path)
        elif entry.kind is Kind.HARDLINK:
            file = files.get(entry.target)
            if file is None:
                raise IntegrityError(
                    f"a listing names {entry.target!r} as the file of a hard link, and lacks it",
                    place=entry.path,
                    hint="run `buildit store verify`; it sets damaged objects aside",
                )
            yield Member(replace(file, path=entry.path), number, file.path)
        else:
            yield Member(entry, number, entry.path)


def _clash(lower: Member, below: Layer, upper: Member, above: Layer) -> bool:
    """Whether the upper layer may not lay this path over the lower one's."""
    old, new = lower.entry, upper.entry
    if old.kind is new.kind is Kind.DIRECTORY or _substance(old) == _substance(new):
        return False
    directories = Kind.DIRECTORY in (old.kind, new.kind)
    protected = old.kind is Kind.SYMLINK and old.path in TOP_LINKS
    replaces = above.kind is LayerKind.STEP or below.kind is LayerKind.FROM
    return directories or protected or not replaces


def _substance(entry: Entry) -> tuple[object, ...]:
    """All that two owners of one path must agree on; times do not count."""
    xattrs = tuple(sorted(entry.xattrs.items()))
    return entry.kind, entry.mode, entry.uid, entry.gid, entry.digest, entry.target, xattrs


def _what(entry: Entry) -> str:
    if entry.kind is Kind.SYMLINK:
        return f"a link to {entry.target!r}"
    if entry.kind is Kind.DIRECTORY:
        return "a directory"
    digest: Digest | str = entry.digest or "?"
    return f"a file (mode {entry.mode:04o}, sha256 {digest[:12]}…)"


def _with_links(tree: Tree) -> tuple[Member, ...]:
    """Sorted members; files that shared an inode in their layer become hard links again.

    The first of them that is still there is the file, the others link to it: what a reader that
    unpacks layer over layer leaves behind.
    """
    members = sorted(tree.values(), key=lambda member: sort_key(member.entry))
    shared = {
        (member.layer, member.source) for member in members if member.source != member.entry.path
    }
    if not shared:
        return tuple(members)
    leaders: dict[tuple[int, str], str] = {}
    linked: list[Member] = []
    for member in members:
        inode = (member.layer, member.source)
        if inode in shared and member.entry.kind is Kind.FILE:
            leader = leaders.setdefault(inode, member.entry.path)
            if leader != member.entry.path:
                member = replace(member, entry=_link(member.entry, leader))
        linked.append(member)
    return tuple(linked)


def _link(file: Entry, leader: str) -> Entry:
    return replace(file, kind=Kind.HARDLINK, target=leader, size=0, digest=None)


def _case_notice(tree: Tree) -> Iterator[str]:
    """Paths that a file system which folds case cannot hold side by side."""
    folded: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for path in sorted(tree):
        other = folded.setdefault(path.casefold(), path)
        if other != path:
            pairs.append((other, path))
    if pairs:
        first, second = pairs[0]
        more = f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
        yield f"paths differ only in case: {first!r} and {second!r}{more}"


def _clash_error(
    clashes: set[str], layers: Sequence[Layer], listings: Sequence[Sequence[Entry]]
) -> RecipeError:
    """One error for all clashes; its text does not depend on the order of the layers."""
    paths = sorted(clashes)
    lines = [f"{path!r}: {_sides(path, layers, listings)}" for path in paths[:SHOWN]]
    if len(paths) > SHOWN:
        lines.append(f"and {len(paths) - SHOWN} more paths")
    return RecipeError(
        f"layers clash at {lines[0]}",
        place=paths[0],
        hint="leave one of the two out (`without: [PATH]` leaves files of a Debian package out), "
        "move the file in its recipe's install step, "
        "or put the wanted version in place with a `sync` step after the packages",
        details=tuple(lines) if len(paths) > 1 else (),
    )


def _sides(path: str, layers: Sequence[Layer], listings: Sequence[Sequence[Entry]]) -> str:
    """What each layer has at a path: `a directory of x and a link to 'usr/lib' of y`."""
    sides = set()
    for number, (layer, listing) in enumerate(zip(layers, listings, strict=True)):
        for member in _members(listing, number):
            if member.entry.path == path:
                sides.add(f"{_what(member.entry)} of {layer.title}")
            elif member.entry.path.startswith(f"{path}/"):
                sides.add(f"a directory of {layer.title}")
    return " and ".join(sorted(sides))
