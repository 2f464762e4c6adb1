"""The small steps that give layers, typed for the plan: what is synced, directories, links, modes.

Owners are numbers afterwards, and the paths of an included list are those of the project. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from buildit.commands.accounts import Ids
from buildit.commands.choose import wrong_at
from buildit.commands.copies import Copies, url_of
from buildit.commands.mounting import mounts_of_step
from buildit.commands.running import owner_of, run_of_step
from buildit.model.globs import path_matcher
from buildit.model.ignored import ignored_by
from buildit.model.image import App
from buildit.model.plan import (
    DirectoriesStep,
    DirectoryToMake,
    LayerStep,
    LinkToMake,
    ModesStep,
    ModeToSet,
    SymlinksStep,
    SyncStep,
    TextsStep,
    TextToWrite,
)
from buildit.model.words import name_of
from buildit.plan.evaluate import written_at
from buildit.recipe.container import (
    DirectorySpec,
    LinkSpec,
    LoadedStep,
    ModeSpec,
    SyncSpec,
    TextSpec,
)

_NO_COPIES = Copies()


def small_step(
    step: LoadedStep,
    project: Path,
    ids: Ids,
    app: Callable[[], App],
    copies: Copies = _NO_COPIES,
    kept: bool = False,
) -> LayerStep | None:
    """The step of the plan for one that needs no task; None for any other. `app` gives what the
    steps above say of it, `copies` is what they take from elsewhere. `kept`: caches are of
    earlier runs.

    Raises:
        RecipeError: an owner, a path or a glob is wrong.
    """
    spec = step.spec
    if spec.sync is not None:
        return _sync(spec.sync, step, project, ids, copies)
    if spec.directories is not None:
        return _directories(spec.directories, step, ids)
    if spec.symlinks is not None:
        return _symlinks(spec.symlinks, step)
    if spec.texts is not None:
        return _texts(spec.texts, step, ids)
    if spec.modes is not None:
        return _modes(spec.modes, step, ids)
    if spec.run is None:
        return None
    mounts, sources = mounts_of_step(step, copies, kept=kept)
    asked = dict.fromkeys(one.id for one in mounts if one.kind == "secret" and one.required)
    made = run_of_step(spec.run, step, app())
    secrets = tuple(dict.fromkeys((*made.secrets, *asked)))
    return replace(made, mounts=mounts, sources=sources, secrets=secrets)


def source_of(src: str, step: LoadedStep, project: Path) -> tuple[str, str]:
    """What a step syncs, and the directory that it is beneath: "" for the project's own."""
    if step.base == project:
        return src, ""
    src = os.path.relpath(os.path.normpath(step.base / src), step.root)
    return src, "" if step.root == project else str(step.root)


def _sync(spec: SyncSpec, step: LoadedStep, project: Path, ids: Ids, copies: Copies) -> SyncStep:
    mode = "" if spec.chmod is None else f"{spec.chmod:04o}"
    dirmode = "" if spec.dirmode is None else f"{spec.dirmode:04o}"
    for number, glob in enumerate(spec.exclude):
        path_matcher(glob, place=written_at(step.node, "sync", "exclude", number))
    uid, gid, owner = _owner(spec.owner or "0:0", step, ids, "sync")
    if not isinstance(spec.src, str):
        made = _copied(spec, spec.src, step, project, copies)
        at = replace(made, mode=mode, dir_mode=dirmode, uid=uid, gid=gid, owner=owner)
        return replace(at, keeps=spec.owner is None)
    for key in ("from", "ignore", "extract", "parents", "sha256"):
        if step.node.get("sync") is not None and getattr(spec, _FIELDS.get(key, key)):
            hint = f"write src: [{spec.src}]"
            raise wrong_at(step, f"`{key}` stands beside a list in `src`", hint, "sync", key)
    src, root = source_of(spec.src, step, project)
    return SyncStep(
        src,
        spec.dest,
        spec.recursive,
        mode,
        uid,
        gid,
        step.place,
        dirmode,
        spec.exclude,
        names=step.names if spec.template else None,
        root=root,
        owner=owner,
    )


_FIELDS = {"from": "from_"}


def _copied(
    spec: SyncSpec, sources: tuple[str, ...], step: LoadedStep, project: Path, copies: Copies
) -> SyncStep:
    """A step with a list, whose files lie as a Dockerfile's COPY lays them."""
    if not sources:
        raise wrong_at(step, "`src` is empty", "name a file: src: [index.html]", "sync", "src")
    if spec.template:
        hint = "sync them in steps of their own: `src: index.html`"
        raise wrong_at(step, "files of a list are no templates", hint, "sync", "template")
    for number, source in enumerate(sources):
        place = written_at(step.node, "sync", "src", number)
        for part in source.split("/") if not url_of(spec) else ():
            if {*"*?["} & {*part}:
                path_matcher(part, place=place)
    ignored_by(spec.ignore, written_at(step.node, "sync"))
    made = SyncStep(
        " ".join(sources), spec.dest, True, "", 0, 0, step.place, exclude=spec.exclude,
        extract=spec.extract, parents=spec.parents,
    )  # fmt: skip
    if url := url_of(spec):
        return replace(made, sources=(name_of(url) or "file",), fetched=copies.files[url])
    if spec.from_ is not None:
        return replace(made, sources=sources, origin=copies.origin(spec.from_))
    pairs = [source_of(one, step, project) for one in sources]
    return replace(
        made, sources=tuple(one for one, _ in pairs), root=pairs[0][1], ignore=spec.ignore
    )


def _directories(specs: tuple[DirectorySpec, ...], step: LoadedStep, ids: Ids) -> DirectoriesStep:
    made = []
    _check_paths(step, "directories", (spec.path for spec in specs))
    for number, spec in enumerate(specs):
        at = ("directories", number)
        uid, gid, owner = _owner(spec.owner, step, ids, *at)
        path, place = spec.path.strip("/"), written_at(step.node, *at)
        made.append(DirectoryToMake(path, spec.mode, uid, gid, place, owner, spec.keep))
    return DirectoriesStep(tuple(made), step.place)


def _symlinks(specs: tuple[LinkSpec, ...], step: LoadedStep) -> SymlinksStep:
    _check_paths(step, "symlinks", (spec.path for spec in specs))
    places = [written_at(step.node, "symlinks", number) for number in range(len(specs))]
    links = zip(specs, places, strict=True)
    made = (LinkToMake(spec.path.strip("/"), spec.target, place) for spec, place in links)
    return SymlinksStep(tuple(made), step.place)


def _texts(specs: tuple[TextSpec, ...], step: LoadedStep, ids: Ids) -> TextsStep:
    made = []
    _check_paths(step, "texts", (spec.path for spec in specs))
    for number, spec in enumerate(specs):
        at = ("texts", number)
        uid, gid, owner = _owner(spec.owner, step, ids, *at)
        path, place = spec.path.strip("/"), written_at(step.node, *at)
        made.append(TextToWrite(path, spec.content, spec.mode, uid, gid, place, owner))
    return TextsStep(tuple(made), step.place)


def _modes(specs: tuple[ModeSpec, ...], step: LoadedStep, ids: Ids) -> ModesStep:
    made = []
    _check_paths(step, "modes", (spec.path for spec in specs))
    for number, spec in enumerate(specs):
        at = ("modes", number)
        if spec.mode is None and spec.owner is None:
            hint = "write `mode:`, `owner:`, or both"
            raise wrong_at(step, f"nothing is said of {spec.path}", hint, *at)
        uid, gid, owner = None, None, ""
        if spec.owner is not None:
            uid, gid, owner = _owner(spec.owner, step, ids, *at)
        path, place = spec.path.strip("/"), written_at(step.node, *at)
        made.append(ModeToSet(path, spec.mode, uid, gid, place, owner))
    return ModesStep(tuple(made), step.place)


def _owner(text: str, step: LoadedStep, ids: Ids, *path: str | int) -> tuple[int, int, str]:
    """The numbers of an owner, or its name where only the layers below can know it."""
    if ids.late and ids.owner(text) is None:
        return 0, 0, text
    return *owner_of(text, step, ids, *path), ""


_WHAT = {"directories": "directory", "symlinks": "link", "texts": "file", "modes": "path"}


def _check_paths(step: LoadedStep, key: str, paths: Iterable[str]) -> None:
    """Refuse / in a step, and a path that is there twice: which one counts would be a guess."""
    seen: set[str] = set()
    for number, path in enumerate(paths):
        at = (key, number, "path")
        if not path.strip("/"):  # as tried: see `image.reading.SeenTree.shown`
            message = "no image can say what / is like: engines make it themselves, docker with "
            message += "mode 0755 and podman with 0555, owned by 0:0"
            hint = "leave it out; what lies in / can have any mode and owner"
            raise wrong_at(step, message, hint, *at)
        if path.strip("/") in seen:
            message = f"the {_WHAT[key]} {path} is there twice"
            raise wrong_at(step, message, "leave one of them out", *at)
        seen.add(path.strip("/"))
