"""What stands for the maintainer scripts of a .deb, before any image is built with it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from buildit.commands.fetching import InputFetcher
from buildit.commands.run import Options, prepare, run_of
from buildit.errors import BuilditError, UsageError
from buildit.events import Reporter
from buildit.make.deb import rules_inside
from buildit.make.scripts.state import ScriptRules
from buildit.model.plan import ContainerPlan, DebRef
from buildit.model.words import hint_of

_PREFIX = "debian:"


def deb_rules(options: Options, name: str, report: Reporter) -> tuple[DebRef, ScriptRules]:
    """The .deb called `name` in the container of `options.directory`, or of its toolchain, and its
    rules; it is fetched where the store lacks it.

    Raises:
        UsageError: the container has none of that name.
        BuilditError: as `prepare`; it cannot be fetched, or is damaged.
    """
    prepared = prepare(options, report)
    plan = prepared.plan
    known = _debs(plan)
    if name not in known:
        message = f"{_PREFIX}{name} is no .deb of this container"
        raise UsageError(message, place=plan.directory, hint=hint_of(name, sorted(known)))
    deb = known[name]
    with run_of(prepared, report) as run:
        if not run.store.has(deb.digest):
            fetcher = InputFetcher(run.store, run.downloads)
            fetcher.bring_again(frozenset({deb.digest}), (), (deb,))
        with run.store.seekable(deb.digest) as stream:
            return deb, rules_inside(stream, name)


def lone_deb_rules(options: Options, name: str, report: Reporter) -> tuple[DebRef, ScriptRules]:
    """The same of a .deb that no container is needed for, by `name` or `name=version`."""
    step = f"{{debian: {json.dumps(name)}, closure: files}}"
    text = f"- vars: {{name: x, version: '1'}}\n- package: {step}\n"
    with made_up({"container.yaml": text}, f"{_PREFIX}{name}") as directory:
        return deb_rules(replace(options, directory=directory), name.partition("=")[0], report)


@contextmanager
def made_up(files: Mapping[str, str], asked: str, beside: Path | None = None) -> Iterator[Path]:
    """A container of these files, by their paths, where the user wrote none; an error at one of
    them is at what was `asked`, as none is the user's. It may be moved away; the configuration is
    that of what it is `beside`."""
    with tempfile.TemporaryDirectory(prefix=".buildit-asked-", dir=beside) as name:
        directory = Path(name)
        for path, text in files.items():
            (directory / path).parent.mkdir(parents=True, exist_ok=True)
            (directory / path).write_text(text, "utf-8")
        try:
            yield directory
        except BuilditError as error:
            if directory.name in (error.place or ""):
                error.place = asked
            raise


def _debs(plan: ContainerPlan) -> dict[str, DebRef]:
    """Every .deb of a plan by its name, those of the toolchain too."""
    nodes = (deb for task in plan.tasks for deb in task.inputs.debs)
    return {deb.name: deb for deb in (*plan.toolchain.debs, *nodes)}
