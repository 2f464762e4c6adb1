"""Links, texts and modes of a container as tasks over the layers below. Pure.

No layer can change the attributes of a file alone: one with another mode or owner is laid anew with
its bytes, under all names that it has. The record of such a layer is its entries, so its key says
nothing of where the bytes were taken from.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from buildit.archive.contents import TOP_LINKS, way
from buildit.commands.placing import resolved
from buildit.commands.sync import EPOCH
from buildit.digest import digest_bytes
from buildit.errors import RecipeError
from buildit.image.merge import GENERATED, Member, with_parents
from buildit.make.layer import layer_task
from buildit.model.plan import (
    About,
    LayerFile,
    LinkToMake,
    ModesStep,
    ModeToSet,
    SymlinksStep,
    Task,
    TextsStep,
    TextToWrite,
)
from buildit.model.tree import Entry, Kind, sort_key

_NEW = Entry("", Kind.DIRECTORY, 0o755, EPOCH)
_WHITEOUT = ".wh."

Bytes = Callable[[str, Member], LayerFile]
"""Where the bytes of a file of the tree are, for a path of the layer."""


def symlinks_task(
    step: SymlinksStep, tree: Mapping[str, Entry]
) -> tuple[Task, tuple[Entry, ...], tuple[str, ...]]:
    """The task of a step over `tree`, the merged entries below; its entries, and what of the image
    it replaces.

    Raises:
        RecipeError: a directory is there, or a link that merges /usr; the way leads through a file.
    """
    made: dict[str, Entry] = {}
    replaced = []
    below = ChainMap(made, dict(tree))
    for one in step.links:
        path = _free(one, below, "link")
        there = below.get(path)
        if there is not None and (there.kind, there.target) != (Kind.SYMLINK, one.target):
            replaced.append(f"/{path}")
        made[path] = Entry(path, Kind.SYMLINK, 0o777, EPOCH, target=one.target)
    entries = with_parents(made.values(), tree, _NEW, step.place)
    return layer_task("symlinks", entries, about=About(origin=step.place)), entries, (*replaced,)


def texts_task(
    step: TextsStep, tree: Mapping[str, Entry]
) -> tuple[Task, tuple[Entry, ...], tuple[str, ...]]:
    """As `symlinks_task`, for files whose text the step has.

    Raises:
        RecipeError: a directory is there, or a link that merges /usr; the way leads through a file.
    """
    made: dict[str, Entry] = {}
    texts: dict[str, bytes] = {}
    below = ChainMap(made, dict(tree))
    for one in step.texts:
        path = _free(one, below, "file")
        texts[path] = data = one.content.encode()
        size, digest = len(data), digest_bytes(data)
        entry = Entry(path, Kind.FILE, one.mode, EPOCH, one.uid, one.gid, size=size, digest=digest)
        made[path] = entry
    entries = with_parents(made.values(), tree, _NEW, step.place)
    replaced = tuple(f"/{path}" for path in made if path in tree)
    return layer_task("texts", entries, texts, about=About(origin=step.place)), entries, replaced


def _free(one: LinkToMake | TextToWrite, below: Mapping[str, Entry], what: str) -> str:
    """The path of a link or file of a step, links of the image above it followed.

    Raises:
        RecipeError: nothing of its kind can lie there.
    """
    above, _, name = one.path.rpartition("/")
    if name.startswith(_WHITEOUT):
        message = f"{one.path!r}: names that begin with .wh. delete files in image layers"
        raise RecipeError(message, place=one.place, hint=f"give the {what} another name")
    directory = resolved(f"{above}/.", below, one.place) if above else ""
    path = f"{directory}/{name}" if directory else name
    there = below.get(path)
    if there is not None and (there.kind is Kind.DIRECTORY or path in TOP_LINKS):
        kind = "a directory" if there.kind is Kind.DIRECTORY else "a link that merges /usr"
        message = f"/{path} is {kind} in the image, and no {what} can take its place"
        raise RecipeError(message, place=one.place, hint="choose another path")
    return path


def modes_task(
    step: ModesStep, tree: Mapping[str, Member], content: Bytes
) -> tuple[Task, tuple[Entry, ...]]:
    """The task of a step over `tree`, the merged members below, and its entries; `content` says
    where bytes are.

    Raises:
        RecipeError: the image has no such path.
    """
    changed: dict[str, Member] = {}
    for one in step.modes:
        member = _found(one, tree)
        for path in _names(member, tree):
            entry = changed.get(path, tree[path]).entry
            uid = entry.uid if one.uid is None else one.uid
            gid = entry.gid if one.gid is None else one.gid
            mode = entry.mode if one.mode is None else one.mode
            made = replace(entry, mode=mode, uid=uid, gid=gid)
            changed[path] = Member(made, member.layer, member.source)
    copies: list[LayerFile] = []
    leaders: dict[tuple[int, str], str] = {}
    entries = []
    for member in sorted(changed.values(), key=lambda each: sort_key(each.entry)):
        entry, inode = member.entry, (member.layer, member.source)
        if entry.kind is Kind.FILE:
            leader = leaders.setdefault(inode, entry.path)
            if leader == entry.path:
                copies.append(content(entry.path, member))
            else:
                entry = replace(entry, kind=Kind.HARDLINK, target=leader, size=0, digest=None)
        entries.append(entry)
    below = {path: each.entry for path, each in tree.items()}
    laid = with_parents(entries, below, _NEW, step.place)
    about = About(origin=step.place)
    return layer_task("modes", laid, about=about, copies=tuple(copies)), laid


def _found(one: ModeToSet, tree: Mapping[str, Member]) -> Member:
    """What a path of the image leads to, links followed, as chmod(2) does."""
    found = way(one.path, lambda path: tree[path].entry if path in tree else None)
    if found.end is None:
        message = f"/{one.path} leads into a loop of links in the image"
        raise RecipeError(message, place=one.place, hint="name the file itself")
    if found.through or found.end not in tree:
        message = f"the image has no /{one.path} at this step"
        if found.links:
            message += f": the link /{found.links[-1]} leads to /{found.end}"
        hint = "name what an earlier step brings, or make it: `directories`"
        raise RecipeError(message, place=one.place, hint=hint)
    return tree[found.end]


def _names(member: Member, tree: Mapping[str, Member]) -> Iterator[str]:
    """All names of a file, one of anything else."""
    if member.entry.kind is not Kind.FILE or member.layer == GENERATED:
        yield member.entry.path
        return
    for path, other in tree.items():
        if (other.layer, other.source) == (member.layer, member.source):
            yield path
