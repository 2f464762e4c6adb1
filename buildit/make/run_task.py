"""The tasks of `run` steps: what a command sees beside the layers below, as in its record. Pure.

Here, and not with their maker, so that a run which finds every layer imports no sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from buildit.archive.contents import contents_blob
from buildit.image.launch import Identity
from buildit.make.difference import DIFFERENCE
from buildit.model.copying import MountedFiles
from buildit.model.plan import About, Inputs, LayerRef, RunStep, Task
from buildit.model.platform import PLATFORMS
from buildit.model.tree import Entry
from buildit.plan.identity import RunInputs, step_task

ROOM = "2"
"""Version of what a step sees of the sandbox; in the key of what runs."""

APT = "1"
"""Version of what a step sees of its source of apt; in the key of those that see it."""

APT_PLACE = "run/buildit"
"""Where that source is inside, on a file system in memory."""

APT_ENVIRONMENT: Mapping[str, str] = {"APT_CONFIG": f"/{APT_PLACE}/apt.conf"}

STEP_ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    "HOME": "/root",
    "LC_ALL": "C.UTF-8",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "PERL_HASH_SEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",
    "TERM": "dumb",
    "TZ": "UTC0",
    "USER": "root",
}
"""What a step sees beside what it says itself."""

APP_ENVIRONMENT = {
    name: value
    for name, value in STEP_ENVIRONMENT.items()
    if name not in ("LC_ALL", "TERM", "TZ", "USER")
}
"""What one that runs as the app sees: no engine says more than PATH and HOME, and without the rest
its result would not be the same twice."""


def _stays(step: RunStep) -> bool:
    """Whether it is a task of this store alone."""
    mounted = any(one.kept or one.kind == "secret" for one in step.mounts)
    return bool(step.secrets) or step.network or mounted


def run_task(
    step: RunStep,
    below: Sequence[LayerRef],
    restated: Sequence[Entry],
    epoch: int,
    platform: str,
    who: Identity | None = None,
    mounts: tuple[MountedFiles, ...] = (),
) -> Task:
    """The task of a step over layers, the lowest first; `restated` are directories that an overlay
    of them would show otherwise, `epoch` is the newest time below, `who` is whom it runs as where
    the step says it, `mounts` are those of the step."""
    given = {
        **(STEP_ENVIRONMENT if who is None else {**APP_ENVIRONMENT, "HOME": who.home}),
        "SOURCE_DATE_EPOCH": str(epoch),
        **(APT_ENVIRONMENT if step.debs else {}),
    }
    given |= dict(step.environment)
    inputs = RunInputs(
        argv=step.argv,
        environment=given,
        ids=step.ids,
        network=step.network,
        epoch=epoch,
        below=tuple(layer.diff_id for layer in below),
        restated=contents_blob(restated).decode() if restated else "",
        platform=PLATFORMS[platform],
        room=ROOM,
        difference=DIFFERENCE,
        secrets=step.secrets,
        debs=tuple(sorted({deb.digest for deb in step.debs})),
        apt=APT if step.debs else "",
        who=() if who is None else (who.uid, who.gid, *who.groups),
        cwd=step.directory if step.as_app else "",
        mounts=mounts,
    )
    return step_task(
        inputs.record(),
        Inputs(below=tuple(below), debs=step.debs),
        About(origin=step.place, description=step.said),
        platform=platform,
        stays=_stays(step),
    )
