"""Why a package is built: what differs from the closest build of it that the store has."""

from __future__ import annotations

from buildit.errors import BuilditError
from buildit.model.plan import Node
from buildit.plan.identity import differences
from buildit.store.artifacts import lookup
from buildit.store.cas import Store
from buildit.store.names import builds_of

SHOWN = 3
CONSIDERED = 20


def reason(node: Node, store: Store) -> str:
    """`first build`, or the differences to the closest earlier build, most telling first."""
    if node.deb is not None:
        return "unpacked for the first time"
    closest: tuple[str, ...] | None = None
    earlier = [entry for entry in builds_of(store, node.name) if entry.key != node.key]
    for entry in earlier[-CONSIDERED:]:
        try:
            artifact = lookup(store, entry.key)
            if artifact is None:
                continue
            found = differences(store.read(artifact.record).decode(), node.record)
        except (BuilditError, ValueError):
            continue
        if closest is None or len(found) < len(closest):
            closest = found
    if closest is None:
        return "first build"
    if not closest:
        return "its artifact is incomplete"
    rest = len(closest) - SHOWN
    return ", ".join(closest[:SHOWN]) + (f", and {rest} more" if rest > 0 else "")
