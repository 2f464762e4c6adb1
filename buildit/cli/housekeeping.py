"""`buildit store`: what is there, what is wrong, what can go."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from buildit.cli.lookup import failures
from buildit.cli.printable import columns, printable
from buildit.digest import BuildKey, key_uuid
from buildit.errors import BuilditError, IntegrityError
from buildit.model.amount import counted, size
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.check import Remedy, StoreCheck
from buildit.store.collect import Garbage, collect, garbage
from buildit.store.names import named

FAILED = "failed"
WHOLE = "whole"
BROKEN = "not whole"


def listing(store: Store) -> list[dict[str, Any]]:
    """Every build and every remembered failure, by name; `size` is of all outputs, in bytes."""
    rows: list[dict[str, Any]] = []
    for entry in named(store):
        try:
            artifact = lookup(store, entry.key)
        except BuilditError:
            artifact = None
        bytes_ = sum(one.size for one in artifact.outputs.values()) if artifact else 0
        state = WHOLE if artifact else BROKEN
        rows.append(_row(entry.key, entry.name, entry.version, state, bytes_))
    rows += [_row(one.key, one.name, one.version, FAILED, 0) for one in failures(store)]
    return sorted(rows, key=lambda row: (row["name"], row["version"], row["key"]))


def _row(key: BuildKey, name: str, version: str, state: str, bytes_: int) -> dict[str, Any]:
    uuid = key_uuid(key)
    return {
        "name": name,
        "version": version,
        "key": key,
        "uuid": uuid,
        "state": state,
        "size": bytes_,
    }


def listing_lines(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    return columns(
        [
            (
                f"{row['name']}-{row['version']}",
                row["uuid"],
                size(row["size"]) if row["state"] == WHOLE else row["state"],
            )
            for row in rows
        ]
    )


def verified_lines(found: StoreCheck) -> tuple[str, ...]:
    rows = [(fault.remedy.value, fault.path, fault.reason) for fault in found.faults]
    blobs, statements = counted(found.blobs, "blob"), counted(found.statements, "statement")
    read = f"{blobs} ({size(found.size)}) and {statements} read"
    return (*columns(rows), read)


def verified_plain(found: StoreCheck) -> dict[str, Any]:
    return asdict(found)


def raise_for_faults(found: StoreCheck) -> None:
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


def sweep(store: Store, *, dry_run: bool) -> Garbage:
    """Collect, or only look; says so where it has to wait for another process."""

    def waiting(holder: str) -> None:
        sys.stderr.write(f"waiting for {printable(holder)}\n")

    return garbage(store) if dry_run else collect(store, waiting=waiting)


def garbage_plain(found: Garbage) -> dict[str, Any]:
    plain = asdict(found)
    return {
        name: value if isinstance(value, int) else [str(one) for one in value]
        for name, value in plain.items()
    }


def garbage_lines(found: Garbage, *, dry_run: bool) -> tuple[str, ...]:
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
