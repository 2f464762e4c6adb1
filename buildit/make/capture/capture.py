"""From what a build installed to its outputs: normalised, split, scanned, checked, packed once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from buildit.archive.streams import Content
from buildit.errors import BuildError
from buildit.make.capture.checks import Finding, Waiver, findings, refuse_errors, subject, yaml_path
from buildit.make.capture.needs import Needs, Target, needs_of
from buildit.make.capture.normalise import (
    UNLESS_SAID,
    Bounds,
    Change,
    FileRule,
    InstalledTree,
    normalised,
    open_content,
)
from buildit.make.capture.providers import MISSING_PROVIDER, Sight, check_provided, providers
from buildit.make.capture.split import OutputRule, claims, moves, needed_at_run_time, split
from buildit.model.amount import some
from buildit.model.artifact import RUNTIME, Output
from buildit.model.pathglob import path_matcher
from buildit.model.tree import Entry
from buildit.plan.steps import BUILD_DIRECTORY
from buildit.store.ingest import Batch
from buildit.store.layers import put_layer

BUILD_PATHS = (f"{BUILD_DIRECTORY}/src", f"{BUILD_DIRECTORY}/out")
CAPTURE = "capture"
"""The part of a log that says what is not as it was installed."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Installed:
    """Entries by output, what each needs, and what is not as it was installed.

    `declared` are the paths whose mode the recipe gives.
    """

    outputs: Mapping[str, tuple[Entry, ...]]
    needs: Mapping[str, Needs]
    changes: tuple[Change, ...]
    declared: frozenset[str] = frozenset()


def survey(
    tree: InstalledTree,
    file_rules: Sequence[FileRule],
    output_rules: Sequence[OutputRule],
    epoch: int,
    target: Target,
    bounds: Bounds = UNLESS_SAID,
) -> Installed:
    """Look at what was installed, without packing anything.

    Raises:
        BuildError: something was installed that no artifact can hold, or a rule fits nothing.
    """
    with readable():
        claimed = claims(output_rules)
        found = normalised(tree, file_rules, epoch, claimed=claimed, bounds=bounds)

    def content(entry: Entry) -> BinaryIO:
        return open_content(tree, entry)

    at_run_time = needed_at_run_time(found.entries, content)
    outputs = split(found.entries, output_rules, at_run_time)
    needs = {name: needs_of(entries, content, target) for name, entries in outputs.items()}
    changes = sorted((*found.changes, *moves(found.entries, outputs, output_rules)))
    return Installed(outputs, needs, tuple(changes), found.declared)


@contextmanager
def readable() -> Iterator[None]:
    """Say what the system says of an installed tree.

    Raises:
        BuildError: in the place of any OSError.
    """
    try:
        yield
    except OSError as error:
        raise BuildError(
            f"what was installed cannot be read: {error.strerror}", place=str(error.filename or "")
        ) from error


def refuse_empty(installed: Installed, output_rules: Sequence[OutputRule], label: str) -> None:
    """Refuse a package of nothing, unless `outputs: {runtime: {optional: yes}}` says it is meant.

    Raises:
        BuildError: nothing was installed.
    """
    meant = any(rule.name == RUNTIME and rule.optional and not rule.globs for rule in output_rules)
    if not meant and not any(installed.outputs.values()):
        raise BuildError(
            "the package is empty: nothing was installed",
            place=label,
            hint="install into $DESTDIR, or declare it: outputs: {runtime: {optional: yes}}",
        )


def told(installed: Installed, *, loud: bool = False) -> tuple[str, ...]:
    """What is not as it was installed, one line a kind; `loud`: only what may not be meant."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for change in installed.changes:
        if change.loud or not loud:
            kinds.setdefault((change.what, change.keep), []).append(change.path)
    lines = [_told(what, keep, paths) for (what, keep), paths in kinds.items()]
    others = [name for name, entries in installed.outputs.items() if entries and name != RUNTIME]
    if others and not installed.outputs[RUNTIME]:
        lines.append(f"an image gets nothing of it: everything is in {', '.join(others)}")
    return tuple(lines)


def _told(what: str, keep: str, paths: Sequence[str]) -> str:
    shown = some([printable_path(path) for path in paths], _SHOWN)
    help_ = f"; to keep: {keep % ', '.join(map(yaml_path, paths[:_SHOWN]))}" if keep else ""
    return f"{what}: {shown}{help_}"


def printable_path(path: str) -> str:
    """A path for a line of a terminal or log."""
    return path if path.isprintable() else ascii(path)


def check(
    tree: InstalledTree, installed: Installed, target: Target, waivers: Sequence[Waiver], label: str
) -> tuple[Finding, ...]:
    """What the rules find in the outputs and no waiver covers; warnings are returned.

    Raises:
        BuildError: a finding is an error.
        RecipeError: the glob of a waiver is malformed.
    """
    found: list[Finding] = []
    for name, entries in installed.outputs.items():
        looked = subject(
            name,
            entries,
            lambda entry: open_content(tree, entry),
            target,
            build_paths=BUILD_PATHS,
            declared=installed.declared,
        )
        left, _ = findings(looked, waivers)
        found += left
    refuse_errors(label, found)
    return tuple(found)


def found_providers(
    installed: Installed, beyond: Sight, target: Target
) -> dict[str, dict[str, str]]:
    """Providers by output; `beyond` is what the build saw besides what it installed."""
    return {
        name: providers(needs, name, installed.outputs, beyond, target)
        for name, needs in installed.needs.items()
    }


def check_providers(
    installed: Installed,
    found: Mapping[str, Mapping[str, str]],
    label: str,
    waivers: Sequence[Waiver],
) -> None:
    """Refuse needs without a provider, unless the recipe accepts them.

    Raises:
        UnsatisfiableError: a file of the runtime output needs what no output provides.
    """
    accepted = [path_matcher(waiver.glob) for waiver in waivers if waiver.id == MISSING_PROVIDER]
    for name, needs in installed.needs.items():
        check_provided(
            needs, found[name], name, label, lambda path: any(fits(path) for fits in accepted)
        )


def pack(
    tree: InstalledTree,
    installed: Installed,
    providers_: Mapping[str, Mapping[str, str]],
    batch: Batch,
) -> dict[str, Output]:
    """Write each output as one layer, and its contents."""
    return {
        name: _pack(tree, entries, installed.needs[name], providers_[name], batch)
        for name, entries in installed.outputs.items()
    }


def _pack(
    tree: InstalledTree,
    entries: Sequence[Entry],
    needs: Needs,
    found: Mapping[str, str],
    batch: Batch,
) -> Output:
    packed = put_layer(batch, entries, lambda e: cast(Content, open_content(tree, e)))
    # Links of others on the way to what is needed are needed as well.
    every = tuple(sorted({*needs.wanted, *found}))
    return Output(packed.diff_id, packed.size, packed.contents, every, dict(sorted(found.items())))
