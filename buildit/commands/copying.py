"""What sync steps with a list of sources take: of the tree of another image, of an archive, or of
what globs of a project fit. Bytes stay where they are: entries name the layers that have them.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from buildit.archive.contents import way
from buildit.commands.sync import SyncedBefore, expanded, wrong_sync
from buildit.image.layertar import Contents
from buildit.image.merge import Member, Overlay, linked
from buildit.model.globs import path_matcher
from buildit.model.plan import LayerFile, SyncStep
from buildit.model.tree import YEAR_1980, Entry, Kind
from buildit.model.words import hint_of


@dataclass(frozen=True, slots=True)
class SourceTree:
    """The merged tree of layers that files are taken of; `title` names it to people."""

    whole: Overlay
    contents: Contents
    title: str

    def names(self, directory: str) -> list[str]:
        """What is in a directory."""
        end = way(f"{directory}/.", self._find).end if directory else ""
        if end is None:
            return []
        above = f"{end}/" if end else ""
        paths = (path for path in self.whole.merged.tree if path.startswith(above))
        return [path[len(above) :] for path in paths if "/" not in path[len(above) :]]

    def nodes(self, step: SyncStep, source: str) -> list[SyncedBefore]:
        """What is at a path, links on the way to it followed, and all beneath it.

        Raises:
            RecipeError: there is nothing.
        """
        end = way(source, self._find).end
        tree = self.whole.merged.tree
        if end is None or (end and end not in tree):
            above = posixpath.dirname(source.strip("/"))
            known = [posixpath.join(above, name) for name in self.names(above)]
            hint = hint_of(source, known) if known else "look at it: buildit ls IMAGE"
            raise wrong_sync(step.place, f"there is no {source!r} in {self.title}", hint)
        excluded = [path_matcher(glob, place=step.place) for glob in step.exclude]
        beneath = {
            path: member
            for path, member in tree.items()
            if path == end or not end or path.startswith(f"{end}/")
        }
        found = [] if end else [SyncedBefore("", source, Kind.DIRECTORY, 0o755, entry=_ROOT)]
        left_out: set[str] = set()
        for member in linked(beneath):
            path = member.entry.path
            relative = path[len(end) :].lstrip("/")
            if relative and (
                posixpath.dirname(relative) in left_out or any(one(relative) for one in excluded)
            ):
                left_out.add(relative)
                continue
            found.append(_node(relative, member, end, tree, self.contents))
        return found

    def _find(self, path: str) -> Entry | None:
        member = self.whole.merged.tree.get(path)
        return None if member is None else member.entry


_ROOT = Entry("", Kind.DIRECTORY, 0o755, YEAR_1980)


def _node(
    relative: str, member: Member, end: str, tree: Mapping[str, Member], contents: Contents
) -> SyncedBefore:
    entry = member.entry
    if entry.kind is Kind.HARDLINK:
        target = entry.target[len(end) :].lstrip("/")
        file = tree[entry.path].entry
        return SyncedBefore(
            relative, entry.path, Kind.HARDLINK, file.mode, target=target, entry=file
        )
    made = SyncedBefore(relative, entry.path, entry.kind, entry.mode, entry.size, entry=entry)
    if entry.kind is Kind.SYMLINK:
        return replace(made, target=entry.target)
    if entry.kind is not Kind.FILE:
        return made
    layer = contents.rootfs.layers[member.layer]
    at = LayerFile(entry.path, layer.diff_id, layer.size, contents.start(member))
    return replace(made, digest=entry.digest, time=entry.mtime, layer=at)


def image_nodes(step: SyncStep, tree: SourceTree) -> Iterator[tuple[str, list[SyncedBefore]]]:
    """What each source of a step takes of a tree, by its path there.

    Raises:
        RecipeError: a source fits nothing.
    """
    for source in step.sources:
        paths = expanded(source, tree.names, step.place)
        if not paths:
            hint = "look at it: buildit ls IMAGE"
            raise wrong_sync(step.place, f"nothing in {tree.title} fits {source!r}", hint)
        yield from ((path, tree.nodes(step, path)) for path in paths)
