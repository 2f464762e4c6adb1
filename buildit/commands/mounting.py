"""The mounts of `run` steps, typed for the plan. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from buildit.commands.choose import wrong_at
from buildit.commands.copies import Copies
from buildit.commands.mountfiles import MOUNTED_AT
from buildit.model.copying import StepMount
from buildit.model.ignored import ignored_by
from buildit.model.plan import SyncStep
from buildit.model.secret import SECRET_ID
from buildit.plan.evaluate import written_at
from buildit.recipe.container import LoadedStep, RunMountSpec

_TAKEN = ("proc", "dev", "sys")


def mounts_of_step(
    step: LoadedStep, copies: Copies, *, kept: bool
) -> tuple[tuple[StepMount, ...], tuple[SyncStep, ...]]:
    """The mounts of a step, and the sources of their files; caches are `kept` where the command
    line says so.

    Raises:
        RecipeError: one is wrong, or two are at one place.
    """
    mounts: list[StepMount] = []
    sources: list[SyncStep] = []
    seen: set[str] = set()
    for number, spec in enumerate(step.spec.run.mounts if step.spec.run is not None else ()):
        at = ("run", "mounts", number)
        dest = _dest(spec, step, *at)
        if dest in seen:
            raise wrong_at(step, f"two mounts are at {dest}", "take one of them out", *at)
        seen.add(dest)
        source = _source(spec, step, copies, *at)
        index = -1 if source is None else len(sources)
        sources += () if source is None else (source,)
        usual = spec.type in ("cache", "tmpfs")
        mounts.append(
            StepMount(
                kind=spec.type,
                dest=dest,
                source=index,
                id=spec.id or (dest if spec.type == "cache" else ""),
                mode="" if spec.mode is None else f"{spec.mode:04o}",
                uid=spec.uid,
                gid=spec.gid,
                size=spec.size or 0,
                content=spec.content or "",
                writable=usual if spec.writable is None else spec.writable,
                required=spec.required,
                variable=spec.env or "",
                kept=kept and spec.type == "cache",
            )
        )
    return tuple(mounts), tuple(sources)


def _dest(spec: RunMountSpec, step: LoadedStep, *at: str | int) -> str:
    for problem, hint in _problems(spec):
        raise wrong_at(step, problem, hint, *at)
    dest = spec.dest or f"/run/secrets/{spec.id}"
    path = posixpath.normpath(dest).lstrip("/")
    if not path or (path.split("/")[0] in _TAKEN and not path.startswith("dev/pipes/")):
        raise wrong_at(step, f"nothing can be mounted at {dest}", "choose another place", *at)
    return f"/{path}"


def _problems(spec: RunMountSpec) -> Iterator[tuple[str, str]]:
    """What of a mount does not go together, with what to do."""
    if spec.dest is None and spec.type != "secret":
        yield f"the {spec.type} has no `dest`", "add where it is: `dest: /root/.cache`"
    if spec.type == "secret" and (spec.id is None or re.fullmatch(SECRET_ID, spec.id) is None):
        yield "the secret has no `id` that a secret can have", "add `id: token`"
    if spec.type == "bind" and spec.src is None:
        yield "the bind has no `src`", "add the file or directory: `src: .`"
    if spec.type == "text" and spec.content is None:
        yield "the text has no `content`", "add `content: …`"
    for key in ("src", "from_"):
        if getattr(spec, key) is not None and spec.type not in ("bind", "cache"):
            yield f"a {spec.type} has no `{key.rstrip('_')}`", "it is for `bind` and `cache`"


def _source(
    spec: RunMountSpec, step: LoadedStep, copies: Copies, *at: str | int
) -> SyncStep | None:
    """The files of a mount as a step that lays them by themselves."""
    if spec.type not in ("bind", "cache") or (spec.src is None and spec.from_ is None):
        return None
    src = posixpath.normpath(spec.src or ".")
    place = written_at(step.node, *at)
    if spec.from_ is None and src.split("/")[0] == "..":
        hint = "copy it into the container's directory"
        raise wrong_at(step, f"{spec.src!r} leads out of the container's directory", hint, *at)
    src = src.lstrip("/") or "."
    ignored_by(spec.ignore, place)
    if spec.from_ is not None:
        origin = copies.origin(spec.from_)
        words = (src, MOUNTED_AT, True, "", 0, 0, place)
        return SyncStep(*words, sources=(src,), keeps=True, origin=origin)
    root = "" if step.base == step.root else str(step.root)
    return SyncStep(
        src, MOUNTED_AT, True, "", 0, 0, place, root=root, sources=(src,), ignore=spec.ignore
    )
