"""`check`: build a Debian source package as it is, and compare with Debian's own .debs."""

from __future__ import annotations

import json
import re
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, BinaryIO

from buildit.commands.choose import choose
from buildit.commands.explaining import made_up
from buildit.commands.fetching import InputFetcher
from buildit.commands.planning import make_plan
from buildit.commands.realise import Tasks, obtain_all, place_of
from buildit.commands.run import Options, Run
from buildit.debian.relations import debian_key
from buildit.digest import BuildKey
from buildit.events import Reporter, Started
from buildit.make.debian_compare import ComparedDeb, compare_debs
from buildit.make.debian_outputs import DEBS
from buildit.model.artifact import Artifact
from buildit.model.plan import PackageStep, Task
from buildit.recipe.config import Loaded
from buildit.remote.fetch import Fetch

if TYPE_CHECKING:
    from buildit.debian.packages import Candidate

_CONTAINER = """\
- vars: {name: check, version: 1}
- toolchain: %s
- package: {type: embedded, path: ./source, packages: ["*"]}
- image: {type: oci}
"""


@dataclass(frozen=True, slots=True)
class CheckedSource:
    """A source package that was built as it is: the .debs against the archive's, and what its build
    took; `seconds` is 0 where it was at hand, `size` of the .debs in bytes."""

    name: str
    version: str
    debs: tuple[ComparedDeb, ...]
    seconds: float
    size: int


def check_source(
    base: str, toolchain: str, loaded: Loaded, run: Run, report: Reporter, stop: threading.Event
) -> CheckedSource:
    """Build `debian:NAME[=VERSION]`, of the release of Debian that the toolchain is of, without a
    change, and compare each .deb with the archive's.

    Raises:
        RecipeError, UnsatisfiableError: there is no such source, or a file of it is nowhere.
        BuilditError: it cannot be built.
    """
    container = _CONTAINER % json.dumps(toolchain)
    files = {"container.yaml": container, "source/pkg.yaml": f"base: {json.dumps(base)}\n"}
    with made_up(files, base) as directory:
        options = Options(directory)
        suites = choose(options, loaded).chroot.debian.suites
        plan = make_plan(options, loaded, run.downloads).plan
    (key,) = (key for _, key in plan.names)
    # all that is asked for: a source may make -dev packages alone, which no image takes unasked
    plan = replace(plan, steps=(PackageStep(key, base, (DEBS,)),))
    task = plan.task(key)
    report(Started(task.label))
    place = place_of(plan, run.store, run.config.limits, report, stop)
    done: dict[BuildKey, Artifact] = {}

    def fetching() -> InputFetcher:
        return InputFetcher(run.store, run.downloads, run.config.jobs)

    begun = time.monotonic()
    obtain_all(Tasks(plan), plan, place, run.remotes, fetching, run.config.jobs, done)
    took = time.monotonic() - begun
    with ExitStack() as opened:
        ours = _built(done[key], run, opened)
        theirs = _archived(task, sorted(ours), suites, run, opened)
        size = sum(stream.seek(0, 2) for stream in ours.values())
        found = compare_debs(ours, theirs)
    return CheckedSource(task.name, task.version, found, took, size)


def _built(artifact: Artifact, run: Run, opened: ExitStack) -> dict[str, BinaryIO]:
    """The .debs of an artifact, opened, by package."""
    tree = run.store.tree(artifact.outputs[DEBS].diff_id)
    files = sorted(tree.glob("*.deb"))
    return {one.name.partition("_")[0]: opened.enter_context(one.open("rb")) for one in files}


def _archived(
    task: Task, packages: list[str], suites: tuple[str, ...], run: Run, opened: ExitStack
) -> dict[str, BinaryIO]:
    """The archive's .debs of the same version, a binNMU's too, opened, by package."""
    with run.downloads.debian().open_indices(suites, task.platform.rpartition("/")[2]) as indices:
        listed = {name: _same(task.version, indices.named(name)) for name in packages}
    wanted = {name: one for name, one in listed.items() if one is not None}
    fetches = [
        Fetch(one.path.rpartition("/")[2], (f"mirror://debian/{one.path}",), one.digest, one.size)
        for one in wanted.values()
        if not run.store.has(one.digest)
    ]
    run.downloads.fetcher().fetch_all(fetches, 4)
    return {
        name: opened.enter_context(run.store.path(one.digest).open("rb"))
        for name, one in wanted.items()
    }


def _same(version: str, found: tuple[Candidate, ...]) -> Candidate | None:
    """The package of this version, else the last rebuild of it."""
    same = (one for one in found if re.sub(r"\+b\d+$", "", one.version) == version)
    return max(
        same, key=lambda one: (one.version == version, debian_key(one.version)), default=None
    )
