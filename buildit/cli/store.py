"""`buildit store`: what is there, what is wrong, what can go."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial
from typing import Any

import click

from buildit.cli.options import JSON, own_store
from buildit.cli.screen import columns, give, printable
from buildit.digest import BuildKey, key_uuid
from buildit.errors import BuilditError, IntegrityError
from buildit.model.amount import counted, size
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.check import Remedy, StoreCheck, check_store
from buildit.store.collect import Garbage, collect, garbage
from buildit.store.failures import failures
from buildit.store.names import named

_FAILED = "failed"
_WHOLE = "whole"
_BROKEN = "not whole"


def _listing(store: Store) -> list[dict[str, Any]]:
    """Every build and every remembered failure, by name; `size` is of all outputs, in bytes."""
    rows: list[dict[str, Any]] = []
    for entry in named(store):
        try:
            artifact = lookup(store, entry.key)
        except BuilditError:
            artifact = None
        bytes_ = sum(one.size for one in artifact.outputs.values()) if artifact else 0
        state = _WHOLE if artifact else _BROKEN
        rows.append(_row(entry.key, entry.name, entry.version, state, bytes_))
    rows += [_row(one.key, one.name, one.version, _FAILED, 0) for one in failures(store)]
    return sorted(rows, key=lambda row: (row["name"], row["version"], row["key"]))


def _row(key: BuildKey, name: str, version: str, state: str, bytes_: int) -> dict[str, Any]:
    about = {"name": name, "version": version, "key": key, "uuid": key_uuid(key)}
    return {**about, "state": state, "size": bytes_}


def _listing_lines(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return columns(
        [
            (
                f"{row['name']}-{row['version']}",
                row["uuid"],
                size(row["size"]) if row["state"] == _WHOLE else row["state"],
            )
            for row in rows
        ]
    )


def _verified_lines(found: StoreCheck) -> tuple[str, ...]:
    rows = [(fault.remedy.value, fault.path, fault.reason) for fault in found.faults]
    blobs, statements = counted(found.blobs, "blob"), counted(found.statements, "statement")
    read = f"{blobs} ({size(found.size)}) and {statements} read"
    return (*columns(rows), read)


def _raise_for_faults(found: StoreCheck) -> None:
    """Fail where anything was lost or is not right; what was repaired counts for nothing.

    Raises:
        IntegrityError: there are such faults.
    """
    bad = [fault for fault in found.faults if fault.remedy is not Remedy.REPAIRED]
    if bad:
        raise IntegrityError(
            f"the store was not whole: {counted(len(bad), 'object')}",
            hint="build again: what was set aside is fetched or built anew",
        )


def _sweep(store: Store, *, dry_run: bool) -> Garbage:
    """Collect, or only look; says so where it has to wait for another process."""

    def waiting(holder: str) -> None:
        sys.stderr.write(f"waiting for {printable(holder)}\n")

    return garbage(store) if dry_run else collect(store, waiting=waiting)


def _garbage_plain(found: Garbage) -> dict[str, Any]:
    plain = asdict(found)
    return {
        name: value if isinstance(value, int) else [str(one) for one in value]
        for name, value in plain.items()
    }


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
    give(found, _listing_lines, list, as_json=as_json)


@store_verb.command("verify", short_help="Read every object; set aside what is corrupt.")
@JSON
def _verify(as_json: bool) -> None:
    """Read every object; what is corrupt is set aside, to be fetched or built anew."""
    with own_store() as (opened, _):
        found = check_store(opened)
    give(found, _verified_lines, asdict, as_json=as_json)
    _raise_for_faults(found)


@store_verb.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@JSON
def _gc(dry_run: bool, as_json: bool) -> None:
    """Remove what no container's lock and no running buildit needs."""
    with own_store() as (opened, _):
        found = _sweep(opened, dry_run=dry_run)
    give(found, partial(_garbage_lines, dry_run=dry_run), _garbage_plain, as_json=as_json)
