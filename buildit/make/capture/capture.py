"""From what a build installed to its outputs: normalised, split, scanned, checked, packed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from buildit.archive.streams import Content
from buildit.errors import BuildError
from buildit.make.capture.checks import Finding, Subject, findings, refuse_errors, yaml_path
from buildit.make.capture.needs import Look, Needs, Sight, looks, needs_of, providers
from buildit.make.capture.normalise import (
    UNLESS_SAID,
    Bounds,
    Change,
    InstalledTree,
    normalised,
    open_content,
)
from buildit.make.capture.split import claims, moves, needed_at_run_time, split_outputs
from buildit.model.amount import some
from buildit.model.artifact import RUNTIME, Output
from buildit.model.platform import Platform
from buildit.model.task import Waiver
from buildit.model.tree import Entry, Kind
from buildit.plan.identity import OutputInput, RuleInput
from buildit.plan.steps import BUILD_DIRECTORY
from buildit.store.blobs import Batch
from buildit.store.layers import put_layer

_BUILD_PATHS = tuple(f"{BUILD_DIRECTORY}/{one}".encode() for one in ("src", "out"))
CAPTURE = "capture"
"""The part of a log that says what is not as it was installed."""
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Installed:
    """What the package `label` installed in `tree`: entries by output, what each needs, and what is
    not as it was installed.

    `declared` are the paths whose mode the recipe gives, `looked` what the content of files says.
    """

    tree: InstalledTree
    platform: Platform
    label: str
    outputs: Mapping[str, tuple[Entry, ...]]
    needs: Mapping[str, Needs]
    changes: tuple[Change, ...]
    declared: frozenset[str]
    looked: Mapping[str, Look]

    def open(self, entry: Entry) -> BinaryIO:
        return open_content(self.tree, entry.path)

    def refuse_empty(self, output_rules: Sequence[OutputInput]) -> None:
        """Refuse a package of nothing, unless `outputs: {runtime: {optional: yes}}` says it is
        meant.

        Raises:
            BuildError: nothing was installed.
        """
        meant = any(r.name == RUNTIME and r.optional and not r.paths for r in output_rules)
        if not meant and not any(self.outputs.values()):
            raise BuildError(
                "the package is empty: nothing was installed",
                place=self.label,
                hint="install into $DESTDIR, or declare it: outputs: {runtime: {optional: yes}}",
            )

    def told(self, *, loud: bool = False) -> tuple[str, ...]:
        """What is not as it was installed, one line a kind; `loud`: only what may not be meant."""
        lines = told(change for change in self.changes if change.loud or not loud)
        others = [name for name, entries in self.outputs.items() if entries and name != RUNTIME]
        if others and not self.outputs[RUNTIME]:
            lines += (f"an image gets nothing of it: everything is in {', '.join(others)}",)
        return lines

    def check(self, waivers: Sequence[Waiver]) -> tuple[Finding, ...]:
        """What the rules find in the outputs and no waiver covers; warnings are returned.

        Raises:
            BuildError: a finding is an error.
            RecipeError: the glob of a waiver is malformed.
        """
        found: list[Finding] = []
        for name, entries in self.outputs.items():
            files = (entry.path for entry in entries if entry.kind is Kind.FILE)
            looked = {path: self.looked[path] for path in files if path in self.looked}
            found += findings(
                Subject(
                    name, entries, self.open, looked, self.platform, _BUILD_PATHS, self.declared
                ),
                waivers,
            )
        refuse_errors(self.label, found)
        return tuple(found)

    def providers(self, beyond: Callable[[], Sight]) -> dict[str, dict[str, str]]:
        """Providers by output; `beyond` is what the build saw besides what it installed: listing
        that is for what needs something."""
        return {
            name: providers(needs, name, self.outputs, beyond(), self.platform)
            if needs.wanted
            else {}
            for name, needs in self.needs.items()
        }

    def pack(self, found: Mapping[str, Mapping[str, str]], batch: Batch) -> dict[str, Output]:
        """Write each output as one layer, and its contents; `found` are the providers."""
        outputs = {}
        for name, entries in self.outputs.items():
            met = dict(sorted(found[name].items()))
            packed = put_layer(batch, entries, lambda entry: cast(Content, self.open(entry)))
            # Links of others on the way to what is needed are needed as well.
            every = tuple(sorted({*self.needs[name].wanted, *met}))
            outputs[name] = Output(packed.diff_id, packed.size, packed.contents, every, met)
        return outputs


def capture(
    tree: InstalledTree,
    file_rules: Sequence[RuleInput],
    output_rules: Sequence[OutputInput],
    epoch: int,
    platform: Platform,
    label: str,
    bounds: Bounds = UNLESS_SAID,
) -> Installed:
    """Look at what was installed, without packing anything; `label` is the package.

    Raises:
        RecipeError: a rule is malformed.
        BuildError: something was installed that no artifact can hold, or a rule fits nothing.
    """
    with readable():
        claimed = claims(output_rules)
        found = normalised(tree, file_rules, epoch, place=label, claimed=claimed, bounds=bounds)

    def content(entry: Entry) -> BinaryIO:
        return open_content(tree, entry.path)

    at_run_time = needed_at_run_time(found.entries, content)
    outputs = split_outputs(found.entries, output_rules, at_run_time)
    looked = looks((entry for entries in outputs.values() for entry in entries), content)
    needs = {name: needs_of(entries, looked, platform) for name, entries in outputs.items()}
    changes = sorted((*found.changes, *moves(found.entries, outputs, output_rules)))
    return Installed(tree, platform, label, outputs, needs, tuple(changes), found.declared, looked)


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


def told(changes: Iterable[Change]) -> tuple[str, ...]:
    """One line a kind of change."""
    kinds: dict[tuple[str, str], list[str]] = {}
    for change in changes:
        kinds.setdefault((change.what, change.keep), []).append(change.path)
    lines = []
    for (what, keep), paths in kinds.items():
        shown = some([path if path.isprintable() else ascii(path) for path in paths], _SHOWN)
        kept = ", ".join(map(yaml_path, paths[:_SHOWN]))
        lines.append(f"{what}: {shown}" + (f"; to keep: {keep % kept}" if keep else ""))
    return tuple(lines)
