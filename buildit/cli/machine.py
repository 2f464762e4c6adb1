"""`doctor` and `store`: whether this machine can build, and what its store holds."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import click

from buildit.cli.options import JSON, own_store, told_of
from buildit.cli.screen import columns, give, printable
from buildit.errors import BuildError, BuilditError, IntegrityError
from buildit.model.words import counted, size
from buildit.sandbox.probe import Level, Probed, probe
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.names import FailedBuild, NameEntry, failures, named
from buildit.store.upkeep import Garbage, Remedy, StoreCheck, check_store, collect, garbage

_VERDICTS = {Level.FINE: "ok", Level.WEAK: "warn", Level.MISSING: "fail"}


def finding_lines(found: Sequence[Probed]) -> Iterator[str]:
    """A line for each finding, its remedy below it."""
    rows = columns([(_VERDICTS[one.level], one.subject, one.text) for one in found])
    for line, one in zip(rows, found, strict=True):
        yield line
        if one.hint is not None and one.level is not Level.FINE:
            yield printable(f"      hint: {one.hint}")


def findings_plain(found: Sequence[Probed]) -> list[dict[str, object]]:
    return [{**asdict(one), "verdict": _VERDICTS[one.level]} for one in found]


def raise_for_findings(found: Sequence[Probed]) -> None:
    """Fail where something stops builds.

    Raises:
        BuildError: so it is.
    """
    missing = [one.subject for one in found if one.level is Level.MISSING]
    if missing:
        hint = "the remedy of each is above"
        raise BuildError(f"builds cannot run here: {', '.join(missing)}", hint=hint)


@click.command("doctor", short_help="Say whether this machine can build, and what to mend.")
@JSON
def doctor_verb(as_json: bool) -> None:
    """Look at everything that builds need of this machine, with the remedy of what is wrong."""
    from buildit.recipe.config import load_config

    found = probe(load_config(Path()).config.store)
    give(found, finding_lines, findings_plain, as_json=as_json)
    raise_for_findings(found)


_WHOLE = "whole"


def _listing(store: Store) -> list[dict[str, Any]]:
    """Every build and every remembered failure, by name; `size` is of all outputs, in bytes."""
    found: list[tuple[NameEntry | FailedBuild, str, int]] = []
    for entry in named(store):
        try:
            artifact = lookup(store, entry.key)
        except BuilditError:
            artifact = None
        bytes_ = sum(one.size for one in artifact.outputs.values()) if artifact else 0
        found.append((entry, _WHOLE if artifact else "not whole", bytes_))
    found += [(one, "failed", 0) for one in failures(store)]
    rows = [
        {**told_of(one.name, one.version, one.key, state), "size": bytes_}
        for one, state, bytes_ in found
    ]
    return sorted(rows, key=lambda row: (row["name"], row["version"], row["key"]))


def _listing_lines(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    cells = []
    for row in rows:
        state = size(row["size"]) if row["state"] == _WHOLE else row["state"]
        cells.append((f"{row['name']}-{row['version']}", row["uuid"], state))
    return columns(cells)


def _verified_lines(found: StoreCheck) -> tuple[str, ...]:
    rows = [(fault.remedy.value, fault.path, fault.reason) for fault in found.faults]
    blobs, statements = counted(found.blobs, "blob"), counted(found.statements, "statement")
    return (*columns(rows), f"{blobs} ({size(found.size)}) and {statements} read")


def _garbage_lines(found: Garbage, *, dry_run: bool) -> tuple[str, ...]:
    counts = (
        (len(found.keys), "build"),
        (len(found.blobs), "blob"),
        (len(found.trees), "tree"),
        (len(found.failures), "failed build"),
        (len(found.corrupt), "corrupt object"),
        (len(found.roots), "forgotten container"),
    )
    parts = ", ".join(counted(count, what) for count, what in counts if count)
    verb = "would go" if dry_run else "removed"
    return (f"{verb}: {parts} ({size(found.size)})" if parts else "nothing to remove",)


@click.group("store", no_args_is_help=False)
def store_verb() -> None:
    """Look after the local store."""


@store_verb.command("list")
@JSON
def _list(as_json: bool) -> None:
    """List every build, and every failed build that is remembered."""
    with own_store() as (opened, _):
        found = _listing(opened)
    give(found, _listing_lines, as_json=as_json)


@store_verb.command("verify", short_help="Read every object; set aside what is corrupt.")
@JSON
def _verify(as_json: bool) -> None:
    """Read every object; what is corrupt is set aside, to be fetched or built anew."""
    with own_store() as (opened, _):
        found = check_store(opened)
    give(found, _verified_lines, as_json=as_json)
    bad = [fault for fault in found.faults if fault.remedy is not Remedy.REPAIRED]
    if bad:
        hint = "build again: what was set aside is fetched or built anew"
        raise IntegrityError(f"the store was not whole: {counted(len(bad), 'object')}", hint=hint)


@store_verb.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@JSON
def _gc(dry_run: bool, as_json: bool) -> None:
    """Remove what no container's lock and no running buildit needs."""

    def waiting(holder: str) -> None:
        sys.stderr.write(f"waiting for {printable(holder)}\n")

    with own_store() as (opened, _):
        found = garbage(opened) if dry_run else collect(opened, waiting=waiting)
    give(found, partial(_garbage_lines, dry_run=dry_run), as_json=as_json)
