"""The one merge of layers: ordered changes laid over each other. Pure.

A layer is a change of the tree below (image-spec layer.md, "Applying Changesets"): what it
deletes, then what it brings. Clients see a stack in two ways. An unpacker (umoci, tar) lays entry
after entry into one directory. An overlay file system (podman, docker, containerd) shows a
directory as the uppermost layer has it that holds it or anything beneath it, by defaults where that
layer has no entry for it (kernel Documentation/filesystems/overlayfs, "Merged directories").
`MergedTree` keeps both; where they differ, an emitter restates the directory on top, and `verify`
has a problem.

On top of that, `Overlay` knows whose the layers are. Two packages never own one path, unless what
they put there is the same. A step (sync, users) may replace a file or a link, never a directory by
a file or the reverse, and never one of the links that merge `/lib` and its like into `/usr`; what a
`run` step did counts as it is. So the tree does not depend on the order of packages. A directory
has the attributes that the last layer with an entry for it gives, but that a package's plain
`0755 0:0` never takes what was declared below (1777 of `tmp`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from buildit.archive.contents import TOP_LINKS
from buildit.errors import IntegrityError, RecipeError
from buildit.model.image import Layer, LayerKind
from buildit.model.tree import Entry, Kind, sort_key

GENERATED = -1
"""The layer number of directories that no layer brings but some path needs."""

CLASHES_SHOWN = 20
_WHITEOUT = ".wh."
_OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class LayerChange:
    """One layer: `deleted` are paths that go with all beneath them, `opaque` directories of which
    nothing below stays; then come `entries`, in the order of the layer."""

    entries: tuple[Entry, ...]
    deleted: tuple[str, ...] = ()
    opaque: tuple[str, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> LayerChange:
        """The change that a layer's entries are, deletions spelt as image-spec layer.md does
        ("Whiteouts"): `d/.wh.x` deletes `d/x`, `d/.wh..wh..opq` makes `d` opaque."""
        kept = tuple(entries)
        marks = [each for each in kept if each.path.rpartition("/")[2].startswith(_WHITEOUT)]
        if not marks:
            return cls(kept)
        opaque, deleted = [], []
        for each in marks:
            above, _, name = each.path.rpartition("/")
            if name == _OPAQUE:
                opaque.append(above)
            else:
                name = name.removeprefix(_WHITEOUT)
                deleted.append(f"{above}/{name}" if above else name)
        names = {each.path for each in marks}
        brought = tuple(each for each in kept if each.path not in names)
        return cls(brought, tuple(deleted), tuple(opaque))

    def spelt(self) -> tuple[Entry, ...]:
        """All as entries, deletions as empty files of their names; the reverse of `of`."""
        names = [f"{path}/{_OPAQUE}" if path else _OPAQUE for path in self.opaque]
        for path in self.deleted:
            above, _, name = path.rpartition("/")
            names.append(f"{above}/{_WHITEOUT}{name}" if above else f"{_WHITEOUT}{name}")
        marks = [Entry(name, Kind.FILE, 0o644) for name in names]
        return tuple(sorted((*self.entries, *marks), key=sort_key)) if marks else self.entries

    def marks(self) -> Iterator[str]:
        """Paths beside which the layer has the marks of its deletions."""
        yield from self.deleted
        yield from (f"{path}/{_OPAQUE}" for path in self.opaque)


@dataclass(frozen=True, slots=True)
class Member:
    """One path of the merged tree.

    `layer` is the number of the layer that brings it, or `GENERATED`. `entry` is never a hard link:
    one is the file that it names, with its own path, and `source` is the path whose bytes in that
    layer's tar are the content. So members of one `layer` and `source` share an inode.
    """

    entry: Entry
    layer: int
    source: str


@dataclass(frozen=True, slots=True)
class Laid:
    """What laying a layer met: `implied` directories that it has no entry for, of those `made` that
    were not there, and `through`, what lay there and was no directory."""

    implied: frozenset[str]
    made: frozenset[str]
    through: tuple[Entry, ...]


Settle = Callable[[Member, Member], Member]
"""What is to lie at a path, of a lower member and the upper one that comes over it; the upper one
where nobody settles it, and then nothing of a directory stays beneath a file."""


@dataclass(slots=True)
class MergedTree:
    """A tree that grows layer by layer. `tree` is what an unpacker leaves, by path, without a root
    unless a layer has one. `stated` has, for each directory, the entry of the uppermost layer that
    holds it or anything beneath it; None where that layer has no entry for it. A directory may be
    there and not in `tree`: a deletion lies in it, and nothing else. `epoch` is the time of
    directories that no layer brings."""

    epoch: int = 0
    tree: dict[str, Member] = field(default_factory=dict)
    stated: dict[str, Entry | None] = field(default_factory=dict)
    layers: int = 0
    deleted: set[str] = field(default_factory=set)
    opaque: set[str] = field(default_factory=set)
    searched: int = 0
    """Paths that were looked at for what deletions take away: all, by each layer with some."""

    def lay(self, change: LayerChange, settle: Settle | None = None) -> Laid:
        """Lay one more layer over the tree: deletions first, then its entries.

        Raises:
            IntegrityError: a hard link names no file of its layer.
        """
        tree = self.tree
        own = list(_members(change.entries, self.layers))
        self.layers += 1
        covered = {
            member.entry.path
            for member in own
            if settle is None
            and member.entry.kind is not Kind.DIRECTORY
            and (lower := tree.get(member.entry.path)) is not None
            and lower.entry.kind is Kind.DIRECTORY
        }
        self._remove({*change.deleted}, {*change.opaque, *covered})
        self.deleted.update(change.deleted)
        self.opaque.update(change.opaque)
        for member in own:
            path = member.entry.path
            lower = tree.get(path)
            tree[path] = member if settle is None or lower is None else settle(lower, member)
            if member.entry.kind is Kind.DIRECTORY:
                self.stated[path] = member.entry
                if lower is not None and lower.entry.kind is not Kind.DIRECTORY:
                    self.opaque.add(path)  # what is there now took away what lay beneath
        paths = [member.entry.path for member in own]
        needed = directories_above(paths)  # and a deletion makes none
        implied = directories_above([*paths, *change.marks()]).difference(paths)
        made, through = set(), []
        for path in sorted(implied):
            self.stated[path] = None
            lower = self.tree.get(path)
            if lower is not None and lower.entry.kind is not Kind.DIRECTORY:
                through.append(lower.entry)
                hidden = settle is None
            else:
                hidden = lower is None and path in needed
            if hidden:
                made.add(path)
                entry = Entry(path, Kind.DIRECTORY, 0o755, self.epoch)
                self.tree[path] = Member(entry, GENERATED, path)
        return Laid(frozenset(implied), frozenset(made), tuple(through))

    def _remove(self, whole: set[str], beneath: set[str]) -> None:
        """Remove paths with all beneath them, and what is beneath others."""
        if not whole and not beneath:
            return
        gone = whole | beneath
        self.searched += len(self.stated) + len(self.tree)
        for path in self.tree.keys() | self.stated.keys():
            above = {*_above(path), ""} if path else set()
            if path in whole or not gone.isdisjoint(above):
                self.tree.pop(path, None)
                self.stated.pop(path, None)

    def deletions(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """`deleted` and `opaque` of the one layer that all layers so far amount to."""
        inner = {"", *self.stated}
        inner -= {p for p, one in self.tree.items() if one.entry.kind is not Kind.DIRECTORY}
        opaque = (self.opaque | self.deleted) & inner
        gone = {
            path for path in self.deleted - self.tree.keys() if path.rpartition("/")[0] in inner
        }
        deleted = {path for path in gone if opaque.isdisjoint({*_above(path), ""})}
        return tuple(sorted(deleted)), tuple(sorted(opaque))


def _members(entries: Iterable[Entry], number: int) -> Iterator[Member]:
    """The entries of one layer; a hard link becomes the file that it names."""
    files: dict[str, Member] = {}
    for entry in entries:
        if entry.kind is Kind.FILE:
            files[entry.path] = member = Member(entry, number, entry.path)
        elif entry.kind is Kind.HARDLINK:
            file = files.get(entry.target)
            if file is None:
                said = f"a listing names {entry.target!r} as the file of a hard link, and lacks it"
                hint = "run `buildit store verify`; it sets damaged objects aside"
                raise IntegrityError(said, place=entry.path, hint=hint)
            files[entry.path] = member = replace(file, entry=replace(file.entry, path=entry.path))
        else:
            member = Member(entry, number, entry.path)
        yield member


def _above(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def directories_above(paths: Iterable[str]) -> set[str]:
    """The directories above paths, without the root."""
    found: set[str] = set()
    for path in paths:
        parent = path.rpartition("/")[0]
        while parent and parent not in found:
            found.add(parent)
            parent = parent.rpartition("/")[0]
    return found


def linked(tree: Mapping[str, Member]) -> tuple[Member, ...]:
    """Members in `sort_key` order; those that share an inode are hard links again.

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
    result: list[Member] = []
    for member in members:
        inode, entry = (member.layer, member.source), member.entry
        if inode in shared and entry.kind is Kind.FILE:
            leader = leaders.setdefault(inode, entry.path)
            if leader != entry.path:
                entry = replace(entry, kind=Kind.HARDLINK, target=leader, size=0, digest=None)
                member = replace(member, entry=entry)
        result.append(member)
    return tuple(result)


def with_parents(
    entries: Iterable[Entry], tree: Mapping[str, Entry], new: Entry, place: str | None = None
) -> tuple[Entry, ...]:
    """The entries in order, with every directory above them that is not among them: a layer of ours
    says all attributes that an overlay file system would make up.

    One that `tree`, the merged entries below, has is repeated as it is there; another one is like
    `new`, whose path does not matter. `place` is where the step was written.

    Raises:
        RecipeError: something above an entry is no directory in `tree`.
    """
    made = {entry.path: entry for entry in entries}
    for path in list(made):
        for parent in _above(path):
            if parent in made:
                break
            below = tree.get(parent)
            if below is not None and below.kind is not Kind.DIRECTORY:
                said = f"/{path} lies beneath /{parent}, which is a {below.kind} in the image"
                hint = f"let the package that brings /{parent} bring a directory"
                raise RecipeError(said, place=place, hint=hint)
            made[parent] = below or replace(new, path=parent)
    return tuple(sorted(made.values(), key=sort_key))


@dataclass(frozen=True, slots=True)
class Rootfs:
    """The merged tree of an image, with the layers that it is of and the entries of each.

    `tree` has a member for each path. `notices` are remarks that a user should see but need not act
    on. `restated` are the directories that an overlay of the layers does not show as the tree has
    them, in order; those that no layer brings are among them.
    """

    layers: tuple[Layer, ...]
    listings: tuple[tuple[Entry, ...], ...]
    tree: Mapping[str, Member]
    notices: tuple[str, ...] = ()
    restated: tuple[Entry, ...] = ()

    def find(self, path: str) -> Entry | None:
        """The entry at a path without leading slash; a hard link is the file that it names."""
        member = self.tree.get(path)
        return None if member is None else member.entry

    def members(self) -> tuple[Member, ...]:
        """In `sort_key` order, with hard links."""
        return linked(self.tree)


@dataclass(slots=True)
class Overlay:
    """Layers that are laid over each other under the rules of whose they are. `clashes` are paths;
    `notices` are by path."""

    layers: list[Layer] = field(default_factory=list)
    listings: list[tuple[Entry, ...]] = field(default_factory=list)
    merged: MergedTree = field(default_factory=MergedTree)
    clashes: set[str] = field(default_factory=set)
    notices: dict[str, str] = field(default_factory=dict)

    def lay(self, layer: Layer, listing: Sequence[Entry]) -> None:
        """Lay one more layer over the tree.

        Raises:
            IntegrityError: the listing contradicts itself.
        """
        self.layers.append(layer)
        self.listings.append(tuple(listing))
        change = LayerChange.of(listing)
        if layer.kind is LayerKind.PACKAGE:
            self.clashes.update(change.deleted, change.opaque)
        # Layers of one image lie over each other as its own clients lay them, and a command saw its
        # difference as the kernel did.
        settle = None if layer.kind in (LayerKind.FROM, LayerKind.RUN) else self._settled
        laid = self.merged.lay(change, settle)
        self.clashes.update(entry.path for entry in laid.through)

    def _settled(self, lower: Member, upper: Member) -> Member:
        path, above = upper.entry.path, self.layers[upper.layer]
        if lower.layer == GENERATED:
            if upper.entry.kind is not Kind.DIRECTORY:
                self.clashes.add(path)
        elif _clash(lower, self.layers[lower.layer], upper, above):
            self.clashes.add(path)
            self.notices.pop(path, None)
        elif upper.entry.kind is Kind.DIRECTORY:
            return self._directory(lower, upper, above)
        return upper

    def _directory(self, lower: Member, upper: Member, above: Layer) -> Member:
        """Which of two entries of a directory counts; they may agree but for the time."""
        old, new = _attributes(lower.entry), _attributes(upper.entry)
        if above.kind is not LayerKind.PACKAGE or old == new:
            return upper
        counts = lower if new == _PLAIN else upper
        texts = [f"{each.mode:04o} {each.uid}:{each.gid}" for each in (lower.entry, upper.entry)]
        path, title = upper.entry.path, self.layers[lower.layer].title
        self.notices[path] = (
            f"directory {path!r} is {texts[0]} in {title} and {texts[1]} in {above.title}: "
            f"{texts[0] if counts is lower else texts[1]} counts"
        )
        return counts

    def entries(self) -> dict[str, Entry]:
        """The entries by path, hard links as the files that they name."""
        return {path: member.entry for path, member in self.merged.tree.items()}

    def rootfs(self, epoch: int) -> Rootfs:
        """All layers so far as the tree of an image; directories that no layer brings are 0755,
        0:0 and of the time `epoch`.

        Where packages share the same file, the later layer's mtime and hard links count, as they do
        in every reader of OCI layers.

        Raises:
            RecipeError: layers clash; all clashes are in the details, by path.
        """
        restated = self.restated(epoch)
        tree = self.merged.tree
        generated = {
            path: replace(member, entry=replace(member.entry, mtime=epoch))
            for path, member in tree.items()
            if member.layer == GENERATED
        }
        tree = tree | generated
        notices = (*(self.notices[path] for path in sorted(self.notices)), *_case_notice(tree))
        return Rootfs(tuple(self.layers), tuple(self.listings), tree, notices, restated)

    def restated(self, epoch: int) -> tuple[Entry, ...]:
        """The `restated` of `rootfs`, whose tree is not made for it.

        Raises:
            RecipeError: layers clash; all clashes are in the details, by path.
        """
        if self.clashes:
            raise self._clash_error()
        tree = self.merged.tree
        missing = {
            path
            for path, stated in self.merged.stated.items()
            if (member := tree.get(path)) is not None
            and member.entry.kind is Kind.DIRECTORY
            and (stated is None or stated != member.entry)
        }
        missing |= directories_above(missing)  # that layer has no gaps of its own
        members = [tree[path] for path in missing]
        entries = (
            replace(one.entry, mtime=epoch) if one.layer == GENERATED else one.entry
            for one in members
        )
        return tuple(sorted(entries, key=sort_key))

    def _clash_error(self) -> RecipeError:
        """One error for all clashes; its text does not depend on the order of the layers."""
        paths = sorted(self.clashes)
        lines = [f"{path!r}: {self._sides(path)}" for path in paths[:CLASHES_SHOWN]]
        if len(paths) > CLASHES_SHOWN:
            lines.append(f"and {len(paths) - CLASHES_SHOWN} more paths")
        hint = (
            "leave one of the two out (`without: [PATH]` leaves files of a Debian package out), "
            "move the file in its recipe's install step, or put the wanted version in place with a "
            "`sync` step after the packages"
        )
        told, details = f"layers clash at {lines[0]}", tuple(lines) if len(paths) > 1 else ()
        return RecipeError(told, place=paths[0], hint=hint, details=details)

    def _sides(self, path: str) -> str:
        """What each layer has at a path: `a directory of x and a link to 'usr/lib' of y`."""
        sides = set()
        for layer, listing in zip(self.layers, self.listings, strict=True):
            change = LayerChange.of(listing)
            if path in (*change.deleted, *change.opaque):
                sides.add(f"a deletion of {layer.title}")
            for member in _members(change.entries, 0):
                if member.entry.path == path:
                    sides.add(f"{_what(member.entry)} of {layer.title}")
                elif member.entry.path.startswith(f"{path}/"):
                    sides.add(f"a directory of {layer.title}")
        return " and ".join(sorted(sides))


def merge(layers: Sequence[Layer], listings: Sequence[Sequence[Entry]], epoch: int) -> Rootfs:
    """Lay the layers over each other, bottom first; `listings` are the entries of each.

    Raises:
        RecipeError: layers clash.
        IntegrityError: a listing contradicts itself.
    """
    overlay = Overlay()
    for layer, listing in zip(layers, listings, strict=True):
        overlay.lay(layer, listing)
    return overlay.rootfs(epoch)


def merge_group(rootfs: Rootfs, numbers: range) -> Rootfs:
    """Neighbouring layers of an image as the tree of one layer: their deletions and entries, and
    no directory that none of them brings. Member.layer counts within the group.

    Raises:
        IntegrityError: as `merge`.
    """
    overlay = Overlay()
    for number in numbers:
        overlay.lay(rootfs.layers[number], rootfs.listings[number])
    merged = overlay.merged
    tree = {path: member for path, member in merged.tree.items() if member.layer != GENERATED}
    marks = LayerChange((), *merged.deletions()).spelt()
    tree |= {mark.path: Member(mark, GENERATED, mark.path) for mark in marks}
    return Rootfs(tuple(overlay.layers), tuple(overlay.listings), tree)


def _attributes(entry: Entry) -> tuple[object, ...]:
    """All that a directory has but its time."""
    return entry.mode, entry.uid, entry.gid, tuple(sorted(entry.xattrs.items()))


_PLAIN = (0o755, 0, 0, ())
"""The `_attributes` of a directory about which its package says nothing."""


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
    return entry.kind, *_attributes(entry), entry.digest, entry.target


def _what(entry: Entry) -> str:
    if entry.kind is Kind.SYMLINK:
        return f"a link to {entry.target!r}"
    if entry.kind is Kind.DIRECTORY:
        return "a directory"
    return f"a file (mode {entry.mode:04o}, sha256 {(entry.digest or '?')[:12]}…)"


def _case_notice(paths: Iterable[str]) -> Iterator[str]:
    """Paths that a file system which folds case cannot hold side by side."""
    names = list(paths)
    if len({path.casefold() for path in names}) == len(names):
        return
    folded: dict[str, str] = {}
    pairs: list[tuple[str, str]] = []
    for path in sorted(names):
        other = folded.setdefault(path.casefold(), path)
        if other != path:
            pairs.append((other, path))
    first, second = pairs[0]
    more = f" ({len(pairs)} such pairs)" if len(pairs) > 1 else ""
    yield f"paths differ only in case: {first!r} and {second!r}{more}"
