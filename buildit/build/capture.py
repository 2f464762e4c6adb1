"""From what a build installed to its outputs: normalised, split, scanned, checked, packed once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from buildit.archive.beneath import Root
from buildit.archive.contents import contents_blob
from buildit.archive.streams import Content
from buildit.archive.tarwrite import write_tar
from buildit.build.checks import Finding, Waiver, findings, refuse_errors, subject
from buildit.build.needs import Needs, Target, needs_of
from buildit.build.normalise import Change, FileRule, normalised, open_content
from buildit.build.providers import DebOf, Visible, check_provided, providers
from buildit.build.split import OutputRule, split
from buildit.errors import BuildError
from buildit.model.artifact import Output
from buildit.model.pathglob import path_matcher
from buildit.model.tree import Entry
from buildit.plan.steps import BUILD_DIRECTORY
from buildit.store.ingest import Batch

BUILD_PATHS = (f"{BUILD_DIRECTORY}/src", f"{BUILD_DIRECTORY}/out")
MISSING_PROVIDER = "missing-provider"
"""The id under which a recipe waives a need that nobody meets."""


@dataclass(frozen=True, slots=True)
class Installed:
    """Entries by output, what each needs, and what was left out."""

    outputs: Mapping[str, tuple[Entry, ...]]
    needs: Mapping[str, Needs]
    changes: tuple[Change, ...]


def survey(
    tree: Root,
    file_rules: Sequence[FileRule],
    output_rules: Sequence[OutputRule],
    epoch: int,
    target: Target,
) -> Installed:
    """Look at what was installed, without packing anything.

    Raises:
        BuildError: something was installed that no artifact can hold, or a rule fits nothing.
    """
    try:
        found = normalised(tree, file_rules, epoch)
    except OSError as error:
        raise BuildError(
            f"what was installed cannot be read: {error.strerror}", place=str(error.filename or "")
        ) from error
    outputs = split(found.entries, output_rules)
    needs = {
        name: needs_of(entries, lambda entry: open_content(tree, entry), target)
        for name, entries in outputs.items()
    }
    return Installed(outputs, needs, found.changes)


def check(
    tree: Root, installed: Installed, target: Target, waivers: Sequence[Waiver], label: str
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
            changes=installed.changes,
        )
        left, _ = findings(looked, waivers)
        found += left
    refuse_errors(label, found)
    return tuple(found)


def found_providers(
    installed: Installed,
    visible: Sequence[Visible],
    deb_of: DebOf,
    target: Target,
    label: str,
    waivers: Sequence[Waiver] = (),
) -> dict[str, dict[str, str]]:
    """Providers by output.

    Raises:
        UnsatisfiableError: nobody provides what a file of the runtime output needs.
    """
    accepted = [path_matcher(waiver.glob) for waiver in waivers if waiver.id == MISSING_PROVIDER]
    by_output = {}
    for name, needs in installed.needs.items():
        siblings = {n: entries for n, entries in installed.outputs.items() if n != name}
        found = providers(needs, siblings, visible, deb_of, target)
        check_provided(needs, found, name, label, lambda path: any(fits(path) for fits in accepted))
        by_output[name] = found
    return by_output


def pack(
    tree: Root, installed: Installed, providers_: Mapping[str, Mapping[str, str]], batch: Batch
) -> dict[str, Output]:
    """Write each output as one layer, and its contents."""
    return {
        name: _pack(tree, entries, installed.needs[name].needs, providers_[name], batch)
        for name, entries in installed.outputs.items()
    }


def _pack(
    tree: Root,
    entries: Sequence[Entry],
    needs: tuple[str, ...],
    found: Mapping[str, str],
    batch: Batch,
) -> Output:
    with batch.ingest() as sink:
        written = write_tar(entries, lambda e: cast(Content, open_content(tree, e)), sink)
        diff_id, size = sink.commit(), sink.size
    listing = batch.put_bytes(contents_blob(written))
    return Output(diff_id, size, listing, needs, dict(found))
