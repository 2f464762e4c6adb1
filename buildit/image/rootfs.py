"""The merged tree of an image: ordered layers laid over each other, every clash named. Pure.

Two packages never own one path, unless what they put there is the same. A step (sync, users) may
replace a file or a link, never a directory by a file or the reverse, and never one of the links
that merge `/lib` and its like into `/usr`. So the tree does not depend on the order of packages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from buildit.digest import Digest
from buildit.errors import IntegrityError, RecipeError
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry, Kind, sort_key

GENERATED = -1
"""The layer number of directories that no layer brings but some path needs."""

MERGED_USR_LINKS = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32"})
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
    """Members in `sort_key` order, and remarks that a user should see but need not act on."""

    members: tuple[Member, ...]
    notices: tuple[str, ...]

    def entries(self) -> tuple[Entry, ...]:
        return tuple(member.entry for member in self.members)

    def find(self, path: str) -> Entry | None:
        """The entry at a path; a hard link is the file that it names."""
        places = {member.entry.path: member.entry for member in self.members}
        entry = places.get(path)
        if entry is not None and entry.kind is Kind.HARDLINK:
            return places[entry.target]
        return entry

    def generated(self) -> tuple[Entry, ...]:
        return tuple(member.entry for member in self.members if member.layer == GENERATED)


Tree = dict[str, Member]


def merge(layers: Sequence[Layer], listings: Sequence[Sequence[Entry]], epoch: int) -> Rootfs:
    """Lay the layers over each other, bottom first, and complete the directories.

    `listings` are the entries of each layer. A directory that some path needs and no layer brings
    is generated: 0755, 0:0, `epoch`. Where packages share a directory, or the same file, the
    later layer's mode, mtime and hard links count, as they do in every reader of OCI layers.

    Raises:
        RecipeError: layers clash; all clashes are in the details, by path.
        IntegrityError: a listing contradicts itself.
    """
    tree, clashes, notices = _overlaid(layers, listings)
    clashes |= _complete(tree, epoch)
    if clashes:
        raise _clash_error(clashes, layers, listings)
    members = _with_links(tree)
    return Rootfs(members, (*notices, *_case_notice(tree)))


def merge_group(layers: Sequence[Layer], listings: Sequence[Sequence[Entry]]) -> Rootfs:
    """Lay neighbouring layers of an image that merges without a clash into one, adding nothing.

    Member.layer counts within the group.
    """
    tree, clashes, notices = _overlaid(layers, listings)
    if clashes:
        raise _clash_error(clashes, layers, listings)
    return Rootfs(_with_links(tree), notices)


def _overlaid(
    layers: Sequence[Layer], listings: Sequence[Sequence[Entry]]
) -> tuple[Tree, set[str], tuple[str, ...]]:
    tree: Tree = {}
    clashes: set[str] = set()
    notices: dict[str, str] = {}
    for number, (layer, listing) in enumerate(zip(layers, listings, strict=True)):
        for member in _members(listing, number):
            path = member.entry.path
            lower = tree.get(path)
            if lower is not None:
                below = layers[lower.layer]
                if _clash(lower, below, member, layer):
                    clashes.add(path)
                elif notice := _directory_notice(lower, below, member, layer):
                    notices[path] = notice
            tree[path] = member
    return tree, clashes, tuple(notices[path] for path in sorted(notices))


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
    protected = old.kind is Kind.SYMLINK and old.path in MERGED_USR_LINKS
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


def _directory_notice(lower: Member, below: Layer, upper: Member, above: Layer) -> str | None:
    old, new = lower.entry, upper.entry
    same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
    if new.kind is not Kind.DIRECTORY or same or LayerKind.STEP is above.kind:
        return None
    return (
        f"directory {new.path!r} is {old.mode:04o} {old.uid}:{old.gid} in {below.title} and "
        f"{new.mode:04o} {new.uid}:{new.gid} in {above.title}: the latter counts"
    )


def _complete(tree: Tree, epoch: int) -> set[str]:
    """Generate missing parents; return those that are there, but not as directories."""
    clashes: set[str] = set()
    known: set[str] = set()
    for path in list(tree):
        parent = path.rpartition("/")[0]
        while parent and parent not in known:
            known.add(parent)
            above = tree.get(parent)
            if above is None:
                entry = Entry(parent, Kind.DIRECTORY, 0o755, mtime=epoch)
                tree[parent] = Member(entry, GENERATED, parent)
            elif above.entry.kind is not Kind.DIRECTORY:
                clashes.add(parent)
            parent = parent.rpartition("/")[0]
    return clashes


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
        hint="leave one of the two out, move the file in its recipe's install step, "
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
