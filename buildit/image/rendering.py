"""The tree that App Container images and those that they depend on render to (appc spec aci.md,
"Dependency Matching"; pathWhitelist in "Image Manifest Schema"). Pure.

Images are laid over each other whole, each after those that it depends on, which come in the order
of its list, depth first. A path of a later image replaces what is there: a link to a directory is
not followed, and nothing is deleted but by a whitelist, which holds for an image and for all that
it depends on.
"""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from buildit.errors import RecipeError
from buildit.image.merge import (
    GENERATED,
    LayerChange,
    Member,
    MergedTree,
    Rootfs,
    directories_above,
    linked,
    merge,
)
from buildit.model.image import LayerKind
from buildit.model.tree import YEAR_1980, Entry, Kind


@dataclass(frozen=True, slots=True)
class Rendered:
    """An image to render: the entries of its own rootfs, its `pathWhitelist`, and the images that
    it depends on, in the order of its list."""

    entries: Sequence[Entry]
    whitelist: Sequence[str] = ()
    dependencies: Sequence[Rendered] = ()


def whitelisted(paths: Iterable[str]) -> frozenset[str]:
    """Paths of a whitelist as those of entries."""
    return frozenset(posixpath.normpath(path).strip("/") for path in paths)


def render_order(image: Rendered, only: frozenset[str] | None = None) -> list[list[Entry]]:
    """What each image lays down, in the order in which they are laid."""
    if image.whitelist:
        own = whitelisted(image.whitelist)
        only = own if only is None else only & own
    below = [each for one in image.dependencies for each in render_order(one, only)]
    return [*below, list(image.entries) if only is None else _left(image.entries, only)]


def _left(entries: Sequence[Entry], only: frozenset[str]) -> list[Entry]:
    """What a whitelist leaves of an image; a file may lose the name that others link to."""
    alone = MergedTree()
    alone.lay(LayerChange(tuple(entries)))
    kept = {path: one for path, one in alone.tree.items() if not path or path in only}
    return [one.entry for one in linked(kept) if one.layer != GENERATED]


def left_of(rootfs: Rootfs, only: frozenset[str]) -> Rootfs:
    """What a whitelist leaves of a tree; all where it is empty."""
    if not only:
        return rootfs
    return replace(rootfs, tree={path: one for path, one in rootfs.tree.items() if path in only})


@dataclass(frozen=True, slots=True)
class Parts:
    """An image cut into packages: `packages` are pairs of the number of a layer and its tree,
    bottom first; `own` is what the image itself lays over them."""

    packages: tuple[tuple[int, Rootfs], ...]
    own: Rootfs


def cut(rootfs: Rootfs, place: str) -> Parts:
    """Cut an image into the trees of its packages and its own, so that these render to the same
    tree as the image has.

    Raises:
        RecipeError: no such cut exists.
    """
    packages = []
    tree = MergedTree()
    for number, layer in enumerate(rootfs.layers):
        if layer.kind is not LayerKind.PACKAGE:
            continue
        listing = rootfs.listings[number]
        # What no entry says has a time that does not depend on the container.
        alone = merge([layer], [listing], YEAR_1980)
        packages.append((number, alone))
        tree.lay(LayerChange(_entries(alone)))
    wanted, there = rootfs.tree, tree.tree
    ours, theirs = _inodes(wanted), _inodes(there)
    changed: set[str] = set()
    for path, member in wanted.items():
        if path not in there or there[path].entry != member.entry:
            changed.add(path)
        if ours.get(path) != theirs.get(path):
            changed |= ours.get(path, {path})
    changed |= directories_above(changed) & wanted.keys()
    own = replace(rootfs, tree={path: wanted[path] for path in wanted if path in changed})
    tree.lay(LayerChange(_entries(own)))
    _check_same(rootfs, tree.tree, place)
    return Parts(tuple(packages), own)


def _entries(rootfs: Rootfs) -> tuple[Entry, ...]:
    return tuple(member.entry for member in rootfs.members())


def _inodes(tree: Mapping[str, Member]) -> dict[str, frozenset[str]]:
    """For each file that has several names, all of them."""
    names: dict[tuple[int, str], list[str]] = defaultdict(list)
    for path, member in tree.items():
        if member.entry.kind is Kind.FILE and member.layer != GENERATED:
            names[member.layer, member.source].append(path)
    return {p: frozenset(same) for same in names.values() if len(same) > 1 for p in same}


def _check_same(rootfs: Rootfs, rendered: Mapping[str, Member], place: str) -> None:
    """Refuse a tree that its parts do not render to.

    Raises:
        RecipeError: with the first paths that would differ.
    """
    wanted = {member.entry.path: member.entry for member in rootfs.members()}
    found = {member.entry.path: member.entry for member in linked(rendered)}
    differing = sorted(
        path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path)
    )
    if differing:
        message = f"the ACI cannot be split: App Container would show another /{differing[0]}"
        hint = "App Container lays packages over each other and deletes nothing: leave `split` out"
        details = tuple(f"/{path}" for path in differing[:20]) if len(differing) > 1 else ()
        raise RecipeError(message, place=place or None, hint=hint, details=details)
